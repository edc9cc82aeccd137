//! Case files, read strictly.

use granary_core::Span;
use serde_json::{Map, Value as Json};

use super::join::JoinCase;
use super::pattern::PatternCase;
use super::rank::RankCase;
use crate::distinct::Keep;
use crate::spec::{
    Accumulation, Aggregate, Dedup, Early, Emit, Function, Horizon, Lateness, Per, Quantile, Spec, Time,
    Watermark, Window,
};

/// One case, read.
#[derive(Debug)]
pub struct Case {
    /// What it exercises.
    pub kind: Kind,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// `expect` as it stands in the file.
    pub expect: Json,
    /// The fields that name an event for de-duplication.
    pub by: Vec<String>,
    /// The field its aggregate reads; `None`: the event's id.
    pub field: Option<String>,
    /// What stands after the window.
    pub rank: Option<RankCase>,
}

/// What a case exercises.
#[derive(Debug)]
pub enum Kind {
    /// A window.
    Window(Box<Spec>),
    /// De-duplication without a window.
    Distinct(Keep, Lateness, Watermark),
    /// A pattern.
    Pattern(Box<PatternCase>),
    /// A join.
    Join(JoinCase),
    /// The watermark alone.
    Watermark(Watermark),
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// An event arrives.
    Event {
        /// Its name.
        id: String,
        /// Its key.
        key: String,
        /// Its time.
        ts: i64,
        /// Its partition.
        partition: u32,
        /// All its fields.
        fields: Map<String, Json>,
    },
    /// The watermark of a key or a partition.
    Watermark {
        /// At least this.
        to: i64,
        /// Whose key; `None`: the partition's.
        key: Option<String>,
        /// Which partition.
        partition: u32,
    },
    /// A partition is idle.
    Idle(u32),
    /// A partition is active.
    Active(u32),
    /// The wall clock.
    ProcessingTime(i64),
    /// The input has ended.
    End,
}

type Result<T> = std::result::Result<T, String>;

/// The cases of a file.
pub fn cases_of(file: &Json) -> Result<Vec<Json>> {
    if file.get("format") != Some(&Json::from(1)) {
        return Err("format 1 expected".to_owned());
    }
    file.get("cases").and_then(Json::as_array).cloned().ok_or_else(|| "cases: a list expected".to_owned())
}

impl Case {
    /// Reads a case.
    pub fn read(case: &Json) -> Result<Case> {
        let mut spec = Fields::of(case.get("spec").unwrap_or(&Json::Null), "spec")?;
        let steps = case.get("events").and_then(Json::as_array).ok_or("events: a list expected")?;
        let steps = steps.iter().map(read_step).collect::<Result<Vec<_>>>()?;
        let expect = case.get("expect").cloned().unwrap_or(Json::Null);
        let watermark = read_watermark(spec.take("watermark"))?;
        if let Some(pattern) = spec.take("pattern") {
            spec.finish()?;
            let kind = Kind::Pattern(Box::new(PatternCase::read(&pattern, watermark)?));
            return Ok(Case { kind, steps, expect, by: Vec::new(), field: None, rank: None });
        }
        let lateness = read_lateness(spec.take("allowed_lateness"))?;
        if let Some(join) = spec.take("join") {
            spec.finish()?;
            let kind = Kind::Join(JoinCase::read(&join, watermark, lateness)?);
            return Ok(Case { kind, steps, expect, by: Vec::new(), field: None, rank: None });
        }
        let rank = spec.take("rank").map(|rank| RankCase::read(&rank)).transpose()?;
        let mut by = Vec::new();
        let dedup = spec.take("dedup").map(|dedup| read_dedup(dedup, &mut by)).transpose()?;
        let mut field = None;
        let kind = match (spec.take("window"), dedup) {
            (Some(window), dedup) => {
                let spec = read_window(window, dedup, watermark, lateness, &mut spec, &mut field)?;
                Kind::Window(Box::new(spec))
            }
            (None, Some(keep)) => Kind::Distinct(keep, lateness, watermark),
            (None, None) => Kind::Watermark(watermark),
        };
        spec.finish()?;
        if let Kind::Window(spec) = &kind
            && let Some(mistake) = spec.check().first()
        {
            return Err(format!("spec: {}: {}", mistake.field, mistake.message));
        }
        Ok(Case { kind, steps, expect, by, field, rank })
    }
}

