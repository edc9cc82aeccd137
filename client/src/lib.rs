//! The client of a Granary cluster, and the accepting end of its connections.
//!
//! ```no_run
//! # use granary_core::{Grain, GrainId, Result, call::Options};
//! # async fn example() -> Result<()> {
//! use granary_client::Client;
//! let client = Client::connect("127.0.0.1:7400").await?;
//! let row = client.call(&GrainId::new("Device", "d-7"), "get", &[], Options::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`client`] | [`Client`]: typed and untyped calls, writes, questions |
//! | [`tail`] | the records of a stream as they come |
//! | [`serve`] | the other end: what a silo puts behind its listening socket |
//! | `cluster`, `routes`, `request` | many silos as one: who owns the slot, when to send again |
//! | `connect`, `link`, `pending` | one connection: handshake, what travels, who waits for what |
//! | `outgoing` | frames gathered into few writes |
//!
//! A client never repeats a call that may have run, unless it has an idempotency key: it says so, and the caller decides.

pub mod client;
mod cluster;
mod connect;
mod link;
mod outgoing;
mod pending;
mod request;
mod routes;
pub mod serve;
pub mod tail;

pub use client::{Builder, Client};
pub use cluster::{TABLE_TIMEOUT, TELLERS_MAX};
pub use granary_wire::{NewRecord, SiloEntry, SlotTable, Start};
pub use link::SILENCE_MAX;
pub use pending::IN_FLIGHT_MAX;
pub use request::{BACKOFF_MAX, BACKOFF_MIN};
pub use routes::Connection;
pub use tail::{Record, Tail};
