//! The `granary` command with the kind that the tests call.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Knows which activation it is: two at a time would show.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cold {
    #[serde(skip)]
    activation: u64,
}

#[grain]
impl Cold {
    fn on_activate(&mut self, cx: &mut Cx) -> Result<()> {
        static MADE: AtomicU64 = AtomicU64::new(1);
        let process = u64::from(std::process::id()) << 32;
        self.activation = process | MADE.fetch_add(1, Ordering::Relaxed);
        let _ = cx.now();
        Ok(())
    }

    fn activation(&self) -> u64 {
        self.activation
    }
}

/// Takes its time, and calls others.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Slow {
    total: u64,
}

#[grain]
impl Slow {
    async fn add(&mut self, n: u64, ms: u64) -> Result<u64> {
        tokio::time::sleep(millis(ms).into()).await;
        self.total += n;
        Ok(self.total)
    }

    fn total(&self) -> u64 {
        self.total
    }

    /// Calls the first of these grains, which calls the next, and so on; the last answers how many there were.
    async fn relay(&mut self, mut others: Vec<String>, cx: &mut Cx) -> Result<u64> {
        if others.is_empty() {
            return Ok(0);
        }
        let next = others.remove(0);
        Ok(1 + cx.grain::<Slow>(next).relay(others).await?)
    }
}

/// The next version of the program: the same kind with another state.
mod next {
    use granary::core::{Value, codec};
    use granary::prelude::*;

    /// Adds up what it is told, and counts how often.
    #[derive(Debug, Default, Serialize, Deserialize)]
    pub struct Counter {
        sum: u64,
        additions: u64,
    }

    #[derive(Deserialize)]
    struct First {
        total: u64,
    }

    #[grain(version = 2)]
    impl Counter {
        fn add(&mut self, n: u64) -> u64 {
            self.sum += n;
            self.additions += 1;
            self.sum
        }

        fn total(&self) -> u64 {
            self.sum
        }

        /// Additions since the state has this version.
        fn additions(&self) -> u64 {
            self.additions
        }

        fn migrate(_from: u32, state: Value) -> Result<Self> {
            let First { total } = codec::from_value(state)?;
            Ok(Counter { sum: total, additions: 0 })
        }
    }
}

/// Has this program be its next version.
const NEXT: &str = "GRANARY_TEST_NEXT";

fn main() -> ExitCode {
    let cli = granary::cli().host::<Cold>().host::<Slow>();
    if std::env::var_os(NEXT).is_some() {
        cli.host::<next::Counter>().run()
    } else {
        cli.host::<Counter>().run()
    }
}
