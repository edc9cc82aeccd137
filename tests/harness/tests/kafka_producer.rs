//! Publishing, fencing and markers with a real broker.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

mod common;

use std::time::{Duration, Instant};

use granary_cluster::{Ended, Log as _};
use granary_core::id::positive_murmur2;
use granary_harness::Kafka;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use common::{Cluster, WAIT, id_of, plain_consumer, publication, txid};

#[test]
fn outputs_and_marker_come_together_and_once() {
    let cluster = Cluster::new(Kafka::shared());
    let mut lane = cluster.producer(1);
    assert_eq!(lane.publish(vec![publication(3, 1, 1, &["a"])]), Ended::Lost, "not before init");
    lane.init().unwrap();
    assert_eq!(lane.marker(3).unwrap(), None, "there has never been one");
    let first = publication(3, 1, 1, &["a", "b", ""]);
    let second = publication(4, 1, 1, &["c"]);
    assert_eq!(lane.publish(vec![first.clone(), second]), Ended::Done);
    assert_eq!(cluster.outputs(), ["", "a", "b", "c"], "an empty value is a value");
    assert_eq!(lane.marker(3).unwrap(), Some(first.1.marker));

    // The marker alone, as for a slot that has nothing to say.
    let alone = publication(3, 1, 2, &[]);
    assert_eq!(lane.publish(vec![alone.clone()]), Ended::Done);
    assert_eq!(lane.marker(3).unwrap(), Some(alone.1.marker));
    assert_eq!(cluster.outputs().len(), 4);
}

#[test]
fn records_carry_key_identity_and_event_time() {
    let cluster = Cluster::new(Kafka::shared());
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    let keys = [
        "21",
        "foobar",
        "a-little-bit-long-string",
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
        "abc",
    ];
    assert_eq!(lane.publish(vec![publication(0, 1, 1, &keys)]), Ended::Done);
    cluster.settle();
    let mut found = 0;
    for partition in 0..4 {
        let consumer = plain_consumer(&cluster.log, &cluster.output, partition, "read_committed");
        let end = cluster.log.bounds(&cluster.output, partition as u32).unwrap().1 as i64;
        let deadline = Instant::now() + WAIT;
        let mut next = 0;
        // The last offset of a transaction is its own marker, which is no record.
        while next + 1 < end && Instant::now() < deadline {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            assert_eq!(message.partition() as u32, positive_murmur2(key.as_bytes()) % 4, "{key}");
            assert_eq!(id_of(&message).unwrap(), format!("id-{key}"));
            assert_eq!(message.timestamp().to_millis(), Some(1_700_000_000_000));
            next = message.offset() + 1;
            found += 1;
        }
    }
    assert_eq!(found, keys.len());
}

/// Kafka's default partitioner, as librdkafka has it, puts each key where we do.
#[test]
fn our_partitions_are_those_of_kafkas_partitioner() {
    let cluster = Cluster::new(Kafka::shared());
    let theirs: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &cluster.log.settings().brokers)
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    let keys: Vec<String> = (0..200).map(|i| format!("device-{i}-{}", "x".repeat(i % 7))).collect();
    for key in &keys {
        theirs
            .send(BaseRecord::to(&cluster.output).key(key).payload(key))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    theirs.flush(WAIT).unwrap();
    for partition in 0..4 {
        let mut batch = granary_cluster::Batch::default();
        let mut next = 0;
        while next < cluster.log.bounds(&cluster.output, partition).unwrap().1 {
            cluster.log.read(&cluster.output, partition, next, 1 << 20, &mut batch).unwrap();
            next = batch.get(batch.len() - 1, granary_cluster::SourceId(0), 0).offset + 1;
        }
        let ours = keys.iter().filter(|key| positive_murmur2(key.as_bytes()) % 4 == partition).count();
        assert_eq!(batch.len(), ours, "partition {partition}");
    }
}

/// A transaction of another program under a lane's id, left open with an output and, perhaps, a marker.
fn left_open(cluster: &Cluster, incarnation: u64, marker: Option<&TopicPartitionList>) -> BaseProducer {
    left_open_for(WAIT, cluster, incarnation, marker)
}

/// The same, until the broker ends it.
fn left_open_for(
    timeout: Duration,
    cluster: &Cluster,
    incarnation: u64,
    marker: Option<&TopicPartitionList>,
) -> BaseProducer {
    let settings = cluster.log.settings();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("transactional.id", format!("{}/{incarnation}/0", settings.cluster))
        .set("transaction.timeout.ms", timeout.as_millis().to_string())
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    producer
        .send(BaseRecord::to(&cluster.output).key("z").payload("zombie"))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(WAIT).unwrap();
    if let Some(marker) = marker {
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("group.id", settings.group())
            .create()
            .unwrap();
        let group = member.group_metadata().unwrap();
        producer.send_offsets_to_transaction(marker, &group, WAIT).unwrap();
    }
    producer
}

fn offset_of(cluster: &Cluster, slot: i32, n: i64, metadata: &str) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(&cluster.log.settings().slots_topic(), slot);
    element.set_metadata(metadata);
    element.set_offset(Offset::Offset(n)).unwrap();
    list
}

