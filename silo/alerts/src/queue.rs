//! What one endpoint still has to be told, and when it is told: a state machine without clock, socket or chance.
//!
//! Messages are offered; [`Queue::due`] says which attempts to make now; [`Queue::answered`] says what came of one. All that
//! must survive a crash is in [`Queue`] itself. An attempt that was under way when the process ended is made again, with the
//! same id: a receiver tells copies by it. A message itself stays on its topic; here is its place there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use granary_core::{Span, Timestamp, time::mins, time::secs};
use serde::{Deserialize, Serialize};

use crate::retry::{Answer, FAILING_MAX, Next, next};

/// Messages that wait at an endpoint; then no more are taken, and the topic keeps them.
pub const QUEUE_MAX: usize = 4_096;
/// Messages among them that were never tried: the rest waits on the topic, which costs nothing.
pub const FRESH_MAX: usize = 256;
/// Attempts under way at the same time, at most.
pub const CONCURRENCY_MAX: usize = 100;
/// The longest an attempt may take. One without an answer for twice as long is made again: who made it is gone.
pub const ATTEMPT_MAX: Span = secs(30);
/// Answers that the breaker looks back on.
const ANSWERS_MAX: usize = 1_000;
/// How far it looks back.
const BREAKER_WINDOW: Span = mins(5);
/// With fewer answers in that time it stays closed.
const BREAKER_ANSWERS_MIN: usize = 10;
/// It opens when so many of a hundred failed.
const BREAKER_FAILED_PERCENT: usize = 70;
/// While it is open one attempt is made in this time.
const PROBE_EVERY: Span = secs(30);

/// How an endpoint wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manner {
    /// Attempts a second, in the long run.
    pub rate: u32,
    /// Attempts at once after a silence.
    pub burst: u32,
    /// Attempts under way at the same time.
    pub concurrency: usize,
    /// Messages of a key one after the other, a failed one before the next.
    pub is_strict: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { rate: 50, burst: 100, concurrency: 10, is_strict: false }
    }
}

/// Where a message is on its topic.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: u64,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    id: Box<str>,
    key: Box<str>,
    at: Place,
    /// Attempts so far.
    attempts: u32,
}

/// Why an endpoint is told nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It said so: 410.
    Gone,
    /// It failed for too long, without a single success.
    Failing,
    /// A person said so.
    Asked,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Gone => "it answered 410: gone",
            Why::Failing => "nothing but failures for five days",
            Why::Asked => "somebody disabled it",
        })
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Send the message: the `attempt`-th time, from 1.
    Attempt {
        /// The message.
        id: Box<str>,
        /// Where it is.
        at: Place,
        /// Which attempt.
        attempt: u32,
    },
    /// The message was taken; it can be forgotten.
    Delivered(Box<str>),
    /// It was tried often enough: it goes to the dead letters.
    Bury {
        /// The message.
        id: Box<str>,
        /// Where it is.
        at: Place,
        /// Attempts made.
        attempts: u32,
        /// What came of the last one.
        last: Answer,
    },
    /// The endpoint is told nothing any more; its owner has to know.
    Disabled(Why),
}

/// One endpoint: its queue and how it does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    manner: Manner,
    /// What waits or is under way, by when it is due and the order in which it came.
    queue: BTreeMap<(Timestamp, u64), Waiting>,
    /// Messages offered so far.
    offered: u64,
    /// Messages taken by the endpoint so far.
    delivered: u64,
    /// Messages given up so far.
    buried: u64,
    /// When failures began, if there was nothing else since.
    failing_since: Option<Timestamp>,
    disabled: Option<Why>,
    /// What follows is not stored: it begins anew with the process.
    /// Attempts under way, by the order of their messages, and when they were begun.
    #[serde(skip)]
    under_way: BTreeMap<u64, Timestamp>,
    #[serde(skip)]
    index: Option<Index>,
    #[serde(skip)]
    answers: VecDeque<(Timestamp, bool)>,
    #[serde(skip)]
    probed_at: Option<Timestamp>,
    #[serde(skip)]
    is_open: bool,
    /// Attempts that may be made at once, in thousandths, as of a time.
    #[serde(skip)]
    tokens: Option<(Timestamp, u64)>,
}

/// Where messages are in the queue; follows from it.
#[derive(Clone, Debug, Default)]
struct Index {
    by_id: HashMap<Box<str>, (Timestamp, u64)>,
    /// The orders of a key's messages.
    by_key: HashMap<Box<str>, BTreeSet<u64>>,
}

