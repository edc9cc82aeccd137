//! Streams whose entries leave before their commit.
//!
//! Invariant: a commit is sealed only when the log has taken everything it published so: nothing is lost by a crash, and
//! what was published without a commit comes again with the same identities.

use std::rc::Rc;

use granary_cluster::{Outbox, StreamId};
use granary_core::{Result, SlotId};

use crate::mailbox::Word;
use crate::slot::SlotHost;

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
        host.eager.on_their_way.set(host.eager.on_their_way.get() + 1);
        let (mailbox, slot) = (self.mailbox.clone(), host.id);
        let done = Box::new(move |done| mailbox.tell(Word::SentEagerly(slot, done)));
        self.ask_producer(|producer| producer.publish_at_once(slot, batch, done));
    }

    /// The log has taken a batch, or never will: the slot goes back then, and publishes it again.
    pub(super) fn sent_eagerly(&self, slot: SlotId, done: &Result<()>) {
        let Some(host) = self.slot(slot) else { return };
        let eager = &host.eager;
        eager.on_their_way.set(eager.on_their_way.get().saturating_sub(1));
        if eager.on_their_way.get() == 0 {
            eager.is_awaited.set(false);
        }
        if let Err(error) = done {
            host.break_with(format!("outputs cannot be published: {error}"), crate::slot::Blame::Store);
        }
    }

    /// Whether the slot, which is to be sealed, may be: else it takes nothing more until the log has what it published.
    pub(super) fn has_sent_eagerly(&self, host: &SlotHost) -> bool {
        let is_sent = host.eager.on_their_way.get() == 0;
        host.eager.is_awaited.set(!is_sent);
        is_sent
    }

    /// What was published at once does not enter the commit.
    pub(super) fn take_out_eager(&self, host: &SlotHost, outbox: &mut Outbox) {
        host.eager.looked_at.set(0);
        if self.publishes_eagerly() && outbox.entries().iter().any(|entry| self.is_eager(entry.stream)) {
            *outbox = outbox.part(0, |entry| !self.is_eager(entry.stream));
        }
    }
}
