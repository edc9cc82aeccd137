//! What the rules of a plan say of a record.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_cluster::{Effects, Record};
use granary_core::{Span, Timestamp};
use granary_window::rule::{Change, Judge, Outcome};

use super::again::Backfills;
use super::counts::{Tally, Verdict};
use super::emit::Causes;
use super::prepared::Prepared;
use super::route::Routed;
use super::rows;
use super::slot::{Buffers, Judged, Slot, better, set_aside};
use crate::plan::{RulesStep, Step};
use crate::rules::alert::{self, Setting};
use crate::rules::cases::Cases;
use crate::rules::judges::key_values;
use crate::rules::{Event, Judges, Mode, Said};

/// A record as a step of rules sees it.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub event: Event,
    /// Whether it could be filled in.
    pub is_fit: bool,
}

/// A slot's judges of a step of rules, and the revision they judge by.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The name of its step.
    pub name: Box<str>,
    pub step: Arc<RulesStep>,
    pub judges: Judges,
    /// The store was asked which revision the slot judged by last.
    is_known: bool,
    /// It is another one than is stored.
    pub is_changed: bool,
    pub backfills: Backfills,
}

impl Seat {
    fn new(name: &str, step: &Arc<RulesStep>) -> Seat {
        let judges = Judges::of(step.rules.clone(), &step.groups, &step.prefix);
        Seat {
            name: name.into(),
            step: step.clone(),
            judges,
            is_known: false,
            is_changed: false,
            backfills: Backfills::default(),
        }
    }

    fn revise(&mut self, step: Arc<RulesStep>) {
        self.judges.revise(step.rules.clone(), &step.groups, &step.prefix);
        self.step = step;
        self.tell_fill();
    }

    /// Whether it is known which revision the slot judged by last.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Hands over what the store knows of the revision.
    fn supply(&mut self, value: Option<&[u8]>) -> Result<(), String> {
        if let Some(value) = value {
            let (step, backfills) = self.step.of_cell(value)?;
            self.backfills = backfills;
            if step.revision > self.step.revision {
                self.revise(step);
            }
            self.tell_fill();
        }
        self.is_known = true;
        Ok(())
    }

    /// Names the cells that it lacks for an event.
    pub fn missing(&mut self, event: &Event, cells: &mut Vec<Vec<u8>>) {
        if self.is_known {
            self.judges.missing(event, cells);
        } else {
            cells.push(self.step.revision_cell());
        }
    }

    /// The cell that says which revision it is, when that changed.
    pub fn seal(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.is_changed).then(|| {
            let value = self.step.to_cell(self.backfills.clone()).expect("texts and numbers can be encoded");
            (self.step.revision_cell(), value)
        })
    }
}

impl Slot {
    /// The judges of a plan's rules.
    pub fn seats(prepared: &Prepared) -> Vec<Seat> {
        let rules = |step: &usize| {
            let step = &prepared.plan.steps[*step];
            Seat::new(&step.name, step.rules().expect("prepared steps of rules have rules"))
        };
        prepared.rules.iter().map(rules).collect()
    }

    /// Judges by the newest rules from the next record on.
    pub fn take_over_rules(&mut self) {
        for seat in self.seats.iter_mut().filter(|seat| seat.is_known) {
            if let Some(step) = seat.step.newest.after(seat.step.revision) {
                seat.backfills.revise(&seat.name, &seat.step, &step);
                seat.revise(step);
                seat.is_changed = true;
            }
        }
    }

    /// Fills the record in for every step of rules that it reaches, and names the cells that judges lack for it.
    pub fn judges_lack_cells(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        effects: &mut Effects,
    ) {
        buffers.events.resize_with(self.seats.len(), Filled::default);
        for (i, seat) in self.seats.iter_mut().enumerate() {
            if reached(prepared, prepared.rules[i], routed, record).is_none() {
                continue;
            }
            let Filled { event, is_fit } = &mut buffers.events[i];
            *is_fit = seat.step.fill(routed.fields, record.value, routed.time(), event).is_ok();
            event.partition = prepared.partition_of(record);
            if *is_fit || !seat.is_known {
                seat.missing(event, &mut effects.missing);
            }
        }
    }

