//! Rules that come while events do, and are filled: beside judges that had them from the first event on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use granary_core::{Span, Timestamp};

use super::oracle::{Draw, Plain, events, lateness_ms, newest_ms, note, rule, set};
use super::tests::Store;
use super::*;

type Standing = BTreeMap<(usize, u64), i64>;

/// A judge that is stored and loaded as a seed says.
struct Slot {
    judge: Judge,
    store: Store,
    set: Arc<Set>,
    fill: Fill,
    commits: u64,
    standing: Standing,
}

impl Slot {
    fn new(set: &Arc<Set>) -> Slot {
        let (judge, set) = (Judge::new(Arc::clone(set), b"r/"), Arc::clone(set));
        Slot {
            judge,
            store: Store::default(),
            set,
            fill: Fill::default(),
            commits: 0,
            standing: BTreeMap::new(),
        }
    }

    fn revise(&mut self, set: &Arc<Set>, fill: Fill) {
        (self.set, self.fill) = (Arc::clone(set), fill.clone());
        self.judge.revise(Arc::clone(set));
        self.judge.set_fill(fill);
    }

    fn step(&mut self, draw: &mut Draw, step: impl FnOnce(&mut Judge, &mut Standing)) {
        self.store.supply(&mut self.judge, b"k");
        step(&mut self.judge, &mut self.standing);
        let standing = &mut self.standing;
        self.store.catch_up(&mut self.judge, &mut |decision| note(standing, &decision));
        self.commits += 1;
        match draw.below(12) {
            0 => {
                self.store.seal(&mut self.judge, self.commits);
                self.judge = Judge::new(Arc::clone(&self.set), b"r/");
                self.judge.set_fill(self.fill.clone());
            }
            1 => {
                self.store.seal(&mut self.judge, self.commits);
                self.judge.evict(0, usize::MAX);
            }
            _ => {}
        }
    }

    fn live(&mut self, draw: &mut Draw, event: &Plain) {
        self.step(draw, |judge, standing| {
            event.give(judge, &mut |decision| note(standing, &decision));
        });
    }

    fn remember(&mut self, draw: &mut Draw, event: &Plain) {
        self.step(draw, |judge, _| event.as_fact(|fact| judge.remember(b"k", fact)));
    }

    fn settle(&mut self, draw: &mut Draw) {
        self.step(draw, |judge, standing| judge.settle(b"k", &mut |decision| note(standing, &decision)));
    }

    fn end(&mut self, draw: &mut Draw, clock_ms: i64) -> Standing {
        self.step(draw, |judge, _| {
            if judge.set().pace() == Pace::OnArrival {
                judge.set_clock(Timestamp(clock_ms));
            }
            judge.end_input();
        });
        let standing = std::mem::take(&mut self.standing);
        standing.into_iter().filter(|(_, raised)| *raised == 1).collect()
    }
}

/// Before it is settled a filled rule says less, or more, but warns of it. After that nothing tells it from one that was there
/// before all events; and the others are as if there had never been a back-fill.
#[test]
fn filled_rules_say_of_later_events_what_they_had_said_had_they_always_been_there() {
    for seed in 0..2_000 {
        let mut draw = Draw(seed);
        let some = |draw: &mut Draw, least| -> Vec<Rule> {
            (0..least + draw.below(3)).map(|_| rule(draw)).collect()
        };
        let (old, more) = (some(&mut draw, 0), some(&mut draw, 1));
        let lateness_ms = lateness_ms(&mut draw);
        let given = events(&mut draw, lateness_ms);
        let pace = if draw.below(3) == 0 { Pace::OnWatermark } else { Pace::OnArrival };
        let olds = old.len();
        let all: Vec<Rule> = old.iter().cloned().chain(more).collect();
        let of_rules = (0..all.len()).map(|rule| u64::from(rule >= olds)).collect();
        let (before, after) = (set(old, pace, lateness_ms), set(all.clone(), pace, lateness_ms));
        let clock_ms = newest_ms(&given) + 10_000;

        let mut always = Slot::new(&after);
        given.iter().for_each(|event| always.live(&mut draw, event));
        let always = always.end(&mut draw, clock_ms);

        let mut slot = Slot::new(&before);
        let at = draw.below(given.len() as u64) as usize;
        given[..at].iter().for_each(|event| slot.live(&mut draw, event));
        slot.revise(&after, Fill { number: 1, over: 0, of_rules });
        let (mut live, mut again) = (at, 0);
        while again < at + draw.below(5) as usize && again < live {
            if live < given.len() && draw.below(4) == 0 {
                slot.live(&mut draw, &given[live]);
                live += 1;
            }
            slot.remember(&mut draw, &given[again]);
            again += 1;
        }
        while live < given.len() && draw.below(6) != 0 {
            slot.live(&mut draw, &given[live]);
            live += 1;
        }
        slot.settle(&mut draw);
        slot.fill.over = 1;
        slot.judge.set_fill(slot.fill.clone());
        given[live..].iter().for_each(|event| slot.live(&mut draw, event));
        let filled = slot.end(&mut draw, clock_ms);

        let there: BTreeSet<u64> = given[..at].iter().map(|event| event.id).collect();
        let is_told = |(rule, id): &(usize, u64)| *rule < olds || !there.contains(id);
        let always: Vec<_> = always.into_keys().filter(is_told).collect();
        let filled: Vec<_> = filled.into_keys().collect();
        assert_eq!(filled, always, "seed {seed}, {pace:?}, {olds} old, {at} of {}: {all:?}", given.len());
    }
}

