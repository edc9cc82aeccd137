//! Kinds with timers and reminders.

use granary_core::host::CatchUp;
use granary_core::{Cx, Error, Grain, Key, Result, Schedule, Shared, Span};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

use super::Gate;

/// A grain with volatile timers.
#[derive(Default, Serialize, Deserialize)]
pub struct Ticker {
    ticks: u64,
    #[serde(skip)]
    at_once: u64,
    #[serde(skip)]
    most_at_once: u64,
}

#[grain(crate = granary_core)]
impl Ticker {
    pub fn start(&mut self, every_ms: u64, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick())
    }

    pub fn start_failing(&mut self, every_ms: u64, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick_and_fail())
    }

    pub fn start_at(&mut self, every_ms: u64, gate: String, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.timer("tick", Schedule::every(Span(every_ms)), Ticker::at(key).tick_at(gate))
    }

    pub fn stop(&mut self, cx: &mut Cx) -> bool {
        cx.cancel_timer("tick")
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
    }

    pub fn tick_and_fail(&mut self) -> Result<()> {
        self.ticks += 1;
        Err(Error::rejected("every tick fails"))
    }

    #[interleave]
    pub async fn tick_at(this: &Shared<Self>, gate: String, cx: &mut Cx) -> Result<()> {
        this.update(|me| {
            me.ticks += 1;
            me.at_once += 1;
            me.most_at_once = me.most_at_once.max(me.at_once);
        });
        let passed = cx.grain::<Gate>(Key::parse(&gate)).pass().await;
        this.update(|me| me.at_once -= 1);
        passed
    }

    #[interleave]
    pub fn ticks(this: &Shared<Self>) -> (u64, u64) {
        this.read(|me| (me.ticks, me.most_at_once))
    }
}

/// A grain with reminders.
#[derive(Default, Serialize, Deserialize)]
pub struct Bill {
    sent: u64,
}

#[grain(crate = granary_core)]
impl Bill {
    pub fn remind(&mut self, every_ms: u64, catch_up: CatchUp, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.remind("bill", Schedule::every(Span(every_ms)).catch_up(catch_up), Bill::at(key).send())
    }

    pub fn send(&mut self) {
        self.sent += 1;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn cancel(&mut self, cx: &mut Cx) -> Result<bool> {
        cx.cancel_reminder("bill")
    }

    /// Holds the grain until the gate opens, then takes the reminder back.
    pub async fn cancel_after(&mut self, gate: String, cx: &mut Cx) -> Result<bool> {
        cx.grain::<Gate>(Key::parse(&gate)).pass().await?;
        cx.cancel_reminder("bill")
    }

    /// Sets the reminder, then waits: it is set when the turn ends, not before.
    pub async fn remind_around(&mut self, every_ms: u64, gate: String, cx: &mut Cx) -> Result<()> {
        let key = cx.key().clone();
        cx.remind("bill", Schedule::every(Span(every_ms)), Bill::at(key).send())?;
        cx.grain::<Gate>(Key::parse(&gate)).pass().await
    }
}
