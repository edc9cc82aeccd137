//! What a silo reads: the sources of its plan and those that go with them, in their order.

use std::sync::Arc;

use granary_cluster::{Log, SourceId};
use granary_core::{Error, Result};
use granary_engine::SourceSpec;
use granary_streams::Plan;
use granary_streams::plan::{Read, Start, Step};
use granary_streams::subscribed::Subscriptions;

use super::Assembly;
use crate::backfill::Again;
use crate::backing::Backing;
use crate::backing::topics;

impl Assembly {
    /// The sources it reads, each by a name of its own, in the order of [`granary_engine::Config::sources`].
    pub(crate) fn source_names(&self) -> Vec<String> {
        let planned = || self.plan.iter().flat_map(|plan| &plan.sources);
        let strays = self.stray_topics().into_iter().zip(planned());
        let listened = Subscriptions::of(&self.kinds);
        planned()
            .map(|source| format!("source {} {}", source.name, source.topic))
            .chain(strays.map(|(topic, source)| format!("strays {} {topic}", source.name)))
            .chain(self.again().map(|(step, topic)| format!("again {} {topic}", step.name)))
            .chain(self.rolled_topics().into_iter().map(|topic| format!("rolled {topic}")))
            .chain(listened.topics().map(|topic| format!("listened {topic}")))
            .collect()
    }

    /// How many sources the plan reads.
    pub(super) fn planned_sources(&self) -> u16 {
        self.plan.as_ref().map_or(0, |plan| plan.source_count())
    }

    /// The steps of rules that may read their topics a second time.
    pub(super) fn again(&self) -> impl Iterator<Item = (&Step, &str)> {
        let plan = self.plan.iter();
        plan.flat_map(|plan| plan.again().map(|step| (step, &*plan.sources[step.source].topic)))
    }

    /// Where the strays of each source of the plan go.
    pub(super) fn stray_topics(&self) -> Vec<String> {
        let sources = self.plan.iter().flat_map(|plan| &plan.sources);
        sources.map(|source| format!("granary.{}.rekeyed.{}", self.cluster, source.topic)).collect()
    }

    /// The topics in which rows come to the roll-ups of the plan.
    pub(super) fn rolled_topics(&self) -> Vec<String> {
        let topics = |plan: &Arc<Plan>| plan.rolled().map(|id| plan.topic(id, &self.cluster)).collect();
        self.plan.as_ref().map_or_else(Vec::new, topics)
    }

    /// Each source of the plan, then for each the topic of its strays, of which one slot reads a partition, then what rules read a
    /// second time, then what comes to roll-ups, again a partition for each slot, then what grains listen to.
    pub(super) fn sources(&self, backing: &Backing) -> Result<Vec<SourceSpec>> {
        let outputs = self.outputs();
        let mut specs = Vec::new();
        for (i, source) in self.plan.iter().flat_map(|plan| &plan.sources).enumerate() {
            let mut spec = self.log_source(backing, &source.topic, source.start)?;
            spec.in_place &= source.read == Read::InPlace;
            spec.strays = Some(outputs.strays[i]);
            specs.push(spec);
        }
        for topic in self.stray_topics() {
            specs.push(self.log_source(backing, &topic, Start::Earliest)?);
        }
        for place in 0..self.again().count() {
            specs.extend(self.again_source(backing, place, &specs));
        }
        for topic in self.rolled_topics() {
            specs.push(self.log_source(backing, &topic, Start::Earliest)?);
        }
        for topic in Subscriptions::of(&self.kinds).topics() {
            specs.push(self.log_source(backing, topic, Start::Earliest)?);
        }
        topics::check_positions(self.slots, specs.iter().map(|spec| (spec.partitions, spec.in_place)))?;
        Ok(specs)
    }

    /// What a step of rules reads a second time. A topic that is not read in place has no second reading.
    fn again_source(&self, backing: &Backing, place: usize, specs: &[SourceSpec]) -> Option<SourceSpec> {
        let (plan, (step, topic)) = (self.plan.as_ref()?, self.again().nth(place)?);
        let first = &specs[step.source];
        let partitions = if first.in_place { first.partitions } else { 0 };
        let open = backing.again(topic, partitions);
        Some(SourceSpec {
            topic: format!("{topic} (again)"),
            partitions,
            in_place: first.in_place,
            strays: None,
            starts: Vec::new(),
            rewound: Vec::new(),
            again_of: Some(SourceId(step.source as u16)),
            open: Again::opener(plan.clone(), place, open, partitions.max(1), self.slots),
        })
    }

    fn log_source(&self, backing: &Backing, topic: &str, start: Start) -> Result<SourceSpec> {
        let partitions = topic_partitions(&*backing.log, topic, self.sink_partitions)?;
        let starts = match backing.as_external() {
            Some(external) => {
                external.check_identity(topic)?;
                external.starts(topic, partitions, start)?
            }
            None if start != Start::Earliest => {
                let message =
                    format!("topic `{topic}`: the embedded log is read from the earliest record only");
                return Err(Error::invalid(message));
            }
            None => Vec::new(),
        };
        Ok(SourceSpec {
            topic: topic.to_string(),
            partitions,
            in_place: u32::from(self.slots).is_multiple_of(partitions),
            strays: None,
            starts,
            rewound: Vec::new(),
            again_of: None,
            open: backing.source(topic, partitions),
        })
    }
}

/// How many partitions a topic has; it is created when it is not there.
fn topic_partitions(log: &dyn Log, topic: &str, default: u32) -> Result<u32> {
    if let Some(partitions) = log.partitions(topic)? {
        return Ok(partitions);
    }
    log.create(topic, default)?;
    Ok(default)
}
