//! Calls: who overlaps whom, cycles, deadlines, cancellation, limits.

use std::time::{Duration, Instant};

use granary_core::time::{hours, millis, secs};
use granary_core::{ErrorKind, Key, Ran};
use granary_scenarios::{Rig, Silo, eventually, soon};

use crate::kinds::{
    Brief, Counter, Doc, OUTSIDE, Ring, Spinner, answer, at_gate, holds_lane, joined, kinds, let_go, open,
    send, settle,
};

fn start() -> (Rig, Silo) {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    (rig, silo)
}

/// Scenario 22.
#[tokio::test]
async fn a_cycle_is_refused_at_once_and_named() {
    let (_rig, silo) = start();
    let mut quickest = Duration::MAX;
    for _ in 0..50 {
        let began = Instant::now();
        let path = ["b", "c", "a"].map(String::from).to_vec();
        let error = answer(silo.handle.grain::<Ring>("a").go(path)).await.unwrap_err();
        quickest = quickest.min(began.elapsed());
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::CallCycle, Some(Ran::No)), "{error}");
        assert!(error.message().contains("Ring/a.go -> Ring/b.go -> Ring/c.go -> Ring/a.go"), "{error}");
    }
    assert!(quickest < Duration::from_millis(100), "the quickest of fifty took {quickest:?}");
    let path = vec!["a/y".to_string(), "a/x".to_string()];
    let error = answer(silo.handle.grain::<Ring>(Key::parse("a/x")).go(path)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallCycle, "inside one slot, too");
    silo.stop().await;
}

#[tokio::test]
async fn a_chain_has_a_greatest_depth() {
    let (_rig, silo) = start();
    assert_eq!(answer(silo.handle.grain::<Ring>("x").down(40)).await, Ok(40));
    let error = answer(silo.handle.grain::<Ring>("y").down(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallCycle);
    assert!(error.message().contains("64 grains wait for one another"), "{error}");
    silo.stop().await;
}

/// Scenario 24.
#[tokio::test]
async fn reads_overlap_and_keep_writers_out() {
    let (_rig, silo) = start();
    let doc = || silo.handle.grain::<Doc>("d");
    let reads = [send(doc().read_at("g".into())), send(doc().read_at("g".into()))];
    at_gate(&silo, "g", 2).await;
    let edit = send(doc().edit());
    let late_read = send(doc().read_at("h".into()));
    settle(&silo).await;
    assert!(!edit.is_finished(), "a writer waits for the reads");
    open(&silo, "g").await;
    for read in reads {
        assert_eq!(joined(read).await, Ok(0));
    }
    assert_eq!(joined(edit).await, Ok(1));
    at_gate(&silo, "h", 1).await;
    let second = send(doc().edit());
    settle(&silo).await;
    assert!(!second.is_finished());
    open(&silo, "h").await;
    assert_eq!(joined(late_read).await, Ok(1), "it came after the first edit and saw it whole");
    assert_eq!(joined(second).await, Ok(2));
    silo.stop().await;
}

#[tokio::test]
async fn a_writer_is_alone() {
    let (_rig, silo) = start();
    let doc = || silo.handle.grain::<Doc>("d");
    let edit = send(doc().edit_at("g".into()));
    at_gate(&silo, "g", 1).await;
    let (read, look) = (send(doc().edits()), send(doc().look()));
    settle(&silo).await;
    assert!(!read.is_finished() && !look.is_finished(), "nothing overlaps with a writer");
    open(&silo, "g").await;
    assert_eq!((joined(edit).await, joined(read).await, joined(look).await), (Ok(1), Ok(1), Ok(1)));
    silo.stop().await;
}

#[tokio::test]
async fn interleaved_turns_overlap_and_see_one_another() {
    let (_rig, silo) = start();
    let doc = || silo.handle.grain::<Doc>("d");
    let first = send(doc().bump_around("g".into()));
    at_gate(&silo, "g", 1).await;
    assert_eq!(answer(doc().look()).await, Ok(1), "it runs between the awaits of the other");
    let second = send(doc().bump_around("g".into()));
    at_gate(&silo, "g", 2).await;
    let read = send(doc().edits());
    settle(&silo).await;
    assert!(!read.is_finished(), "a plain read does not overlap with them");
    open(&silo, "g").await;
    assert_eq!((joined(first).await, joined(second).await), (Ok((1, 2)), Ok((2, 2))));
    assert_eq!(joined(read).await, Ok(2));
    silo.stop().await;
}

/// Scenario 25; and a timeout says where the time went.
#[tokio::test]
async fn a_queued_call_that_expires_never_runs() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    let holds = send(counter().add_around(1, "g".into()).timeout(hours(1)));
    at_gate(&silo, "g", 1).await;
    let first = send(counter().add(100).timeout(millis(500)));
    let second = send(counter().add(1_000).timeout(hours(1)));
    settle(&silo).await;
    silo.advance(secs(3));
    let error = joined(first).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)));
    for part in ["Counter/c.add", "waited 3.0s", "silo-1", "`add_around` has held it for 3.0s"] {
        assert!(error.message().contains(part), "`{part}` in {error}");
    }
    open(&silo, "g").await;
    assert_eq!((joined(holds).await, joined(second).await), (Ok(2), Ok(1_002)));
    silo.stop().await;
}

