//! An endpoint as a grain: its settings, secrets and queue, durable and in one place. A courier does what it says and tells it
//! what came of that.
//!
//! A step of an endpoint is one turn: what it takes from the topic of alerts, what came of attempts, and what it then wants to be
//! attempted are stored together. So nothing is taken twice and nothing is forgotten, whoever the courier is and however many
//! there are; only what was under way when a process ended is sent again.

use std::collections::{BTreeMap, VecDeque};

use granary_core::cloud::{HIGH, Head};
use granary_core::{Cx, Error, ErrorKind, Ran, Result, Span, Timestamp};
use granary_macros::grain;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

pub use crate::message::*;
use crate::queue::{Do, NotTaken, Place, Queue, Why};
use crate::retry::Answer;
use crate::settings::{OVERLAP_MAX, Settings};
use crate::sign::Secret;

/// The stream that alerts go to which were tried often enough.
pub const DEAD: &str = "alerts.webhooks.dead";
/// The stream of alerts.
pub const ALERTS: &str = granary_core::cx::ALERTS;
/// Secrets of an endpoint that sign at the same time.
pub const SECRETS_MAX: usize = 10;

/// A webhook endpoint, `Endpoint/<name>`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Endpoint {
    /// None: there is no such endpoint.
    settings: Option<Settings>,
    /// Newest first.
    secrets: Vec<Signing>,
    queue: Queue,
    /// The next offset of each partition that it has not looked at.
    taken: BTreeMap<u32, u64>,
    is_verified: bool,
    ping: Option<Ping>,
    last_failure: Option<Failure>,
    /// Raised by everything that a courier has to hear of.
    changes: u64,
    /// What could not be emitted yet: the slot's outbox was full.
    unsaid: VecDeque<Saying>,
}

/// Something to be emitted: stream, id, text.
type Saying = (String, String, String);

#[grain(crate = granary_core)]
impl Endpoint {
    /// Makes it: alerts from these offsets on are for it, once somebody has answered a ping.
    fn create(&mut self, settings: Settings, secret: String, from: BTreeMap<u32, u64>) -> Result<()> {
        if self.settings.is_some() {
            return Err(refused(
                "there is an endpoint of this name already: remove it first, or choose another name",
            ));
        }
        settings.check().map_err(refused)?;
        Secret::parse(&secret).map_err(|error| refused(error.to_string()))?;
        let changes = self.changes + 1;
        let queue = Queue::new(settings.manner);
        let secrets = vec![Signing { secret, until: None }];
        *self = Endpoint {
            settings: Some(settings),
            secrets,
            queue,
            taken: from,
            changes,
            ..Endpoint::default()
        };
        Ok(())
    }

    /// Forgets it and all that waits for it.
    fn remove(&mut self) -> Result<()> {
        self.settings()?;
        *self = Endpoint { changes: self.changes + 1, ..Endpoint::default() };
        Ok(())
    }

    fn about(&self) -> Result<About> {
        Ok(About {
            settings: self.settings()?.clone(),
            standing: self.standing(),
            last_failure: self.last_failure.clone(),
            ping: self.ping.clone(),
            secrets: self.secrets.len(),
            taken: self.taken.clone(),
        })
    }

    /// For a courier: how often anything has changed that it has to hear of.
    fn changes(&self) -> Result<u64> {
        self.settings()?;
        Ok(self.changes)
    }

    /// For a courier: what it has to know.
    fn order(&self) -> Result<Order> {
        Ok(Order { settings: self.settings()?.clone(), secrets: self.secrets.clone(), changes: self.changes })
    }

