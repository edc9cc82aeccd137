//! All rules of a file over a stream: an event goes to each set by its own key.

use std::sync::Arc;

use granary_core::Timestamp;
use granary_window::rule::{ABSENT, DEGREE_UNITS, Decision, Fact, Fill, Judge, NUMBER_MAX, Outcome, Truth};
use serde::Serialize;

use super::Rules;
use super::cases::{Cases, Filed};
use super::event::{Cell, Event};
use super::groups::{Group, NumberOf};
use super::mutes::Muted;

/// What is said of an event.
#[derive(Debug)]
pub struct Said<'a> {
    /// The rule, by its place in the file.
    pub rule: usize,
    /// What the judge of its set says.
    pub decision: Decision<'a>,
    /// The event itself, when it is the one that has just come.
    pub event: Option<&'a Event>,
    /// Why nobody is told, though the rule is live.
    pub muted: Option<&'a Muted>,
    /// The case it belongs to, if its rule has cases and people are told.
    pub filed: Option<Filed>,
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

/// An event at one of the sets; without a fact when it lacks the set's key.
struct Reached<'a> {
    rules: &'a Rules,
    group: &'a Group,
    judge: &'a mut Judge,
    cases: &'a mut Cases,
    key: &'a [u8],
    fact: Option<&'a Fact<'a>>,
    keyless: &'a mut [u64],
}

/// The judges of all sets, or of some.
#[derive(Debug)]
pub struct Judges {
    rules: Arc<Rules>,
    /// Each with its place among the groups.
    judges: Vec<(usize, Judge)>,
    pub(crate) cases: Cases,
    /// For each rule the events that lacked its key.
    keyless: Vec<u64>,
    counts: Counts,
    truths: Vec<Truth>,
    key: Vec<u8>,
    numbers: Vec<i64>,
    own_truths: Vec<Truth>,
}

impl<'a> Said<'a> {
    /// What is said of an event by a rule of the file, with all that follows from it.
    fn new(
        rules: &'a Rules,
        cases: &mut Cases,
        rule: usize,
        decision: Decision<'a>,
        event: Option<&'a Event>,
    ) -> Said<'a> {
        let event = event.filter(|event| event.id() == decision.id);
        let muted = rules.muted(rule, &decision);
        let filed = if muted.is_none() { cases.file(rules, rule, &decision) } else { None };
        Said { rule, decision, event, muted, filed }
    }
}

impl Judges {
    /// Judges of all sets that have seen nothing. They say what would be: alerts in shadow are put into cases, too.
    pub fn new(rules: Arc<Rules>) -> Judges {
        let all: Vec<usize> = (0..rules.groups.len()).collect();
        let cases = Cases::new(&rules, b"", true);
        Judges { cases, ..Judges::of(rules, &all, b"") }
    }

    /// Judges of these sets. The keys of their cells begin with `prefix`.
    pub(crate) fn of(rules: Arc<Rules>, groups: &[usize], prefix: &[u8]) -> Judges {
        let judge = |place: &usize| {
            let group = &rules.groups[*place];
            (*place, Judge::new(Arc::clone(&group.set), &[prefix, group.name.as_bytes(), b"/"].concat()))
        };
        Judges {
            judges: groups.iter().map(judge).collect(),
            cases: Cases::new(&rules, prefix, false),
            keyless: vec![0; rules.infos().len()],
            counts: Counts::default(),
            truths: Vec::new(),
            key: Vec::new(),
            numbers: Vec::new(),
            own_truths: Vec::new(),
            rules,
        }
    }

