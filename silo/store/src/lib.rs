//! The stores: an embedded store and log in one engine that needs no services, and a store on a Redis server.
//!
//! | module | holds |
//! |---|---|
//! | [`embedded`] | [`Embedded`]: opening, the store's port |
//! | [`log`] | the log's port, subscriptions, reads with identities |
//! | [`options`] | durability by name, slots, output streams |
//! | [`export`] | copies a topic into a file exactly once |
//! | [`redis`] | [`Redis`]: the store's port on a Redis server |
//! | [`memory`] | the same ports in memory, for tests |
//! | [`conformance`] | what every store and log must do, as checks for any adapter |
//! | [`slots`] | what a script does to a slot's row: the rules, without IO |
//!
//! # How the embedded store works
//! One thread writes. Scripts are encoded and compressed on the thread that submits them; the writer checks each
//! against its slot's row, puts all that wait into one atomic batch (rows, cells, output records), syncs once, then
//! answers. So a commit's state, positions and outputs are there together or not at all.
//!
//! Cells of recent commits are written as they come, one value per batch, and kept in memory (`recent`, by hash).
//! At half of the memory they are folded into sorted tables by bulk ingestion. Panes of windows live for seconds: most
//! are deleted before a fold and never reach a table. A filter in memory answers for cells that are nowhere.
//!
//! # Why fjall
//! fjall and redb were measured on this load (`tests/bench/RESULTS.md`, `examples/engines.rs`). redb copies a page for
//! each random cell it changes and needs milliseconds for a small durable commit; fjall needs a third of a
//! millisecond and takes sorted tables past its journal. Neither took 400,000 cell changes a second as single keys:
//! hence the layer above. fjall's journal refuses to open when a power cut leaves a hole inside its last batch:
//! `journal` cuts such a tail first. The module `crash` (tests) shows it for every
//! prefix and for torn writes.

mod block;
pub mod conformance;
#[cfg(test)]
mod crash;
mod disk;
pub mod embedded;
pub mod export;
mod filter;
mod fold;
mod group;
mod hashed;
mod journal;
pub mod log;
pub mod memory;
pub mod options;
mod recent;
pub mod redis;
mod rows;
mod scan;
mod segment;
mod shared;
pub mod slots;
mod topics;
mod varint;
mod writer;

pub use crate::redis::{Redis, RedisOptions};
pub use block::Entry as LogEntry;
pub use embedded::Embedded;
pub use export::Export;
pub use log::Subscription;
pub use memory::Memory;
pub use options::{Durability, Options, Stream};
