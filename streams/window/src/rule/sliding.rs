//! Totals over a stretch of a key's events that moves with the event that is judged.
//!
//! Everything it holds can be taken back, so it moves in both directions: forward by one event as they are judged, back when
//! one comes out of order.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::ABSENT;
use super::kept::{Kept, Place, moved};
use super::set::{Bound, Track, Window};
use crate::ids::{Id, id_of};

/// The totals of one window of one key.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// The first event in it, and the place after the last.
    pub from: Place,
    pub to: Place,
    pub count: u64,
    pub sum: i128,
    pub squares: i128,
    /// How often each number occurs, where the least or greatest is asked for.
    numbers: BTreeMap<i64, u32>,
    /// How often each text occurs, where that is asked for.
    texts: HashMap<Id, u32, FixedState>,
}

impl Sliding {
    /// An empty one before the first event.
    pub fn new(kept: &Kept) -> Sliding {
        Sliding {
            from: kept.start(),
            to: kept.start(),
            count: 0,
            sum: 0,
            squares: 0,
            numbers: BTreeMap::new(),
            texts: HashMap::default(),
        }
    }

    /// How many different texts are in it.
    pub fn distinct(&self) -> usize {
        self.texts.len()
    }

    /// How often a text is in it.
    pub fn occurrences(&self, text: &[u8]) -> u32 {
        self.texts.get(&id_of(text)).copied().unwrap_or(0)
    }

    pub fn least(&self) -> Option<i64> {
        self.numbers.first_key_value().map(|(number, _)| *number)
    }

    pub fn greatest(&self) -> Option<i64> {
        self.numbers.last_key_value().map(|(number, _)| *number)
    }

    /// Takes the next event in, and lets go what is too far back from it.
    pub fn step(&mut self, window: &Window, kept: &Kept) {
        // What was the end of the events may be the begin of a chunk by now.
        let place = kept.normal(self.to);
        self.from = kept.normal(self.from);
        self.enter(window, kept, place);
        self.to = kept.after(place);
        match window.bound {
            Bound::Time(length_ms) => {
                let begin = kept.time(place).saturating_sub(length_ms);
                while self.from < self.to && kept.time(self.from) <= begin {
                    self.leave(window, kept, self.from);
                    self.from = kept.after(self.from);
                }
            }
            Bound::Count(most) => {
                while self.count > u64::from(most) {
                    self.leave(window, kept, self.from);
                    self.from = kept.after(self.from);
                }
            }
        }
    }

    /// Goes back to what it was before the event at this place was taken in.
    pub fn go_back(&mut self, window: &Window, kept: &Kept, to: Place) {
        while self.to > to {
            let Some(last) = kept.before(self.to) else { break };
            if last >= self.from {
                self.leave(window, kept, last);
            }
            self.to = last;
        }
        self.to = to;
        if self.from > to {
            self.from = to;
        }
        let Some(last) = kept.before(to) else { return };
        match window.bound {
            Bound::Time(length_ms) => {
                let begin = kept.time(last).saturating_sub(length_ms);
                while let Some(before) = kept.before(self.from).filter(|before| kept.time(*before) > begin) {
                    self.enter(window, kept, before);
                    self.from = before;
                }
            }
            Bound::Count(most) => {
                while self.count < u64::from(most) {
                    let Some(before) = kept.before(self.from) else { break };
                    self.enter(window, kept, before);
                    self.from = before;
                }
            }
        }
    }

    /// A chunk was split.
    pub fn moved(&mut self, split: Place) {
        (self.from, self.to) = (moved(self.from, split), moved(self.to, split));
    }

    /// The first chunk is about to go.
    pub fn forget_first(&mut self, window: &Window, kept: &Kept) {
        let next = Place { chunk: kept.first + 1, at: 0 };
        while self.from < next && self.from < self.to {
            self.leave(window, kept, self.from);
            self.from = kept.after(self.from);
        }
        self.from = self.from.max(next);
        self.to = self.to.max(next);
    }

    fn enter(&mut self, window: &Window, kept: &Kept, place: Place) {
        if !window.track.has(kept, place) {
            return;
        }
        self.count += 1;
        if let Some(number) = window.track.of {
            let number = kept.number(place, number);
            self.sum += i128::from(number);
            self.squares += i128::from(number) * i128::from(number);
            if window.has_extremes {
                *self.numbers.entry(number).or_default() += 1;
            }
        }
        if let Some(text) = window.track.text.and_then(|text| kept.text(place, text)) {
            *self.texts.entry(id_of(text)).or_default() += 1;
        }
    }

    fn leave(&mut self, window: &Window, kept: &Kept, place: Place) {
        if !window.track.has(kept, place) {
            return;
        }
        self.count -= 1;
        if let Some(number) = window.track.of {
            let number = kept.number(place, number);
            self.sum -= i128::from(number);
            self.squares -= i128::from(number) * i128::from(number);
            if window.has_extremes
                && let Some(count) = self.numbers.get_mut(&number)
            {
                *count -= 1;
                if *count == 0 {
                    self.numbers.remove(&number);
                }
            }
        }
        if let Some(text) = window.track.text.and_then(|text| kept.text(place, text)) {
            let id = id_of(text);
            if let Some(count) = self.texts.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    self.texts.remove(&id);
                }
            }
        }
    }

    /// Memory, about.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Sliding>() + self.numbers.len() * 24 + self.texts.capacity() * 24
    }
}

impl Track {
    /// Whether an event belongs to it.
    #[inline]
    pub fn has(&self, kept: &Kept, place: Place) -> bool {
        self.when.is_none_or(|condition| kept.holds(place, condition))
            && self.of.is_none_or(|number| kept.number(place, number) != ABSENT)
            && self.text.is_none_or(|text| kept.text(place, text).is_some())
    }
}
