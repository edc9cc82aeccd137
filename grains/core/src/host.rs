//! What a turn asks of the lane it runs on. The engine implements it; a turn sees it only through [`crate::Cx`].

use std::any::Any;
use std::task::Waker;

use serde::{Deserialize, Serialize};

use crate::call::Options;
use crate::cloud::Alert;
use crate::cx::Cx;
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::grain::{KindId, MethodInfo};
use crate::id::{Key, SlotId};
use crate::shared::AnyGrain;
use crate::time::{Span, Timestamp};

/// Where a turn runs: its slot, its activation, and which turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The slot.
    pub slot: SlotId,
    /// The activation in the slot's table.
    pub activation: u32,
    /// The turn in the lane's table; [`Place::PLAIN`] for a plain `fn` turn, which has no row there.
    pub turn: u32,
    /// Tells two turns that had the same row.
    pub generation: u32,
}

impl Place {
    /// The `turn` of plain `fn` turns.
    pub const PLAIN: u32 = u32::MAX;
}

/// What a missed reminder does when the slot is served again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Missed occurrences are left out.
    Skip,
    /// One occurrence stands for all that were missed.
    #[default]
    Once,
    /// Every missed occurrence fires.
    Each,
}

/// When a timer or reminder fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The first firing, from now.
    pub first: Span,
    /// Then again after each such length; `None` fires once.
    pub period: Option<Span>,
    /// For reminders: what missed occurrences do.
    pub catch_up: CatchUp,
}

impl Schedule {
    /// Once, `after` from now.
    pub const fn once(after: Span) -> Schedule {
        Schedule { first: after, period: None, catch_up: CatchUp::Once }
    }

    /// Every `period`, first after one `period`.
    pub const fn every(period: Span) -> Schedule {
        Schedule { first: period, period: Some(period), catch_up: CatchUp::Once }
    }

    /// With this catch-up policy.
    #[must_use]
    pub const fn catch_up(mut self, policy: CatchUp) -> Schedule {
        self.catch_up = policy;
        self
    }
}

/// A call a turn asks for later: of its own grain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later<'a> {
    /// The timer's or reminder's name; a second one with this name replaces the first.
    pub name: &'a str,
    /// When.
    pub schedule: Schedule,
    /// The method.
    pub method: &'static str,
    /// Its encoded arguments.
    pub arguments: &'a [u8],
}

/// A call that a turn makes, before its envelope is known to be needed.
pub trait LocalCall {
    /// Which method.
    fn info(&self) -> &'static MethodInfo;
    /// What travels with it.
    fn options(&self) -> &Options;
    /// Runs a plain method here and now and keeps its result.
    fn run_here(&mut self, grain: &dyn AnyGrain, cx: &mut Cx);
    /// The call as an envelope that can wait; its answer goes to the caller's future.
    fn envelope(&mut self, options: Options) -> Box<dyn Envelope>;
    /// The payload a panic left instead of a result.
    fn panicked(&mut self, error: Error);
}

/// What became of a call that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has run; the result is with the call.
    Ran,
    /// It waits; its answer comes to the envelope's receiver. Give up at this time.
    Waits(Timestamp),
}

/// What a turn tells a stream.
#[derive(Debug)]
pub enum Emitted {
    /// These bytes.
    Value {
        /// Tells copies; the slot makes one when it is `None`.
        id: Option<Box<str>>,
        /// The bytes.
        value: Vec<u8>,
    },
    /// An alert: its id follows from its place among the outputs of the slot.
    Alert(Alert),
}

/// The lane, as a turn sees it.
pub trait Host: Any {
    /// The lane's present time.
    fn now(&self) -> Timestamp;
    /// Begins a call: at once where the target is idle and lives in the caller's slot, else through its queue.
    fn call(&self, from: Place, kind: KindId, key: &Key, call: &mut dyn LocalCall) -> Result<Begun>;
    /// Where a call that ran out of time stands: queue position, the running turn and its age, the silo.
    fn whereabouts(&self, kind: &'static str, key: &Key) -> String;
    /// Wakes at this time, if the waker is still of use then.
    fn wake_at(&self, at: Timestamp, waker: Waker);
    /// Appends to the slot's outbox.
    fn emit(&self, from: Place, stream: &str, emitted: Emitted) -> Result<()>;
    /// Sets a volatile timer of the grain.
    fn set_timer(&self, from: Place, timer: Later<'_>) -> Result<()>;
    /// Takes a timer back; whether there was one.
    fn cancel_timer(&self, from: Place, name: &str) -> bool;
    /// Sets a durable reminder of the grain.
    fn set_reminder(&self, from: Place, reminder: Later<'_>) -> Result<()>;
    /// Takes a reminder back; whether there was one.
    fn cancel_reminder(&self, from: Place, name: &str) -> Result<bool>;
    /// Lets the activation leave memory once it is clean.
    fn deactivate(&self, from: Place);
}
