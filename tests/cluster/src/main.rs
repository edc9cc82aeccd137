//! The `granary` command with the kind that the tests call.

use std::process::ExitCode;

use granary::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Adds up what it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counter {
    total: u64,
}

#[grain]
impl Counter {
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    fn total(&self) -> u64 {
        self.total
    }
}

fn main() -> ExitCode {
    granary::cli().host::<Counter>().run()
}
