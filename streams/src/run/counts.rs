//! What became of the records: counted in cells, so that the sum survives restarts exactly.
//!
//! Each time a slot's memory is built anew it begins a cell of its own, named by the first commit that holds it. No
//! cell is ever read to be added to; who wants to know adds them all up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use granary_core::{Result, codec};

/// The prefix of the cells' keys.
pub const PREFIX: &[u8] = b"c/";

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them: the sum of the next five.
    pub records: u64,
    /// Took part in a result, or passed a pipeline without windows.
    pub accepted: u64,
    /// Copies of what was accepted before.
    pub duplicates: u64,
    /// Set aside: too late, too far ahead, in no window, more than its key has room for.
    pub late: u64,
    /// Set aside: broke a rule.
    pub rejected: u64,
    /// Set aside: made a handler fail three times.
    pub poisoned: u64,
    /// Results that stand, by sink: published and not withdrawn.
    pub results: BTreeMap<String, i64>,
    /// Partial matches of patterns that a bound has cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// Adds what a cell under [`PREFIX`] holds.
    pub fn add_cell(&mut self, value: &[u8]) -> Result<()> {
        self.add(&codec::from_bytes(value)?);
        Ok(())
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.rejected += other.rejected;
        self.poisoned += other.poisoned;
        self.cut += other.cut;
        for (sink, count) in &other.results {
            *self.results.entry(sink.clone()).or_default() += count;
        }
    }

    /// Whether every record is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.records == self.accepted + self.duplicates + self.late + self.rejected + self.poisoned
    }
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took part.
    Accepted,
    /// A copy.
    Duplicate,
    /// Set aside: late, forgotten, future, unassigned, or more than its key has room for.
    Late,
    /// Set aside: it broke a rule.
    Rejected,
    /// Set aside: it made a handler fail.
    Poisoned,
}

impl Verdict {
    /// The word of verdict files.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Accepted => "accepted",
            Verdict::Duplicate => "duplicate",
            Verdict::Late => "late",
            Verdict::Rejected => "rejected",
            Verdict::Poisoned => "poisoned",
        }
    }
}

/// The counts of one slot since its memory was built.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [u64; 5],
    /// By the place of the sink.
    results: Vec<i64>,
    cut: u64,
    is_dirty: bool,
    cell: Option<Box<[u8]>>,
}

impl Tally {
    pub fn new(sinks: usize) -> Tally {
        Tally { results: vec![0; sinks], ..Tally::default() }
    }

    #[inline]
    pub fn record(&mut self, verdict: Verdict) {
        self.counts[verdict as usize] += 1;
        self.is_dirty = true;
    }

    #[inline]
    pub fn result(&mut self, sink: usize, change: i64) {
        self.results[sink] += change;
        self.is_dirty = true;
    }

    /// A bound has cut so many partial matches.
    pub fn cut(&mut self, count: u64) {
        self.cut += count;
        self.is_dirty |= count > 0;
    }

    /// The counts, by the names of the sinks.
    pub fn counts<'n>(&self, sinks: impl Iterator<Item = &'n str>) -> Counts {
        let [accepted, duplicates, late, rejected, poisoned] = self.counts;
        Counts {
            records: self.counts.iter().sum(),
            accepted,
            duplicates,
            late,
            rejected,
            poisoned,
            cut: self.cut,
            results: sinks.map(str::to_owned).zip(self.results.iter().copied()).collect(),
        }
    }

    /// Key and value of the slot's cell, if it changed since the last call.
    pub fn seal<'n>(&mut self, n: u64, sinks: impl Iterator<Item = &'n str>) -> Option<(&[u8], Vec<u8>)> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let value = codec::to_bytes(&self.counts(sinks)).expect("counts are plain numbers and names");
        let cell = self.cell.get_or_insert_with(|| [PREFIX, &n.to_be_bytes()[..]].concat().into());
        Some((cell, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_every_life_add_up() {
        let mut total = Counts::default();
        let sinks = || ["totals"].into_iter();
        let mut first = Tally::new(1);
        first.record(Verdict::Accepted);
        first.result(0, 1);
        let (cell, value) = first.seal(3, sinks()).unwrap();
        assert_eq!(cell, [PREFIX, &[0, 0, 0, 0, 0, 0, 0, 3]].concat());
        total.add_cell(&value).unwrap();
        assert_eq!(first.seal(4, sinks()), None, "nothing changed");
        let mut second = Tally::new(1);
        second.record(Verdict::Poisoned);
        second.result(0, -1);
        second.result(0, 1);
        total.add_cell(&second.seal(4, sinks()).unwrap().1).unwrap();
        assert!(total.is_balanced());
        assert_eq!((total.records, total.results["totals"]), (2, 1));
        assert!(total.add_cell(b"\xc1").is_err());
    }
}