#[tokio::test]
async fn a_deadline_abandons_the_reply_and_not_the_turn() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    let call = send(counter().add_around_outside(1).timeout(secs(1)));
    soon("the turn waits", OUTSIDE.0.notified()).await;
    silo.advance(secs(2));
    let error = joined(call).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::Unknown)));
    for part in ["Counter/c.add_around_outside", "running for 2.0s", "silo-1", "the turn goes on"] {
        assert!(error.message().contains(part), "`{part}` in {error}");
    }
    OUTSIDE.1.notify_one();
    assert_eq!(answer(counter().total()).await, Ok(2));
    silo.stop().await;
}

#[tokio::test]
async fn a_call_made_by_a_turn_has_its_deadline_too() {
    let (_rig, silo) = start();
    let doc = send(silo.handle.grain::<Doc>("d").edit_at("g".into()).timeout(hours(1)));
    at_gate(&silo, "g", 1).await;
    silo.advance(secs(31)); // the call of the gate takes the default of 30 s
    let error = joined(doc).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.message().contains("Gate/g.pass"), "{error}");
    open(&silo, "g").await;
    silo.stop().await;
}

/// Scenario 31.
#[tokio::test]
async fn a_call_dropped_before_it_is_sent_or_in_the_queue_never_runs() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    drop(counter().add(7).into_future_unsent());
    let holds = send(counter().add_around(1, "g".into()));
    at_gate(&silo, "g", 1).await;
    let queued = counter().add(100).into_future();
    settle(&silo).await;
    drop(queued);
    open(&silo, "g").await;
    assert_eq!(joined(holds).await, Ok(2));
    assert_eq!(answer(counter().total()).await, Ok(2));
    silo.stop().await;
}

trait Unsent {
    fn into_future_unsent(self) -> Self;
}

/// A call that is not awaited is a value and nothing else.
impl<C, M> Unsent for granary_core::Call<C, M> {
    fn into_future_unsent(self) -> Self {
        self
    }
}

/// Scenario 31.
#[tokio::test]
async fn a_call_dropped_while_it_runs_runs_to_its_end() {
    let (_rig, silo) = start();
    let counter = || silo.handle.grain::<Counter>("c");
    let running = counter().add_around(1, "g".into()).into_future();
    at_gate(&silo, "g", 1).await;
    drop(running);
    open(&silo, "g").await;
    assert_eq!(answer(counter().total()).await, Ok(2));
    silo.stop().await;
}

