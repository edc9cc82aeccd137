//! Seeded simulation of the commit protocol: the real slot machines, and around them a store, a log, a network and silos
//! that crash, pause, lose messages and lose writes, all in one thread.
//!
//! | module | holds |
//! |---|---|
//! | [`run`], [`step`] | one run: scenario, steps, faults, who is late, then calm |
//! | [`world`], `losses` | how machines, store and network hear of each other, and what they lose |
//! | [`lane`] | the lane's work at the log |
//! | [`store`], [`log`] | the simulated technologies |
//! | [`memory`], [`silo`] | what an engine keeps |
//! | [`truth`], [`check`], [`reads`] | what must come out, and what must hold at each step |
//! | [`members`] | the kind of run that has time: silos with leases, of one member table |
//! | [`scenario`] | kinds of runs and planted mistakes |
//! | [`paths`] | which of the less common paths a run walked |
//!
//! Invariant: a run depends on its seed alone.

pub mod check;
pub mod lane;
pub mod log;
mod losses;
pub mod members;
pub mod memory;
pub mod paths;
pub mod random;
pub mod reads;
pub mod run;
pub mod scenario;
pub mod silo;
pub mod step;
pub mod store;
pub mod truth;
pub mod world;
