//! State that is stored and loaded: in any places, and under other rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::{Span, Timestamp};

use super::oracle::{Draw, Plain, events, lateness_ms, must_be_expected, newest_ms, note, rule, set};
use super::*;

/// A store of cells.
#[derive(Default)]
pub(super) struct Store(BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    pub fn seal(&mut self, judge: &mut Judge, n: u64) {
        judge.seal(n, &mut |cell, value| match value {
            Some(value) => drop(self.0.insert(cell.to_vec(), value.to_vec())),
            None => drop(self.0.remove(cell)),
        });
        judge.acknowledged(n);
    }

    /// Does what is due.
    pub fn catch_up(&self, judge: &mut Judge, out: &mut impl FnMut(Decision<'_>)) {
        let mut missing = Vec::new();
        judge.missing_root(&mut missing);
        loop {
            for cell in missing.drain(..) {
                judge.supply(&cell, self.0.get(&cell).map(Vec::as_slice)).unwrap();
            }
            if judge.go_on(&mut missing, out) && !judge.is_due() {
                return;
            }
        }
    }

    pub fn supply(&self, judge: &mut Judge, key: &[u8]) {
        let mut missing = Vec::new();
        loop {
            judge.missing(key, &mut missing);
            if missing.is_empty() {
                return;
            }
            for cell in missing.drain(..) {
                judge.supply(&cell, self.0.get(&cell).map(Vec::as_slice)).unwrap();
            }
        }
    }
}

#[test]
fn storing_and_loading_changes_nothing() {
    for seed in 0..2_000 {
        let mut draw = Draw(seed);
        let rules: Vec<Rule> = (0..1 + draw.below(6)).map(|_| rule(&mut draw)).collect();
        let lateness_ms = lateness_ms(&mut draw);
        let given = events(&mut draw, lateness_ms);
        let pace = if draw.below(3) == 0 { Pace::OnWatermark } else { Pace::OnArrival };
        let set = set(rules.clone(), pace, lateness_ms);
        let mut judge = Judge::new(Arc::clone(&set), b"r/");
        let (mut store, mut standing) = (Store::default(), BTreeMap::new());
        let mut clock_ms = newest_ms(&given);
        for (n, event) in (1..).zip(&given) {
            store.supply(&mut judge, b"k");
            event.give(&mut judge, &mut |decision| note(&mut standing, &decision));
            if pace == Pace::OnArrival && draw.below(20) == 0 {
                let to = event.ms + draw.below(100) as i64; // the slot stood, or had events of others
                judge.set_clock(Timestamp(to));
            }
            store.catch_up(&mut judge, &mut |decision| note(&mut standing, &decision));
            match draw.below(12) {
                0 => {
                    store.seal(&mut judge, n);
                    judge = Judge::new(Arc::clone(&set), b"r/");
                }
                1 => {
                    store.seal(&mut judge, n);
                    judge.evict(0, usize::MAX);
                }
                2 => store.seal(&mut judge, n),
                _ => {}
            }
        }
        store.supply(&mut judge, b"k");
        if pace == Pace::OnArrival {
            clock_ms += 10_000; // all that is due by then is on a page whose date has come
            judge.set_clock(Timestamp(clock_ms));
        }
        judge.end_input();
        store.catch_up(&mut judge, &mut |decision| note(&mut standing, &decision));
        let late = (clock_ms, lateness_ms);
        must_be_expected(&standing, &rules, &given, late, &format!("seed {seed}, {pace:?}"));
    }
}

/// A slot reads its partitions one after the other: the clock follows the one that is behind.
#[test]
fn a_partition_that_is_ahead_makes_nothing_late() {
    for seed in 0..300 {
        let mut draw = Draw(seed);
        let rules: Vec<Rule> = (0..1 + draw.below(4)).map(|_| rule(&mut draw)).collect();
        let lateness_ms = lateness_ms(&mut draw);
        let given = events(&mut draw, lateness_ms);
        let mut judge = Judge::new(set(rules.clone(), Pace::OnWatermark, lateness_ms), b"r/");
        let (mut standing, mut newest) = (BTreeMap::new(), newest_ms(&given));
        let mut heard = |decision: Decision<'_>| {
            if decision.key == b"k" {
                note(&mut standing, &decision);
            }
        };
        for event in &given {
            let outcome = event.give(&mut judge, &mut heard);
            assert!(!matches!(outcome, Outcome::Late(_)), "seed {seed}: {event:?}");
            if draw.below(3) == 0 {
                let ms = 1_000_000 + event.ms;
                newest = newest.max(ms);
                let id = ms.to_string();
                let (numbers, texts, truths) = (&[1], &[None], &[Truth::Yes; 3]);
                let (id, time) = (id.as_bytes(), Timestamp(ms));
                let ahead = Fact { id, time, partition: 2, numbers, texts, truths };
                judge.event(b"other", &ahead, &mut heard);
            }
            judge.catch_up(&mut heard);
        }
        judge.end_input();
        judge.catch_up(&mut heard);
        let late = (newest, lateness_ms);
        must_be_expected(&standing, &rules, &given, late, &format!("seed {seed}"));
    }
}

