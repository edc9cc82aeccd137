//! Turns that do not come to their end: panics, refusals, deadlines, a slot that goes back.

use std::rc::Rc;

use granary_core::call::{Options, Origin};
use granary_core::envelope::Envelope;
use granary_core::turn::Turn;
use granary_core::{Error, ErrorKind, Key, MethodInfo, Ran};

use crate::keyed;
use crate::mailbox::Call;
use crate::slot::{Blame, SlotHost};

use super::Lane;
use super::run::After;

impl Lane {
    pub(super) fn panicked(&self, no: u32, mut turn: Turn, message: &str) {
        let Some(entry) = self.turns.borrow_mut().leave(no) else { return };
        let host = entry.slot.clone();
        self.leave_async(&host, entry.activation, no, &entry.grain);
        let error =
            self.turn_failed(&host, entry.activation, entry.info, entry.needs, entry.is_of_record, message);
        let error = if entry.called_out { error.ran(Ran::Unknown) } else { error };
        let after = After {
            info: entry.info,
            options: entry.options,
            key: entry.key,
            needs: 0,
            called_out: entry.called_out,
            error: Some(error.clone()),
        };
        turn.as_mut().refuse(error);
        self.call_failed(&host, &after);
        self.pump(&host, entry.activation);
    }

    /// A turn panicked. If neither it nor its grain has changed anything since the last commit only the activation
    /// goes; else the slot rolls back to its last acknowledged commit.
    pub(super) fn turn_failed(
        &self,
        host: &Rc<SlotHost>,
        row: u32,
        info: &'static MethodInfo,
        needs: u64,
        is_of_record: bool,
        message: &str,
    ) -> Error {
        let reason = format!("{}.{} panicked: {message}", info.kind, info.name);
        tracing::warn!(slot = %host.id, "{reason}");
        let changed = host.table.borrow().get(row).is_some_and(|a| a.changed_in > host.stored.get());
        let error = Error::new(ErrorKind::Poisoned, reason.clone()).ran(Ran::No);
        if self.is_activation_hook(info) {
            // to wake it again for those that wait would be to panic again
            self.refuse_activation(host, row, &error);
        } else if is_of_record {
            host.break_applying(reason);
        } else if changed || needs > host.stored.get() {
            host.break_with(reason, Blame::Call);
        } else {
            self.drop_activation(host, row);
        }
        error
    }

    fn is_activation_hook(&self, info: &'static MethodInfo) -> bool {
        self.kind(info.kind_id).and_then(|kind| kind.on_activate).is_some_and(|hook| hook.info == info)
    }

    /// A turn did not come to its end: those that joined its call, and whoever began it, are told.
    pub(super) fn call_failed(&self, host: &Rc<SlotHost>, after: &After) {
        self.call_undone(host, after);
        match after.options.origin {
            Origin::Stream => self.stream_turn_ended(host, &after.key, after.info, after.error.as_ref()),
            Origin::Timer(timer) => self.timer_ticked(host, timer),
            Origin::Reminder(reminder) => self.reminder_fired(host, reminder, after.error.as_ref()),
            Origin::Call | Origin::Activate | Origin::Deactivate => {}
        }
    }

    /// A call that was admitted does not run after all: those that joined it take its place.
    pub(super) fn call_undone(&self, host: &SlotHost, after: &After) {
        let joined = self.joined(host, after.info, &after.options, &after.key);
        for envelope in joined {
            self.redeliver(host, after.key.clone(), envelope);
        }
    }

    /// A turn was ended from outside: whoever began it is told.
    pub(super) fn turn_cut_off(
        &self,
        host: &Rc<SlotHost>,
        info: &'static MethodInfo,
        options: Options,
        key: Key,
        error: Error,
    ) {
        let after = After { info, options, key, needs: 0, called_out: false, error: Some(error) };
        self.call_failed(host, &after);
    }

    /// Refuses a call that was admitted.
    pub(super) fn refuse_call(
        &self,
        host: &Rc<SlotHost>,
        key: &Key,
        envelope: Box<dyn Envelope>,
        error: Error,
    ) {
        let (info, options) = (envelope.info(), envelope.options().clone());
        let after = After {
            info,
            options,
            key: key.clone(),
            needs: 0,
            called_out: false,
            error: Some(error.clone()),
        };
        envelope.refuse(error);
        self.call_failed(host, &after);
    }

    pub(super) fn redeliver(&self, host: &SlotHost, key: Key, envelope: Box<dyn Envelope>) {
        let kind = envelope.info().kind_id;
        self.send_here(Call::Letter { slot: host.id, kind, key, envelope });
    }

    /// A call that was admitted is to be admitted anew, and with it those that joined it.
    pub(super) fn admit_again(&self, host: &SlotHost, key: &Key, envelope: Box<dyn Envelope>) {
        let joined = self.joined(host, envelope.info(), envelope.options(), key);
        self.redeliver(host, key.clone(), envelope);
        for envelope in joined {
            self.redeliver(host, key.clone(), envelope);
        }
    }

    /// The calls that joined this one, which is no longer the first of its idempotency key.
    pub(super) fn joined(
        &self,
        host: &SlotHost,
        info: &MethodInfo,
        options: &Options,
        key: &Key,
    ) -> Vec<Box<dyn Envelope>> {
        let Some(idempotency_key) = &options.idempotency_key else { return Vec::new() };
        let cell = keyed::cell_key(info.kind, key.as_str(), idempotency_key);
        host.inner.borrow_mut().keyed.undone(&cell)
    }
}
