//! What falls due for a key though no event of it comes: events that wait for the watermark, and silence itself.
//!
//! A silence belongs to the event before it. Two things show it: the next event of the key, when it comes, and the clock of the
//! slot, when it has passed. Both set the verdict of the same event, so it does not matter which is first: an alert is raised
//! once, is withdrawn when an event shows up that came in time, and is resolved by the event that ended the silence.

use granary_core::{Span, Timestamp};

use super::judge::{Court, Judge, Key};
use super::kept::Place;
use super::set::{Set, length_ms};
use super::verdict::piece;
use super::{Change, Decision, Fact, Hit, Kind, Measured, Pace, Rule, Truth};
use crate::agenda::{Agenda, NOT_LISTED};

/// What is due is found so much later at most: the thousandth part of a silence, but within these.
const RESOLUTION_MIN: Span = Span(100);
const RESOLUTION_MAX: Span = Span(60_000);

impl Rule {
    /// How long a silence must last for an alert that a timer raises.
    pub(super) fn silence_ms(&self) -> Option<i64> {
        match self.kind {
            Kind::Silence { gap, is_timed: true } => Some(length_ms(gap)),
            _ => None,
        }
    }
}

impl Set {
    /// Whether a key may have something due without an event of its own, and how exactly that is found.
    fn resolution(&self) -> Option<Span> {
        let silences = self.rules.iter().filter_map(Rule::silence_ms).map(|gap| gap / 1_000);
        let waits = (self.pace == Pace::OnWatermark).then_some(self.lateness_ms / 50);
        let least = silences.chain(waits).min()?;
        Some(Span(least.unsigned_abs()).clamp(RESOLUTION_MIN, RESOLUTION_MAX))
    }

    /// An agenda, for a set that needs one.
    pub(super) fn agenda(&self, prefix: &[u8]) -> Option<Agenda> {
        Some(Agenda::new(&[prefix, b"A"].concat(), self.resolution()?))
    }
}

impl Judge {
    /// An event of the key was taken in: it moves the agenda's clock, and makes the key due sometime.
    pub(super) fn note_due(&mut self, name: &[u8], fact: &Fact<'_>) {
        let Judge { set, agenda, keys, heard, is_heard_changed, .. } = self;
        let (Some(agenda), Some(key)) = (agenda.as_mut(), keys.get_mut(name)) else { return };
        *is_heard_changed |= heard.see(0, fact.partition, fact.time.ms());
        agenda.see(heard.level());
        // As of the event alone: what other rules wait for is later, or listed already.
        let silences = set.rules.iter().filter_map(|rule| {
            let is_concerned = rule.when.is_none_or(|when| fact.truths[usize::from(when.0)] == Truth::Yes);
            rule.silence_ms().filter(|_| is_concerned)
        });
        let of_silence = silences.map(|gap| due_after(fact.time.ms(), gap, set)).min();
        if let Some(due) = key.waits_until(set).into_iter().chain(of_silence).min() {
            agenda.list(name, &mut key.listed, Timestamp(due));
        }
    }

    /// The slot has stood so much longer without an event. Returns how late that makes it, when something is due by then.
    pub fn pass(&mut self, stood: Span) -> Option<Timestamp> {
        self.agenda.as_mut()?.pass(self.heard.newest()?, stood)
    }

    /// It is this late at least, whatever events say: what that makes due follows with [`Judge::go_on`].
    pub fn set_clock(&mut self, to: Timestamp) {
        if let Some(agenda) = &mut self.agenda {
            agenda.set_clock(to);
        }
    }

    /// How late it is, for rules that ask for it.
    pub fn clock(&self) -> Option<Timestamp> {
        let agenda = self.agenda.as_ref()?;
        let newest = self.heard.newest().unwrap_or(Timestamp::MIN);
        Some(if agenda.clock() == Timestamp::MAX { newest } else { agenda.clock() })
    }

    /// No event comes any more. What waits for the watermark is due; a silence that has not lasted long enough is none.
    pub fn end_input(&mut self) {
        if self.set.pace == Pace::OnWatermark {
            self.set_clock(Timestamp::MAX);
        }
    }

    /// Whether something is due. Needs [`Judge::missing_root`] to have nothing missing, where there is a store.
    pub fn is_due(&self) -> bool {
        self.agenda.as_ref().is_some_and(Agenda::is_due)
    }

