//! The smallest things: calls, state over a restart, two lanes.

use granary_core::{Error, ErrorKind, GrainId, codec};
use granary_scenarios::soon;

use crate::kinds::{Counter, kinds};

#[tokio::test]
async fn a_typed_call_is_answered() {
    let silo = crate::rig().start(kinds());
    let counter = silo.handle.grain::<Counter>("c-1");
    assert_eq!(soon("an answer", counter.add(2).into_future()).await, Ok(2));
    assert_eq!(soon("an answer", counter.total().into_future()).await, Ok(2));
    silo.stop().await;
}

#[tokio::test]
async fn a_call_by_name_is_answered() {
    let silo = crate::rig().start(kinds());
    let arguments = codec::to_bytes(&5_u64).unwrap();
    let answer = silo.handle.call(GrainId::new("Counter", "c-1"), "add", arguments, Default::default());
    let bytes = soon("an answer", answer).await.unwrap().unwrap();
    assert_eq!(codec::from_bytes::<u64>(&bytes), Ok(5));

    let unknown = silo.handle.call(GrainId::new("Counter", "c-1"), "ad", vec![], Default::default());
    let error: Error = soon("an answer", unknown).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("add"), "{error}");
    silo.stop().await;
}

#[tokio::test]
async fn state_survives_a_restart_and_a_kill() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    soon("an answer", silo.handle.grain::<Counter>("c-1").add(2).into_future()).await.unwrap();
    silo.stop().await;
    let silo = rig.start(kinds());
    let added = soon("an answer", silo.handle.grain::<Counter>("c-1").add(3).into_future()).await;
    assert_eq!(added, Ok(5));
    silo.crash();
    let silo = rig.start(kinds());
    let total = soon("an answer", silo.handle.grain::<Counter>("c-1").total().into_future()).await;
    assert_eq!(total, Ok(5), "what was answered is stored");
    silo.stop().await;
}

#[tokio::test]
async fn two_lanes_share_the_slots_and_call_one_another() {
    let rig = crate::rig();
    let silo = rig.start_with(kinds(), |config| config.lanes = 2);
    for i in 0..24_u64 {
        let from = silo.handle.grain::<Counter>(format!("c-{i}"));
        let sum =
            soon("a call over two lanes", from.add_there(format!("c-{}", (i + 1) % 24), 10).into_future());
        let sum = sum.await.unwrap();
        assert!(sum == 10 || sum == 20, "c-{i}: {sum}");
    }
    for i in 0..24_u64 {
        let total = soon("an answer", silo.handle.grain::<Counter>(format!("c-{i}")).total().into_future());
        assert_eq!(total.await, Ok(20));
    }
    silo.stop().await;
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_its_change_stands() {
    let rig = crate::rig();
    let silo = rig.start(kinds());
    let counter = silo.handle.grain::<Counter>("c-1");
    let error = soon("an answer", counter.add_and_refuse(4).into_future()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Rejected, "at 4"));
    silo.crash();
    let silo = rig.start(kinds());
    assert_eq!(soon("an answer", silo.handle.grain::<Counter>("c-1").total().into_future()).await, Ok(4));
    silo.stop().await;
}
