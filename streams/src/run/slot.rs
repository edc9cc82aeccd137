//! What one slot holds in memory, and what its records do to it.

use std::sync::Arc;

use arrayvec::ArrayVec;
use granary_cluster::{Applied, Effects, Failure, Record, StreamId};
use granary_core::{SlotId, Timestamp};
use granary_window::rollup::Rollup;
use granary_window::{Event, Input, Operator, Outcome, Value};

use super::clock::waits_for_the_wall_clock;
use super::counts::{Tally, Verdict};
use super::emit::{Causes, Emit, grain};
use super::follow::Follower;
use super::judged::{Filled, Seat};
use super::judged_rows::WaitingRows;
use super::prepared::{Prepared, Window};
use super::rolled::RowsOf;
use super::route::Routed;
use super::{pack, rows, segments};
use crate::decode::Fields;
use crate::plan::{From, Target};

/// Values that one window step's aggregates read at most.
pub(crate) const INPUTS_MAX: usize = 64;

/// What became of a record, and why.
pub(crate) type Judged = (Verdict, &'static str);

/// One slot's memory.
#[derive(Debug)]
pub(crate) struct Slot {
    pub id: SlotId,
    /// One operator for each window step, in their order.
    pub operators: Vec<Operator>,
    /// The judges of each step of rules, in their order.
    pub seats: Vec<Seat>,
    pub waiting: WaitingRows,
    /// The patterns and joins, in their order.
    pub followers: Vec<Follower>,
    /// The roll-ups, in their order.
    pub rollups: Vec<Rollup>,
    pub tally: Tally,
    /// The last tick since the last record: silence is counted from one tick to the next.
    pub ticked_at: Option<Timestamp>,
    /// For each operator the keys to close.
    pub idle: Vec<Vec<Box<[u8]>>>,
}

/// Buffers reused from record to record.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    by: Vec<u8>,
    id: Vec<u8>,
    /// For each step of rules the record as it sees it.
    pub events: Vec<Filled>,
}

impl Slot {
    pub fn new(prepared: &Prepared, id: SlotId) -> Slot {
        let operator = |(place, window): (usize, &Window)| {
            let step = prepared.plan.steps[window.step].window().expect("prepared steps are window steps");
            let operator = Operator::new(Arc::clone(&step.spec), &step.prefix);
            let mut readers = prepared.rolled.iter().filter(|rolled| rolled.of == RowsOf::Window(place));
            if readers.next().is_some() { operator.told_to(window.rows.grid) } else { operator }
        };
        Slot {
            id,
            operators: prepared.windows.iter().enumerate().map(operator).collect(),
            seats: Slot::seats(prepared),
            waiting: WaitingRows::default(),
            followers: Slot::followers(prepared, id),
            rollups: Slot::rollups(prepared),
            tally: Tally::new(prepared.plan.counted().count()),
            ticked_at: None,
            idle: vec![Vec::new(); prepared.windows.len()],
        }
    }

    /// Applies the record routed last.
    pub fn apply(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        self.ticked_at = None;
        let mut causes = Causes::of(record);
        if let Some(reject) = routed.reject() {
            let origin = prepared.origin(record);
            let key = record.key.unwrap_or_default();
            effects.outbox.push(
                prepared.rejected,
                causes.next(),
                record.appended_at,
                key,
                |out| rows::of_record("rejected", &origin, record, out),
                |out| rows::rejected(&origin, record, reject, out),
            );
            let field = reject.field.as_deref().unwrap_or_default();
            self.judge(
                prepared,
                record,
                (Verdict::Rejected, reject.rule.name(), field),
                &mut causes,
                effects,
            );
            return Ok(Applied::Done);
        }
        self.take_over_rules();
        // With several operators none may be changed before all have their cells.
        if (self.steps() > 1 || self.operators.is_empty())
            && self.lacks_cells(prepared, routed, record, buffers, effects)
        {
            return Ok(Applied::Missing);
        }
        let key = routed.key(record.value);
        self.idle.iter_mut().for_each(|idle| idle.retain(|named| **named != *key));
        let Some(entered) = self.enter(prepared, routed, record, buffers, &mut causes, effects)? else {
            return Ok(Applied::Missing);
        };
        let judged = self.judge_by_rules(prepared, routed, record, buffers, &mut causes, effects);
        let followed = self.follow(prepared, routed, record, &mut causes, effects);
        let best = better(better(entered, judged), followed);
        let (verdict, reason) = best.unwrap_or((Verdict::Accepted, ""));
        let verdict = (verdict, reason, "");
        self.pass_through(prepared, routed, record, &mut causes, effects);
        self.judge(prepared, record, verdict, &mut causes, effects);
        self.rollups.iter_mut().for_each(Rollup::hear);
        self.report(prepared, Causes::of(record).0, &[], effects);
        Ok(self.applied())
    }