fn velocity(measure: Measure, window: u64, limit: i64) -> Rule {
    let limit = Limit { comparison: Comparison::Gt, value: Ratio { num: limit, den: 1 } };
    let kind = Kind::Velocity { measure, window: Span(window), limit };
    Rule { when: None, kind, cooldown: Span::ZERO }
}

fn named(numbers: &[&str], rules: Vec<(&str, Rule)>) -> Arc<Set> {
    let boxed = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let (names, rules): (Vec<&str>, Vec<Rule>) = rules.into_iter().unzip();
    let names = Names { numbers: boxed(numbers), rules: boxed(&names), ..Names::default() };
    Arc::new(Set::new(names, None, rules, Pace::OnArrival, Span(0), Span(1_000)).unwrap())
}

/// The alerts that an event gives: rule, events that count, warming.
fn give(judge: &mut Judge, store: &Store, ms: i64, numbers: &[i64]) -> Vec<(usize, u64, bool)> {
    store.supply(judge, b"k");
    let mut alerts = Vec::new();
    let id = ms.to_string();
    let fact =
        Fact { id: id.as_bytes(), time: Timestamp(ms), partition: 0, numbers, texts: &[], truths: &[] };
    judge.event(b"k", &fact, &mut |decision| {
        let Change::Raised(hit) = decision.change else { panic!("nothing is withdrawn in order") };
        alerts.push((decision.rule, hit.events, hit.is_warming));
    });
    alerts
}

#[test]
fn other_rules_take_over_the_events_that_are_kept() {
    let mut store = Store::default();
    let sum = |place| velocity(Measure::Sum(Number(place)), 100, 10);
    let mut judge = Judge::new(named(&["a"], vec![("sum-a", sum(0))]), b"r/");
    assert_eq!(give(&mut judge, &store, 0, &[8]), []);
    assert_eq!(give(&mut judge, &store, 10, &[8]), [(0, 2, false)]);
    store.seal(&mut judge, 1);
    // Another rule before it, and another number before that of the first one.
    let rules = vec![("sum-b", sum(0)), ("sum-a", sum(1)), ("count", velocity(Measure::Count, 100, 2))];
    let mut judge = Judge::new(named(&["b", "a"], rules), b"r/");
    assert_eq!(give(&mut judge, &store, 20, &[20, 1]), [(0, 1, true), (1, 3, false), (2, 3, true)]);
    // After a window's length the new rules have seen all they look back on.
    assert_eq!(give(&mut judge, &store, 115, &[20, 1]), [(0, 2, false)]);
    store.seal(&mut judge, 2);
    // And back again.
    let mut judge = Judge::new(named(&["a"], vec![("sum-a", sum(0))]), b"r/");
    assert_eq!(give(&mut judge, &store, 116, &[20]), [(0, 3, false)]);
}