#[test]
fn a_producer_of_the_same_id_fences_the_one_before() {
    let cluster = Cluster::new(Kafka::shared());
    let (mut old, mut new) = (cluster.producer(1), cluster.producer(1));
    old.init().unwrap();
    assert_eq!(old.publish(vec![publication(0, 1, 1, &["a"])]), Ended::Done);
    new.init().unwrap();
    assert_eq!(old.publish(vec![publication(0, 1, 2, &["doubled"])]), Ended::Lost);
    assert_eq!(new.publish(vec![publication(0, 1, 2, &["b"])]), Ended::Done);
    assert_eq!(cluster.outputs(), ["a", "b"]);
    old.init().unwrap();
    assert_eq!(new.publish(vec![publication(0, 1, 3, &["doubled"])]), Ended::Lost, "and the other way round");
    assert_eq!(old.publish(vec![publication(0, 1, 3, &["c"])]), Ended::Done, "init makes it good again");
    assert_eq!(cluster.outputs(), ["a", "b", "c"]);
}

#[test]
fn fencing_aborts_what_another_left_open() {
    let cluster = Cluster::new(Kafka::shared());
    let zombie = left_open(&cluster, 1, None);
    let mut lane = cluster.producer(2);
    lane.init().unwrap();
    lane.fence(&[txid(1), txid(2)], false).unwrap();
    assert!(zombie.commit_transaction(WAIT).is_err(), "its end comes too late");
    assert_eq!(lane.publish(vec![publication(0, 2, 1, &["a"])]), Ended::Done, "its own id was left alone");
    assert_eq!(cluster.outputs(), ["a"]);
}

#[test]
fn everyone_is_who_was_ever_initialised() {
    let cluster = Cluster::new(Kafka::shared());
    let mut others: Vec<_> = (1..=3).map(|incarnation| cluster.producer(incarnation)).collect();
    others.iter_mut().for_each(|other| other.init().unwrap());
    let mut lane = cluster.producer(9);
    lane.init().unwrap();
    lane.fence(&[], true).unwrap();
    for (other, incarnation) in others.iter_mut().zip(1..) {
        assert_eq!(other.publish(vec![publication(0, incarnation, 1, &["zombie"])]), Ended::Lost);
    }
    assert_eq!(lane.publish(vec![publication(0, 9, 1, &["a"])]), Ended::Done);
    assert_eq!(cluster.outputs(), ["a"]);
}

#[test]
fn nothing_is_seen_before_the_end() {
    let cluster = Cluster::new(Kafka::shared());
    let open = left_open(&cluster, 1, None);
    let seen: BaseConsumer = plain_consumer(
        &cluster.log,
        &cluster.output,
        (positive_murmur2(b"z") % 4) as i32,
        "read_uncommitted",
    );
    assert!(seen.poll(WAIT).unwrap().is_ok(), "it is there");
    assert!(cluster.committed().is_empty(), "but not for us");
    open.commit_transaction(WAIT).unwrap();
    assert_eq!(cluster.outputs(), ["zombie"]);
}

#[test]
fn a_stable_read_waits_for_an_open_transaction() {
    let cluster = Cluster::new(Kafka::shared());
    let mut lane = cluster.producer(2);
    lane.init().unwrap();
    let text = "1 1 1/0 ";

    let ends = left_open(&cluster, 1, Some(&offset_of(&cluster, 5, 7, text)));
    let begun = Instant::now();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        ends.commit_transaction(WAIT).unwrap();
    });
    assert_eq!(lane.marker(5).unwrap().unwrap().n.0, 7);
    assert!(begun.elapsed() >= Duration::from_millis(900), "answered after {:?}", begun.elapsed());
    ending.join().unwrap();

    // One whose producer is dead is ended by the broker.
    let dies = Duration::from_secs(10);
    let _dead = left_open_for(dies, &cluster, 1, Some(&offset_of(&cluster, 5, 8, text)));
    assert_eq!(lane.marker(5).unwrap().unwrap().n.0, 7);
}

#[test]
fn what_is_no_marker_is_told() {
    let cluster = Cluster::new(Kafka::shared());
    let foreign: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &cluster.log.settings().brokers)
        .set("group.id", cluster.log.settings().group())
        .create()
        .unwrap();
    foreign.commit(&offset_of(&cluster, 6, 3, "made by hand"), rdkafka::consumer::CommitMode::Sync).unwrap();
    let mut lane = cluster.producer(1);
    let error = lane.marker(6).unwrap_err();
    assert!(error.message().contains("made by hand"), "{error}");
}

#[test]
fn lag_is_seen_by_ordinary_tools() {
    let cluster = Cluster::new(Kafka::shared());
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    assert_eq!(lane.publish(vec![publication(1, 1, 41, &["a"]), publication(5, 1, 30, &["b"])]), Ended::Done);
    let tool: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &cluster.log.settings().brokers)
        .set("group.id", cluster.log.settings().group())
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(&cluster.input, 1);
    let found = tool.committed_offsets(list, WAIT).unwrap();
    assert_eq!(
        found.elements()[0].offset(),
        Offset::Offset(42),
        "slots 1 and 5 read partition 1, 1 is further"
    );
}

#[test]
fn a_missing_output_topic_publishes_nothing() {
    let cluster = Cluster::new(Kafka::shared());
    cluster.log.delete(&cluster.output).unwrap();
    let mut lane = cluster.producer(1);
    lane.init().unwrap();
    let publication = publication(0, 1, 1, &["a"]);
    assert_eq!(lane.publish(vec![publication.clone()]), Ended::Aborted);
    cluster.log.create(&cluster.output, 4).unwrap();
    assert_eq!(lane.publish(vec![publication]), Ended::Done, "it appeared");
}
