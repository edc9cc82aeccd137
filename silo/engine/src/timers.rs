//! Volatile timers: they live with an activation, tick without overlapping themselves, and are gone with it.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};

/// Timers one slot holds at most.
pub(crate) const TIMERS_MAX: usize = 1 << 20;

/// One timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timer {
    pub activation: u32,
    pub name: Box<str>,
    pub method: &'static str,
    pub arguments: Vec<u8>,
    pub period: Option<Span>,
    pub due: Timestamp,
    /// Its tick is queued or running.
    pub is_ticking: bool,
}

/// The timers of one slot, by number.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    timers: BTreeMap<u32, Timer>,
    by_name: BTreeMap<(u32, Box<str>), u32>,
    next: u32,
}

impl Timers {
    /// Adds a timer in place of one with the same name; its number, or `None` when there are too many.
    pub fn set(&mut self, timer: Timer) -> Option<u32> {
        self.cancel(timer.activation, &timer.name);
        if self.timers.len() >= TIMERS_MAX {
            return None;
        }
        let no = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_name.insert((timer.activation, timer.name.clone()), no);
        self.timers.insert(no, timer);
        Some(no)
    }

    pub fn cancel(&mut self, activation: u32, name: &str) -> bool {
        let no = self.by_name.remove(&(activation, name.into()));
        no.is_some_and(|no| self.timers.remove(&no).is_some())
    }

    /// Whether timer `no` is still set: a tick that waited while it was taken back is void.
    pub fn is_set(&self, no: u32) -> bool {
        self.timers.contains_key(&no)
    }

    /// All timers go; numbers are not used again, so that a late tick of an old one stays void.
    pub fn clear(&mut self) {
        *self = Timers { next: self.next, ..Timers::default() };
    }

    /// The activation leaves.
    pub fn drop_activation(&mut self, activation: u32) {
        while let Some((key, _)) = self.by_name.range((activation, "".into())..).next() {
            if key.0 != activation {
                return;
            }
            let key = key.clone();
            let no = self.by_name.remove(&key);
            no.and_then(|no| self.timers.remove(&no));
        }
    }

    /// Timer `no` is due at `now` and does not tick yet: it ticks from now on.
    pub fn begin_tick(&mut self, no: u32, now: Timestamp) -> Option<&Timer> {
        let timer = self.timers.get_mut(&no)?;
        if timer.is_ticking || timer.due > now {
            return None;
        }
        timer.is_ticking = true;
        Some(timer)
    }

    /// The tick of timer `no` has ended: when it ticks next.
    pub fn end_tick(&mut self, no: u32, now: Timestamp) -> Option<Timestamp> {
        let timer = self.timers.get_mut(&no)?;
        let Some(period) = timer.period else {
            let gone = (timer.activation, timer.name.clone());
            self.by_name.remove(&gone);
            self.timers.remove(&no);
            return None;
        };
        timer.is_ticking = false;
        timer.due = now + period;
        Some(timer.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(name: &str, period: Option<Span>) -> Timer {
        Timer {
            activation: 3,
            name: name.into(),
            method: "tick",
            arguments: Vec::new(),
            period,
            due: Timestamp(10),
            is_ticking: false,
        }
    }

    #[test]
    fn a_timer_never_overlaps_itself_and_counts_from_the_end_of_its_tick() {
        let mut timers = Timers::default();
        let no = timers.set(timer("a", Some(Span(5)))).unwrap();
        assert!(timers.begin_tick(no, Timestamp(9)).is_none());
        assert!(timers.begin_tick(no, Timestamp(10)).is_some());
        assert!(timers.begin_tick(no, Timestamp(20)).is_none(), "still ticking");
        assert_eq!(timers.end_tick(no, Timestamp(30)), Some(Timestamp(35)));
    }

    #[test]
    fn a_second_timer_of_a_name_replaces_the_first_and_all_leave_with_the_activation() {
        let mut timers = Timers::default();
        let first = timers.set(timer("a", None)).unwrap();
        let second = timers.set(timer("a", None)).unwrap();
        assert!(timers.begin_tick(first, Timestamp(10)).is_none());
        assert!(timers.begin_tick(second, Timestamp(10)).is_some());
        timers.drop_activation(3);
        assert!(!timers.cancel(3, "a"));
    }
}
