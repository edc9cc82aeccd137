//! Steps through an operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::Timestamp;
use serde_json::{Map, Value as Json, json};

use super::parse::{Case, Kind, Step};
use crate::clock::Partitions;
use crate::distinct::{Distinct, Verdict};
use crate::event::{Event, Input};
use crate::operator::Operator;
use crate::row::{Outcome, Reason, Row};
use crate::spec::{Per, Spec, Watermark, Window};
use crate::value::{Computed, Value};

/// What came out of a case, in the words of `expect`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Rows.
    pub results: Vec<Json>,
    /// Names of events that came too late.
    pub late: Vec<Json>,
    /// Names of events that entered some of their windows only.
    pub partially_late: Vec<Json>,
    /// Names of copies.
    pub duplicates: Vec<Json>,
    /// Names of events in no window.
    pub unassigned: Vec<Json>,
}

/// What happens to the state before a step. Nothing that comes out may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// Changed cells are stored.
    Seal,
    /// They are stored, and what can leave memory leaves.
    Evict,
    /// They are stored, the operator is dropped and a new one built.
    Restart,
}

/// Runs a case; `before` tells what happens before each step.
pub fn run(case: &Case, before: &mut dyn FnMut(usize) -> Disturbance) -> Result<Observed, String> {
    match &case.kind {
        Kind::Window(spec) => {
            let mut observed = run_window(case, spec, before)?;
            if let Some(rank) = case.rank {
                rank.rank(&mut observed);
            }
            Ok(observed)
        }
        Kind::Join(join) => join.run(case, before),
        Kind::Distinct(..) => Ok(run_distinct(case, before)),
        Kind::Watermark(watermark) => Ok(run_watermark(case, *watermark)),
        Kind::Pattern(pattern) => Ok(pattern.run(case, before)),
    }
}

/// An operator and the store it is rebuilt from.
struct Bench {
    spec: Arc<Spec>,
    operator: Operator,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    commit: u64,
}

/// Windows in a portion once the state was disturbed: so few that a disturbance comes between two.
const PORTION_DISTURBED: usize = 2;

/// The step's prefix in the store.
const PREFIX: &[u8] = b"step/";

impl Bench {
    fn disturb(&mut self, disturbance: Disturbance) {
        if disturbance == Disturbance::None {
            return;
        }
        self.commit += 1;
        let store = &mut self.store;
        self.operator.seal(self.commit, &mut |cell, value| {
            match value {
                Some(value) => store.insert(cell.to_vec(), value.to_vec()),
                None => store.remove(cell),
            };
        });
        match disturbance {
            Disturbance::None | Disturbance::Seal => {}
            Disturbance::Evict => {
                self.operator.acknowledged(self.commit);
                self.operator.evict(0, usize::MAX);
            }
            Disturbance::Restart => self.operator = Operator::new(self.spec.clone(), PREFIX),
        }
        self.operator.set_portion(PORTION_DISTURBED);
    }

    /// Applies an input to its end, with `between` before each further portion of what it makes due.
    fn apply(
        &mut self,
        input: &Input<'_>,
        mut between: impl FnMut() -> Disturbance,
        out: &mut impl FnMut(Row<'_>),
    ) -> Result<Outcome, String> {
        let outcome = self.apply_one(input, out)?;
        while self.operator.is_closing() {
            self.disturb(between());
            self.apply_one(&Input::GoOn, out)?;
        }
        Ok(outcome)
    }

    fn apply_one(&mut self, input: &Input<'_>, out: &mut impl FnMut(Row<'_>)) -> Result<Outcome, String> {
        let mut cells = Vec::new();
        loop {
            self.operator.missing(input, &mut cells);
            if cells.is_empty() {
                return Ok(self.operator.apply(input, out));
            }
            for cell in cells.drain(..) {
                let value = self.store.get(&cell);
                self.operator.supply(&cell, value.map(Vec::as_slice)).map_err(|e| e.to_string())?;
            }
        }
    }
}

