//! Everything that must hold, checked after each step.

use std::collections::BTreeSet;

use granary_core::SlotId;

use granary_cluster::invariants::{Broken, Watch};
use granary_cluster::{Commit, CommitNo, Marker, SlotRecord};

use crate::log::Output;
use crate::memory::{CALLS, FOLD, key_cell, numbers};
use crate::reads::Reads;
use crate::silo::Answer;
use crate::store::Row;
use crate::truth::Truth;

/// What is known of one slot, from outside.
#[derive(Debug)]
pub struct Checks {
    slot: usize,
    truth: Truth,
    watch: Watch,
    visible: usize,
    /// The highest commit ever stored.
    stored: CommitNo,
    /// Calls whose effect was ever stored.
    ran: BTreeSet<u64>,
    /// Calls that were answered, and so must stay.
    answered: BTreeSet<u64>,
    /// Calls that were told `no`.
    refused: BTreeSet<u64>,
    /// Calls the store forgot.
    forgotten: BTreeSet<u64>,
    /// Whether answers agree with the order of time.
    pub reads: Reads,
}

/// Something does not hold.
pub type Check = Result<(), String>;

fn told(result: Result<(), Broken>) -> Check {
    result.map_err(|broken| broken.to_string())
}

impl Checks {
    /// Of a new slot.
    pub fn new(slot: usize, truth: Truth) -> Checks {
        Checks {
            slot,
            truth,
            watch: Watch::new(SlotId(slot as u16)),
            visible: 0,
            stored: CommitNo(0),
            ran: BTreeSet::new(),
            answered: BTreeSet::new(),
            refused: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            reads: Reads::default(),
        }
    }

    /// What its input must yield.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// A commit was written.
    pub fn written(&mut self, before: &SlotRecord, commit: &Commit, row: &Row) -> Check {
        told(self.watch.stored(before, commit, &row.record))?;
        self.stored = self.stored.max(commit.n);
        self.ran.extend(calls(row));
        self.state(row)
    }

    /// The stored state is the fold of the input up to the stored position.
    fn state(&self, row: &Row) -> Check {
        told(self.watch.row(&row.record))?;
        let next = row.record.positions.iter().find(|p| p.partition as usize == self.slot);
        let next = next.map_or(0, |p| p.offset);
        let number =
            |key: &[u8]| numbers(row.cells.get(key).map_or(&[], |v| v)).first().copied().unwrap_or(0);
        if number(FOLD) != self.truth.state_at(next) {
            return Err(format!(
                "slot {}: the stored state is not the fold of the records below {next}",
                self.slot
            ));
        }
        for i in 0..3 {
            let (is, must) = (number(&key_cell(i)), self.truth.writes_at(next, i));
            if is != must {
                return Err(format!("slot {}: cell {i} says {is} at {next}, it must be {must}", self.slot));
            }
        }
        Ok(())
    }

    /// Outputs became visible: the next of those that must come, each once.
    pub fn see(&mut self, visible: &[Output]) -> Check {
        let all = self.truth.outputs();
        while let Some(output) = visible.get(self.visible) {
            told(self.watch.visible(output.cause))?;
            if all.get(self.visible) != Some(output) {
                let must = all.get(self.visible);
                return Err(format!("slot {}: visible {output:?}, it must be {must:?}", self.slot));
            }
            self.visible += 1;
        }
        Ok(())
    }

    /// A marker was committed: its outputs are those of stored commits.
    pub fn mark(&mut self, marker: &Marker) -> Check {
        told(self.watch.marked(marker))?;
        if marker.n > self.stored {
            return Err(format!("slot {}: commit {} is published and was never stored", self.slot, marker.n));
        }
        Ok(())
    }

    /// A reply left, for a call that did `call` and saw `seen`.
    pub fn answer(&mut self, call: Option<u64>, seen: &[u64]) -> Check {
        if let Some(lost) = seen.iter().chain(&call).find(|each| !self.ran.contains(each)) {
            return Err(format!("slot {}: a reply shows call {lost}, which is not stored", self.slot));
        }
        self.answered.extend(call);
        Ok(())
    }

    /// An answer left: it saw what was answered before its call was made, and nothing that is not stored.
    pub fn order(&mut self, answer: &Answer, row: &Row, knows_run: bool) -> Check {
        let stored: Vec<u64> = calls(row).collect();
        let told = self.reads.answered(answer, &stored, knows_run);
        told.map_err(|what| format!("slot {}: {what}", self.slot))
    }

    /// Replies of commit `n` left.
    pub fn acknowledge(&mut self, n: CommitNo) -> Check {
        told(self.watch.acknowledged(n, self.stored))
    }

    /// A slot opened while the store never lost anything.
    pub fn open(&mut self, n: CommitNo) -> Check {
        told(self.watch.opened(n, None))
    }

    /// A call was told that it surely did not run.
    pub fn refuse(&mut self, call: Option<u64>) {
        self.refused.extend(call);
    }

    /// The store lost its last writes; `row` as it was and as it is. With the embedded engine the log went with it.
    pub fn roll_back(&mut self, before: &Row, after: &Row, embedded: bool) -> Check {
        let kept: BTreeSet<u64> = calls(after).collect();
        self.reads.rolled_back(kept.len());
        self.forgotten.extend(calls(before).filter(|call| !kept.contains(call)));
        if embedded {
            self.watch = Watch::new(SlotId(self.slot as u16));
            self.visible = 0;
            self.see(&after.visible)?;
        }
        self.state(after)
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self, row: &Row) -> bool {
        let next = row.record.positions.first().map_or(0, |p| p.offset);
        self.visible == self.truth.outputs().len() && next == self.truth.records && row.outbox.is_empty()
    }

    /// At the end: answered calls are stored, or lost with the store's writes; refused ones never were.
    pub fn end(&self, row: &Row) -> Check {
        let kept: BTreeSet<u64> = calls(row).collect();
        if let Some(lost) = self.answered.iter().find(|c| !kept.contains(c) && !self.forgotten.contains(c)) {
            return Err(format!("slot {}: call {lost} was answered and is not stored", self.slot));
        }
        if let Some(wrong) = self.refused.intersection(&self.ran).next() {
            return Err(format!("slot {}: call {wrong} was told `no`, and it ran", self.slot));
        }
        let all: Vec<u64> = calls(row).collect();
        if all.len() != kept.len() {
            return Err(format!("slot {}: a call ran twice: {all:?}", self.slot));
        }
        self.state(row)
    }
}

fn calls(row: &Row) -> impl Iterator<Item = u64> + use<> {
    numbers(row.cells.get(CALLS).map_or(&[], |v| v)).into_iter()
}
