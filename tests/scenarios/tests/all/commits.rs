//! Commits: when replies leave, what a commit holds, what a failure undoes.

use std::time::Duration;

use granary_core::time::{hours, millis, secs};
use granary_core::{ErrorKind, Key, Ran};
use granary_scenarios::{Fault, Rig, Silo, eventually};

use crate::kinds::{Counter, Ring, answer, at_gate, joined, kinds, open, send, settle};

fn start() -> (Rig, Silo) {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    (rig, silo)
}

#[tokio::test]
async fn a_reply_leaves_with_its_commit_and_a_snapshot_at_once() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().total()).await, Ok(0));
    silo.faults.hold_answers();
    let add = send(counter().add(3));
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    let read = send(counter().total());
    assert_eq!(answer(counter().glance()).await, Ok(3), "a snapshot read waits for nothing");
    settle(&silo).await;
    assert!(!add.is_finished(), "the reply waits for the store");
    assert!(!read.is_finished(), "so does a read that saw the change");
    silo.faults.release();
    assert_eq!((joined(add).await, joined(read).await), (Ok(3), Ok(3)));
    silo.stop().await;
}

#[tokio::test]
async fn a_held_reply_is_given_up_at_its_deadline() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().total()).await, Ok(0));
    silo.faults.hold_answers();
    let add = send(counter().add(3).timeout(secs(2)));
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    silo.advance(secs(3));
    let error = joined(add).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::Unknown)), "{error}");
    assert!(error.message().contains("Counter/c.add has run and waited 3s for the store"), "{error}");
    silo.faults.release();
    assert_eq!(answer(counter().total()).await, Ok(3));
    silo.stop().await;
}

/// While a turn waits, commits hold its grain as it was before the turn.
#[tokio::test]
async fn a_commit_holds_a_waiting_turns_grain_as_before_the_turn() {
    let (rig, silo) = start();
    let grain = |name: &str| silo.handle.grain::<Counter>(Key::parse(name));
    assert_eq!(answer(grain("a/clean").add(10)).await, Ok(10));
    assert_eq!(answer(grain("a/changed").add(10)).await, Ok(10));
    silo.faults.hold_answers();
    let held = send(grain("a/changed").add(5));
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    let turns = [
        send(grain("a/clean").add_around(1, "gate".into()).timeout(hours(1))),
        send(grain("a/changed").add_around(1, "gate".into()).timeout(hours(1))),
    ];
    at_gate(&silo, "gate", 2).await;
    silo.faults.release();
    assert_eq!(joined(held).await, Ok(15));
    assert_eq!(answer(grain("a/other").add(1)).await, Ok(1), "a commit of the slot while they wait");
    silo.crash();
    for turn in turns {
        assert!(joined(turn).await.is_err());
    }
    let silo = rig.start(kinds());
    let total = |name: &str| answer(silo.handle.grain::<Counter>(Key::parse(name)).total());
    assert_eq!(
        (total("a/clean").await, total("a/changed").await, total("a/other").await),
        (Ok(10), Ok(15), Ok(1))
    );
    silo.stop().await;
}

/// What a turn emits joins the commit in which it ends.
#[tokio::test]
async fn a_waiting_turns_outputs_come_with_its_end() {
    let (rig, silo) = start();
    let grain = |name: &str| silo.handle.grain::<Counter>(Key::parse(name));
    let turn = send(grain("a/x").tell_around("x".into(), "gate".into()).timeout(hours(1)));
    at_gate(&silo, "gate", 1).await;
    answer(grain("a/y").tell_out("y".into())).await.unwrap();
    eventually("the slot has committed", || !rig.outputs("out").is_empty()).await;
    assert_eq!(rig.outputs("out"), ["y"], "without the half of a turn");
    open(&silo, "gate").await;
    joined(turn).await.unwrap();
    eventually("the turn's outputs", || rig.outputs("out").len() >= 3).await;
    assert_eq!(rig.outputs("out"), ["y", "x before", "x after"]);

    let half = send(grain("a/z").tell_around("z".into(), "shut".into()).timeout(hours(1)));
    at_gate(&silo, "shut", 1).await;
    answer(grain("a/y").tell_out("y again".into())).await.unwrap();
    eventually("it is published", || rig.outputs("out").len() >= 4).await;
    silo.crash();
    assert!(joined(half).await.is_err());
    assert_eq!(rig.outputs("out").len(), 4, "no word of the turn that did not end");
}

