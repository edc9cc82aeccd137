//! The join step of the builder.

use granary_core::Span;
use granary_window::Lateness;
use granary_window::join::{Kind, Over};

use super::follow::{Follow, name_after};
use super::{Keyed, Parts};
use crate::asked::{AskedJoin, AskedSide, Written};
use crate::file::Mistakes;
use crate::plan::{Does, From, Plan, State};

/// Pairs of events that lie so far apart. They are told at once.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    lower_ms: i64,
    upper_ms: i64,
    lower_included: bool,
    upper_included: bool,
}

impl Interval {
    /// left + lower <= right <= left + upper; a negative distance is one before the left event.
    pub const fn between_ms(lower_ms: i64, upper_ms: i64) -> Interval {
        Interval { lower_ms, upper_ms, lower_included: true, upper_included: true }
    }

    /// The least distance itself does not match.
    pub const fn lower_exclusive(self) -> Interval {
        Interval { lower_included: false, ..self }
    }

    /// The greatest distance itself does not match.
    pub const fn upper_exclusive(self) -> Interval {
        Interval { upper_included: false, ..self }
    }
}

/// All pairs of events that fall into one tumbling window, told when it is due.
#[derive(Clone, Copy, Debug)]
pub struct SameWindow {
    size: Span,
}

impl SameWindow {
    /// Windows of this length, aligned to 1970.
    pub const fn of(size: Span) -> SameWindow {
        SameWindow { size }
    }
}

/// The right side is a table: each left event gets the row of its key that was valid at its time, when that is certain.
/// [`Follow::deleted`] says which right events delete.
#[derive(Clone, Copy, Debug)]
pub struct Versions;

impl std::convert::From<Interval> for Over {
    fn from(Interval { lower_ms, upper_ms, lower_included, upper_included }: Interval) -> Over {
        Over::Interval { lower_ms, upper_ms, lower_included, upper_included }
    }
}

impl std::convert::From<SameWindow> for Over {
    fn from(SameWindow { size }: SameWindow) -> Over {
        Over::Window(size)
    }
}

impl std::convert::From<Versions> for Over {
    fn from(_: Versions) -> Over {
        Over::Version
    }
}

/// Which events a join pairs: see [`Keyed::join`].
#[derive(Debug)]
pub struct Pairs {
    from: [From; 2],
    over: Over,
    kind: Kind,
    allowed_lateness: Option<Lateness>,
    deleted: Option<Box<str>>,
    shown: [Option<Vec<Box<str>>>; 2],
}

impl Follow<Pairs> {
    pub(super) fn pairs<T: 'static, U: 'static>(
        left: Keyed<T>,
        right: Keyed<U>,
        over: Over,
    ) -> Follow<Pairs> {
        let mut parts = Parts::default();
        let from = [left.read_into(&mut parts), right.read_into(&mut parts)];
        let name = name_after(&parts, "join");
        let (kind, allowed_lateness, deleted, shown) = (Kind::Inner, None, None, [None, None]);
        Follow::new(parts, name, Pairs { from, over, kind, allowed_lateness, deleted, shown })
    }

    /// Which events give a row without a partner; without it, none.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.seeks.kind = kind;
        self
    }

    /// How much older than the watermark events may be; without it, not at all.
    pub fn allowed_lateness(mut self, span: Span) -> Self {
        self.seeks.allowed_lateness = Some(Lateness::Span(span));
        self
    }

    /// Events may come ever so late: those of both sides are kept for ever.
    pub fn allowed_lateness_forever(mut self) -> Self {
        self.seeks.allowed_lateness = Some(Lateness::Forever);
        self
    }

    /// The right events that delete the version of their key: a condition in CEL on their fields.
    pub fn deleted(mut self, condition: &str) -> Self {
        self.seeks.deleted = Some(condition.into());
        self
    }

    /// The fields that rows show of the left event; without it, all that were named by [`Keyed::field`].
    pub fn show_left<N: AsRef<str>>(mut self, fields: impl IntoIterator<Item = N>) -> Self {
        self.seeks.shown[0] = Some(fields.into_iter().map(|name| name.as_ref().into()).collect());
        self
    }

    /// The fields that rows show of the right event; without it, all that were named by [`Keyed::field`].
    pub fn show_right<N: AsRef<str>>(mut self, fields: impl IntoIterator<Item = N>) -> Self {
        self.seeks.shown[1] = Some(fields.into_iter().map(|name| name.as_ref().into()).collect());
        self
    }

    /// The plan, or everything that is wrong with it.
    pub fn plan(self) -> Result<Plan, Mistakes> {
        self.finish(|pairs, parts, state, mistakes| pairs.does(parts, state, mistakes))
    }
}

impl Pairs {
    fn does(&self, parts: &Parts, state: State, mistakes: &mut Mistakes) -> Option<(From, Does)> {
        let asked = AskedJoin {
            place: None,
            over: Some((self.over, None)),
            kind: self.kind,
            allowed_lateness: self.allowed_lateness.map(|lateness| (lateness, None)),
            deleted: self.deleted.as_deref().map(Written::by_code),
            sides: [0, 1].map(|side| Some(self.side(side, parts))),
        };
        Some((self.from[0], Does::Join(Box::new(asked.step(state, mistakes)?))))
    }

    fn side<'a>(&'a self, side: usize, parts: &'a Parts) -> AskedSide<'a> {
        let from = self.from[side];
        let place = parts.source_of(from);
        let source = &parts.sources[place];
        let said = self.shown[side].as_ref();
        let said = said.map(|names| names.iter().map(|name| Written::by_code(name)).collect());
        let fields = Some(said.unwrap_or_else(|| parts.fields(place)));
        let dedup = source.id.into_iter().collect();
        AskedSide { from, place, source, columns: &source.columns, fields, dedup }
    }
}
