//! Slots and their commits, without IO.
//!
//! | module | holds |
//! |---|---|
//! | [`commit`] | what a commit is made of: cells, positions, outbox, causes, epochs |
//! | [`port`] | what the engine asks of a store, a log and a pipeline |
//! | [`producer`] | what the engine asks of an external log's transactional producer |
//! | [`slot`] | the protocol: one slot's state machine, from acquire to give |
//! | [`replies`] | replies held until their commit is stored |
//! | [`retry`] | what to do about a record that fails or kills |
//! | [`pace`] | how often to commit, how long to wait before a repetition |
//! | [`slots`] | slots, partitions and lanes |
//! | [`revision`] | what silos run, in numbered revisions, and which of them read each other's state |
//! | [`members`] | the member table, leases, and which member has which slot |
//! | [`invariants`] | what must hold, for tests and for metrics |
//! | [`fail`] | named fail points |
//! | [`positions`] | lists of positions, and what they cover |
//!
//! Invariant: nothing here opens a socket, reads a clock, starts a thread or draws a random number.
//! The one thing with a memory of its own is the table of armed fail points, and it is empty outside of tests.

pub mod commit;
mod defects;
pub mod fail;
pub mod invariants;
pub mod members;
pub mod pace;
pub mod port;
pub mod positions;
pub mod producer;
pub mod replies;
pub mod retry;
pub mod revision;
pub mod slot;
pub mod slots;

pub use commit::{
    Cause, Cells, Commit, CommitId, CommitNo, Entry, Epoch, Generation, Incarnation, Marker, Noted, Outbox,
    Position, RevisionNo, RunId, SlotRecord, SourceId, StreamId, TxId, TxIds,
};
#[cfg(feature = "defects")]
pub use defects::Defect;
pub use port::{
    Applied, Batch, ByClock, Effects, Failure, Foreseen, Log, Lookup, OnRun, Pipeline, Record, Reply, Script,
    Store, StoredOutbox, Verdict,
};
pub use producer::{Ended, Producer};
pub use revision::Program;
