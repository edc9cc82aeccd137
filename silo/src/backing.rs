//! Where a silo keeps its slots and streams: in one embedded engine, or in a store and a log of their own.

use std::any::Any;
use std::sync::Arc;

use granary_cluster::{Incarnation, Log, Store};
use granary_core::{Result, SlotId};
use granary_engine::{LogSource, MakeProducer, OpenSource};
use granary_store::Embedded;

/// Opens the partitions of a topic as sources: its name, and how many there are.
pub type OpenTopic = Arc<dyn Fn(&str, u32) -> OpenSource + Send + Sync>;

/// Has a bell rung whenever a topic may have more, for as long as what it returns is kept.
pub type WatchTopic =
    Arc<dyn Fn(&str, Box<dyn Fn() + Send + Sync>) -> Box<dyn Any + Send + Sync> + Send + Sync>;

/// A store, a log, and how the one's outputs get to the other.
#[derive(Clone)]
pub struct Backing {
    /// Where slots are stored.
    pub store: Arc<dyn Store>,
    /// Where streams are.
    pub log: Arc<dyn Log>,
    /// The engine that is both, if it is embedded.
    pub embedded: Option<Arc<Embedded>>,
    /// This life of the silo: one that was never before in this store.
    pub me: Incarnation,
    /// Opens topics as sources.
    pub sources: OpenTopic,
    /// Tells when a topic may have more; `None` when the sources do so by themselves.
    pub watch: Option<WatchTopic>,
    /// The producers of lanes; `None` when the store publishes outputs in the step of their commit.
    pub producer: Option<MakeProducer>,
}

impl Backing {
    /// Store and log in one embedded engine, for a cluster of so many slots.
    pub fn embedded(engine: Arc<Embedded>, slots: u16) -> Result<Backing> {
        let log: Arc<dyn Log> = engine.clone();
        let on = engine.clone();
        Ok(Backing {
            store: engine.clone(),
            log: log.clone(),
            me: next_life(&*engine, slots)?,
            sources: Arc::new(move |topic, _| LogSource::opener(log.clone(), topic.to_string())),
            watch: Some(Arc::new(move |topic, ring| Box::new(on.subscribe(topic, ring)))),
            producer: None,
            embedded: Some(engine),
        })
    }

    /// A store and a log of their own. `sources` wake the lanes by themselves.
    pub fn external(
        store: Arc<dyn Store>,
        log: Arc<dyn Log>,
        me: Incarnation,
        sources: OpenTopic,
        producer: MakeProducer,
    ) -> Backing {
        Backing { store, log, embedded: None, me, sources, watch: None, producer: Some(producer) }
    }
}

/// A new life: one more than any before it in this store.
pub fn next_life(store: &dyn Store, slots: u16) -> Result<Incarnation> {
    let mut last = 0;
    for slot in 0..slots {
        last = last.max(store.record(SlotId(slot))?.owner.0);
    }
    Ok(Incarnation(last + 1))
}
