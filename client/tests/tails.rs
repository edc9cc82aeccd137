//! Tails of a cluster: they go on when their silo goes.

mod kit;

use std::sync::atomic::Ordering;
use std::time::Duration;

use granary_client::{Client, Record, Start};
use granary_core::ErrorKind;
use kit::{Cluster, lock, until};

fn row(record: &Record) -> u64 {
    u64::from_be_bytes(record.value.as_slice().try_into().expect("8 bytes"))
}

#[tokio::test]
async fn a_tail_goes_on_at_another_silo_without_gap_or_copy() {
    let mut cluster = Cluster::start(3);
    let client = Client::connect(cluster.seeds()).await.unwrap();
    cluster.world.write(0..1_000);
    let mut tail = client.tail("rows", Start::Earliest).await.unwrap();
    let mut next = 0;
    for round in 1..=4_u64 {
        while next < round * 1_000 {
            let record = tail.next().await.unwrap().unwrap();
            assert_eq!((row(&record), record.offset), (next, next));
            next += 1;
        }
        let serving = *lock(&cluster.world.tails).last().unwrap();
        if round % 2 == 0 {
            cluster.silos[serving].kill();
        } else {
            cluster.silos[serving].stop();
        }
        let (address, watch) = (cluster.silos[serving].address.clone(), client.connections());
        let is_gone = || watch.borrow().iter().any(|silo| silo.address == address && !silo.is_connected);
        until(is_gone, "the connection is lost").await;
        cluster.world.write(round * 1_000..(round + 1) * 1_000);
        cluster.silos[serving].kill();
        cluster.restart(serving);
    }
    assert_eq!(lock(&cluster.world.tails).len(), 4, "it was opened again three times");
}

#[tokio::test]
async fn a_tail_that_began_at_the_latest_record_misses_nothing_after_it() {
    let mut cluster = Cluster::start(2);
    let client = Client::connect(cluster.seeds()).await.unwrap();
    cluster.world.write(0..10);
    let mut tail = client.tail("rows", Start::Latest).await.unwrap();
    until(|| lock(&cluster.world.tails).len() == 1, "it is open").await;
    let serving = lock(&cluster.world.tails)[0];
    cluster.silos[serving].kill();
    cluster.world.write(10..12);
    assert_eq!(row(&tail.next().await.unwrap().unwrap()), 10);
    let token = tail.token().unwrap();
    drop((tail, client));

    let other = Client::connect(cluster.silos[1 - serving].address.clone()).await.unwrap();
    let mut tail = other.resume(&token).await.unwrap();
    assert_eq!(row(&tail.next().await.unwrap().unwrap()), 11);
    assert_eq!(other.resume("t1-00").await.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_cluster_of_one_that_comes_back_goes_on_with_its_tail() {
    let mut cluster = Cluster::start(1);
    cluster.world.is_one.store(true, Ordering::SeqCst);
    let client = Client::connect(cluster.seed()).await.unwrap();
    cluster.world.write(0..5);
    let mut tail = client.tail("rows", Start::Offsets(vec![(0, 2)])).await.unwrap();
    assert_eq!(row(&tail.next().await.unwrap().unwrap()), 2);
    cluster.silos[0].kill();
    let reading = tokio::spawn(async move {
        let mut rows = Vec::new();
        while rows.len() < 3 {
            rows.push(row(&tail.next().await.unwrap().unwrap()));
        }
        rows
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.restart(0);
    cluster.world.write(5..6);
    assert_eq!(reading.await.unwrap(), [3, 4, 5]);
}
