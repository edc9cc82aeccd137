//! The judge of one slot: events of many keys go in, alerts and withdrawals come out.

use std::sync::Arc;

use foldhash::fast::FixedState;
use granary_core::{Span, Timestamp};
use hashbrown::{HashMap, HashSet};

use super::cells::Mapping;
use super::fill::{Fill, Filling};
use super::kept::{Kept, Place};
use super::set::{Bound, Carries, Names, Set};
use super::sliding::Sliding;
use super::steps::{count, follow};
use super::verdict::{Found, Hit, Look, applies};
use super::{Fact, Kind, Pace, Piece};
use crate::agenda::{Agenda, NOT_LISTED};
use crate::heard::Heard;
use crate::ids::{Id, id_of};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is judged, or will be.
    Accepted,
    /// Its id was there before.
    Duplicate,
    /// It came after the lateness. The clock of its key is this.
    Late(Timestamp),
}

/// What a judge says.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The rule, by its place in the set.
    pub rule: usize,
    /// The key.
    pub key: &'a [u8],
    /// The event.
    pub id: &'a [u8],
    /// When it happened.
    pub time: Timestamp,
    /// What is said of it.
    pub change: Change,
}

/// What is said of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It gives an alert.
    Raised(Hit),
    /// The alert that it gave does not hold.
    Withdrawn,
    /// What the alert told of has ended.
    Resolved {
        /// The event that ended it.
        by: Piece,
        /// How long it had lasted.
        took: Span,
    },
}

/// What one key has.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The greatest event time.
    pub clock: i64,
    pub kept: Kept,
    /// The events before this place are judged.
    pub judged: Place,
    /// What rules knew then.
    pub carries: Carries,
    pub slidings: Vec<Sliding>,
    pub ids: HashSet<Id, FixedState>,
    /// It was pushed out of memory limits so often: verdicts may lack events.
    pub overflows: u64,
    /// Rules that look back on events they did not see, and until when.
    pub warming: Vec<(u16, i64)>,
    /// Chunks that are gone and still stored.
    pub dropped: Vec<u32>,
    /// The chunk that is stored with the key, not in a cell of its own.
    pub stored_last: Option<u32>,
    /// What it was last counted as in the judge's memory.
    pub bytes: usize,
    /// Where the agenda has it.
    pub listed: i64,
    /// What a back-fill has done to it.
    pub filling: Filling,
    /// It changed since it was sealed last, with this commit.
    pub is_changed: bool,
    pub sealed: u64,
}

/// A key of which some chunks are still to be supplied.
#[derive(Debug)]
pub(super) struct Loading {
    pub key: Key,
    pub first: u32,
    pub chunks: Vec<Option<super::kept::Chunk>>,
    /// The layout it was written in, and where what is now stood in it, if that is another one.
    pub layout: usize,
    pub mapping: Option<Mapping>,
}

/// The state machine of one slot for one set of rules.
#[derive(Debug)]
pub struct Judge {
    pub(super) set: Arc<Set>,
    pub(super) prefix: Box<[u8]>,
    pub(super) keys: HashMap<Box<[u8]>, Key, FixedState>,
    pub(super) loading: HashMap<Box<[u8]>, Loading, FixedState>,
    /// The layouts of stored keys, once they are known; the last one known here is at `layout`.
    pub(super) layouts: Option<Vec<Names>>,
    pub(super) layout: usize,
    pub(super) is_root_changed: bool,
    /// Keys with something due, where rules or pace ask for it.
    pub(super) agenda: Option<Agenda>,
    /// How far partitions have come, for the agenda; whether the store was asked for that.
    pub(super) heard: Heard,
    pub(super) has_heard: bool,
    pub(super) is_heard_changed: bool,
    /// Memory of all keys, about.
    pub(super) bytes: usize,
    /// Keys that changed.
    pub(super) dirty: Vec<Box<[u8]>>,
    /// The last commit that the store has.
    pub(super) acknowledged: u64,
    /// For each rule the events it could not look at.
    skipped: Vec<u64>,
    /// For each rule the hits that stand, silenced ones among them.
    pub(super) hits: Vec<i64>,
    /// Which rules are filled, and for each condition whether those alone look at it.
    pub(super) fill: Fill,
    pub(super) fresh: Vec<bool>,
}

