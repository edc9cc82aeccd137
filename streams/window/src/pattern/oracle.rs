//! Random patterns over random events, beside a search through all selections of events that knows the rules between two
//! picks and no partial matches.

use std::sync::Arc;

use granary_core::{Span, Timestamp};

use super::*;
use crate::Corrupt;
use crate::shelf::Stored;
use crate::track::Shelved;

const CASES: u64 = 20_000;
const EVENTS_MAX: u64 = 7;
const LETTERS: u64 = 3;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Each stage fits some letters; events are letters with their place.
struct Fits(Vec<Vec<u64>>);

impl Stored for (u64, usize) {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend([self.0 as u8, self.1 as u8]);
    }

    fn read(bytes: &[u8]) -> Result<(u64, usize), Corrupt> {
        Ok((u64::from(bytes[0]), usize::from(bytes[1])))
    }

    fn bytes(&self) -> usize {
        2
    }
}

impl Judge<(u64, usize)> for Fits {
    fn fits(&self, stage: usize, event: &(u64, usize), _: &Selection<'_, (u64, usize)>) -> bool {
        self.0[stage].contains(&event.0)
    }
}

fn random_pattern(dice: &mut Dice) -> (Pattern, Fits) {
    loop {
        let count = 2 + dice.below(3) as usize;
        let (mut stages, mut fits) = (Vec::new(), Vec::new());
        for i in 0..count {
            let contiguities = [Contiguity::Next, Contiguity::FollowedBy, Contiguity::FollowedByAny];
            let mut stage = Stage::new(&i.to_string());
            stage.contiguity = contiguities[dice.below(3) as usize];
            stage.inner = contiguities[dice.below(3) as usize];
            stage.is_absent = dice.one_in(5);
            if !stage.is_absent {
                stage.times_min = 1 + dice.below(2) as u32;
                stage.times_max = [Some(stage.times_min), Some(3), None][dice.below(3) as usize];
                stage.is_optional = dice.one_in(4);
                stage.is_greedy = dice.one_in(5);
            }
            stages.push(stage);
            let first = dice.below(LETTERS);
            fits.push(if dice.one_in(4) { vec![first, (first + 1) % LETTERS] } else { vec![first] });
        }
        let mut pattern = Pattern::new(stages);
        pattern.within = dice.one_in(3).then(|| Span(1 + dice.below(EVENTS_MAX)));
        let ends_absent = pattern.stages.last().is_some_and(|stage| stage.is_absent);
        if pattern.check().is_empty() && !ends_absent && is_clear(&pattern) {
            return (pattern, Fits(fits));
        }
    }
}

/// What an absence behind a stage that may be left out means for who has taken none of that stage is left open.
fn is_clear(pattern: &Pattern) -> bool {
    pattern.stages.windows(2).all(|pair| !(pair[0].is_optional && pair[1].is_absent))
}

/// A pick: the stage, and the event's place.
type Pick = (usize, usize);

/// The rules, said of two picks that follow one another.
struct Rules<'a> {
    pattern: &'a Pattern,
    fits: &'a Fits,
    letters: &'a [u64],
}

impl Rules<'_> {
    fn takes(&self, stage: usize, place: usize) -> bool {
        self.fits.0[stage].contains(&self.letters[place])
    }

    /// Whether `to` may be the next event of a stage after the one at `from`, by how they follow one another.
    fn follows(&self, contiguity: Contiguity, stage: usize, from: usize, to: usize) -> bool {
        match contiguity {
            Contiguity::Next => to == from + 1,
            Contiguity::FollowedBy => !(from + 1..to).any(|place| self.takes(stage, place)),
            Contiguity::FollowedByAny => true,
        }
    }

    /// Whether none of the absent stages between is met on the way.
    fn is_absent(&self, stages: std::ops::Range<usize>, from: usize, to: usize) -> bool {
        stages.filter(|stage| self.pattern.stages[*stage].is_absent).all(|stage| {
            let last = if self.pattern.stages[stage].contiguity == Contiguity::Next { from + 1 } else { to };
            !(from + 1..=last.min(to)).any(|place| self.takes(stage, place))
        })
    }

    /// Whether a greedy stage before `stage` would have taken an event on the way.
    fn is_cut(&self, (at, from): Pick, count: u32, (stage, to): Pick) -> bool {
        let stages = &self.pattern.stages;
        (at..stage).filter(|greedy| stages[*greedy].is_greedy).any(|greedy| {
            let (may, contiguity) = if greedy == at {
                (stages[at].times_max.is_none_or(|max| count < max), stages[at].inner)
            } else {
                (count >= stages[at].times_min, stages[greedy].contiguity)
            };
            may && (from + 1..=to).any(|place| {
                self.takes(greedy, place)
                    && self.follows(contiguity, greedy, from, place)
                    && self.is_absent(at + 1..greedy, from, place)
            })
        })
    }

    fn may_follow(&self, before: Pick, count: u32, next: Pick) -> bool {
        let stages = &self.pattern.stages;
        let ((at, from), (stage, to)) = (before, next);
        let is_enough = count >= stages[at].times_min;
        if stage == at {
            let past = stages.iter().skip(at + 1).take_while(|stage| stage.is_absent).count();
            return stages[at].times_max.is_none_or(|max| count < max)
                && self.follows(stages[at].inner, at, from, to)
                && (!is_enough || self.is_absent(at + 1..at + 1 + past, from, to));
        }
        is_enough
            && (at + 1..stage).all(|between| stages[between].is_absent || stages[between].is_optional)
            && self.follows(stages[stage].contiguity, stage, from, to)
            && self.is_absent(at + 1..stage, from, to)
            && !self.is_cut(before, count, next)
    }

    fn may_begin(&self, (stage, place): Pick) -> bool {
        self.pattern.stages[..stage].iter().enumerate().all(|(before, other)| {
            other.is_absent || (other.is_optional && !(other.is_greedy && self.takes(before, place)))
        })
    }

    fn may_end(&self, at: usize, count: u32) -> bool {
        let rest = &self.pattern.stages[at + 1..];
        count >= self.pattern.stages[at].times_min && rest.iter().all(|s| s.is_absent || s.is_optional)
    }

    /// Every selection that is a match.
    fn search(&self, picks: &mut Vec<Pick>, count: u32, found: &mut Vec<Vec<Pick>>) {
        let from = picks.last().map_or(0, |(_, place)| place + 1);
        for place in from..self.letters.len() {
            let stages = picks.last().map_or(0, |(at, _)| *at)..self.pattern.stages.len();
            for stage in stages.filter(|stage| !self.pattern.stages[*stage].is_absent) {
                let next = (stage, place);
                let fits = match picks.last() {
                    _ if !self.takes(stage, place) => false,
                    None => self.may_begin(next),
                    Some(before) => self.may_follow(*before, count, next),
                };
                let first = picks.first().map_or(place, |(_, first)| *first);
                let in_time = self.pattern.within.is_none_or(|within| ((place - first) as u64) < within.ms());
                if !fits || !in_time {
                    continue;
                }
                let count = if picks.last().is_some_and(|(at, _)| *at == stage) { count + 1 } else { 1 };
                picks.push(next);
                if self.may_end(stage, count) {
                    found.push(picks.clone());
                }
                self.search(picks, count, found);
                picks.pop();
            }
        }
    }
}

