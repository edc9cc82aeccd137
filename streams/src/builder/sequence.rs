//! The pattern step of the builder.

use std::ops::{RangeFrom, RangeInclusive};

use granary_core::Span;
use granary_window::pattern::{self, Contiguity};

use super::follow::{Follow, name_after};
use super::{Keyed, Parts};
use crate::asked::{AskedPattern, AskedSkip, AskedStage, Written};
use crate::file::Mistakes;
use crate::plan::{Does, From, Plan, State};

/// A stage of a pattern.
#[derive(Clone, Debug)]
#[must_use = "a stage does nothing until it is one of a pattern's"]
pub struct Stage {
    stage: pattern::Stage,
    when: Option<Box<str>>,
}

impl Stage {
    /// A stage that takes one event: any, unless [`Stage::when`] says which. Rows and later stages know it by this name.
    pub fn new(name: &str) -> Stage {
        Stage { stage: pattern::Stage::new(name), when: None }
    }

    /// No event may come here, or none of which [`Stage::when`] holds: up to the first event of the next stage, that one included; at
    /// the end of a pattern until [`Follow::within`] is over.
    pub fn absent() -> Stage {
        Stage { stage: pattern::Stage { is_absent: true, ..pattern::Stage::new("") }, when: None }
    }

    /// Which events fit: a condition in CEL on the fields of the event, and on those of earlier stages, `small.amount`.
    pub fn when(mut self, condition: &str) -> Stage {
        self.when = Some(condition.into());
        self
    }

    /// How many events it takes: `2`, `1..=3` or `1..`; without it, one.
    pub fn times(mut self, times: impl Into<Times>) -> Stage {
        let Times { least, most } = times.into();
        (self.stage.times_min, self.stage.times_max) = (least, most);
        self
    }

    /// It may be left out.
    pub fn optional(mut self) -> Stage {
        self.stage.is_optional = true;
        self
    }

    /// While an event fits it, the match does not go on to a later stage.
    pub fn greedy(mut self) -> Stage {
        self.stage.is_greedy = true;
        self
    }

    /// How its first event follows the one before; without it, [`Contiguity::FollowedBy`].
    pub fn contiguity(mut self, contiguity: Contiguity) -> Stage {
        self.stage.contiguity = contiguity;
        self
    }

    /// How each further event of it follows the one before; without it, [`Contiguity::FollowedBy`].
    pub fn inner(mut self, contiguity: Contiguity) -> Stage {
        self.stage.inner = contiguity;
        self
    }

    fn asked(&self) -> AskedStage<'_> {
        let name = (!self.stage.is_absent).then(|| Written::by_code(&self.stage.name));
        AskedStage { stage: self.stage.clone(), name, when: self.when.as_deref().map(Written::by_code) }
    }
}

/// How many events a stage takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    least: u32,
    most: Option<u32>,
}

impl std::convert::From<u32> for Times {
    fn from(times: u32) -> Times {
        Times { least: times, most: Some(times) }
    }
}

impl std::convert::From<RangeInclusive<u32>> for Times {
    fn from(times: RangeInclusive<u32>) -> Times {
        Times { least: *times.start(), most: Some(*times.end()) }
    }
}

impl std::convert::From<RangeFrom<u32>> for Times {
    fn from(times: RangeFrom<u32>) -> Times {
        Times { least: times.start, most: None }
    }
}

/// What a pattern looks for: see [`Keyed::pattern`].
#[derive(Debug)]
pub struct Sequence {
    from: From,
    stages: Vec<Stage>,
    within: Option<Span>,
    skip: Skip,
    timeouts: bool,
    shown: Vec<Box<str>>,
}

/// What a match takes away, stages by their names.
#[derive(Debug)]
enum Skip {
    Plain(pattern::Skip),
    ToFirst(Box<str>),
    ToLast(Box<str>),
}

impl Follow<Sequence> {
    pub(super) fn sequence<T: 'static>(keyed: Keyed<T>, stages: Vec<Stage>) -> Follow<Sequence> {
        let mut parts = Parts::default();
        let from = keyed.read_into(&mut parts);
        let name = name_after(&parts, "pattern");
        let skip = Skip::Plain(pattern::Skip::None);
        Follow::new(
            parts,
            name,
            Sequence { from, stages, within: None, skip, timeouts: false, shown: vec![] },
        )
    }

    /// From the first event of a match to its last it takes less than this.
    pub fn within(mut self, span: Span) -> Self {
        self.seeks.within = Some(span);
        self
    }

    /// Partial matches that ran out of time give rows, too.
    pub fn timeouts(mut self) -> Self {
        self.seeks.timeouts = true;
        self
    }

    /// A match takes away the partial ones that began with the same event.
    pub fn skip_to_next(mut self) -> Self {
        self.seeks.skip = Skip::Plain(pattern::Skip::ToNext);
        self
    }

    /// A match takes away the partial ones that began at or before its last event.
    pub fn skip_past_last(mut self) -> Self {
        self.seeks.skip = Skip::Plain(pattern::Skip::PastLast);
        self
    }

    /// A match takes away the partial ones that began before the first event that this stage took.
    pub fn skip_to_first(mut self, stage: &str) -> Self {
        self.seeks.skip = Skip::ToFirst(stage.into());
        self
    }

    /// A match takes away the partial ones that began before the last event that this stage took.
    pub fn skip_to_last(mut self, stage: &str) -> Self {
        self.seeks.skip = Skip::ToLast(stage.into());
        self
    }

    /// The fields that rows show of each event, beside its id and time; without it, none.
    pub fn show<N: AsRef<str>>(mut self, fields: impl IntoIterator<Item = N>) -> Self {
        self.seeks.shown = fields.into_iter().map(|name| name.as_ref().into()).collect();
        self
    }

    /// The plan, or everything that is wrong with it.
    pub fn plan(self) -> Result<Plan, Mistakes> {
        self.finish(|sequence, parts, state, mistakes| sequence.does(parts, state, mistakes))
    }
}

impl Sequence {
    fn does(&self, parts: &Parts, state: State, mistakes: &mut Mistakes) -> Option<(From, Does)> {
        let source = &parts.sources[parts.source_of(self.from)];
        let asked = AskedPattern {
            place: None,
            stages_place: None,
            stages: self.stages.iter().map(Stage::asked).collect(),
            within: self.within.map(|within| (within, None)),
            skip: Some(match &self.skip {
                Skip::Plain(skip) => AskedSkip::Plain(*skip),
                Skip::ToFirst(stage) => AskedSkip::ToFirst(Written::by_code(stage)),
                Skip::ToLast(stage) => AskedSkip::ToLast(Written::by_code(stage)),
            }),
            timeouts: Some((self.timeouts, None)),
            fields: self.shown.iter().map(|name| Written::by_code(name)).collect(),
            dedup: source.id.into_iter().collect(),
        };
        let step = asked.step(state, Some(source), Some(&source.columns), mistakes)?;
        Some((self.from, Does::Pattern(Box::new(step))))
    }
}
