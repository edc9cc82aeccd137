//! The memory of one slot on a silo: a tiny engine of deterministic grains, with cells loaded on demand.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::Timestamp;

use granary_cluster::retry::{Caution, Culprit, Mode, Retry};
use granary_cluster::slot::Opened;
use granary_cluster::{Cause, Cells, Epoch, Outbox, Position, SourceId};

use crate::store::Row;
use crate::truth::{POISONED, RESULTS, fold, outputs_of, result};

/// The cell of the state.
pub const FOLD: &[u8] = b"fold";
/// The cell of the calls that ran.
pub const CALLS: &[u8] = b"calls";

/// The cell of a key.
pub fn key_cell(offset: u64) -> Vec<u8> {
    format!("key/{}", offset % 3).into_bytes()
}

/// What a slot has in memory between two commits.
#[derive(Debug)]
pub struct Memory {
    partition: u32,
    /// The next record.
    pub next: u64,
    cells: BTreeMap<Vec<u8>, Vec<u8>>,
    dirty: BTreeSet<Vec<u8>>,
    /// Those in the commit on its way: the store may not have them.
    in_flight: BTreeSet<Vec<u8>>,
    outbox: Outbox,
    /// Records applied since the last seal.
    pub unsealed: u32,
    /// Records in the commit on its way.
    pub sealed: u32,
    /// The record noted for being applied next.
    pub noted: Option<Position>,
    /// Care is for a whole tenure: a rollback does not end it.
    caution: Option<(Epoch, Caution)>,
}

/// A cell could not be loaded: the store's server is not the one the slot was acquired under.
#[derive(Clone, Copy, Debug)]
pub struct OtherRun;

impl Memory {
    /// None yet.
    pub fn new(partition: u32) -> Memory {
        Memory {
            partition,
            next: 0,
            cells: BTreeMap::new(),
            dirty: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            outbox: Outbox::default(),
            unsealed: 0,
            sealed: 0,
            noted: None,
            caution: None,
        }
    }

    /// The slot runs from here.
    pub fn open(&mut self, opened: &Opened) {
        self.drop_all();
        self.next = opened.positions.iter().find(|p| p.partition == self.partition).map_or(0, |p| p.offset);
        if self.caution.as_ref().is_none_or(|(epoch, _)| *epoch != opened.epoch) {
            self.caution = Some((opened.epoch, Caution::new(opened)));
        }
    }

    /// Nothing stays but the care.
    pub fn drop_all(&mut self) {
        *self = Memory { caution: self.caution.take(), ..Memory::new(self.partition) };
    }

    /// What care says about the next record.
    pub fn verdict(&self) -> Retry {
        self.caution.as_ref().map_or(Retry::Retry, |(_, caution)| caution.verdict(self.at(self.next)))
    }

    /// The position of a record of this slot.
    pub fn at(&self, offset: u64) -> Position {
        Position { source: SourceId(0), partition: self.partition, offset }
    }

    /// How the next records go into commits.
    pub fn mode(&self, culprit: &Culprit) -> Mode {
        self.caution.as_ref().map_or(Mode::Batch, |(_, caution)| caution.mode()).max(culprit.mode())
    }

    /// Whether anything is not sealed.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.unsealed > 0
    }

    /// Whether the next record finds its cells in memory.
    pub fn has_for_record(&self) -> bool {
        self.cells.contains_key(FOLD) && self.cells.contains_key(&key_cell(self.next))
    }

    /// Whether a call does.
    pub fn has_for_call(&self) -> bool {
        self.cells.contains_key(CALLS)
    }

    /// A cell, from memory or from the store; `row` is `None` when the store does not answer this slot.
    fn cell(&mut self, row: Option<&Row>, key: &[u8]) -> Result<Vec<u8>, OtherRun> {
        if let Some(value) = self.cells.get(key) {
            return Ok(value.clone());
        }
        let value = row.ok_or(OtherRun)?.cells.get(key).cloned().unwrap_or_default();
        self.cells.insert(key.to_vec(), value.clone());
        Ok(value)
    }

    fn number(&mut self, row: Option<&Row>, key: &[u8]) -> Result<u64, OtherRun> {
        Ok(self.cell(row, key)?.try_into().map_or(0, u64::from_le_bytes))
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.cells.insert(key.to_vec(), value);
        self.dirty.insert(key.to_vec());
    }

    /// Applies the next record.
    pub fn apply(&mut self, row: Option<&Row>) -> Result<(), OtherRun> {
        let offset = self.next;
        let state = fold(self.number(row, FOLD)?, offset);
        self.put(FOLD, state.to_le_bytes().to_vec());
        let key = key_cell(offset);
        let writes = self.number(row, &key)? + 1;
        self.put(&key, writes.to_le_bytes().to_vec());
        for index in 0..outputs_of(offset) {
            self.push(RESULTS, offset, index, &result(state, index));
        }
        self.pass();
        Ok(())
    }

    /// Sets the next record aside.
    pub fn poison(&mut self) {
        self.push(POISONED, self.next, 0, b"poisoned");
        self.pass();
    }

    fn pass(&mut self) {
        self.next += 1;
        self.unsealed += 1;
        self.noted = None;
    }

    fn push(&mut self, stream: granary_cluster::StreamId, offset: u64, index: u32, value: &[u8]) {
        let cause = Cause { source: SourceId(0), partition: self.partition, offset, index };
        self.outbox.push(stream, cause, Timestamp(0), b"key", |_| (), |out| out.extend_from_slice(value));
    }

    /// Runs a call that changes the slot's state; the calls it has seen.
    pub fn call(&mut self, row: Option<&Row>, call: u64) -> Result<Vec<u64>, OtherRun> {
        let mut calls = self.cell(row, CALLS)?;
        calls.extend_from_slice(&call.to_le_bytes());
        self.put(CALLS, calls);
        self.seen(row)
    }

    /// The calls that ran, as a reading call sees them.
    pub fn seen(&mut self, row: Option<&Row>) -> Result<Vec<u64>, OtherRun> {
        Ok(numbers(&self.cell(row, CALLS)?))
    }

    /// What goes into the next commit.
    pub fn seal(&mut self) -> (Cells, Vec<Position>, Outbox) {
        let mut cells = Cells::default();
        self.in_flight = std::mem::take(&mut self.dirty);
        for key in &self.in_flight {
            let value = &self.cells[key];
            cells.put(|out| out.extend_from_slice(key), |out| out.extend_from_slice(value));
        }
        self.sealed = std::mem::take(&mut self.unsealed);
        (cells, vec![self.at(self.next)], std::mem::take(&mut self.outbox))
    }

    /// The commit on its way is stored.
    pub fn stored(&mut self) {
        self.in_flight.clear();
        let records = std::mem::take(&mut self.sealed);
        if let Some((_, caution)) = &mut self.caution {
            caution.passed(records);
        }
    }

    /// Cells leave memory that are as the store has them. Planted: those on their way, too.
    pub fn evict(&mut self, too_early: bool) {
        let (dirty, in_flight) = (&self.dirty, &self.in_flight);
        self.cells.retain(|key, _| dirty.contains(key) || (!too_early && in_flight.contains(key)));
    }
}

/// A cell as a list of numbers.
pub fn numbers(cell: &[u8]) -> Vec<u64> {
    cell.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of eight"))).collect()
}
