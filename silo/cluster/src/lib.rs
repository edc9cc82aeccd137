//! Slots and their commits, without IO.
//!
//! | module | holds |
//! |---|---|
//! | [`commit`] | what a commit is made of: cells, positions, outbox, causes, epochs |
//! | [`port`] | what the engine asks of a store, a log and a pipeline |
//!
//! Invariant: nothing here opens a socket, reads a clock, starts a thread or draws a random number.

pub mod commit;
pub mod port;

pub use commit::{
    Cause, Cells, Commit, CommitId, CommitNo, Entry, Epoch, Incarnation, Marker, Outbox, Position, RunId,
    SlotRecord, SourceId, StreamId, TxId, TxIds,
};
pub use port::{
    Applied, Batch, Effects, Failure, Log, Lookup, Pipeline, Record, Reply, Script, Store, Verdict,
};