/// What a key is judged by, and who hears of it.
pub(super) struct Court<'a, O> {
    pub set: &'a Set,
    pub fill: &'a Fill,
    pub key: &'a [u8],
    pub hits: &'a mut [i64],
    pub out: &'a mut O,
}

impl Judge {
    /// One without any state in memory. The keys of its cells begin with `prefix`.
    pub fn new(set: Arc<Set>, prefix: &[u8]) -> Judge {
        let (skipped, hits) = (vec![0; set.rules.len()], vec![0; set.rules.len()]);
        Judge {
            prefix: prefix.into(),
            keys: HashMap::default(),
            loading: HashMap::default(),
            layouts: None,
            layout: 0,
            is_root_changed: false,
            agenda: set.agenda(prefix),
            heard: Heard::new(1),
            has_heard: false,
            is_heard_changed: false,
            bytes: 0,
            dirty: Vec::new(),
            acknowledged: 0,
            skipped,
            hits,
            fill: Fill::default(),
            fresh: Vec::new(),
            set,
        }
    }

    /// What is counted of rules begins anew.
    pub(super) fn forget_counts(&mut self) {
        (self.skipped, self.hits) = (vec![0; self.set.rules.len()], vec![0; self.set.rules.len()]);
    }

    /// The prefix of its cells.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The rules.
    pub fn set(&self) -> &Arc<Set> {
        &self.set
    }

    /// For each rule the events that lacked a field it needs.
    pub fn skipped(&self) -> &[u64] {
        &self.skipped
    }

    /// For each rule the hits that stand, those silenced after an alert among them.
    pub fn hits(&self) -> &[i64] {
        &self.hits
    }

