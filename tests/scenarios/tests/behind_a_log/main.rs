//! The same scenarios with outputs that go through transactions of an external log, and those of the log itself.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

#[path = "../all/activations.rs"]
mod activations;
#[path = "../all/calls.rs"]
mod calls;
#[path = "../all/commits.rs"]
mod commits;
mod eager;
#[path = "../all/keyed.rs"]
mod keyed;
#[path = "../all/kinds/mod.rs"]
mod kinds;
mod log;
#[path = "../all/streams.rs"]
mod streams;
#[path = "../all/timers.rs"]
mod timers;

/// Where the scenarios take place: a store behind a log with transactions.
fn rig() -> granary_scenarios::Rig {
    granary_scenarios::Rig::behind_a_log()
}
