//! One engine on a store that outlives it, with a hand-moved clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_cluster::{Batch, Incarnation, Log, Producer, Record, SourceId, Store, StreamId};
use granary_core::id::slot_of;
use granary_core::{Clock, HandClock, KindInfo, SlotId, Span, Timestamp};
use granary_engine::{Config, Engine, Handle, LogSource, SourceSpec, Stats};
use granary_store::{Memory, Stream};

use crate::broker::{Broker, JOURNAL, MemoryProducer};
use crate::faults::Faults;
use crate::pipeline::{self, Teller};

/// Slots of the test cluster.
pub const SLOTS: u16 = 12;

/// Partitions of the topic `in`.
pub const PARTITIONS: u32 = 2;

/// The streams that grains and pipelines emit to, in the order of their ids.
pub const STREAMS: [&str; 3] = ["out", "poisoned", "alerts"];

/// The time at which every test begins.
pub const START: Timestamp = Timestamp(1_700_000_000_000);

/// A store, a log and a clock: what stays when a silo ends.
pub struct Rig {
    /// The store, and the log where they are one engine.
    pub memory: Arc<Memory>,
    /// The log, where it is another one.
    pub broker: Option<Arc<Broker>>,
    /// The clock.
    pub clock: HandClock,
    lives: AtomicU64,
}

impl Default for Rig {
    fn default() -> Rig {
        Rig::new()
    }
}

impl Rig {
    /// An empty store and log.
    pub fn new() -> Rig {
        let memory = Memory::new(SLOTS, STREAMS.map(|name| Stream::new(name, 1)));
        memory.create("in", PARTITIONS).expect("the topic is new");
        Rig { memory, broker: None, clock: HandClock::at(START), lives: AtomicU64::new(0) }
    }

    /// An empty store whose outputs go to an empty log with transactions.
    pub fn behind_a_log() -> Rig {
        let broker = Broker::new(&[STREAMS[0], STREAMS[1], STREAMS[2], JOURNAL], 1);
        broker.create("in", PARTITIONS).expect("the topic is new");
        let memory = Memory::behind_a_log(SLOTS);
        Rig { memory, broker: Some(broker), clock: HandClock::at(START), lives: AtomicU64::new(0) }
    }

    /// The log with the topic `in`.
    pub fn log(&self) -> Arc<dyn Log> {
        match &self.broker {
            Some(broker) => broker.clone(),
            None => self.memory.clone(),
        }
    }

    /// The topic `in` as a source.
    pub fn input(&self) -> SourceSpec {
        SourceSpec {
            topic: "in".into(),
            partitions: PARTITIONS,
            in_place: true,
            starts: Vec::new(),
            rewound: Vec::new(),
            again_of: None,
            strays: None,
            open: LogSource::opener(self.log(), "in".into()),
        }
    }

    /// Starts a silo that hosts these kinds, in a life of its own.
    pub fn start(&self, kinds: Vec<&'static KindInfo>) -> Silo {
        self.start_with(kinds, |_| {})
    }

    /// Starts a silo with what it is going to suffer planted before it begins: afterwards it may be past it already.
    pub fn start_planted(&self, kinds: Vec<&'static KindInfo>, plant: impl FnOnce(&Faults)) -> Silo {
        self.start_planted_with(kinds, plant, |_| {})
    }

    /// The same with other settings.
    pub fn start_planted_with(
        &self,
        kinds: Vec<&'static KindInfo>,
        plant: impl FnOnce(&Faults),
        set: impl FnOnce(&mut Config),
    ) -> Silo {
        let faults = Faults::of(self.memory.clone());
        plant(&faults);
        self.start_on(faults, kinds, set)
    }

    /// The same with other settings.
    pub fn start_with(&self, kinds: Vec<&'static KindInfo>, set: impl FnOnce(&mut Config)) -> Silo {
        self.start_on(Faults::of(self.memory.clone()), kinds, set)
    }

