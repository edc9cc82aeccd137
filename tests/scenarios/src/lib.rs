//! Scenarios of grains, calls, timers and streams on the engine, with the store's faults under the test's hand.
//!
//! | module | holds |
//! |---|---|
//! | [`silo`] | one engine on a store that outlives it, with a hand-moved clock |
//! | [`broker`] | a log in memory with transactions, fencing and stable markers, as Kafka has them |
//! | [`faults`] | a store that fails, forgets to answer, or waits, as told |
//! | [`wait`] | waiting with a limit that says what was expected |
//! | [`pipeline`] | a small pipeline that tells a grain of each record |

#![allow(clippy::unwrap_used)] // a test kit: a failed expectation ends the test

pub mod broker;
pub mod faults;
pub mod pipeline;
pub mod silo;
pub mod wait;

pub use broker::Broker;
pub use faults::{EndFault, Fault, Faults};
pub use silo::{Rig, Silo};
pub use wait::{SOON, eventually, soon, within};
