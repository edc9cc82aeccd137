//! A slot is opened: what is stored of it is here, its reminders are read, and then it runs.

use std::rc::Rc;

use granary_cluster::retry::Caution;
use granary_cluster::slot::Opened;
use granary_cluster::{CommitNo, RunId};
use granary_core::{Error, ErrorKind, Result, SlotId, Span};

use crate::reminders::Reminders;
use crate::slot::SlotHost;

use super::Lane;
use super::alarms::Alarm;
use super::commit::millis;
use super::moving::Here;
use super::reader::{self, Task};

/// A reminder fires within so much of its due time. What is due for no longer when a slot is opened was not missed: a slot
/// that moves in order at that moment skips nothing.
const FIRES_WITHIN: Span = Span(1_000);

impl Lane {
    /// The slot's machine has opened it. The slot runs as soon as its reminders are read: what a turn asks of them has to
    /// find them.
    pub(super) fn opened(&self, host: &Rc<SlotHost>, opened: &Opened) {
        let named = host.named_lost.replace(CommitNo(0));
        self.must_hold_that(host, |watch| watch.opened(opened.n, Some(named)));
        let mut inner = host.inner.borrow_mut();
        inner.positions.clone_from(&opened.positions);
        let fresh = Caution::new(opened);
        // a rollback opens the slot again: what it was careful about stays
        if inner.caution.is_none() || opened.tries > 0 {
            inner.caution = Some(fresh);
        }
        inner.noted = None;
        (inner.records_open, inner.records_sealed, inner.is_single_full) = (0, 0, false);
        host.stored.set(opened.n.0);
        host.run.set(inner.machine.run());
        host.open_commit.set(inner.machine.open_commit().0);
        tracing::debug!(slot = %host.id, n = %opened.n, epoch = %opened.epoch, positions = ?opened.positions, "slot opened");
        let empty = inner.reminders.opening(self.now.get() - FIRES_WITHIN);
        drop(inner);
        host.opening.set(host.opening.get() + 1);
        match &self.scanner {
            Some(scanner) => scanner.ask(Task::Reminders(host.id, host.opening.get(), empty)),
            None => {
                let read = reader::reminders(&*self.config.store, host.id, empty);
                self.reminders_read(host, read);
            }
        }
    }

    /// The reading thread has read them, for an opening that may be past.
    pub(super) fn reminders(&self, slot: SlotId, opening: u64, read: Result<(Reminders, RunId)>) {
        if let Some(host) = self.slot(slot).filter(|host| host.opening.get() == opening) {
            self.reminders_read(&host, read);
        }
    }

    fn reminders_read(&self, host: &Rc<SlotHost>, read: Result<(Reminders, RunId)>) {
        let is_of_slot =
            |(_, run): &(Reminders, RunId)| !self.config.store_is_remote || *run == host.run.get();
        let is_other = || Error::new(ErrorKind::Unavailable, "the store's server is another one now");
        match read.and_then(|read| is_of_slot(&read).then_some(read).ok_or_else(is_other)) {
            Ok((reminders, _)) => self.begin_running(host, reminders),
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                tracing::warn!(slot = %host.id, %error, "the reminders of the slot cannot be read; trying again in {wait:?}");
                self.set_alarm(self.now.get() + millis(wait), Alarm::Reopen(host.id));
            }
        }
    }

    fn begin_running(&self, host: &Rc<SlotHost>, reminders: Reminders) {
        if let Some(at) = reminders.next_due() {
            self.set_alarm(at, Alarm::Reminders(host.id));
        }
        host.inner.borrow_mut().reminders = reminders;
        host.is_running.set(true);
        host.is_closing.set(true); // perhaps: the pipeline knows
        host.closed_in.set(0);
        host.has_changes.set(false);
        self.begin_positions(host);
        self.begin_replay(host);
        let backlog = std::mem::take(&mut host.inner.borrow_mut().backlog);
        tracing::debug!(slot = %host.id, "slot runs");
        if host.here.get() == Here::Yes {
            self.rewind_feeds(host);
        }
        self.local.borrow_mut().extend(backlog);
    }

    /// Opens a slot whose reminders could not be read.
    pub(super) fn reopen(&self, host: &Rc<SlotHost>) {
        if !host.is_running.get() {
            self.machine(host, |machine, out| machine.rollback(out));
        }
    }
}
