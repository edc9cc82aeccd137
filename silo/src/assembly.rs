//! Puts a silo together: plan, kinds, store and log, lanes.

mod sources;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use granary_alerts::endpoint::{DEAD, Endpoint};
use granary_alerts::endpoints::Endpoints;
use granary_cluster::{Pipeline, Store, StreamId, slots::SLOTS_DEFAULT};
use granary_core::{Clock, Error, Grain as _, KindInfo, Result, SlotId, Span};
use granary_engine::{Config, Engine, Handle, SourceSpec};
use granary_store::{Durability, Embedded, Options, Stream};
use granary_streams::plan::{SET_ASIDE, Target, alerts_topic};
use granary_streams::run::counts::{self, Counts};
use granary_streams::subscribed::{Subscribed, Subscriptions};
use granary_streams::{Plan, Slots};

use crate::backing::Backing;
use crate::backing::topics::{self, Needed, Role};
use crate::clock::SystemClock;
use crate::revisions::{Runs, renumber};
use crate::rulebook::Rulebook;

/// The stream alerts go to.
pub const ALERTS: &str = granary_core::cx::ALERTS;

/// Everything a silo is made of, before it starts.
pub struct Assembly {
    /// The cluster's name.
    pub cluster: String,
    /// The silo's name.
    pub silo: String,
    /// Lanes; one per core when 0.
    pub lanes: u16,
    /// Slots of the cluster.
    pub slots: u16,
    /// What becomes of records, if anything.
    pub plan: Option<Arc<Plan>>,
    /// The kinds the user's program hosts.
    pub kinds: Vec<&'static KindInfo>,
    /// Whether it tells webhook endpoints of alerts.
    pub endpoints: bool,
    /// Streams that grains emit to, beside [`ALERTS`]: name and partitions.
    pub emits: Vec<(String, u32)>,
    /// Partitions of the topics that sinks write.
    pub sink_partitions: u32,
    /// When a commit counts as kept.
    pub durability: Durability,
    /// Memory for activations and panes.
    pub memory_bytes_max: usize,
    /// The shortest and longest interval between commits that only the log drives.
    pub commit_interval: Option<(Span, Span)>,
    /// How long a plain turn may hold its lane before the process is ended.
    pub turn_max: Option<Span>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Steps and kinds of earlier revisions that it goes on without on purpose.
    pub left_out: BTreeSet<String>,
    /// With finite inputs: roll-ups up to this level end with them.
    pub ending_level: u16,
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly {
            cluster: "dev".into(),
            silo: "silo-1".into(),
            lanes: 0,
            slots: SLOTS_DEFAULT,
            plan: None,
            kinds: Vec::new(),
            endpoints: false,
            emits: Vec::new(),
            sink_partitions: 12,
            durability: Durability::Fsync,
            memory_bytes_max: 2 << 30,
            commit_interval: None,
            turn_max: None,
            clock: Arc::new(SystemClock::start()),
            left_out: BTreeSet::new(),
            ending_level: 0,
        }
    }
}

/// The output streams of a silo: those of the plan first, then its own.
struct Outputs {
    /// Topic and partitions, by [`StreamId`].
    streams: Vec<Stream>,
    /// The names grains emit to.
    named: Vec<(String, StreamId)>,
    /// Where strays of each plan source go.
    strays: Vec<StreamId>,
    poisoned: StreamId,
}

impl Assembly {
    /// The embedded store and log in `dir`, with every topic of the silo.
    pub fn open_store(&self, dir: &Path) -> Result<Arc<Embedded>> {
        let options = Options::new(self.slots).durability(self.durability).streams(self.streams());
        Embedded::open(dir, options)
    }

    /// Topic and partitions of every output stream, by its number.
    pub fn streams(&self) -> Vec<Stream> {
        self.outputs().streams
    }

    /// The topic of one of the silo's output streams, by the name people use: a sink, `alerts`, `late`, ...
    pub fn topic_of(&self, name: &str) -> Option<String> {
        let outputs = self.outputs();
        let planned = self.plan.as_ref().and_then(|plan| plan.stream(name));
        let named = outputs.named.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
        let id = planned.or(named).or((name == "poisoned").then_some(outputs.poisoned))?;
        Some(outputs.streams[usize::from(id.0)].topic.clone())
    }

    /// Starts the lanes, reading sources from the log.
    pub fn start(self, backing: Backing) -> Result<Running> {
        let (config, _) = self.prepare(&backing)?;
        Running::start(self, config, backing)
    }

