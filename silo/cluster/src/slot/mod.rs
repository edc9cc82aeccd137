//! One slot as its lane sees it: who owns it, what is on its way, what is stored, what is published.
//!
//! The machine decides, the engine carries out. It is fed with [`Heard`] and answers with [`Do`]; it never does IO,
//! reads no clock and draws no random number. Phases and rules follow the executable specification of the protocol;
//! the crate's README tells the argument.
//!
//! Invariants:
//! - one script of a slot is on its way at a time, and it is resent byte for byte until its outcome is known;
//! - a commit is sealed only on top of a stored one, and an output leaves only after its commit is stored;
//! - what the marker covers (by its cause, not by its commit's number) is never published again.

mod outcome;
mod publish;
mod take;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;

pub use words::{
    Ask, Do, Dropped, Heard, Opened, Outlet, Pending, Phase, Publication, Publisher, Repair, Seat, Stored,
    Why,
};

use crate::commit::{
    Cause, Cells, Commit, CommitId, CommitNo, Epoch, Incarnation, Noted, Outbox, Position, RunId, TxId,
};
use crate::defects::{Defect, Defects};
use crate::port::Script;
use crate::positions;

/// A full outbox pauses the slot's sources and refuses emits, unless [`Slot::set_outbox_bytes_max`] says otherwise.
pub const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// A script on its way. `sendings` tells whether `Fenced` proves that it was never carried out.
#[derive(Clone, Debug)]
struct Flight {
    script: Script,
    sendings: u32,
}

/// The state machine of one slot.
#[derive(Clone, Debug)]
pub struct Slot {
    seat: Seat,
    phase: Phase,
    publisher: Publisher,
    epoch: Epoch,
    /// No epoch at or below this one is ever acquired again by this silo, whatever the store's row says: after a
    /// rollback of the store a commit's name could else mean two commits.
    epoch_used: Epoch,
    run: RunId,
    /// The last commit known to be stored, and where it stands.
    n: CommitNo,
    positions: Vec<Position>,
    /// Outputs of stored commits that the marker is not known to cover, in order.
    outbox: VecDeque<Pending>,
    outbox_bytes: usize,
    outbox_bytes_max: usize,
    /// The marker as last known: its number and positions.
    covered: CommitNo,
    floor: Vec<Position>,
    /// Outputs up to this commit are published and perhaps still stored.
    to_trim: Option<CommitNo>,
    flight: Option<Flight>,
    /// What the open transaction holds of this slot.
    publication: Option<(CommitNo, Vec<Position>)>,
    marker_due: bool,
    /// There is no marker at all: none of our commits may be stored before there is one, or an end of the process would
    /// leave an outbox of which nobody knows what was published.
    marker_missing: bool,
    /// The lane's producer was initialised after the row was read: owner and marker are read again before anything is sent.
    recheck_due: bool,
    /// The ids named by markers that were fenced since the acquire.
    marker_fenced: Vec<TxId>,
    asked: Ask,
    awaiting: Option<(Ask, Question)>,
    /// The highest commit this silo ever knew to be stored: a lower one found later tells a loss.
    known: CommitNo,
    tries: u32,
    noted: Option<Noted>,
    defects: Defects,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Fence(crate::commit::TxIds),
    Record,
    Marker,
}

