//! Entries of an outbox as records: which topic, which partition, which identity.

use std::time::{Duration, Instant};

use granary_cluster::{Entry, Log as _, Outbox, StreamId};
use granary_core::id::positive_murmur2;
use granary_core::{Error, ErrorKind, Result};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::Lane;
use crate::context::Deliveries;
use crate::log::{KafkaLog, send};

/// The header with the identity of an output.
pub const ID_HEADER: &str = "granary-id";

/// Partition counts of output topics are asked for again after this long: a topic may get more partitions.
const COUNTS_AGE_MAX: Duration = Duration::from_secs(60);

/// How many partitions the topic of each stream has, and when that was asked.
pub(super) struct Counts(Vec<Option<(u32, Instant)>>);

impl Counts {
    pub(super) fn new(lane: &Lane) -> Counts {
        Counts(vec![None; lane.streams.len()])
    }

    /// Asks for what these entries need and is not known.
    pub(super) fn ask(&mut self, log: &KafkaLog, lane: &Lane, outbox: &Outbox) -> Result<()> {
        let mut last = usize::MAX;
        for stream in outbox.entries().iter().map(|entry| usize::from(entry.stream.0)) {
            if stream == last {
                continue;
            }
            last = stream;
            let Some(topic) = lane.streams.get(stream) else {
                return Err(Error::new(ErrorKind::NotFound, format!("output stream {stream} has no topic")));
            };
            if self.0[stream].is_some_and(|(_, asked)| asked.elapsed() < COUNTS_AGE_MAX) {
                continue;
            }
            let count = log.partitions(topic)?.filter(|count| *count > 0).ok_or_else(|| {
                let message = format!(
                    "there is no topic `{topic}` to publish to: `granary topics` creates what is missing"
                );
                Error::new(ErrorKind::NotFound, message)
            })?;
            self.0[stream] = Some((count, Instant::now()));
        }
        Ok(())
    }

    /// The partition of a key; its stream was asked for before.
    pub(super) fn partition(&self, stream: StreamId, key: &[u8]) -> i32 {
        let (count, _) =
            self.0[usize::from(stream.0)].expect("partitions are counted before anything is sent");
        (positive_murmur2(key) % count) as i32
    }
}

/// Hands an entry to the client.
pub(super) fn send_entry(
    producer: &BaseProducer<Deliveries>,
    (topic, partition): (&str, i32),
    outbox: &Outbox,
    entry: &Entry,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let id = Header { key: ID_HEADER, value: Some(outbox.id(entry)) };
    let record = BaseRecord::with_opaque_to(topic, 0)
        .partition(partition)
        .key(outbox.key(entry))
        .payload(outbox.value(entry))
        .timestamp(entry.time.0.max(0))
        .headers(OwnedHeaders::new_with_capacity(1).insert(id));
    send(producer, record, deadline)
}
