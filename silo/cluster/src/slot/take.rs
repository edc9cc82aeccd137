//! Taking a slot: acquire, fence, read, marker, rebase, run.

use crate::commit::{CommitNo, Epoch, Marker, RunId, SlotRecord, TxIds};
use crate::defects::Defect;
use crate::port::{Reply, Script};
use crate::positions;

use super::{Ask, Do, Opened, Outlet, Pending, Phase, Publisher, Question, Repair, Seat, Slot, Stored, Why};

impl Slot {
    /// Takes the slot whose row was read as `seen`, under the store's run `run`: new, given to us, ours before, or of a
    /// silo declared dead (the caller knows). False, and nothing done, while a script of an earlier time is on its way
    /// or the slot is held already.
    pub fn take(&mut self, seen: &SlotRecord, run: RunId, out: &mut Vec<Do>) -> bool {
        if self.phase != Phase::Off || self.flight.is_some() {
            return false;
        }
        self.acquire(seen, run, out);
        true
    }

    fn acquire(&mut self, seen: &SlotRecord, run: RunId, out: &mut Vec<Do>) {
        let epoch = Epoch(seen.epoch.max(self.epoch_used).0 + 1);
        self.epoch_used = epoch;
        self.phase = Phase::Acquire;
        let Seat { slot, me, txid, program, .. } = self.seat;
        let expected = (seen.owner, seen.epoch);
        self.send(Script::Acquire { slot, me, txid, expected, epoch, run, program }, out);
    }

    /// Ours. With the embedded store that is all: nobody else can have a transaction open.
    pub(super) fn acquired(&mut self, epoch: Epoch, run: RunId, reply: Reply, out: &mut Vec<Do>) {
        self.epoch = epoch;
        self.run = run;
        match (self.seat.outlet, reply.record) {
            (Outlet::Store, Some(record)) => self.resume(record, out),
            (Outlet::Store, None) => self.read(out),
            (Outlet::Log, Some(record)) => {
                self.phase = Phase::Fence;
                self.run = record.run;
                let mut txids = record.txids;
                if self.has(Defect::FenceLastOwnerOnly) {
                    txids.everyone = false;
                    let newest = txids.ids.iter().copied().filter(|id| *id != self.seat.txid).max();
                    txids.ids = newest.into_iter().collect();
                }
                // Ids of this silo are none to fence: what it has under way itself, the marker is read after.
                if !txids.everyone && txids.ids.iter().all(|id| id.incarnation == self.seat.me) {
                    self.read(out);
                } else {
                    self.ask(Question::Fence(txids), out);
                }
            }
            // the row is needed to know whom to fence; without it, everyone
            (Outlet::Log, None) => {
                self.phase = Phase::Fence;
                self.ask(Question::Fence(TxIds { everyone: true, ids: Vec::new() }), out);
            }
        }
    }

    pub(super) fn fenced(&mut self, ask: Ask, out: &mut Vec<Do>) {
        if !matches!(self.answers(ask), Some(Question::Fence(_))) {
            return;
        }
        match self.phase {
            Phase::Fence => self.read(out),
            Phase::Marker => self.ask(Question::Marker, out), // the id named in the marker was fenced: read again
            _ => {}
        }
    }

    pub(super) fn record(&mut self, ask: Ask, stored: Stored, out: &mut Vec<Do>) {
        if self.answers(ask) != Some(Question::Record) {
            return;
        }
        let Stored { record, outbox, run } = stored;
        let other_run = run != self.run && !self.has(Defect::IgnoreServerRun);
        let ours = record.owner == self.seat.me && record.epoch == self.epoch && !other_run;
        if !ours {
            return self.drop_slot(Why::Fenced, out);
        }
        if self.phase != Phase::Read {
            return self.rechecked(out);
        }
        if self.seat.outlet == Outlet::Store {
            return self.resume(record, out);
        }
        self.load(record);
        self.outbox_bytes = outbox.iter().map(|(_, outbox)| outbox.bytes()).sum();
        self.outbox = outbox.into_iter().map(|(n, outbox)| Pending::stored(n, outbox)).collect();
        self.phase = Phase::Marker;
        self.ask(Question::Marker, out);
    }

    /// Reads row and outbox; what was read before no longer counts.
    pub(super) fn read(&mut self, out: &mut Vec<Do>) {
        self.phase = Phase::Read;
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.ask(Question::Record, out);
    }

    fn load(&mut self, record: SlotRecord) {
        self.n = record.n;
        self.positions = record.positions;
        positions::normalize(&mut self.positions);
        self.tries = record.tries;
        self.noted = record.noted;
    }

    /// Goes on from the row alone: what is stored is published.
    fn resume(&mut self, record: SlotRecord, out: &mut Vec<Do>) {
        self.load(record);
        self.covered = self.n;
        self.floor.clone_from(&self.positions);
        self.tell_loss(self.n, out);
        self.open(out);
    }

