//! What falls due when time is moved.

use granary::prelude::*;

use crate::kinds::{Bill, Tally};
use crate::three;

/// Scenario 36.
#[tokio::test]
async fn reminders_due_during_an_outage_fire_by_their_policy() {
    let cluster = three().await;
    let policies = [("skip", CatchUp::Skip), ("once", CatchUp::Once), ("each", CatchUp::Each)];
    for (key, policy) in policies {
        cluster.grain::<Bill>(key).remind(mins(1), policy).await.unwrap();
    }
    cluster.advance(secs(61)).await.unwrap();
    for (key, _) in policies {
        assert_eq!(cluster.grain::<Bill>(key).sent().await, Ok(1), "{key}: it was up for one occurrence");
    }
    for silo in cluster.silos() {
        cluster.kill(&silo).await.unwrap();
    }
    cluster.advance(mins(30)).await.unwrap();
    for silo in ["silo-1", "silo-2", "silo-3"] {
        cluster.start_silo(silo).await.unwrap();
    }
    let took = cluster.settle().await.unwrap();
    assert!(took < secs(50), "before the next occurrence: {took}");
    for (key, expected) in [("skip", 1), ("once", 2), ("each", 31)] {
        assert_eq!(
            cluster.grain::<Bill>(key).sent().await,
            Ok(expected),
            "{key}, after 30 missed occurrences"
        );
    }
    cluster.advance(mins(2)).await.unwrap();
    for (key, expected) in [("skip", 3), ("once", 4), ("each", 33)] {
        assert_eq!(cluster.grain::<Bill>(key).sent().await, Ok(expected), "{key}, back on its schedule");
    }
}

#[tokio::test]
async fn idle_grains_leave_and_come_back_with_their_state() {
    let cluster = three().await;
    assert_eq!(cluster.grain::<Tally>("t").add(3).await, Ok(3));
    let first = cluster.grain::<Tally>("t").activation().await.unwrap();
    cluster.advance(mins(10)).await.unwrap();
    assert_eq!(cluster.grain::<Tally>("t").activation().await, Ok(first));
    cluster.advance(mins(17)).await.unwrap();
    let active: u64 = cluster.silos().iter().map(|silo| cluster.stats(silo).unwrap().active).sum();
    assert_eq!(active, 0);
    assert_ne!(cluster.grain::<Tally>("t").activation().await, Ok(first));
    assert_eq!(cluster.grain::<Tally>("t").n().await, Ok(3));
}

#[tokio::test]
async fn time_stands_while_nothing_needs_it() {
    let cluster = three().await;
    assert_eq!(cluster.settle().await, Ok(Span(0)));
    let began = cluster.now();
    for i in 0..50 {
        cluster.grain::<Tally>(format!("t-{i}").as_str()).add(1).await.unwrap();
    }
    assert_eq!(cluster.now(), began);
    cluster.advance(secs(7)).await.unwrap();
    assert_eq!(cluster.now(), began + secs(7));
}
