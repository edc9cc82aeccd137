//! The `granary` command with the kinds that the tests call.

use std::collections::BTreeMap;
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

    /// From memory, whatever becomes of the silo.
    #[snapshot]
    fn glance(&self) -> u64 {
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

    /// A read that takes its time.
    async fn look(&self, ms: u64) -> Result<u64> {
        tokio::time::sleep(millis(ms).into()).await;
        Ok(self.total)
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

/// A grain whose turns may last two seconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Brief {
    total: u64,
}

#[grain(turn_max = "2s")]
impl Brief {
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    /// Never ends.
    async fn hang(&mut self) -> Result<()> {
        self.total += 1_000_000;
        std::future::pending().await
    }
}

/// Is reminded, and notes of what and how late.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bill {
    /// How often each occurrence came.
    came: BTreeMap<u64, u32>,
    late_ms: Vec<u64>,
}

#[grain]
impl Bill {
    /// Once, in so many milliseconds; the occurrence is called `no`.
    fn once(&mut self, no: u64, in_ms: u64, cx: &mut Cx) -> Result<()> {
        let due = cx.now() + millis(in_ms);
        let fires = Bill::at(cx.key().clone()).fire(no, due);
        cx.remind(&no.to_string(), Schedule::once(millis(in_ms)).catch_up(CatchUp::Each), fires)
    }

    /// Many of them: `count` numbers from `from` on.
    fn many(&mut self, from: u64, count: u64, in_ms: u64, cx: &mut Cx) -> Result<()> {
        (from..from + count).try_for_each(|no| self.once(no, in_ms, cx))
    }

    /// Again and again: all of them are called 0.
    fn every(&mut self, period_ms: u64, catch_up: CatchUp, cx: &mut Cx) -> Result<()> {
        let fires = Bill::at(cx.key().clone()).fire(0, Timestamp(i64::MAX));
        cx.remind("every", Schedule::every(millis(period_ms)).catch_up(catch_up), fires)
    }

    fn fire(&mut self, no: u64, due: Timestamp, cx: &mut Cx) {
        *self.came.entry(no).or_default() += 1;
        self.late_ms.push(cx.now().since(due).ms());
    }

    fn stop(&mut self, cx: &mut Cx) -> Result<bool> {
        cx.cancel_reminder("every")
    }

    fn came(&self) -> BTreeMap<u64, u32> {
        self.came.clone()
    }

    fn late_ms(&self) -> Vec<u64> {
        self.late_ms.clone()
    }
}

/// Is told of every record; those of the device `slow` take it a hundred times as long as others.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Listener {
    heard: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Measurement {
    id: String,
    device: String,
}

#[grain]
impl Listener {
    async fn take(&mut self, measurement: Measurement) -> Result<()> {
        let ms = match measurement.device.split_once('-') {
            Some(("slow", _)) => 100,
            Some(("quick", _)) => 1,
            _ => 10, // seconds of work for some hundred messages, so that tests meet it in the middle
        };
        tokio::time::sleep(millis(ms).into()).await;
        self.heard.push(measurement.id);
        Ok(())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.clone()
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
    let cli = granary::cli().host::<Cold>().host::<Slow>().host::<Brief>().host::<Bill>().host::<Listener>();
    if std::env::var_os(NEXT).is_some() {
        cli.host::<next::Counter>().run()
    } else {
        cli.host::<Counter>().run()
    }
}
