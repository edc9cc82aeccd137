//! Scenarios of grains, calls, timers and streams on the engine.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

mod activations;
mod calls;
mod closing;
mod commits;
mod golden;
mod idle;
mod keyed;
mod kinds;
mod smoke;
mod streams;
mod timers;

/// Where the scenarios take place: a store that publishes outputs itself.
fn rig() -> granary_scenarios::Rig {
    granary_scenarios::Rig::new()
}
