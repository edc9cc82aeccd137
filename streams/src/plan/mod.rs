//! One plan, made by the pipeline file and by the Rust builder alike: sources, steps and sinks, names already turned
//! into places.
//!
//! Invariant: a [`Plan`] that exists can be run; everything that may be wrong with it was said when it was made.

pub mod expression;
mod fill;
mod follow;
mod revision;
mod rollup;
mod rules;
mod shape;

use std::sync::Arc;

use granary_cluster::{SourceId, StreamId};
use granary_core::{GrainId, Span, Timestamp};
use granary_window as window;

use crate::decode::{Decoded, Reject, Schema};
use expression::Expression;
pub use fill::{Fill, Mark, Round, Wanted, WantedStep};
pub use follow::{JoinSide, JoinStep, PatternStep, State};
pub(crate) use follow::{column_of, columns_of_stage};
pub use revision::{Bundle, REVISION_BYTES_MAX};
pub use rollup::RollupStep;
use rollup::stream_of;
pub(crate) use rollup::{ALL, Member, Rows, time_of, unfit as unfit_for_rollup};
pub use rules::RulesStep;

/// The set-aside streams every plan has, after those of its sinks.
pub const SET_ASIDE: [&str; 3] = ["rejected", "late", "poisoned"];

/// The streams of a plan with rules: alerts of live rules, and of those in shadow.
pub const ALERTS: [&str; 2] = [granary_core::cx::ALERTS, "alerts.shadow"];

/// The topic of one of [`ALERTS`]: alerts of all pipelines and grains of a cluster are one stream.
pub fn alerts_topic(stream: &str, cluster: &str) -> String {
    format!("granary.{cluster}.{stream}")
}

/// The stream of [`Plan::with_verdicts`].
pub const VERDICTS: &str = "verdicts";

/// A pipeline: what is read, what is done with it, where it goes.
#[derive(Debug)]
pub struct Plan {
    /// Its name.
    pub name: Box<str>,
    /// What it reads, by [`granary_cluster::SourceId`].
    pub sources: Vec<Source>,
    /// What it does; a step comes after the one it reads from.
    pub steps: Vec<Step>,
    /// Where results go.
    pub sinks: Vec<Sink>,
    streams: Vec<String>,
    /// The number of the first source whose records are rows for a roll-up.
    rolled_from: usize,
}

/// A topic and how its records are read.
#[derive(Debug)]
pub struct Source {
    /// Its name.
    pub name: Box<str>,
    /// The topic.
    pub topic: Box<str>,
    /// Where a new pipeline begins.
    pub start: Start,
    /// Whether its partitions feed slots as they are.
    pub read: Read,
    /// How a record becomes columns.
    pub decoder: Decoder,
    /// What a record holds, by column.
    pub columns: Vec<Column>,
    /// The column that names an event.
    pub id: Option<usize>,
    /// The column of the routing key: slot, order and clock.
    pub key: usize,
    /// What an event's time is.
    pub time: EventTime,
    /// How watermarks are found.
    pub watermark: window::Watermark,
}

/// Where a new pipeline begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first kept record.
    #[default]
    Earliest,
    /// After the last record.
    Latest,
    /// At the first record appended at this time or later.
    At(Timestamp),
}

/// Whether the partitions of a topic feed slots as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// They do; strays are re-keyed one by one.
    #[default]
    InPlace,
    /// All records go through the internal re-keyed topic.
    Rekey,
}

/// What an event's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTime {
    /// The time the record carries, in this column.
    Column(usize),
    /// When the log took the record.
    Ingestion,
}

/// How a record becomes columns.
pub enum Decoder {
    /// By a declared layout.
    Schema(Schema),
    /// By a closure of the Rust builder.
    Closure(Box<Decode>),
}

/// A closure that decodes a record into columns, or says why not.
pub type Decode = dyn Fn(&[u8], &mut Decoded) -> Result<(), Box<Reject>> + Send + Sync;

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decoder::Schema(schema) => f.debug_tuple("Schema").field(schema).finish(),
            Decoder::Closure(_) => f.write_str("Closure"),
        }
    }
}

/// A named value of an event, as a step sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Box<str>,
    /// Its place among the decoded values.
    pub index: usize,
    /// What it holds.
    pub kind: ColumnKind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// A double.
    Double,
    /// True or false.
    Bool,
    /// Not known before it is there.
    Any,
}

/// What a step reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A source.
    Source(usize),
    /// A step before it.
    Step(usize),
}

/// A named step.
#[derive(Debug)]
pub struct Step {
    /// Its name, unique in a cluster: its state belongs to it.
    pub name: Box<str>,
    /// What it reads from.
    pub from: From,
    /// The source at the beginning of its chain.
    pub source: usize,
    /// What it does.
    pub does: Does,
    /// The columns of an event after it.
    pub columns: Vec<Column>,
}

