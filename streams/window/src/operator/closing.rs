//! What falls due at once is published in portions, so that a million windows of one moment are no single step.
//!
//! The clocks move at once; what that made due follows portion by portion, in the order in which one step would give it:
//! keys by name, windows by start. The root cell says that a closing is under way, and the cells of keys say what is
//! still due: so whoever builds the operator anew between two portions goes on where the last commit ended.

use std::cmp::Reverse;

use super::Operator;
use super::cells::{IDS, KEY, cell, lacks_ids, needs, slice_cell};
use crate::Corrupt;
use crate::encode::{Reader, put_bytes};
use crate::key::NOT_LISTED;
use crate::row::Output;

/// Windows published in one step, about: a slice, which is one cell, is not parted.
pub const PORTION_WINDOWS: usize = 1_000;

/// What the last input made due and is not published yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Nothing,
    /// Of one key, whose clock has moved.
    Key(Box<[u8]>),
    /// Of all keys: their common watermark has moved, or the input has ended.
    All,
    /// The same, and then early results that waited for the wall clock.
    AllThenEarly,
}

const OF_KEY: u8 = 1;
const OF_ALL: u8 = 2;
const OF_ALL_THEN_EARLY: u8 = 3;

impl Closing {
    /// Appends it to the root's cell; nothing when there is nothing to say.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Closing::Nothing => {}
            Closing::Key(name) => {
                out.push(OF_KEY);
                put_bytes(out, name);
            }
            Closing::All => out.push(OF_ALL),
            Closing::AllThenEarly => out.push(OF_ALL_THEN_EARLY),
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Closing, Corrupt> {
        if reader.left() == 0 {
            return Ok(Closing::Nothing);
        }
        match reader.byte()? {
            OF_KEY => Ok(Closing::Key(reader.bytes()?.into())),
            OF_ALL => Ok(Closing::All),
            OF_ALL_THEN_EARLY => Ok(Closing::AllThenEarly),
            _ => Err(Corrupt { what: "what is being closed expected" }),
        }
    }
}

impl Operator {
    /// Whether an input made more due than was published: [`crate::Input::GoOn`] comes before any other input. Of an
    /// operator without its root cell nobody knows; see [`Operator::missing`] of `GoOn`.
    pub fn is_closing(&self) -> bool {
        self.root.closing != Closing::Nothing
    }

    /// Publishes this many windows in one step at most instead of [`PORTION_WINDOWS`].
    pub fn set_portion(&mut self, windows: usize) {
        self.portion = windows.max(1);
    }

    /// Cells that a seal would write now, about.
    pub fn open_cells(&self) -> usize {
        self.dirty.len() * 2 + self.pool.deleted.len()
    }

    /// What the next portion publishes.
    pub(super) fn missing_portion(&mut self, cells: &mut Vec<Vec<u8>>) {
        self.missing_root(cells);
        if self.rules.resident && !self.is_resident {
            return; // what is due is known when everything is in memory
        }
        match self.root.closing.clone() {
            Closing::Nothing => {}
            Closing::Key(name) => {
                if let Some(place) = self.missing_key(&name, cells) {
                    let w = self.w(place);
                    self.missing_due(place, w, cells);
                }
            }
            Closing::All | Closing::AllThenEarly => {
                if self.due.is_empty() {
                    let before = cells.len();
                    self.missing_index(cells);
                    if cells.len() > before {
                        return;
                    }
                    self.collect_due();
                }
                self.missing_listed(cells);
            }
        }
    }

    /// Of the keys with something due as many cells as the next portion can need.
    fn missing_listed(&self, cells: &mut Vec<Vec<u8>>) {
        let mut left = self.portion;
        for place in self.due.iter().rev() {
            let key = self.keys.get(*place);
            if !key.flags.loaded {
                cells.push(cell(&self.prefix, KEY, key.name.bytes()));
                left -= 1;
            }
            if lacks_ids(&self.rules, key) {
                cells.push(cell(&self.prefix, IDS, key.name.bytes()));
            }
            let w = self.w(*place);
            for slice in key.slices.iter().filter(|slice| slice.next <= w).take(left) {
                left -= 1;
                if !slice.loaded && needs(&self.rules, slice) {
                    cells.push(slice_cell(&self.prefix, key.name.bytes(), slice.start));
                }
            }
            if left == 0 {
                return;
            }
        }
    }

    /// The next portion.
    pub(super) fn go_on(&mut self, out: &mut impl Output) {
        let Closing::Key(name) = &self.root.closing else { return self.close_portion(out) };
        let name = name.clone();
        let place = self.place(&name);
        let w = self.w(place);
        let mut left = self.portion;
        let is_done = self.fire(place, w, &mut left, out);
        self.settle(place);
        if is_done {
            self.set_closing(Closing::Nothing);
        }
    }

    /// More of this key is due than a portion.
    pub(super) fn close_key_on(&mut self, place: u32) {
        let name = self.keys.get(place).name.bytes().into();
        self.set_closing(Closing::Key(name));
    }

    /// Finds the keys with something due by the watermark of all keys.
    pub(super) fn collect_due(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        if self.root.ended {
            due.extend(self.index.members());
        } else {
            self.collect_queued(&mut due);
        }
        self.keys.sort(&mut due);
        due.reverse();
        self.due = due;
    }

    fn collect_queued(&mut self, due: &mut Vec<u32>) {
        let w = self.stream_w();
        while let Some(Reverse((at, place))) = self.queue.peek().copied()
            && at <= w
        {
            self.queue.pop();
            let key = self.keys.get_mut(place);
            if !key.flags.used || key.mark != at {
                continue;
            }
            key.mark = i64::MAX;
            if key.listed_at == NOT_LISTED {
                // nothing of it is to come, and it may leave memory before its turn
            } else if key.next <= w {
                due.push(place);
            } else {
                self.enqueue(place);
            }
        }
    }

    /// Publishes the next portion of what is due by the watermark of all keys.
    pub(super) fn close_portion(&mut self, out: &mut impl Output) {
        let mut left = self.portion;
        while left > 0
            && let Some(place) = self.due.last().copied()
        {
            let w = self.w(place);
            let is_done = self.fire(place, w, &mut left, out);
            self.settle(place);
            // With everything published the key may leave memory: its place would be another's.
            if is_done || self.keys.get(place).listed_at == NOT_LISTED {
                self.due.pop();
            }
        }
        let then_early = self.root.closing == Closing::AllThenEarly;
        self.note_closing();
        if then_early && !self.is_closing() {
            self.early_results(out);
        }
    }

    /// Says whether keys with something due are left.
    pub(super) fn note_closing(&mut self) {
        if self.due.is_empty() {
            self.due.shrink_to(self.portion);
            self.set_closing(Closing::Nothing);
        } else if self.root.closing == Closing::Nothing {
            self.set_closing(Closing::All);
        }
    }

    /// Early results come after what is due.
    pub(super) fn early_after_closing(&mut self) {
        self.set_closing(Closing::AllThenEarly);
    }

    fn set_closing(&mut self, closing: Closing) {
        if self.root.closing != closing {
            self.root.closing = closing;
            self.root.dirty = true;
        }
    }
}
