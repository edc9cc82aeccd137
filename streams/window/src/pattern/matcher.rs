//! The partial matches of one key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use granary_core::Timestamp;

use super::partial::{Partial, Step, Taken, Way, stand, step};
use super::{Contiguity, Pattern, Skip};
use crate::shelf::{Shelf, Stored};

/// Partial matches of one key; what would be one more is dropped and counted. When as many matches wait for older partial ones,
/// those are dropped.
pub const PARTIALS_MAX: usize = 4_096;
/// Events of one partial match; a longer one is dropped and counted.
pub const TAKEN_MAX: u32 = 1_024;
/// Events of all partial matches of one key, each counted in each; what would have more is dropped and counted.
pub const SELECTED_MAX: u64 = 262_144;

/// Says which events fit which stage.
pub trait Judge<E> {
    /// Whether the event fits the stage of a selection of events.
    fn fits(&self, stage: usize, event: &E, selection: &Selection<'_, E>) -> bool;
}

/// The events of a key.
#[derive(Debug)]
pub(super) struct Held<E> {
    /// By arrival. Those that were taken are marked, the others wait.
    pub shelf: Shelf<E>,
    /// The arrival of those that were taken, by their number in the order of the key.
    pub taken: BTreeMap<u64, u64>,
}

impl<E: Stored> Held<E> {
    fn get(&self, no: u64) -> Option<&E> {
        Some(&self.shelf.get(*self.taken.get(&no)?)?.event)
    }

    /// Lets go what was taken, but these.
    fn retain(&mut self, is_needed: impl Fn(u64) -> bool) {
        let Held { shelf, taken } = self;
        taken.retain(|no, arrival| {
            let stays = is_needed(*no);
            if !stays {
                shelf.remove(*arrival);
            }
            stays
        });
    }
}

/// The events that were taken so far, by stage.
pub struct Selection<'a, E> {
    taken: Option<&'a Taken>,
    held: &'a Held<E>,
}

impl<'a, E: Stored> Selection<'a, E> {
    /// The last event that a stage took.
    pub fn last(&self, stage: usize) -> Option<&'a E> {
        self.held.get(self.taken?.last_of(stage)?)
    }

    /// All events with the stages that took them, in order.
    pub fn all(&self) -> Vec<(usize, &'a E)> {
        let backwards = self.taken.into_iter().flat_map(Taken::backwards);
        let found = |taken: &Taken| Some((taken.stage, self.held.get(taken.event)?));
        let mut all: Vec<_> = backwards.filter_map(found).collect();
        all.reverse();
        all
    }
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// A match.
    Match,
    /// A partial match that ran out of time.
    Timeout,
}

/// A row.
pub struct Found<'a, E> {
    /// What it is.
    pub pane: Pane,
    /// Its events.
    pub selection: Selection<'a, E>,
}

/// A match that is not yet reported.
#[derive(Debug)]
pub(super) struct Ended {
    pub begin: u64,
    /// When it was complete: with event n at 2 n + 1, by time before it at 2 n.
    pub done: u64,
    pub taken: Rc<Taken>,
}

impl Ended {
    /// In this order matches are reported.
    fn rank(&self) -> (u64, u64, Reverse<usize>, Vec<u64>) {
        let mut events: Vec<u64> = self.taken.backwards().map(|taken| taken.event).collect();
        events.reverse();
        (self.begin, self.done, Reverse(events.len()), events)
    }
}

/// The state of a pattern for one key. Events are of type `E`: whatever rows and conditions need of them.
#[derive(Debug)]
pub struct Matcher<E> {
    pub(super) pattern: Arc<Pattern>,
    pub(super) watermark: i64,
    pub(super) held: Held<E>,
    /// Events whose time has not come, by time and arrival.
    pub(super) waiting: BTreeSet<(i64, u64)>,
    /// The number of the next event in the order of the key.
    pub(super) next: u64,
    pub(super) partials: Vec<Partial>,
    pub(super) ended: Vec<Ended>,
    dropped: u64,
}

impl<E: Stored> Matcher<E> {
    /// One that has seen nothing.
    pub fn new(pattern: Arc<Pattern>) -> Matcher<E> {
        Matcher {
            pattern,
            watermark: i64::MIN,
            held: Held { shelf: Shelf::new(), taken: BTreeMap::new() },
            waiting: BTreeSet::new(),
            next: 0,
            partials: Vec::new(),
            ended: Vec::new(),
            dropped: 0,
        }
    }

    /// Partial matches that were dropped because of a bound.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// An event arrives; false when it is late. It is looked at when the watermark reaches its time.
    pub fn event(&mut self, time: Timestamp, event: E) -> bool {
        if time.ms() <= self.watermark {
            return false;
        }
        let arrival = self.held.shelf.push(time.ms(), 0, event);
        self.waiting.insert((time.ms(), arrival));
        true
    }

