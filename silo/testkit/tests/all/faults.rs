//! Silos that are killed, stopped, held up and cut off.

use granary::core::ErrorKind;
use granary::prelude::*;
use granary_testkit::TestCluster;

use crate::kinds::Tally;
use crate::three;

const TALLIES: u64 = 60;

async fn add_to_all(cluster: &TestCluster, expected: u64) {
    for i in 0..TALLIES {
        let n = cluster.grain::<Tally>(format!("t-{i}").as_str()).add(1).await;
        assert_eq!(n, Ok(expected), "tally {i}");
    }
}

#[tokio::test]
async fn grains_of_a_killed_silo_answer_elsewhere_with_all_acknowledged_state() {
    let cluster = three().await;
    add_to_all(&cluster, 1).await;
    cluster.kill("silo-2").await.unwrap();
    let began = cluster.now();
    add_to_all(&cluster, 2).await;
    let took = cluster.now().since(began);
    assert!(took >= secs(5) && took <= secs(10), "the others waited for the end of its lease: {took}");
    assert_eq!(cluster.silos(), ["silo-1", "silo-3"]);
    cluster.start_silo("silo-2").await.unwrap();
    cluster.settle().await.unwrap();
    let owned = (0..TALLIES)
        .filter(|i| cluster.silo_of::<Tally>(format!("t-{i}").as_str()).as_deref() == Some("silo-2"));
    assert!(owned.count() > 0, "it has slots again");
    add_to_all(&cluster, 3).await;
}

#[tokio::test]
async fn silos_are_restarted_one_after_the_other_and_nothing_is_lost() {
    let cluster = three().await;
    let mut expected = 0;
    for silo in ["silo-1", "silo-2", "silo-3"] {
        expected += 1;
        add_to_all(&cluster, expected).await;
        cluster.restart(silo).await.unwrap();
    }
    cluster.settle().await.unwrap();
    add_to_all(&cluster, expected + 1).await;
    assert_eq!(cluster.silos().len(), 3);
}

/// Scenario 4, held up between turns: it comes back as a new life, and nothing it knew from before is answered.
#[tokio::test]
async fn a_silo_held_up_past_its_lease_loses_its_slots_and_comes_back() {
    let cluster = three().await;
    add_to_all(&cluster, 1).await;
    let turns = cluster.stats("silo-1").unwrap().turns;
    assert!(turns > 0);
    cluster.pause("silo-1").await.unwrap();
    add_to_all(&cluster, 2).await;
    cluster.resume("silo-1").await.unwrap();
    cluster.settle().await.unwrap();
    assert_eq!(cluster.silos().len(), 3);
    assert_eq!(cluster.stats("silo-1").unwrap().turns, 0, "a new life has counted nothing");
    add_to_all(&cluster, 3).await;
    assert!(cluster.stats("silo-1").unwrap().turns > 0, "it has grains again");
}

#[tokio::test]
async fn a_silo_held_up_for_less_than_its_lease_goes_on() {
    let cluster = three().await;
    add_to_all(&cluster, 1).await;
    let before = cluster.stats("silo-1").unwrap();
    cluster.pause("silo-1").await.unwrap();
    cluster.advance(secs(2)).await.unwrap();
    cluster.resume("silo-1").await.unwrap();
    add_to_all(&cluster, 2).await;
    let after = cluster.stats("silo-1").unwrap();
    assert!(after.turns > before.turns);
    assert_eq!(after.activated, before.activated, "the same life has the same grains");
}

/// Scenario 3, as far as one store goes: who is cut off from it answers nothing that is not stored.
#[tokio::test]
async fn a_silo_parted_from_the_store_acknowledges_nothing_and_loses_its_slots() {
    let cluster = three().await;
    add_to_all(&cluster, 1).await;
    let silo = cluster.silo_of::<Tally>("t-7").unwrap();
    cluster.partition(&silo).await.unwrap();
    let refused = cluster.grain::<Tally>("t-7").add(1).timeout(secs(1)).await;
    let error = refused.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    cluster.settle().await.unwrap();
    assert_ne!(cluster.silo_of::<Tally>("t-7").unwrap(), silo);
    add_to_all(&cluster, 2).await;
    cluster.heal(&silo).await.unwrap();
    cluster.settle().await.unwrap();
    assert_eq!(cluster.silos().len(), 3);
    add_to_all(&cluster, 3).await;
}

#[tokio::test]
async fn writes_that_fail_and_answers_that_are_lost_are_made_good() {
    let cluster = three().await;
    let silo = cluster.silo_of::<Tally>("t").unwrap();
    cluster.fail_next_writes(&silo, 3).unwrap();
    assert_eq!(cluster.grain::<Tally>("t").add(1).await, Ok(1));
    cluster.lose_next_answers(&silo, 2).unwrap();
    assert_eq!(cluster.grain::<Tally>("t").add(1).await, Ok(2));
    assert!(cluster.faults(&silo).unwrap().are_spent());
    cluster.kill(&silo).await.unwrap();
    assert_eq!(cluster.grain::<Tally>("t").n().await, Ok(2));
}

#[tokio::test]
async fn without_any_silo_calls_are_refused_and_names_are_checked() {
    let cluster = TestCluster::builder().host::<Tally>().start().await.unwrap();
    assert_eq!(cluster.grain::<Tally>("t").add(1).await, Ok(1));
    let error = cluster.kill("silo-9").await.unwrap_err();
    assert!(error.to_string().contains("these do: silo-1"), "{error}");
    assert_eq!(cluster.start_silo("silo-1").await.unwrap_err().kind(), ErrorKind::Invalid);
    cluster.stop("silo-1").await.unwrap();
    assert_eq!(cluster.grain::<Tally>("t").n().await.unwrap_err().kind(), ErrorKind::Unavailable);
    cluster.start_silo("silo-1").await.unwrap();
    assert_eq!(cluster.grain::<Tally>("t").n().await, Ok(1));
}