#[test]
fn going_on_by_other_rules_is_as_storing_and_loading_under_them() {
    for seed in 0..2_000 {
        let mut draw = Draw(seed);
        let some = |draw: &mut Draw| -> Vec<Rule> { (0..1 + draw.below(4)).map(|_| rule(draw)).collect() };
        let (before, more) = (some(&mut draw), some(&mut draw));
        let (lateness_ms, pace) = (lateness_ms(&mut draw), Pace::OnArrival);
        let given = events(&mut draw, lateness_ms);
        let kept = draw.below(before.len() as u64 + 1) as usize;
        let after: Vec<Rule> = before[..kept].iter().cloned().chain(more).collect();
        let (old, new) = (set(before, pace, lateness_ms), set(after, pace, lateness_ms));
        let at = draw.below(given.len() as u64) as usize;
        let (mut revised, mut loaded) = (Judge::new(old.clone(), b"r/"), Judge::new(old, b"r/"));
        let (mut of_revised, mut of_loaded) = (Store::default(), Store::default());
        for (n, event) in (1..).zip(&given[..at]) {
            of_revised.supply(&mut revised, b"k");
            of_loaded.supply(&mut loaded, b"k");
            event.give(&mut revised, &mut |_| {});
            event.give(&mut loaded, &mut |_| {});
            if draw.below(8) == 0 {
                of_revised.seal(&mut revised, n);
            }
        }
        revised.revise(new.clone());
        of_loaded.seal(&mut loaded, given.len() as u64);
        loaded = Judge::new(new.clone(), b"r/");
        for (n, event) in (at as u64 + 1..).zip(&given[at..]) {
            of_revised.supply(&mut revised, b"k");
            of_loaded.supply(&mut loaded, b"k");
            let (mut said, mut expected) = (Vec::new(), Vec::new());
            event.give(&mut revised, &mut |decision| said.push(format!("{decision:?}")));
            event.give(&mut loaded, &mut |decision| expected.push(format!("{decision:?}")));
            assert_eq!(said, expected, "seed {seed}, event {n}");
            if draw.below(8) == 0 {
                of_revised.seal(&mut revised, given.len() as u64 + n);
                revised = Judge::new(new.clone(), b"r/"); // what it had is stored under the new rules
            }
        }
    }
}

#[test]
fn what_is_needed_no_more_is_deleted() {
    let mut store = Store::default();
    let set = named(&["a"], vec![("count", velocity(Measure::Count, 100, 1_000_000))]);
    let mut judge = Judge::new(set, b"r/");
    for n in 0..5_000 {
        give(&mut judge, &store, n * 10, &[1]);
        if n % 50 == 0 {
            store.seal(&mut judge, n.unsigned_abs() + 1);
        }
    }
    // A second is kept, which are 100 events: two chunks, or three.
    assert!(store.0.len() <= 2 + 4, "{} cells", store.0.len());
    judge.evict(0, usize::MAX);
}

/// Far beyond what a sketch would have to hold: [`KEPT_MAX`] events of a key bound it, and nothing else.
#[test]
fn different_texts_are_counted_exactly() {
    const TEXTS: i64 = 12_000;
    let names = Names { texts: vec!["shop".into()], rules: vec!["shops".into()], ..Names::default() };
    let rule = velocity(Measure::Distinct(Text(0)), 1_000_000, TEXTS - 1);
    let set = Set::new(names, None, vec![rule], Pace::OnArrival, Span(0), Span(1_000)).unwrap();
    let mut judge = Judge::new(Arc::new(set), b"r/");
    let mut alerts = Vec::new();
    for n in 0..2 * TEXTS + 10 {
        Store::default().supply(&mut judge, b"k");
        let (id, text) = (n.to_string(), (n / 2).to_string());
        let texts = [Some(text.as_bytes())];
        let fact = Fact {
            id: id.as_bytes(),
            time: Timestamp(n),
            partition: 0,
            numbers: &[],
            texts: &texts,
            truths: &[],
        };
        judge.event(b"k", &fact, &mut |decision| {
            let Change::Raised(hit) = decision.change else { panic!("nothing is withdrawn in order") };
            alerts.push((n, hit.measured));
        });
    }
    let expected = (2 * TEXTS - 2..2 * TEXTS + 10).map(|n| (n, Measured::Count(n.unsigned_abs() / 2 + 1)));
    assert_eq!(alerts, expected.collect::<Vec<_>>());
}

#[test]
fn damaged_cells_are_errors() {
    let mut store = Store::default();
    let mut judge = Judge::new(set(vec![velocity(Measure::Count, 50, 1)], Pace::OnArrival, 10), b"r/");
    let event = Plain { id: 1, ms: 5, number: 3, text: Some(1), holds: [Truth::Yes; 3] };
    event.give(&mut judge, &mut |_| {});
    store.supply(&mut judge, b"k");
    judge.missing(b"k", &mut Vec::new());
    judge.supply(b"r/R", None).unwrap();
    store.seal(&mut judge, 1);
    for (cell, value) in &store.0 {
        for cut in 0..value.len() {
            let mut judge = Judge::new(Arc::clone(judge.set()), b"r/");
            for (other, value) in &store.0 {
                let is_before = other.get(2) == Some(&b'R') || (other.get(2) == Some(&b'K') && cell != other);
                if is_before && cell != other {
                    let _ = judge.supply(other, Some(value));
                }
            }
            assert!(judge.supply(cell, Some(&value[..cut])).is_err(), "{cell:?} cut at {cut}");
        }
    }
}
