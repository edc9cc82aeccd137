//! Timers and reminders.

use std::time::Duration;

use granary_core::host::CatchUp;
use granary_core::time::{hours, millis, mins, secs};
use granary_scenarios::{Silo, eventually, soon};

use crate::kinds::{Bill, Ticker, answer, at_gate, joined, kinds, open, send, settle};

async fn ticks(silo: &Silo, key: &str) -> u64 {
    answer(silo.handle.grain::<Ticker>(key).ticks()).await.unwrap().0
}

async fn until_ticks(silo: &Silo, key: &str, n: u64) {
    soon(&format!("{n} ticks of {key}"), async {
        while ticks(silo, key).await < n {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn until_sent(silo: &Silo, n: u64) {
    soon(&format!("{n} bills"), async {
        // it cannot be read for a while after a read has failed
        while answer(silo.handle.grain::<Bill>("b").sent()).await.unwrap_or_default() < n {
            tokio::time::sleep(Duration::from_millis(2)).await;
            silo.advance(millis(1)); // what waits before it is tried again waits on this clock
        }
    })
    .await;
}

#[tokio::test]
async fn a_timer_ticks_again_and_again_until_it_is_taken_back() {
    let silo = crate::rig().start(kinds());
    answer(silo.handle.grain::<Ticker>("t").start(1_000)).await.unwrap();
    for n in 1..=3 {
        silo.advance(millis(1_000));
        until_ticks(&silo, "t", n).await;
    }
    assert_eq!(answer(silo.handle.grain::<Ticker>("t").stop()).await, Ok(true));
    silo.advance(secs(10));
    settle(&silo).await;
    assert_eq!(ticks(&silo, "t").await, 3);
    silo.stop().await;
}

#[tokio::test]
async fn a_timer_goes_on_after_its_errors() {
    let silo = crate::rig().start(kinds());
    answer(silo.handle.grain::<Ticker>("t").start_failing(1_000)).await.unwrap();
    for n in 1..=3 {
        silo.advance(millis(1_000));
        until_ticks(&silo, "t", n).await;
    }
    silo.stop().await;
}

#[tokio::test]
async fn a_timer_never_overlaps_itself() {
    let silo = crate::rig().start(kinds());
    answer(silo.handle.grain::<Ticker>("t").start_at(1_000, "g".into())).await.unwrap();
    silo.advance(millis(1_000));
    at_gate(&silo, "g", 1).await;
    silo.advance(secs(5));
    settle(&silo).await;
    assert_eq!(ticks(&silo, "t").await, 1, "the first tick still waits");
    open(&silo, "g").await;
    soon("the second tick", async {
        while ticks(&silo, "t").await < 2 {
            silo.advance(millis(500)); // the second is due a second after the end of the first
            settle(&silo).await;
        }
    })
    .await;
    let most = answer(silo.handle.grain::<Ticker>("t").ticks()).await.unwrap().1;
    assert_eq!(most, 1);
    silo.stop().await;
}

/// Ticks do not keep an activation in memory, and it takes its timers with it.
#[tokio::test]
async fn a_timer_leaves_with_its_activation() {
    let silo = crate::rig().start(kinds());
    answer(silo.handle.grain::<Ticker>("t").start(hours(1).ms())).await.unwrap();
    for _ in 0..18 {
        silo.advance(mins(1));
        settle(&silo).await;
    }
    eventually("the idle activation has left", || silo.stats().deactivated == 1).await;
    assert_eq!(ticks(&silo, "t").await, 0);
    silo.advance(hours(2));
    settle(&silo).await;
    assert_eq!(ticks(&silo, "t").await, 0, "a new activation has no timers");
    silo.stop().await;
}

/// Scenario 36: due at 10, 20, 30 s of an outage of 35 s; what then happens is up to the policy.
#[tokio::test]
async fn a_reminder_due_during_an_outage_follows_its_policy_once_for_each_occurrence() {
    for (policy, at_return) in [(CatchUp::Skip, 0), (CatchUp::Once, 1), (CatchUp::Each, 3)] {
        let rig = crate::rig();
        let silo = rig.start(kinds());
        answer(silo.handle.grain::<Bill>("b").remind(10_000, policy)).await.unwrap();
        silo.stop().await;
        rig.clock.advance(secs(35));

        // the first silo back is killed with the firings done and their commit not stored
        let silo = rig.start_planted(kinds(), |faults| faults.lose_commits());
        if at_return > 0 {
            eventually("it fires", || silo.stats().reminders >= 1).await;
        }
        settle(&silo).await;
        silo.crash();

        let silo = rig.start(kinds());
        until_sent(&silo, at_return).await;
        settle(&silo).await;
        assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(at_return), "{policy:?}");
        silo.advance(secs(5));
        until_sent(&silo, at_return + 1).await;
        settle(&silo).await;
        assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(at_return + 1), "{policy:?}");
        silo.crash();

        let silo = rig.start(kinds());
        settle(&silo).await;
        assert_eq!(
            answer(silo.handle.grain::<Bill>("b").sent()).await,
            Ok(at_return + 1),
            "{policy:?}: once"
        );
        silo.stop().await;
    }
}

/// Scenario 38: the tick is in the queue when the reminder is taken back.
#[tokio::test]
async fn a_reminder_taken_back_while_its_tick_waits_does_not_tick() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let bill = || silo.handle.grain::<Bill>("b");
    answer(bill().remind(1_000, CatchUp::Each)).await.unwrap();
    let cancels = send(bill().cancel_after("g".into()));
    at_gate(&silo, "g", 1).await;
    silo.advance(millis(1_500));
    eventually("the reminder fires into the queue", || silo.stats().reminders == 1).await;
    settle(&silo).await;
    open(&silo, "g").await;
    assert_eq!(joined(cancels).await, Ok(true));
    silo.advance(secs(5));
    settle(&silo).await;
    assert_eq!(answer(bill().sent()).await, Ok(0), "no tick after it was taken back");
    silo.crash();
    let silo = rig.start(kinds());
    silo.advance(secs(5));
    settle(&silo).await;
    assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(0));
    silo.stop().await;
}

