//! What other threads tell the lane.

use std::sync::atomic::Ordering;

use crate::mailbox::Word;

use super::Lane;

impl Lane {
    /// Hears what was told; true when there was something.
    pub(super) fn hear_words(&self) -> bool {
        let mut heard = false;
        while let Some(word) = self.mailbox.words.pop() {
            heard = true;
            match word {
                Word::Scripted(sent, replies) => self.scripted(&sent, replies),
                Word::Row(slot, row) => self.row(slot, row),
                Word::Record(slot, ask, stored) => self.record(slot, ask, stored),
                Word::Reminders(slot, opening, read) => self.reminders(slot, opening, read),
                Word::Marker(slot, ask, marker) => self.marker(slot, ask, marker),
                Word::Journal(slot, values) => self.journal(slot, values),
                Word::Fenced(done) => self.fenced(done),
                Word::Inited(done) => self.inited(done),
                Word::Run(run) => self.connected(run),
                Word::Ended(ended) => self.transaction_ended(ended),
                Word::SentEagerly(slot) => self.sent_eagerly(slot),
                Word::View(view) => self.see(view),
                Word::Look => self.look_at_sources(),
                Word::Stop(done) => {
                    self.is_stopping.set(true);
                    self.mailbox.is_closed.store(true, Ordering::Release);
                    *self.stop.borrow_mut() = Some(done);
                }
            }
        }
        heard
    }
}
