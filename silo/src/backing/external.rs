//! Redis as the store, Apache Kafka as the log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use granary_core::{Error, Result};
use granary_engine::{MakeProducer, OpenSource};
use granary_kafka::{KafkaLog, Lane, LaneProducer, Sources, WakeUp};
use granary_store::{Durability, Redis, RedisOptions};

use super::{Backing, On};
use crate::assembly::Assembly;
use crate::config::{Settings, StoreDurability};

/// How long the first look at the brokers may take.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// A Redis server and Kafka's brokers.
#[derive(Clone)]
pub struct External {
    /// The store.
    pub redis: Arc<Redis>,
    /// The log.
    pub kafka: Arc<KafkaLog>,
    /// How to connect to the same Redis server with one connection for single questions.
    pub member_options: RedisOptions,
    sources: Sources,
    /// Wakes the lanes, once there are any.
    bell: Arc<OnceLock<WakeUp>>,
}

impl External {
    /// Connects to both, and checks that they are fit and belong to this cluster.
    ///
    /// `unavailable` when one of them cannot be reached; anything else says what to change.
    pub fn open(settings: &Settings, assembly: &Assembly) -> Result<External> {
        let kafka = Arc::new(KafkaLog::new(kafka_settings(settings)?)?);
        let options = redis_options(settings, assembly)?;
        let member_options = options.clone().connections(0);
        let redis = Redis::open(options)?;
        kafka.is_reachable(LOOK_WAIT)?;
        kafka.create_internal(assembly.slots)?;
        let bell: Arc<OnceLock<WakeUp>> = Arc::default();
        let sources = Sources::new(kafka.settings().clone(), Some(rings(&bell)));
        Ok(External { redis, kafka, member_options, sources, bell })
    }

    /// As a backing, in a new life of the silo.
    pub(super) fn into_backing(self) -> Result<Backing> {
        let me = self.redis.incarnate()?;
        Ok(Backing { store: self.redis.clone(), log: self.kafka.clone(), me, on: On::External(self) })
    }

    pub(super) fn source(&self, topic: &str, partitions: u32) -> OpenSource {
        self.sources.opener(topic.to_owned(), partitions)
    }

    /// A partition is assigned once to a consumer, so this one has consumers of its own.
    pub(super) fn again(&self, topic: &str, partitions: u32) -> OpenSource {
        let sources = Sources::new(self.kafka.settings().clone(), Some(rings(&self.bell)));
        sources.opener(topic.to_owned(), partitions)
    }

    pub(super) fn reader(
        &self,
        topic: &str,
        partitions: u32,
        ring: impl Fn() + Send + Sync + 'static,
    ) -> OpenSource {
        let sources = Sources::new(self.kafka.settings().clone(), Some(Arc::new(ring)));
        sources.opener(topic.to_owned(), partitions)
    }

    /// The sources ring by themselves, whichever topic has more.
    pub(super) fn ring(&self, ring: impl Fn() + Send + Sync + 'static) {
        let _ = self.bell.set(Arc::new(ring)); // lanes start once in the life of a silo
    }

    pub(super) fn producer(&self, streams: Vec<String>, sources: Vec<String>) -> MakeProducer {
        let kafka = self.kafka.clone();
        Arc::new(move |txid| {
            let lane = Lane { txid, streams: streams.clone(), sources: sources.clone() };
            let producer = LaneProducer::start(kafka.clone(), lane);
            Box::new(producer.expect("a client like the one the log was opened with, and a thread"))
        })
    }
}

/// Rings the bell, once there is one.
fn rings(bell: &Arc<OnceLock<WakeUp>>) -> WakeUp {
    let rung = bell.clone();
    Arc::new(move || {
        if let Some(ring) = rung.get() {
            ring();
        }
    })
}

/// How to reach Kafka, by the settings.
pub fn kafka_settings(settings: &Settings) -> Result<granary_kafka::Settings> {
    let brokers = settings.log.brokers.as_deref().ok_or_else(|| Error::invalid("log.brokers is not set"))?;
    let mut kafka = granary_kafka::Settings::new(&settings.cluster.name, brokers);
    let passed_on = settings.log.kafka.iter();
    kafka.passed_on = passed_on.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    Ok(kafka)
}

fn redis_options(settings: &Settings, assembly: &Assembly) -> Result<RedisOptions> {
    let url = settings.store.url.as_ref().ok_or_else(|| Error::invalid("store.url is not set"))?;
    let durability = match settings.store.durability {
        StoreDurability::Fsync => Durability::Fsync,
        StoreDurability::Everysec => Durability::Everysec,
    };
    Ok(RedisOptions::new(url.reveal(), &settings.cluster.name, assembly.slots)
        .durability(durability)
        .wait_replicas(u32::from(settings.store.wait_replicas))
        .connections(assembly.lanes()))
}
