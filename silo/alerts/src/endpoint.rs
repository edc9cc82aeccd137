//! What one endpoint still has to be told, and when it is told: a state machine without clock, socket or chance.
//!
//! Messages are offered; [`Endpoint::due`] says which attempts to make now; [`Endpoint::answered`] says what came of one. All that
//! must survive a crash is in [`Endpoint`] itself. An attempt that was under way when the process ended is made again, with the
//! same id: a receiver tells copies by it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use granary_core::{Span, Timestamp, time::mins, time::secs};
use serde::{Deserialize, Serialize};

use crate::retry::{Answer, FAILING_MAX, Next, next};

/// Messages that wait at an endpoint; then no more are taken, and whoever offers them keeps them.
pub const QUEUE_MAX: usize = 10_000;
/// Attempts under way at the same time, at most.
pub const CONCURRENCY_MAX: usize = 100;
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

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    id: Box<str>,
    key: Box<str>,
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

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Send the message: the `attempt`-th time, from 1.
    Attempt {
        /// The message.
        id: Box<str>,
        /// Which attempt.
        attempt: u32,
    },
    /// The message was taken; it can be forgotten.
    Delivered(Box<str>),
    /// It was tried often enough: it goes to the dead letters.
    Bury {
        /// The message.
        id: Box<str>,
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
pub struct Endpoint {
    manner: Manner,
    /// What waits or is under way, by when it is due and the order in which it came.
    queue: BTreeMap<(Timestamp, u64), Waiting>,
    /// Messages offered so far.
    offered: u64,
    /// When failures began, if there was nothing else since.
    failing_since: Option<Timestamp>,
    disabled: Option<Why>,
    /// What follows is not stored: it begins anew with the process.
    #[serde(skip)]
    under_way: BTreeSet<u64>,
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

impl Endpoint {
    /// One to which nothing was said.
    pub fn new(manner: Manner) -> Endpoint {
        Endpoint { manner, ..Endpoint::default() }
    }

    /// How it wants to be told.
    pub fn manner(&self) -> Manner {
        self.manner
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
    pub fn offer(&mut self, id: &str, key: &str, now: Timestamp) -> Result<(), NotTaken> {
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
        self.put((now, self.offered), Waiting { id: id.into(), key: key.into(), attempts: 0 });
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

    /// The attempts to make now.
    pub fn due(&mut self, now: Timestamp, out: &mut Vec<Do>) {
        if self.disabled.is_some() {
            return;
        }
        self.refill(now);
        self.index();
        let limit = self.manner.concurrency.clamp(1, CONCURRENCY_MAX);
        let may_probe = self.may_probe(now);
        let Endpoint { manner, queue, under_way, index: Some(index), tokens: Some((_, tokens)), .. } = self
        else {
            return;
        };
        for ((_, order), waiting) in queue.range_mut(..=(now, u64::MAX)) {
            if under_way.len() >= limit || *tokens < 1_000 || (self.is_open && !may_probe) {
                break;
            }
            // Of a key in order only the first may go.
            let must_wait = manner.is_strict && !index.is_first(*order, waiting);
            if must_wait || !under_way.insert(*order) {
                continue;
            }
            *tokens -= 1_000;
            waiting.attempts += 1;
            out.push(Do::Attempt { id: waiting.id.clone(), attempt: waiting.attempts });
            if self.is_open {
                self.probed_at = Some(now);
                break;
            }
        }
    }

    /// When [`Endpoint::due`] has to be asked again, if nothing else happens.
    pub fn wakes_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.index();
        let index = self.index.as_ref()?;
        let may_go = |order: u64, waiting: &Waiting| {
            !self.under_way.contains(&order) && (!self.manner.is_strict || index.is_first(order, waiting))
        };
        let ((at, _), _) = self.queue.iter().find(|((_, order), waiting)| may_go(*order, waiting))?;
        let mut wakes = *at;
        if let (true, Some(probed)) = (self.is_open, self.probed_at) {
            wakes = wakes.max(probed + PROBE_EVERY);
        }
        if self.tokens.is_some_and(|(_, tokens)| tokens < 1_000) {
            wakes = wakes.max(now + Span(1_000 / u64::from(self.manner.rate.max(1)) + 1));
        }
        Some(wakes)
    }

    /// What came of an attempt. `chance` is any number.
    pub fn answered(&mut self, id: &str, answer: Answer, now: Timestamp, chance: u64, out: &mut Vec<Do>) {
        let Some(place) = self.index().by_id.get(id).copied() else { return };
        if !self.under_way.remove(&place.1) {
            return;
        }
        let Some(waiting) = self.take(place) else { return };
        self.note(answer.is_taken(), now);
        match next(waiting.attempts, answer, now, chance) {
            Next::Delivered => {
                self.failing_since = None;
                return out.push(Do::Delivered(waiting.id));
            }
            Next::Disable => {
                self.put((now, place.1), waiting);
                return self.disable(Why::Gone, out);
            }
            Next::GiveUp => {
                out.push(Do::Bury { id: waiting.id, attempts: waiting.attempts, last: answer });
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
mod tests {
    use super::*;

    /// A world of one endpoint: time that passes, a server that answers as it likes.
    struct World {
        endpoint: Endpoint,
        now: Timestamp,
        seed: u64,
        attempts: BTreeMap<Box<str>, u32>,
        sent: Vec<(Timestamp, Box<str>)>,
        delivered: BTreeSet<Box<str>>,
        buried: BTreeSet<Box<str>>,
        disabled: Vec<Why>,
    }

    impl World {
        fn new(manner: Manner) -> World {
            World {
                endpoint: Endpoint::new(manner),
                now: Timestamp(1_000_000),
                seed: 1,
                attempts: BTreeMap::new(),
                sent: Vec::new(),
                delivered: BTreeSet::new(),
                buried: BTreeSet::new(),
                disabled: Vec::new(),
            }
        }

        fn draw(&mut self) -> u64 {
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.seed >> 33
        }

        fn hear(&mut self, out: Vec<Do>) {
            for said in out {
                match said {
                    Do::Attempt { .. } => unreachable!("attempts come of due alone"),
                    Do::Delivered(id) => assert!(self.delivered.insert(id)),
                    Do::Bury { id, .. } => assert!(self.buried.insert(id)),
                    Do::Disabled(why) => self.disabled.push(why),
                }
            }
        }

        /// Makes all attempts that are due; each is answered at once.
        fn round(&mut self, server: &mut impl FnMut(&str, u32) -> Answer) {
            let mut out = Vec::new();
            self.endpoint.due(self.now, &mut out);
            for attempt in out {
                let Do::Attempt { id, attempt } = attempt else { panic!("{attempt:?}") };
                let count = self.attempts.entry(id.clone()).or_default();
                *count += 1;
                assert_eq!(*count, attempt);
                self.sent.push((self.now, id.clone()));
                let (mut out, chance) = (Vec::new(), self.draw());
                self.endpoint.answered(&id, server(&id, attempt), self.now, chance, &mut out);
                self.hear(out);
            }
        }

        /// Time passes until nothing waits, or so long.
        fn until(&mut self, end: Span, mut server: impl FnMut(&str, u32) -> Answer) {
            let end = self.now + end;
            self.round(&mut server);
            while let Some(at) = self.endpoint.wakes_at(self.now).filter(|at| *at <= end) {
                self.now = at.max(self.now + Span(1));
                self.round(&mut server);
                if self.endpoint.disabled().is_some() {
                    return;
                }
            }
            self.now = end;
        }
    }

    const OK: Answer = Answer::Status(200, None);
    const FAILED: Answer = Answer::Status(500, None);
    const WEEK: Span = granary_core::time::days(7);

    #[test]
    fn every_message_is_delivered_or_buried_whatever_the_server_answers() {
        for seed in 0..300 {
            let manner =
                Manner { is_strict: seed % 2 == 0, concurrency: 1 + seed as usize % 4, ..Manner::default() };
            let mut world = World::new(manner);
            world.seed = seed;
            for i in 0..40 {
                world.endpoint.offer(&format!("m{i}"), &format!("k{}", i % 5), world.now).unwrap();
            }
            let mut lot = seed;
            // Of a key in strict order each message may take three days.
            world.until(granary_core::time::days(60), |_, _| {
                lot = lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match lot >> 61 {
                    0 | 5 => OK,
                    1 => Answer::Status(429, Some(secs(90))),
                    2 => Answer::Timeout,
                    3 => Answer::Broken,
                    _ => FAILED,
                }
            });
            let ended = world.delivered.len() + world.buried.len();
            assert_eq!(ended + world.endpoint.len(), 40, "seed {seed}");
            assert!(world.endpoint.is_empty() || !world.disabled.is_empty(), "seed {seed}");
            assert!(world.attempts.values().all(|attempts| *attempts <= 10), "seed {seed}");
            assert!(world.buried.iter().all(|id| world.attempts[id] == 10), "seed {seed}");
        }
    }

    #[test]
    fn in_strict_order_a_key_waits_for_its_first_message() {
        let mut world = World::new(Manner { is_strict: true, ..Manner::default() });
        for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
            world.endpoint.offer(id, key, world.now).unwrap();
        }
        world.until(WEEK, |id, attempt| if id == "a1" && attempt < 4 { FAILED } else { OK });
        let order: Vec<&str> = world.sent.iter().map(|(_, id)| &**id).collect();
        assert_eq!(order, ["a1", "b1", "a1", "a1", "a1", "a2", "a3"]);
    }

    #[test]
    fn a_rate_is_kept_and_bursts_are_bounded() {
        let mut world = World::new(Manner { rate: 10, burst: 5, concurrency: 100, is_strict: false });
        for i in 0..105 {
            world.endpoint.offer(&format!("m{i}"), "k", world.now).unwrap();
        }
        let begin = world.now;
        world.until(mins(1), |_, _| OK);
        assert_eq!(world.delivered.len(), 105);
        let within = |span: Span| world.sent.iter().filter(|(at, _)| at.since(begin) < span).count();
        assert_eq!(within(Span(1)), 5);
        assert!((14..=16).contains(&within(secs(1))), "{}", within(secs(1)));
        assert!(world.sent.last().unwrap().0.since(begin) >= Span(9_900));
    }

    #[test]
    fn an_open_breaker_burns_no_attempts_and_closes_with_a_success() {
        let mut world = World::new(Manner::default());
        for i in 0..200 {
            world.endpoint.offer(&format!("m{i}"), "k", world.now).unwrap();
        }
        world.until(mins(10), |_, _| FAILED);
        assert!(world.endpoint.is_open());
        let tried = world.sent.len();
        assert!(tried < 60, "{tried} attempts while almost all fail");
        world.until(mins(30), |_, _| OK);
        assert!(!world.endpoint.is_open());
        assert_eq!(world.delivered.len(), 200);
    }

    #[test]
    fn an_endpoint_that_is_gone_or_fails_for_days_is_disabled_and_keeps_what_waits() {
        let mut world = World::new(Manner::default());
        world.endpoint.offer("m1", "k", world.now).unwrap();
        world.endpoint.offer("m2", "k", world.now).unwrap();
        world.until(WEEK, |_, _| Answer::Status(410, None));
        assert_eq!(world.disabled, [Why::Gone]);
        assert_eq!(world.endpoint.offer("m3", "k", world.now), Err(NotTaken::Disabled));
        world.endpoint.enable(world.now);
        world.attempts.clear();
        world.until(WEEK, |_, _| OK);
        assert_eq!(world.delivered.len() + world.endpoint.len(), 2);

        let mut world = World::new(Manner::default());
        for day in 0..9 {
            let _ = world.endpoint.offer(&format!("m{day}"), "k", world.now);
            world.until(granary_core::time::days(1), |_, _| FAILED);
        }
        assert_eq!(world.disabled, [Why::Failing]);
    }

    #[test]
    fn what_was_under_way_in_a_crash_is_sent_again_under_the_same_id() {
        let mut endpoint = Endpoint::new(Manner::default());
        endpoint.offer("m1", "k", Timestamp(5)).unwrap();
        let mut out = Vec::new();
        endpoint.due(Timestamp(6), &mut out);
        assert_eq!(out, [Do::Attempt { id: "m1".into(), attempt: 1 }]);
        endpoint.offer("m1", "k", Timestamp(7)).unwrap();
        assert_eq!(endpoint.len(), 1, "it is not taken twice");
        let stored = granary_core::codec::to_bytes(&endpoint).unwrap();
        let mut again: Endpoint = granary_core::codec::from_bytes(&stored).unwrap();
        let mut out = Vec::new();
        again.due(Timestamp(8), &mut out);
        assert_eq!(out, [Do::Attempt { id: "m1".into(), attempt: 2 }]);
        let mut out = Vec::new();
        again.answered("m1", OK, Timestamp(9), 0, &mut out);
        assert_eq!(out, [Do::Delivered("m1".into())]);
        assert!(again.is_empty());
    }
}
