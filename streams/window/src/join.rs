//! Joins of two streams by key: the events of one key.
//!
//! An event of one side pairs with every event of the other that matches. Kept sides give a row without a partner for what
//! found none, once none can come any more: such a row is never followed by a pair of the same event.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};

use crate::rules::{floor_rest, lateness_ms, length};
use crate::spec::{Lateness, Mistake};

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

#[derive(Debug)]
struct Held<E> {
    /// `None`: a version that deletes.
    event: Option<E>,
    has_partner: bool,
}

/// Events of one side, by time and arrival.
type Events<E> = BTreeMap<(i64, u64), Held<E>>;

/// The state of a join for one key.
#[derive(Debug)]
pub struct Joiner<E> {
    join: Join,
    watermark: i64,
    arrivals: u64,
    left: Events<E>,
    right: Events<E>,
}

impl<E> Joiner<E> {
    /// One that has seen nothing.
    pub fn new(join: Join) -> Joiner<E> {
        Joiner { join, watermark: i64::MIN, arrivals: 0, left: Events::new(), right: Events::new() }
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
        let at = (ms, self.arrivals);
        self.arrivals += 1;
        let mut held = Held { event, has_partner: false };
        if let Over::Interval { .. } = self.join.over {
            self.pair(side, ms, &mut held, out);
        }
        self.side(side).insert(at, held);
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

    fn side(&mut self, side: Side) -> &mut Events<E> {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }

    fn is_late(&self, ms: i64) -> bool {
        match self.join.over {
            Over::Window(size) => window_of(ms, size).1.saturating_sub(1) <= self.watermark,
            _ => lateness_ms(self.join.allowed_lateness)
                .is_some_and(|late| ms.saturating_add(late) <= self.watermark),
        }
    }

    /// Pairs a new event with those of the other side that lie in its interval.
    fn pair(&mut self, side: Side, ms: i64, new: &mut Held<E>, out: &mut impl FnMut(Paired<'_, E>)) {
        let (lower, upper) = self.distances();
        let (first, last, others) = match side {
            Side::Left => (ms.saturating_add(lower), ms.saturating_add(upper), &mut self.right),
            Side::Right => (ms.saturating_sub(upper), ms.saturating_sub(lower), &mut self.left),
        };
        if first > last {
            return;
        }
        for ((other_ms, _), other) in others.range_mut((first, 0)..=(last, u64::MAX)) {
            other.has_partner = true;
            new.has_partner = true;
            let (left, right) = match side {
                Side::Left => (&new.event, &other.event),
                Side::Right => (&other.event, &new.event),
            };
            let at = At::Time(Timestamp(ms.max(*other_ms)));
            out(Paired { left: left.as_ref(), right: right.as_ref(), at });
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

    /// Tells what is certain by now, and forgets what nothing can match any more.
    fn settle(&mut self, out: &mut impl FnMut(Paired<'_, E>)) {
        match self.join.over {
            Over::Interval { .. } => {
                let (lower, upper) = self.distances();
                self.expire(Side::Left, upper, out);
                self.expire(Side::Right, lower.saturating_neg(), out);
            }
            Over::Window(size) => self.close_windows(size, out),
            Over::Version => self.look_up(out),
        }
    }

    /// Ends the events of a side whose last partner could be `reach` later.
    fn expire(&mut self, side: Side, reach: i64, out: &mut impl FnMut(Paired<'_, E>)) {
        let (watermark, is_kept) = (self.watermark, self.join.kind.keeps(side));
        let late = if watermark == i64::MAX { Some(0) } else { lateness_ms(self.join.allowed_lateness) };
        let Some(late) = late else { return };
        let is_over = |ms: i64| watermark >= ms.saturating_add(reach).saturating_add(late);
        let events = self.side(side);
        while let Some(first) = events.first_entry()
            && is_over(first.key().0)
        {
            let ((ms, _), held) = first.remove_entry();
            if is_kept && !held.has_partner {
                out(alone(side, held.event.as_ref(), At::Time(Timestamp(ms))));
            }
        }
    }

    fn close_windows(&mut self, size: Span, out: &mut impl FnMut(Paired<'_, E>)) {
        loop {
            let firsts = [&self.left, &self.right].map(|side| side.first_key_value().map(|((ms, _), _)| *ms));
            let Some(first) = firsts.into_iter().flatten().min() else { return };
            let (start, end) = window_of(first, size);
            if self.watermark < end.saturating_sub(1) {
                return;
            }
            let at = At::Window(Timestamp(start), Timestamp(end));
            let (left, right) = (until(&mut self.left, end), until(&mut self.right, end));
            for one in left.values() {
                for other in right.values() {
                    out(Paired { left: one.event.as_ref(), right: other.event.as_ref(), at });
                }
            }
            for (side, own, others) in [(Side::Left, &left, &right), (Side::Right, &right, &left)] {
                if others.is_empty() && self.join.kind.keeps(side) {
                    own.values().for_each(|held| out(alone(side, held.event.as_ref(), at)));
                }
            }
        }
    }

    /// Joins the left events whose time has come with the versions of then.
    fn look_up(&mut self, out: &mut impl FnMut(Paired<'_, E>)) {
        while let Some(first) = self.left.first_entry()
            && first.key().0 <= self.watermark
        {
            let ((ms, _), held) = first.remove_entry();
            let version = self.right.range(..=(ms, u64::MAX)).next_back();
            let right = version.and_then(|(_, version)| version.event.as_ref());
            if right.is_some() || self.join.kind.keeps(Side::Left) {
                out(Paired { left: held.event.as_ref(), right, at: At::Time(Timestamp(ms)) });
            }
        }
        // what still comes is later than this: of the versions up to there it may meet the last one only
        let Some(late) = lateness_ms(self.join.allowed_lateness) else { return };
        let settled = self.watermark.saturating_sub(late);
        if let Some(last) = self.right.range(..=(settled, u64::MAX)).next_back().map(|(at, _)| *at) {
            self.right = self.right.split_off(&last);
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
fn until<E>(events: &mut Events<E>, end: i64) -> Events<E> {
    let later = events.split_off(&(end, 0));
    std::mem::replace(events, later)
}

/// The tumbling window of a time.
fn window_of(ms: i64, size: Span) -> (i64, i64) {
    let size = length(size).max(1);
    let start = ms.saturating_sub(floor_rest(ms, 0, size));
    (start, start.saturating_add(size))
}

#[cfg(test)]
mod tests;