    /// Has the record that was filled in judged by all rules that it reaches; what became of it, if it reaches any.
    pub fn judge_by_rules(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &Buffers,
        causes: &mut Causes,
        effects: &mut Effects,
    ) -> Option<Judged> {
        let mut best: Option<Judged> = None;
        for i in 0..self.seats.len() {
            let Some(step) = reached(prepared, prepared.rules[i], routed, record) else { continue };
            let filled = &buffers.events[i];
            let (judged, watermark) =
                self.judge_by_step(i, prepared, routed, record, filled, causes, effects);
            if judged.0 == Verdict::Late {
                let (key, time, step) = (routed.key(record.value), routed.time(), Some(&*step.name));
                let late = rows::Late { reason: judged.1, key, time, watermark, step };
                set_aside(prepared, routed, record, &late, causes, effects);
            }
            best = better(best, Some(judged));
        }
        best
    }

    #[allow(clippy::too_many_arguments)]
    fn judge_by_step(
        &mut self,
        i: usize,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        filled: &Filled,
        causes: &mut Causes,
        effects: &mut Effects,
    ) -> (Judged, Option<Timestamp>) {
        if prepared.is_future(record, routed.time()) {
            return ((Verdict::Late, "future"), None);
        }
        if !filled.is_fit {
            return ((Verdict::Late, "unassigned"), None);
        }
        let (tally, Seat { step: rules, judges, .. }) = (&mut self.tally, &mut self.seats[i]);
        // What a replay sees again: the log's clock, the record's place.
        let (recorded_at, sequence) = (record.appended_at, record.offset);
        let mut writer = Writer { prepared, rules, tally, causes, effects, recorded_at, sequence };
        match judges.event(&filled.event, &mut |said| writer.write(&said)) {
            Outcome::Accepted => ((Verdict::Accepted, ""), None),
            Outcome::Duplicate => ((Verdict::Duplicate, ""), None),
            Outcome::Late(clock) => ((Verdict::Late, "late"), Some(clock)),
        }
    }

    /// Hands over a cell of a step of rules; `None` when it is of none.
    pub fn supply_judges(&mut self, cell: &[u8], value: Option<&[u8]>) -> Option<Result<(), String>> {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.step.is_revision_cell(cell)) {
            return Some(seat.supply(value));
        }
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.judges.cases.is_cell(cell)) {
            return Some(seat.judges.cases.supply(cell, value));
        }
        let of_cell = self.each_judge().find(|judge| cell.starts_with(judge.prefix()));
        of_cell.map(|judge| judge.supply(cell, value).map_err(|corrupt| corrupt.to_string()))
    }

    /// Names the cells without which it is not known what is due for rules.
    pub fn judges_lack_roots(&mut self, effects: &mut Effects) {
        for seat in &mut self.seats {
            if seat.is_known {
                seat.judges.each().for_each(|judge| judge.missing_root(&mut effects.missing));
            } else {
                effects.missing.push(seat.step.revision_cell());
            }
        }
    }

    /// The slot has stood so much longer: how late that makes it for judges that have something due then, each by its step's and
    /// its own place.
    pub fn judges_stand(&mut self, stood: Span) -> Vec<(u16, u16, i64)> {
        let mut clocks = Vec::new();
        for (step, seat) in (0..).zip(&mut self.seats) {
            for (place, judge) in (0..).zip(seat.judges.each()) {
                clocks.extend(judge.pass(stood).map(|to| (step, place, to.ms())));
            }
        }
        clocks
    }

    /// It is so late for these judges.
    pub fn set_clocks(&mut self, clocks: &[(u16, u16, i64)]) {
        for (step, place, ms) in clocks {
            let judge = self.seats.get_mut(usize::from(*step));
            let judge = judge.and_then(|seat| seat.judges.each().nth(usize::from(*place)));
            if let Some(judge) = judge {
                judge.set_clock(Timestamp(*ms));
            }
        }
    }

    /// Whether rules have something due.
    pub fn has_due(&self) -> bool {
        self.seats.iter().any(|seat| seat.judges.due_at().is_some())
    }

    /// A portion of what is due for rules; false when cells are missing for it.
    pub fn judge_due(&mut self, prepared: &Prepared, causes: &mut Causes, effects: &mut Effects) -> bool {
        let tally = &mut self.tally;
        for Seat { step: rules, judges, .. } in &mut self.seats {
            let Some(recorded_at) = judges.due_at() else { continue };
            let (sequence, mut missing) = (causes.0.offset, Vec::new());
            let mut writer = Writer { prepared, rules, tally, causes, effects, recorded_at, sequence };
            let is_done = judges.go_on(&mut missing, &mut |said| writer.write(&said));
            effects.missing.append(&mut missing);
            return is_done;
        }
        true
    }

    /// The judges of all steps.
    pub fn each_judge(&mut self) -> impl Iterator<Item = &mut Judge> {
        self.seats.iter_mut().flat_map(|seat| seat.judges.each())
    }

    /// The cases of all steps.
    pub fn each_cases(&mut self) -> impl Iterator<Item = &mut Cases> {
        self.seats.iter_mut().map(|seat| &mut seat.judges.cases)
    }

    /// How many cells judges would seal now, about.
    pub fn open_judges(&self) -> usize {
        self.seats.iter().map(|seat| seat.judges.open_cells() + usize::from(seat.is_changed)).sum()
    }

    /// Operators, judges, cases, patterns, joins and roll-ups.
    pub fn parts(&mut self) -> usize {
        let others = self.seats.len() + self.followers.len() + self.rollups.len();
        self.operators.len() + self.each_judge().count() + others
    }
}