    /// An event of a key. Nothing must be missing for it; where there is no store, nothing ever is.
    pub fn event(&mut self, key: &[u8], fact: &Fact<'_>, out: &mut impl FnMut(Decision<'_>)) -> Outcome {
        let set = &*self.set;
        let state = match self.keys.get_mut(key) {
            Some(state) => state,
            None => self.keys.entry(key.into()).or_insert_with(|| Key::new(set)),
        };
        if !state.ids.insert(id_of(fact.id)) {
            return Outcome::Duplicate;
        }
        let time = fact.time.ms();
        if time < state.clock.saturating_sub(set.lateness_ms) {
            state.ids.remove(&id_of(fact.id));
            return Outcome::Late(Timestamp(state.clock));
        }
        if !fact.is_whole() {
            for (rule, skipped) in self.skipped.iter_mut().enumerate() {
                *skipped += u64::from(!applies(set, rule, fact));
            }
        }
        state.clock = state.clock.max(time);
        if !std::mem::replace(&mut state.is_changed, true) {
            self.dirty.push(key.into());
        }
        let mut court = Court { set, fill: &self.fill, key, hits: &mut self.hits, out };
        state.renew(&mut court);
        state.filling.is_open &= self.fill.is_on(); // else it is over, whatever was left out
        let place = state.insert(set, fact);
        match set.pace {
            Pace::OnArrival => {
                let mut is_first = true;
                while state.judged < state.kept.end() {
                    let at = state.kept.normal(state.judged);
                    state.judge(&mut court, at, !is_first);
                    is_first = false;
                }
            }
            Pace::OnWatermark => {
                state.judge_until(&mut court, state.clock.saturating_sub(set.lateness_ms));
            }
        }
        if place.at == 0 {
            state.forget(set);
        }
        let before = state.bytes;
        self.bytes = self.bytes - before + state.account(key, set);
        if self.agenda.is_some() {
            self.note_due(key, fact);
        }
        Outcome::Accepted
    }

    /// Does all that is due, without a store.
    pub fn catch_up(&mut self, out: &mut impl FnMut(Decision<'_>)) {
        while self.is_due() && self.go_on(&mut Vec::new(), out) {}
    }

    /// Events that were dropped because a key had more than [`KEPT_MAX`].
    pub fn overflows(&self) -> u64 {
        self.keys.values().map(|key| key.overflows).sum()
    }

    /// Memory of all keys, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

impl Key {
    pub fn new(set: &Set) -> Key {
        let kept = Kept::new(set);
        Key {
            clock: i64::MIN,
            judged: kept.start(),
            carries: Carries::default(),
            slidings: vec![Sliding::new(&kept); set.windows.len()],
            ids: HashSet::default(),
            overflows: 0,
            warming: Vec::new(),
            dropped: Vec::new(),
            stored_last: None,
            bytes: 0,
            listed: NOT_LISTED,
            filling: Filling::default(),
            is_changed: false,
            sealed: 0,
            kept,
        }
    }

    /// The number of its last chunk.
    pub fn last_chunk(&self) -> Option<u32> {
        (self.kept.chunks.len() as u32).checked_sub(1).map(|before| self.kept.first + before)
    }

    /// Puts an event where it belongs; what comes after it is to be judged, again where it was.
    fn insert(&mut self, set: &Set, fact: &Fact<'_>) -> Place {
        let place = self.kept.place_of(fact.time.ms(), fact.id);
        if place < self.judged {
            self.go_back(set, place);
        }
        let (place, split) = self.kept.insert(place, fact);
        if let Some(split) = split {
            self.judged = super::kept::moved(self.judged, split);
            self.slidings.iter_mut().for_each(|sliding| sliding.moved(split));
            self.carry_into(set, split);
        }
        place
    }

    /// Finds what rules knew before the second half of a chunk that was split; judging may begin behind that.
    pub(super) fn carry_into(&mut self, set: &Set, split: Place) {
        let carries = self.kept.chunk(split.chunk).carries.clone();
        let now = std::mem::replace(&mut self.carries, carries);
        for at in 0..split.at {
            self.replay(set, Place { chunk: split.chunk, at });
        }
        self.kept.chunk_mut(split.chunk + 1).carries = std::mem::replace(&mut self.carries, now);
    }

    /// Goes back to what was known before the event at this place was judged.
    fn go_back(&mut self, set: &Set, to: Place) {
        for (sliding, window) in self.slidings.iter_mut().zip(&set.windows) {
            sliding.go_back(window, &self.kept, to);
        }
        self.carries = self.kept.chunk(to.chunk).carries.clone();
        for at in 0..to.at {
            self.replay(set, Place { chunk: to.chunk, at });
        }
        self.judged = to;
    }

    /// What rules know after an event whose verdicts stand.
    fn replay(&mut self, set: &Set, place: Place) {
        for (i, rule) in set.rules.iter().enumerate() {
            if self.kept.is_unseen(place, i) {
                continue;
            }
            if rule.silence_ms().is_some() {
                self.remember_silence(set, i, place);
                continue;
            }
            follow(set, &self.kept, &mut self.carries, place, i, rule);
            let (is_hit, is_alert) = self.kept.verdict(place, i);
            self.remember(set, i, place, is_hit, is_alert);
        }
    }

    pub(super) fn judge_until<O: FnMut(Decision<'_>)>(&mut self, court: &mut Court<'_, O>, before_ms: i64) {
        while self.judged < self.kept.end() {
            let at = self.kept.normal(self.judged);
            if self.kept.time(at) >= before_ms {
                return;
            }
            self.judge(court, at, false);
        }
    }

    /// Judges the event at a place, which is the next one.
    fn judge<O: FnMut(Decision<'_>)>(&mut self, court: &mut Court<'_, O>, place: Place, is_repair: bool) {
        let set = court.set;
        if place.at == 0 {
            let chunk = self.kept.chunk_mut(place.chunk);
            if chunk.carries != self.carries {
                chunk.carries.clone_from(&self.carries);
                chunk.is_changed = true;
            }
        }
        self.step(set, |bound| matches!(bound, Bound::Time(_)));
        for i in 0..set.rules.len() {
            self.judge_rule(court, i, place, is_repair);
        }
        self.step(set, |bound| matches!(bound, Bound::Count(_)));
        self.judged = self.kept.after(place);
    }

    /// Judges the event at a place by one rule, of which the totals are there.
    pub(super) fn judge_rule<O: FnMut(Decision<'_>)>(
        &mut self,
        court: &mut Court<'_, O>,
        i: usize,
        place: Place,
        is_repair: bool,
    ) {
        let is_silent = self.kept.is_silent(place, i);
        if is_silent && self.kept.is_unseen(place, i) {
            return;
        }
        if court.set.rules[i].silence_ms().is_some() {
            return self.end_silence(court, i, place, is_repair);
        }
        let (hits, change) = self.judge_by(court, i, place, is_repair);
        if is_silent {
            return; // the rule was not there when the event came
        }
        court.hits[i] += hits;
        if let Some(change) = change {
            let (id, time) = (self.kept.id(place), Timestamp(self.kept.time(place)));
            (court.out)(Decision { rule: i, key: court.key, id, time, change });
        }
    }

    /// How many hits of a rule are added, and what it says of the event, if that is another thing than before.
    fn judge_by<O>(
        &mut self,
        court: &Court<'_, O>,
        i: usize,
        place: Place,
        is_repair: bool,
    ) -> (i64, Option<Change>) {
        let set = court.set;
        let rule = &set.rules[i];
        let counts = matches!(rule.kind, Kind::FirstSeen { .. });
        let events = self.carries.get(i).filter(|_| counts).map_or(0, |carry| carry.events);
        let complete = follow(set, &self.kept, &mut self.carries, place, i, rule);
        let look = Look { set, kept: &self.kept, slidings: &self.slidings, place, rule: i, events };
        let found = complete.map(Found::Sequence).or_else(|| look.find());
        if found.is_none() && !is_repair {
            // Most events, most rules: nothing was said, nothing is.
            if counts {
                count(set, &self.kept, &mut self.carries, place, i);
            }
            return (0, None);
        }
        let is_hit = found.is_some();
        let before = self.carries.get(i).filter(|carry| carry.alert_at != i64::MIN);
        let is_quiet = before.is_some_and(|carry| {
            self.kept.time(place) < carry.alert_at.saturating_add_unsigned(rule.cooldown.ms())
        });
        let is_alert = is_hit && !is_quiet;
        let (was_hit, was_alert) = self.kept.verdict(place, i);
        let suppressed = before.map_or(0, |carry| carry.suppressed);
        let change = match (was_alert, is_alert, found) {
            (false, true, Some(found)) => {
                let is_warming = self.is_warming(court.fill, i, self.kept.time(place));
                Some(Change::Raised(Hit { suppressed, is_repair, is_warming, ..look.explain(found) }))
            }
            (true, false, _) => Some(Change::Withdrawn),
            _ => None,
        };
        self.remember(set, i, place, is_hit, is_alert);
        self.kept.set_verdict(place, i, is_hit, is_alert);
        (i64::from(is_hit) - i64::from(was_hit), change)
    }

    /// Whether a rule may not have seen all that it looks back on from then.
    pub(super) fn is_warming(&self, fill: &Fill, i: usize, time_ms: i64) -> bool {
        let mut of_rule = self.warming.iter().filter(|(of, _)| usize::from(*of) == i);
        fill.is_warming(i).unwrap_or_else(|| of_rule.any(|(_, until)| time_ms < *until))
    }

    /// What a rule knows after a verdict.
    fn remember(&mut self, set: &Set, i: usize, place: Place, is_hit: bool, is_alert: bool) {
        count(set, &self.kept, &mut self.carries, place, i);
        if is_alert {
            let carry = self.carries.of(i);
            (carry.alert_at, carry.suppressed) = (self.kept.time(place), 0);
        } else if is_hit {
            self.carries.of(i).suppressed += 1;
        }
    }

    pub(super) fn step(&mut self, set: &Set, which: impl Fn(Bound) -> bool) {
        for (sliding, window) in self.slidings.iter_mut().zip(&set.windows) {
            if which(window.bound) {
                sliding.step(window, &self.kept);
            }
        }
    }

    /// Counts its memory anew.
    pub fn account(&mut self, name: &[u8], set: &Set) -> usize {
        debug_assert_eq!(self.slidings.len(), set.windows.len());
        let slidings: usize = self.slidings.iter().map(Sliding::memory_bytes).sum();
        let ids = self.ids.capacity() * (size_of::<Id>() + 1);
        self.bytes = size_of::<Key>()
            + name.len()
            + self.kept.memory_bytes()
            + slidings
            + self.carries.memory_bytes()
            + ids;
        self.bytes
    }
}