impl Index {
    fn add(&mut self, place: (Timestamp, u64), waiting: &Waiting) {
        self.by_id.insert(waiting.id.clone(), place);
        self.by_key.entry(waiting.key.clone()).or_default().insert(place.1);
    }

    fn remove(&mut self, order: u64, waiting: &Waiting) {
        self.by_id.remove(&waiting.id);
        if let Some(orders) = self.by_key.get_mut(&waiting.key) {
            orders.remove(&order);
            if orders.is_empty() {
                self.by_key.remove(&waiting.key);
            }
        }
    }

    /// Whether it is the first of its key.
    fn is_first(&self, order: u64, waiting: &Waiting) -> bool {
        self.by_key.get(&waiting.key).and_then(BTreeSet::first) == Some(&order)
    }
}

/// No more messages are taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Too many wait.
    #[error("{QUEUE_MAX} messages wait at this endpoint")]
    Full,
    /// It is disabled.
    #[error("the endpoint is disabled")]
    Disabled,
}

impl Queue {
    /// One to which nothing was said.
    pub fn new(manner: Manner) -> Queue {
        Queue { manner, ..Queue::default() }
    }

    /// Why it is told nothing, if it is not.
    pub fn disabled(&self) -> Option<Why> {
        self.disabled
    }

    /// Whether attempts are held back because most of them fail.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Messages that wait or are under way.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether it has been told everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A message for it. One that it has already is not taken twice.
    pub fn offer(&mut self, id: &str, key: &str, at: Place, now: Timestamp) -> Result<(), NotTaken> {
        if self.disabled.is_some() {
            return Err(NotTaken::Disabled);
        }
        if self.len() >= QUEUE_MAX {
            return Err(NotTaken::Full);
        }
        if self.index().by_id.contains_key(id) {
            return Ok(());
        }
        self.offered += 1;
        self.put((now, self.offered), Waiting { id: id.into(), key: key.into(), at, attempts: 0 });
        Ok(())
    }

    fn index(&mut self) -> &mut Index {
        self.index.get_or_insert_with(|| {
            let mut index = Index::default();
            self.queue.iter().for_each(|(place, waiting)| index.add(*place, waiting));
            index
        })
    }

    fn put(&mut self, place: (Timestamp, u64), waiting: Waiting) {
        self.index().add(place, &waiting);
        self.queue.insert(place, waiting);
    }

    fn take(&mut self, place: (Timestamp, u64)) -> Option<Waiting> {
        let waiting = self.queue.remove(&place)?;
        self.index().remove(place.1, &waiting);
        Some(waiting)
    }

    /// How many messages it would take now.
    pub fn room(&self) -> usize {
        if self.disabled.is_some() || self.is_open {
            return 0;
        }
        let fresh = self.queue.values().filter(|waiting| waiting.attempts == 0).count();
        FRESH_MAX.saturating_sub(fresh).min(QUEUE_MAX.saturating_sub(self.len()))
    }

