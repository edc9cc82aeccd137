//! Cells written lately, in memory, above the sorted tables on disk.
//!
//! Most cells of a stream live for seconds (a window's pane is written, corrected and deleted), so they are kept here
//! until they are folded into the tables; what was written and deleted in between never reaches a table.
//! Each of them is on disk too, in the store's record of recent commits, from which this is rebuilt.
//!
//! Invariant: a cell is looked for here first, then in what is being folded, then in the tables: it only moves down.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::filter::{Filter, hash_of};
use crate::hashed::{Cells, Kept};

/// A cell's key and value; no value hides one of the tables.
pub type Cell = (Box<[u8]>, Option<Box<[u8]>>);

/// The cells of one slot.
#[derive(Debug, Default)]
pub struct View {
    active: Cells,
    frozen: Option<Arc<Cells>>,
    filter: Option<Arc<Filter>>,
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
        let hash = hash_of(slot, cell);
        let here = self.active.get(hash, cell).or_else(|| self.frozen.as_ref()?.get(hash, cell));
        match here.map(Kept::value) {
            Some(Some(bytes)) => {
                value.extend_from_slice(bytes);
                Sight::Found
            }
            Some(None) => Sight::Absent,
            None if self.below(hash) => Sight::Below,
            None => Sight::Absent,
        }
    }

    fn below(&self, hash: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_hold(hash))
    }

    /// Writes or deletes a cell.
    pub fn set(&mut self, slot: u16, cell: &[u8], value: Option<&[u8]>) {
        let hash = hash_of(slot, cell);
        let is_frozen = || self.frozen.as_ref().is_some_and(|frozen| frozen.get(hash, cell).is_some());
        if value.is_some() || is_frozen() || self.below(hash) {
            self.active.set(hash, cell, value);
        } else {
            self.active.remove(hash, cell); // there is nothing to hide
        }
    }

    /// Bytes of the cells that can still change.
    pub fn bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Sets what can change aside for folding. Nothing may be set aside already.
    pub fn freeze(&mut self) -> Arc<Cells> {
        assert!(self.frozen.is_none(), "one fold at a time");
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&frozen));
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
        let is_asked_for =
            |kept: &&Kept| kept.key().starts_with(prefix) && after.is_none_or(|after| kept.key() > after);
        let mut found: Vec<(bool, &Kept)> = Vec::new();
        for (is_older, cells) in [(false, Some(&self.active)), (true, self.frozen.as_deref())] {
            let cells = cells.into_iter().flat_map(Cells::iter);
            found.extend(cells.filter(is_asked_for).map(|kept| (is_older, kept)));
        }
        found.sort_unstable_by(|(a_is_older, a), (b_is_older, b)| {
            a.key().cmp(b.key()).then(a_is_older.cmp(b_is_older))
        });
        found.dedup_by(|(_, later), (_, first)| later.key() == first.key());
        found.into_iter().map(|(_, kept)| (kept.key().into(), kept.value().map(Into::into))).collect()
    }
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
        assert_eq!((view.active.iter().count(), view.bytes()), (0, 0));
    }

    #[test]
    fn a_deletion_hides_what_lies_below() {
        let filter = Arc::new(Filter::new(10));
        filter.add(hash_of(0, b"old"));
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