/// Scenario 38: set anew by one call and taken back by the next, in any order of commits.
#[tokio::test]
async fn a_reminder_set_anew_and_taken_back_is_gone() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let bill = || silo.handle.grain::<Bill>("b");
    for _ in 0..20 {
        let calls = (send(bill().remind(1_000, CatchUp::Each)), send(bill().cancel()));
        joined(calls.0).await.unwrap();
        assert_eq!(joined(calls.1).await, Ok(true));
        silo.advance(millis(1_100));
    }
    settle(&silo).await;
    assert_eq!(answer(bill().sent()).await, Ok(0));
    silo.stop().await;
    let silo = rig.start(kinds());
    silo.advance(secs(9));
    settle(&silo).await;
    assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(0));
    silo.stop().await;
}

#[tokio::test]
async fn a_reminder_is_set_when_its_turn_ends() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let bill = || silo.handle.grain::<Bill>("b");
    let half = send(bill().remind_around(1_000, "shut".into()));
    at_gate(&silo, "shut", 1).await;
    silo.advance(secs(3));
    settle(&silo).await;
    assert_eq!(silo.stats().reminders, 0, "its turn has not ended");
    silo.crash();
    assert!(joined(half).await.is_err());
    let silo = rig.start(kinds());
    silo.advance(secs(3));
    settle(&silo).await;
    assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(0));
    silo.stop().await;
}

/// The store cannot be read when the reminder is due: it fires later, once.
#[tokio::test]
async fn a_reminder_whose_grain_cannot_be_read_fires_when_it_can() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    answer(silo.handle.grain::<Bill>("b").remind(60_000, CatchUp::Once)).await.unwrap();
    silo.stop().await;
    let silo = rig.start(kinds());
    settle(&silo).await; // its slots are open
    silo.faults.next_reads(1);
    silo.advance(secs(60));
    eventually("it could not fire", || silo.faults.are_spent()).await;
    settle(&silo).await;
    silo.advance(secs(2));
    until_sent(&silo, 1).await;
    settle(&silo).await;
    assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(1));
    silo.stop().await;
}
