//! Back-fills: events that came before the rules did are handed over a second time, are remembered, and judged in silence.
//!
//! A back-fill has two rounds over the same events. In the first, [`Judge::remember`] puts each event to its place among the kept
//! ones, or adds to a kept one what the rules of that time did not ask for. In the second, [`Judge::settle`] finds anew what the
//! filled rules say of all events of the key: nobody is told of those that were there before the rules, what it changes of
//! others is raised or withdrawn. An event of the key that comes meanwhile has that done first. *Why two rounds: an event that is
//! put in the middle would have all after it judged again, once for each of them.*
//!
//! Rules that are not filled never look at what is remembered: their verdicts, and what they carry, stay as they are.

use super::judge::{Court, Decision, Judge, Key};
use super::kept::Place;
use super::set::{Bound, Carries, Set};
use super::sliding::Sliding;
use super::{Condition, Fact, KEPT_MAX, Kind, Pace};
use crate::ids::id_of;

/// Which rules of a set were filled, as its judge is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// The last back-fill; 0 when there was none.
    pub number: u64,
    /// Those up to this one are over.
    pub over: u64,
    /// For each rule the back-fill that it is of; 0: of none.
    pub of_rules: Vec<u64>,
}

impl Fill {
    /// Whether a rule is of this back-fill.
    pub(super) fn has(&self, rule: usize, number: u64) -> bool {
        number > 0 && self.of_rules.get(rule) == Some(&number)
    }

    /// Whether some rule is being filled.
    pub fn is_on(&self) -> bool {
        self.number > self.over && self.of_rules.contains(&self.number)
    }

    /// Whether a rule may not have seen all that it looks back on; `None` when no back-fill tells.
    pub(super) fn is_warming(&self, rule: usize) -> Option<bool> {
        let number = self.of_rules.get(rule).copied().filter(|number| *number > 0)?;
        Some(number > self.over)
    }
}

/// What a key knows of the last back-fill that had events of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    /// Which one; 0: none yet.
    pub number: u64,
    /// The greatest time of the events that it has handed over: what came late the first time is late again.
    pub clock: i64,
    /// More may come to be remembered: until then nothing is forgotten, since rules begin at the first event.
    pub is_open: bool,
    /// Events were put among those that are judged: totals, and what the filled rules say, are to be found anew.
    pub is_stale: bool,
}

impl Default for Filling {
    fn default() -> Filling {
        Filling { number: 0, clock: i64::MIN, is_open: false, is_stale: false }
    }
}

impl Judge {
    /// Which rules are filled. To be said again after [`Judge::revise`].
    pub fn set_fill(&mut self, fill: Fill) {
        let is_filled = |rule| fill.has(rule, fill.number);
        let others = (0..self.set.rules.len()).filter(|rule| !is_filled(*rule));
        let used: Vec<Condition> = others.flat_map(|rule| self.set.conditions_of(rule)).collect();
        let free = |condition: &u16| !used.contains(&Condition(*condition));
        self.fresh = (0..self.set.names.conditions.len() as u16).map(|condition| free(&condition)).collect();
        self.fill = fill;
    }

    /// Which rules are filled.
    pub fn fill(&self) -> &Fill {
        &self.fill
    }

    /// An event that was there before the rules that are filled. Nothing must be missing for its key.
    pub fn remember(&mut self, key: &[u8], fact: &Fact<'_>) {
        let Judge { set, fill, fresh, keys, .. } = self;
        if !fill.is_on() {
            return;
        }
        let state = keys.entry(key.into()).or_insert_with(|| Key::new(set));
        if state.filling.number != fill.number {
            state.filling = Filling { number: fill.number, clock: i64::MIN, is_open: true, is_stale: true };
        }
        if !std::mem::replace(&mut state.is_changed, true) {
            self.dirty.push(key.into());
        }
        state.take_in(set, fill, fresh, fact);
        let before = state.bytes;
        self.bytes = self.bytes - before + state.account(key, set);
    }

