//! How far the sequences of one rule have come for one key.
//!
//! Of two beginnings that have come equally far the later one counts: it lasts longer, and whatever completes the earlier
//! one completes it too. So there is at most one for each step and number of events taken, and an event completes at most one
//! hit.

use super::kept::{Kept, Place};
use super::set::{Carries, Set, length_ms};
use super::verdict::{Piece, piece};
use super::{Contiguity, EVIDENCE_MAX, Kind, Rule, Step};

/// What sequences have begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// The number of the next event of the key.
    pub next: u64,
    pub partials: Vec<Partial>,
}

/// A sequence that has begun.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partial {
    /// The step of its last event, and how many that step has taken.
    pub step: u16,
    pub count: u32,
    /// Of its last event.
    pub no: u64,
    /// When it began.
    pub first_ms: i64,
    /// All the events it took, and the last [`EVIDENCE_MAX`] of them.
    pub taken: u32,
    pub pieces: Vec<Piece>,
}

/// A sequence that is complete.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Complete {
    pub first_ms: i64,
    pub taken: u32,
    pub pieces: Vec<Piece>,
}

/// How a rule follows sequences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course<'a> {
    pub steps: &'a [Step],
    pub within_ms: i64,
    pub contiguity: Contiguity,
}

impl Progress {
    /// Whether the next event can change anything but its number.
    pub fn is_idle(&self) -> bool {
        self.partials.is_empty()
    }

    /// Takes the next event of the key. `fits` says which steps it fits, `piece` what to remember of it.
    pub fn take(
        &mut self,
        course: Course<'_>,
        time_ms: i64,
        fits: impl Fn(usize) -> bool,
        piece: impl Fn(u16) -> Piece,
    ) -> Option<Complete> {
        let no = self.next;
        self.next += 1;
        if self.partials.is_empty() && !fits(0) {
            return None;
        }
        let mut complete: Option<Complete> = None;
        let before = std::mem::take(&mut self.partials);
        let is_alive = |partial: &Partial| time_ms.saturating_sub(partial.first_ms) <= course.within_ms;
        for partial in before.into_iter().filter(is_alive) {
            let here = &course.steps[usize::from(partial.step)];
            let follows = course.contiguity == Contiguity::Relaxed || partial.no + 1 == no;
            let takes_more = here.times_max.is_none_or(|most| partial.count < most)
                && follows
                && fits(usize::from(partial.step));
            let goes_on = partial.count >= here.times_min && follows && fits(usize::from(partial.step) + 1);
            if goes_on {
                let step = partial.step + 1;
                self.keep(course, partial.with(step, 1, no, piece(step)), &mut complete);
            }
            if takes_more {
                let (step, count) = (partial.step, partial.count + 1);
                self.keep(course, partial.with(step, count, no, piece(step)), &mut complete);
            } else if !goes_on && course.contiguity == Contiguity::Relaxed {
                self.keep_as_it_is(course, partial);
            }
        }
        if fits(0) {
            let first =
                Partial { step: 0, count: 1, no, first_ms: time_ms, taken: 1, pieces: vec![piece(0)] };
            self.keep(course, first, &mut complete);
        }
        if complete.is_some() {
            self.partials.clear();
        }
        complete
    }

    fn keep(&mut self, course: Course<'_>, partial: Partial, complete: &mut Option<Complete>) {
        let step = usize::from(partial.step);
        if step + 1 == course.steps.len() && partial.count >= course.steps[step].times_min {
            if complete.as_ref().is_none_or(|known| known.first_ms <= partial.first_ms) {
                let Partial { first_ms, taken, pieces, .. } = partial;
                *complete = Some(Complete { first_ms, taken, pieces });
            }
            return;
        }
        self.keep_as_it_is(course, partial);
    }

    /// Keeps it, unless one that began later has come as far.
    fn keep_as_it_is(&mut self, course: Course<'_>, mut partial: Partial) {
        let step = &course.steps[usize::from(partial.step)];
        partial.count = partial.count.min(step.times_max.unwrap_or(step.times_min));
        let same = |known: &&mut Partial| (known.step, known.count) == (partial.step, partial.count);
        match self.partials.iter_mut().find(same) {
            Some(known) if known.first_ms > partial.first_ms => {}
            Some(known) => *known = partial,
            None => self.partials.push(partial),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let pieces: usize = self.partials.iter().map(|partial| partial.pieces.len()).sum();
        self.partials.capacity() * size_of::<Partial>() + pieces * (size_of::<Piece>() + 16)
    }
}

impl Partial {
    /// This one and an event more.
    fn with(&self, step: u16, count: u32, no: u64, piece: Piece) -> Partial {
        let known = self.pieces.len().saturating_sub(EVIDENCE_MAX - 1);
        let pieces = self.pieces[known..].iter().cloned().chain([piece]).collect();
        Partial { step, count, no, first_ms: self.first_ms, taken: self.taken.saturating_add(1), pieces }
    }
}

/// Follows the sequences of a rule by one event.
pub(super) fn follow(
    set: &Set,
    kept: &Kept,
    carries: &mut Carries,
    place: Place,
    i: usize,
    rule: &Rule,
) -> Option<Complete> {
    let Kind::Sequence { steps, within, contiguity } = &rule.kind else { return None };
    if rule.when.is_some_and(|when| !kept.holds(place, when)) {
        return None;
    }
    let fits = |step: usize| steps.get(step).is_some_and(|step| kept.holds(place, step.when));
    let is_idle = carries.get(i).is_none_or(|carry| carry.progress.is_idle());
    if is_idle && !fits(0) {
        return None;
    }
    let course = Course { steps, within_ms: length_ms(*within), contiguity: *contiguity };
    let remember = |step| piece(set, kept, place, Some(step));
    carries.of(i).progress.take(course, kept.time(place), fits, remember)
}

/// Counts an event that a rule has looked at, for those that ask how many there were.
pub(super) fn count(set: &Set, kept: &Kept, carries: &mut Carries, place: Place, i: usize) {
    if matches!(set.rules[i].kind, Kind::FirstSeen { .. }) && set.track(i).has(kept, place) {
        carries.of(i).events += 1;
    }
}