/// The fields of an object, each taken once; what is left is unknown.
pub(super) struct Fields {
    map: Map<String, Json>,
    place: String,
}

impl Fields {
    pub fn of(json: &Json, place: &str) -> Result<Fields> {
        let map = json.as_object().cloned().ok_or_else(|| format!("{place}: an object expected"))?;
        Ok(Fields { map, place: place.to_owned() })
    }

    pub fn take(&mut self, name: &str) -> Option<Json> {
        self.map.remove(name)
    }

    pub fn int(&mut self, name: &str) -> Result<Option<i64>> {
        let place = &self.place;
        self.map
            .remove(name)
            .map(|value| value.as_i64().ok_or_else(|| format!("{place}.{name}: a whole number expected")))
            .transpose()
    }

    fn span(&mut self, name: &str) -> Result<Span> {
        self.optional_span(name)?.ok_or_else(|| format!("{}.{name}: a length expected", self.place))
    }

    pub fn optional_span(&mut self, name: &str) -> Result<Option<Span>> {
        let place = format!("{}.{name}", self.place);
        let to_span = |ms| u64::try_from(ms).map(Span).map_err(|_| format!("{place}: must not be negative"));
        self.int(name)?.map(to_span).transpose()
    }

    pub fn bool(&mut self, name: &str) -> Result<bool> {
        self.bool_or(name, false)
    }

    pub fn bool_or(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.map.remove(name) {
            None => Ok(default),
            Some(Json::Bool(b)) => Ok(b),
            Some(_) => Err(format!("{}.{name}: true or false expected", self.place)),
        }
    }

    pub fn word(&mut self, name: &str) -> Result<Option<String>> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Json::String(word)) => Ok(Some(word)),
            Some(_) => Err(format!("{}.{name}: a text expected", self.place)),
        }
    }

    pub fn finish(self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("{}: unknown field {name}", self.place)),
        }
    }
}

fn small(n: i64, place: &str) -> Result<u32> {
    u32::try_from(n).map_err(|_| format!("{place}: a number from 0 to 4294967295 expected"))
}

fn read_step(step: &Json) -> Result<Step> {
    let mut fields = Fields::of(step, "step")?;
    if let Some(id) = fields.map.get("id") {
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let all = fields.map.clone();
        let key = match fields.take("key") {
            None => "*".to_owned(),
            Some(Json::String(key)) => key,
            Some(other) => other.to_string(),
        };
        let ts = fields.int("ts")?.unwrap_or(0);
        let partition = small(fields.int("partition")?.unwrap_or(0), "partition")?;
        return Ok(Step::Event { id, key, ts, partition, fields: all });
    }
    let read = if let Some(to) = fields.int("watermark")? {
        let key = fields.word("key")?;
        let partition = small(fields.int("partition")?.unwrap_or(0), "partition")?;
        Step::Watermark { to, key, partition }
    } else if let Some(p) = fields.int("idle")? {
        Step::Idle(small(p, "idle")?)
    } else if let Some(p) = fields.int("active")? {
        Step::Active(small(p, "active")?)
    } else if let Some(now) = fields.int("processing_time")? {
        Step::ProcessingTime(now)
    } else if fields.bool("end")? {
        Step::End
    } else {
        return Err(format!("step: not understood: {step}"));
    };
    fields.finish()?;
    Ok(read)
}

