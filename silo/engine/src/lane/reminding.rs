//! Reminders fire, and their cells move on with the commit of their turns.

use std::rc::Rc;

use granary_cluster::Cells;
use granary_core::call::Origin;
use granary_core::{Error, ErrorKind, KindId, Ran, Span};

use crate::reminders::{Change, Reminder};
use crate::slot::SlotHost;

use super::Lane;
use super::alarms::Alarm;

/// A reminder whose turn could not begin is tried again after this.
const TRY_AGAIN_AFTER: Span = Span(1_000);
/// Times a reminder's turn may undo its slot before the occurrence is given up.
const REMINDER_FAILURES_MAX: u32 = 3;

impl Lane {
    pub(super) fn fire_reminders(&self, host: &Rc<SlotHost>) {
        if !host.is_running.get() {
            return; // it is looked at again when the slot is open
        }
        let now = self.now.get();
        loop {
            let mut inner = host.inner.borrow_mut();
            let Some(popped) = inner.reminders.pop(now) else {
                if let Some(at) = inner.reminders.next_due() {
                    self.set_alarm(at, Alarm::Reminders(host.id));
                }
                return;
            };
            let (no, reminder) = match popped {
                Ok(due) => due,
                Err(change) => {
                    put_change(&mut inner.cells, change);
                    host.has_changes.set(true);
                    continue;
                }
            };
            let failures = inner.reminder_failures.get(&(reminder.grain.clone(), reminder.name.clone()));
            let given_up = failures.is_some_and(|failures| *failures >= REMINDER_FAILURES_MAX);
            drop(inner);
            let (kind, Reminder { grain, name, method, arguments, .. }) =
                (KindId::of(&reminder.grain.kind), &reminder);
            self.count(|s| &s.reminders);
            if given_up {
                tracing::error!(%grain, %name, "the reminder undid its slot {REMINDER_FAILURES_MAX} times: skipped");
                self.reminder_fired(host, no, None);
            } else if let Err(error) =
                self.fire(host, kind, &grain.key, method, arguments, Origin::Reminder(no))
            {
                tracing::error!(%grain, %name, %error, "the reminder cannot fire");
                self.reminder_fired(host, no, Some(&error));
            }
        }
    }

    /// The turn of a reminder has ended: its cell moves on in the same commit as the turn's effects.
    pub(super) fn reminder_fired(&self, host: &SlotHost, no: u32, error: Option<&Error>) {
        if let Some(error) = error {
            tracing::warn!(slot = %host.id, %error, "a reminder's turn failed");
        }
        let mut inner = host.inner.borrow_mut();
        let undone = host.broken.borrow().is_some();
        if error.is_some_and(|e| e.kind() == ErrorKind::Unavailable && e.did_run() == Some(Ran::No))
            && !undone
        {
            let again = self.now.get() + TRY_AGAIN_AFTER;
            inner.reminders.postpone(no, again);
            return self.set_alarm(again, Alarm::Reminders(host.id));
        }
        let Some(change) = inner.reminders.fired(no, self.now.get()) else { return };
        let (Change::Put(reminder) | Change::Delete(reminder)) = &change;
        let name = (reminder.grain.clone(), reminder.name.clone());
        if undone {
            *inner.reminder_failures.entry(name).or_insert(0) += 1;
            return;
        }
        inner.reminder_failures.remove(&name);
        put_change(&mut inner.cells, change);
        host.has_changes.set(true);
        if let Some(at) = inner.reminders.next_due() {
            self.set_alarm(at, Alarm::Reminders(host.id));
        }
    }
}

/// Writes a reminder's cell.
pub(super) fn put_reminder(cells: &mut Cells, reminder: &Reminder) {
    match granary_core::codec::to_bytes(reminder) {
        Ok(value) => cells.put(|key| reminder.cell_key(key), |out| out.extend_from_slice(&value)),
        Err(error) => tracing::error!(grain = %reminder.grain, %error, "the reminder cannot be stored"),
    }
}

fn put_change(cells: &mut Cells, change: Change) {
    match change {
        Change::Put(reminder) => put_reminder(cells, &reminder),
        Change::Delete(reminder) => cells.delete(|key| reminder.cell_key(key)),
    }
}
