//! The state machine of one window step in one slot.

use std::sync::Arc;

use granary_core::{Span, Timestamp};

use crate::Corrupt;
use crate::event::Input;
use crate::row::{Outcome, Output, Row, State};
use crate::spec::Spec;

/// One window step in one slot: takes inputs, gives rows, keeps its state in cells.
///
/// Before each input ask [`Operator::missing`] which cells must be supplied; then [`Operator::apply`] it. The operator
/// may be dropped at any time and rebuilt from the cells its commits wrote.
#[derive(Debug)]
pub struct Operator {
    spec: Arc<Spec>,
    prefix: Box<[u8]>,
}

/// The present row of a window, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Peek<'a> {
    /// Where it stands.
    pub state: State,
    /// The watermark that decides it.
    pub watermark: Timestamp,
    /// The row as it would be published now: `revision` is the one of the last row published, or 0. `None` when there is no such
    /// window, or it is no longer kept.
    pub row: Option<Row<'a>>,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStats {
    /// The largest event time seen.
    pub last_event: Timestamp,
    /// The watermark that counts for the key.
    pub clock: Timestamp,
    /// Events accepted.
    pub events: u64,
    /// Copies refused.
    pub duplicates: u64,
    /// Events refused because their windows were closed.
    pub late: u64,
    /// Windows not closed, as far as they are in memory or listed.
    pub open_windows: u64,
}

impl Operator {
    /// A new one without any state in memory. Its cells' keys begin with `prefix` (the step). The spec must be free of
    /// mistakes.
    pub fn new(spec: Arc<Spec>, prefix: &[u8]) -> Operator {
        Operator { spec, prefix: prefix.into() }
    }

    /// What it does.
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Appends the keys of the cells that must be supplied before `input` can be applied; nothing when all is in
    /// memory. Ask again after supplying: what one cell says may call for another.
    pub fn missing(&mut self, input: &Input<'_>, cells: &mut Vec<Vec<u8>>) {
        let _ = (input, cells);
        todo!()
    }

    /// Hands over a cell that was missing; `None` when the store has none.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let _ = (cell, value);
        todo!()
    }

    /// Applies one input. Nothing must be missing for it.
    pub fn apply(&mut self, input: &Input<'_>, out: &mut impl Output) -> Outcome {
        let _ = (input, out);
        todo!()
    }

    /// The slot stood so long at the end of all its inputs: keys are silent for so much longer.
    pub fn pass_silence(&mut self, stood: Span) {
        let _ = stood;
        todo!()
    }

    /// Appends up to `limit` keys with a result to come that were silent for `idle_after`: apply [`Input::CloseIdle`]
    /// to each. Needs [`Operator::missing_index`] to have nothing missing.
    pub fn idle_keys(&mut self, limit: usize, keys: &mut Vec<Box<[u8]>>) {
        let _ = (limit, keys);
        todo!()
    }

    /// Appends the cells that list the keys with a result to come, as far as they are not in memory.
    pub fn missing_index(&mut self, cells: &mut Vec<Vec<u8>>) {
        let _ = cells;
        todo!()
    }

    /// Hands the cells changed since the last seal to `put`, `None` for a deletion: they belong to commit `n`. A window
    /// opened and closed since then costs nothing.
    pub fn seal(&mut self, n: u64, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        let _ = (n, put);
        todo!()
    }

    /// Commit `n` is stored: what it held may leave memory.
    pub fn acknowledged(&mut self, n: u64) {
        let _ = n;
        todo!()
    }

    /// Bytes of memory the state takes, about.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }

    /// Lets cold clean state leave until about `target_bytes` remain.
    pub fn evict(&mut self, target_bytes: usize) {
        let _ = target_bytes;
        todo!()
    }

    /// The present row of the window of `key` and `by` that starts at `start` (and ends at `end`, for cumulating
    /// windows; without it the last one). Appends to `cells` and answers `None` when cells are missing.
    pub fn peek(
        &mut self,
        key: &[u8],
        by: &[u8],
        start: Timestamp,
        end: Option<Timestamp>,
        cells: &mut Vec<Vec<u8>>,
    ) -> Option<Peek<'_>> {
        let _ = (key, by, start, end, cells);
        todo!()
    }

    /// What is known of a key; `None` when cells are missing, or (with nothing appended) the key was never seen.
    pub fn key_stats(&mut self, key: &[u8], cells: &mut Vec<Vec<u8>>) -> Option<KeyStats> {
        let _ = (key, cells);
        todo!()
    }
}
