//! A slot goes back to its last stored commit, or leaves.

use std::rc::Rc;

use granary_cluster::retry::{Culprit, Retry};
use granary_cluster::slot::{Dropped, Why};
use granary_cluster::{Cells, Effects};
use granary_core::envelope::Envelope;
use granary_core::{Error, ErrorKind, Ran, Timestamp};

use crate::mailbox::Call;
use crate::slot::{Blame, Broken, SlotHost};

use super::Lane;
use super::alarms::Alarm;
use super::commit::millis;
use super::deliver::refuse;
use super::moving::is_from_outside;

impl Lane {
    /// The slot's memory goes: everything not stored is undone.
    pub(super) fn dropped(&self, host: &Rc<SlotHost>, dropped: &Dropped) {
        host.is_running.set(false);
        host.opening.set(host.opening.get() + 1);
        self.clear_of_suspicion(host);
        host.stream_turns.set(0);
        self.forget_kept(host);
        host.has_changes.set(false);
        host.stored_since.set(None);
        *host.broken.borrow_mut() = None;
        self.drop_turns(host, dropped.unsure.is_some());
        let queued = self.drop_activations(host);
        self.recall(host);
        self.pipeline.borrow_mut().close(host.id);
        let mut inner = host.inner.borrow_mut();
        inner.effects = Effects::default();
        host.eager.looked_at.set(0);
        inner.cells = Cells::default();
        inner.timers.clear();
        inner.reminders = inner.reminders.opening(Timestamp::MIN);
        inner.leaving.clear();
        inner.has_ended = false;
        if dropped.why != Why::Rollback {
            (inner.culprit, inner.caution) = (Culprit::default(), None); // as long as the slot is held
        }
        let mut waiting = inner.keyed.dropped();
        waiting.extend(queued);
        let message = format!("slot {} went back to its last stored commit ({:?})", host.id, dropped.why);
        let undone = inner.held.dropped(dropped);
        drop(inner);
        for (held, ran) in undone {
            held.answer.refuse(Error::new(ErrorKind::Poisoned, message.clone()).ran(ran));
        }
        if dropped.why == Why::Rollback {
            // what only waited has seen nothing: it runs when the slot is open again
            for (key, envelope) in waiting.into_iter().filter(|(_, envelope)| outlives_rollback(&**envelope))
            {
                self.redeliver(host, key, envelope);
            }
            return;
        }
        let is_aside = self.stands_aside();
        if dropped.why == Why::Outdated {
            host.inner.borrow_mut().is_outdated = true;
            let generation = self.config.program.generation;
            tracing::error!(slot = %host.id, %generation, "the slot holds state of a later generation: this program is too old for it");
        } else if !matches!(dropped.why, Why::Given(_)) && !is_aside {
            tracing::warn!(slot = %host.id, why = ?dropped.why, "slot dropped");
        }
        if matches!(dropped.why, Why::Fenced | Why::Behind | Why::MarkerAhead) {
            self.take_again(host);
        }
        let ran = if dropped.unsure.is_some() { Ran::Unknown } else { Ran::No };
        let gone = Error::new(ErrorKind::Moved, format!("slot {} has left this silo", host.id)).ran(Ran::No);
        for (_, envelope) in waiting {
            // one that joined another may have its effect in the commit of which nobody knows
            let keyed = envelope.options().idempotency_key.is_some();
            envelope.refuse(gone.clone().ran(if keyed { ran } else { Ran::No }));
        }
        if matches!(dropped.why, Why::Given(_)) {
            return self.was_given(host);
        }
        let backlog = std::mem::take(&mut host.inner.borrow_mut().backlog);
        for call in backlog {
            if dropped.why == Why::Outdated {
                self.backlog(host, call); // it says why
            } else {
                refuse(call, gone.clone());
            }
        }
    }

    /// Rolls back the slots in which a turn failed.
    pub(super) fn undo_broken(&self) {
        for host in self.slots.iter().flatten() {
            let broken = host.broken.borrow_mut().take();
            if let Some(broken) = broken.filter(|_| host.is_running.get()) {
                self.roll_back(host, &broken);
            }
        }
    }

    fn roll_back(&self, host: &Rc<SlotHost>, broken: &Broken) {
        self.count(|s| &s.rollbacks);
        let retry = {
            let mut inner = host.inner.borrow_mut();
            match broken.blame {
                Blame::Record(at) => inner.culprit.failed(at),
                Blame::Slot => inner.culprit.failed_without_record(),
                Blame::Call | Blame::Store => Retry::Retry,
                Blame::Process => Retry::Park,
            }
        };
        if broken.blame == Blame::Store {
            let wait = self.store_backoff.borrow_mut().failed();
            host.paused_until.set(self.now.get() + millis(wait));
            self.set_alarm(host.paused_until.get(), Alarm::Sources);
        }
        host.is_running.set(false); // nothing more is applied to what is about to go
        let reason = &broken.reason;
        match (retry, broken.blame) {
            (Retry::Park, _) => {
                self.count(|s| &s.parked);
                tracing::error!(slot = %host.id, %reason, "slot parked: it fails whatever is tried; the others run on");
                host.inner.borrow_mut().is_parked = true;
                self.machine(host, |machine, out| machine.give_up(out));
                return;
            }
            (Retry::Poison, at) => {
                tracing::error!(slot = %host.id, ?at, %reason, "the record failed again: it goes to `poisoned`");
            }
            (Retry::Retry, at) => {
                tracing::warn!(slot = %host.id, ?at, %reason, "slot rolled back to its last stored commit")
            }
        }
        self.machine(host, |machine, out| machine.rollback(out));
    }

    /// Calls that turns of this slot made inside it and that are on their way: undone with those turns.
    fn recall(&self, host: &SlotHost) {
        let is_inside = |call: &mut Call| match call {
            Call::Letter { slot, envelope, .. } => *slot == host.id && !outlives_rollback(&**envelope),
            Call::Named(_) => false,
        };
        self.local.borrow_mut().retain_mut(|call| {
            let is_recalled = is_inside(call);
            if is_recalled && self.inside_of(call).is_some() {
                host.settles();
            }
            !is_recalled
        });
    }
}

/// Whether a call that waited goes on after a rollback. What the slot's own turns and records asked for does not: they are
/// undone, and records come again.
fn outlives_rollback(envelope: &dyn Envelope) -> bool {
    is_from_outside(envelope) && envelope.is_awaited()
}
