//! All rules of a file over a stream: an event goes to each set by its own key.

use std::sync::Arc;

use granary_window::rule::{ABSENT, Decision, Fact, Judge, NUMBER_MAX, Outcome, Truth};
use serde::Serialize;

use super::Rules;
use super::event::{Cell, Event};
use super::groups::{Group, NumberOf};

/// Units of a degree.
const DEGREE_UNITS: f64 = 1e7;

/// What is said of an event.
#[derive(Debug)]
pub struct Said<'a> {
    /// The rule, by its place in the file.
    pub rule: usize,
    /// What the judge of its set says.
    pub decision: Decision<'a>,
}

/// What became of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Judged, or waiting to be.
    pub accepted: u64,
    /// Their ids were there before.
    pub duplicates: u64,
    /// They came after the lateness; for one of their keys at least.
    pub late: u64,
}

/// The judges of all sets.
#[derive(Debug)]
pub struct Judges {
    rules: Arc<Rules>,
    judges: Vec<Judge>,
    /// For each rule the events that lacked its key.
    keyless: Vec<u64>,
    counts: Counts,
    truths: Vec<Truth>,
    key: Vec<u8>,
    numbers: Vec<i64>,
    own_truths: Vec<Truth>,
}

impl Judges {
    /// Judges that have seen nothing.
    pub fn new(rules: Arc<Rules>) -> Judges {
        Judges {
            judges: rules.groups.iter().map(|group| Judge::new(Arc::clone(&group.set))).collect(),
            keyless: vec![0; rules.infos().len()],
            counts: Counts::default(),
            truths: Vec::new(),
            key: Vec::new(),
            numbers: Vec::new(),
            own_truths: Vec::new(),
            rules,
        }
    }

    /// What became of the events.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// For each rule the events that it could not look at: a field that it needs was missing or of another type.
    pub fn skipped(&self) -> Vec<u64> {
        let mut skipped = self.keyless.clone();
        for (judge, group) in self.judges.iter().zip(&self.rules.groups) {
            for (rule, count) in group.rules.iter().zip(judge.skipped()) {
                skipped[*rule] += count;
            }
        }
        skipped
    }

    /// For each rule its hits, those silenced after an alert among them.
    pub fn hits(&self) -> Vec<u64> {
        let mut hits = vec![0; self.rules.infos().len()];
        for (judge, group) in self.judges.iter().zip(&self.rules.groups) {
            for (rule, count) in group.rules.iter().zip(judge.hits()) {
                hits[*rule] = count.unsigned_abs();
            }
        }
        hits
    }

    /// Memory of all keys, about.
    pub fn memory_bytes(&self) -> usize {
        self.judges.iter().map(Judge::memory_bytes).sum()
    }

    /// Judges an event.
    pub fn event(&mut self, event: &Event, out: &mut impl FnMut(Said<'_>)) {
        let Judges { rules, judges, keyless, truths, key, numbers, own_truths, .. } = self;
        truths.clear();
        truths.extend(rules.conditions.iter().map(|condition| condition.holds(event)));
        let (mut is_duplicate, mut is_late) = (false, false);
        for (judge, group) in judges.iter_mut().zip(&rules.groups) {
            key.clear();
            if !write_key(group, event, key) {
                group.rules.iter().for_each(|rule| keyless[*rule] += 1);
                continue;
            }
            numbers.clear();
            numbers.extend(group.numbers.iter().map(|of| number(*of, event)));
            own_truths.clear();
            own_truths.extend(group.conditions.iter().map(|condition| truths[*condition]));
            let texts: Vec<Option<&[u8]>> = group.texts.iter().map(|field| event.text(*field)).collect();
            let fact = Fact { id: &event.id, time: event.time, numbers, texts: &texts, truths: own_truths };
            let outcome = judge.event(key, &fact, &mut |decision| {
                out(Said { rule: group.rules[decision.rule], decision });
            });
            is_duplicate |= outcome == Outcome::Duplicate;
            is_late |= matches!(outcome, Outcome::Late(_));
        }
        match (is_duplicate, is_late) {
            (true, _) => self.counts.duplicates += 1,
            (false, true) => self.counts.late += 1,
            (false, false) => self.counts.accepted += 1,
        }
    }

    /// Nothing comes any more.
    pub fn end(&mut self, out: &mut impl FnMut(Said<'_>)) {
        for (judge, group) in self.judges.iter_mut().zip(&self.rules.groups) {
            judge.end(&mut |decision| out(Said { rule: group.rules[decision.rule], decision }));
        }
    }
}

fn number(of: NumberOf, event: &Event) -> i64 {
    match event.cells[of.field] {
        Cell::Number(units) => units,
        Cell::Double(double) if of.is_degrees => {
            let units = (double * DEGREE_UNITS).round();
            if units.abs() <= NUMBER_MAX as f64 { units as i64 } else { ABSENT }
        }
        _ => ABSENT,
    }
}

/// The key of a group: each value after its length, so that no two keys are alike. False without one.
fn write_key(group: &Group, event: &Event, key: &mut Vec<u8>) -> bool {
    for field in &group.per {
        let mut digits = itoa::Buffer::new();
        let value = match event.cells[*field] {
            Cell::Text(..) => event.text(*field).unwrap_or_default(),
            Cell::Number(units) => digits.format(units).as_bytes(),
            Cell::Boolean(value) => {
                if value {
                    &b"true"[..]
                } else {
                    b"false"
                }
            }
            Cell::Missing | Cell::Wrong | Cell::Double(_) => return false,
        };
        key.extend_from_slice(&(value.len() as u32).to_be_bytes());
        key.extend_from_slice(value);
    }
    true
}

/// The values of a key.
pub(crate) fn key_values(key: &[u8]) -> Vec<&[u8]> {
    let mut values = Vec::new();
    let mut rest = key;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Some((value, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            break;
        };
        values.push(value);
        rest = after;
    }
    values
}
