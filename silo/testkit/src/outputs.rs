//! What the silos of a test cluster are made of: kinds, a plan, the topics they read and write.

use std::sync::Arc;

use granary_cluster::{Log, Pipeline, StreamId};
use granary_core::{Error, KindInfo, Result, cx::ALERTS};
use granary_engine::{Config, LogSource, SourceSpec};
use granary_store::{Memory, Stream};
use granary_streams::plan::Read;
use granary_streams::subscribed::{Subscribed, Subscriptions};
use granary_streams::{Plan, Slots};

/// The cluster's name: a part of the names of its own topics.
const CLUSTER: &str = "test";

/// What every silo is made of.
pub(crate) struct Parts {
    pub slots: u16,
    pub lanes: u16,
    pub kinds: Vec<&'static KindInfo>,
    pub plan: Option<Arc<Plan>>,
    /// Partitions of topics that are read.
    pub partitions: u32,
    /// Streams that grains emit to, beside the alerts.
    pub emits: Vec<String>,
}

/// The output streams: those of the plan first, then the others.
pub(crate) struct Outputs {
    pub streams: Vec<Stream>,
    pub named: Vec<(String, StreamId)>,
    strays: Vec<StreamId>,
    pub poisoned: StreamId,
}

impl Parts {
    /// Topics written have one partition: what is read back has one order. Those of strays and roll-ups have one for each slot.
    pub fn outputs(&self) -> Outputs {
        let planned = self.plan.iter().flat_map(|plan| {
            let rolled: Vec<StreamId> = plan.rolled().collect();
            let ids = (0..plan.streams().len() as u16).map(StreamId);
            ids.map(move |id| {
                let partitions = if rolled.contains(&id) { u32::from(self.slots) } else { 1 };
                Stream::new(plan.topic(id, CLUSTER), partitions)
            })
        });
        let mut streams: Vec<Stream> = planned.collect();
        let mut add = |topic: String, partitions: u32| {
            streams.push(Stream::new(topic, partitions));
            StreamId(streams.len() as u16 - 1)
        };
        let strays = self.stray_topics().into_iter().map(|topic| add(topic, u32::from(self.slots))).collect();
        let poisoned = add(format!("granary.{CLUSTER}.poisoned"), 1);
        let mut named = vec![(ALERTS.to_owned(), add(format!("granary.{CLUSTER}.{ALERTS}"), 1))];
        let listened = Subscriptions::of(&self.kinds);
        for name in self.emits.iter().map(String::as_str).chain(listened.topics()) {
            if named.iter().all(|(known, _)| known != name) {
                named.push((name.to_owned(), add(name.to_owned(), 1)));
            }
        }
        Outputs { streams, named, strays, poisoned }
    }

    /// The topic of a stream by the name people use: a sink, `alerts`, `late`, ..., or a topic's own. And whether it has values
    /// as grains emit them; alerts are JSON, whoever raises them.
    pub fn topic_of(&self, name: &str) -> (String, bool) {
        let outputs = self.outputs();
        let planned = self.plan.as_ref().and_then(|plan| plan.stream(name));
        let named = outputs.named.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        let id = planned.or(named).or((name == "poisoned").then_some(outputs.poisoned));
        let topic = id.map_or_else(|| name.to_owned(), |id| outputs.streams[usize::from(id.0)].topic.clone());
        (topic, planned.is_none() && named.is_some() && name != ALERTS)
    }

    /// Puts the plan, its sources and the subscriptions into a silo's configuration. Topics that are missing are created.
    pub fn furnish(&self, config: &mut Config, log: &Arc<Memory>) -> Result<()> {
        let outputs = self.outputs();
        let subscriptions = Subscriptions::of(&self.kinds);
        config.sources = self.sources(log, &outputs, &subscriptions)?;
        config.eager = self.plan.iter().flat_map(|plan| plan.eager_streams()).collect();
        let (plan, slots, poisoned) = (self.plan.clone(), self.slots, outputs.poisoned);
        let planned = self.plan.as_ref().map_or(0, |plan| plan.source_count());
        let strays = self.stray_topics();
        config.streams = outputs.named;
        config.pipeline = Arc::new(move || {
            let inner = plan.clone().map(|plan| {
                Box::new(Slots::new(plan, slots).with_strays(strays.clone())) as Box<dyn Pipeline>
            });
            Box::new(Subscribed::new(inner, planned, subscriptions.clone(), slots, poisoned))
        });
        Ok(())
    }

    fn stray_topics(&self) -> Vec<String> {
        let sources = self.plan.iter().flat_map(|plan| &plan.sources);
        sources.map(|source| format!("granary.{CLUSTER}.rekeyed.{}", source.topic)).collect()
    }

    fn rolled_topics(&self) -> Vec<String> {
        let topics = |plan: &Arc<Plan>| plan.rolled().map(|id| plan.topic(id, CLUSTER)).collect();
        self.plan.as_ref().map_or_else(Vec::new, topics)
    }

    /// Each source of the plan, then for each the topic of its strays, then what comes to roll-ups, then what grains listen to.
    fn sources(
        &self,
        log: &Arc<Memory>,
        outputs: &Outputs,
        subscriptions: &Subscriptions,
    ) -> Result<Vec<SourceSpec>> {
        let mut specs = Vec::new();
        for (i, source) in self.plan.iter().flat_map(|plan| &plan.sources).enumerate() {
            let mut spec = self.source(log, &source.topic)?;
            spec.in_place &= source.read == Read::InPlace;
            spec.strays = Some(outputs.strays[i]);
            specs.push(spec);
        }
        for topic in self.stray_topics() {
            specs.push(self.source(log, &topic)?);
        }
        // Nothing is read a second time here: in its place is a source without partitions.
        for step in self.plan.iter().flat_map(|plan| plan.again()) {
            let mut spec =
                self.source(log, &self.plan.as_ref().expect("a step has a plan").sources[step.source].topic)?;
            (spec.partitions, spec.in_place) = (0, false);
            specs.push(spec);
        }
        for topic in self.rolled_topics() {
            specs.push(self.source(log, &topic)?);
        }
        for topic in subscriptions.topics() {
            specs.push(self.source(log, topic)?);
        }
        Ok(specs)
    }

    fn source(&self, log: &Arc<Memory>, topic: &str) -> Result<SourceSpec> {
        let partitions = partitions(&**log, topic, self.partitions)?;
        Ok(SourceSpec {
            topic: topic.to_owned(),
            partitions,
            in_place: u32::from(self.slots).is_multiple_of(partitions),
            strays: None,
            starts: Vec::new(),
            rewound: Vec::new(),
            again_of: None,
            open: LogSource::opener(log.clone(), topic.to_owned()),
        })
    }

    /// What a user may have got wrong.
    pub fn check(&self) -> Result<()> {
        if self.slots == 0 || self.lanes == 0 {
            return Err(Error::invalid("a test cluster needs at least one slot and one lane"));
        }
        Ok(())
    }
}

/// How many partitions a topic has; it is created when it is not there.
pub(crate) fn partitions(log: &dyn Log, topic: &str, wanted: u32) -> Result<u32> {
    if let Some(partitions) = log.partitions(topic)? {
        return Ok(partitions);
    }
    log.create(topic, wanted)?;
    Ok(wanted)
}
