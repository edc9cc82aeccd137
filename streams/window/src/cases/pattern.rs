//! Cases of patterns: their spec, their conditions, their steps.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::Timestamp;
use serde_json::{Map, Value as Json, json};

use super::parse::{Case, Fields, Step};
use super::run::{Clocks, Disturbance, Observed};
use crate::Corrupt;
use crate::pattern::{Contiguity, Found, Judge, Matcher, Pane, Pattern, Selection, Skip, Stage};
use crate::shelf::Stored;
use crate::spec::{Per, Watermark};
use crate::track::Shelved;

type Result<T> = std::result::Result<T, String>;

/// A pattern, with the conditions of its stages.
#[derive(Debug)]
pub struct PatternCase {
    pattern: Arc<Pattern>,
    conditions: Vec<Vec<Condition>>,
    watermark: Watermark,
}

/// One condition: all of a stage have to hold.
#[derive(Debug)]
struct Condition {
    field: String,
    compared: Compared,
    operand: Operand,
}

#[derive(Clone, Copy, Debug)]
enum Compared {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    In,
}

#[derive(Debug)]
enum Operand {
    Value(Json),
    /// A field of the last event of a stage.
    Of(usize, String),
}

/// An event, as conditions and rows see it.
#[derive(Debug)]
struct Seen {
    id: String,
    fields: Map<String, Json>,
}

impl Stored for Seen {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(json!([self.id, self.fields]).to_string().as_bytes());
    }

    fn read(bytes: &[u8]) -> std::result::Result<Seen, Corrupt> {
        let (id, fields) = serde_json::from_slice(bytes).map_err(|_| Corrupt { what: "JSON expected" })?;
        Ok(Seen { id, fields })
    }

    fn bytes(&self) -> usize {
        self.id.len()
    }
}

impl PatternCase {
    pub(super) fn read(json: &Json, watermark: Watermark) -> Result<PatternCase> {
        let mut fields = Fields::of(json, "spec.pattern")?;
        let list = fields.take("stages").and_then(|stages| stages.as_array().cloned());
        let list = list.ok_or("spec.pattern.stages: a list expected")?;
        let mut read =
            list.iter().map(|stage| Fields::of(stage, "spec.pattern.stages")).collect::<Result<Vec<_>>>()?;
        let stages = read.iter_mut().map(read_stage).collect::<Result<Vec<Stage>>>()?;
        let mut conditions = Vec::new();
        for mut stage in read {
            conditions.push(read_where(stage.take("where"), &stages)?);
            stage.finish()?;
        }
        let skip = read_skip(fields.take("skip"), &stages)?;
        let (within, timeouts) = (fields.optional_span("within")?, fields.bool("timeouts")?);
        fields.finish()?;
        let pattern = Pattern { stages, within, skip, timeouts };
        match pattern.check().first() {
            Some(mistake) => Err(format!("spec.pattern: {}: {}", mistake.field, mistake.message)),
            None => Ok(PatternCase { pattern: Arc::new(pattern), conditions, watermark }),
        }
    }

    pub(super) fn run(&self, case: &Case, before: &mut dyn FnMut(usize) -> Disturbance) -> Observed {
        let mut observed = Observed::default();
        let mut clocks = Clocks::new(self.watermark);
        let mut keys: BTreeMap<String, Shelved<Matcher<Seen>>> = BTreeMap::new();
        for (at, step) in case.steps.iter().enumerate() {
            if matches!(before(at), Disturbance::Evict | Disturbance::Restart) {
                keys.values_mut().for_each(Shelved::restore);
            }
            if let Step::Event { id, key, ts, fields, .. } = step {
                let Shelved { machine: matcher, .. } = keys.entry(key.clone()).or_insert_with(|| {
                    let mut matcher = Matcher::new(self.pattern.clone());
                    if self.watermark.per != Per::Key {
                        matcher.advance(Timestamp(clocks.stream.watermark()), self, &mut |_| {});
                    }
                    Shelved::new(matcher, self.pattern.clone())
                });
                if !matcher.event(Timestamp(*ts), Seen { id: id.clone(), fields: fields.clone() }) {
                    observed.late.push(json!(id));
                }
            }
            let Some((moved, to)) = clocks.step(step) else { continue };
            for (key, Shelved { machine: matcher, .. }) in &mut keys {
                if moved.as_ref().is_none_or(|moved| moved == key) {
                    matcher.advance(Timestamp(to), self, &mut |found| {
                        observed.results.push(self.row(at, key, &found));
                    });
                }
            }
        }
        observed
    }

    fn row(&self, at: usize, key: &str, found: &Found<'_, Seen>) -> Json {
        let mut stages = Map::new();
        for (stage, seen) in found.selection.all() {
            let ids = stages.entry(&*self.pattern.stages[stage].name).or_insert_with(|| json!([]));
            ids.as_array_mut().expect("made so").push(json!(seen.id));
        }
        match found.pane {
            Pane::Match => json!({"at": at, "key": key, "match": stages}),
            Pane::Timeout => json!({"at": at, "key": key, "match": stages, "pane": "timeout"}),
        }
    }
}

