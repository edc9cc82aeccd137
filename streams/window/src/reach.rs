//! How far a window step has come in a slot: no row to come has an earlier time, as far as its keys are known.
//!
//! With a watermark for each key that is the least watermark of the keys with a result to come. Counting them by watermarks,
//! rounded down to where anybody cares, makes it known without asking every key: the [`Ledger`] is one small cell.
//!
//! Invariant: a key in memory is counted under [`crate::key::Key::counted`], and one that is not as its cell says. So the ledger
//! and the keys' cells of one commit agree.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_i64, put_u64};
use crate::rules::{floor_rest, length};

/// A key has this as what it is counted under when no result of it is to come.
pub(crate) const NOT_COUNTED: i64 = i64::MAX;

/// The ends of the windows that somebody waits for: a watermark between two of them says no more than the one at the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    every_ms: i64,
    offset_ms: i64,
}

impl Grid {
    /// Ends at `offset` and all multiples of `every` from there.
    pub fn new(every: Span, offset_ms: i64) -> Grid {
        Grid { every_ms: length(every).max(1), offset_ms }
    }

    /// The greatest watermark up to this one that makes windows due.
    pub fn floor(self, watermark: Timestamp) -> Timestamp {
        if watermark == Timestamp::MIN || watermark == Timestamp::MAX {
            return watermark;
        }
        let past = watermark.ms().saturating_add(1);
        Timestamp(past.saturating_sub(floor_rest(past, self.offset_ms, self.every_ms)).saturating_sub(1))
    }
}

/// How far a step has come in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Rows to come have later times.
    pub watermark: Timestamp,
    /// No result is to come but of events to come.
    pub is_quiet: bool,
}

/// Keys with a result to come, by their watermarks.
#[derive(Debug)]
pub(crate) struct Ledger {
    grid: Grid,
    /// How much later than its watermark a result of a key may come, ms.
    behind_ms: i64,
    counts: BTreeMap<i64, u64>,
    /// The greatest watermark of all keys.
    newest_ms: i64,
    /// Its cell was supplied.
    pub is_known: bool,
    /// The store has none: keys that are listed are still to be counted.
    pub is_new: bool,
    is_dirty: bool,
}

impl Ledger {
    pub fn new(grid: Grid, behind_ms: i64) -> Ledger {
        Ledger {
            grid,
            behind_ms,
            counts: BTreeMap::new(),
            newest_ms: i64::MIN,
            is_known: false,
            is_new: false,
            is_dirty: false,
        }
    }

    /// Whether it counts all keys.
    pub fn is_whole(&self) -> bool {
        self.is_known && !self.is_new
    }

    /// What a key with this watermark is counted under.
    pub fn mark(&self, watermark_ms: i64) -> i64 {
        let reached = watermark_ms.saturating_sub(self.behind_ms).min(NOT_COUNTED - 1);
        self.grid.floor(Timestamp(reached)).ms()
    }

    /// A key is counted otherwise from now on.
    pub fn count(&mut self, before: i64, now: i64, watermark_ms: i64) {
        if watermark_ms > self.newest_ms {
            (self.newest_ms, self.is_dirty) = (watermark_ms, true);
        }
        if before == now {
            return;
        }
        self.is_dirty = true;
        if let Some(count) = self.counts.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&before);
            }
        }
        if now != NOT_COUNTED {
            *self.counts.entry(now).or_default() += 1;
        }
    }

    pub fn reach(&self) -> Reach {
        let least = self.counts.first_key_value().map(|(mark, _)| *mark);
        let watermark = Timestamp(least.unwrap_or_else(|| self.mark(self.newest_ms)));
        Reach { watermark, is_quiet: least.is_none() }
    }

    /// The reach of a step with one watermark for all keys.
    pub fn reach_of(&self, watermark_ms: i64, is_quiet: bool) -> Reach {
        Reach { watermark: Timestamp(self.mark(watermark_ms)), is_quiet }
    }

    pub fn supply(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        if std::mem::replace(&mut self.is_known, true) {
            return Ok(());
        }
        let Some(value) = value else {
            self.is_new = true;
            return Ok(());
        };
        let mut reader = Reader::cell(value)?;
        self.newest_ms = reader.i64()?;
        for _ in 0..reader.count()? {
            self.counts.insert(reader.i64()?, reader.u64()?);
        }
        reader.finish()
    }

    /// Writes the cell into `out`, when it has changed.
    pub fn seal(&mut self, out: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        out.clear();
        out.push(VERSION);
        put_i64(out, self.newest_ms);
        put_u64(out, self.counts.len() as u64);
        for (mark, count) in &self.counts {
            put_i64(out, *mark);
            put_u64(out, *count);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_is_rounded_down_to_the_end_of_a_window() {
        let floor = |ms| Grid::new(Span(10), 3).floor(Timestamp(ms)).ms();
        assert_eq!([floor(1), floor(2), floor(3), floor(11), floor(12)], [-8, 2, 2, 2, 12]);
        assert_eq!(floor(i64::MIN), i64::MIN);
        assert_eq!(floor(i64::MAX), i64::MAX);
    }

    #[test]
    fn the_least_key_with_a_result_to_come_decides() {
        let mut ledger = Ledger::new(Grid::new(Span(10), 0), 0);
        ledger.count(NOT_COUNTED, ledger.mark(27), 27);
        ledger.count(NOT_COUNTED, ledger.mark(12), 12);
        assert_eq!(ledger.reach(), Reach { watermark: Timestamp(9), is_quiet: false });
        ledger.count(ledger.mark(12), ledger.mark(35), 35);
        assert_eq!(ledger.reach().watermark, Timestamp(19));
        let mut cell = Vec::new();
        assert!(ledger.seal(&mut cell));
        let mut again = Ledger::new(Grid::new(Span(10), 0), 0);
        again.supply(Some(&cell)).unwrap();
        again.count(again.mark(27), NOT_COUNTED, 27);
        again.count(again.mark(35), NOT_COUNTED, 35);
        assert_eq!(again.reach(), Reach { watermark: Timestamp(29), is_quiet: true });
    }
}
