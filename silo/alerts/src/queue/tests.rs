//! An endpoint in a world of its own: time that passes, a server that answers as it likes.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A world of one queue: time that passes, a server that answers as it likes.
struct World {
    queue: Queue,
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
            queue: Queue::new(manner),
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
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
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
        self.queue.due(self.now, &mut out);
        for attempt in out {
            let Do::Attempt { id, attempt, .. } = attempt else { panic!("{attempt:?}") };
            let count = self.attempts.entry(id.clone()).or_default();
            *count += 1;
            assert_eq!(*count, attempt);
            self.sent.push((self.now, id.clone()));
            let (mut out, chance) = (Vec::new(), self.draw());
            self.queue.answered(&id, server(&id, attempt), self.now, chance, &mut out);
            self.hear(out);
        }
    }

    /// Time passes until nothing waits, or so long.
    fn until(&mut self, end: Span, mut server: impl FnMut(&str, u32) -> Answer) {
        let end = self.now + end;
        self.round(&mut server);
        while let Some(at) = self.queue.wakes_at(self.now).filter(|at| *at <= end) {
            self.now = at.max(self.now + Span(1));
            self.round(&mut server);
            if self.queue.disabled().is_some() {
                return;
            }
        }
        self.now = end;
    }
}

const AT: Place = Place { partition: 3, offset: 14 };
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
            world.queue.offer(&format!("m{i}"), &format!("k{}", i % 5), AT, world.now).unwrap();
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
        assert_eq!(ended + world.queue.len(), 40, "seed {seed}");
        assert!(world.queue.is_empty() || !world.disabled.is_empty(), "seed {seed}");
        assert!(world.attempts.values().all(|attempts| *attempts <= 10), "seed {seed}");
        assert!(world.buried.iter().all(|id| world.attempts[id] == 10), "seed {seed}");
    }
}

#[test]
fn in_strict_order_a_key_waits_for_its_first_message() {
    let mut world = World::new(Manner { is_strict: true, ..Manner::default() });
    for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        world.queue.offer(id, key, AT, world.now).unwrap();
    }
    world.until(WEEK, |id, attempt| if id == "a1" && attempt < 4 { FAILED } else { OK });
    let order: Vec<&str> = world.sent.iter().map(|(_, id)| &**id).collect();
    assert_eq!(order, ["a1", "b1", "a1", "a1", "a1", "a2", "a3"]);
}

#[test]
fn a_rate_is_kept_and_bursts_are_bounded() {
    let mut world = World::new(Manner { rate: 10, burst: 5, concurrency: 100, is_strict: false });
    for i in 0..105 {
        world.queue.offer(&format!("m{i}"), "k", AT, world.now).unwrap();
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
fn with_as_many_under_way_as_may_be_nothing_is_due_before_an_answer() {
    let manner = Manner { concurrency: 2, ..Manner::default() };
    let (mut queue, now, mut out) = (Queue::new(manner), Timestamp(5), Vec::new());
    for i in 0..5 {
        queue.offer(&format!("m{i}"), "k", AT, now).unwrap();
    }
    queue.due(now, &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(queue.wakes_at(now), Some(now + Span(2 * ATTEMPT_MAX.ms())), "when attempts are given up");
    queue.answered("m0", OK, now, 0, &mut Vec::new());
    assert_eq!(queue.wakes_at(now), Some(now));
}

#[test]
fn an_open_breaker_burns_no_attempts_and_closes_with_a_success() {
    let mut world = World::new(Manner::default());
    for i in 0..200 {
        world.queue.offer(&format!("m{i}"), "k", AT, world.now).unwrap();
    }
    world.until(mins(10), |_, _| FAILED);
    assert!(world.queue.is_open());
    let tried = world.sent.len();
    assert!(tried < 60, "{tried} attempts while almost all fail");
    world.until(mins(30), |_, _| OK);
    assert!(!world.queue.is_open());
    assert_eq!(world.delivered.len(), 200);
}

#[test]
fn an_endpoint_that_is_gone_or_fails_for_days_is_disabled_and_keeps_what_waits() {
    let mut world = World::new(Manner::default());
    world.queue.offer("m1", "k", AT, world.now).unwrap();
    world.queue.offer("m2", "k", AT, world.now).unwrap();
    world.until(WEEK, |_, _| Answer::Status(410, None));
    assert_eq!(world.disabled, [Why::Gone]);
    assert_eq!(world.queue.offer("m3", "k", AT, world.now), Err(NotTaken::Disabled));
    world.queue.enable(world.now);
    world.attempts.clear();
    world.until(WEEK, |_, _| OK);
    assert_eq!(world.delivered.len() + world.queue.len(), 2);

    let mut world = World::new(Manner::default());
    for day in 0..9 {
        let _ = world.queue.offer(&format!("m{day}"), "k", AT, world.now);
        world.until(granary_core::time::days(1), |_, _| FAILED);
    }
    assert_eq!(world.disabled, [Why::Failing]);
}

#[test]
fn what_was_under_way_in_a_crash_is_sent_again_under_the_same_id() {
    let mut endpoint = Queue::new(Manner::default());
    endpoint.offer("m1", "k", AT, Timestamp(5)).unwrap();
    let mut out = Vec::new();
    endpoint.due(Timestamp(6), &mut out);
    assert_eq!(out, [Do::Attempt { id: "m1".into(), at: AT, attempt: 1 }]);
    endpoint.offer("m1", "k", AT, Timestamp(7)).unwrap();
    assert_eq!(endpoint.len(), 1, "it is not taken twice");
    let stored = granary_core::codec::to_bytes(&endpoint).unwrap();
    let mut again: Queue = granary_core::codec::from_bytes(&stored).unwrap();
    let mut out = Vec::new();
    again.due(Timestamp(8), &mut out);
    assert_eq!(out, [Do::Attempt { id: "m1".into(), at: AT, attempt: 2 }]);
    let mut out = Vec::new();
    again.answered("m1", OK, Timestamp(9), 0, &mut out);
    assert_eq!(out, [Do::Delivered("m1".into())]);
    assert!(again.is_empty());
}
