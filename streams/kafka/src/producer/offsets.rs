//! Committed offsets of the cluster's group: markers, read stably.

use std::time::{Duration, Instant};

use granary_cluster::Marker;
use granary_core::{Error, ErrorKind, Result, SlotId};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset;

use crate::context::Logs;
use crate::errors::failed;
use crate::marker;
use crate::settings::{Settings, TRANSACTION_TIMEOUT_MS};

/// How long a stable read waits: longer than a transaction whose producer died stays open.
const STABLE_WAIT: Duration = Duration::from_millis(2 * TRANSACTION_TIMEOUT_MS as u64);

/// How long one attempt takes.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);

/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Reads the committed offsets of the cluster's group.
pub(super) struct Offsets {
    settings: Settings,
    client: BaseConsumer<Logs>,
}

impl Offsets {
    pub(super) fn new(settings: Settings) -> Result<Offsets> {
        // With `read_committed` the client asks for stable offsets only.
        let client = BaseConsumer::from_config_and_context(&settings.consumer(1), Logs)
            .map_err(|error| failed("cannot start a client", &error))?;
        Ok(Offsets { settings, client })
    }

    /// What a transaction names when it commits offsets: the group, as nobody's member.
    pub(super) fn group(&self) -> Result<ConsumerGroupMetadata> {
        self.client
            .group_metadata()
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the client has no group, which it was given"))
    }

    /// The markers of these slots, in order, as soon as no open transaction holds one of them.
    pub(super) fn markers(&self, slots: &[SlotId]) -> Result<Vec<Result<Option<Marker>>>> {
        let topic = self.settings.slots_topic();
        let deadline = Instant::now() + STABLE_WAIT;
        let found = loop {
            let _ = self.client.poll(Duration::ZERO);
            match self.committed(&topic, slots) {
                Ok(found) => break found,
                Err(error) if Instant::now() > deadline => {
                    return Err(failed("cannot read the markers", &error));
                }
                Err(error) => {
                    tracing::debug!(%error, "markers are not to be had yet");
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
        };
        Ok(slots
            .iter()
            .map(|slot| {
                let element = found.find_partition(&topic, i32::from(slot.0));
                match element.map(|element| (element.offset(), element.metadata().to_owned())) {
                    Some((Offset::Offset(n), text)) => marker::decode(n as u64, &text).map(Some),
                    _ => Ok(None),
                }
            })
            .collect())
    }

    fn committed(&self, topic: &str, slots: &[SlotId]) -> Result<TopicPartitionList, KafkaError> {
        let mut wanted = TopicPartitionList::with_capacity(slots.len());
        for slot in slots {
            wanted.add_partition(topic, i32::from(slot.0));
        }
        let found = self.client.committed_offsets(wanted, ATTEMPT_WAIT)?;
        for element in found.elements() {
            if let Err(error) = element.error() {
                return Err(match error {
                    KafkaError::OffsetFetch(code) => KafkaError::OffsetFetch(code),
                    _ => KafkaError::OffsetFetch(Code::UnstableOffsetCommit),
                });
            }
        }
        Ok(found)
    }
}
