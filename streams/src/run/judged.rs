//! What the rules of a plan say of a record.

use granary_cluster::{Effects, Record};
use granary_core::Timestamp;
use granary_window::Corrupt;
use granary_window::rule::{Change, Judge, Outcome};

use super::counts::Verdict;
use super::emit::Causes;
use super::prepared::Prepared;
use super::route::Routed;
use super::rows;
use super::slot::{Buffers, Judged, Slot, better, set_aside};
use crate::plan::{RulesStep, Step};
use crate::rules::alert::{self, Setting};
use crate::rules::{Event, Judges, Mode, Said};

/// A record as a step of rules sees it.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    event: Event,
    /// Whether it could be filled in.
    is_fit: bool,
}

impl Slot {
    /// The judges of a plan's rules.
    pub fn judges(prepared: &Prepared) -> Vec<Judges> {
        let rules = |step: &usize| {
            let step = prepared.plan.steps[*step].rules().expect("prepared steps of rules have rules");
            Judges::of(step.rules.clone(), &step.groups, &step.prefix)
        };
        prepared.rules.iter().map(rules).collect()
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
        buffers.events.resize_with(self.judges.len(), Filled::default);
        for (i, judges) in self.judges.iter_mut().enumerate() {
            if let Some((_, rules)) = reached(prepared, prepared.rules[i], routed, record) {
                let Filled { event, is_fit } = &mut buffers.events[i];
                *is_fit = rules.fill(routed.fields, record.value, routed.time(), event).is_ok();
                if *is_fit {
                    judges.missing(event, &mut effects.missing);
                }
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
        for i in 0..self.judges.len() {
            let Some((step, rules)) = reached(prepared, prepared.rules[i], routed, record) else { continue };
            let filled = &buffers.events[i];
            let (judged, watermark) =
                self.judge_by_step(i, prepared, rules, routed, record, filled, causes, effects);
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
        rules: &RulesStep,
        routed: Routed<'_>,
        record: &Record<'_>,
        filled: &Filled,
        causes: &mut Causes,
        effects: &mut Effects,
    ) -> (Judged, Option<Timestamp>) {
        let guard = prepared.source(record).watermark.future_guard;
        if guard.is_some_and(|guard| routed.time() > record.appended_at + guard) {
            return ((Verdict::Late, "future"), None);
        }
        if !filled.is_fit {
            return ((Verdict::Late, "unassigned"), None);
        }
        let tally = &mut self.tally;
        let mut heard = |said: Said<'_>| {
            let info = &rules.rules.infos()[said.rule];
            let stream = usize::from(info.mode != Mode::Live);
            let Some(id) = prepared.alerts[stream] else { return };
            // What a replay sees again: the log's clock, the record's place.
            let setting = Setting { recorded_at: record.appended_at, sequence: record.offset, revision: 0 };
            let alert = alert::cloud_event(&rules.rules, &said, setting);
            let is_raised = matches!(said.decision.change, Change::Raised(_));
            tally.result(prepared.plan.sinks.len() + stream, if is_raised { 1 } else { -1 });
            effects.outbox.push(
                id,
                causes.next(),
                said.decision.time,
                routed.key(record.value),
                |out| out.extend_from_slice(alert["id"].as_str().unwrap_or_default().as_bytes()),
                |out| out.extend_from_slice(alert.to_string().as_bytes()),
            );
        };
        match self.judges[i].event(&filled.event, &mut heard) {
            Outcome::Accepted => ((Verdict::Accepted, ""), None),
            Outcome::Duplicate => ((Verdict::Duplicate, ""), None),
            Outcome::Late(clock) => ((Verdict::Late, "late"), Some(clock)),
        }
    }

    /// Hands over a cell of a judge; `None` when it is of none.
    pub fn supply_judges(&mut self, cell: &[u8], value: Option<&[u8]>) -> Option<Result<(), Corrupt>> {
        let of_cell = self.each_judge().find(|judge| cell.starts_with(judge.prefix()));
        of_cell.map(|judge| judge.supply(cell, value))
    }

    /// The judges of all steps.
    pub fn each_judge(&mut self) -> impl Iterator<Item = &mut Judge> {
        self.judges.iter_mut().flat_map(Judges::each)
    }

    /// How many cells judges would seal now, about.
    pub fn open_judges(&self) -> usize {
        self.judges.iter().map(Judges::open_cells).sum()
    }

    /// Operators and judges.
    pub fn parts(&mut self) -> usize {
        self.operators.len() + self.each_judge().count()
    }
}

/// The step of rules, if the record gets there.
fn reached<'p>(
    prepared: &'p Prepared,
    place: usize,
    routed: Routed<'_>,
    record: &Record<'_>,
) -> Option<(&'p Step, &'p RulesStep)> {
    let step = &prepared.plan.steps[place];
    let is_reached = step.source == prepared.plan.source_of(record.source) && routed.passes[place];
    is_reached.then_some(())?;
    Some((step, step.rules()?))
}
