//! Scenarios of grains, calls, timers and streams on the engine, with the store's faults under the test's hand.
//!
//! | module | holds |
//! |---|---|
//! | [`silo`] | one engine on a store that outlives it, with a hand-moved clock |
//! | [`broker`] | a log in memory with transactions, fencing and stable markers, as Kafka has them |
//! | [`pipeline`] | a small pipeline that tells a grain of each record |
//!
//! The faults of a store and waiting with a limit come from the test kit.

#![allow(clippy::unwrap_used)] // a test kit: a failed expectation ends the test

pub mod broker;
pub mod pipeline;
pub mod silo;

pub use broker::Broker;
pub use granary_testkit::faults::{self, EndFault, Fault, Faults};
pub use granary_testkit::wait::{self, SOON, eventually, soon, within};
pub use silo::{Rig, Silo};
