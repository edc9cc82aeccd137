//! Joins of two streams by key: the events of one key.
//!
//! An event of one side pairs with every event of the other that matches. Kept sides give a row without a partner for what
//! found none, once none can come any more: such a row is never followed by a pair of the same event.

use std::collections::BTreeSet;

use granary_core::{Span, Timestamp};

use crate::rules::{floor_rest, lateness_ms, length};
use crate::shelf::{Shelf, Stored};
use crate::spec::{Lateness, Mistake};

/// Pairs of one window and key. An event that would give more is not taken.
pub const PAIRS_MAX: usize = 65_536;

/// A side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left stream.
    Left,
    /// The right stream; of [`Over::Version`] the table.
    Right,
}

/// What matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// `left + lower <= right <= left + upper`, in milliseconds; `<` where an end is not included. Told at once.
    Interval {
        /// The least distance; may be negative.
        lower_ms: i64,
        /// The greatest.
        upper_ms: i64,
        /// The least distance itself matches.
        lower_included: bool,
        /// The greatest distance itself matches.
        upper_included: bool,
    },
    /// Both are in the same tumbling window of this size. Told when the window is due.
    Window(Span),
    /// The right event is the version that is valid at the left one's time. Told when the watermark has reached that.
    Version,
}

/// Which events give a row without a partner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// None.
    #[default]
    Inner,
    /// Those of the left side.
    Left,
    /// Those of the right side.
    Right,
    /// All.
    Outer,
}

impl Kind {
    fn keeps(self, side: Side) -> bool {
        match side {
            Side::Left => matches!(self, Kind::Left | Kind::Outer),
            Side::Right => matches!(self, Kind::Right | Kind::Outer),
        }
    }
}

/// What is joined, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// What matches.
    pub over: Over,
    /// Which events give a row without a partner.
    pub kind: Kind,
    /// Events may be so much older than the watermark; not for windows.
    pub allowed_lateness: Lateness,
}

impl Join {
    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |field, message: &str| mistakes.push(Mistake { field, message: message.to_owned() });
        match self.over {
            Over::Interval { lower_ms, upper_ms, lower_included, upper_included } => {
                if lower_ms > upper_ms || (lower_ms == upper_ms && !(lower_included && upper_included)) {
                    wrong("lower", "nothing lies between `lower` and `upper`");
                }
            }
            Over::Window(size) if size == Span::ZERO => wrong("size", "a window has a length"),
            Over::Window(_) => {}
            Over::Version if !matches!(self.kind, Kind::Inner | Kind::Left) => {
                wrong("type", "a join with versions is `inner` or `left`");
            }
            Over::Version => {}
        }
        mistakes
    }
}

/// Where a row stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The later of the two, or the left one's time for versions.
    Time(Timestamp),
    /// The window, its end not included.
    Window(Timestamp, Timestamp),
}

/// A row: a pair, or an event without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paired<'a, E> {
    /// The left event.
    pub left: Option<&'a E>,
    /// The right event.
    pub right: Option<&'a E>,
    /// When.
    pub at: At,
}

/// Events of one side, by time and arrival.
type Events = BTreeSet<(i64, u64)>;

/// The state of a join for one key.
#[derive(Debug)]
pub struct Joiner<E> {
    join: Join,
    watermark: i64,
    /// By arrival, with their sides; `None`: a version that deletes. Those that found a partner are marked.
    shelf: Shelf<Option<E>>,
    sides: [Events; 2],
}

impl<E: Stored> Joiner<E> {
    /// One that has seen nothing.
    pub fn new(join: Join) -> Joiner<E> {
        Joiner { join, watermark: i64::MIN, shelf: Shelf::new(), sides: Default::default() }
    }