#[test]
fn every_selection_that_the_rules_allow_is_found_once() {
    let (mut matches, mut longest) = (0, 0);
    for seed in 0..CASES {
        let mut dice = Dice(seed);
        let (pattern, fits) = random_pattern(&mut dice);
        let letters: Vec<u64> = (0..1 + dice.below(EVENTS_MAX)).map(|_| dice.below(LETTERS)).collect();
        let mut expected = Vec::new();
        Rules { pattern: &pattern, fits: &fits, letters: &letters }.search(&mut Vec::new(), 0, &mut expected);
        let mut matcher = Matcher::new(Arc::new(pattern.clone()));
        let mut found: Vec<Vec<Pick>> = Vec::new();
        for (place, letter) in letters.iter().enumerate() {
            let at = Timestamp(place as i64);
            assert!(matcher.event(at, (*letter, place)));
            matcher.advance(at, &fits, &mut |row| {
                let picks = row.selection.all().into_iter().map(|(stage, event)| (stage, event.1));
                found.push(picks.collect());
            });
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "seed {seed}: {pattern:#?}, {:?}, events {letters:?}", fits.0);
        (matches, longest) = (matches + found.len(), longest.max(found.len()));
    }
    println!("{matches} matches, {longest} of one pattern");
    assert!(matches > CASES as usize / 2 && longest > 20);
}

/// Wherever the state of a key is stored and read again, the same comes out in the same order; also with skips, timeouts and
/// absences at the end, and whichever events wait for others.
#[test]
fn nothing_depends_on_where_state_was() {
    let (mut rows, mut timeouts) = (0, 0);
    for seed in 0..CASES {
        let mut dice = Dice(seed);
        let (mut pattern, fits) = random_pattern(&mut dice);
        pattern.skip = [Skip::None, Skip::ToNext, Skip::PastLast, Skip::ToFirst(0), Skip::ToLast(0)]
            [dice.below(5) as usize];
        pattern.within = dice.one_in(2).then(|| Span(2 + dice.below(10)));
        pattern.timeouts = dice.one_in(2);
        let events: Vec<(i64, u64)> = (0..dice.below(EVENTS_MAX * 2))
            .map(|at| ((at + dice.below(6)) as i64, dice.below(LETTERS)))
            .collect();
        let run = |is_restored: bool, dice: &mut Dice| {
            let of = Arc::new(pattern.clone());
            let mut key = Shelved::new(Matcher::new(of.clone()), of);
            let mut found: Vec<(bool, Vec<Pick>)> = Vec::new();
            let mut out = |row: Found<'_, (u64, usize)>| {
                let picks = row.selection.all().into_iter().map(|(stage, event)| (stage, event.1));
                found.push((row.pane == Pane::Timeout, picks.collect()));
            };
            for (place, (at, letter)) in events.iter().enumerate() {
                if is_restored && dice.one_in(3) {
                    key.restore();
                }
                key.machine.event(Timestamp(*at), (*letter, place));
                key.machine.advance(Timestamp(at - 6), &fits, &mut out);
            }
            if is_restored {
                key.restore();
            }
            key.machine.advance(Timestamp(i64::MAX), &fits, &mut out);
            found
        };
        let whole = run(false, &mut dice);
        assert_eq!(run(true, &mut dice), whole, "seed {seed}: {pattern:#?}, {:?}, events {events:?}", fits.0);
        rows += whole.len();
        timeouts += whole.iter().filter(|(is_timeout, _)| *is_timeout).count();
    }
    println!("{rows} rows, {timeouts} of them timeouts");
    assert!(rows > CASES as usize && timeouts > CASES as usize / 4);
}