    /// Whether an operator lacks cells for the event; they are named.
    pub fn lacks_cells(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        effects: &mut Effects,
    ) -> bool {
        let missing = effects.missing.len();
        for i in 0..self.operators.len() {
            self.each(i, prepared, routed, record, buffers, |(operator, ..), input, _| {
                name_missing(operator, record, input, effects);
            });
        }
        self.judges_lack_cells(prepared, routed, record, buffers, effects);
        self.waiting.missing(prepared, &mut effects.missing);
        self.followers_lack_cells(prepared, routed, record, effects);
        self.rollups_lack_roots(effects);
        effects.missing.len() > missing
    }

    /// Hands the event to every window step of its source; what became of it, `None` when the only one lacks cells.
    fn enter(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        causes: &mut Causes,
        effects: &mut Effects,
    ) -> Result<Option<Option<Judged>>, Failure> {
        let mut failed = None;
        let is_only = self.steps() == 1;
        let mut best: Option<Judged> = None;
        for i in 0..self.operators.len() {
            let window = &prepared.windows[i];
            let outcome = self.each(
                i,
                prepared,
                routed,
                record,
                buffers,
                |(operator, tally, waiting), input, enters| {
                    if is_only && name_missing(operator, record, input, effects) {
                        return Err(());
                    }
                    let mut emit = Emit {
                        prepared,
                        window,
                        tally,
                        causes,
                        effects,
                        waiting,
                        time: routed.time(),
                        failed: &mut failed,
                    };
                    if waits_for_the_wall_clock(operator) {
                        // The clock of the log, so that a replay sees the same.
                        operator.apply(&Input::ProcessingTime(record.appended_at), &mut emit);
                    }
                    let outcome = operator.apply(input, &mut emit);
                    Ok(enters.then_some(outcome))
                },
            );
            let outcome = match outcome {
                Some(Ok(Some(outcome))) => outcome,
                Some(Err(())) => return Ok(None),
                Some(Ok(None)) | None => continue,
            };
            let judged = match outcome {
                Outcome::Accepted | Outcome::PartiallyLate => (Verdict::Accepted, ""),
                Outcome::Duplicate => (Verdict::Duplicate, ""),
                Outcome::Late => (Verdict::Late, "late"),
                Outcome::Unassigned => (Verdict::Late, "unassigned"),
                Outcome::Future => (Verdict::Late, "future"),
            };
            if judged.0 == Verdict::Late {
                let key = routed.key(record.value);
                let watermark = self.operators[i].key_stats(key, &mut Vec::new()).map(|stats| stats.clock);
                let late = rows::Late {
                    reason: judged.1,
                    key,
                    time: routed.time(),
                    watermark: watermark.filter(|watermark| *watermark != Timestamp::MIN),
                    step: window.has_siblings.then_some(&prepared.plan.steps[window.step].name),
                };
                set_aside(prepared, routed, record, &late, causes, effects);
            }
            best = better(best, Some(judged));
        }
        failed.map_or(Ok(Some(best)), Err)
    }