fn run_window(
    case: &Case,
    spec: &Spec,
    before: &mut dyn FnMut(usize) -> Disturbance,
) -> Result<Observed, String> {
    let spec = Arc::new(spec.clone());
    let operator = Operator::new(spec.clone(), PREFIX);
    let mut bench = Bench { spec, operator, store: BTreeMap::new(), commit: 0 };
    let mut observed = Observed::default();
    for (at, step) in case.steps.iter().enumerate() {
        bench.disturb(before(at));
        let bounded = !matches!(bench.spec.window, Window::Count { .. } | Window::Global);
        let results = &mut observed.results;
        let mut out = |row: Row<'_>| results.push(row_json(at, &row, bounded));
        let input = match step {
            Step::Event { id, key, ts, partition, fields } => {
                let dedup_id = case.id_bytes(fields);
                let values = [match &case.field {
                    Some(field) => value_of(fields.get(field)),
                    None => Value::Text(id.as_bytes()),
                }];
                let mut event = Event::new(key.as_bytes(), Timestamp(*ts), &values);
                event.partition = *partition;
                event.id = dedup_id.as_deref();
                if let Window::Session { per_event: true, .. } = bench.spec.window {
                    let gap = fields.get("gap").and_then(Json::as_u64);
                    event.gap = Some(granary_core::Span(gap.ok_or("step: gap: a length expected")?));
                }
                let outcome = bench.apply(&Input::Event(&event), || before(at), &mut out)?;
                observed.note(outcome, id);
                continue;
            }
            Step::Watermark { to, key: Some(key), .. } => {
                Input::KeyWatermark { key: key.as_bytes(), to: Timestamp(*to) }
            }
            Step::Watermark { to, key: None, partition } => {
                Input::PartitionWatermark { partition: *partition, to: Timestamp(*to) }
            }
            Step::Idle(p) => Input::PartitionIdle(*p),
            Step::Active(p) => Input::PartitionActive(*p),
            Step::ProcessingTime(now) => Input::ProcessingTime(Timestamp(*now)),
            Step::End => Input::End,
        };
        bench.apply(&input, || before(at), &mut out)?;
    }
    Ok(observed)
}

impl Observed {
    fn note(&mut self, outcome: Outcome, id: &str) {
        let list = match outcome {
            Outcome::Accepted | Outcome::Future => return,
            Outcome::PartiallyLate => &mut self.partially_late,
            Outcome::Duplicate => &mut self.duplicates,
            Outcome::Late => &mut self.late,
            Outcome::Unassigned => &mut self.unassigned,
        };
        list.push(json!(id));
    }
}

fn value_of(json: Option<&Json>) -> Value<'_> {
    match json {
        Some(Json::Bool(b)) => Value::Bool(*b),
        Some(Json::String(text)) => Value::Text(text.as_bytes()),
        Some(Json::Number(n)) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        _ => Value::Null,
    }
}

fn row_json(at: usize, row: &Row<'_>, bounded: bool) -> Json {
    let mut fields = Map::new();
    fields.insert("at".to_owned(), json!(at));
    fields.insert("key".to_owned(), json!(String::from_utf8_lossy(row.key)));
    let is_withdrawn = row.reason == Reason::Delete && row.op.is_none();
    let value = if is_withdrawn { Json::Null } else { computed_json(&row.values.get(0)) };
    fields.insert("value".to_owned(), value);
    if bounded {
        fields.insert("start".to_owned(), json!(row.start.ms()));
        fields.insert("end".to_owned(), json!(row.end.ms()));
        fields.insert("pane".to_owned(), json!(row.reason.as_str()));
        if let Some(op) = row.op {
            fields.insert("op".to_owned(), json!(op.as_str()));
        }
    }
    Json::Object(fields)
}

fn computed_json(value: &Computed<'_>) -> Json {
    match value {
        Computed::Null => Json::Null,
        Computed::Bool(b) => json!(b),
        Computed::Int(n) => i64::try_from(*n).map_or_else(|_| json!(*n as f64), |n| json!(n)),
        Computed::Double(x) => json!(x),
        Computed::Text(text) => json!(String::from_utf8_lossy(text)),
        Computed::List(items) => items.iter().map(|item| value_json(*item)).collect(),
    }
}

fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => json!(b),
        Value::Int(n) => json!(n),
        Value::Double(x) => json!(x),
        Value::Text(text) => json!(String::from_utf8_lossy(text)),
    }
}

/// The clocks of a case without a window: one for the stream, or one for each key.
pub(super) struct Clocks {
    watermark: Watermark,
    pub stream: Partitions,
    keys: BTreeMap<String, i64>,
}

impl Clocks {
    pub fn new(watermark: Watermark) -> Clocks {
        let partitions = if let Per::Stream { partitions } = watermark.per { partitions } else { 1 };
        Clocks { watermark, stream: Partitions::new(partitions), keys: BTreeMap::new() }
    }

