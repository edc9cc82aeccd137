//! What the tests of the Kafka adapter share.
#![allow(dead_code)] // each test binary uses its part

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use granary_cluster::producer::Answer;
use granary_cluster::slot::{Pending, Publication};
use granary_cluster::{
    Batch, Cause, CommitNo, Ended, Epoch, Incarnation, Log as _, Marker, Outbox, Position, Producer,
    SourceId, StreamId, TxId, TxIds,
};
use granary_core::{Result, SlotId, Timestamp};
use granary_harness::{Kafka, unique};
use granary_kafka::{KafkaLog, Lane, LaneProducer, Settings};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Longer than anything a test waits for takes on a busy machine.
pub const WAIT: Duration = Duration::from_secs(120);

/// Slots of the tests' clusters.
pub const SLOTS: u16 = 8;

/// A cluster of its own on a broker, with an input and an output topic.
pub struct Cluster {
    pub log: Arc<KafkaLog>,
    pub input: String,
    pub output: String,
}

impl Cluster {
    pub fn new(kafka: &Kafka) -> Cluster {
        let settings = Settings::new(unique("test"), kafka.brokers());
        let log = Arc::new(KafkaLog::new(settings).unwrap());
        log.create_internal(SLOTS).unwrap();
        let cluster = Cluster { log, input: unique("input"), output: unique("output") };
        cluster.log.create(&cluster.input, 4).unwrap();
        cluster.log.create(&cluster.output, 4).unwrap();
        cluster
    }

    /// The producer of lane 0 of a silo's life.
    pub fn producer(&self, incarnation: u64) -> Lead {
        let lane = Lane {
            txid: txid(incarnation),
            streams: vec![self.output.clone()],
            sources: vec![self.input.clone()],
        };
        Lead(LaneProducer::start(self.log.clone(), lane).unwrap())
    }

    /// Waits until no transaction is open on the output topic. The brokers answer the end of a transaction before its
    /// partitions know of it.
    pub fn settle(&self) {
        let all: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.log.settings().brokers)
            .set("isolation.level", "read_uncommitted")
            .create()
            .unwrap();
        let deadline = Instant::now() + WAIT;
        for partition in 0..4 {
            let end = || all.fetch_watermarks(&self.output, partition, WAIT).unwrap().1 as u64;
            while self.log.bounds(&self.output, partition as u32).unwrap().1 < end() {
                assert!(Instant::now() < deadline, "a transaction stays open");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Values of the output topic, sorted, when no transaction is open any more.
    pub fn outputs(&self) -> Vec<String> {
        self.settle();
        self.committed()
    }

    /// Values of the output topic that a reader of committed records sees now, sorted.
    pub fn committed(&self) -> Vec<String> {
        let mut values = Vec::new();
        for partition in 0..4 {
            let (first, end) = self.log.bounds(&self.output, partition).unwrap();
            let mut next = first;
            while next < end {
                let mut batch = Batch::default();
                self.log.read(&self.output, partition, next, 1 << 20, &mut batch).unwrap();
                if batch.is_empty() {
                    break;
                }
                for record in batch.iter(SourceId(0), partition) {
                    values.push(String::from_utf8(record.value.to_vec()).unwrap());
                    next = record.offset + 1;
                }
            }
        }
        values.sort();
        values
    }
}

/// A lane's producer, waiting for each answer.
pub struct Lead(pub LaneProducer);

impl Lead {
    pub fn init(&mut self) -> Result<()> {
        ask(|done| self.0.init(done))
    }

    pub fn fence(&mut self, ids: &[TxId], everyone: bool) -> Result<()> {
        ask(|done| self.0.fence(TxIds { everyone, ids: ids.to_vec() }, done))
    }

    pub fn marker(&mut self, slot: u16) -> Result<Option<Marker>> {
        ask(|done| self.0.marker(SlotId(slot), done))
    }

    pub fn publish(&mut self, publications: Vec<(SlotId, Publication)>) -> Ended {
        self.publish_later(publications).recv_timeout(WAIT).expect("an answer")
    }

    pub fn publish_later(&mut self, publications: Vec<(SlotId, Publication)>) -> Receiver<Ended> {
        let (done, answer) = channel();
        self.0.publish(publications, Box::new(move |ended| done.send(ended).unwrap_or_default()));
        answer
    }
}

fn ask<T: Send + 'static>(request: impl FnOnce(Answer<T>)) -> Result<T> {
    let (done, answer) = channel();
    request(Box::new(move |result| done.send(result).unwrap_or_default()));
    answer.recv_timeout(WAIT).expect("an answer")
}

pub fn txid(incarnation: u64) -> TxId {
    TxId { incarnation: Incarnation(incarnation), lane: 0 }
}

/// Commit `n` of a slot with these outputs, keyed by their values.
pub fn publication(slot: u16, incarnation: u64, n: u64, values: &[&str]) -> (SlotId, Publication) {
    let mut outbox = Outbox::default();
    for (index, value) in values.iter().enumerate() {
        let cause = Cause { source: SourceId(0), partition: 0, offset: n, index: index as u32 };
        outbox.push(
            StreamId(0),
            cause,
            Timestamp(1_700_000_000_000),
            value.as_bytes(),
            |id| id.extend_from_slice(format!("id-{value}").as_bytes()),
            |out| out.extend_from_slice(value.as_bytes()),
        );
    }
    let marker = Marker {
        n: CommitNo(n),
        epoch: Epoch(1),
        txid: txid(incarnation),
        positions: vec![Position { source: SourceId(0), partition: u32::from(slot) % 4, offset: n + 1 }],
    };
    (SlotId(slot), Publication { commits: vec![Pending::stored(CommitNo(n), Arc::new(outbox))], marker })
}

/// Records of the partition as any other program sees them.
pub fn plain_consumer(log: &KafkaLog, topic: &str, partition: i32, isolation: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &log.settings().brokers)
        .set("group.id", unique("plain"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    consumer
}

/// The value of the header `granary-id`.
pub fn id_of(message: &BorrowedMessage<'_>) -> Option<String> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == "granary-id")?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}

/// A batch of one record for each value, keyed by it.
pub fn records(values: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        batch.push(0, Timestamp(1), Some(value.as_bytes()), value.as_bytes());
    }
    batch
}
