//! Cells written lately, in memory, above the sorted tables on disk.
//!
//! Most cells of a stream live for seconds (a window's pane is written, corrected and deleted), so they are kept here
//! until they are folded into the tables; what was written and deleted in between never reaches a table.
//! Each of them is on disk too, in the store's record of recent commits, from which this is rebuilt.
//!
//! Invariant: a cell is looked for here first, then in what is being folded, then in the tables: it only moves down.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::filter::Filter;

/// Cells by key; `None` hides one of the tables.
pub type Cells = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;
/// A cell's key and value; no value hides one of the tables.
pub type Cell = (Box<[u8]>, Option<Box<[u8]>>);
/// What a cell here costs beyond its bytes, about.
const ENTRY_BYTES: usize = 72;

/// The cells of one slot.
#[derive(Debug, Default)]
pub struct View {
    active: Cells,
    frozen: Option<Arc<Cells>>,
    filter: Option<Arc<Filter>>,
    bytes: usize,
}

/// Where a cell was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Sight {
    /// Here; its value was appended.
    Found,
    /// Surely nowhere.
    Absent,
    /// Perhaps in the tables.
    Below,
}

impl View {
    /// Looks a cell up, appending its value.
    #[inline]
    pub fn find(&self, slot: u16, cell: &[u8], value: &mut Vec<u8>) -> Sight {
        let here = self.active.get(cell).or_else(|| self.frozen.as_ref()?.get(cell));
        match here {
            Some(Some(bytes)) => {
                value.extend_from_slice(bytes);
                Sight::Found
            }
            Some(None) => Sight::Absent,
            None if self.below(slot, cell) => Sight::Below,
            None => Sight::Absent,
        }
    }

    fn below(&self, slot: u16, cell: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_hold(slot, cell))
    }

    /// Writes or deletes a cell.
    pub fn set(&mut self, slot: u16, cell: &[u8], value: Option<&[u8]>) {
        let hides = value.is_none()
            && (self.frozen.as_ref().is_some_and(|frozen| frozen.contains_key(cell))
                || self.below(slot, cell));
        if value.is_none() && !hides {
            if let Some((_, Some(old))) = self.active.remove_entry(cell) {
                self.bytes -= cost(cell, Some(&old));
            }
            return;
        }
        self.bytes += cost(cell, value);
        match self.active.get_mut(cell) {
            Some(place) => {
                self.bytes -= cost(cell, place.as_deref());
                *place = value.map(Into::into);
            }
            None => {
                self.active.insert(cell.into(), value.map(Into::into));
            }
        }
    }

    /// Bytes of the cells that can still change.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets what can change aside for folding. Nothing may be set aside already.
    pub fn freeze(&mut self) -> Arc<Cells> {
        assert!(self.frozen.is_none(), "one fold at a time");
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&frozen));
        self.bytes = 0;
        frozen
    }

    /// What was set aside is in the tables, which `filter` knows.
    pub fn folded(&mut self, filter: Option<Arc<Filter>>) {
        self.frozen = None;
        self.filter = filter;
    }

    /// From now on `filter` knows the tables.
    pub fn set_filter(&mut self, filter: Arc<Filter>) {
        self.filter = Some(filter);
    }

    /// The cells here that start with `prefix` and are greater than `after`, in order, copied.
    pub fn range(&self, prefix: &[u8], after: Option<&[u8]>) -> Vec<Cell> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = Cells::new();
        for cells in self.frozen.as_deref().into_iter().chain([&self.active]) {
            let matching = cells
                .range::<[u8], _>((start, Bound::Unbounded))
                .take_while(|(cell, _)| cell.starts_with(prefix));
            found.extend(matching.map(|(cell, value)| (cell.clone(), value.clone())));
        }
        found.into_iter().collect()
    }
}

fn cost(cell: &[u8], value: Option<&[u8]>) -> usize {
    ENTRY_BYTES + cell.len() + value.map_or(0, <[u8]>::len)
}

/// The cells of every slot, each slot under its own lock.
#[derive(Debug)]
pub struct Recent {
    slots: Vec<RwLock<View>>,
}

impl Recent {
    /// Nothing, for so many slots. Without a filter every cell may be in the tables.
    pub fn new(slots: u16, filter: Option<Arc<Filter>>) -> Recent {
        let view = || RwLock::new(View { filter: filter.clone(), ..View::default() });
        Recent { slots: (0..slots).map(|_| view()).collect() }
    }

    /// How many slots.
    pub fn slots(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Looks at one slot.
    #[inline]
    pub fn read(&self, slot: u16) -> RwLockReadGuard<'_, View> {
        self.slots[usize::from(slot)].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one slot.
    pub fn write(&self, slot: u16) -> RwLockWriteGuard<'_, View> {
        self.slots[usize::from(slot)].write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(view: &View, cell: &[u8]) -> (Sight, Vec<u8>) {
        let mut value = Vec::new();
        (view.find(0, cell, &mut value), value)
    }

    #[test]
    fn what_lived_shortly_leaves_nothing_behind() {
        let mut view = View { filter: Some(Arc::new(Filter::new(10))), ..View::default() };
        view.set(0, b"a", Some(b"1"));
        view.set(0, b"a", Some(b"22"));
        assert_eq!(sight(&view, b"a"), (Sight::Found, b"22".to_vec()));
        view.set(0, b"a", None);
        assert_eq!(sight(&view, b"a"), (Sight::Absent, vec![]));
        assert_eq!((view.active.len(), view.bytes()), (0, 0));
    }

    #[test]
    fn a_deletion_hides_what_lies_below() {
        let filter = Arc::new(Filter::new(10));
        filter.add(0, b"old");
        let mut view = View { filter: Some(filter), ..View::default() };
        view.set(0, b"new", Some(b"1"));
        assert_eq!(sight(&view, b"old").0, Sight::Below);
        view.set(0, b"old", None);
        view.freeze();
        view.set(0, b"new", None);
        assert_eq!(sight(&view, b"old").0, Sight::Absent);
        assert_eq!(sight(&view, b"new").0, Sight::Absent);
        assert_eq!(view.range(b"", None).len(), 2, "both deletions must reach the tables");
        assert_eq!(view.range(b"n", None), [(b"new".as_slice().into(), None)]);
        view.folded(None);
        assert_eq!(sight(&view, b"old").0, Sight::Below);
        assert_eq!(sight(&view, b"new").0, Sight::Absent);
    }
}
