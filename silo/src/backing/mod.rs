//! Where a silo keeps its slots and streams: in one embedded engine, or in Redis and Apache Kafka.
//!
//! | module | holds |
//! |---|---|
//! | `external` | Redis and Kafka as one backing |
//! | `topics` | the topics of a silo there: created, compared with what they were, where reading begins |

mod external;
pub mod topics;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use granary_cluster::{Incarnation, Log, Store};
use granary_core::{Error, Result, SlotId};
use granary_engine::{LogSource, MakeProducer, OpenSource};
use granary_store::Embedded;

use crate::assembly::Assembly;
use crate::config::{LogKind, Settings, StoreKind};

pub use external::{External, kafka_settings};

/// A store, a log, and how the one's outputs get to the other.
#[derive(Clone)]
pub struct Backing {
    /// Where slots are stored.
    pub store: Arc<dyn Store>,
    /// Where streams are.
    pub log: Arc<dyn Log>,
    /// This life of the silo: one that was never before in this store.
    pub me: Incarnation,
    on: On,
}

#[derive(Clone)]
enum On {
    Embedded(Arc<Embedded>),
    External(External),
}

impl Backing {
    /// Opens what the settings name.
    pub fn open(settings: &Settings, assembly: &Assembly) -> Result<Backing> {
        match (settings.store.kind, settings.log.kind) {
            (StoreKind::Embedded, LogKind::Embedded) => {
                let path = Path::new(&settings.store.path);
                Backing::embedded(assembly.open_store(path)?, assembly.slots)
            }
            (StoreKind::Redis, LogKind::Kafka) => External::open(settings, assembly)?.into_backing(),
            _ => Err(Error::invalid("the store and the log are both embedded, or Redis and Kafka")),
        }
    }

    /// Store and log in one embedded engine, for a cluster of so many slots.
    pub fn embedded(engine: Arc<Embedded>, slots: u16) -> Result<Backing> {
        let me = next_life(&*engine, slots)?;
        Ok(Backing { store: engine.clone(), log: engine.clone(), me, on: On::Embedded(engine) })
    }

    /// The engine that is both, if it is embedded.
    pub fn as_embedded(&self) -> Option<&Arc<Embedded>> {
        match &self.on {
            On::Embedded(engine) => Some(engine),
            On::External(_) => None,
        }
    }

    /// Redis and Kafka, if it is those.
    pub fn as_external(&self) -> Option<&External> {
        match &self.on {
            On::Embedded(_) => None,
            On::External(external) => Some(external),
        }
    }

    /// Opens the partitions of a topic as sources.
    pub fn source(&self, topic: &str, partitions: u32) -> OpenSource {
        match &self.on {
            On::Embedded(_) => LogSource::opener(self.log.clone(), topic.to_string()),
            On::External(external) => external.source(topic, partitions),
        }
    }

    /// Opens the partitions of a topic for a second reading beside that of [`Backing::source`], by the same lanes.
    pub fn again(&self, topic: &str, partitions: u32) -> OpenSource {
        match &self.on {
            On::Embedded(_) => self.source(topic, partitions),
            On::External(external) => external.again(topic, partitions),
        }
    }

    /// Has a bell rung whenever one of the topics may have more, for as long as what this returns is kept.
    pub fn watch(
        &self,
        topics: &[String],
        ring: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Vec<Box<dyn Any + Send + Sync>> {
        match &self.on {
            On::Embedded(engine) => topics
                .iter()
                .map(|topic| Box::new(engine.subscribe(topic, Box::new(ring.clone()))) as Box<_>)
                .collect(),
            On::External(external) => {
                external.ring(ring);
                Vec::new()
            }
        }
    }

    /// Opens the partitions of a topic for a reader that is no lane, and has a bell rung whenever there may be more, for as long
    /// as what comes with it is kept. All partitions are opened and read by one thread.
    pub fn reader(
        &self,
        topic: &str,
        partitions: u32,
        ring: impl Fn() + Clone + Send + Sync + 'static,
    ) -> (OpenSource, Vec<Box<dyn Any + Send + Sync>>) {
        match &self.on {
            On::Embedded(_) => (self.source(topic, partitions), self.watch(&[topic.to_owned()], ring)),
            On::External(external) => (external.reader(topic, partitions, ring), Vec::new()),
        }
    }

    /// The producers of lanes, for outputs to `streams` and reading from `sources`; `None` when the store publishes
    /// outputs in the step of their commit.
    pub fn producer(&self, streams: Vec<String>, sources: Vec<String>) -> Option<MakeProducer> {
        self.as_external().map(|external| external.producer(streams, sources))
    }
}

/// A new life: one more than any before it in this store.
fn next_life(store: &dyn Store, slots: u16) -> Result<Incarnation> {
    let mut last = 0;
    for slot in 0..slots {
        last = last.max(store.record(SlotId(slot))?.owner.0);
    }
    Ok(Incarnation(last + 1))
}