fn read_watermark(json: Option<Json>) -> Result<Watermark> {
    let json = json.unwrap_or_else(|| serde_json::json!({"type": "explicit"}));
    let mut fields = Fields::of(&json, "spec.watermark")?;
    let out_of_orderness = match fields.word("type")?.as_deref() {
        None | Some("explicit") => None,
        Some("bounded") => Some(fields.optional_span("bound")?.unwrap_or(Span::ZERO)),
        Some(other) => return Err(format!("spec.watermark.type: explicit or bounded expected, not {other}")),
    };
    let partitions = small(fields.int("partitions")?.unwrap_or(1), "spec.watermark.partitions")?;
    let per = match fields.word("per")?.as_deref() {
        None | Some("stream") => Per::Stream { partitions },
        Some("key") => Per::Key,
        Some(other) => return Err(format!("spec.watermark.per: stream or key expected, not {other}")),
    };
    fields.finish()?;
    Ok(Watermark { per, out_of_orderness, idle_after: None, future_guard: None })
}

fn read_lateness(json: Option<Json>) -> Result<Lateness> {
    match json {
        None => Ok(Lateness::Span(Span::ZERO)),
        Some(Json::String(word)) if word == "forever" => Ok(Lateness::Forever),
        Some(value) => {
            let ms = value.as_u64().ok_or("spec.allowed_lateness: a length or \"forever\" expected")?;
            Ok(Lateness::Span(Span(ms)))
        }
    }
}

/// Reads `dedup`; its horizon stands in [`Keep::First`], `None` for `pane`.
fn read_dedup(json: Json, by: &mut Vec<String>) -> Result<Keep> {
    let mut fields = Fields::of(&json, "spec.dedup")?;
    match fields.take("by") {
        Some(Json::String(field)) => by.push(field),
        Some(Json::Array(list)) => {
            for field in list {
                by.push(field.as_str().ok_or("spec.dedup.by: names of fields expected")?.to_owned());
            }
        }
        _ => return Err("spec.dedup.by: a field or a list of fields expected".to_owned()),
    }
    let horizon = match fields.take("horizon") {
        None => None,
        Some(Json::String(word)) if word == "pane" => None,
        Some(value) => Some(Span(value.as_u64().ok_or("spec.dedup.horizon: a length or \"pane\" expected")?)),
    };
    let keep = match fields.word("keep")?.as_deref() {
        None | Some("first") => Keep::First(horizon),
        Some("last") => Keep::Last,
        Some("first_by_time") => Keep::FirstByTime,
        Some(other) => {
            return Err(format!("spec.dedup.keep: first, last or first_by_time expected, not {other}"));
        }
    };
    fields.finish()?;
    Ok(keep)
}

fn read_window(
    window: Json,
    dedup: Option<Keep>,
    watermark: Watermark,
    allowed_lateness: Lateness,
    spec: &mut Fields,
    field: &mut Option<String>,
) -> Result<Spec> {
    let dedup = match dedup {
        None => None,
        Some(Keep::First(horizon)) => Some(Dedup { horizon: horizon.map_or(Horizon::Pane, Horizon::Span) }),
        Some(_) => return Err("spec.dedup.keep: only first stands before a window".to_owned()),
    };
    let time = match spec.word("time")?.as_deref() {
        None | Some("event") => Time::Event,
        Some("processing") => Time::Processing,
        Some(other) => return Err(format!("spec.time: event or processing expected, not {other}")),
    };
    let emit = match spec.word("emit")?.as_deref() {
        None | Some("watermark") => Emit::Watermark,
        Some("final") => Emit::Final,
        Some("every_update") => Emit::EveryUpdate,
        Some(other) => {
            return Err(format!("spec.emit: watermark, final or every_update expected, not {other}"));
        }
    };
    let accumulation = match spec.word("accumulation")?.as_deref() {
        None | Some("accumulating") => Accumulation::Accumulating,
        Some("discarding") => Accumulation::Discarding,
        Some("retracting") => Accumulation::Retracting,
        Some(other) => {
            return Err(format!(
                "spec.accumulation: accumulating, discarding or retracting expected, not {other}"
            ));
        }
    };
    Ok(Spec {
        window: read_kind(&window)?,
        time,
        watermark,
        allowed_lateness,
        emit,
        accumulation,
        early: spec.take("early").map(|json| read_early(&json)).transpose()?,
        dedup,
        aggregates: vec![read_aggregate(spec.take("aggregate"), field)?],
        keep: Span::ZERO,
        withdraw: false,
    })
}