    /// When the message that waits longest was due first or is due next; `None` when none waits.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.queue.keys().next().map(|(due, _)| *due)
    }

    /// Messages taken by the endpoint, and messages given up, so far.
    pub fn totals(&self) -> (u64, u64) {
        (self.delivered, self.buried)
    }

    /// The attempts to make now.
    pub fn due(&mut self, now: Timestamp, out: &mut Vec<Do>) {
        if self.disabled.is_some() {
            return;
        }
        self.refill(now);
        self.index();
        self.under_way.retain(|_, begun| now.since(*begun) < Span(2 * ATTEMPT_MAX.ms()));
        let limit = self.manner.concurrency.clamp(1, CONCURRENCY_MAX);
        let may_probe = self.may_probe(now);
        let Queue { manner, queue, under_way, index: Some(index), tokens: Some((_, tokens)), .. } = self
        else {
            return;
        };
        for ((_, order), waiting) in queue.range_mut(..=(now, u64::MAX)) {
            if under_way.len() >= limit || *tokens < 1_000 || (self.is_open && !may_probe) {
                break;
            }
            // Of a key in order only the first may go.
            let must_wait = manner.is_strict && !index.is_first(*order, waiting);
            if must_wait || under_way.contains_key(order) {
                continue;
            }
            under_way.insert(*order, now);
            *tokens -= 1_000;
            waiting.attempts += 1;
            out.push(Do::Attempt { id: waiting.id.clone(), at: waiting.at, attempt: waiting.attempts });
            if self.is_open {
                self.probed_at = Some(now);
                break;
            }
        }
    }

    /// When [`Queue::due`] has to be asked again, if nothing else happens.
    pub fn wakes_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.index();
        let index = self.index.as_ref()?;
        let may_go = |order: u64, waiting: &Waiting| {
            !self.under_way.contains_key(&order) && (!self.manner.is_strict || index.is_first(order, waiting))
        };
        let given_up = self.under_way.values().min().map(|begun| *begun + Span(2 * ATTEMPT_MAX.ms()));
        if self.under_way.len() >= self.manner.concurrency.clamp(1, CONCURRENCY_MAX) {
            return given_up; // an answer comes before anything else may go
        }
        let next = self.queue.iter().find(|((_, order), waiting)| may_go(*order, waiting));
        let Some(((at, _), _)) = next else { return given_up };
        let mut wakes = *at;
        if let (true, Some(probed)) = (self.is_open, self.probed_at) {
            wakes = wakes.max(probed + PROBE_EVERY);
        }
        if self.tokens.is_some_and(|(_, tokens)| tokens < 1_000) {
            wakes = wakes.max(now + Span(1_000 / u64::from(self.manner.rate.max(1)) + 1));
        }
        Some(given_up.map_or(wakes, |given_up| wakes.min(given_up)))
    }

    /// What came of an attempt. `chance` is any number.
    pub fn answered(&mut self, id: &str, answer: Answer, now: Timestamp, chance: u64, out: &mut Vec<Do>) {
        let Some(place) = self.index().by_id.get(id).copied() else { return };
        if self.under_way.remove(&place.1).is_none() {
            return;
        }
        let Some(waiting) = self.take(place) else { return };
        if answer != Answer::Lost {
            self.note(answer.is_taken(), now);
        }
        match next(waiting.attempts, answer, now, chance) {
            Next::Delivered => {
                self.delivered += 1;
                self.failing_since = None;
                return out.push(Do::Delivered(waiting.id));
            }
            Next::Disable => {
                self.put((now, place.1), waiting);
                return self.disable(Why::Gone, out);
            }
            Next::GiveUp => {
                self.buried += 1;
                let Waiting { id, at, attempts, .. } = waiting;
                out.push(Do::Bury { id, at, attempts, last: answer });
            }
            Next::TryAt(at) => self.put((at, place.1), waiting),
        }
        let since = *self.failing_since.get_or_insert(now);
        if now.since(since) > FAILING_MAX {
            self.disable(Why::Failing, out);
        }
    }

    /// It is told nothing any more; what waits is kept.
    pub fn disable(&mut self, why: Why, out: &mut Vec<Do>) {
        if self.disabled.replace(why).is_none() {
            out.push(Do::Disabled(why));
        }
    }

    /// It is told again: what waits is due at once, counted anew.
    pub fn enable(&mut self, now: Timestamp) {
        self.disabled = None;
        self.failing_since = None;
        self.is_open = false;
        self.answers.clear();
        self.index = None;
        let waiting = std::mem::take(&mut self.queue);
        let again = |((_, order), waiting)| ((now, order), Waiting { attempts: 0, ..waiting });
        self.queue = waiting.into_iter().map(again).collect();
    }

    fn refill(&mut self, now: Timestamp) {
        let most = u64::from(self.manner.burst.max(1)) * 1_000;
        let (since, tokens) = self.tokens.unwrap_or((now, most));
        let more = now.since(since).ms().saturating_mul(u64::from(self.manner.rate));
        self.tokens = Some((now.max(since), tokens.saturating_add(more).min(most)));
    }

    fn may_probe(&self, now: Timestamp) -> bool {
        self.under_way.is_empty() && self.probed_at.is_none_or(|probed| now.since(probed) >= PROBE_EVERY)
    }

    /// Opens or closes the breaker after an answer.
    fn note(&mut self, is_taken: bool, now: Timestamp) {
        if is_taken && self.is_open {
            self.is_open = false;
            self.answers.clear();
        }
        self.answers.push_back((now, is_taken));
        while self.answers.len() > ANSWERS_MAX
            || self.answers.front().is_some_and(|(at, _)| now.since(*at) > BREAKER_WINDOW)
        {
            self.answers.pop_front();
        }
        let failed = self.answers.iter().filter(|(_, is_taken)| !is_taken).count();
        if self.answers.len() >= BREAKER_ANSWERS_MIN
            && failed * 100 >= self.answers.len() * BREAKER_FAILED_PERCENT
        {
            if !self.is_open {
                self.probed_at = Some(now);
            }
            self.is_open = true;
        }
    }
}

#[cfg(test)]
mod tests;