/// Calls inside a slot commit together, plain and async ones.
#[tokio::test]
async fn calls_inside_a_slot_are_in_one_commit() {
    let (_rig, silo) = start();
    let call = silo.handle.grain::<Counter>(Key::parse("a/1")).add_there("a/2".into(), 1);
    assert_eq!(answer(call).await, Ok(1));
    let commits = silo.faults.commits_with("g/Counter/a/");
    assert_eq!(commits, [vec!["g/Counter/a/1", "g/Counter/a/2"]]);

    for round in 0..50 {
        let names: Vec<String> = (0..5).map(|i| format!("r{round}/{i}")).collect();
        let path = names[1..].to_vec();
        assert_eq!(answer(silo.handle.grain::<Ring>(Key::parse(&names[0])).go(path)).await, Ok(1));
        let commits = silo.faults.commits_with(&format!("g/Ring/r{round}/"));
        assert_eq!(commits.len(), 1, "one commit holds the whole chain: {commits:?}");
        assert_eq!(commits[0].len(), 5, "{commits:?}");
    }
    silo.stop().await;
}

#[tokio::test]
async fn a_panic_on_a_clean_grain_drops_only_that_activation() {
    let (_rig, silo) = start();
    let grain = |name: &str| silo.handle.grain::<Counter>(Key::parse(name));
    assert_eq!(answer(grain("a/1").add(1)).await, Ok(1));
    assert_eq!(answer(grain("a/2").add(2)).await, Ok(2));
    let before = silo.stats();
    let error = answer(grain("a/1").only_panic()).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Poisoned, Some(Ran::No)));
    assert!(error.message().contains("Counter.only_panic panicked: for no reason"), "{error}");
    assert_eq!((answer(grain("a/1").total()).await, answer(grain("a/2").total()).await), (Ok(1), Ok(2)));
    let after = silo.stats();
    assert_eq!(after.rollbacks, before.rollbacks);
    assert_eq!(after.activated, before.activated + 1, "only the one that panicked was made anew");
    silo.stop().await;
}

/// The change of the panicking turn, and all since the last commit, is undone; what was on its way is not.
#[tokio::test]
async fn a_panic_on_a_changed_grain_rolls_the_slot_back_and_says_no() {
    let (_rig, silo) = start();
    let grain = |name: &str| silo.handle.grain::<Counter>(Key::parse(name));
    assert_eq!(answer(grain("a/1").add(1)).await, Ok(1));
    silo.faults.hold_answers();
    let on_its_way = send(grain("a/1").add(10));
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    let unsealed = send(grain("a/2").add(100));
    settle(&silo).await;
    let panics = send(grain("a/1").add_and_panic(1_000));
    let error = joined(panics).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Poisoned, Some(Ran::No)), "{error}");
    let error = joined(unsealed).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Poisoned, Some(Ran::No)), "{error}");
    assert!(!on_its_way.is_finished());
    silo.faults.release();
    assert_eq!(joined(on_its_way).await, Ok(11));
    assert_eq!((answer(grain("a/1").total()).await, answer(grain("a/2").total()).await), (Ok(11), Ok(0)));
    assert_eq!(silo.stats().rollbacks, 1);
    silo.stop().await;
}

/// Panics of calls never park a slot: their callers have the error.
#[tokio::test]
async fn a_slot_outlives_any_number_of_panics() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().total()).await, Ok(0));
    for _ in 0..20 {
        silo.faults.hold_answers();
        let add = send(counter().add(1));
        eventually("its commit is on its way", || silo.faults.held() > 0).await;
        assert!(answer(counter().add_and_panic(9)).await.is_err());
        silo.faults.release();
        assert!(joined(add).await.is_ok());
    }
    assert_eq!(answer(counter().total()).await, Ok(20));
    silo.stop().await;
}

