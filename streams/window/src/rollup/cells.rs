//! Cells of a roll-up.
//!
//! | cell | key after the step's prefix | holds |
//! |---|---|---|
//! | gauge | `G` | what slots have reported, where this one is the one that hears them |
//! | teller | `U` | what this slot has reported |
//! | agenda | `A`... | the watermark and the panes by their ends, see [`crate::agenda`] |
//! | pane | `P`, name | revision, what was told, how many rows |
//! | chunk | `C`, name, number (4 bytes) | rows |

use super::{Arrival, Pane, Rollup, name};
use crate::Corrupt;
use crate::operator::Put;

const GAUGE: u8 = b'G';
const TELLER: u8 = b'U';
const AGENDA: u8 = b'A';
const PANE: u8 = b'P';
const CHUNK: u8 = b'C';

impl Rollup {
    /// The keys of its cells begin with this.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn cell(&self, kind: u8, name: &[u8]) -> Vec<u8> {
        [&self.prefix[..], &[kind], name].concat()
    }

    pub(super) fn pane_cell(&self, name: &[u8]) -> Vec<u8> {
        self.cell(PANE, name)
    }

    pub(super) fn chunk_cell(&self, name: &[u8], number: u32) -> Vec<u8> {
        [&self.cell(CHUNK, name)[..], &number.to_be_bytes()].concat()
    }

    /// Appends the cells without which it is not known how late it is.
    pub fn missing_root(&self, cells: &mut Vec<Vec<u8>>) {
        self.agenda.missing(cells);
        if !self.teller.is_known() {
            cells.push(self.cell(TELLER, b""));
        }
    }

    /// Appends the cell that a report needs.
    pub fn missing_gauge(&self, cells: &mut Vec<Vec<u8>>) {
        if !self.gauge.is_known() {
            cells.push(self.cell(GAUGE, b""));
        }
    }

    /// Appends the cells that a row needs.
    pub fn missing(&self, arrival: &Arrival<'_>, cells: &mut Vec<Vec<u8>>) {
        let before = cells.len();
        self.missing_root(cells);
        if cells.len() > before {
            return;
        }
        let w = self.watermark().ms();
        for (start, end) in self.spec.windows(arrival.start, arrival.end) {
            if w < self.spec.close(end) {
                self.missing_pane(&name(start, end, arrival.key, arrival.by), cells);
            }
        }
    }

    pub(super) fn missing_pane(&self, name: &[u8], cells: &mut Vec<Vec<u8>>) {
        if self.panes.contains_key(name) {
            return;
        }
        match self.loading.get(name) {
            None => cells.push(self.pane_cell(name)),
            Some(pane) => cells.extend(pane.absent().map(|chunk| self.chunk_cell(name, chunk))),
        }
    }

    /// Appends the cells that the next portion of what is due needs.
    pub fn missing_due(&mut self, cells: &mut Vec<Vec<u8>>) {
        let before = cells.len();
        self.missing_root(cells);
        if cells.len() > before {
            return;
        }
        let names = self.agenda.page(cells).map(<[_]>::to_vec).unwrap_or_default();
        names.iter().for_each(|name| self.missing_pane(name, cells));
    }

    /// Hands over a cell that was missing: `None` when the store has none. One that is in memory already is passed over.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let wrong = Corrupt { what: "a cell of a roll-up expected" };
        let (kind, rest) =
            cell.strip_prefix(&*self.prefix).and_then(<[u8]>::split_first).ok_or_else(|| wrong.clone())?;
        match (*kind, value) {
            (AGENDA, value) => self.agenda.supply(cell, value),
            (GAUGE, value) => self.gauge.supply(value),
            (TELLER, value) => self.teller.supply(value),
            (PANE, _) if self.panes.contains_key(rest) || self.loading.contains_key(rest) => Ok(()),
            (PANE, None) => {
                self.settle_in(rest, Pane::new());
                Ok(())
            }
            (PANE, Some(value)) => {
                self.loading.insert(rest.into(), Pane::read(value)?);
                self.take_whole(rest);
                Ok(())
            }
            (CHUNK, Some(value)) => {
                let (name, number) = rest.split_last_chunk::<4>().ok_or(wrong)?;
                let Some(pane) = self.loading.get_mut(name) else { return Ok(()) };
                pane.supply(u32::from_be_bytes(*number), value)?;
                self.take_whole(name);
                Ok(())
            }
            _ => Err(wrong),
        }
    }

    /// A pane of which all is there takes its place.
    fn take_whole(&mut self, name: &[u8]) {
        if self.loading.get(name).is_some_and(|pane| pane.absent().next().is_none())
            && let Some(pane) = self.loading.remove(name)
        {
            self.settle_in(name, pane);
        }
    }

    fn settle_in(&mut self, name: &[u8], mut pane: Pane) {
        pane.bytes = pane.memory_bytes(name);
        self.bytes += pane.bytes;
        self.panes.insert(name.into(), pane);
    }

    /// Hands the cells that changed to `put`, `None` for a deletion: they are part of commit `n`.
    pub fn seal(&mut self, n: u64, put: &mut Put<'_>) {
        let mut out = Vec::new();
        std::mem::take(&mut self.deleted).iter().for_each(|cell| put(cell, None));
        for name in std::mem::take(&mut self.dirty) {
            let Some(mut pane) = self.panes.remove(&name) else { continue };
            (pane.is_dirty, pane.sealed) = (false, n);
            pane.seal(&mut out, |chunk, value| {
                let cell = chunk.map_or_else(|| self.pane_cell(&name), |chunk| self.chunk_cell(&name, chunk));
                put(&cell, Some(value));
            });
            self.panes.insert(name, pane);
        }
        if self.gauge.seal(&mut out) {
            put(&self.cell(GAUGE, b""), Some(&out));
        }
        if self.teller.seal(&mut out) {
            put(&self.cell(TELLER, b""), Some(&out));
        }
        self.agenda.seal(n, &mut |cell: &[u8], value: Option<&[u8]>| put(cell, value));
    }

    /// The store has commit `n`: what did not change since may leave memory.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = self.acknowledged.max(n);
        self.agenda.acknowledged(n);
    }

    /// Lets panes go that the store has and nobody used lately, until memory is about this; looks at so many at most.
    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        let Rollup { panes, bytes, acknowledged, .. } = self;
        let mut looks = 0;
        panes.retain(|_, pane| {
            looks += 1;
            let is_held = pane.is_dirty || pane.sealed > *acknowledged;
            if *bytes <= target_bytes || looks > looks_max || is_held || std::mem::take(&mut pane.is_touched)
            {
                return true;
            }
            *bytes -= pane.bytes;
            false
        });
        self.agenda.evict();
    }

    /// How many cells a seal would write now, about.
    pub fn open_cells(&self) -> usize {
        2 * self.dirty.len() + self.deleted.len() + self.agenda.open_cells() + 1
    }

    /// Bytes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.agenda.memory_bytes()
    }
}