    /// For a courier: what it has to tell, and what it has to do now.
    fn step(&mut self, step: Step, cx: &mut Cx) -> Result<Plan> {
        self.settings()?;
        let now = cx.now();
        self.secrets.retain(|signing| signing.until.is_none_or(|until| until > now));
        self.take(&step, now);
        if let Some((id, answer, words)) = step.pong {
            self.hear_pong(&id, answer, words, now);
        }
        let mut said = Vec::new();
        let mut disabled = None;
        for (i, outcome) in step.outcomes.into_iter().enumerate() {
            if !outcome.answer.is_taken() {
                let what = in_words(outcome.answer, &outcome.words);
                self.last_failure = Some(Failure { at: now, what });
            }
            let chance = step.chance.rotate_left(i as u32 % 64);
            self.queue.answered(&outcome.id, outcome.answer, now, chance, &mut said);
            for what in said.drain(..) {
                match what {
                    Do::Delivered(_) | Do::Attempt { .. } => {}
                    Do::Bury { at, attempts, .. } => {
                        self.unsaid.push_back(dead_letter(&outcome, at, attempts, cx));
                    }
                    Do::Disabled(why) => {
                        disabled = Some(why);
                        self.unsaid.push_back(self.disabled_event(why, cx));
                    }
                }
            }
        }
        // an outbox that is full is tried again by a later step
        while let Some((stream, id, text)) = self.unsaid.front() {
            if cx.emit_as(stream, id, text.as_bytes()).is_err() {
                break;
            }
            self.unsaid.pop_front();
        }
        if self.is_verified {
            self.queue.due(now, &mut said);
        }
        let mut plan = self.plan(said, now);
        plan.disabled = disabled;
        Ok(plan)
    }

    /// Asks whether somebody is there; [`About::ping`] tells what came of it.
    fn ping(&mut self, id: String) -> Result<()> {
        self.settings()?;
        self.ping = Some(Ping { id, answer: None });
        self.changes += 1;
        Ok(())
    }

    /// Signs with another secret; those before it sign, too, for a while.
    fn rotate(&mut self, secret: String, overlap: Span, cx: &mut Cx) -> Result<()> {
        self.settings()?;
        Secret::parse(&secret).map_err(|error| refused(error.to_string()))?;
        if overlap > OVERLAP_MAX {
            return Err(refused(format!("an old secret signs for {OVERLAP_MAX} at most")));
        }
        let ends = cx.now() + overlap;
        for signing in &mut self.secrets {
            signing.until = Some(signing.until.map_or(ends, |until| until.min(ends)));
        }
        self.secrets.retain(|signing| signing.until > Some(cx.now()));
        self.secrets.insert(0, Signing { secret, until: None });
        self.secrets.truncate(SECRETS_MAX);
        self.changes += 1;
        Ok(())
    }

    /// Tells it nothing any more; what waits is kept, and what comes stays on the topic.
    fn disable(&mut self) -> Result<()> {
        self.settings()?;
        self.queue.disable(Why::Asked, &mut Vec::new());
        self.changes += 1;
        Ok(())
    }

    /// Tells it again: what waits at once, then what has come meanwhile, or only what comes from these offsets on.
    fn enable(&mut self, from: Option<BTreeMap<u32, u64>>, cx: &mut Cx) -> Result<()> {
        self.settings()?;
        self.queue.enable(cx.now());
        self.taken = from.unwrap_or_else(|| self.taken.clone());
        self.changes += 1;
        Ok(())
    }

    /// Tells it these alerts again, whatever became of them; how many there was room for.
    fn again(&mut self, offers: Vec<Offer>, cx: &mut Cx) -> Result<u64> {
        self.settings()?;
        let mut taken = 0;
        for Offer { id, key, at } in &offers {
            match self.queue.offer(id, key, *at, cx.now()) {
                Ok(()) => taken += 1,
                Err(NotTaken::Full) => break,
                Err(error @ NotTaken::Disabled) => return Err(refused(error.to_string())),
            }
        }
        self.changes += 1;
        Ok(taken)
    }

    #[private]
    fn settings(&self) -> Result<&Settings> {
        let missing = || Error::new(ErrorKind::NotFound, "there is no endpoint of this name").ran(Ran::No);
        self.settings.as_ref().ok_or_else(missing)
    }

