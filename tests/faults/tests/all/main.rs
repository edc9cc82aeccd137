//! The binary under kills, stuck turns, poisoned records and calls. The long forms are ignored tests; the environment may
//! set how long: `GRANARY_KILLS` and `GRANARY_RECORDS` for runs, `GRANARY_ROUNDS` for a silo under calls.

mod calls;
mod culprits;
mod demo;
mod doorbell;
mod failpoints;
mod kills;
mod kit;
mod sample;
mod windows;
