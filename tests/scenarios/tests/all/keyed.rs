//! Idempotency keys: one effect and one answer.

use granary_core::time::hours;
use granary_core::{ErrorKind, Ran};
use granary_scenarios::{Fault, eventually};

use crate::kinds::{Counter, answer, at_gate, joined, kinds, open, send, settle};

/// Scenario 29: three sendings, two of them after a kill; one effect, equal answers.
#[tokio::test]
async fn the_same_key_over_a_kill_has_one_effect_and_equal_answers() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let first = answer(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1")).await;
    let second = answer(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1")).await;
    silo.crash();
    let silo = rig.start(kinds());
    let third = answer(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1")).await;
    assert_eq!((first, second, third), (Ok(5), Ok(5), Ok(5)));
    assert_eq!(answer(silo.handle.grain::<Counter>("c").add(1).idempotency_key("pay-2")).await, Ok(6));
    silo.stop().await;
}

/// The kill comes after the commit and before the answer: the caller knows nothing, and asks again.
#[tokio::test]
async fn a_key_whose_answer_was_lost_with_the_silo_is_answered_by_the_next() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Counter>("c").total()).await, Ok(0));
    silo.faults.hold_answers();
    let lost = send(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1"));
    eventually("its commit is stored", || silo.faults.held() > 0).await;
    silo.crash();
    let error = joined(lost).await.unwrap_err();
    assert_eq!(error.did_run(), Some(Ran::Unknown), "{error}");
    let silo = rig.start(kinds());
    for _ in 0..2 {
        assert_eq!(answer(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1")).await, Ok(5));
    }
    silo.stop().await;
}

/// The kill comes before the commit: nothing happened, so the retry is the first.
#[tokio::test]
async fn a_key_whose_commit_never_came_runs_anew() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Counter>("c").add(1)).await, Ok(1));
    silo.faults.next_commits([Fault::Refused]);
    let lost = send(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1"));
    eventually("its commit was refused", || silo.faults.are_spent()).await;
    silo.crash();
    assert!(joined(lost).await.is_err());
    let silo = rig.start(kinds());
    for _ in 0..2 {
        assert_eq!(answer(silo.handle.grain::<Counter>("c").add(5).idempotency_key("pay-1")).await, Ok(6));
    }
    silo.stop().await;
}

#[tokio::test]
async fn a_retry_joins_the_attempt_that_runs() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let counter = || silo.handle.grain::<Counter>("c");
    let first = send(counter().add_around(5, "g".into()).idempotency_key("pay-1"));
    at_gate(&silo, "g", 1).await;
    let retries: Vec<_> =
        (0..3).map(|_| send(counter().add_around(5, "g".into()).idempotency_key("pay-1"))).collect();
    settle(&silo).await;
    at_gate(&silo, "g", 1).await;
    open(&silo, "g").await;
    assert_eq!(joined(first).await, Ok(10));
    for retry in retries {
        assert_eq!(joined(retry).await, Ok(10));
    }
    assert_eq!(answer(counter().total()).await, Ok(10));
    silo.stop().await;
}

#[tokio::test]
async fn a_refusal_is_kept_like_an_answer() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    for _ in 0..3 {
        let call = silo.handle.grain::<Counter>("c").add_and_refuse(4).idempotency_key("pay-1");
        let error = answer(call).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Rejected, "at 4"));
    }
    silo.stop().await;
}

/// The first attempt panics and is undone; the one that joined it takes its place, and is answered.
#[tokio::test]
async fn who_joined_an_attempt_that_panicked_takes_its_place() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let counter = || silo.handle.grain::<Counter>("c");
    let first = send(counter().panic_after(5, "g".into()).idempotency_key("pay-1"));
    at_gate(&silo, "g", 1).await;
    let joins = send(counter().panic_after(5, "g".into()).idempotency_key("pay-1"));
    settle(&silo).await;
    open(&silo, "g").await;
    assert_eq!(joined(first).await.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(joined(joins).await.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(
        answer(counter().add(1).idempotency_key("pay-1")).await,
        Ok(1),
        "nothing was kept for the key"
    );
    silo.stop().await;
}

/// A call with a key waits while its activation is dropped: it must not wait for itself.
#[tokio::test]
async fn a_key_that_waits_while_its_activation_is_dropped_still_runs() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().total()).await, Ok(0));
    let panics = send(counter().panic_after(1, "g".into()));
    at_gate(&silo, "g", 1).await;
    let waits = send(counter().add(5).idempotency_key("pay-1"));
    settle(&silo).await;
    open(&silo, "g").await;
    assert!(joined(panics).await.is_err());
    assert_eq!(joined(waits).await, Ok(5));
    silo.stop().await;
}

#[tokio::test]
async fn an_old_key_is_refused() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let counter = || silo.handle.grain::<Counter>("c");
    assert_eq!(answer(counter().add(5).idempotency_key("pay-1")).await, Ok(5));
    silo.advance(hours(25));
    let error = answer(counter().add(5).idempotency_key("pay-1")).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Invalid, Some(Ran::No)));
    silo.stop().await;
}
