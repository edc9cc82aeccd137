//! Publishing the outbox through the lane's transactional producer, and finding out after an unknown outcome.

use crate::commit::{CommitNo, Epoch, Marker};
use crate::defects::Defect;
use crate::port::Script;
use crate::positions;

use super::{Do, Flight, Outlet, Pending, Phase, Publication, Publisher, Question, Slot, Why};

impl Slot {
    /// Whether the lane's next transaction should hold something of this slot.
    pub fn wants_to_publish(&self) -> bool {
        let may = matches!(self.phase, Phase::Run | Phase::Rollback)
            && self.publisher == Publisher::Ok
            && self.publication.is_none()
            && self.seat.outlet == Outlet::Log;
        // records below the marker, applied again, yield no outputs: the marker's number follows alone
        let number_only = self.n > self.covered && positions::any_ahead(&self.floor, &self.positions);
        let early = self.has(Defect::PublishBeforeCommit) && self.sealed() > self.n;
        may && (!self.outbox.is_empty() || number_only || self.marker_due || early)
    }

    /// Writes the marker once more with the next transaction, though nothing changed: an idle slot's marker must not
    /// age out of the log.
    pub fn renew_marker(&mut self) {
        self.marker_due |= self.seat.outlet == Outlet::Log && self.phase == Phase::Run;
    }

    /// Everything that waits, with its marker, for one transaction; `None` unless [`Slot::wants_to_publish`]. Its outcome
    /// is heard as `Published`, `Aborted` or `ProducerLost`.
    pub fn publication(&mut self) -> Option<Publication> {
        if !self.wants_to_publish() {
            return None;
        }
        let mut commits: Vec<Pending> = self.outbox.iter().cloned().collect();
        let (mut n, mut at) = (self.n, self.positions.clone());
        if let (true, Some(Flight { script: Script::Commit(commit), .. })) =
            (self.has(Defect::PublishBeforeCommit), &self.flight)
        {
            (n, at) = (commit.n, commit.positions.clone());
            commits.push(Pending::committed(commit.clone()));
        }
        // positions in a marker never go back: what it covers once stays covered
        if !self.has(Defect::MarkerGoesBack) {
            positions::raise(&mut at, &self.floor);
        }
        self.marker_due = false;
        self.publication = Some((n, at.clone()));
        Some(Publication {
            commits,
            marker: Marker { n, epoch: self.epoch, txid: self.seat.txid, positions: at },
        })
    }

    /// What the lane's transaction held of this slot is visible, and so is the marker.
    pub(super) fn published(&mut self, epoch: Epoch, n: CommitNo) {
        if self.epoch != epoch {
            return; // of an earlier time; the marker that was read since tells it
        }
        if let Some((_, at)) = self.publication.take_if(|(number, _)| *number == n) {
            positions::raise(&mut self.floor, &at);
            self.cover(n.max(self.covered));
            self.marker_missing = false;
        }
    }

    pub(super) fn aborted(&mut self, epoch: Epoch, n: CommitNo) {
        if self.epoch == epoch && self.publication.take_if(|(number, _)| *number == n).is_some() {
            self.marker_due |= self.outbox.is_empty();
        }
    }

    /// The marker is at `n`: outputs up to it are published.
    pub(super) fn cover(&mut self, n: CommitNo) {
        self.covered = n;
        while self.outbox.front().is_some_and(|pending| pending.n <= n) {
            if let Some(pending) = self.outbox.pop_front() {
                self.outbox_bytes -= pending.outbox().bytes();
                self.to_trim = Some(pending.n);
            }
        }
    }

    pub(super) fn producer_lost(&mut self, out: &mut Vec<Do>) {
        if self.seat.outlet == Outlet::Store || !self.holds() || self.publisher == Publisher::Lost {
            return;
        }
        self.publisher = Publisher::Lost;
        self.awaiting = None;
        out.push(Do::InitProducer);
    }

    /// After every init of its own id, and before it sends, the lane makes sure that the slot is still its own and learns
    /// what the lost transaction did.
    pub(super) fn producer_ready(&mut self, out: &mut Vec<Do>) {
        if self.seat.outlet == Outlet::Store {
            return;
        }
        match self.phase {
            // whoever was here while our id was fenced may have taken the slot since its row was read
            Phase::Read | Phase::Marker => return self.read(out),
            Phase::Rebase => return self.recheck_due = true,
            Phase::Run | Phase::Rollback | Phase::Give => {}
            Phase::Off | Phase::Acquire | Phase::Fence | Phase::Stopped => return,
        }
        self.marker_due |= self.publication.take().is_some() && self.outbox.is_empty();
        if self.has(Defect::ReinitWithoutReread) {
            self.publisher = Publisher::Ok;
            return;
        }
        self.publisher = Publisher::Recheck;
        self.ask(Question::Record, out);
    }

    /// Still the owner, under the same run of the store.
    pub(super) fn rechecked(&mut self, out: &mut Vec<Do>) {
        if self.has(Defect::SkipMarkerReread) {
            self.publisher = Publisher::Ok;
            return;
        }
        self.publisher = Publisher::Reread;
        self.ask(Question::Marker, out);
    }

    pub(super) fn reread(&mut self, marker: Marker, out: &mut Vec<Do>) {
        if marker.n > self.n || marker.epoch > self.epoch {
            return self.drop_slot(Why::MarkerAhead, out);
        }
        self.marker_missing = false;
        self.cover(marker.n);
        self.floor = marker.positions;
        positions::normalize(&mut self.floor);
        self.publisher = Publisher::Ok;
    }

    /// Whether the slot is in a phase with a publisher.
    fn holds(&self) -> bool {
        matches!(self.phase, Phase::Run | Phase::Rollback | Phase::Give)
    }
}