    /// The engine's configuration with the sources of the log, by the numbers of the cluster, in which this silo's revision
    /// is registered. Topics that are missing are created; nothing runs yet.
    pub fn prepare(&self, backing: &Backing) -> Result<(Config, Runs)> {
        let mut config = self.config(backing)?;
        if let Some(external) = backing.as_external() {
            topics::create(&external.kafka, &self.needed_topics())?;
        }
        config.sources = self.sources(backing)?;
        let (runs, mut numbers) = self.register(backing)?;
        config.program = runs.registered.program;
        if backing.as_external().is_some() {
            config.journal = numbers.streams.last().copied();
        } else {
            // the embedded store publishes in the step of a commit: no output waits in it to be published by another revision
            numbers.streams = (0..numbers.streams.len() as u16).map(StreamId).collect();
        }
        renumber(&mut config, numbers);
        // The first reading shows how far a topic is read: the second one has offsets of its own.
        let shown =
            |source: &SourceSpec| if source.again_of.is_some() { "" } else { &source.topic }.to_owned();
        let read = config.sources.iter().map(shown).collect();
        config.producer = backing.producer(runs.streams.clone(), read);
        Ok((config, runs))
    }

    /// The streams it writes, each by a name of its own that ends with its topic, by [`StreamId`].
    pub(crate) fn stream_names(&self) -> Vec<String> {
        let outputs = self.outputs();
        let planned = self.plan.iter().flat_map(|plan| plan.streams());
        let strays = self.plan.iter().flat_map(|plan| &plan.sources);
        let words = planned
            .map(|name| format!("planned {name}"))
            .chain(strays.map(|source| format!("strays {}", source.name)))
            .chain(["poisoned".to_owned()])
            .chain(outputs.named.iter().map(|(name, _)| format!("named {name}")));
        words.zip(&outputs.streams).map(|(word, stream)| format!("{word} {}", stream.topic)).collect()
    }

    /// How many lanes it has.
    pub fn lanes(&self) -> u16 {
        if self.lanes > 0 { self.lanes } else { cores() }
    }

    /// Every topic it reads or writes.
    pub fn needed_topics(&self) -> Vec<Needed> {
        let outputs = self.outputs();
        let set_aside: Vec<StreamId> =
            self.plan.iter().flat_map(|plan| SET_ASIDE.iter().filter_map(|name| plan.stream(name))).collect();
        let rolled: Vec<StreamId> = self.plan.iter().flat_map(|plan| plan.rolled()).collect();
        let role = |id: StreamId| {
            if outputs.strays.contains(&id) || rolled.contains(&id) {
                Role::Internal
            } else if set_aside.contains(&id) || id == outputs.poisoned {
                Role::SetAside
            } else {
                Role::Output
            }
        };
        let written = outputs.streams.iter().enumerate().map(|(i, stream)| Needed {
            topic: stream.topic.clone(),
            partitions: stream.partitions,
            role: role(StreamId(i as u16)),
        });
        let planned = self.plan.iter().flat_map(|plan| plan.sources.iter().map(|source| &*source.topic));
        let listened = Subscriptions::of(&self.kinds);
        let read = planned.chain(listened.topics()).map(|topic| Needed {
            topic: topic.to_string(),
            partitions: self.sink_partitions,
            role: Role::Source,
        });
        let mut needed: Vec<Needed> = Vec::new();
        for topic in read.chain(written) {
            if needed.iter().all(|known| known.topic != topic.topic) {
                needed.push(topic);
            }
        }
        needed
    }

    /// The engine's configuration without sources.
    pub fn config(&self, backing: &Backing) -> Result<Config> {
        if let Some(taken) = self.kinds.iter().find(|kind| granary_grains::is_reserved(kind.name)) {
            let message = format!("the kind `{}` is built in: give yours another name", taken.name);
            return Err(Error::invalid(message));
        }
        self.check_sinks()?;
        let outputs = self.outputs();
        let mut config = Config::new(backing.store.clone(), self.clock.clone(), self.hosted());
        config.store_is_remote = backing.as_external().is_some();
        config.silo.clone_from(&self.silo);
        config.me = backing.me;
        config.slots = self.slots;
        config.lanes = self.lanes();
        config.memory_bytes_max = self.memory_bytes_max;
        config.streams = outputs.named;
        config.eager = self.plan.iter().flat_map(|plan| plan.eager_streams()).collect();
        config.commit_interval = self.commit_interval.unwrap_or(config.commit_interval);
        config.turn_max = self.turn_max.unwrap_or(config.turn_max);
        let (plan, slots, poisoned) = (self.plan.clone(), self.slots, outputs.poisoned);
        let (planned, subscriptions) = (self.planned_sources(), Subscriptions::of(&self.kinds));
        let (strays, rolled, ending) = (self.stray_topics(), self.rolled_topics(), self.ending_level);
        config.pipeline = Arc::new(move || {
            let inner = plan.clone().map(|plan| {
                let slots = Slots::new(plan, slots).with_strays(strays.clone()).with_rolled(rolled.clone());
                Box::new(slots.ending(ending)) as Box<dyn Pipeline>
            });
            Box::new(Subscribed::new(inner, planned, subscriptions.clone(), slots, poisoned))
        });
        Ok(config)
    }

