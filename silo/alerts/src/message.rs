//! What an endpoint, its courier and its owner say to one another.

use std::collections::BTreeMap;

use granary_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::queue::{Place, Why};
use crate::retry::Answer;
use crate::settings::Settings;

/// A secret in use.
#[derive(Clone, Serialize, Deserialize)]
pub struct Signing {
    /// As its owner knows it.
    pub secret: String,
    /// Until when it signs; `None`: until another takes its place.
    pub until: Option<Timestamp>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signing(until {:?})", self.until)
    }
}

/// A question whether somebody is there who wants to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Its id.
    pub id: String,
    /// What came of it, when that is known: the answer, and its begin or why there was none.
    pub answer: Option<(Answer, String)>,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// How, in words.
    pub what: String,
}

/// An alert for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its id.
    pub id: Box<str>,
    /// Alerts with the same key are in order.
    pub key: Box<str>,
    /// Where it is.
    pub at: Place,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The alert.
    pub id: Box<str>,
    /// The answer.
    pub answer: Answer,
    /// The begin of what was answered, or why there was no answer.
    pub words: String,
    /// The alert itself, for the dead letter that this may become.
    pub alert: Option<String>,
}

/// What a courier has to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Alerts for the endpoint, in the order of their partitions.
    pub offers: Vec<Offer>,
    /// Up to where it has looked through partitions.
    pub looked: BTreeMap<u32, u64>,
    /// What came of attempts.
    pub outcomes: Vec<Outcome>,
    /// What came of a ping: its id, the answer, and its begin or why there was none.
    pub pong: Option<(String, Answer, String)>,
    /// Any number, drawn anew each time.
    pub chance: u64,
}

/// An attempt to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The alert.
    pub id: Box<str>,
    /// Where it is.
    pub at: Place,
    /// Which attempt, from 1.
    pub attempt: u32,
}

/// What a courier has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Attempts to be made now.
    pub attempts: Vec<Attempt>,
    /// The ping to be sent now.
    pub ping: Option<String>,
    /// When to ask again at the latest.
    pub wakes_at: Option<Timestamp>,
    /// How many alerts it would take.
    pub room: usize,
    /// Where to go on reading.
    pub taken: BTreeMap<u32, u64>,
    /// As of which change.
    pub changes: u64,
    /// It was disabled by this step.
    pub disabled: Option<Why>,
    /// How it stands.
    pub standing: Standing,
}

/// How an endpoint stands, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Somebody there has answered a ping.
    pub is_verified: bool,
    /// Why it is told nothing, if it is not.
    pub disabled: Option<Why>,
    /// Attempts are held back because most of them fail.
    pub is_open: bool,
    /// Alerts that wait.
    pub waiting: u64,
    /// Since when the oldest of them is due.
    pub oldest: Option<Timestamp>,
    /// Alerts taken.
    pub delivered: u64,
    /// Alerts given up.
    pub buried: u64,
}

/// What a courier has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where and how.
    pub settings: Settings,
    /// What signs, newest first.
    pub secrets: Vec<Signing>,
    /// As of which change.
    pub changes: u64,
}

/// What its owner sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// Where and how.
    pub settings: Settings,
    /// How it stands.
    pub standing: Standing,
    /// The last attempt that failed.
    pub last_failure: Option<Failure>,
    /// The last ping.
    pub ping: Option<Ping>,
    /// How many secrets sign.
    pub secrets: usize,
    /// The next offset of each partition that it has not looked at.
    pub taken: BTreeMap<u32, u64>,
}
