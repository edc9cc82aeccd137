//! Streams in Apache Kafka.
//!
//! | module | holds |
//! |---|---|
//! | `settings` | what the clients are started with; which settings can be passed on |
//! | `topics` | creating topics, telling one from another of its name |
//! | `log` | [`KafkaLog`]: the log's port, for tools and for what is put together once |
//! | `source` | [`Sources`], [`Partition`]: records from any offset on, as an engine's sources |
//! | `consumers` | the consumers behind sources |
//! | `producer` | [`LaneProducer`]: outputs and markers in transactions, fencing, stable reads |
//! | `marker` | a marker as the metadata of a committed offset |
//!
//! **Invariant:** an offset is never chosen by the brokers or a group: partitions are assigned by hand, from the position
//! of a slot, and an offset that is not there is an error that names the repair command.
//!
//! **Invariant:** what is not known is said to be unknown: a transaction whose end had no answer is `Lost`, and only the
//! marker, read after `init`, tells what became of it.
//!
//! A cluster has two internal topics. `granary.<cluster>.slots` has a partition for each slot; the marker of slot s is the
//! committed offset of partition s under the group `granary.<cluster>`. `granary.<cluster>.ids` is compacted and lists
//! every transactional id ever used. A broker forgets offsets that nobody commits for `offsets.retention.minutes` (7 days
//! unless set): markers are committed again daily, and a cluster that rests for longer needs a longer retention.
//!
//! Outputs carry their event time, and Kafka's retention goes by it: in a topic with `retention.ms` an output whose event
//! time is older than that goes at once. Topics that must not lose such records need `message.timestamp.type` at
//! `LogAppendTime` ([`BY_APPEND_TIME`]).

mod consumers;
mod context;
mod errors;
mod log;
mod marker;
mod producer;
mod settings;
mod source;
mod topics;

pub use crate::log::{KafkaLog, Sender};
pub use crate::marker::{METADATA_BYTES_MAX, POSITIONS_MAX};
pub use crate::producer::{ID_HEADER, Lane, LaneProducer, REQUESTS_MAX};
pub use crate::settings::{PREFETCH_BYTES_MAX, PREFETCH_RECORDS_MAX, Settings, TRANSACTION_TIMEOUT_MS};
pub use crate::source::{Partition, Sources, WakeUp};
pub use crate::topics::{BY_APPEND_TIME, TopicIdentity};