/// What a step does.
#[derive(Debug)]
pub enum Does {
    /// Lets events pass for which it is true.
    Filter(Filter),
    /// Puts values into columns, in order.
    Map(Vec<(usize, Expression)>),
    /// Windows with aggregates.
    Window(Box<WindowStep>),
    /// Rules.
    Rules(Arc<RulesStep>),
    /// A pattern.
    Pattern(Box<PatternStep>),
    /// A join; what the step reads from is its left side.
    Join(Box<JoinStep>),
    /// Totals over the rows of windows.
    Rollup(Box<RollupStep>),
}

/// A condition on an event.
#[derive(Debug)]
pub enum Filter {
    /// A CEL expression.
    Expression(Expression),
    /// A column that a closure filled in: true passes.
    Column(usize),
}

/// A window step.
#[derive(Debug)]
pub struct WindowStep {
    /// The segments below the routing key.
    pub by: Vec<Column>,
    /// The windows.
    pub spec: Arc<window::Spec>,
    /// The columns its aggregates read, by [`window::Aggregate::field`].
    pub inputs: Vec<usize>,
    /// The columns that name an event for de-duplication; none without it.
    pub id: Vec<usize>,
    /// The column of an event's own session gap.
    pub gap: Option<usize>,
    /// How often a person has decided to drop its state.
    pub drops: u32,
    /// The prefix of its cells' keys: those it had before its state was dropped have another.
    pub prefix: Box<[u8]>,
}

/// The prefix of the cells' keys of a step with state. No name has a `#`.
pub(crate) fn prefix(step: &str, drops: u32) -> Box<[u8]> {
    let name = if drops == 0 { format!("w/{step}/") } else { format!("w/{step}#{drops}/") };
    name.into_bytes().into()
}

/// Where results go.
#[derive(Debug)]
pub struct Sink {
    /// Its name.
    pub name: Box<str>,
    /// What it takes.
    pub from: From,
    /// Where it brings it.
    pub to: Target,
    /// When its rows leave.
    pub delivery: Delivery,
}

/// When the rows of a topic's sink leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// With the commit they belong to: each once.
    #[default]
    ExactlyOnce,
    /// At once, before the commit: sooner, and again with the same identity when the commit is made again.
    Eager,
}

/// Where a sink brings its rows.
pub enum Target {
    /// To a topic.
    Topic(Box<str>),
    /// To a file, one row per line.
    File(Box<str>),
    /// To a method of the grain of the row's routing key; the row is the argument.
    Grain {
        /// The kind.
        kind: Box<str>,
        /// The method.
        method: Box<str>,
    },
    /// To the grain a closure names.
    Call(Box<MakeCall>),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Topic(topic) => f.debug_tuple("Topic").field(topic).finish(),
            Target::File(file) => f.debug_tuple("File").field(file).finish(),
            Target::Grain { kind, method } => write!(f, "Grain({kind}.{method})"),
            Target::Call(_) => f.write_str("Call"),
        }
    }
}

/// A closure that makes a call of a window's row: none, or a message when it cannot.
pub type MakeCall = dyn Fn(&window::Row<'_>) -> Result<Option<Tell>, String> + Send + Sync;

/// A call of a grain of the same slot, as part of the turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    /// Which grain.
    pub grain: GrainId,
    /// Which method.
    pub method: Box<str>,
    /// Its arguments, MessagePack.
    pub arguments: Vec<u8>,
}

impl Plan {
    /// Puts the parts together. They have been checked.
    pub(crate) fn assemble(name: &str, sources: Vec<Source>, steps: Vec<Step>, sinks: Vec<Sink>) -> Plan {
        let alerts = if steps.iter().any(|step| step.rules().is_some()) { &ALERTS[..] } else { &[] };
        let names = sinks.iter().map(|sink| &*sink.name).chain(SET_ASIDE).chain(alerts.iter().copied());
        let rolled = steps.iter().filter(|step| step.rollup().is_some()).map(|step| stream_of(&step.name));
        let streams = names.map(str::to_owned).chain(rolled).collect();
        let mut plan = Plan { name: name.into(), sources, steps, sinks, streams, rolled_from: 0 };
        plan.rolled_from = 2 * plan.sources.len() + plan.again().count();
        plan
    }

    /// The same plan with one more output stream, [`VERDICTS`]: for each record `line,verdict,rule,field`, where the
    /// line is the offset + 1.
    #[must_use]
    pub fn with_verdicts(mut self) -> Plan {
        if self.stream(VERDICTS).is_none() {
            self.streams.push(VERDICTS.to_owned());
        }
        self
    }