    /// Calls `f` with the input that the record is for the `i`-th operator, and whether it enters its windows; not at
    /// all when the operator reads another source.
    #[inline]
    fn each<R>(
        &mut self,
        i: usize,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        f: impl FnOnce((&mut Operator, &mut Tally, &mut WaitingRows), &Input<'_>, bool) -> R,
    ) -> Option<R> {
        let place = prepared.windows[i].step;
        let step = &prepared.plan.steps[place];
        if step.source != prepared.plan.source_of(record.source) {
            return None;
        }
        let window = step.window().expect("prepared steps are window steps");
        let (fields, raw) = (routed.fields, record.value);
        buffers.by.clear();
        for column in &window.by {
            segments::push(&mut buffers.by, &fields.value(column.index, raw));
        }
        let id = id_bytes(&window.id, fields, raw, &mut buffers.id);
        // Filled in place: it has room for many, and collecting would move all of it.
        let mut values: ArrayVec<Value<'_>, INPUTS_MAX> = ArrayVec::new();
        window.inputs.iter().for_each(|column| values.push(fields.value(*column, raw)));
        let event = Event {
            key: routed.key(raw),
            by: &buffers.by,
            time: routed.time(),
            logged_at: Some(record.appended_at),
            id,
            values: &values,
            // A slot reads one partition of a source at a time: see `Watermark` in the pipeline file.
            partition: 0,
            gap: None,
        };
        let passes = routed.passes[place];
        let input = if passes { Input::Event(&event) } else { Input::Observe(&event) };
        Some(f((&mut self.operators[i], &mut self.tally, &mut self.waiting), &input, passes))
    }

    /// Events as they are, to the sinks that read a source, a filter or a map.
    fn pass_through(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        causes: &mut Causes,
        effects: &mut Effects,
    ) {
        let plan = &prepared.plan;
        let place = plan.source_of(record.source);
        let source = &plan.sources[place];
        for (i, sink) in plan.sinks.iter().enumerate() {
            let (columns, name) = match sink.from {
                From::Source(from) if from == place => (&source.columns, &source.name),
                From::Step(from) if routed.passes[from] && plan.steps[from].passes_events() => {
                    (&plan.steps[from].columns, &plan.steps[from].name)
                }
                _ => continue,
            };
            let key = routed.key(record.value);
            if let Target::Grain { kind, method } = &sink.to {
                let mut arguments = Vec::new();
                let mut map = pack::Map::begin(&mut arguments, columns.len());
                for column in columns {
                    map.value(&column.name, &routed.fields.value(column.index, record.value));
                }
                effects.tells.push((grain(kind, key), method.clone(), arguments));
            } else {
                effects.outbox.push(
                    StreamId(i as u16),
                    causes.next(),
                    routed.time(),
                    key,
                    |out| rows::of_record(name, &prepared.origin(record), record, out),
                    |out| rows::event(columns, record, routed.fields, out),
                );
            }
            self.tally.result(i, 1);
        }
    }

    /// Counts what became of the record, and writes it down where that is asked for.
    pub fn judge(
        &mut self,
        prepared: &Prepared,
        record: &Record<'_>,
        (verdict, rule, field): (Verdict, &str, &str),
        causes: &mut Causes,
        effects: &mut Effects,
    ) {
        self.tally.record(verdict);
        if let Some(stream) = prepared.verdicts {
            effects.outbox.push(
                stream,
                causes.next(),
                record.appended_at,
                b"",
                |out| rows::of_record("verdicts", &prepared.origin(record), record, out),
                |out| {
                    let line = record.offset + 1;
                    out.extend_from_slice(format!("{line},{},{rule},{field}", verdict.name()).as_bytes());
                },
            );
        }
    }

    /// Sets the record aside without looking into it.
    pub fn poison(&mut self, prepared: &Prepared, record: &Record<'_>, reason: &str, effects: &mut Effects) {
        let origin = prepared.origin(record);
        let mut causes = Causes::of(record);
        effects.outbox.push(
            prepared.poisoned,
            causes.next(),
            record.appended_at,
            record.key.unwrap_or_default(),
            |out| rows::of_record("poisoned", &origin, record, out),
            |out| rows::poisoned(&origin, record, reason, out),
        );
        self.judge(prepared, record, (Verdict::Poisoned, "", ""), &mut causes, effects);
    }

    /// How many steps have state here.
    fn steps(&self) -> usize {
        self.operators.len() + self.seats.len() + self.followers.len() + self.rollups.len()
    }

    pub fn memory_bytes(&self) -> usize {
        let judges: usize = self.seats.iter().map(|seat| seat.judges.memory_bytes()).sum();
        let followers: usize = self.followers.iter().map(Follower::memory_bytes).sum();
        let rollups: usize = self.rollups.iter().map(Rollup::memory_bytes).sum();
        judges + followers + rollups + self.operators.iter().map(Operator::memory_bytes).sum::<usize>()
    }
}

/// What names an event for copies to be refused, by these columns: none without any.
#[inline]
pub(crate) fn id_bytes<'a>(
    columns: &[usize],
    fields: Fields<'a>,
    raw: &'a [u8],
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    buffer.clear();
    match columns {
        [] => return None,
        [column] => match fields.value(*column, raw) {
            Value::Text(text) => return Some(text),
            value => segments::push(buffer, &value),
        },
        _ => columns.iter().for_each(|column| segments::push(buffer, &fields.value(*column, raw))),
    }
    Some(buffer)
}

/// Of what became of a record in two places what counts: the first of the verdicts, the earlier one of equal ones.
pub(crate) fn better(one: Option<Judged>, other: Option<Judged>) -> Option<Judged> {
    [one, other].into_iter().flatten().min_by_key(|(verdict, _)| *verdict as u8)
}

/// Puts the record into the stream of late ones.
pub(crate) fn set_aside(
    prepared: &Prepared,
    routed: Routed<'_>,
    record: &Record<'_>,
    late: &rows::Late<'_>,
    causes: &mut Causes,
    effects: &mut Effects,
) {
    let (source, origin) = (prepared.source(record), prepared.origin(record));
    effects.outbox.push(
        prepared.late,
        causes.next(),
        routed.time(),
        late.key,
        |out| {
            rows::of_record("late", &origin, record, out);
            if let Some(step) = late.step {
                out.push(b'/');
                out.extend_from_slice(step.as_bytes());
            }
        },
        |out| rows::late(&origin, &source.columns, record, late, routed.fields, out),
    );
}

/// Whether the operator lacks cells for the event; they are named.
fn name_missing(
    operator: &mut Operator,
    record: &Record<'_>,
    input: &Input<'_>,
    effects: &mut Effects,
) -> bool {
    let missing = effects.missing.len();
    if waits_for_the_wall_clock(operator) {
        operator.missing(&Input::ProcessingTime(record.appended_at), &mut effects.missing);
    }
    operator.missing(input, &mut effects.missing);
    effects.missing.len() > missing
}
