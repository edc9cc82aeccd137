//! Totals over the rows of windows: rows on their way to another slot, what they do there, and how far slots have come.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | what a record of such a stream does to its slot, what falls due there |
//! | `message` | those records |
//! | `aside` | those that cannot be taken |
//! | `ask` | answers of `Window/...` |
//! | `tell` | rows that leave for a roll-up, and what roll-ups tell |
//!
//! Invariant: a slot reports how far it has come after the rows that it speaks of, in the same commit or a later one. So who has read
//! what all slots are told has read every row before it.

mod aside;
mod ask;
mod message;
mod tell;

use granary_cluster::{Applied, Cause, Effects, Failure, Record, StreamId};
use granary_core::{SlotId, Span, Timestamp, id::slot_of};
use granary_window::rollup::{Arrival, Outcome, Rollup};

use super::emit::Causes;
use super::prepared::{Prepared, judging, sinks_of};
use super::rows::Template;
use super::segments;
use super::slot::Slot;
use crate::plan::{ALL, From, Plan, Rows, time_of};
use aside::Aside;
pub(crate) use aside::poison;
use message::{Message, Sent};
use tell::Tell;
pub(crate) use tell::send;

/// Reports of one step of a slot have numbers from here on among its outputs: behind all others but the journal's.
const REPORTS: u32 = u32::MAX - 2_048;

/// A roll-up, prepared.
#[derive(Debug)]
pub(crate) struct Rolled {
    pub step: usize,
    pub of: RowsOf,
    /// Its own rows.
    pub told: Rows,
    pub template: Template,
    pub sinks: Vec<usize>,
    /// The roll-ups that read its rows.
    pub rolled_by: Vec<usize>,
    /// The steps of rules that judge them.
    pub judged_by: Vec<usize>,
    /// Where rows come to it.
    pub stream: StreamId,
    /// After which silence a slot without anything to come does not hold back the others.
    pub idle_after: Option<Span>,
}

/// Whose rows a roll-up reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOf {
    /// A window step's, by its place among them.
    Window(usize),
    /// A roll-up's.
    Rollup(usize),
}

impl Rolled {
    /// The roll-ups of a plan; `windows` are the places of its window steps.
    pub fn all(plan: &Plan, windows: &[usize]) -> Vec<Rolled> {
        let places: Vec<usize> = plan.rollups().map(|(place, _)| place).collect();
        let rolled = plan.rollups().zip(plan.rolled()).map(|((place, rollup), stream)| {
            let find = |places: &[usize]| places.iter().position(|of| *of == rollup.of);
            let of = find(windows).map(RowsOf::Window).or(find(&places).map(RowsOf::Rollup));
            let told = Rows::of(&plan.sources, &plan.steps, place).expect("roll-ups have rows");
            Rolled {
                step: place,
                of: of.expect("a roll-up reads the rows of a step before it"),
                template: Template::new(&plan.steps[place].name, &told, false),
                told,
                sinks: sinks_of(plan, From::Step(place)),
                rolled_by: rolling(plan, place),
                judged_by: judging(plan, place),
                stream,
                idle_after: plan.sources[plan.steps[place].source].watermark.idle_after,
            }
        });
        rolled.collect()
    }
}

/// The roll-ups, by their places among them, that read the rows of a step.
pub(crate) fn rolling(plan: &Plan, step: usize) -> Vec<usize> {
    plan.rollups().enumerate().filter(|(_, (_, rollup))| rollup.of == step).map(|(i, _)| i).collect()
}

