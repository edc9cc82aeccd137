//! What a reader of committed records finds in a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use super::PATIENCE;

/// The rows of a topic, by partition in the order of their offsets.
#[derive(Debug, Default)]
pub struct Published {
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Published {
    /// Everything committed by now; nothing when there is no such topic yet.
    pub fn read(brokers: &str, topic: &str) -> Published {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "granary-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("brokers");
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment
                .add_partition_offset(topic, partition as i32, Offset::Beginning)
                .expect("the beginning is an offset");
        }
        consumer.assign(&assignment).expect("an assignment");
        let (mut rows, mut ended, began) =
            (BTreeMap::<i32, Vec<Row>>::new(), BTreeSet::new(), Instant::now());
        while ended.len() < partitions {
            assert!(began.elapsed() < PATIENCE, "topic {topic} cannot be read to its end");
            match consumer.poll(Duration::from_millis(500)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                Some(Err(_)) => {} // a broker that is away comes back
                Some(Ok(message)) => {
                    let headers = message.headers().map(|headers| headers.iter().collect::<Vec<_>>());
                    let id = headers.into_iter().flatten().find(|header| header.key == "granary-id");
                    let id = id.and_then(|header| header.value).unwrap_or_default();
                    rows.entry(message.partition()).or_default().push(Row {
                        id: String::from_utf8_lossy(id).into_owned(),
                        key: message.key().unwrap_or_default().to_vec(),
                        value: message.payload().unwrap_or_default().to_vec(),
                    });
                }
            }
        }
        Published { rows: rows.into_values().flatten().collect() }
    }

    /// No identity is there twice, and revisions of a window come in order without a gap.
    #[track_caller]
    pub fn must_be_once(&self) {
        let mut next: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &self.rows {
            let (window, revision) =
                row.id.rsplit_once('#').unwrap_or_else(|| panic!("no identity: {row:?}"));
            let revision: u64 = revision.parse().unwrap_or_else(|_| panic!("no revision: {row:?}"));
            let next = next.entry(window).or_default();
            assert_eq!(revision, *next, "revision {next} of {window} was to come");
            *next += 1;
        }
    }

    /// How many rows repeat an identity that was there before.
    pub fn copies(&self) -> usize {
        let ids: BTreeSet<&str> = self.rows.iter().map(|row| &*row.id).collect();
        self.rows.len() - ids.len()
    }

    /// The last row of each window, as lines of JSON.
    pub fn last_rows(&self) -> Vec<u8> {
        let mut last: BTreeMap<&str, &Row> = BTreeMap::new();
        for row in &self.rows {
            last.insert(row.id.rsplit_once('#').map_or(&*row.id, |(window, _)| window), row);
        }
        let mut lines = Vec::new();
        for row in last.values() {
            let value: Value = serde_json::from_slice(&row.value).expect("rows are JSON");
            if value["reason"] != "delete" {
                lines.extend_from_slice(&row.value);
                lines.push(b'\n');
            }
        }
        lines
    }
}
