//! Calls over several silos.

use std::collections::BTreeSet;

use granary::core::{ErrorKind, Ran};
use granary::prelude::*;

use crate::kinds::{Asker, Porter, Tally};
use crate::{key_elsewhere, three};

/// Scenario 1: callers on three silos and outside of them race for the same cold grains.
#[tokio::test]
async fn a_hundred_callers_get_one_activation_of_each_cold_grain() {
    let cluster = three().await;
    let tallies: Vec<String> = (0..10).map(|i| format!("cold-{i}")).collect();
    let call = |i: usize| cluster.grain::<Asker>(format!("asker-{i}").as_str()).activations(tallies.clone());
    let callers: Vec<_> = (0..100).map(|i| tokio::spawn(call(i).into_future())).collect();
    let mut answers = BTreeSet::new();
    for caller in callers {
        answers.insert(caller.await.unwrap().unwrap());
    }
    assert_eq!(answers.len(), 1, "all callers saw the same activations: {answers:?}");
    assert_eq!(answers.first().unwrap().iter().collect::<BTreeSet<_>>().len(), 10);
    let silos: BTreeSet<_> =
        tallies.iter().filter_map(|key| cluster.silo_of::<Tally>(key.as_str())).collect();
    assert!(silos.len() > 1, "the grains are spread: {silos:?}");
    let activated: u64 = cluster.silos().iter().map(|silo| cluster.stats(silo).unwrap().activated).sum();
    assert_eq!(activated, 110, "a hundred askers and ten tallies");
}

/// Scenario 22.
#[tokio::test]
async fn a_call_cycle_over_silos_is_refused_at_once_with_its_path() {
    let cluster = three().await;
    let a = key_elsewhere::<Asker>(&cluster, &[]);
    let of_a = cluster.silo_of::<Asker>(a.as_str()).unwrap();
    let b = key_elsewhere::<Asker>(&cluster, &[&of_a]);
    let of_b = cluster.silo_of::<Asker>(b.as_str()).unwrap();
    let c = key_elsewhere::<Asker>(&cluster, &[&of_a, &of_b]);
    let way = |keys: &[&String]| keys.iter().map(|key| (*key).clone()).collect::<Vec<_>>();
    let began = cluster.now();
    assert_eq!(cluster.grain::<Asker>(a.as_str()).go(way(&[&b, &c])).await, Ok(2), "a way without a cycle");
    let error = cluster.grain::<Asker>(a.as_str()).go(way(&[&b, &c, &a])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallCycle, "{error}");
    let path = format!("Asker/{a}.go -> Asker/{b}.go -> Asker/{c}.go -> Asker/{a}.go");
    assert!(error.to_string().contains(&path), "{error}");
    assert_eq!(cluster.now(), began, "no time had to pass");
}

/// Scenario 28: a turn is under way and a hundred calls wait for its grain when the silo stops.
#[tokio::test]
async fn a_hundred_queued_calls_complete_once_each_when_their_silo_stops() {
    let cluster = three().await;
    let silo = cluster.silo_of::<Tally>("busy").unwrap();
    let porter = key_elsewhere::<Porter>(&cluster, &[&silo]);
    let holder = tokio::spawn(cluster.grain::<Tally>("busy").wait().into_future());
    cluster.settle().await.unwrap();
    let calls: Vec<_> =
        (0..100).map(|_| tokio::spawn(cluster.grain::<Tally>("busy").add(1).into_future())).collect();
    cluster.settle().await.unwrap();
    assert!(calls.iter().all(|call| !call.is_finished()), "the grain is held");
    // later than the silo begins to leave, and before turns that last are undone
    cluster.grain::<Porter>(porter.as_str()).open_after(secs(3)).await.unwrap();
    cluster.stop(&silo).await.unwrap();
    assert_eq!(holder.await.unwrap(), Ok(0), "the turn under way was finished");
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=100).collect::<Vec<_>>());
    assert_eq!(cluster.grain::<Tally>("busy").n().await, Ok(100));
    assert!(!cluster.silos().contains(&silo));
}

/// Scenario 29: the silo dies after the commit and before its answer.
#[tokio::test]
async fn one_idempotency_key_has_one_effect_and_equal_answers_over_a_crash() {
    let cluster = three().await;
    let pay = || cluster.grain::<Tally>("account").add(5).idempotency_key("pay-17").into_future();
    let silo = cluster.silo_of::<Tally>("account").unwrap();
    let faults = cluster.faults(&silo).unwrap();
    faults.cut_off_after(1);
    let first = tokio::spawn(pay());
    granary_testkit::eventually("the commit is stored", || faults.is_cut_off()).await;
    cluster.kill(&silo).await.unwrap();
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.did_run(), Some(Ran::Unknown), "{error}");
    assert_eq!((pay().await, pay().await, pay().await), (Ok(5), Ok(5), Ok(5)));
    assert_eq!(cluster.grain::<Tally>("account").n().await, Ok(5));
}

#[tokio::test]
async fn a_call_by_name_and_a_one_way_call_reach_their_grain() {
    let cluster = three().await;
    cluster.grain::<Tally>("t").add(2).one_way().await.unwrap();
    granary_testkit::within(std::time::Duration::from_secs(30), "the one-way call", async {
        while cluster.grain::<Tally>("t").n().await != Ok(2) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let id = granary::core::GrainId::new("Tally", "t");
    let none = granary::core::codec::to_bytes::<[u8]>(&[]).unwrap();
    let answer = cluster.call(id, "n", none).await.unwrap();
    assert_eq!(granary::core::codec::from_bytes::<u64>(&answer), Ok(2));
    let error = cluster.call(granary::core::GrainId::new("Nothing", "t"), "n", Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