/// For each slot a key that belongs to it: records for a slot as such have no key of their own.
pub(crate) fn homes(slots: u16) -> Vec<Box<[u8]>> {
    let mut homes = vec![None; usize::from(slots)];
    let mut left = homes.len();
    for n in 0_u64.. {
        let key: Box<[u8]> = n.to_string().into_bytes().into();
        let home = &mut homes[usize::from(slot_of(&key, slots).0)];
        if home.is_none() {
            *home = Some(key);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    homes.into_iter().flatten().collect()
}

impl Slot {
    pub fn rollups(prepared: &Prepared) -> Vec<Rollup> {
        let of = |rolled: &Rolled| {
            let step = prepared.plan.steps[rolled.step].rollup().expect("a prepared roll-up");
            Rollup::new(step.spec.clone(), prepared.slots, &step.state.prefix)
        };
        prepared.rolled.iter().map(of).collect()
    }

    /// Names the cells without which it is not known how far roll-ups have come.
    pub fn rollups_lack_roots(&mut self, effects: &mut Effects) {
        for rollup in &self.rollups {
            rollup.missing_root(&mut effects.missing);
        }
        if !self.rollups.is_empty() {
            self.operators.iter_mut().for_each(|operator| operator.missing_reach(&mut effects.missing));
        }
    }

    /// Names the cells that a record of a roll-up's stream needs; the record, when it can be read.
    fn roll_lacks_cells(
        &mut self,
        place: usize,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> granary_core::Result<Message> {
        let message = Message::read(record.value)?;
        self.rollups_lack_roots(effects);
        match &message {
            Message::Row(sent) => {
                let by = segments_of(sent);
                let arrival = arrival(record, sent, &by, None);
                self.rollups[place].missing(&arrival, &mut effects.missing);
            }
            Message::Reached { .. } => self.rollups[place].missing_gauge(&mut effects.missing),
            Message::Watermark { .. } => {}
        }
        Ok(message)
    }

    /// Names the cells that a record of a roll-up's stream will need.
    pub fn roll_foresees(&mut self, place: usize, record: &Record<'_>, effects: &mut Effects) {
        let _ = self.roll_lacks_cells(place, record, effects); // what cannot be read is said when it is applied
    }

    /// Applies a record of a roll-up's stream.
    pub fn roll(
        &mut self,
        prepared: &Prepared,
        place: usize,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let missing = effects.missing.len();
        let message = self
            .roll_lacks_cells(place, record, effects)
            .map_err(|error| Failure { message: format!("a row for a roll-up: {}", error.message()) })?;
        self.waiting.missing(prepared, &mut effects.missing);
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let mut causes = Causes::of(record);
        match message {
            Message::Row(sent) => self.roll_row(prepared, place, record, &sent, &mut causes, effects),
            Message::Reached { slot, watermark_ms, is_idle } => {
                let report =
                    granary_window::rollup::Report { slot, watermark: Timestamp(watermark_ms), is_idle };
                if let Some(watermark) = self.rollups[place].report(&report) {
                    tell::broadcast(prepared, place, watermark, &mut causes, effects);
                }
            }
            Message::Watermark { watermark_ms } => self.rollups[place].advance(Timestamp(watermark_ms)),
        }
        self.report(prepared, Causes::of(record).0, &[], effects);
        Ok(self.applied())
    }

    fn roll_row(
        &mut self,
        prepared: &Prepared,
        place: usize,
        record: &Record<'_>,
        sent: &Sent,
        causes: &mut Causes,
        effects: &mut Effects,
    ) {
        let rolled = &prepared.rolled[place];
        let step = prepared.plan.steps[rolled.step].rollup().expect("a prepared roll-up");
        let values = sent.values_for(step);
        let by = segments_of(sent);
        let arrival = arrival(record, sent, &by, values.as_deref());
        let rollup = &mut self.rollups[place];
        let (tally, waiting) = (&mut self.tally, &mut self.waiting);
        let mut tell = Tell { prepared, rolled, tally, causes, effects, waiting };
        let reason = match rollup.row(&arrival, &mut tell) {
            Outcome::Accepted => return,
            Outcome::Late => "late",
            Outcome::Overflow => "overflow",
        };
        let watermark = rollup.watermark();
        let (step, key) = (&*prepared.plan.steps[rolled.step].name, arrival.key);
        let (time, id) = (Timestamp(sent.end_ms.saturating_sub(1)), sent.id.as_bytes());
        let aside = Aside { step, reason, key, time, watermark: Some(watermark), id };
        aside.put(prepared, &aside::row(sent), causes.next(), effects);
    }

    /// The slot has stood so much longer: the roll-ups that it does not hold back from now on.
    pub fn rollups_stand(&mut self, prepared: &Prepared, stood: Span) -> Vec<u16> {
        let mut idle = Vec::new();
        for (place, rolled) in (0..).zip(&prepared.rolled) {
            let (RowsOf::Window(of), Some(idle_after)) = (rolled.of, rolled.idle_after) else { continue };
            let is_quiet = self.operators[of].reach().is_some_and(|reach| reach.is_quiet);
            let rollup = &mut self.rollups[usize::from(place)];
            if rollup.stand(stood, is_quiet) >= idle_after && !rollup.is_idle() && is_quiet {
                idle.push(place);
            }
        }
        idle
    }

    /// Says how far the slot has come where that has changed; `idle` are the roll-ups that it does not hold back from now on.
    pub fn report(&mut self, prepared: &Prepared, cause: Cause, idle: &[u16], effects: &mut Effects) {
        for (place, rolled) in (0_u16..).zip(&prepared.rolled) {
            let reach = match rolled.of {
                RowsOf::Window(of) => self.operators[of].reach(),
                RowsOf::Rollup(of) => self.rollups[of].reach(),
            };
            let Some(mut reach) = reach else { continue };
            reach.watermark = step_of(prepared, rolled).grid.floor(reach.watermark);
            let is_idle = idle.contains(&place);
            let Some(report) = self.rollups[usize::from(place)].reached(self.id.0, reach, is_idle) else {
                continue;
            };
            let name = &prepared.plan.steps[rolled.step].name;
            effects.outbox.push(
                rolled.stream,
                Cause { index: REPORTS + u32::from(place), ..cause },
                time_of(report.watermark),
                name.as_bytes(),
                |out| {
                    let Cause { source, partition, offset, .. } = cause;
                    let of = format!("reached/{name}/{}/{}/{partition}/{offset}", report.slot, source.0);
                    out.extend_from_slice(of.as_bytes());
                },
                |out| Message::of(&report).write(out),
            );
        }
    }

    /// A portion of what is due for the first roll-up that has something due; false when cells are missing for it.
    pub fn roll_due(&mut self, prepared: &Prepared, causes: &mut Causes, effects: &mut Effects) -> bool {
        let Some(place) = self.rollups.iter().position(Rollup::is_due) else { return true };
        let missing = effects.missing.len();
        self.rollups[place].missing_due(&mut effects.missing);
        if effects.missing.len() > missing {
            return false;
        }
        let rolled = &prepared.rolled[place];
        let (tally, waiting) = (&mut self.tally, &mut self.waiting);
        let mut tell = Tell { prepared, rolled, tally, causes, effects, waiting };
        self.rollups[place].go_on(&mut tell);
        true
    }

    /// The input has ended, and so has what comes to the roll-ups of the levels below `level`.
    pub fn end_rollups(&mut self, prepared: &Prepared, level: u16) {
        for (rolled, rollup) in prepared.rolled.iter().zip(&mut self.rollups) {
            if step_of(prepared, rolled).level <= level {
                rollup.advance(Timestamp::MAX);
            }
        }
    }
}

fn step_of<'p>(prepared: &'p Prepared, rolled: &Rolled) -> &'p crate::plan::RollupStep {
    prepared.plan.steps[rolled.step].rollup().expect("a prepared roll-up")
}

/// The slot of a record of a roll-up's stream.
pub(crate) fn slot(record: &Record<'_>, slots: u16) -> SlotId {
    match record.key {
        Some(key) => slot_of(key, slots),
        None => SlotId((record.partition % u32::from(slots)) as u16),
    }
}

fn segments_of(sent: &Sent) -> Vec<u8> {
    let mut by = Vec::new();
    sent.by.iter().for_each(|plain| segments::push(&mut by, &plain.value()));
    by
}

fn arrival<'a>(
    record: &Record<'a>,
    sent: &'a Sent,
    by: &'a [u8],
    values: Option<&'a [granary_window::Value<'a>]>,
) -> Arrival<'a> {
    let (start, end) = sent.bounds();
    let key = record.key.unwrap_or(ALL.as_bytes());
    Arrival { key, by, start, end, id: sent.id.as_bytes(), values }
}