/// Scenario 33: faults before and after the write.
#[tokio::test]
async fn a_write_that_is_refused_or_whose_answer_is_lost_is_sent_again_and_counts_once() {
    let (rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().add(1)).await, Ok(1));
    for (i, fault) in
        [Fault::Refused, Fault::AnswerLost, Fault::AnswerLost, Fault::Refused].into_iter().enumerate()
    {
        silo.faults.next_commits([fault, fault]);
        let add = send(counter().add(1));
        eventually("the first fault", || silo.faults.sendings() > 0).await;
        let total = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                silo.advance(millis(50)); // it waits a little before each repetition
                if add.is_finished() {
                    break;
                }
            }
        };
        granary_scenarios::soon("the commit to be sent again", total).await;
        assert_eq!(joined(add).await, Ok(i as u64 + 2), "{fault:?}");
        assert!(silo.faults.are_spent());
    }
    silo.crash();
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Counter>("c").total()).await, Ok(5));
    silo.stop().await;
}

/// Scenario 33: faults of reads.
#[tokio::test]
async fn a_read_that_fails_refuses_the_call_and_changes_nothing() {
    let (rig, silo) = start();
    assert_eq!(answer(silo.handle.grain::<Counter>("c").add(4)).await, Ok(4));
    silo.stop().await;
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Counter>("warm").total()).await, Ok(0));
    silo.faults.next_reads(1);
    let error = answer(silo.handle.grain::<Counter>("c").add(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::No)), "{error}");
    let keyed = || silo.handle.grain::<Counter>("c").add(1).idempotency_key("k");
    silo.faults.set_away(true); // cells that were to be looked up together are read one by one when that fails
    assert_eq!(answer(keyed()).await.unwrap_err().did_run(), Some(Ran::No));
    silo.faults.set_away(false);
    let added = async {
        loop {
            match answer(keyed()).await {
                // it reads nothing for a while after a read has failed
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                added => return added,
            }
        }
    };
    assert_eq!(granary_scenarios::soon("the store can be read again", added).await, Ok(5));
    silo.stop().await;
}

/// The store is away: nothing new runs, snapshot reads go on, and all resumes.
#[tokio::test]
async fn an_outage_refuses_what_needs_the_store_and_ends_without_a_trace() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().add(1)).await, Ok(1));
    silo.faults.set_away(true);
    let in_flight = send(counter().add(1).timeout(secs(5)));
    eventually("it has run", || silo.stats().turns >= 2).await;
    for _ in 0..8 {
        silo.advance(millis(500));
        settle(&silo).await;
    }
    let error = answer(counter().add(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::No)), "{error}");
    assert_eq!(answer(counter().glance()).await, Ok(2), "snapshot reads go on");
    silo.advance(secs(2));
    let error = joined(in_flight).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::Unknown)), "{error}");
    silo.faults.set_away(false);
    silo.advance(secs(2));
    eventually("the commit is stored", || silo.faults.commits() >= 2).await;
    assert_eq!(answer(counter().add(1)).await, Ok(3));
    silo.stop().await;
}

/// The store is away when the silo starts.
#[tokio::test]
async fn a_silo_that_starts_without_its_store_waits_for_it() {
    let rig = crate::rig();
    let silo = rig.start_with(kinds(), |_| {});
    silo.stop().await;
    let silo = rig.start_planted(kinds(), |faults| faults.set_away(true));
    let early = send(silo.handle.grain::<Counter>("c").add(1).timeout(secs(2)));
    eventually("the call runs out of time", || {
        silo.advance(millis(100));
        early.is_finished()
    })
    .await;
    let error = joined(early).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)), "{error}");
    silo.faults.set_away(false);
    let add = send(silo.handle.grain::<Counter>("c").add(1).timeout(hours(1)));
    eventually("the silo has its store", || {
        silo.advance(secs(1));
        add.is_finished()
    })
    .await;
    assert_eq!(joined(add).await, Ok(1));
    silo.stop().await;
}

#[tokio::test]
async fn turns_that_wait_when_the_silo_is_killed_have_callers_that_hear_of_it() {
    let (_rig, silo) = start();
    let call = send(silo.handle.grain::<Counter>("c").add_around(1, "g".into()).timeout(hours(1)));
    at_gate(&silo, "g", 1).await;
    silo.crash();
    let error = joined(call).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)));
}
