//! Kinds that count, and one that misbehaves on marked records.

use std::hint::black_box;

use granary::prelude::*;

/// A record whose id begins so makes its turn panic.
pub const PANIC: &str = "panic!";
/// A record whose id begins so makes its turn answer `Err`.
pub const FAIL: &str = "fail!";
/// A record whose id begins so overflows the stack.
pub const OVERFLOW: &str = "overflow!";
/// A record whose id begins so never ends.
pub const LOOP: &str = "loop!";

/// Counts the records of its device, and falls over marked ones after it has counted them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Records so far.
    pub seen: u64,
}

#[grain]
impl Tally {
    /// Takes a record.
    pub fn record(&mut self, id: String) -> Result<()> {
        self.seen += 1;
        if id.starts_with(PANIC) {
            panic!("told to panic");
        }
        if id.starts_with(FAIL) {
            return Err(Error::invalid("told to fail"));
        }
        if id.starts_with(OVERFLOW) {
            self.seen += dig(1);
        }
        while id.starts_with(LOOP) {
            black_box(&self.seen);
        }
        Ok(())
    }
}

/// Calls itself until the stack has no more room: only `u64::MAX` levels would be enough.
fn dig(depth: u64) -> u64 {
    let kept = black_box([depth; 32]);
    if depth == u64::MAX { 0 } else { dig(depth + 1) + black_box(kept)[0] }
}

/// Adds up what it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    total: u64,
}

#[grain]
impl Counter {
    /// Adds, and says the sum.
    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// The whole of a grain: state, a method that changes it, a method that reads it.
#[derive(Default, Serialize, Deserialize)]
pub struct Doorbell {
    rung: u64,
    last: String,
}

#[grain]
impl Doorbell {
    /// Somebody rings.
    pub fn ring(&mut self, who: String) -> u64 {
        self.rung += 1;
        self.last = who;
        self.rung
    }

    /// Who rang last.
    pub fn last(&self) -> String {
        self.last.clone()
    }
}
