//! Clusters of the test kit: what they promise to a program's tests, and scenarios over several silos.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

mod calls;
mod faults;
mod kinds;
mod pipelines;
mod time;

use granary::prelude::*;
use granary_testkit::TestCluster;

use kinds::{Asker, Bill, Porter, Tally};

/// Three silos that host all kinds.
async fn three() -> TestCluster {
    let builder = TestCluster::builder().silos(3).stream("tallies");
    builder.host::<Tally>().host::<Porter>().host::<Asker>().host::<Bill>().start().await.unwrap()
}

/// A key of this kind that belongs to another silo than those named.
fn key_elsewhere<G: Grain>(cluster: &TestCluster, silos: &[&str]) -> String {
    let elsewhere = |key: &String| {
        let silo = cluster.silo_of::<G>(key.as_str()).unwrap();
        !silos.contains(&silo.as_str())
    };
    (0..).map(|i| format!("k-{i}")).find(elsewhere).unwrap()
}