    /// The names of the output streams by [`StreamId`]: one for each sink, in their order, then [`SET_ASIDE`], then
    /// [`ALERTS`] of a plan with rules, then what comes to its roll-ups.
    pub fn streams(&self) -> &[String] {
        &self.streams
    }

    /// The output stream with this name.
    pub fn stream(&self, name: &str) -> Option<StreamId> {
        self.streams.iter().position(|stream| stream == name).map(|i| StreamId(i as u16))
    }

    /// The topic of an output stream in a cluster: a sink's own, or `granary.<cluster>.<pipeline>.<stream>`.
    pub fn topic(&self, stream: StreamId, cluster: &str) -> String {
        match self.sinks.get(usize::from(stream.0)).map(|sink| &sink.to) {
            Some(Target::Topic(topic)) => topic.to_string(),
            None if ALERTS.contains(&&*self.streams[usize::from(stream.0)]) => {
                alerts_topic(&self.streams[usize::from(stream.0)], cluster)
            }
            _ => format!("granary.{cluster}.{}.{}", self.name, self.streams[usize::from(stream.0)]),
        }
    }

    /// What results are counted by: sinks, then alerts.
    pub fn counted(&self) -> impl Iterator<Item = &str> {
        let alerts = ALERTS.into_iter().filter(|name| self.stream(name).is_some());
        self.sinks.iter().map(|sink| &*sink.name).chain(alerts)
    }

    /// The output streams whose rows leave before their commit.
    pub fn eager_streams(&self) -> impl Iterator<Item = StreamId> {
        let eager = |(_, sink): &(usize, &Sink)| sink.delivery == Delivery::Eager;
        self.sinks.iter().enumerate().filter(eager).map(|(i, _)| StreamId(i as u16))
    }

    /// The place of the source that a record is of. Behind the sources of the plan come the same ones again: their strays,
    /// re-keyed, in topics of their own; and behind those what steps of rules read a second time.
    #[inline]
    pub fn source_of(&self, source: SourceId) -> usize {
        let (place, many) = (usize::from(source.0), self.sources.len());
        if place < 2 * many {
            return place.checked_sub(many).unwrap_or(place);
        }
        self.again().nth(place - 2 * many).map_or(place, |step| step.source)
    }

    /// The place of a source.
    pub fn source(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| &*source.name == name)
    }

    /// What a person should know before it runs: state that grows for ever.
    pub fn notices(&self) -> Vec<String> {
        let forever = self
            .steps
            .iter()
            .filter(|step| {
                let spec = step.window().map(|step| &step.spec);
                spec.is_some_and(|spec| spec.allowed_lateness == window::Lateness::Forever)
            })
            .map(|step| {
                format!(
                    "step `{}`: allowed_lateness is forever, so its panes, their ids and the clocks of its keys are \
                     kept for ever; cold ones leave memory for the store",
                    step.name
                )
            });
        forever.chain(self.steps.iter().filter_map(|step| self.notice_of(step))).collect()
    }
}

impl Step {
    /// Its windows, if it is a window step.
    pub fn window(&self) -> Option<&WindowStep> {
        if let Does::Window(window) = &self.does { Some(window) } else { None }
    }

    /// Its rules, if it is a step of rules.
    pub fn rules(&self) -> Option<&Arc<RulesStep>> {
        if let Does::Rules(rules) = &self.does { Some(rules) } else { None }
    }

    /// Its pattern, if it is a pattern step.
    pub fn pattern(&self) -> Option<&PatternStep> {
        if let Does::Pattern(pattern) = &self.does { Some(pattern) } else { None }
    }

    /// Its join, if it is a join step.
    pub fn join(&self) -> Option<&JoinStep> {
        if let Does::Join(join) = &self.does { Some(join) } else { None }
    }

    /// Its roll-up, if it is one.
    pub fn rollup(&self) -> Option<&RollupStep> {
        if let Does::Rollup(rollup) = &self.does { Some(rollup) } else { None }
    }

    /// The state of a pattern, a join or a roll-up.
    pub fn state(&self) -> Option<&State> {
        let of_pattern = self.pattern().map(|pattern| &pattern.state);
        let of_join = self.join().map(|join| &join.state);
        of_pattern.or(of_join).or(self.rollup().map(|rollup| &rollup.state))
    }

    /// Whether others can read what comes out of it as they read events.
    pub fn passes_events(&self) -> bool {
        matches!(self.does, Does::Filter(_) | Does::Map(_))
    }
}

/// How long `keep` and lengths like it may be: a thousand years.
pub const SPAN_MAX: Span = Span(366_000 * 86_400_000);
