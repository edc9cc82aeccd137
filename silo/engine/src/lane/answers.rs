//! Answers: held until their commit is stored, kept under an idempotency key, given up at their deadline.

use std::rc::Rc;

use granary_cluster::{CommitNo, Lookup};
use granary_core::call::Origin;
use granary_core::envelope::{Answer, Envelope};
use granary_core::{Durability, Error, ErrorKind, Key, Ran, codec};

use crate::answers::HeldAnswer;
use crate::keyed::{self, Entry, Stored};
use crate::mailbox::RETRY_AFTER;
use crate::slot::SlotHost;
use crate::table::Waiting;

use super::Lane;
use super::run::After;

impl Lane {
    /// Whether an answer waits for a commit. Inside the slot none does: both sides commit together.
    pub(super) fn must_hold(&self, host: &SlotHost, after: &After) -> bool {
        let keyed = after.options.idempotency_key.is_some();
        let broken = host.broken.borrow().is_some();
        let inside = after.options.inside.is_some();
        keyed || broken || (!inside && (after.needs > host.stored.get() || !self.may_answer(host, after)))
    }

    /// Whether what a turn saw of the stored state may be told: while the lease holds nobody can have changed it. Asked when
    /// the turn has ended, so that a silo that was stopped in its midst notices.
    fn may_answer(&self, host: &SlotHost, after: &After) -> bool {
        let Some(cluster) = &self.config.cluster else { return true };
        let is_volatile =
            || self.kind(after.info.kind_id).is_some_and(|k| k.options.durability == Durability::Volatile);
        let is_read = after.options.origin == Origin::Call && !after.info.snapshot;
        let is_alone =
            || cluster.lease.holds(self.config.clock.now()) && cluster.lease.asides() == host.asides.get();
        !is_read || is_alone() || is_volatile()
    }

    /// Lets an answer leave, or holds it.
    pub(super) fn hold(&self, host: &SlotHost, after: &After, answer: Box<dyn Answer>) {
        let is_broken = host.broken.borrow().is_some();
        if !is_broken && (after.needs <= host.stored.get() || after.options.inside.is_some()) {
            if after.options.inside.is_some() || self.may_answer(host, after) {
                return answer.send();
            }
            let message = format!(
                "the lease of silo {} is over: it does not reach its store, or its log",
                self.config.silo
            );
            let ran = if after.called_out { Ran::Unknown } else { Ran::No };
            return answer.refuse(Error::new(ErrorKind::Unavailable, message).ran(ran).after(RETRY_AFTER));
        }
        let n = CommitNo(after.needs.max(host.stored.get() + 1));
        let call = Some((after.info, after.key.clone()));
        let answer = HeldAnswer { answer, deadline: after.options.deadline, since: self.now.get(), call };
        let held = host.inner.borrow_mut().held.hold(n, after.called_out, answer);
        host.has_changes.set(true);
        if let Err(HeldAnswer { answer, .. }) = held {
            let message = format!("slot {} holds too many answers that wait for the store", host.id);
            answer.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::Unknown).after(RETRY_AFTER));
        }
    }

    /// Keeps the answer of a call with an idempotency key, in the commit of its effects.
    pub(super) fn store_answer(&self, host: &SlotHost, after: &mut After, key: &str, answer: &dyn Answer) {
        let stored = Stored::of(self.now.get(), answer.encoded());
        let cell = keyed::cell_key(after.info.kind, after.key.as_str(), key);
        let Ok(value) = codec::to_bytes(&stored) else { return };
        let n = host.open_commit.get();
        after.needs = after.needs.max(n);
        let mut inner = host.inner.borrow_mut();
        inner.cells.put(|out| out.extend_from_slice(&cell), |out| out.extend_from_slice(&value));
        let inside = inner.keyed.done(&cell, n, value);
        drop(inner);
        host.has_changes.set(true);
        for envelope in inside {
            self.answer_inside(n, &stored, envelope);
        }
    }

    fn answer_inside(&self, n: u64, stored: &Stored, envelope: Box<dyn Envelope>) {
        if let Some(from) = envelope.options().inside {
            self.needs(from, n);
        }
        stored.answer(envelope);
    }

    /// Runs the first call of an idempotency key, joins it, or answers from the store.
    pub(super) fn first_of_key(
        &self,
        host: &Rc<SlotHost>,
        key: &Key,
        idempotency_key: &str,
        envelope: Box<dyn Envelope>,
    ) -> Option<Box<dyn Envelope>> {
        let cell = keyed::cell_key(envelope.info().kind, key.as_str(), idempotency_key);
        if envelope.options().inside.is_some() {
            let answered = host.inner.borrow().keyed.answer_of(&cell);
            if let Some((n, stored)) = answered {
                self.answer_inside(n, &stored, envelope);
                return None;
            }
        }
        let entry = host.inner.borrow_mut().keyed.enter(&cell, envelope);
        let envelope = match entry {
            Entry::First(envelope) => envelope,
            Entry::Joined => return None,
            Entry::Full(envelope) => {
                let message = format!("too many calls wait for the first one with key `{idempotency_key}`");
                envelope.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
                return None;
            }
        };
        let mut value = Vec::new();
        match self.load(host, &cell, &mut value) {
            Err(error) => envelope.refuse(error.ran(Ran::No)),
            Ok(Lookup::Found) => match codec::from_bytes::<Stored>(&value) {
                Ok(stored) if !stored.is_over(self.now.get()) => stored.answer(envelope),
                Ok(_) => {
                    let message = format!("the idempotency key `{idempotency_key}` is older than 24 h");
                    envelope.refuse(Error::new(ErrorKind::Invalid, message).ran(Ran::No));
                }
                Err(error) => envelope.refuse(error.ran(Ran::No)),
            },
            Ok(Lookup::Absent) => {
                host.inner.borrow_mut().keyed.begin(cell, key.clone());
                return Some(envelope);
            }
        }
        None
    }

    /// A call in a queue has run out of time: it never runs.
    pub(super) fn expire_waiting(&self, host: &Rc<SlotHost>, key: &Key, waiting: Waiting) {
        self.count(|s| &s.timed_out);
        let info = waiting.envelope.info();
        let waited = self.now.get().since(waiting.since).ms() as f64 / 1_000.0;
        let place = granary_core::host::Host::whereabouts(self, info.kind, key);
        let message = format!("{}/{key}.{} waited {waited:.1}s: {place}", info.kind, info.name);
        self.refuse_call(host, key, waiting.envelope, Error::new(ErrorKind::Timeout, message).ran(Ran::No));
    }
}
