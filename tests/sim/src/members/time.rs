//! Virtual time, the clocks of silos, and what happens when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use granary_core::Timestamp;

use super::event::Event;

/// Virtual time in microseconds since the run began. No silo sees it.
pub type Micros = i64;

/// A millisecond.
pub const MS: Micros = 1_000;
/// A second.
pub const SECOND: Micros = 1_000 * MS;

const MILLION: i64 = 1_000_000;

/// A silo's own clock: it never goes back, starts anywhere, and runs a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it says when the run begins, in milliseconds.
    pub start: i64,
    /// How much too fast, in millionths.
    pub drift: i64,
}

impl Clock {
    /// What it says.
    pub fn at(&self, now: Micros) -> Timestamp {
        Timestamp(self.start + now * (MILLION + self.drift) / (MILLION * MS))
    }

    /// When it will say so; the far future for a time that never comes.
    pub fn when(&self, says: Timestamp) -> Micros {
        let Some(ms) = says.0.checked_sub(self.start).filter(|ms| *ms < i64::MAX / (MILLION * MS)) else {
            return Micros::MAX;
        };
        let rate = MILLION + self.drift;
        (ms * MILLION * MS + rate - 1).div_euclid(rate)
    }
}

struct Due {
    at: Micros,
    no: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest; of two at one time the one that was put in first.
    fn cmp(&self, other: &Due) -> Ordering {
        (other.at, other.no).cmp(&(self.at, self.no))
    }
}

/// What is to happen.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Due>,
    put: u64,
}

impl Queue {
    /// At that time.
    pub fn put(&mut self, at: Micros, event: Event) {
        self.put += 1;
        self.heap.push(Due { at, no: self.put, event });
    }

    /// What comes next.
    pub fn take(&mut self) -> Option<(Micros, Event)> {
        self.heap.pop().map(|due| (due.at, due.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_says_what_it_is_asked_for_and_not_before() {
        for drift in [-500, 0, 300] {
            let clock = Clock { start: 77, drift };
            for ms in [77, 78, 1_000, 123_456] {
                let at = clock.when(Timestamp(ms));
                assert!(clock.at(at) >= Timestamp(ms), "{drift} {ms}");
                assert!(at == 0 || clock.at(at - 1) < Timestamp(ms), "{drift} {ms}");
            }
            assert_eq!(clock.when(Timestamp::MAX), Micros::MAX);
        }
    }
}
