//! Reading topics of a real broker.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _, SourceId};
use granary_core::{ErrorKind, Timestamp};
use granary_harness::{Kafka, unique};
use granary_kafka::{KafkaLog, Partition, Settings, Sources};

use common::{Cluster, WAIT, records};

/// Reads from `from` on until `count` records came.
fn read(partition: &mut Partition, from: u64, count: usize) -> Vec<(u64, String)> {
    let (mut next, mut found) = (from, Vec::new());
    let deadline = Instant::now() + WAIT;
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", found.len());
        let mut batch = Batch::default();
        partition.read_within(Duration::from_millis(100), next, 1 << 20, &mut batch).unwrap();
        for record in batch.iter(SourceId(0), 0) {
            found.push((record.offset, String::from_utf8(record.value.to_vec()).unwrap()));
            next = record.offset + 1;
        }
    }
    found
}

#[test]
fn a_partition_is_read_from_any_offset_and_again() {
    let cluster = Cluster::new(Kafka::shared());
    assert_eq!(cluster.log.append(&cluster.input, 1, &records(&["a", "b", "c"])).unwrap(), 0);
    assert_eq!(cluster.log.append(&cluster.input, 1, &records(&["d"])).unwrap(), 3);
    assert_eq!(cluster.log.bounds(&cluster.input, 1).unwrap(), (0, 4));

    let sources = Sources::new(cluster.log.settings().clone(), None);
    let mut partition = sources.open(&cluster.input, 1);
    let text = |found: Vec<(u64, String)>| found.into_iter().map(|(_, value)| value).collect::<String>();
    assert_eq!(text(read(&mut partition, 1, 3)), "bcd");
    assert_eq!(text(read(&mut partition, 0, 4)), "abcd", "a rollback reads again");
    assert_eq!(read(&mut partition, 3, 1), [(3, "d".to_owned())], "and so does a slot that is further");

    let deadline = Instant::now() + WAIT;
    while !partition.is_at_end() {
        let mut batch = Batch::default();
        partition.read_within(Duration::from_millis(50), 4, 1 << 20, &mut batch).unwrap();
        assert!(batch.is_empty());
        assert!(Instant::now() < deadline, "the end is told");
    }
    cluster.log.append(&cluster.input, 1, &records(&["e"])).unwrap();
    assert_eq!(text(read(&mut partition, 4, 1)), "e");
    assert!(!partition.is_at_end(), "it was left by the record");
}

/// What was fetched, or is being fetched, when a slot goes back must not come before what it goes back for.
#[test]
fn going_back_while_records_arrive_skips_nothing() {
    let cluster = Cluster::new(Kafka::shared());
    let sources = Sources::new(cluster.log.settings().clone(), None);
    let mut partition = sources.open(&cluster.input, 3);
    for round in 0..200_u64 {
        cluster.log.append(&cluster.input, 3, &records(&["x"])).unwrap();
        if round % 3 == 0 {
            // Anything between being on its way and having been read.
            std::thread::sleep(Duration::from_millis(round % 7));
            let _ = partition.read(round, 1 << 20, &mut Batch::default());
        }
        let back = round / 2;
        let offsets: Vec<u64> = read(&mut partition, back, (round - back + 1) as usize)
            .into_iter()
            .map(|(offset, _)| offset)
            .collect();
        assert_eq!(offsets, (back..=round).collect::<Vec<u64>>());
    }
}

#[test]
fn a_read_hands_out_about_as_much_as_is_asked_for() {
    let cluster = Cluster::new(Kafka::shared());
    cluster.log.append(&cluster.input, 0, &records(&["0123456789"; 100])).unwrap();
    let sources = Sources::new(cluster.log.settings().clone(), None);
    let mut partition = sources.open(&cluster.input, 0);
    read(&mut partition, 0, 1); // by now they lie with the client
    let mut batch = Batch::default();
    partition.read_within(WAIT, 50, 100, &mut batch).unwrap();
    assert!((1..=6).contains(&batch.len()), "20 bytes each, {} records", batch.len());
    assert_eq!(batch.get(0, SourceId(0), 0).offset, 50);
}

#[test]
fn keys_times_and_empty_values_come_as_they_were_written() {
    let cluster = Cluster::new(Kafka::shared());
    let mut batch = Batch::default();
    batch.push(0, Timestamp(1_234), Some(b"k"), b"");
    batch.push(0, Timestamp(1_235), None, b"v");
    cluster.log.append(&cluster.input, 0, &batch).unwrap();
    let mut found = Batch::default();
    cluster.log.read(&cluster.input, 0, 0, 1 << 20, &mut found).unwrap();
    let shown: Vec<_> = found.iter(SourceId(0), 0).map(|r| (r.appended_at.0, r.key, r.value)).collect();
    assert_eq!(shown, [(1_234, Some(&b"k"[..]), &b""[..]), (1_235, None, &b"v"[..])]);
}

