//! Activations: hooks, leaving, coming back.

use granary_core::time::{mins, secs};
use granary_core::{ErrorKind, Ran};
use granary_scenarios::eventually;

use crate::kinds::{Brief, Guest, HOOKS, answer, joined, kinds, send, settle};

fn hooks_of(key: &str) -> Vec<String> {
    let all = HOOKS.lock().unwrap();
    all.iter().filter_map(|line| line.strip_prefix(&format!("{key} "))).map(String::from).collect()
}

#[tokio::test]
async fn an_idle_activation_leaves_through_its_hook_and_comes_back_with_its_state() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let guest = || silo.handle.grain::<Guest>("idle-1");
    assert_eq!(answer(guest().visit()).await, Ok(1));
    silo.advance(secs(30));
    settle(&silo).await;
    assert_eq!(silo.stats().deactivated, 0, "not idle for a minute yet");
    silo.advance(secs(31));
    silo.advance(mins(1));
    eventually("it leaves", || silo.stats().deactivated == 1).await;
    assert_eq!(silo.stats().active, 0);
    assert_eq!(answer(guest().visit()).await, Ok(2));
    assert_eq!(hooks_of("idle-1"), ["in at 0", "out at 1", "in at 1"]);
    silo.stop().await;
}

/// No turn follows the hook before leaving: a call that comes is for the next activation.
#[tokio::test]
async fn calls_that_come_while_an_activation_leaves_get_the_next_one() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let guest = || silo.handle.grain::<Guest>("leaver");
    assert_eq!(answer(guest().visit()).await, Ok(1));
    silo.faults.hold_answers();
    let leaving = send(guest().leave());
    eventually("its commit is on its way", || silo.faults.held() > 0).await;
    let after = send(guest().visit());
    eventually("the next activation", || hooks_of("leaver").len() >= 3).await;
    assert_eq!(hooks_of("leaver"), ["in at 0", "out at 2", "in at 2"]);
    silo.faults.release();
    assert_eq!((joined(leaving).await, joined(after).await), (Ok(2), Ok(3)));
    silo.crash();
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Guest>("leaver").visit()).await, Ok(4));
    silo.stop().await;
}

#[tokio::test]
async fn a_grain_that_asks_to_leave_does_so_when_it_is_stored() {
    let silo = crate::rig().start(kinds());
    assert_eq!(answer(silo.handle.grain::<Guest>("goes").leave()).await, Ok(1));
    eventually("it leaves", || silo.stats().deactivated == 1 && silo.stats().active == 0).await;
    assert_eq!(hooks_of("goes"), ["in at 0", "out at 1"]);
    silo.stop().await;
}

#[tokio::test]
async fn an_activation_that_fails_refuses_all_who_wait_for_it() {
    let silo = crate::rig().start(kinds());
    let guest = || silo.handle.grain::<Guest>("bad-1");
    let calls: Vec<_> = (0..3).map(|_| send(guest().visit())).collect();
    for call in calls {
        let error = joined(call).await.unwrap_err();
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Rejected, Some(Ran::No)));
        assert!(error.message().contains("on_activate failed: no room for bad guests"), "{error}");
    }
    assert_eq!(silo.stats().active, 0);
    let error = answer(silo.handle.grain::<Guest>("worse-1").visit()).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Poisoned, Some(Ran::No)), "{error}");
    silo.stop().await;
}

/// When memory is short, cold clean grains leave before their time.
#[tokio::test]
async fn short_memory_makes_cold_grains_leave() {
    let rig = crate::rig();
    let silo = rig.start_with(kinds(), |config| config.memory_bytes_max = 100_000);
    for i in 0..2_000_u64 {
        drop(silo.handle.grain::<Brief>(i).total().into_future());
    }
    assert_eq!(answer(silo.handle.grain::<Brief>(0_u64).total()).await, Ok(0));
    for i in 0..2_000_u64 {
        assert_eq!(answer(silo.handle.grain::<Brief>(i).total()).await, Ok(0));
    }
    for _ in 0..10 {
        silo.advance(mins(1)); // far from the quarter of an hour after which they would leave anyway
        settle(&silo).await;
    }
    eventually("most have left", || silo.stats().active < 600).await;
    silo.stop().await;
}