fn read_kind(json: &Json) -> Result<Window> {
    let mut fields = Fields::of(json, "spec.window")?;
    let kind = fields.word("type")?.ok_or("spec.window.type: a kind of window expected")?;
    let window = match kind.as_str() {
        "tumbling" => {
            Window::Tumbling { size: fields.span("size")?, offset: fields.int("offset")?.unwrap_or(0) }
        }
        "hopping" => Window::Hopping {
            size: fields.span("size")?,
            slide: fields.span("slide")?,
            offset: fields.int("offset")?.unwrap_or(0),
        },
        "cumulate" => Window::Cumulate {
            size: fields.span("size")?,
            step: fields.span("step")?,
            offset: fields.int("offset")?.unwrap_or(0),
        },
        "session" => Window::Session {
            gap: fields.optional_span("gap")?.unwrap_or(Span::ZERO),
            inclusive: fields.bool("gap_inclusive")?,
            per_event: fields.bool("gap_field")?,
        },
        "sliding" => Window::Sliding { difference: fields.span("difference")? },
        "count" => {
            let size = small(fields.int("size")?.ok_or("spec.window.size: a number expected")?, "size")?;
            let slide = fields.int("slide")?.map(|n| small(n, "slide")).transpose()?.unwrap_or(size);
            Window::Count { size, slide }
        }
        "global" => Window::Global,
        other => return Err(format!("spec.window.type: unknown: {other}")),
    };
    fields.finish()?;
    Ok(window)
}

fn read_early(json: &Json) -> Result<Early> {
    let mut fields = Fields::of(json, "spec.early")?;
    let early = if let Some(n) = fields.int("count")? {
        Early::Count(small(n, "spec.early.count")?)
    } else if let Some(every) = fields.optional_span("event_time_every")? {
        Early::EventTimeEvery(every)
    } else {
        Early::ProcessingTimeDelay(fields.span("processing_time_delay")?)
    };
    fields.finish()?;
    Ok(early)
}

fn read_aggregate(json: Option<Json>, field: &mut Option<String>) -> Result<Aggregate> {
    let json = json.unwrap_or_else(|| serde_json::json!({"fn": "count"}));
    let mut fields = Fields::of(&json, "spec.aggregate")?;
    *field = Some(fields.word("field")?.unwrap_or_else(|| "value".to_owned()));
    let name = fields.word("fn")?.ok_or("spec.aggregate.fn: a function expected")?;
    let function = match name.as_str() {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "min" => Function::Min,
        "max" => Function::Max,
        "avg" => Function::Avg,
        "distinct" => Function::Distinct,
        "first" => Function::First,
        "last" => Function::Last,
        "approx_distinct" => Function::ApproxDistinct,
        "quantile" => {
            let q = fields.take("q").and_then(|q| q.as_f64()).ok_or("spec.aggregate.q: a number expected")?;
            Function::Quantile(Quantile::of(q))
        }
        "top" => Function::Top(small(fields.int("n")?.ok_or("spec.aggregate.n: a number expected")?, "n")?),
        "ids" => {
            *field = None;
            Function::Ids
        }
        other => return Err(format!("spec.aggregate.fn: unknown: {other}")),
    };
    fields.finish()?;
    Ok(Aggregate { name: "value".into(), function, field: 0 })
}

impl Case {
    /// The bytes that name an event for de-duplication: equal fields, equal bytes.
    pub(crate) fn id_bytes(&self, fields: &Map<String, Json>) -> Option<Vec<u8>> {
        if self.by.is_empty() {
            return None;
        }
        let values = self.by.iter().map(|name| fields.get(name).unwrap_or(&Json::Null));
        let canonical: Vec<Json> = values.map(super::compare::canonical).collect();
        Some(Json::from(canonical).to_string().into_bytes())
    }
}
