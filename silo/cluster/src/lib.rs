//! Slots and their commits, without IO.
//!
//! | module | holds |
//! |---|---|
//! | [`commit`] | what a commit is made of: cells, positions, outbox, causes, epochs |
//! | [`port`] | what the engine asks of a store, a log and a pipeline |
//! | [`slot`] | the protocol: one slot's state machine, from acquire to give |
//! | [`positions`] | lists of positions, and what they cover |
//!
//! Invariant: nothing here opens a socket, reads a clock, starts a thread or draws a random number.

pub mod commit;
mod defects;
pub mod port;
pub mod positions;
pub mod slot;

pub use commit::{
    Cause, Cells, Commit, CommitId, CommitNo, Entry, Epoch, Incarnation, Marker, Outbox, Position, RunId,
    SlotRecord, SourceId, StreamId, TxId, TxIds,
};
#[cfg(feature = "defects")]
pub use defects::Defect;
pub use port::{
    Applied, Batch, Effects, Failure, Log, Lookup, Pipeline, Record, Reply, Script, Store, Verdict,
};