    /// The watermark at which time changes something.
    pub(crate) fn next_change(&self) -> Option<i64> {
        let waits = self.waiting.first().map(|(ms, _)| *ms);
        let ends = self.pattern.within.and_then(|within| {
            self.partials.iter().map(|partial| partial.first_ms.saturating_add_unsigned(within.ms())).min()
        });
        // what held it back was dropped
        let first = self.ended.iter().map(|ended| ended.begin).min();
        let is_free = |first: u64| self.partials.iter().all(|partial| partial.begin >= first);
        let told = first.filter(|first| is_free(*first)).map(|_| self.watermark.saturating_add(1));
        [waits, ends, told].into_iter().flatten().min()
    }

    /// Drops the older half of the partial matches, and what nobody needs then.
    pub(crate) fn drop_older_half(&mut self) {
        let mut begins: Vec<u64> = self.partials.iter().map(|partial| partial.begin).collect();
        begins.sort_unstable();
        if let Some(middle) = begins.get(begins.len() / 2) {
            self.dropped += self.partials.extract_if(.., |partial| partial.begin <= *middle).count() as u64;
        }
        self.sweep();
    }

    /// Lets events go that no selection has.
    pub(crate) fn sweep(&mut self) {
        let selections = self.partials.iter().map(|p| &p.taken).chain(self.ended.iter().map(|e| &e.taken));
        let needed: BTreeSet<u64> =
            selections.flat_map(|taken| taken.backwards().map(|taken| taken.event)).collect();
        self.held.retain(|no| needed.contains(&no));
    }

