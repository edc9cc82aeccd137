//! Rules beside their definitions: random events in random order, duplicates among them, against a program that sorts them
//! and computes every verdict from nothing. It shares no code with the judge.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::{Span, Timestamp};

use super::*;

/// A small generator of numbers; the seed is all there is to it.
pub(super) struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plain {
    pub id: u64,
    pub ms: i64,
    pub number: i64,
    pub text: Option<u8>,
    pub holds: [Truth; 3],
}

impl Plain {
    fn fits(&self, condition: Condition) -> bool {
        self.holds[usize::from(condition.0)] == Truth::Yes
    }

    pub fn give(&self, judge: &mut Judge, out: &mut impl FnMut(Decision<'_>)) -> Outcome {
        self.as_fact(|fact| judge.event(b"k", fact, out))
    }

    pub fn as_fact<R>(&self, with: impl FnOnce(&Fact<'_>) -> R) -> R {
        let (id, text) = (self.id.to_string(), [self.text.unwrap_or(0)]);
        with(&Fact {
            id: id.as_bytes(),
            time: Timestamp(self.ms),
            partition: 1,
            numbers: &[self.number],
            texts: &[self.text.map(|_| &text[..])],
            truths: &self.holds,
        })
    }
}

/// How late events come: most a little, some so late that they come in any order.
pub(super) fn lateness_ms(draw: &mut Draw) -> u64 {
    if draw.one_in(4) { 3_000 } else { 40 }
}

pub(super) fn events(draw: &mut Draw, lateness_ms: u64) -> Vec<Plain> {
    let count = 20 + draw.below(250);
    let mut ms = 0;
    let mut events = Vec::new();
    for id in 0..count {
        ms += draw.below(12) as i64;
        let truth = |draw: &mut Draw| match draw.below(7) {
            0 | 1 => Truth::Yes,
            2 => Truth::Unknown,
            _ => Truth::No,
        };
        events.push(Plain {
            id,
            ms,
            number: if draw.one_in(9) { ABSENT } else { draw.below(40) as i64 - 8 },
            text: (!draw.one_in(9)).then(|| draw.below(6) as u8),
            holds: [truth(draw), truth(draw), truth(draw)],
        });
    }
    // Arrivals: each up to the lateness later than it happened.
    let mut arrivals: Vec<(i64, Plain)> =
        events.into_iter().map(|event| (event.ms + draw.below(lateness_ms) as i64, event)).collect();
    arrivals.sort_by_key(|(at, _)| *at);
    let mut given: Vec<Plain> = arrivals.into_iter().map(|(_, event)| event).collect();
    for _ in 0..draw.below(10) {
        let copy = given[draw.below(given.len() as u64) as usize].clone();
        let place = given.iter().position(|known| known.id == copy.id).unwrap_or(0);
        given.insert((place + 1 + draw.below(9) as usize).min(given.len()), copy);
    }
    given
}

pub(super) fn rule(draw: &mut Draw) -> Rule {
    let condition = |draw: &mut Draw| Condition(draw.below(3) as u16);
    let (num, of, text) = (Number(0), Number(0), super::Text(0));
    let comparison = [Comparison::Gt, Comparison::Ge, Comparison::Lt, Comparison::Le][draw.below(4) as usize];
    let window = Span(1 + draw.below(120));
    let last = 1 + draw.below(9) as u32;
    let events_min = 1 + draw.below(u64::from(last)) as u32;
    let velocity = |measure, value: i64| Kind::Velocity {
        measure,
        window,
        limit: Limit { comparison, value: Ratio { num: value, den: 2 } },
    };
    let value = draw.below(30) as i64;
    let kind = match draw.below(12) {
        0 => Kind::Match { shows: Some(num) },
        1 => velocity(Measure::Count, value),
        2 => velocity(Measure::Sum(of), 4 * value),
        3 => velocity(Measure::Avg(of), value),
        4 => velocity(Measure::Min(of), value - 10),
        5 => velocity(Measure::Max(of), 2 * value),
        6 => velocity(Measure::Distinct(text), value / 3),
        7 => Kind::Deviation { of, last, events_min, ratio: Ratio { num: 1 + value, den: 10 } },
        8 => Kind::ZScore {
            of,
            last,
            events_min,
            z: Ratio { num: value, den: 10 },
            sides: [Sides::Above, Sides::Below, Sides::Both][draw.below(3) as usize],
        },
        9 => {
            let count = 2 + draw.below(2);
            let contiguity = if draw.one_in(2) { Contiguity::Strict } else { Contiguity::Relaxed };
            let step = |i, draw: &mut Draw| {
                let times_min = 1 + draw.below(2) as u32;
                let is_strict = contiguity == Contiguity::Strict;
                let times_max = (!draw.one_in(2)).then(|| times_min + u32::from(is_strict && draw.one_in(2)));
                Step { name: format!("s{i}").into(), when: condition(draw), times_min, times_max }
            };
            let steps = (0..count).map(|i| step(i, draw)).collect();
            Kind::Sequence { steps, within: window, contiguity }
        }
        10 => Kind::Silence { gap: Span(draw.below(25)), is_timed: draw.one_in(2) },
        _ => Kind::FirstSeen { of: text, events_min: draw.below(6), forget: window },
    };
    let has_when = draw.one_in(3);
    Rule { when: has_when.then(|| condition(draw)), kind, cooldown: Span(draw.below(3) * draw.below(60)) }
}

/// The ids of the alerts by the definition, once it is so late.
fn expected(rule: &Rule, given: &[Plain], clock_ms: i64, lateness_ms: u64) -> Vec<u64> {
    let mut events: Vec<&Plain> = Vec::new();
    for event in given {
        if !events.iter().any(|known| known.id == event.id) {
            events.push(event);
        }
    }
    events.sort_by_key(|event| (event.ms, event.id));
    events.retain(|event| rule.when.is_none_or(|when| event.fits(when)));
    let mut alerts: Vec<u64> = Vec::new();
    let mut quiet_until = i64::MIN;
    let mut used = 0;
    if let Kind::Silence { gap, is_timed: true } = rule.kind {
        for (i, event) in events.iter().enumerate() {
            let alert_at = event.ms + gap.ms() as i64;
            let known_until = events.get(i + 1).map_or(clock_ms - lateness_ms as i64, |next| next.ms);
            if known_until > alert_at && alert_at >= quiet_until {
                alerts.push(event.id);
                quiet_until = alert_at + rule.cooldown.ms() as i64;
            }
        }
        return alerts;
    }
    for (i, event) in events.iter().enumerate() {
        if is_hit(rule, &events, i, &mut used) && event.ms >= quiet_until {
            alerts.push(event.id);
            quiet_until = event.ms + rule.cooldown.ms() as i64;
        }
    }
    alerts
}

fn is_hit(rule: &Rule, events: &[&Plain], i: usize, used: &mut usize) -> bool {
    let event = events[i];
    let in_window = |window: Span| {
        events[..=i].iter().filter(move |other| other.ms > event.ms - window.ms() as i64).copied()
    };
    let passes = |limit: Limit, measure: f64| {
        let limited = limit.value.num as f64 / limit.value.den as f64;
        match limit.comparison {
            Comparison::Gt => measure > limited,
            Comparison::Ge => measure >= limited,
            Comparison::Lt => measure < limited,
            Comparison::Le => measure <= limited,
        }
    };
    match &rule.kind {
        Kind::Match { .. } => true,
        Kind::Velocity { measure: Measure::Count, window, limit } => {
            passes(*limit, in_window(*window).count() as f64)
        }
        Kind::Velocity { measure: Measure::Distinct(_), window, limit } => {
            let texts: std::collections::BTreeSet<u8> = in_window(*window).filter_map(|e| e.text).collect();
            event.text.is_some() && passes(*limit, texts.len() as f64)
        }
        Kind::Velocity { measure, window, limit } => {
            let numbers: Vec<i64> = in_window(*window).map(|e| e.number).filter(|n| *n != ABSENT).collect();
            let sum = numbers.iter().sum::<i64>() as f64;
            let value = match measure {
                Measure::Sum(_) => Some(sum),
                Measure::Avg(_) => Some(sum / numbers.len() as f64),
                Measure::Min(_) => numbers.iter().min().map(|n| *n as f64),
                _ => numbers.iter().max().map(|n| *n as f64),
            };
            event.number != ABSENT && value.is_some_and(|value| passes(*limit, value))
        }
        Kind::Deviation { last, events_min, ratio, .. } => {
            let (x, before) = (event.number, previous(events, i, *last));
            let (n, sum) = (before.len() as i64, before.iter().sum::<i64>());
            x != ABSENT && n >= i64::from(*events_min) && x * n * ratio.den > ratio.num * sum
        }
        Kind::ZScore { last, events_min, z, sides, .. } => {
            let (x, before) = (event.number, previous(events, i, *last));
            if x == ABSENT || before.len() < *events_min as usize {
                return false;
            }
            // In whole numbers, by the sum of the squared distances of all pairs: n² variance = that / 2... twice over.
            let n = before.len() as i64;
            let away = n * x - before.iter().sum::<i64>();
            let pairs: i64 =
                before.iter().flat_map(|a| before.iter().map(move |b| (a - b) * (a - b))).sum::<i64>() / 2;
            let on_side = match sides {
                Sides::Above => away > 0,
                Sides::Below => away < 0,
                Sides::Both => away != 0,
            };
            on_side && away * away * z.den * z.den > z.num * z.num * pairs
        }
        Kind::Sequence { steps, within, contiguity } => {
            let found = (*used..=i).rev().any(|start| {
                event.ms - events[start].ms <= within.ms() as i64
                    && reaches(steps, *contiguity, &events[start..=i], 0, 0)
            });
            if found {
                *used = i + 1;
            }
            found
        }
        Kind::Silence { gap, .. } => i > 0 && event.ms - events[i - 1].ms > gap.ms() as i64,
        Kind::FirstSeen { events_min, forget, .. } => {
            let seen = in_window(*forget).filter(|other| other.id != event.id && other.text == event.text);
            let before = events[..i].iter().filter(|other| other.text.is_some()).count() as u64;
            event.text.is_some() && seen.count() == 0 && before >= *events_min
        }
        Kind::Geo { .. } => false,
    }
}

fn previous(events: &[&Plain], i: usize, last: u32) -> Vec<i64> {
    let before = events[..i].iter().rev().map(|event| event.number).filter(|number| *number != ABSENT);
    before.take(last as usize).collect()
}

/// Whether the events, the first and the last among them, can be taken by the steps.
fn reaches(steps: &[Step], contiguity: Contiguity, rest: &[&Plain], step: usize, count: u32) -> bool {
    let Some((event, rest)) = rest.split_first() else { return false };
    let takes = |step: usize, count: u32| {
        let here = &steps[step];
        if !event.fits(here.when) || here.times_max.is_some_and(|most| count > most) {
            return false;
        }
        if rest.is_empty() {
            return step + 1 == steps.len() && count >= here.times_min;
        }
        // A sequence is complete as soon as its last step has enough.
        let is_over = step + 1 == steps.len() && count >= here.times_min;
        !is_over && reaches(steps, contiguity, rest, step, count)
    };
    let is_first = step == 0 && count == 0;
    let more = takes(step, count + 1);
    let next = count >= steps[step].times_min && step + 1 < steps.len() && takes(step + 1, 1);
    let passes_over = contiguity == Contiguity::Relaxed
        && !is_first
        && !rest.is_empty()
        && reaches(steps, contiguity, rest, step, count);
    more || next || passes_over
}

pub(super) fn set(rules: Vec<Rule>, pace: Pace, lateness_ms: u64) -> Arc<Set> {
    let names = |prefix: &str, count: usize| (0..count).map(|i| format!("{prefix}{i}").into()).collect();
    let names = Names {
        numbers: names("n", 1),
        texts: names("t", 1),
        conditions: names("c", 3),
        rules: names("r", rules.len()),
    };
    Arc::new(
        Set::new(names, Some(Number(0)), rules, pace, Span(lateness_ms), Span(100)).expect("rules that fit"),
    )
}

/// Notes what is raised and withdrawn.
pub(super) fn note(standing: &mut BTreeMap<(usize, u64), i64>, decision: &Decision<'_>) {
    let id = std::str::from_utf8(decision.id).unwrap().parse().unwrap();
    let raised = standing.entry((decision.rule, id)).or_default();
    if matches!(decision.change, Change::Resolved { .. }) {
        assert_eq!(*raised, 1, "what is resolved was raised: {decision:?}");
        return;
    }
    *raised += if matches!(decision.change, Change::Raised(_)) { 1 } else { -1 };
    assert!((0..=1).contains(raised), "raised and withdrawn in turn: {decision:?}");
}

pub(super) fn newest_ms(given: &[Plain]) -> i64 {
    given.iter().map(|event| event.ms).max().unwrap_or(i64::MIN)
}

/// What stands is what the definition gives, for every rule.
pub(super) fn must_be_expected(
    standing: &BTreeMap<(usize, u64), i64>,
    rules: &[Rule],
    given: &[Plain],
    (clock_ms, lateness_ms): (i64, u64),
    which: &str,
) {
    for (i, rule) in rules.iter().enumerate() {
        let raised = standing.iter().filter(|((of, _), raised)| *of == i && **raised == 1);
        let raised: Vec<u64> = raised.map(|((_, id), _)| *id).collect();
        let mut wanted = expected(rule, given, clock_ms, lateness_ms);
        wanted.sort_unstable();
        assert_eq!(raised, wanted, "{which}: {rule:?}");
    }
}

#[test]
fn raised_less_withdrawn_is_what_sorted_events_give() {
    for seed in 0..6_000 {
        let mut draw = Draw(seed);
        let rules: Vec<Rule> = (0..1 + draw.below(6)).map(|_| rule(&mut draw)).collect();
        let lateness_ms = lateness_ms(&mut draw);
        let given = events(&mut draw, lateness_ms);
        let pace = if draw.one_in(3) { Pace::OnWatermark } else { Pace::OnArrival };
        let mut judge = Judge::new(set(rules.clone(), pace, lateness_ms), b"r/");
        let mut standing = BTreeMap::new();
        for event in &given {
            let mut out = |decision: Decision<'_>| {
                let is_withdrawn = matches!(decision.change, Change::Withdrawn);
                assert!(!is_withdrawn || pace == Pace::OnArrival, "nothing is withdrawn on the watermark");
                note(&mut standing, &decision);
            };
            let outcome = event.give(&mut judge, &mut out);
            assert!(!matches!(outcome, Outcome::Late(_)), "seed {seed}: {event:?}");
        }
        let mut clock_ms = newest_ms(&given);
        if pace == Pace::OnArrival {
            clock_ms += 10_000; // all that is due by then is on a page whose date has come
            judge.set_clock(Timestamp(clock_ms));
        }
        judge.end_input();
        judge.catch_up(&mut |decision| note(&mut standing, &decision));
        let late = (clock_ms, lateness_ms);
        must_be_expected(&standing, &rules, &given, late, &format!("seed {seed}, {pace:?}"));
    }
}