impl Slot {
    /// A slot that is not owned here.
    pub fn new(seat: Seat) -> Slot {
        Slot {
            seat,
            phase: Phase::Off,
            publisher: Publisher::Ok,
            epoch: Epoch(0),
            epoch_used: Epoch(0),
            run: RunId(0),
            n: CommitNo(0),
            positions: Vec::new(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            covered: CommitNo(0),
            floor: Vec::new(),
            to_trim: None,
            flight: None,
            publication: None,
            marker_due: false,
            marker_missing: false,
            recheck_due: false,
            marker_fenced: Vec::new(),
            asked: Ask(0),
            awaiting: None,
            known: CommitNo(0),
            tries: 0,
            noted: None,
            defects: Defects::default(),
        }
    }

    /// Plants a known mistake, for the tests that must find it.
    #[cfg(feature = "defects")]
    pub fn plant(&mut self, defect: Defect) {
        self.defects.plant(defect);
    }

    fn has(&self, defect: Defect) -> bool {
        self.defects.has(defect)
    }

    /// Where it is on its way to running.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it may publish.
    pub fn publisher(&self) -> Publisher {
        self.publisher
    }

    /// As of which acquire.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The store's run under which it was acquired: a cell loaded under another run may be older than the slot.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The last stored commit.
    pub fn n(&self) -> CommitNo {
        self.n
    }

    /// Where the last stored commit stands in the sources.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Where the marker stands in the sources: what is caused before is published.
    pub fn floor(&self) -> &[Position] {
        &self.floor
    }

    /// The marker's number, as last known.
    pub fn covered(&self) -> CommitNo {
        self.covered
    }

    /// Sets the bound of [`Slot::is_outbox_full`].
    pub fn set_outbox_bytes_max(&mut self, bytes: usize) {
        self.outbox_bytes_max = bytes;
    }

    /// Whether so much waits to be published that sources pause and emits are refused.
    pub fn is_outbox_full(&self) -> bool {
        self.outbox_bytes >= self.outbox_bytes_max
    }

    /// Bytes that wait to be published.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    /// Whether records may be applied and calls run.
    pub fn may_apply(&self) -> bool {
        self.phase == Phase::Run
    }

    /// Whether the next commit may be sealed and sent now.
    pub fn may_seal(&self) -> bool {
        self.phase == Phase::Run && self.flight.is_none() && !self.marker_missing
    }

    /// The commit that will hold what is changed from now on; a reply that changed or saw unsealed state is held for it.
    pub fn open_commit(&self) -> CommitNo {
        self.sealed().next()
    }

    /// The last sealed commit: stored, or on its way. A reply that saw only sealed state is held for it.
    pub fn sealed(&self) -> CommitNo {
        match &self.flight {
            Some(Flight { script: Script::Commit(commit), .. }) if self.phase != Phase::Off => commit.n,
            _ => self.n,
        }
    }

    /// Whether an output with this cause is published already: the store went back behind the marker and the record is
    /// being applied once more. Such an output is dropped; [`Slot::seal`] drops what it finds.
    pub fn covers(&self, cause: &Cause) -> bool {
        positions::covers(&self.floor, cause)
    }

    /// Seals what was decided since the last seal: cells, positions after it (every one of the slot), outputs.
    /// The commit goes out at once and is resent unchanged until its outcome is known.
    ///
    /// Call it only when [`Slot::may_seal`].
    pub fn seal(
        &mut self,
        cells: Cells,
        mut at: Vec<Position>,
        mut outbox: Outbox,
        out: &mut Vec<Do>,
    ) -> CommitNo {
        assert!(
            self.may_seal(),
            "slot {}: sealed while {:?} or a script on its way",
            self.seat.slot,
            self.phase
        );
        positions::normalize(&mut at);
        assert!(
            !positions::any_ahead(&self.positions, &at),
            "slot {}: a commit's positions fall behind the stored ones",
            self.seat.slot
        );
        if positions::any_ahead(&self.floor, &self.positions) {
            let floor = &self.floor;
            outbox.retain(|entry| !positions::covers(floor, &entry.cause));
        }
        let n = self.n.next();
        let mut trim = self.covered;
        if self.has(Defect::TrimEarly) {
            trim = self.outbox.back().map_or(trim, |last| last.n);
        }
        let commit = Arc::new(Commit {
            slot: self.seat.slot,
            epoch: self.epoch,
            n,
            id: CommitId { incarnation: self.seat.me, epoch: self.epoch, n },
            cells,
            positions: at,
            outbox,
            trim,
        });
        if self.has(Defect::ReplyBeforeCommit) {
            out.push(Do::Release(n));
        }
        self.send(Script::Commit(commit), out);
        n
    }

    /// Notes the record about to be applied, for a slot that has killed its process. `Do::Noted` follows.
    ///
    /// Call it only when [`Slot::may_seal`].
    pub fn note(&mut self, noted: Position, out: &mut Vec<Do>) {
        assert!(
            self.may_seal(),
            "slot {}: noted while {:?} or a script on its way",
            self.seat.slot,
            self.phase
        );
        let Seat { slot, me, .. } = self.seat;
        self.send(Script::Note { slot, me, epoch: self.epoch, run: self.run, noted }, out);
    }

    /// Whether published outputs are still stored and may be let go of now.
    pub fn wants_trim(&self) -> bool {
        self.may_seal() && self.to_trim.is_some()
    }

    /// Nothing to commit for now: lets go of published outputs that are still stored, if there are any. (Every commit does
    /// so on its way.)
    pub fn idle(&mut self, out: &mut Vec<Do>) {
        if !self.wants_trim() {
            return;
        }
        let Seat { slot, me, .. } = self.seat;
        self.send(Script::Trim { slot, me, epoch: self.epoch, run: self.run, covered: self.covered }, out);
    }

    /// The store is connected again, and this is its server's run. Under another run it may have lost writes: the slot is
    /// dropped, even if it has nothing to write and would not notice for long.
    pub fn connected(&mut self, run: RunId, out: &mut Vec<Do>) {
        let knows_run = !matches!(self.phase, Phase::Off | Phase::Acquire | Phase::Stopped);
        if knows_run && run != self.run && !self.has(Defect::IgnoreServerRun) {
            self.drop_slot(Why::Fenced, out);
        }
    }

    /// A handler failed: everything not sealed is dropped, the outcome of the commit in flight is awaited, then the
    /// slot is `Opened` again as of its last stored commit.
    pub fn rollback(&mut self, out: &mut Vec<Do>) {
        if self.phase != Phase::Run {
            return;
        }
        let awaited = self.in_flight();
        out.push(Do::Drop(Dropped { why: Why::Rollback, awaited, unsure: None }));
        if self.flight.is_some() {
            self.phase = Phase::Rollback;
        } else {
            self.open(out);
        }
    }

    /// The silo gives the slot up at once: its lease ran out, or it is going down. Nothing is written.
    pub fn give_up(&mut self, out: &mut Vec<Do>) {
        if self.phase != Phase::Off {
            self.drop_slot(Why::GivenUp, out);
        }
    }

    /// Whether nothing of the slot is on its way: no script, no output unpublished, no open transaction.
    pub fn may_give(&self) -> bool {
        let idle = self.outbox.is_empty() && self.publication.is_none() && self.publisher == Publisher::Ok;
        self.may_seal() && (idle || self.has(Defect::GiveOpenTransaction))
    }

    /// Gives the slot to a named successor; false, and nothing done, unless [`Slot::may_give`]. Everything applied must
    /// have been sealed before. `Do::Drop` tells the end.
    pub fn give(&mut self, to: Incarnation, out: &mut Vec<Do>) -> bool {
        if !self.may_give() {
            return false;
        }
        self.phase = Phase::Give;
        let Seat { slot, me, txid, .. } = self.seat;
        let (epoch, run, covered) = (self.epoch, self.run, self.covered);
        self.send(Script::Give { slot, me, txid, epoch, run, to, covered }, out);
        true
    }

    /// Hears what happened and appends what is to be done.
    pub fn hear(&mut self, heard: Heard, out: &mut Vec<Do>) {
        match heard {
            Heard::Scripted(reply) => self.scripted(reply, out),
            Heard::ScriptUnknown => self.script_unknown(out),
            Heard::Fenced(ask) => self.fenced(ask, out),
            Heard::Record(ask, stored) => self.record(ask, stored, out),
            Heard::Marker(ask, marker) => self.marker(ask, marker, out),
            Heard::NoAnswer(ask) => self.ask_again(ask, out),
            Heard::Published(epoch, n) => self.published(epoch, n),
            Heard::Aborted(epoch, n) => self.aborted(epoch, n),
            Heard::ProducerLost => self.producer_lost(out),
            Heard::ProducerReady => self.producer_ready(out),
        }
    }
}