/// A rule whose verdict follows from the events of a stretch of time, not from what it said before.
fn rule_of_a_window(draw: &mut Draw) -> Rule {
    loop {
        let rule = rule(draw);
        let is_of_window = match &rule.kind {
            Kind::Velocity { .. } | Kind::Silence { is_timed: false, .. } => true,
            Kind::FirstSeen { events_min, .. } => *events_min == 0,
            _ => false,
        };
        if is_of_window {
            return Rule { cooldown: Span::ZERO, when: None, ..rule };
        }
    }
}

#[test]
fn no_more_is_to_be_read_again_than_a_rule_looks_back_on() {
    const WINDOW_MS: i64 = 120; // as far as rules look back at most
    for seed in 0..1_500 {
        let mut draw = Draw(seed);
        let rules: Vec<Rule> = (0..1 + draw.below(4)).map(|_| rule_of_a_window(&mut draw)).collect();
        let lateness_ms = 40;
        let given = events(&mut draw, lateness_ms);
        let at = given.len() / 2 + draw.below(given.len() as u64 / 2) as usize;
        let after = set(rules.clone(), Pace::OnArrival, lateness_ms);
        let clock_ms = newest_ms(&given) + 10_000;
        let mut always = Slot::new(&after);
        given.iter().for_each(|event| always.live(&mut draw, event));
        let always = always.end(&mut draw, clock_ms);

        let newest = newest_ms(&given[..at]);
        let from = newest - WINDOW_MS - 2 * lateness_ms as i64;
        let begin = given.iter().position(|event| event.ms > from).unwrap_or(0);
        let mut slot = Slot::new(&set(Vec::new(), Pace::OnArrival, lateness_ms));
        given[..at].iter().for_each(|event| slot.live(&mut draw, event));
        slot.revise(&after, Fill { number: 1, over: 0, of_rules: vec![1; rules.len()] });
        for event in &given[begin..at] {
            slot.remember(&mut draw, event);
        }
        slot.settle(&mut draw);
        given[at..].iter().for_each(|event| slot.live(&mut draw, event));
        let filled: Vec<_> = slot.end(&mut draw, clock_ms).into_keys().collect();
        let there: BTreeSet<u64> = given[..at].iter().map(|event| event.id).collect();
        let always: Vec<_> = always.into_keys().filter(|(_, id)| !there.contains(id)).collect();
        assert_eq!(filled, always, "seed {seed}, from {begin}, {at} of {}: {rules:?}", given.len());
    }
}

fn boxed(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

/// A set of rules that add up numbers, over 1,000 ms.
fn sums(numbers: &[&str]) -> Arc<Set> {
    let rule = |number| {
        let limit = Limit { comparison: Comparison::Gt, value: Ratio { num: 10, den: 1 } };
        let kind = Kind::Velocity { measure: Measure::Sum(Number(number)), window: Span(1_000), limit };
        Rule { when: None, kind, cooldown: Span::ZERO }
    };
    let rules: Vec<Rule> = (0..numbers.len() as u16).map(rule).collect();
    let names = Names { numbers: boxed(numbers), rules: boxed(numbers), ..Names::default() };
    Arc::new(Set::new(names, None, rules, Pace::OnArrival, Span(10), Span(2_000)).unwrap())
}

fn give(judge: &mut Judge, ms: i64, numbers: &[i64], is_live: bool) -> Vec<(usize, bool)> {
    let id = ms.to_string();
    let (id, time) = (id.as_bytes(), Timestamp(ms));
    let fact = Fact { id, time, partition: 0, numbers, texts: &[], truths: &[] };
    let mut alerts = Vec::new();
    let mut out = |decision: Decision<'_>| {
        let Change::Raised(hit) = decision.change else { panic!("nothing is withdrawn: {decision:?}") };
        alerts.push((decision.rule, hit.is_warming));
    };
    if is_live {
        assert_eq!(judge.event(b"k", &fact, &mut out), Outcome::Accepted);
    } else {
        judge.remember(b"k", &fact);
    }
    alerts
}

#[test]
fn fields_that_were_not_asked_for_are_filled_in() {
    let mut judge = Judge::new(sums(&["a"]), b"r/");
    judge.supply(b"r/R", None).unwrap();
    give(&mut judge, 0, &[4], true);
    give(&mut judge, 10, &[4], true);
    judge.revise(sums(&["a", "b"]));
    judge.set_fill(Fill { number: 3, over: 0, of_rules: vec![0, 3] });
    assert_eq!(give(&mut judge, 20, &[0, 5], true), [], "what came before had no b");
    give(&mut judge, 0, &[4, 3], false);
    give(&mut judge, 10, &[4, 3], false);
    let mut alerts = Vec::new();
    judge.settle(b"k", &mut |decision| alerts.push((decision.rule, decision.time)));
    assert_eq!(alerts, [(1, Timestamp(20))], "3 + 3 + 5; and nobody hears of what was there before");
    assert_eq!(give(&mut judge, 30, &[2, 0], true), [(1, true)], "until all keys were judged anew");
    judge.set_fill(Fill { number: 3, over: 3, of_rules: vec![0, 3] });
    assert_eq!(give(&mut judge, 31, &[2, 0], true), [(0, false), (1, false)]);
}

#[test]
fn what_came_late_is_late_again() {
    let mut judge = Judge::new(sums(&["a"]), b"r/");
    judge.set_fill(Fill { number: 1, over: 0, of_rules: vec![1] });
    for (ms, number) in [(0, 1), (100, 2), (50, 100), (95, 4)] {
        give(&mut judge, ms, &[number], false);
    }
    let mut sum = None;
    let fact =
        Fact { id: b"now", time: Timestamp(200), partition: 0, numbers: &[5], texts: &[], truths: &[] };
    judge.event(b"k", &fact, &mut |decision| {
        if let Change::Raised(hit) = decision.change {
            sum = Some(hit.measured);
        }
    });
    assert_eq!(sum, Some(Measured::Sum(12)));
}
