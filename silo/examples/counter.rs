//! A grain of one's own in a program that has every command of `granary`.
//!
//! `cargo run --release -p granary --example counter -- silo --set store.path=counters`
//! `cargo run --release -p granary --example counter -- call Counter/apples add 3`

use std::process::ExitCode;

use granary::prelude::*;

/// A total that survives its silo: a reply leaves when the change behind it is stored.
#[derive(Default, Serialize, Deserialize)]
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
