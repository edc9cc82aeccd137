//! One selection of events that may still become a match, or a longer one.

use std::rc::Rc;

use super::{Contiguity, Pattern};

/// An event that was taken, and those before it. Selections that begin alike share their beginnings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub stage: usize,
    /// The event's number in the order of its key.
    pub event: u64,
    /// How many events there are up to this one.
    pub len: u32,
    pub before: Option<Rc<Taken>>,
}

impl Taken {
    /// A stage takes an event after those before.
    pub fn new(stage: usize, event: u64, before: Option<Rc<Taken>>) -> Taken {
        let len = before.as_ref().map_or(0, |before| before.len) + 1;
        Taken { stage, event, len, before }
    }

    /// From the last one to the first.
    pub fn backwards(&self) -> impl Iterator<Item = &Taken> {
        std::iter::successors(Some(self), |taken| taken.before.as_deref())
    }

    /// The last event that a stage took.
    pub fn last_of(&self, stage: usize) -> Option<u64> {
        self.backwards().find(|taken| taken.stage == stage).map(|taken| taken.event)
    }
}

/// A way in which a selection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The stage takes one more.
    More,
    /// This stage takes its first one.
    To(usize),
    /// Time passes without an event that fits this last stage.
    Absence(usize),
}

/// A selection, and the ways in which it may go on.
#[derive(Debug)]
pub(super) struct Partial {
    pub taken: Rc<Taken>,
    /// How many events the stage of the last one has taken.
    pub count: u32,
    /// The first event: its number and its time.
    pub begin: u64,
    pub first_ms: i64,
    pub ways: Vec<Way>,
}

/// Where a selection stands once its last event is taken.
pub(super) struct Standing {
    pub ways: Vec<Way>,
    /// It is a match as it is.
    pub is_match: bool,
}

/// The ways on from a stage that has taken `count` events.
pub(super) fn stand(pattern: &Pattern, stage: usize, count: u32) -> Standing {
    let mut standing = Standing { ways: Vec::new(), is_match: false };
    let here = &pattern.stages[stage];
    if here.may_take_more(count) {
        standing.ways.push(Way::More);
    }
    if count < here.times_min {
        return standing;
    }
    for (i, next) in pattern.stages.iter().enumerate().skip(stage + 1) {
        if next.is_absent {
            if i + 1 == pattern.stages.len() {
                standing.ways.push(Way::Absence(i));
                return standing;
            }
            continue;
        }
        standing.ways.push(Way::To(i));
        if !next.is_optional {
            return standing;
        }
    }
    standing.is_match = true;
    standing
}

/// What an event does to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not concerned.
    Stays,
    /// It ends.
    Ends,
    /// The event is taken, and the way ends.
    Takes,
    /// The event is taken, and may also be passed over.
    TakesOrStays,
}

/// What an event does to a way of this contiguity; `fits`: the way's stage would take it; `is_next`: it is the very next
/// event after the one taken last.
pub(super) fn step(contiguity: Contiguity, fits: bool, is_next: bool) -> Step {
    match (contiguity, fits) {
        (Contiguity::Next, true) if is_next => Step::Takes,
        (Contiguity::Next, _) => Step::Ends,
        (Contiguity::FollowedBy, true) => Step::Takes,
        (Contiguity::FollowedByAny, true) => Step::TakesOrStays,
        (Contiguity::FollowedBy | Contiguity::FollowedByAny, false) => Step::Stays,
    }
}