/// Writes what a step's rules say.
pub(super) struct Writer<'a> {
    pub prepared: &'a Prepared,
    pub rules: &'a RulesStep,
    pub tally: &'a mut Tally,
    pub causes: &'a mut Causes,
    pub effects: &'a mut Effects,
    pub recorded_at: Timestamp,
    pub sequence: u64,
}

impl Writer<'_> {
    pub fn write(&mut self, said: &Said<'_>) {
        let info = &self.rules.rules.infos()[said.rule];
        let is_told = info.mode == Mode::Live && said.muted.is_none();
        let stream = usize::from(!is_told);
        let Some(id) = self.prepared.alerts[stream] else { return };
        let (recorded_at, sequence, revision) = (self.recorded_at, self.sequence, self.rules.revision);
        let setting = Setting { recorded_at, sequence, revision };
        let count = match said.decision.change {
            Change::Raised(_) => 1,
            Change::Withdrawn => -1,
            Change::Resolved { .. } => 0,
        };
        let counter = match (is_told, &said.muted) {
            (true, _) => Some(&self.rules.raised),
            (false, Some(_)) => Some(&self.rules.muted),
            (false, None) => None,
        };
        if let Some(counter) = counter.filter(|_| count == 1) {
            counter[said.rule].fetch_add(1, Ordering::Relaxed);
        }
        self.tally.result(self.prepared.plan.sinks.len() + stream, count);
        let key = key_values(said.decision.key).first().copied().unwrap_or_default();
        for event in alert::cloud_events(&self.rules.rules, said, setting) {
            self.effects.outbox.push(
                id,
                self.causes.next(),
                said.decision.time,
                key,
                |out| out.extend_from_slice(event["id"].as_str().unwrap_or_default().as_bytes()),
                |out| out.extend_from_slice(event.to_string().as_bytes()),
            );
        }
    }
}

/// The step of rules, if the record gets there.
fn reached<'p>(
    prepared: &'p Prepared,
    place: usize,
    routed: Routed<'_>,
    record: &Record<'_>,
) -> Option<&'p Step> {
    let step = &prepared.plan.steps[place];
    let reads_rows = step.rules().is_some_and(|rules| rules.reads_rows());
    let is_reached =
        !reads_rows && step.source == prepared.plan.source_of(record.source) && routed.passes[place];
    is_reached.then_some(step)
}
