//! What an engine is started with.

use std::sync::Arc;

use granary_cluster::{
    Batch, Incarnation, Log, Pipeline, Producer, Program, SourceId, Store, StreamId, TxId,
};
use granary_core::{Clock, KindInfo, Result, Span};

use crate::cluster::Cluster;
use crate::watch;

/// Bytes of records read from a source at a time.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// A partition of a source, read by one lane.
pub trait Source: Send {
    /// Appends records from offset `from` on to `batch`, about `bytes_max` bytes, at least one if there is one.
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()>;

    /// Whether the last read, having found nothing, has found that there is nothing at present. A source that fetches
    /// ahead says no while records may be on their way; it wakes its reader when it knows.
    fn is_at_end(&self) -> bool {
        true
    }

    /// It will not be read for a while: what it holds for that may go.
    fn rest(&mut self) {}

    /// A second reading is about to be read: the slots it feeds have read the first one up to here, the furthest of them.
    fn stands(&mut self, at: u64) {
        let _ = at;
    }

    /// Whether nothing will ever come at or after this offset: the end of a file.
    fn has_ended(&mut self, at: u64) -> Result<bool> {
        let _ = at;
        Ok(false)
    }
}

/// Opens a partition of a source.
pub type OpenSource = Arc<dyn Fn(u32) -> Result<Box<dyn Source>> + Send + Sync>;

/// A source of the plan. Its place in the configuration is its `SourceId`.
#[derive(Clone)]
pub struct SourceSpec {
    /// The topic, for messages.
    pub topic: String,
    /// How many partitions.
    pub partitions: u32,
    /// Records are keyed by the routing key with the default partitioner and `partitions` divides the slots: partition
    /// p feeds the slots congruent to p. Else every partition feeds every slot.
    pub in_place: bool,
    /// Where records go whose key disagrees with their partition, when read in place.
    pub strays: Option<StreamId>,
    /// Where a slot begins that has no position, by partition; positions are then stored from the start. Empty for a log
    /// of which every slot reads from offset 0.
    pub starts: Vec<u64>,
    /// A person's decision to go on further ahead: partitions, each with the first offset that any slot still reads.
    pub rewound: Vec<(u32, u64)>,
    /// The source that this one reads a second time, on demand: it makes way for the others, its strays went their way the first
    /// time, and nobody waits for its end.
    pub again_of: Option<SourceId>,
    /// Opens a partition.
    pub open: OpenSource,
}

/// A partition of a log's topic as a source.
pub struct LogSource {
    log: Arc<dyn Log>,
    topic: String,
    partition: u32,
}

impl LogSource {
    /// Opens partitions of this topic.
    pub fn opener(log: Arc<dyn Log>, topic: String) -> OpenSource {
        Arc::new(move |partition| {
            Ok(Box::new(LogSource { log: log.clone(), topic: topic.clone(), partition }))
        })
    }
}

impl Source for LogSource {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.log.read(&self.topic, self.partition, from, bytes_max, batch)
    }
}

/// Makes the pipeline of one lane.
pub type MakePipeline = Arc<dyn Fn() -> Box<dyn Pipeline> + Send + Sync>;

/// Makes the transactional producer of the lane with this id.
pub type MakeProducer = Arc<dyn Fn(TxId) -> Box<dyn Producer> + Send + Sync>;

/// What an engine is started with.
#[derive(Clone)]
pub struct Config {
    /// The silo's name, for messages.
    pub silo: String,
    /// This life of the silo.
    pub me: Incarnation,
    /// Which revision it runs.
    pub program: Program,
    /// Slots of the cluster.
    pub slots: u16,
    /// Lanes of this silo.
    pub lanes: u16,
    /// The kinds it hosts.
    pub kinds: Vec<&'static KindInfo>,
    /// Where slots are stored.
    pub store: Arc<dyn Store>,
    /// Outputs leave through transactions of an external log; `None` when the store publishes them in the step of their
    /// commit.
    pub producer: Option<MakeProducer>,
    /// The stream of the slots' journals: with an external log, inputs of the wall clock go there. Its partitions are the
    /// slots.
    pub journal: Option<StreamId>,
    /// Streams whose entries leave before their commit, with an external log: at once, and again when the commit is made
    /// again.
    pub eager: Vec<StreamId>,
    /// Reads of the store are round trips: cells that are surely needed are looked up together, before they are.
    pub store_is_remote: bool,
    /// Output bytes of a slot that may wait for the log; beyond, its sources pause and emits are refused.
    pub outbox_bytes_max: usize,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The pipeline of a lane; every lane makes its own.
    pub pipeline: MakePipeline,
    /// Streams that turns emit to, by name. Names not listed are looked up in the pipeline's.
    pub streams: Vec<(String, StreamId)>,
    /// The sources of the plan.
    pub sources: Vec<SourceSpec>,
    /// The inputs are finite: when all have ended, the pipeline is told so and [`crate::Engine::finished`] comes true.
    pub finite: bool,
    /// Memory that activations and panes may take, all lanes together.
    pub memory_bytes_max: usize,
    /// The shortest and longest interval between commits that only the log drives.
    pub commit_interval: (Span, Span),
    /// How long a plain turn may hold its lane before the process is ended. Also how long an async turn of the default
    /// kind may last, see `KindOptions::turn_max`.
    pub turn_max: Span,
    /// What the watchdog does with its report; ends the process unless a test says otherwise.
    pub stuck: fn(&str),
    /// How often idle activations are looked for.
    pub sweep_every: Span,
    /// The silo is one of several: its slots are those its views say. `None`: it has them all.
    pub cluster: Option<Cluster>,
    /// Records per commit at most: the batch sizes that tests compare.
    pub batch_records_max: usize,
}

impl Config {
    /// An engine without sources that hosts `kinds` on `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, kinds: Vec<&'static KindInfo>) -> Config {
        Config {
            silo: "silo-1".into(),
            me: Incarnation(1),
            program: Program::default(),
            slots: granary_cluster::slots::SLOTS_DEFAULT,
            lanes: 1,
            kinds,
            store,
            producer: None,
            journal: None,
            eager: Vec::new(),
            store_is_remote: false,
            outbox_bytes_max: granary_cluster::slot::OUTBOX_BYTES_MAX,
            clock,
            pipeline: Arc::new(|| Box::new(crate::no_pipeline::NoPipeline)),
            streams: Vec::new(),
            sources: Vec::new(),
            finite: false,
            memory_bytes_max: 1 << 30,
            commit_interval: (Span(10), Span(1_000)),
            turn_max: Span(60_000),
            stuck: watch::end_process,
            sweep_every: Span(60_000),
            cluster: None,
            batch_records_max: usize::MAX,
        }
    }
}