    /// The kinds it hosts: those of the user's program and its own.
    pub(crate) fn hosted(&self) -> Vec<&'static KindInfo> {
        let own = if self.endpoints {
            vec![Endpoint::info(), Endpoints::info(), Rulebook::info()]
        } else {
            Vec::new()
        };
        self.kinds.iter().copied().chain(own).collect()
    }

    /// The grains that sinks call are hosted here and have the methods: else each record would end in `poisoned`.
    fn check_sinks(&self) -> Result<()> {
        for sink in self.plan.iter().flat_map(|plan| &plan.sinks) {
            let Target::Grain { kind, method } = &sink.to else { continue };
            let info = self.kinds.iter().find(|info| *info.name == **kind).ok_or_else(|| {
                let hosted: Vec<&str> = self.kinds.iter().map(|info| info.name).collect();
                let message = format!(
                    "sink `{}`: this program does not host the kind `{kind}`; it hosts: {}",
                    sink.name,
                    hosted.join(", ")
                );
                Error::invalid(message)
            })?;
            if info.method(method).is_none() {
                let methods: Vec<&str> = info.methods.iter().map(|entry| entry.info.name).collect();
                let message = format!(
                    "sink `{}`: the kind `{kind}` has no method `{method}`; it has: {}",
                    sink.name,
                    methods.join(", ")
                );
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }

    fn outputs(&self) -> Outputs {
        let mut streams = Vec::new();
        if let Some(plan) = &self.plan {
            let rolled: Vec<StreamId> = plan.rolled().collect();
            for id in (0..plan.streams().len() as u16).map(StreamId) {
                let is_rolled = rolled.contains(&id);
                let partitions = if is_rolled { u32::from(self.slots) } else { self.sink_partitions };
                streams.push(Stream::new(plan.topic(id, &self.cluster), partitions));
            }
        }
        let mut add = |topic: String, partitions: u32| {
            streams.push(Stream::new(topic, partitions));
            StreamId(streams.len() as u16 - 1)
        };
        let strays: Vec<StreamId> =
            self.stray_topics().into_iter().map(|topic| add(topic, u32::from(self.slots))).collect();
        let poisoned = add(format!("granary.{}.poisoned", self.cluster), self.sink_partitions);
        let mut named =
            vec![(ALERTS.to_string(), add(alerts_topic(ALERTS, &self.cluster), self.sink_partitions))];
        if self.endpoints {
            named.push((DEAD.to_string(), add(alerts_topic(DEAD, &self.cluster), self.sink_partitions)));
        }
        for (name, partitions) in &self.emits {
            named.push((name.clone(), add(name.clone(), *partitions)));
        }
        for topic in Subscriptions::of(&self.kinds).topics() {
            if named.iter().all(|(name, _)| name != topic) {
                named.push((topic.to_string(), add(topic.to_string(), self.sink_partitions)));
            }
        }
        Outputs { streams, named, strays, poisoned }
    }
}

/// A silo at work: its lanes, its store, and what wakes the lanes when a topic grows.
pub struct Running {
    assembly: Arc<Assembly>,
    engine: Engine,
    backing: Backing,
    subscriptions: Vec<Box<dyn Any + Send + Sync>>,
}

impl Running {
    /// Starts lanes with this configuration.
    pub fn start(assembly: impl Into<Arc<Assembly>>, config: Config, backing: Backing) -> Result<Running> {
        let assembly = assembly.into();
        let engine = Engine::start(config)?;
        let (handle, woken) = (engine.handle(), engine.handle());
        let subscriptions = backing.watch(&handle.topics(), move || woken.look());
        Ok(Running { assembly, engine, backing, subscriptions })
    }

    /// A way to call its grains.
    pub fn handle(&self) -> Handle {
        self.engine.handle()
    }

    /// Its store and log.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// What it was made of.
    pub fn assembly(&self) -> &Assembly {
        &self.assembly
    }

    /// What became of the records so far, as stored.
    pub fn counts(&self) -> Result<Counts> {
        counts(&*self.backing.store, self.assembly.slots)
    }

    /// Stops taking, finishes turns, stores what they changed.
    pub async fn stop(self) {
        drop(self.subscriptions);
        self.engine.stop().await;
    }
}

/// What became of the records, as stored in all slots.
pub fn counts(store: &dyn Store, slots: u16) -> Result<Counts> {
    let mut total = Counts::default();
    for slot in 0..slots {
        let mut broken = None;
        store.scan(SlotId(slot), counts::PREFIX, None, &mut |_, value| {
            broken = total.add_cell(value).err();
            broken.is_none()
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
    }
    Ok(total)
}

/// Lanes of a silo when nothing is said: one per core.
pub fn cores() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX))
}