impl Judge<Seen> for PatternCase {
    fn fits(&self, stage: usize, event: &Seen, selection: &Selection<'_, Seen>) -> bool {
        self.conditions[stage].iter().all(|condition| {
            let other = match &condition.operand {
                Operand::Value(value) => Some(value),
                Operand::Of(stage, field) => selection.last(*stage).and_then(|seen| seen.fields.get(field)),
            };
            let own = event.fields.get(&condition.field);
            own.zip(other).is_some_and(|(own, other)| holds(condition.compared, own, other))
        })
    }
}

fn holds(compared: Compared, own: &Json, other: &Json) -> bool {
    let order = || order(own, other);
    match compared {
        Compared::Lt => order() == Some(Ordering::Less),
        Compared::Le => order().is_some_and(Ordering::is_le),
        Compared::Gt => order() == Some(Ordering::Greater),
        Compared::Ge => order().is_some_and(Ordering::is_ge),
        Compared::Eq => is_same(own, other),
        Compared::Ne => !is_same(own, other),
        Compared::In => other.as_array().is_some_and(|list| list.iter().any(|one| is_same(own, one))),
    }
}

/// Numbers by value, texts by their letters; other values have no order.
pub(super) fn order(own: &Json, other: &Json) -> Option<Ordering> {
    match (own, other) {
        (Json::Number(a), Json::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn is_same(own: &Json, other: &Json) -> bool {
    order(own, other).map_or_else(|| own == other, Ordering::is_eq)
}

/// All of a stage but its conditions.
fn read_stage(fields: &mut Fields) -> Result<Stage> {
    let is_absent = fields.bool("not")?;
    let name = fields.word("name")?.unwrap_or_default();
    if name.is_empty() != is_absent {
        return Err("spec.pattern.stages: a name, or `not`, expected".to_owned());
    }
    let times = fields.take("times").unwrap_or_else(|| json!([1, 1]));
    let count = |i: usize| times.get(i).and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok());
    let least = count(0).ok_or("spec.pattern.stages.times: [least, most] expected")?;
    let times_max = match times.get(1) {
        Some(Json::Null) => None,
        _ => Some(count(1).ok_or("spec.pattern.stages.times: [least, most] expected")?),
    };
    Ok(Stage {
        name: name.into(),
        contiguity: read_contiguity(fields, "contiguity")?,
        inner: read_contiguity(fields, "inner")?,
        times_min: least.max(1),
        times_max,
        is_optional: fields.bool("optional")? || least == 0,
        is_greedy: fields.bool("greedy")?,
        is_absent,
    })
}

fn read_contiguity(fields: &mut Fields, name: &str) -> Result<Contiguity> {
    match fields.word(name)?.as_deref() {
        None | Some("followed_by") => Ok(Contiguity::FollowedBy),
        Some("followed_by_any") => Ok(Contiguity::FollowedByAny),
        Some("next") => Ok(Contiguity::Next),
        Some(other) => Err(format!("spec.pattern.stages.{name}: unknown: {other}")),
    }
}

fn stage_named(stages: &[Stage], name: &str) -> Result<usize> {
    let found = stages.iter().position(|stage| !stage.is_absent && &*stage.name == name);
    found.ok_or_else(|| format!("spec.pattern: no stage is called {name}"))
}

fn read_skip(json: Option<Json>, stages: &[Stage]) -> Result<Skip> {
    let Some(json) = json else { return Ok(Skip::None) };
    let mut fields = Fields::of(&json, "spec.pattern.skip")?;
    let (kind, to) = (fields.word("type")?, fields.word("to")?);
    let to = || stage_named(stages, to.as_deref().unwrap_or_default());
    let skip = match kind.as_deref() {
        None | Some("no_skip") => Skip::None,
        Some("skip_to_next") => Skip::ToNext,
        Some("skip_past_last") => Skip::PastLast,
        Some("skip_to_first") => Skip::ToFirst(to()?),
        Some("skip_to_last") => Skip::ToLast(to()?),
        Some(other) => return Err(format!("spec.pattern.skip.type: unknown: {other}")),
    };
    fields.finish()?;
    Ok(skip)
}

fn read_where(json: Option<Json>, stages: &[Stage]) -> Result<Vec<Condition>> {
    let all = json.unwrap_or_else(|| json!({}));
    let all = all.as_object().ok_or("spec.pattern.stages.where: an object expected")?;
    let mut conditions = Vec::new();
    for (field, wanted) in all {
        let Some(wanted) = wanted.as_object() else {
            let (compared, operand) = (Compared::Eq, Operand::Value(wanted.clone()));
            conditions.push(Condition { field: field.clone(), compared, operand });
            continue;
        };
        for (word, operand) in wanted {
            let (word, is_reference) =
                word.strip_suffix("_ref").map_or((&**word, false), |word| (word, true));
            let compared = match word {
                "lt" => Compared::Lt,
                "le" => Compared::Le,
                "gt" => Compared::Gt,
                "ge" => Compared::Ge,
                "eq" => Compared::Eq,
                "ne" => Compared::Ne,
                "in" if !is_reference => Compared::In,
                other => return Err(format!("spec.pattern.stages.where: unknown: {other}")),
            };
            let operand = if is_reference {
                let part = |i: usize| operand.get(i).and_then(Json::as_str).unwrap_or_default();
                Operand::Of(stage_named(stages, part(0))?, part(1).to_owned())
            } else {
                Operand::Value(operand.clone())
            };
            conditions.push(Condition { field: field.clone(), compared, operand });
        }
    }
    Ok(conditions)
}