#[tokio::test]
async fn a_turn_that_lasts_too_long_is_ended_and_its_grain_is_as_before() {
    let (_rig, silo) = start();
    let brief = || silo.handle.grain::<Brief>(Key::parse("b"));
    assert_eq!(answer(brief().add(5)).await, Ok(5));
    let inside = send(brief().add_around(1, "b/gate".into()).timeout(hours(1)));
    at_gate(&silo, "b/gate", 1).await;
    let waits = send(brief().add(10).timeout(hours(1)));
    silo.advance(secs(6));
    let error = joined(inside).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)), "{error}");
    assert!(error.message().contains("Brief/b.add_around was ended after 6s"), "{error}");
    assert_eq!(joined(waits).await, Ok(15), "the turn's first step is undone; who waited goes on");

    let outside = send(brief().add_around(1, "far-gate".into()).timeout(hours(1)));
    at_gate(&silo, "far-gate", 1).await;
    silo.advance(secs(6));
    let error = joined(outside).await.unwrap_err();
    assert_eq!(error.did_run(), Some(Ran::Unknown), "it had called another slot: {error}");
    assert_eq!(answer(brief().total()).await, Ok(15));
    open(&silo, "far-gate").await;
    open(&silo, "b/gate").await;
    silo.stop().await;
}

/// A turn that begins on a changed grain goes back to that change, not to what is stored.
#[tokio::test]
async fn a_turn_ended_on_a_changed_grain_keeps_the_change_before_it() {
    let (_rig, silo) = start();
    let brief = || silo.handle.grain::<Brief>("b");
    assert_eq!(answer(brief().add(5)).await, Ok(5));
    silo.faults.hold_answers();
    let held = send(brief().add(2));
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    let stuck = send(brief().add_around(1, "b-gate".into()).timeout(hours(1)));
    at_gate(&silo, "b-gate", 1).await;
    silo.advance(secs(6));
    assert!(joined(stuck).await.is_err());
    silo.faults.release();
    assert_eq!(joined(held).await, Ok(7));
    assert_eq!(answer(brief().total()).await, Ok(7));
    open(&silo, "b-gate").await;
    silo.stop().await;
}

static REPORTS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn report(text: &str) {
    REPORTS.lock().unwrap().push(text.to_string());
}

#[tokio::test]
async fn the_watchdog_names_the_turn_that_holds_its_lane() {
    let rig = crate::rig();
    let silo = rig.start_with(kinds(), |config| {
        config.turn_max = millis(80);
        config.stuck = report;
    });
    let held = send(silo.handle.grain::<Spinner>("stuck").hold_lane());
    eventually("the watchdog's report", || !REPORTS.lock().unwrap().is_empty()).await;
    let_go("stuck");
    assert_eq!(joined(held).await, Ok(()));
    let reports = REPORTS.lock().unwrap().clone();
    let named = reports.iter().any(|r| r.contains("silo-1") && r.contains("Spinner/stuck.hold_lane"));
    assert!(named, "{reports:?}");
    silo.stop().await;
}

/// The inbox of a lane is bounded.
#[tokio::test]
async fn a_full_inbox_refuses_and_says_when_to_come_back() {
    let (_rig, silo) = start();
    let held = send(silo.handle.grain::<Spinner>("full").hold_lane());
    eventually("the lane is held", || holds_lane("full")).await;
    let calls: Vec<_> =
        (0..20_000_u64).map(|i| silo.handle.grain::<Counter>(i % 50).add(1).into_future()).collect();
    let_go("full");
    let (mut answered, mut refused) = (0, 0);
    for call in calls {
        match soon("an answer", call).await {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.did_run()), (ErrorKind::Overloaded, Some(Ran::No)));
                assert!(error.retry_after().is_some() && error.message().contains("inbox"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(joined(held).await, Ok(()));
    assert!(refused >= 3_000 && answered >= 16_000, "{answered} answered, {refused} refused");
    silo.stop().await;
}
