//! What falls due in a mass is published a portion at a time: between two portions calls have their turns, and the
//! slot is sealed when its batch is full.
//!
//! Nothing else is applied to the slot before the last portion, so cutting it changes neither rows nor their order. The
//! pipeline's cells say how far it has come: a slot that was opened anew is asked first, and goes on.

use std::rc::Rc;

use granary_cluster::Applied;

use crate::slot::{COMMIT_CELLS_MAX, SlotHost};

use super::Lane;
use super::moving::Here;

/// Slots of a lane that close in a mass at the same time; the others wait until the store has what these have closed. Each
/// may have a batch open and one on its way, which bounds the memory that a mass of results takes, and how much a call
/// has before it in the store's queue.
const CLOSING_SLOTS_MAX: usize = 8;

/// What changes fewer cells is no mass: it is sealed when a commit is due, and holds nobody up.
const MASS_CELLS: usize = COMMIT_CELLS_MAX / 8;

impl Lane {
    /// Publishes one portion of one slot.
    pub(super) fn close_due(&self) {
        while let Some(host) = self.next_closing() {
            if self.close_portion(&host) {
                return;
            }
        }
    }

    /// A slot whose next portion can be published now.
    pub(super) fn next_closing(&self) -> Option<Rc<SlotHost>> {
        if self.is_stopping.get() || self.is_finished.get() {
            return None; // what is left is closed by whoever opens the slot next
        }
        let mut closing = self.slots.iter().flatten().filter(|host| host.is_closing.get()).peekable();
        closing.peek()?;
        let may_begin = !self.is_closing_enough();
        closing.find(|host| (may_begin || is_under_way(host)) && self.may_go_on(host)).cloned()
    }

    /// Whether no further slot may begin to close.
    pub(super) fn is_closing_enough(&self) -> bool {
        self.slots.iter().flatten().filter(|host| is_under_way(host)).count() >= CLOSING_SLOTS_MAX
    }

    pub(super) fn may_go_on(&self, host: &SlotHost) -> bool {
        let inner = host.inner.borrow();
        host.is_running.get()
            && host.here.get() == Here::Yes
            && host.stream_turns.get() == 0
            && host.broken.borrow().is_none()
            && self.now.get() >= host.paused_until.get()
            && !host.is_batch_full(&inner)
            && !inner.machine.is_outbox_full()
    }

    /// True when something was published or changed.
    fn close_portion(&self, host: &Rc<SlotHost>) -> bool {
        let mut inner = host.inner.borrow_mut();
        let before = inner.effects.outbox.len();
        let applied = self.by_clock(host, &mut inner, |pipeline, cause, inner| {
            pipeline.go_on(host.id, cause, &mut inner.effects)
        });
        let Some(applied) = applied else { return false };
        host.is_closing.set(applied == Applied::More);
        let cells = self.pipeline.borrow().open_cells(host.id);
        let has_changed = inner.effects.outbox.len() > before || cells > 0;
        if has_changed {
            host.has_changes.set(true);
        }
        if applied == Applied::More || cells >= MASS_CELLS {
            host.closed_in.set(host.open_commit.get());
            // The last of it goes out at once, too: other slots may wait until the store has it.
            inner.is_single_full |= applied == Applied::Done || cells >= COMMIT_CELLS_MAX;
        }
        self.tell_decided(host, inner);
        has_changed
    }
}

/// Whether the store has not acknowledged yet what was closed in the slot.
fn is_under_way(host: &SlotHost) -> bool {
    host.is_running.get() && host.closed_in.get() > host.stored.get()
}