    /// An event arrives; false when it is late, and joins nothing. `None` deletes what a table holds.
    pub fn event(
        &mut self,
        side: Side,
        time: Timestamp,
        event: Option<E>,
        out: &mut impl FnMut(Paired<'_, E>),
    ) -> bool {
        let ms = time.ms();
        if self.is_late(ms) {
            return false;
        }
        let arrival = self.shelf.push(ms, side as u8, event);
        self.sides[side as usize].insert((ms, arrival));
        if let Over::Interval { .. } = self.join.over {
            self.pair(side, ms, arrival, out);
        }
        self.settle(out); // it may be certain already
        true
    }

    /// The watermark is at least this: what it makes certain follows.
    pub fn advance(&mut self, to: Timestamp, out: &mut impl FnMut(Paired<'_, E>)) {
        if to.ms() > self.watermark {
            self.watermark = to.ms();
            self.settle(out);
        }
    }

    fn event_of(&self, arrival: u64) -> Option<&E> {
        self.shelf.get(arrival)?.event.as_ref()
    }

    fn is_late(&self, ms: i64) -> bool {
        match self.join.over {
            Over::Window(size) => window_of(ms, size).1.saturating_sub(1) <= self.watermark,
            _ => lateness_ms(self.join.allowed_lateness)
                .is_some_and(|late| ms.saturating_add(late) <= self.watermark),
        }
    }

    /// Pairs a new event with those of the other side that lie in its interval.
    fn pair(&mut self, side: Side, ms: i64, arrival: u64, out: &mut impl FnMut(Paired<'_, E>)) {
        let (lower, upper) = self.distances();
        let (first, last) = match side {
            Side::Left => (ms.saturating_add(lower), ms.saturating_add(upper)),
            Side::Right => (ms.saturating_sub(upper), ms.saturating_sub(lower)),
        };
        if first > last {
            return;
        }
        let others = &self.sides[1 - side as usize];
        let partners: Vec<(i64, u64)> = others.range((first, 0)..=(last, u64::MAX)).copied().collect();
        for (other_ms, other) in &partners {
            let (one, other) = (self.event_of(arrival), self.event_of(*other));
            let (left, right) = if side == Side::Left { (one, other) } else { (other, one) };
            out(Paired { left, right, at: At::Time(Timestamp(ms.max(*other_ms))) });
        }
        if !partners.is_empty() {
            self.shelf.mark(arrival);
            partners.iter().for_each(|(_, other)| self.shelf.mark(*other));
        }
    }

    /// The least and the greatest distance that match, in whole milliseconds.
    fn distances(&self) -> (i64, i64) {
        let Over::Interval { lower_ms, upper_ms, lower_included, upper_included } = self.join.over else {
            return (0, 0);
        };
        let lower = lower_ms.saturating_add(i64::from(!lower_included));
        (lower, upper_ms.saturating_sub(i64::from(!upper_included)))
    }

    /// How much later the last partner of an event of a side may be.
    fn reach(&self, side: Side) -> i64 {
        let (lower, upper) = self.distances();
        if side == Side::Left { upper } else { lower.saturating_neg() }
    }

    /// Tells what is certain by now, and forgets what nothing can match any more.
    fn settle(&mut self, out: &mut impl FnMut(Paired<'_, E>)) {
        match self.join.over {
            Over::Interval { .. } => {
                self.expire(Side::Left, out);
                self.expire(Side::Right, out);
            }
            Over::Window(size) => self.close_windows(size, out),
            Over::Version => self.look_up(out),
        }
    }

    /// When no partner of an event can come any more; `None`: never before the end.
    fn over_at(&self, side: Side, ms: i64) -> Option<i64> {
        let late = lateness_ms(self.join.allowed_lateness)?;
        Some(ms.saturating_add(self.reach(side)).saturating_add(late))
    }

    /// Ends the events of a side that find no partner any more.
    fn expire(&mut self, side: Side, out: &mut impl FnMut(Paired<'_, E>)) {
        while let Some((ms, arrival)) = self.sides[side as usize].first().copied()
            && (self.watermark == i64::MAX || self.over_at(side, ms).is_some_and(|at| at <= self.watermark))
        {
            self.sides[side as usize].pop_first();
            let Some(entry) = self.shelf.remove(arrival) else { continue };
            if self.join.kind.keeps(side) && !entry.is_marked {
                out(alone(side, entry.event.as_ref(), At::Time(Timestamp(ms))));
            }
        }
    }

    fn close_windows(&mut self, size: Span, out: &mut impl FnMut(Paired<'_, E>)) {
        while let Some(first) = self.first_ms() {
            let (start, end) = window_of(first, size);
            if self.watermark < end.saturating_sub(1) {
                return;
            }
            let at = At::Window(Timestamp(start), Timestamp(end));
            let [left, right] = &mut self.sides;
            let (left, right) = (until(left, end), until(right, end));
            for (_, one) in &left {
                for (_, other) in &right {
                    out(Paired { left: self.event_of(*one), right: self.event_of(*other), at });
                }
            }
            for (side, own, others) in [(Side::Left, &left, &right), (Side::Right, &right, &left)] {
                if others.is_empty() && self.join.kind.keeps(side) {
                    own.iter().for_each(|(_, arrival)| out(alone(side, self.event_of(*arrival), at)));
                }
            }
            for (_, arrival) in left.iter().chain(&right) {
                self.shelf.remove(*arrival);
            }
        }
    }

    /// The earliest event.
    fn first_ms(&self) -> Option<i64> {
        self.sides.iter().filter_map(|side| side.first().map(|(ms, _)| *ms)).min()
    }

    /// Joins the left events whose time has come with the versions of then.
    fn look_up(&mut self, out: &mut impl FnMut(Paired<'_, E>)) {
        while let Some((ms, arrival)) = self.sides[0].first().copied()
            && ms <= self.watermark
        {
            self.sides[0].pop_first();
            let version = self.sides[1].range(..=(ms, u64::MAX)).next_back();
            let right = version.and_then(|(_, version)| self.event_of(*version));
            if right.is_some() || self.join.kind.keeps(Side::Left) {
                out(Paired { left: self.event_of(arrival), right, at: At::Time(Timestamp(ms)) });
            }
            self.shelf.remove(arrival);
        }
        // what still comes is later than this: of the versions up to there it may meet the last one only
        let Some(late) = lateness_ms(self.join.allowed_lateness) else { return };
        let settled = self.watermark.saturating_sub(late);
        if let Some(last) = self.sides[1].range(..=(settled, u64::MAX)).next_back().copied() {
            let kept = self.sides[1].split_off(&last);
            for (_, arrival) in std::mem::replace(&mut self.sides[1], kept) {
                self.shelf.remove(arrival);
            }
        }
    }
}

/// An event without a partner.
fn alone<E>(side: Side, event: Option<&E>, at: At) -> Paired<'_, E> {
    match side {
        Side::Left => Paired { left: event, right: None, at },
        Side::Right => Paired { left: None, right: event, at },
    }
}

/// The events before this time.
fn until(events: &mut Events, end: i64) -> Events {
    let later = events.split_off(&(end, 0));
    std::mem::replace(events, later)
}

/// The tumbling window of a time.
fn window_of(ms: i64, size: Span) -> (i64, i64) {
    let size = length(size).max(1);
    let start = ms.saturating_sub(floor_rest(ms, 0, size));
    (start, start.saturating_add(size))
}

mod written;

#[cfg(test)]
mod tests;