    /// Goes on by other rules. Sets that judge the same keys at the same pace go on with what they know; new ones begin with
    /// what is stored.
    pub(crate) fn revise(&mut self, rules: Arc<Rules>, groups: &[usize], prefix: &[u8]) {
        let mut next = Judges::of(rules, groups, prefix);
        for (place, judge) in &mut next.judges {
            let known = self.judges.iter_mut().find(|(_, known)| known.prefix() == judge.prefix());
            if let Some((_, known)) = known {
                std::mem::swap(known, judge);
                judge.revise(next.rules.groups[*place].set.clone());
            }
        }
        std::mem::swap(&mut next.cases, &mut self.cases);
        next.cases.revise(&next.rules);
        next.counts = self.counts;
        *self = next;
    }

    /// What became of the events.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// For each rule the events that it could not look at: a field that it needs was missing or of another type.
    pub fn skipped(&self) -> Vec<u64> {
        let mut skipped = self.keyless.clone();
        for (group, judge) in &self.judges {
            for (rule, count) in self.rules.groups[*group].rules.iter().zip(judge.skipped()) {
                skipped[*rule] += count;
            }
        }
        skipped
    }

    /// For each rule its hits, those silenced after an alert among them.
    pub fn hits(&self) -> Vec<u64> {
        let mut hits = vec![0; self.rules.infos().len()];
        for (group, judge) in &self.judges {
            for (rule, count) in self.rules.groups[*group].rules.iter().zip(judge.hits()) {
                hits[*rule] = count.unsigned_abs();
            }
        }
        hits
    }

    /// Memory of all keys, about.
    pub fn memory_bytes(&self) -> usize {
        let judges: usize = self.judges.iter().map(|(_, judge)| judge.memory_bytes()).sum();
        judges + self.cases.memory_bytes()
    }

    /// Names the cells that must be supplied before an event can be judged.
    pub(crate) fn missing(&mut self, event: &Event, cells: &mut Vec<Vec<u8>>) {
        self.missing_where(event, cells, |_| true);
    }

    /// Names those that must be supplied before an event can be remembered.
    pub(crate) fn missing_to_remember(&mut self, event: &Event, cells: &mut Vec<Vec<u8>>) {
        self.missing_where(event, cells, |judge| judge.fill().is_on());
    }

    fn missing_where(&mut self, event: &Event, cells: &mut Vec<Vec<u8>>, which: impl Fn(&Judge) -> bool) {
        let Judges { rules, judges, cases, key, .. } = self;
        for (group, judge) in judges.iter_mut().filter(|(_, judge)| which(judge)) {
            key.clear();
            if write_key(&rules.groups[*group], event, key) {
                judge.missing(key, cells);
                cases.missing(*group, key, cells);
            }
        }
    }

    /// How many cells a seal would write now, about.
    pub(crate) fn open_cells(&self) -> usize {
        let judges: usize = self.judges.iter().map(|(_, judge)| judge.open_cells()).sum();
        judges + self.cases.open_cells()
    }

    /// The judges, for what is done with their cells.
    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Judge> {
        self.judges.iter_mut().map(|(_, judge)| judge)
    }

