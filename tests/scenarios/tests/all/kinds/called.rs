//! Kinds that are called: counters, rings, documents.

use std::collections::BTreeMap;
use std::sync::Mutex;

use granary_core::{Cx, Error, Key, Result, Shared};
use granary_macros::grain;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Gate;

/// A counter, with every way to change it.
#[derive(Default, Serialize, Deserialize)]
pub struct Counter {
    total: u64,
}

#[grain(crate = granary_core)]
impl Counter {
    pub fn add(&mut self, by: u64) -> u64 {
        self.total += by;
        self.total
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    #[snapshot]
    pub fn glance(&self) -> u64 {
        self.total
    }

    /// Changes the state, then refuses: the change stands, the answer is an error.
    pub fn add_and_refuse(&mut self, by: u64) -> Result<u64> {
        self.total += by;
        Err(Error::rejected(format!("at {}", self.total)))
    }

    pub fn add_and_panic(&mut self, by: u64) -> u64 {
        self.total += by;
        panic!("at {}", self.total)
    }

    pub fn only_panic(&self) -> u64 {
        panic!("for no reason")
    }

    /// Changes the state before and after waiting for another grain.
    pub async fn add_around(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        self.total += by;
        Ok(self.total)
    }

    /// Changes the state before and after waiting for what is no grain, and so has no deadline.
    pub async fn add_around_outside(&mut self, by: u64) -> u64 {
        self.total += by;
        OUTSIDE.0.notify_one();
        OUTSIDE.1.notified().await;
        self.total += by;
        self.total
    }

    /// Adds to another counter of any slot, and waits for it.
    pub async fn add_there(&mut self, there: String, by: u64, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Counter>(Key::parse(&there)).add(by).await
    }

    pub async fn panic_after(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        panic!("after the gate")
    }

    pub fn tell_out(&mut self, text: String, cx: &mut Cx) -> Result<()> {
        self.total += 1;
        cx.emit("out", &text)
    }

    /// Emits, waits, and emits again.
    pub async fn tell_around(&mut self, text: String, gate: String, cx: &mut Cx) -> Result<()> {
        self.total += 1;
        cx.emit("out", &format!("{text} before"))?;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        cx.emit("out", &format!("{text} after"))
    }
}

/// Grains that call one another in a ring.
#[derive(Default, Serialize, Deserialize)]
pub struct Ring {
    seen: u64,
}

#[grain(crate = granary_core)]
impl Ring {
    /// Calls the next of the path, and so on.
    pub async fn go(&mut self, path: Vec<String>, cx: &mut Cx) -> Result<u64> {
        self.seen += 1;
        let Some((next, rest)) = path.split_first() else { return Ok(self.seen) };
        cx.grain::<Ring>(Key::parse(next)).go(rest.to_vec()).await
    }

    /// Calls the next number until it is zero: a chain of different grains.
    pub async fn down(&mut self, left: u64, cx: &mut Cx) -> Result<u64> {
        self.seen += 1;
        if left == 0 {
            return Ok(0);
        }
        let next = format!("{}-{left}", cx.key().as_str().split('-').next().unwrap_or("x"));
        Ok(1 + cx.grain::<Ring>(next).down(left - 1).await?)
    }
}

/// Reads and writes that wait at a gate.
#[derive(Default, Serialize, Deserialize)]
pub struct Doc {
    edits: u64,
}

#[grain(crate = granary_core)]
impl Doc {
    pub async fn read_at(&self, gate: String, cx: &mut Cx) -> Result<u64> {
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok(self.edits)
    }

    pub async fn edit_at(&mut self, gate: String, cx: &mut Cx) -> Result<u64> {
        self.edits += 1;
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok(self.edits)
    }

    pub fn edit(&mut self) -> u64 {
        self.edits += 1;
        self.edits
    }

    pub fn edits(&self) -> u64 {
        self.edits
    }

    #[interleave]
    pub async fn bump_around(this: &Shared<Self>, gate: String, cx: &mut Cx) -> Result<(u64, u64)> {
        let before = this.update(|me| {
            me.edits += 1;
            me.edits
        });
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        Ok((before, this.read(|me| me.edits)))
    }

    #[interleave]
    pub fn look(this: &Shared<Self>) -> u64 {
        this.read(|me| me.edits)
    }
}

/// A kind whose turns may last five seconds.
#[derive(Default, Serialize, Deserialize)]
pub struct Brief {
    total: u64,
}

#[grain(turn_max = "5s", crate = granary_core)]
impl Brief {
    pub fn add(&mut self, by: u64) -> u64 {
        self.total += by;
        self.total
    }

    pub async fn add_around(&mut self, by: u64, gate: String, cx: &mut Cx) -> Result<u64> {
        self.total += by;
        cx.grain::<Gate>(Key::parse(&gate)).pass().timeout(granary_core::time::hours(1)).await?;
        self.total += by;
        Ok(self.total)
    }

    pub fn total(&self) -> u64 {
        self.total
    }
}

/// A turn of `add_around_outside` waits; it may go on. One test has it at a time.
pub static OUTSIDE: (Notify, Notify) = (Notify::const_new(), Notify::const_new());

/// The spinners that have held their lane, and whether they still do.
static HELD: Mutex<BTreeMap<Key, bool>> = Mutex::new(BTreeMap::new());

/// Whether the spinner has its lane in hand.
pub fn holds_lane(spinner: &str) -> bool {
    HELD.lock().expect("no test panics with it").get(&Key::parse(spinner)) == Some(&true)
}

/// Ends the spinner's turn.
pub fn let_go(spinner: &str) {
    HELD.lock().expect("no test panics with it").insert(Key::parse(spinner), false);
}

/// A grain whose turns hold the lane.
#[derive(Default, Serialize, Deserialize)]
pub struct Spinner;

#[grain(volatile, crate = granary_core)]
impl Spinner {
    /// Holds its lane until [`let_go`].
    pub fn hold_lane(&self, cx: &mut Cx) {
        let is_held = || HELD.lock().expect("no test panics with it").get(cx.key()) == Some(&true);
        HELD.lock().expect("no test panics with it").insert(cx.key().clone(), true);
        while is_held() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