    fn start_on(
        &self,
        faults: Arc<Faults>,
        kinds: Vec<&'static KindInfo>,
        set: impl FnOnce(&mut Config),
    ) -> Silo {
        let mut config = Config::new(faults.clone(), Arc::new(self.clock.clone()), kinds);
        config.me = Incarnation(self.lives.fetch_add(1, Ordering::SeqCst) + 1);
        config.slots = SLOTS;
        config.streams =
            STREAMS.iter().zip(0..).map(|(name, no)| ((*name).to_string(), StreamId(no))).collect();
        if let Some(broker) = self.broker.clone() {
            let faults = faults.clone();
            config.producer = Some(Arc::new(move |id| {
                Box::new(MemoryProducer::start(broker.clone(), id, faults.clone())) as Box<dyn Producer>
            }));
            config.store_is_remote = true;
            config.journal = Some(StreamId(STREAMS.len() as u16));
        }
        set(&mut config);
        let engine = Engine::start(config).expect("the engine starts");
        Silo { handle: engine.handle(), engine, faults, clock: self.clock.clone() }
    }

    /// Starts a silo whose pipeline reads the topic `in` and tells a grain of each record.
    pub fn start_streaming(
        &self,
        kinds: Vec<&'static KindInfo>,
        teller: Teller,
        set: impl FnOnce(&mut Config),
    ) -> Silo {
        self.start_doomed(kinds, teller, |_| {}, set)
    }

    /// The same, with what it is going to suffer planted before it begins.
    pub fn start_doomed(
        &self,
        kinds: Vec<&'static KindInfo>,
        teller: Teller,
        plant: impl FnOnce(&Faults),
        set: impl FnOnce(&mut Config),
    ) -> Silo {
        let input = self.input();
        let faults = Faults::of(self.memory.clone());
        plant(&faults);
        self.start_on(faults, kinds, |config| {
            config.sources = vec![input];
            config.pipeline = teller.maker(SLOTS);
            set(config);
        })
    }

    /// Appends a record with this key to the topic `in`, where the default partitioner puts it.
    pub fn append(&self, key: &str, value: &str) -> u64 {
        pipeline::append(&*self.log(), "in", PARTITIONS, key, value)
    }

    /// How many records of the topic `in` the stored positions of their slots cover.
    pub fn records_stored(&self) -> usize {
        let positions = |slot| self.memory.record(slot).expect("the memory can be read").positions;
        let stored: Vec<_> = (0..SLOTS).map(|slot| positions(SlotId(slot))).collect();
        let of_partition = |partition| {
            let mut batch = Batch::default();
            self.log().read("in", partition, 0, usize::MAX, &mut batch).expect("the topic exists");
            let is_stored = |record: &Record<'_>| {
                let slot = slot_of(record.key.unwrap_or_default(), SLOTS);
                stored[usize::from(slot.0)]
                    .iter()
                    .any(|at| at.partition == partition && record.offset < at.offset)
            };
            batch.iter(SourceId(0), partition).filter(is_stored).count()
        };
        (0..PARTITIONS).map(of_partition).sum()
    }

    /// Identities and values in the topic of a stream, in the order of the identities: a log of several slots has no
    /// other order of its own.
    pub fn outputs_by_id(&self, stream: &str) -> Vec<(String, String)> {
        let mut outputs = self.records(stream);
        outputs.sort();
        outputs
    }

    /// The values in the topic of a stream, in order, as text.
    pub fn outputs(&self, stream: &str) -> Vec<String> {
        self.records(stream).into_iter().map(|(_, value)| value).collect()
    }

    /// Identities and values, in order.
    fn records(&self, stream: &str) -> Vec<(String, String)> {
        let texts =
            |id: Option<&[u8]>, value: &[u8]| (pipeline::text(id.unwrap_or_default()), pipeline::text(value));
        match &self.broker {
            Some(broker) => {
                broker.visible(stream, 0).iter().map(|r| texts(r.id.as_deref(), &r.value)).collect()
            }
            None => {
                let records = self.memory.records(stream, 0).expect("the streams exist");
                records.iter().map(|r| texts(r.id.as_deref(), &r.value)).collect()
            }
        }
    }
}

/// A running silo.
pub struct Silo {
    /// The way in.
    pub handle: Handle,
    /// What its store suffers.
    pub faults: Arc<Faults>,
    engine: Engine,
    clock: HandClock,
}

impl Silo {
    /// Moves the clock, and makes the lanes look.
    pub fn advance(&self, by: Span) {
        self.clock.advance(by);
        self.handle.look();
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What its lanes have counted.
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// Stops it in order: everything taken is finished and stored.
    pub async fn stop(self) {
        crate::soon("the silo to stop in order", self.engine.stop()).await;
    }

    /// Ends it as a kill would: the store hears nothing more of it.
    pub fn crash(self) {
        self.faults.cut_off();
        drop(self.engine);
    }
}
