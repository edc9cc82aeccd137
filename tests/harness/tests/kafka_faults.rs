//! What holds when the broker, or a process between two arrows, dies.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

mod common;

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Ended, Log as _, SourceId, fail};
use granary_core::Timestamp;
use granary_harness::Kafka;
use granary_kafka::{KafkaLog, Lane, LaneProducer, Settings, Sources};

use common::{Cluster, Lead, WAIT, publication, txid};

/// Set for the process that is to die; its value names cluster, brokers and output topic.
const CHILD: &str = "GRANARY_TEST_CHILD";

/// Publishes until a fail point ends the process: not a test of its own.
/// Fail points are of the whole process: who publishes in it while they are armed would pass them, too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let log = KafkaLog::new(Settings::new(words[0], words[1])).unwrap();
    let lane = Lane { txid: txid(1), streams: vec![words[2].to_owned()], sources: vec![] };
    let mut lane = Lead(LaneProducer::start(log.into(), lane).unwrap());
    lane.init().unwrap();
    assert_eq!(lane.publish(vec![publication(0, 1, 1, &["a"])]), Ended::Done);
    fail::arm(words[3]).unwrap();
    lane.publish(vec![publication(0, 1, 2, &["b", "c"])]);
}

/// Runs a publisher that dies at this point of its second transaction, then takes over. Returns the marker's number and
/// the outputs at that time.
fn killed_at(point: &str) -> (u64, Vec<String>) {
    let cluster = Cluster::new(Kafka::shared());
    let settings = cluster.log.settings();
    let told = format!("{} {} {} {point}:exit", settings.cluster, settings.brokers, cluster.output);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, told)
        .output()
        .unwrap();
    assert!(!child.status.success(), "it died at {point}: {}", String::from_utf8_lossy(&child.stderr));
    let mut successor = cluster.producer(2);
    successor.init().unwrap();
    successor.fence(&[txid(1)], false).unwrap();
    let marker = successor.marker(0).unwrap().expect("the first transaction left one");
    let outputs = cluster.outputs();
    if marker.n.0 == 1 {
        assert_eq!(successor.publish(vec![publication(0, 2, 2, &["b", "c"])]), Ended::Done);
    }
    assert_eq!(cluster.outputs(), ["a", "b", "c"], "published once, killed at {point}; before {outputs:?}");
    (marker.n.0, outputs)
}

#[test]
fn a_publisher_killed_at_each_arrow_publishes_all_or_nothing() {
    for point in [
        "begin.before",
        "begin.after",
        "send.before",
        "send.after",
        "markers.before",
        "markers.after",
        "end.before",
    ] {
        assert_eq!(killed_at(point), (1, vec!["a".to_owned()]), "{point}");
    }
    assert_eq!(killed_at("end.after").0, 2, "it has ended");
}

#[test]
fn a_failure_before_the_end_is_aborted_and_the_producer_stays_good() {
    let _alone = alone();
    let cluster = Cluster::new(Kafka::shared());
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    for point in [
        "begin.before",
        "begin.after",
        "send.before",
        "send.after",
        "markers.before",
        "markers.after",
        "end.before",
    ] {
        fail::arm(&format!("{point}:err")).unwrap();
        assert_eq!(lane.publish(vec![publication(0, 1, 1, &["a"])]), Ended::Aborted, "{point}");
    }
    fail::arm("end.after:err").unwrap();
    assert_eq!(lane.publish(vec![publication(0, 1, 1, &["a"])]), Ended::Lost, "its outcome is not known");
    lane.init().unwrap();
    assert_eq!(lane.marker(0).unwrap().unwrap().n.0, 1, "now it is");
    assert_eq!(cluster.outputs(), ["a"]);
}

#[test]
fn a_broker_killed_again_and_again_loses_and_doubles_nothing() {
    let _alone = alone();
    let kafka = Kafka::start();
    let cluster = Cluster::new(&kafka);
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    let mut expected = Vec::new();
    let sources = Sources::new(cluster.log.settings().clone(), None);
    let mut partition = sources.open(&cluster.input, 0);
    let mut input: Vec<u64> = Vec::new();
    let mut n = 0;
    for round in 0..3 {
        // What is there is read, a transaction is under way, and the broker dies.
        let mut batch = Batch::default();
        (0..500).for_each(|i| batch.push(0, Timestamp(1), None, format!("{round}-{i}").as_bytes()));
        cluster.log.append(&cluster.input, 0, &batch).unwrap();
        for step in 0..6 {
            n += 1;
            let values: Vec<String> = (0..50).map(|i| format!("{n:03}-{i:02}")).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let answer = lane.publish_later(vec![publication(0, 1, n, &values)]);
            if step == 2 {
                std::thread::sleep(Duration::from_millis(3 * round));
                kafka.kill();
                kafka.restart();
            }
            let mut ended = answer.recv_timeout(WAIT).unwrap();
            while ended != Ended::Done {
                // As the engine does: after `Lost` init, then the marker says whether to send again.
                if ended == Ended::Lost {
                    while lane.init().is_err() {}
                    let marker = loop {
                        if let Ok(marker) = lane.marker(0) {
                            break marker;
                        }
                    };
                    if marker.is_some_and(|marker| marker.n.0 == n) {
                        break;
                    }
                }
                ended = lane.publish(vec![publication(0, 1, n, &values)]);
            }
            expected.extend(values.iter().map(|value| (*value).to_owned()));
        }
        let deadline = Instant::now() + WAIT;
        let end = 500 * (round + 1);
        let mut last_error = None;
        while (input.len() as u64) < end {
            assert!(Instant::now() < deadline, "{} of {end} records came: {last_error:?}", input.len());
            let mut batch = Batch::default();
            let next = input.len() as u64;
            // A broker that is away is no error that ends anything: the next read goes on.
            let read = partition.read_within(Duration::from_millis(100), next, 4096, &mut batch);
            last_error = read.err().or(last_error);
            input.extend(batch.iter(SourceId(0), 0).map(|record| record.offset));
        }
    }
    assert_eq!(input, (0..1500).collect::<Vec<u64>>(), "every record once and in order");
    expected.sort();
    assert_eq!(cluster.outputs(), expected);
}

#[test]
fn a_broker_that_does_not_answer_is_waited_for() {
    let _alone = alone();
    let kafka = Kafka::start();
    let cluster = Cluster::new(&kafka);
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    assert_eq!(lane.publish(vec![publication(0, 1, 1, &["a"])]), Ended::Done);
    kafka.pause();
    let answer = lane.publish_later(vec![publication(0, 1, 2, &["b"])]);
    assert!(answer.recv_timeout(Duration::from_secs(2)).is_err(), "it is not given up at once");
    kafka.resume();
    let ended = answer.recv_timeout(WAIT).unwrap();
    if ended != Ended::Done {
        lane.init().unwrap();
        if lane.marker(0).unwrap().unwrap().n.0 == 1 {
            assert_eq!(lane.publish(vec![publication(0, 1, 2, &["b"])]), Ended::Done);
        }
    }
    assert_eq!(cluster.outputs(), ["a", "b"]);
}