    pub(super) fn marker(&mut self, ask: Ask, marker: Option<Marker>, out: &mut Vec<Do>) {
        if self.answers(ask) != Some(Question::Marker) {
            return;
        }
        match (marker, self.phase) {
            (None, _) if !self.outbox.is_empty() => {
                self.drop_slot(Why::GivenUp, out);
                self.phase = Phase::Stopped;
                out.push(Do::Stop(Repair::MarkerLost));
            }
            // no marker and nothing to publish: everything stored is published; the marker is written again
            (None, phase) => {
                self.covered = self.n;
                self.floor.clone_from(&self.positions);
                (self.marker_due, self.marker_missing) = (true, true);
                self.publisher = Publisher::Ok;
                if phase == Phase::Marker {
                    self.tell_loss(self.n, out);
                    self.open(out);
                }
            }
            (Some(marker), Phase::Marker) => self.compare(marker, out),
            (Some(marker), _) => self.reread(marker, out),
        }
    }

    /// The marker decides where the slot goes on.
    fn compare(&mut self, marker: Marker, out: &mut Vec<Do>) {
        if marker.epoch >= self.epoch {
            return self.outrank(marker, out);
        }
        let mut behind = marker.n > self.n && !self.has(Defect::ContinueAtStoreN);
        let stored = self.n;
        self.cover(marker.n);
        self.floor = marker.positions;
        if self.has(Defect::CompareNumbersOnly) && marker.n <= stored {
            self.floor.clear();
        }
        positions::normalize(&mut self.floor);
        if self.has(Defect::ForgetMarker) {
            (self.covered, behind) = (CommitNo(0), false);
            self.floor.clear();
        }
        if !behind {
            self.tell_loss(self.n, out);
            return self.open(out);
        }
        self.phase = Phase::Rebase;
        let Seat { slot, me, .. } = self.seat;
        let script = Script::Rebase { slot, me, epoch: self.epoch, run: self.run, n: marker.n };
        self.send(script, out);
    }

    /// The store lost an acquire: somebody published under our epoch or a later one and may still believe to own the
    /// slot. Its id is fenced first; then the slot is acquired once more, above the marker's epoch.
    fn outrank(&mut self, marker: Marker, out: &mut Vec<Do>) {
        if marker.txid != self.seat.txid && !self.marker_fenced.contains(&marker.txid) {
            self.marker_fenced.push(marker.txid);
            self.ask(Question::Fence(TxIds { everyone: false, ids: vec![marker.txid] }), out);
            return;
        }
        self.epoch_used = self.epoch_used.max(marker.epoch);
        let mut seen = SlotRecord::new();
        (seen.owner, seen.epoch) = (self.seat.me, self.epoch);
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.acquire(&seen, self.run, out);
    }

    pub(super) fn rebased(&mut self, n: CommitNo, out: &mut Vec<Do>) {
        let stored = self.n;
        self.n = n;
        self.known = self.known.max(n);
        self.tell_loss(stored, out);
        self.open(out);
    }

    /// Commits this silo, or the marker, knows to have been stored, and that the store no longer has.
    fn tell_loss(&mut self, stored: CommitNo, out: &mut Vec<Do>) {
        if self.known > stored {
            out.push(Do::Lost { from: stored.next(), to: self.known });
        }
        self.known = self.n;
    }

    pub(super) fn open(&mut self, out: &mut Vec<Do>) {
        self.phase = Phase::Run;
        out.push(Do::Opened(Opened {
            n: self.n,
            epoch: self.epoch,
            positions: self.positions.clone(),
            tries: self.tries,
            noted: self.noted,
        }));
        if std::mem::take(&mut self.recheck_due) {
            self.publisher = Publisher::Recheck;
            self.ask(Question::Record, out);
        }
    }

    /// Asks; an answer to an earlier question no longer counts.
    pub(super) fn ask(&mut self, question: Question, out: &mut Vec<Do>) {
        self.asked = Ask(self.asked.0 + 1);
        out.push(match &question {
            Question::Fence(txids) => Do::Fence(self.asked, txids.clone()),
            Question::Record => Do::ReadRecord(self.asked),
            Question::Marker => Do::ReadMarker(self.asked),
        });
        self.awaiting = Some((self.asked, question));
    }

    /// The question this answers, if it is the one that waits.
    fn answers(&mut self, ask: Ask) -> Option<Question> {
        self.awaiting.take_if(|(asked, _)| *asked == ask).map(|(_, question)| question)
    }

    pub(super) fn ask_again(&mut self, ask: Ask, out: &mut Vec<Do>) {
        if let Some(question) = self.answers(ask) {
            self.ask(question, out);
        }
    }
}
