//! Memory used again, and the count of what is in use.

use crate::pane::Pane;
use crate::rules::Rules;

/// So many panes are held ready to be used again.
const SPARE_PANES_MAX: usize = 1_024;

/// Panes that hold more than this, such as sketches, are not held.
const SPARE_BYTES_MAX: usize = 1_024;

/// Longer lists of panes are not held.
const SPARE_LIST_MAX: usize = 16;

/// Spare panes, deletions to be sealed, and how much memory the state takes.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    panes: Vec<Pane>,
    lists: Vec<Vec<Pane>>,
    /// Bytes on their way into a packed slice.
    pub(crate) scratch: Vec<u8>,
    /// Bytes of all that is in memory, about.
    pub(crate) bytes: usize,
    /// Stored slices that are gone: the key's place and the start. Their key is dirty, so its place stays its own.
    pub(crate) deleted: Vec<(u32, i64)>,
}

impl Pool {
    /// A new pane.
    pub(crate) fn open(&mut self, rules: &Rules, by: &[u8], start: i64, end: i64) -> Pane {
        let pane = Pane::open(rules, by, start, end, self.panes.pop());
        self.bytes += pane.memory_bytes();
        pane
    }

    /// A pane is gone.
    pub(crate) fn recycle(&mut self, pane: Pane) {
        self.less(pane.memory_bytes());
        if self.panes.len() < SPARE_PANES_MAX && pane.heap_bytes() <= SPARE_BYTES_MAX {
            self.panes.push(pane);
        }
    }

    /// An empty list of panes is no longer used.
    pub(crate) fn keep_list(&mut self, list: Vec<Pane>) {
        if list.capacity() > 0 && list.capacity() <= SPARE_LIST_MAX && self.lists.len() < SPARE_PANES_MAX {
            self.lists.push(list);
        }
    }

    /// An empty list of panes.
    pub(crate) fn list(&mut self) -> Vec<Pane> {
        self.lists.pop().unwrap_or_default()
    }

    /// What took `before` bytes takes `after` now.
    pub(crate) fn changed(&mut self, before: usize, after: usize) {
        self.bytes += after;
        self.less(before);
    }

    pub(crate) fn less(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