    /// Finds anew what filled rules say of the events of a key, if there were some to be remembered.
    pub fn settle(&mut self, key: &[u8], out: &mut impl FnMut(Decision<'_>)) {
        let Judge { set, fill, keys, hits, .. } = self;
        let Some(state) = keys.get_mut(key).filter(|state| state.filling.is_open) else { return };
        state.renew(&mut Court { set, fill, key, hits, out });
        state.filling.is_open = false;
        state.forget(set);
        if !std::mem::replace(&mut state.is_changed, true) {
            self.dirty.push(key.into());
        }
        let before = state.bytes;
        self.bytes = self.bytes - before + state.account(key, set);
    }
}

impl Set {
    /// The conditions that a rule looks at.
    fn conditions_of(&self, rule: usize) -> Vec<Condition> {
        let rule = &self.rules[rule];
        let own = match &rule.kind {
            Kind::Sequence { steps, .. } => steps.iter().map(|step| step.when).collect(),
            Kind::Geo { unless, .. } => unless.iter().copied().collect(),
            _ => Vec::new(),
        };
        rule.when.into_iter().chain(own).collect()
    }
}

impl Key {
    fn take_in(&mut self, set: &Set, fill: &Fill, fresh: &[bool], fact: &Fact<'_>) {
        let time = fact.time.ms();
        let was_late = time < self.filling.clock.saturating_sub(set.lateness_ms);
        self.filling.clock = self.filling.clock.max(time);
        if self.ids.contains(&id_of(fact.id)) {
            self.filling.is_stale |= self.kept.complete(fact, fresh);
            return;
        }
        if was_late {
            return;
        }
        self.clock = self.clock.max(time);
        if self.kept.count >= KEPT_MAX {
            self.overflows += 1; // it would be the first to go
            return;
        }
        self.ids.insert(id_of(fact.id));
        self.put_in(set, fill, fact);
        self.filling.is_stale = true;
    }

    /// Puts an event to its place; what is judged stays judged.
    fn put_in(&mut self, set: &Set, fill: &Fill, fact: &Fact<'_>) {
        let at = self.kept.place_of(fact.time.ms(), fact.id);
        self.judged = self.kept.normal(self.judged);
        if at < self.judged && at.chunk == self.judged.chunk {
            self.judged.at += 1;
        }
        let (place, split) = self.kept.insert(at, fact);
        self.kept.hush(place, |rule| fill.has(rule, fill.number));
        if place.at == 0 && self.kept.chunk(place.chunk).len() == 1 {
            self.kept.chunk_mut(place.chunk).carries = self.carries.clone();
        }
        if let Some(split) = split {
            self.judged = super::kept::moved(self.judged, split);
            self.carry_into(set, split);
        }
        if set.pace == Pace::OnArrival {
            self.judged = self.kept.end();
        }
    }

    /// Finds anew the totals, and what the rules of its back-fill say of the events that are judged.
    pub(super) fn renew<O: FnMut(Decision<'_>)>(&mut self, court: &mut Court<'_, O>) {
        if !std::mem::take(&mut self.filling.is_stale) {
            return;
        }
        let (set, number) = (court.set, self.filling.number);
        let filled: Vec<bool> = (0..set.rules.len()).map(|rule| court.fill.has(rule, number)).collect();
        self.slidings = vec![Sliding::new(&self.kept); set.windows.len()];
        self.carries.0.retain(|(rule, _)| !filled[usize::from(*rule)]);
        let (mut place, end) = (self.kept.normal(self.kept.start()), self.kept.normal(self.judged));
        while place < end {
            if place.at == 0 {
                self.renew_carries(place, &filled);
            }
            self.step(set, |bound| matches!(bound, Bound::Time(_)));
            for rule in (0..set.rules.len()).filter(|rule| filled[*rule]) {
                self.judge_rule(court, rule, place, true);
            }
            self.step(set, |bound| matches!(bound, Bound::Count(_)));
            place = self.kept.after(place);
        }
        self.judged = place;
    }

    /// What filled rules know before a chunk is what they carry now; of the others it stays.
    fn renew_carries(&mut self, place: Place, filled: &[bool]) {
        let is_filled = |rule: &u16| filled[usize::from(*rule)];
        let now = self.carries.0.iter().filter(|(rule, _)| is_filled(rule));
        let chunk = self.kept.chunk_mut(place.chunk);
        let others = chunk.carries.0.iter().filter(|(rule, _)| !is_filled(rule));
        let mut carries: Vec<_> = now.chain(others).cloned().collect();
        carries.sort_by_key(|(rule, _)| *rule);
        if chunk.carries.0 != carries {
            (chunk.carries, chunk.is_changed) = (Carries(carries), true);
        }
    }
}
