//! Streams whose entries leave before their commit.
//!
//! Invariant: a commit goes to the store only when the log has taken everything that was published for it: nothing is lost by
//! a crash, and what was published without a commit comes again with the same identities. Until then the slot works on the
//! next commit, as it does while one is on its way.

use std::rc::Rc;

use granary_cluster::{Outbox, Script, StreamId};
use granary_core::SlotId;

use crate::mailbox::Word;
use crate::slot::{Eager, SlotHost};

use super::Lane;

impl Lane {
    fn is_eager(&self, stream: StreamId) -> bool {
        self.config.eager.contains(&stream)
    }

    /// Whether anything leaves before its commit: with the embedded engine the commit itself publishes.
    fn publishes_eagerly(&self) -> bool {
        !self.config.eager.is_empty() && self.publisher.is_some()
    }

    /// Hands over what the turns of this round have emitted.
    pub(super) fn publish_eagerly(&self) {
        if !self.publishes_eagerly() {
            return;
        }
        for host in self.slots.iter().flatten().filter(|host| host.is_running.get()) {
            self.publish_eagerly_of(host);
        }
    }

    fn publish_eagerly_of(&self, host: &Rc<SlotHost>) {
        let inner = host.inner.borrow();
        let all = &inner.effects.outbox;
        let from = host.eager.looked_at.replace(all.len());
        let batch = all.part(from, |entry| self.is_eager(entry.stream));
        drop(inner);
        if batch.is_empty() {
            return;
        }
        host.eager.sent.set(host.eager.sent.get() + 1);
        let (mailbox, slot) = (self.mailbox.clone(), host.id);
        let done = Box::new(move || mailbox.tell(Word::SentEagerly(slot)));
        self.ask_producer(|producer| producer.publish_at_once(slot, batch, done));
    }

    /// The log has taken a batch.
    pub(super) fn sent_eagerly(&self, slot: SlotId) {
        let Some(host) = self.slot(slot) else { return };
        host.eager.taken.set(host.eager.taken.get() + 1);
        let is_free = |(after, _): &mut (u64, Script)| *after <= host.eager.taken.get();
        if let Some((_, script)) = host.eager.held.borrow_mut().take_if(is_free) {
            self.scripts.borrow_mut().push(script);
        }
    }

    /// A script for the store: a commit waits for what was published for it.
    pub(super) fn hand_in(&self, host: &SlotHost, script: Script) {
        let Eager { sent, taken, held, .. } = &host.eager;
        if matches!(script, Script::Commit(_)) && taken.get() < sent.get() {
            *held.borrow_mut() = Some((sent.get(), script));
        } else {
            self.scripts.borrow_mut().push(script);
        }
    }

    /// What was published at once does not enter the commit.
    pub(super) fn take_out_eager(&self, host: &SlotHost, outbox: &mut Outbox) {
        host.eager.looked_at.set(0);
        if self.publishes_eagerly() && outbox.entries().iter().any(|entry| self.is_eager(entry.stream)) {
            *outbox = outbox.part(0, |entry| !self.is_eager(entry.stream));
        }
    }
}
