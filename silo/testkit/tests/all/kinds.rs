//! The grains of these tests.

use std::sync::atomic::{AtomicU64, Ordering};

use granary::prelude::*;
use tokio::sync::Semaphore;

static ACTIVATIONS: AtomicU64 = AtomicU64::new(0);
/// Turns that wait at the door go on when it is opened.
static DOOR: Semaphore = Semaphore::const_new(0);

/// Counts, and knows which activation it is.
#[derive(Default, Serialize, Deserialize)]
pub struct Tally {
    n: u64,
    #[serde(skip)]
    activation: u64,
}

#[grain]
impl Tally {
    fn on_activate(&mut self) {
        self.activation = ACTIVATIONS.fetch_add(1, Ordering::SeqCst) + 1;
    }

    pub fn add(&mut self, by: u64) -> u64 {
        self.n += by;
        self.n
    }

    pub fn n(&self) -> u64 {
        self.n
    }

    pub fn activation(&self) -> u64 {
        self.activation
    }

    /// Holds the grain until the door is open.
    pub async fn wait(&mut self) -> u64 {
        DOOR.acquire().await.expect("nobody closes it").forget();
        self.n
    }

    /// Emits what it has, and raises an alert.
    pub fn tell(&mut self, cx: &mut Cx) -> Result<()> {
        cx.emit("tallies", &self.n)?;
        drop(cx.alert("tally.told", &self.n));
        Ok(())
    }

    #[subscribe("additions")]
    pub fn added(&mut self, by: u64) {
        self.n += by;
    }
}

/// Opens the door after a while.
#[derive(Default, Serialize, Deserialize)]
pub struct Porter {}

#[grain]
impl Porter {
    pub fn open_after(&mut self, span: Span, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("open", Schedule::once(span), Porter::at(key).open())
    }

    pub fn open(&mut self) {
        DOOR.add_permits(1);
    }
}

/// Asks others.
#[derive(Default, Serialize, Deserialize)]
pub struct Asker {
    #[serde(skip)]
    asked: u64,
}

#[grain]
impl Asker {
    /// The activations of these tallies, asked one after the other.
    pub async fn activations(&mut self, tallies: Vec<String>, cx: &mut Cx) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for tally in tallies {
            found.push(cx.grain::<Tally>(Key::from(tally.as_str())).activation().await?);
            self.asked += 1;
        }
        Ok(found)
    }

    /// Hands the rest of the way to the next one on it.
    pub async fn go(&mut self, mut way: Vec<String>, cx: &mut Cx) -> Result<u64> {
        self.asked += 1;
        if way.is_empty() {
            return Ok(0);
        }
        let next = way.remove(0);
        Ok(cx.grain::<Asker>(Key::from(next.as_str())).go(way).await? + 1)
    }
}

/// Sends reminders.
#[derive(Default, Serialize, Deserialize)]
pub struct Bill {
    sent: u64,
}

#[grain]
impl Bill {
    pub fn remind(&mut self, every: Span, catch_up: CatchUp, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.remind("bill", Schedule::every(every).catch_up(catch_up), Bill::at(key).send())
    }

    pub fn send(&mut self) {
        self.sent += 1;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }
}