    /// The watermark is at least this: what it makes due follows.
    pub fn advance(&mut self, to: Timestamp, judge: &impl Judge<E>, out: &mut impl FnMut(Found<'_, E>)) {
        if to.ms() <= self.watermark {
            return;
        }
        self.watermark = to.ms();
        while let Some((ms, arrival)) = self.waiting.first().copied()
            && ms <= self.watermark
        {
            self.waiting.pop_first();
            self.pass_time(ms, out);
            self.take(ms, arrival, judge);
            self.report(out);
        }
        self.pass_time(self.watermark, out);
        if self.watermark == i64::MAX {
            self.partials.clear(); // nothing is to come, and what they hold back is told
        }
        self.report(out);
        self.forget();
    }

    /// Ends what has lasted too long by then.
    fn pass_time(&mut self, now_ms: i64, out: &mut impl FnMut(Found<'_, E>)) {
        let Some(within) = self.pattern.within else { return };
        let is_over = |partial: &mut Partial| partial.first_ms.saturating_add_unsigned(within.ms()) <= now_ms;
        for over in self.partials.extract_if(.., is_over) {
            if over.ways.iter().any(|way| matches!(way, Way::Absence(_))) {
                self.ended.push(Ended { begin: over.begin, done: 2 * self.next, taken: over.taken });
            } else if self.pattern.timeouts {
                let selection = Selection { taken: Some(&over.taken), held: &self.held };
                out(Found { pane: Pane::Timeout, selection });
            }
        }
    }

    /// The next event of the key.
    fn take(&mut self, ms: i64, arrival: u64, judge: &impl Judge<E>) {
        let no = self.next;
        self.next += 1;
        let before = std::mem::take(&mut self.partials);
        let Some(entry) = self.held.shelf.get(arrival) else { return };
        let look = Look { pattern: &self.pattern, held: &self.held, judge, event: &entry.event, no };
        let mut taken = Vec::new();
        for mut partial in before {
            if look.goes_on(&mut partial, &mut taken) {
                self.partials.push(partial);
            }
        }
        look.begins(ms, &mut taken);
        if taken.is_empty() {
            self.held.shelf.remove(arrival);
        } else {
            self.held.shelf.mark(arrival);
            self.held.taken.insert(no, arrival);
        }
        let mut selected = self.partials.iter().map(|partial| u64::from(partial.taken.len)).sum();
        for new in taken {
            self.stand(new, &mut selected);
        }
    }

    /// A selection has taken an event: it may be a match, and may go on.
    fn stand(&mut self, mut new: Partial, selected: &mut u64) {
        let standing = stand(&self.pattern, new.taken.stage, new.count);
        if standing.is_match {
            self.ended.push(Ended {
                begin: new.begin,
                done: 2 * new.taken.event + 1,
                taken: new.taken.clone(),
            });
        }
        if standing.ways.is_empty() {
            return;
        }
        let len = new.taken.len;
        if self.partials.len() >= PARTIALS_MAX
            || len >= TAKEN_MAX
            || *selected + u64::from(len) > SELECTED_MAX
        {
            self.dropped += 1;
            return;
        }
        *selected += u64::from(len);
        new.ways = standing.ways;
        self.partials.push(new);
    }

    /// Reports the matches before which none can come any more.
    fn report(&mut self, out: &mut impl FnMut(Found<'_, E>)) {
        loop {
            let first = self.ended.iter().enumerate().min_by_key(|(_, ended)| ended.rank()).map(|(i, _)| i);
            let Some(first) = first else { return };
            let begin = self.ended[first].begin;
            let holds = |partial: &Partial| partial.begin < begin;
            if self.pattern.skip != Skip::None && self.partials.iter().any(holds) {
                if self.ended.len() < PARTIALS_MAX {
                    return;
                }
                self.dropped += self.partials.extract_if(.., |partial| holds(partial)).count() as u64;
            }
            let ended = self.ended.swap_remove(first);
            let selection = Selection { taken: Some(&ended.taken), held: &self.held };
            out(Found { pane: Pane::Match, selection });
            self.skip(&ended);
        }
    }

    fn skip(&mut self, reported: &Ended) {
        let of_stage = |stage: usize| reported.taken.backwards().filter(move |taken| taken.stage == stage);
        let goes: Box<dyn Fn(u64) -> bool> = match self.pattern.skip {
            Skip::None => return,
            Skip::ToNext => Box::new(|begin| begin == reported.begin),
            Skip::PastLast => Box::new(|begin| begin <= reported.taken.event),
            Skip::ToFirst(stage) => {
                let Some(first) = of_stage(stage).last().map(|taken| taken.event) else { return };
                Box::new(move |begin| begin < first)
            }
            Skip::ToLast(stage) => {
                let Some(last) = of_stage(stage).next().map(|taken| taken.event) else { return };
                Box::new(move |begin| begin < last)
            }
        };
        self.partials.retain(|partial| !goes(partial.begin));
        self.ended.retain(|ended| !goes(ended.begin));
    }

    /// Events that began before everything that lives are needed no more.
    fn forget(&mut self) {
        let begins = self.partials.iter().map(|partial| partial.begin);
        let first = begins.chain(self.ended.iter().map(|ended| ended.begin)).min();
        while let Some((no, arrival)) = self.held.taken.pop_first() {
            if first.is_some_and(|first| no >= first) {
                self.held.taken.insert(no, arrival);
                return;
            }
            self.held.shelf.remove(arrival);
        }
    }
}

/// One event, as the selections see it.
struct Look<'a, E, J> {
    pattern: &'a Pattern,
    held: &'a Held<E>,
    judge: &'a J,
    event: &'a E,
    no: u64,
}

impl<E: Stored, J: Judge<E>> Look<'_, E, J> {
    fn fits(&self, stage: usize, taken: Option<&Taken>) -> bool {
        self.judge.fits(stage, self.event, &Selection { taken, held: self.held })
    }

    /// What the event does to a selection: longer ones are appended to `new`. Whether it lives on as it is.
    fn goes_on(&self, partial: &mut Partial, new: &mut Vec<Partial>) -> bool {
        let (stage, taken) = (partial.taken.stage, partial.taken.clone());
        let is_next = taken.event + 1 == self.no;
        let is_broken = |absent: usize| {
            let contiguity = self.pattern.stages[absent].contiguity;
            (contiguity != Contiguity::Next || is_next) && self.fits(absent, Some(&taken))
        };
        let broken: Vec<usize> = self.absences(partial).filter(|absent| is_broken(*absent)).collect();
        let absent_next = self.pattern.absent_after(stage);
        if broken.iter().any(|absent| absent_next.contains(absent)) {
            return false; // also where it could take more of the stage before
        }
        let mut is_cut = false;
        partial.ways.retain(|way| {
            let (to, contiguity, count) = match *way {
                _ if is_cut => return false,
                Way::Absence(last) => return !broken.iter().any(|absent| *absent <= last),
                Way::More => (stage, self.pattern.stages[stage].inner, partial.count + 1),
                Way::To(to) if broken.iter().any(|absent| *absent < to) => return false,
                Way::To(to) => (to, self.pattern.stages[to].contiguity, 1),
            };
            let what = step(contiguity, self.fits(to, Some(&taken)), is_next);
            if matches!(what, Step::Takes | Step::TakesOrStays) {
                let before = Some(taken.clone());
                new.push(Partial {
                    taken: Rc::new(Taken::new(to, self.no, before)),
                    count,
                    begin: partial.begin,
                    first_ms: partial.first_ms,
                    ways: Vec::new(),
                });
                is_cut = self.pattern.stages[to].is_greedy;
            }
            matches!(what, Step::Stays | Step::TakesOrStays)
        });
        !partial.ways.is_empty()
    }

    /// The absent stages that the selection is on its way past.
    fn absences(&self, partial: &Partial) -> impl Iterator<Item = usize> {
        let stages = &self.pattern.stages;
        let from = partial.taken.stage + 1;
        let is_past = partial.count >= stages[partial.taken.stage].times_min;
        let reach = partial.ways.iter().map(|way| match way {
            Way::More if is_past => self.pattern.absent_after(partial.taken.stage).end,
            Way::More => from,
            Way::To(to) => *to,
            Way::Absence(last) => last + 1,
        });
        let to = reach.max().unwrap_or(from);
        (from..to).filter(|stage| stages[*stage].is_absent)
    }

    /// The event begins selections.
    fn begins(&self, ms: i64, new: &mut Vec<Partial>) {
        for (stage, first) in self.pattern.stages.iter().enumerate().filter(|(_, stage)| !stage.is_absent) {
            let fits = self.fits(stage, None);
            if fits {
                let taken = Rc::new(Taken::new(stage, self.no, None));
                new.push(Partial { taken, count: 1, begin: self.no, first_ms: ms, ways: Vec::new() });
            }
            if !first.is_optional || (fits && first.is_greedy) {
                return;
            }
        }
    }
}
