//! A user's own binary: the `granary` command with kinds of its own.

use std::process::ExitCode;

use granary_faults::kinds::{Counter, Doorbell, Tally};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    granary::cli().host::<Tally>().host::<Counter>().host::<Doorbell>().run()
}