#[test]
fn news_wake_the_reader() {
    let cluster = Cluster::new(Kafka::shared());
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let wake = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let sources = Sources::new(cluster.log.settings().clone(), Some(wake));
    let mut partition = sources.open(&cluster.input, 2);
    let mut batch = Batch::default();
    partition.read(0, 1 << 20, &mut batch).unwrap();
    let wait_for = |least: usize, why: &str| {
        let deadline = Instant::now() + WAIT;
        while woken.load(Ordering::SeqCst) < least {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    for wakes in 1.. {
        wait_for(wakes, "its end wakes");
        partition.read(0, 1 << 20, &mut batch).unwrap();
        if partition.is_at_end() {
            break;
        }
    }
    let before = woken.load(Ordering::SeqCst);
    cluster.log.append(&cluster.input, 2, &records(&["x"])).unwrap();
    wait_for(before + 1, "a record wakes");
    partition.read(0, 1 << 20, &mut batch).unwrap();
    assert_eq!(batch.len(), 1);
}

#[test]
fn an_offset_out_of_range_is_an_error_that_names_both() {
    let kafka = Kafka::shared();
    let log = KafkaLog::new(Settings::new(unique("test"), kafka.brokers())).unwrap();
    let topic = unique("short");
    let config = [("retention.ms", "1"), ("segment.ms", "1"), ("segment.bytes", "1048576")];
    log.create_with(&topic, 1, &config).unwrap();
    log.append(&topic, 0, &records(&["old"; 10])).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    log.append(&topic, 0, &records(&["newer"; 10])).unwrap();
    let deadline = Instant::now() + WAIT;
    while log.bounds(&topic, 0).unwrap().0 == 0 {
        assert!(Instant::now() < deadline, "retention removes the first records");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (first, end) = log.bounds(&topic, 0).unwrap();
    for from in [0, end + 5] {
        let error = log.read(&topic, 0, from, 1 << 20, &mut Batch::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        for part in
            [format!("offset {from} "), format!("kept offset is {first}"), "granary rewind".to_owned()]
        {
            assert!(error.message().contains(&part), "{part} in {error}");
        }
        assert_eq!(log.check_offset(&topic, 0, from).unwrap_err().message(), error.message());
    }
    log.check_offset(&topic, 0, end).unwrap();
}

#[test]
fn a_topic_made_anew_is_told_from_the_old_one() {
    let cluster = Cluster::new(Kafka::shared());
    let before = cluster.log.identity(&cluster.input).unwrap();
    assert!(before.topic.is_some() && before.brokers.is_some() && before.partitions == 4, "{before:?}");
    assert_eq!(cluster.log.identity(&cluster.input).unwrap(), before);
    cluster.log.delete(&cluster.input).unwrap();
    assert_eq!(cluster.log.partitions(&cluster.input).unwrap(), None);
    assert_eq!(cluster.log.identity(&cluster.input).unwrap_err().kind(), ErrorKind::NotFound);
    cluster.log.create(&cluster.input, 4).unwrap();
    let after = cluster.log.identity(&cluster.input).unwrap();
    let differs = before.differs(&after).unwrap();
    assert!(differs.contains("deleted and created again"), "{differs}");
}

#[test]
fn topics_and_slots_are_counted() {
    let cluster = Cluster::new(Kafka::shared());
    cluster.log.create(&cluster.input, 4).unwrap();
    let error = cluster.log.create(&cluster.input, 8).unwrap_err();
    assert!(error.message().contains("exists with 4 partitions, 8 are needed"), "{error}");
    let error = cluster.log.create_internal(common::SLOTS * 2).unwrap_err();
    assert!(error.message().contains("cluster.slots"), "{error}");
    assert_eq!(cluster.log.partitions("no-such-topic").unwrap(), None);
}

#[test]
fn a_time_is_found() {
    let cluster = Cluster::new(Kafka::shared());
    let mut batch = Batch::default();
    for time in [1_000, 2_000, 3_000] {
        batch.push(0, Timestamp(time), None, b"v");
    }
    cluster.log.append(&cluster.input, 0, &batch).unwrap();
    let at = |time| cluster.log.offset_at(&cluster.input, 0, Timestamp(time)).unwrap();
    assert_eq!([at(0), at(1_000), at(1_001), at(3_000), at(3_001)], [0, 0, 1, 2, 3]);
}

#[test]
fn brokers_that_cannot_be_reached_are_named() {
    let log = KafkaLog::new(Settings::new("test", "127.0.0.1:1")).unwrap();
    let error = log.is_reachable(Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("127.0.0.1:1"), "{error}");
    let log = KafkaLog::new(Settings::new("test", Kafka::shared().brokers())).unwrap();
    log.is_reachable(WAIT).unwrap();
}