    /// Takes what is offered, in order, as far as there is room. What an earlier step took is not taken again.
    #[private]
    fn take(&mut self, step: &Step, now: Timestamp) {
        for Offer { id, key, at } in &step.offers {
            let next = self.taken.entry(at.partition).or_default();
            if at.offset < *next {
                continue;
            }
            if self.queue.offer(id, key, *at, now).is_err() {
                return;
            }
            *next = at.offset + 1;
        }
        for (partition, looked) in &step.looked {
            let next = self.taken.entry(*partition).or_default();
            *next = (*next).max(*looked);
        }
    }

    #[private]
    fn hear_pong(&mut self, id: &str, answer: Answer, words: String, now: Timestamp) {
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.id == id) {
            self.is_verified |= answer.is_taken();
            if !answer.is_taken() {
                self.last_failure = Some(Failure { at: now, what: in_words(answer, &words) });
            }
            ping.answer = Some((answer, words));
        }
    }

    #[private]
    fn plan(&mut self, said: Vec<Do>, now: Timestamp) -> Plan {
        let attempts = said.into_iter().filter_map(|what| match what {
            Do::Attempt { id, at, attempt } => Some(Attempt { id, at, attempt }),
            Do::Delivered(_) | Do::Bury { .. } | Do::Disabled(_) => None,
        });
        Plan {
            attempts: attempts.collect(),
            ping: self.ping.as_ref().filter(|ping| ping.answer.is_none()).map(|ping| ping.id.clone()),
            wakes_at: if self.is_verified { self.queue.wakes_at(now) } else { None },
            room: if self.is_verified { self.queue.room() } else { 0 },
            taken: self.taken.clone(),
            changes: self.changes,
            disabled: None,
            standing: self.standing(),
        }
    }

    #[private]
    fn standing(&self) -> Standing {
        let (delivered, buried) = self.queue.totals();
        Standing {
            is_verified: self.is_verified,
            disabled: self.queue.disabled(),
            is_open: self.queue.is_open(),
            waiting: self.queue.len() as u64,
            oldest: self.queue.oldest(),
            delivered,
            buried,
        }
    }

    /// Its owner hears of it by the other endpoints.
    #[private]
    fn disabled_event(&self, why: Why, cx: &Cx) -> Saying {
        let name = cx.key().to_string();
        let id = format!("we_{}_{}", cx.now().ms(), name.replace('.', "-"));
        let head = Head {
            kind: "webhook.endpoint.disabled",
            id: &id,
            source: format!("/webhooks/endpoints/{name}"),
            subject: format!("endpoint/{name}"),
            time: cx.now(),
            key: Some(&name),
            gravity: Some(HIGH),
        };
        let event = head.with(json!({
            "endpoint": name,
            "reason": why.to_string(),
            "waiting": self.queue.len(),
            "last_failure": self.last_failure.as_ref().map(|failure| &failure.what),
        }));
        (ALERTS.to_owned(), id, event.to_string())
    }
}

/// An alert that was given up.
fn dead_letter(outcome: &Outcome, at: Place, attempts: u32, cx: &Cx) -> Saying {
    let name = cx.key().to_string();
    let alert = outcome.alert.as_deref().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let letter = json!({
        "endpoint": name,
        "id": outcome.id,
        "at": cx.now().ms(),
        "attempts": attempts,
        "reason": outcome.answer.to_string(),
        "answer": outcome.words,
        "partition": at.partition,
        "offset": at.offset,
        "alert": alert,
    });
    let id = format!("{name}/{}#{}", outcome.id, cx.now().ms());
    (DEAD.to_owned(), id, letter.to_string())
}

/// An answer, and its begin if it has one.
pub fn in_words(answer: Answer, words: &str) -> String {
    if words.is_empty() { answer.to_string() } else { format!("{answer}: {words}") }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message.into()).ran(Ran::No)
}