    /// The keys of the next portion of what is due; none when cells are missing for that, which are named.
    pub fn due_keys(&mut self, missing: &mut Vec<Vec<u8>>) -> Option<Vec<Box<[u8]>>> {
        self.agenda.as_mut()?.page(missing).map(<[_]>::to_vec)
    }

    /// Does a portion of what is due; `false` when cells are missing for it, which are named.
    pub fn go_on(&mut self, missing: &mut Vec<Vec<u8>>, out: &mut impl FnMut(Decision<'_>)) -> bool {
        if !self.is_due() {
            return true;
        }
        let before = missing.len();
        let Some(keys) = self.due_keys(missing) else { return false };
        if self.layouts.is_some() {
            keys.iter().for_each(|key| self.missing(key, missing));
        }
        if missing.len() > before {
            return false;
        }
        let Some(due) = self.agenda.as_mut().and_then(Agenda::take) else { return true };
        for name in due.keys {
            self.look_at(&name, due.date, out);
        }
        true
    }

    /// Looks at a key that was listed under this date.
    fn look_at(&mut self, name: &[u8], date: i64, out: &mut impl FnMut(Decision<'_>)) {
        let Some(clock) = self.clock() else { return };
        let Judge { set, fill, agenda, keys, hits, dirty, .. } = self;
        let (Some(agenda), Some(key)) = (agenda.as_mut(), keys.get_mut(name)) else { return };
        if key.listed != date {
            return;
        }
        key.listed = NOT_LISTED;
        if !std::mem::replace(&mut key.is_changed, true) {
            dirty.push(name.into());
        }
        let is_over = agenda.clock() == Timestamp::MAX;
        let mut court = Court { set, fill, key: name, hits, out };
        key.renew(&mut court);
        if set.pace == Pace::OnWatermark {
            key.advance(&mut court, agenda.clock().ms().saturating_sub(set.lateness_ms));
        }
        key.fall_silent(&mut court, clock.ms());
        if let Some(due) = key.waits_until(set).or_else(|| key.is_silent_at(set)).filter(|_| !is_over) {
            agenda.list(name, &mut key.listed, Timestamp(due));
        }
    }
}

/// When a silence of this length after an event is certain: nothing can come any more that ends it in time.
fn due_after(event_ms: i64, gap_ms: i64, set: &Set) -> i64 {
    event_ms.saturating_add(gap_ms).saturating_add(set.lateness_ms).saturating_add(1)
}

impl Key {
    /// Nothing is waited for that comes before this time.
    fn advance<O: FnMut(Decision<'_>)>(&mut self, court: &mut Court<'_, O>, to_ms: i64) {
        // No further than its own events: what others of the slot or the wall clock show makes none of those late that come after.
        let Some(last) = self.kept.last_before(self.kept.end(), None) else { return };
        let to_ms = to_ms.min(self.kept.time(last).saturating_add(1));
        self.clock = self.clock.max(to_ms.saturating_add(court.set.lateness_ms));
        self.judge_until(court, to_ms);
    }

    /// When its first event that waits to be judged will be.
    fn waits_until(&self, set: &Set) -> Option<i64> {
        let waits = set.pace == Pace::OnWatermark && self.judged < self.kept.end();
        let first = waits.then(|| self.kept.time(self.kept.normal(self.judged)))?;
        Some(first.saturating_add(set.lateness_ms).saturating_add(1))
    }

    /// When the next silence after its last events is certain, of those that nothing was said of.
    fn is_silent_at(&self, set: &Set) -> Option<i64> {
        let of_rule = |(i, rule): (usize, &Rule)| {
            let gap_ms = rule.silence_ms()?;
            let last = self.kept.last_before(self.kept.end(), rule.when)?;
            (self.kept.verdict(last, i) == (false, false))
                .then(|| due_after(self.kept.time(last), gap_ms, set))
        };
        set.rules.iter().enumerate().filter_map(of_rule).min()
    }

    /// It is this late: silences that have lasted long enough are told.
    fn fall_silent<O: FnMut(Decision<'_>)>(&mut self, court: &mut Court<'_, O>, clock_ms: i64) {
        if self.judged < self.kept.end() {
            return; // what was not judged yet comes first
        }
        for (i, rule) in court.set.rules.iter().enumerate() {
            let Some(gap_ms) = rule.silence_ms() else { continue };
            let Some(last) = self.kept.last_before(self.kept.end(), rule.when) else { continue };
            if due_after(self.kept.time(last), gap_ms, court.set) <= clock_ms
                && self.kept.verdict(last, i) == (false, false)
            {
                self.say_silence(court, i, last, true, false);
            }
        }
    }

    /// An event shows how long it was silent before. `is_repair`: that may have been said already.
    pub(super) fn end_silence<O: FnMut(Decision<'_>)>(
        &mut self,
        court: &mut Court<'_, O>,
        i: usize,
        place: Place,
        is_repair: bool,
    ) {
        let rule = &court.set.rules[i];
        let Some((before, gap_ms)) = self.silence(i, rule, place) else { return };
        let took = self.kept.time(place) - self.kept.time(before);
        self.say_silence(court, i, before, took > gap_ms, is_repair);
        self.remember_silence(court.set, i, place);
        let (_, is_alert) = self.kept.verdict(before, i);
        if is_alert && self.kept.after(place) == self.kept.end() {
            let by = piece(court.set, &self.kept, place, None);
            let change = Change::Resolved { by, took: Span(took.unsigned_abs()) };
            self.tell(court, i, before, change);
        }
    }

    /// What is carried after an event whose verdicts stand.
    pub(super) fn remember_silence(&mut self, set: &Set, i: usize, place: Place) {
        let Some((before, gap_ms)) = self.silence(i, &set.rules[i], place) else { return };
        let (is_hit, is_alert) = self.kept.verdict(before, i);
        if is_alert {
            let carry = self.carries.of(i);
            (carry.alert_at, carry.suppressed) = (self.kept.time(before).saturating_add(gap_ms), 0);
        } else if is_hit {
            self.carries.of(i).suppressed += 1;
        }
    }

    /// The event of the rule before this one, and what a silence is; `None` when this one is not of the rule.
    fn silence(&self, i: usize, rule: &Rule, place: Place) -> Option<(Place, i64)> {
        let gap_ms = rule.silence_ms()?;
        if rule.when.is_some_and(|when| !self.kept.holds(place, when)) {
            return None;
        }
        let before = self.kept.last_before(place, rule.when)?;
        (!self.kept.is_unseen(before, i)).then_some((before, gap_ms))
    }

    /// Says what is new about the silence after an event.
    fn say_silence<O: FnMut(Decision<'_>)>(
        &mut self,
        court: &mut Court<'_, O>,
        i: usize,
        last: Place,
        is_hit: bool,
        is_repair: bool,
    ) {
        let set = court.set;
        let (was_hit, was_alert) = self.kept.verdict(last, i);
        let begin = self.kept.time(last);
        let alert_at = begin.saturating_add(set.rules[i].silence_ms().unwrap_or(0));
        let before = self.carries.get(i).filter(|carry| carry.alert_at != i64::MIN);
        let is_quiet = before.is_some_and(|carry| {
            alert_at < carry.alert_at.saturating_add_unsigned(set.rules[i].cooldown.ms())
        });
        let suppressed = before.map_or(0, |carry| carry.suppressed);
        let is_alert = is_hit && !is_quiet;
        if !self.kept.is_silent(last, i) {
            court.hits[i] += i64::from(is_hit) - i64::from(was_hit);
        }
        self.kept.set_verdict(last, i, is_hit, is_alert);
        match (was_alert, is_alert) {
            (false, true) => {
                let is_warming = self.is_warming(court.fill, i, begin);
                let hit = Hit {
                    measured: Measured::Silent(Span(alert_at.abs_diff(begin))),
                    from: Some(Timestamp(begin)),
                    events: 1,
                    evidence: vec![piece(set, &self.kept, last, None)],
                    suppressed,
                    is_repair,
                    is_warming,
                };
                self.tell(court, i, last, Change::Raised(hit));
            }
            (true, false) => self.tell(court, i, last, Change::Withdrawn),
            _ => {}
        }
    }

    /// Tells something of the silence after an event.
    fn tell<O: FnMut(Decision<'_>)>(&self, court: &mut Court<'_, O>, i: usize, last: Place, change: Change) {
        if self.kept.is_silent(last, i) {
            return; // the rule was not there when the event came
        }
        let gap_ms = court.set.rules[i].silence_ms().unwrap_or(0);
        let time = match &change {
            Change::Resolved { by, .. } => by.time,
            Change::Raised(_) | Change::Withdrawn => Timestamp(self.kept.time(last).saturating_add(gap_ms)),
        };
        (court.out)(Decision { rule: i, key: court.key, id: self.kept.id(last), time, change });
    }
}