    /// What the step moves: the key (`None`: the stream, or every key) and the watermark it has then.
    pub fn step(&mut self, step: &Step) -> Option<(Option<String>, i64)> {
        let before = self.stream.watermark();
        let per_key = self.watermark.per == Per::Key;
        match step {
            Step::Event { key, ts, partition, .. } => {
                let bound = self.watermark.out_of_orderness?;
                let to = ts.saturating_sub_unsigned(bound.ms()).saturating_sub(1);
                if per_key {
                    return self.raise(key, to);
                }
                self.stream.observe(*partition, to);
            }
            Step::Watermark { to, key: Some(key), .. } if per_key => return self.raise(key, *to),
            Step::Watermark { to, partition, .. } => self.stream.observe(*partition, *to),
            Step::Idle(p) => self.stream.set_idle(*p, true),
            Step::Active(p) => self.stream.set_idle(*p, false),
            Step::ProcessingTime(_) => {}
            Step::End => {
                self.stream.end();
                self.keys.values_mut().for_each(|clock| *clock = i64::MAX);
            }
        }
        let after = self.stream.watermark();
        (after > before).then_some((None, after))
    }

    fn raise(&mut self, key: &str, to: i64) -> Option<(Option<String>, i64)> {
        let clock = self.keys.entry(key.to_owned()).or_insert(i64::MIN);
        let moved = to > *clock;
        *clock = to.max(*clock);
        moved.then(|| (Some(key.to_owned()), to))
    }
}

fn run_watermark(case: &Case, watermark: Watermark) -> Observed {
    let mut observed = Observed::default();
    let mut clocks = Clocks::new(watermark);
    for (at, step) in case.steps.iter().enumerate() {
        if let Some((_, to)) = clocks.step(step) {
            let shown = if to == i64::MAX { json!("max") } else { json!(to) };
            observed.results.push(json!({"at": at, "watermark": shown}));
        }
    }
    observed
}

fn run_distinct(case: &Case, before: &mut dyn FnMut(usize) -> Disturbance) -> Observed {
    let Kind::Distinct(keep, lateness, watermark) = case.kind else { return Observed::default() };
    let mut observed = Observed::default();
    let mut clocks = Clocks::new(watermark);
    let mut keys: BTreeMap<String, Distinct> = BTreeMap::new();
    let shows_op = keep == crate::distinct::Keep::Last;
    for (at, step) in case.steps.iter().enumerate() {
        if matches!(before(at), Disturbance::Evict | Disturbance::Restart) {
            for distinct in keys.values_mut() {
                let mut cell = Vec::new();
                distinct.encode(&mut cell);
                *distinct = Distinct::new(keep, lateness);
                distinct.decode(&cell).expect("a cell just written can be read");
            }
        }
        let mut out = |verdict: Verdict<'_>| observed.take(at, verdict, shows_op);
        if let Step::Event { id, key, ts, fields, .. } = step {
            let distinct = keys.entry(key.clone()).or_insert_with(|| {
                let mut distinct = Distinct::new(keep, lateness);
                if watermark.per != Per::Key {
                    distinct.advance(Timestamp(clocks.stream.watermark()), &mut |_| {});
                }
                distinct
            });
            let name = case.id_bytes(fields).unwrap_or_default();
            distinct.event(&name, Timestamp(*ts), id.as_bytes(), &mut out);
        }
        match clocks.step(step) {
            Some((Some(key), to)) => {
                let distinct = keys.entry(key).or_insert_with(|| Distinct::new(keep, lateness));
                distinct.advance(Timestamp(to), &mut out);
            }
            Some((None, to)) => {
                keys.values_mut().for_each(|distinct| distinct.advance(Timestamp(to), &mut out))
            }
            None => {}
        }
    }
    observed
}

impl Observed {
    fn take(&mut self, at: usize, verdict: Verdict<'_>, shows_op: bool) {
        let name = |tag: &[u8]| json!(String::from_utf8_lossy(tag));
        let row = |tag: &[u8], op: &str| {
            if shows_op {
                json!({"at": at, "id": name(tag), "op": op})
            } else {
                json!({"at": at, "id": name(tag)})
            }
        };
        match verdict {
            Verdict::Passes(tag) => self.results.push(row(tag, "+")),
            Verdict::TakenBack(tag) => self.results.push(row(tag, "-")),
            Verdict::Duplicate(tag) => self.duplicates.push(name(tag)),
            Verdict::Late(tag) => self.late.push(name(tag)),
        }
    }
}