    /// Judges an event; what became of it.
    pub fn event(&mut self, event: &Event, out: &mut impl FnMut(Said<'_>)) -> Outcome {
        let (mut is_duplicate, mut late) = (false, None);
        self.each_fact(event, &mut |reached| {
            let Reached { rules, group, judge, cases, key, fact, keyless } = reached;
            let Some(fact) = fact else {
                group.rules.iter().for_each(|rule| keyless[*rule] += 1);
                return;
            };
            let outcome = judge.event(key, fact, &mut |decision| {
                out(Said::new(rules, cases, group.rules[decision.rule], decision, Some(event)));
            });
            is_duplicate |= outcome == Outcome::Duplicate;
            if let Outcome::Late(clock) = outcome {
                late = Some(clock);
            }
        });
        let (count, outcome) = match (is_duplicate, late) {
            (true, _) => (&mut self.counts.duplicates, Outcome::Duplicate),
            (false, Some(clock)) => (&mut self.counts.late, Outcome::Late(clock)),
            (false, None) => (&mut self.counts.accepted, Outcome::Accepted),
        };
        *count += 1;
        outcome
    }

    /// Has an event remembered that came before the rules did that are filled.
    pub(crate) fn remember(&mut self, event: &Event) {
        self.each_fact(event, &mut |reached| {
            if let Some(fact) = reached.fact {
                reached.judge.remember(reached.key, fact);
            }
        });
    }

    /// Has filled rules judge the keys of an event anew, where events of them were remembered.
    pub(crate) fn settle(&mut self, event: &Event, out: &mut impl FnMut(Said<'_>)) {
        self.each_fact(event, &mut |reached| {
            let Reached { rules, group, judge, cases, key, fact, .. } = reached;
            if fact.is_some() {
                judge.settle(key, &mut |decision| {
                    out(Said::new(rules, cases, group.rules[decision.rule], decision, None));
                });
            }
        });
    }

    /// Says which rules are filled: for each rule of the file the back-fill that it is of, 0 for none.
    pub(crate) fn set_fill(&mut self, number: u64, over: u64, of_rules: &[u64]) {
        for (group, judge) in &mut self.judges {
            let of_rules = self.rules.groups[*group].rules.iter().map(|rule| of_rules[*rule]).collect();
            judge.set_fill(Fill { number, over, of_rules });
        }
    }

    /// Hands the event to each set as it sees it.
    fn each_fact(&mut self, event: &Event, each: &mut dyn FnMut(Reached<'_>)) {
        let Judges { rules, judges, cases, keyless, truths, key, numbers, own_truths, .. } = self;
        truths.clear();
        truths.extend(rules.conditions.iter().map(|condition| condition.holds(event)));
        for (group, judge) in judges.iter_mut() {
            let group = &rules.groups[*group];
            key.clear();
            if !write_key(group, event, key) {
                each(Reached { rules, group, judge, cases, key, fact: None, keyless });
                continue;
            }
            numbers.clear();
            numbers.extend(group.numbers.iter().map(|of| number(*of, event)));
            own_truths.clear();
            own_truths.extend(group.conditions.iter().map(|condition| truths[*condition]));
            let texts: Vec<Option<&[u8]>> = group.texts.iter().map(|field| event.text(*field)).collect();
            let (id, time, partition) = (&event.id[..], event.time, event.partition);
            let fact = Fact { id, time, partition, numbers, texts: &texts, truths: own_truths };
            each(Reached { rules, group, judge, cases, key, fact: Some(&fact), keyless });
        }
    }

    /// Does all that is due, without a store.
    pub fn catch_up(&mut self, out: &mut impl FnMut(Said<'_>)) {
        let Judges { rules, judges, cases, .. } = self;
        for (group, judge) in judges {
            let group = &rules.groups[*group];
            judge.catch_up(&mut |decision| {
                out(Said::new(rules, cases, group.rules[decision.rule], decision, None))
            });
        }
    }

    /// Nothing comes any more. What that makes due follows.
    pub fn end(&mut self) {
        self.each().for_each(Judge::end_input);
    }

    /// Does a portion of what is due; `false` when cells are missing for it, which are named.
    pub(crate) fn go_on(&mut self, missing: &mut Vec<Vec<u8>>, out: &mut impl FnMut(Said<'_>)) -> bool {
        let Judges { rules, judges, cases, .. } = self;
        let Some((place, judge)) = judges.iter_mut().find(|(_, judge)| judge.is_due()) else { return true };
        let before = missing.len();
        judge.due_keys(missing).iter().flatten().for_each(|key| cases.missing(*place, key, missing));
        if missing.len() > before {
            return false;
        }
        let group = &rules.groups[*place];
        judge.go_on(missing, &mut |decision| {
            out(Said::new(rules, cases, group.rules[decision.rule], decision, None))
        })
    }

    /// The present time of a judge that has something due, for what is written down about it.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        self.judges.iter().find(|(_, judge)| judge.is_due()).and_then(|(_, judge)| judge.clock())
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
