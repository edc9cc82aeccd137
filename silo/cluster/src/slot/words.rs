//! What a slot's state machine hears and what it asks to be done.

use std::sync::Arc;

use granary_core::SlotId;

use crate::commit::{
    Commit, CommitNo, Epoch, Incarnation, Marker, Noted, Outbox, Position, RunId, SlotRecord, TxId, TxIds,
};
use crate::port::{Reply, Script};
use crate::revision::Program;

/// How outputs get from the outbox to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// The store publishes them in the commit's own atomic batch (store and log are one engine): no transactions, no
    /// marker; whatever is stored is published.
    Store,
    /// Transactions of an external log, with a marker for each slot.
    Log,
}

/// Where a slot is on its way to running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not owned here.
    Off,
    /// The acquire is on its way.
    Acquire,
    /// Others who may hold a transaction of the slot are being fenced.
    Fence,
    /// Its row and outbox are being read.
    Read,
    /// Its marker is being read.
    Marker,
    /// The store is behind the marker and is told to go on from the marker's number.
    Rebase,
    /// It runs.
    Run,
    /// Memory was dropped; the outcome of the script in flight is awaited, then it runs again.
    Rollback,
    /// It is being given to a successor.
    Give,
    /// It cannot go on without the repair command.
    Stopped,
}

/// Whether the slot may publish through the lane's producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// It may.
    Ok,
    /// The producer is fenced, or the outcome of its last transaction unknown: it must be initialised again.
    Lost,
    /// Initialised again: owner and epoch are being read again.
    Recheck,
    /// Still the owner: the marker is being read again.
    Reread,
}

/// Numbers a question, so that a late answer to an earlier one is not mistaken for the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask(pub u64);

/// What the engine is to carry out.
///
/// What comes in answer to [`Heard::ScriptUnknown`] or [`Heard::NoAnswer`] repeats something: wait a little before
/// ([`crate::pace::Backoff`]).
#[derive(Clone, Debug)]
pub enum Do {
    /// Hand this script to the store; then say `Scripted` or `ScriptUnknown`. A slot has one at a time.
    Script(Script),
    /// Finish `init_transactions` on every one of these ids (`everyone`: on all ids of the cluster), then say `Fenced`.
    /// For the lane's own id it is enough that no open transaction of the lane holds this slot.
    Fence(Ask, TxIds),
    /// Read the slot's row and stored outbox, then say `Record`.
    ReadRecord(Ask),
    /// Read the slot's marker, waiting for open transactions (a stable read), then say `Marker`.
    ReadMarker(Ask),
    /// Initialise the lane's own producer again (once for all its slots), then say `ProducerReady` to each of them.
    InitProducer,
    /// The slot runs: apply records from these positions on.
    Opened(Opened),
    /// The position is noted: its record may be applied now.
    Noted(Position),
    /// Commit n is stored: replies held for it or earlier ones may leave; what it held may leave memory.
    Release(CommitNo),
    /// Drop the slot's memory and everything not sealed.
    Drop(Dropped),
    /// The store lost these acknowledged commits (it went back behind them): the calls in them are gone. Say so loudly.
    Lost {
        /// The first lost commit.
        from: CommitNo,
        /// The last one.
        to: CommitNo,
    },
    /// The slot cannot go on: a person must repair it.
    Stop(Repair),
}

/// A slot that runs, or runs again after a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its last stored commit.
    pub n: CommitNo,
    /// As of which acquire.
    pub epoch: Epoch,
    /// The next offsets to apply, sorted. A partition that is not named has never been read.
    pub positions: Vec<Position>,
    /// Take-overs since its last commit, see [`crate::retry::Caution`].
    pub tries: u32,
    /// The record that was noted before it was applied, if the process ended after that.
    pub noted: Option<Noted>,
}

/// Memory that has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub why: Why,
    /// Replies held for this commit stay held: it is on its way and its outcome will be told (`Release`, or a later
    /// `Drop`). Only for [`Why::Rollback`].
    pub awaited: Option<CommitNo>,
    /// Whether this commit is stored is not known: replies held for it are answered `unknown`. Those held for later
    /// ones surely did not happen.
    pub unsure: Option<CommitNo>,
}

/// Why a slot's memory is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A handler failed; the slot stays and will be `Opened` again.
    Rollback,
    /// The store says that owner, epoch or server run are not ours.
    Fenced,
    /// The stored commit is not the one before ours.
    Behind,
    /// The marker is ahead of us: somebody published what we do not know.
    MarkerAhead,
    /// It was given to its successor.
    Given(Incarnation),
    /// A silo of a later generation has owned it: this one does not read its state, and does not try again.
    Outdated,
    /// The silo gave it up: its lease ran out, or it is shutting down.
    GivenUp,
}

/// What a person has to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// There is no marker and the outbox is not empty: what of it was published cannot be known.
    MarkerLost,
}

/// A slot's row and outbox, as read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The row.
    pub record: SlotRecord,
    /// The outbox: entries by commit, ascending.
    pub outbox: Vec<(CommitNo, Arc<Outbox>)>,
    /// The store's run at the time of reading.
    pub run: RunId,
}

/// What the engine tells.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The store's answer to the script in flight.
    Scripted(Reply),
    /// It is not known what became of the script in flight.
    ScriptUnknown,
    /// All ids of the `Fence` are fenced.
    Fenced(Ask),
    /// The answer to `ReadRecord`.
    Record(Ask, Stored),
    /// The answer to `ReadMarker`.
    Marker(Ask, Option<Marker>),
    /// `Fence`, `ReadRecord` or `ReadMarker` failed; it is to be tried again.
    NoAnswer(Ask),
    /// The transaction with the publication of this commit under this epoch has ended.
    Published(Epoch, CommitNo),
    /// That transaction was aborted before its end was tried: nothing of it is visible.
    Aborted(Epoch, CommitNo),
    /// The lane's producer was fenced, or the outcome of its transaction is unknown.
    ProducerLost,
    /// The lane's producer was initialised again, for whatever reason.
    ProducerReady,
}

/// Outputs of one slot for one transaction, with the marker that goes with them.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Outputs by commit, in order; may be empty: the marker alone.
    pub commits: Vec<Pending>,
    /// The marker to commit in the same transaction.
    pub marker: Marker,
}

/// The outputs of one stored commit that the marker is not known to cover.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which commit.
    pub n: CommitNo,
    from: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Commit(Arc<Commit>),
    Stored(Arc<Outbox>),
}

impl Pending {
    pub(crate) fn committed(commit: Arc<Commit>) -> Pending {
        Pending { n: commit.n, from: Origin::Commit(commit) }
    }

    /// Outputs as they are read from the store.
    pub fn stored(n: CommitNo, outbox: Arc<Outbox>) -> Pending {
        Pending { n, from: Origin::Stored(outbox) }
    }

    /// The outputs.
    pub fn outbox(&self) -> &Outbox {
        match &self.from {
            Origin::Commit(commit) => &commit.outbox,
            Origin::Stored(outbox) => outbox,
        }
    }
}

/// Who a slot's machine works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which slot.
    pub slot: SlotId,
    /// This silo's life.
    pub me: Incarnation,
    /// The transactional id of the lane.
    pub txid: TxId,
    /// How outputs get to the log.
    pub outlet: Outlet,
    /// What this silo runs.
    pub program: Program,
}
