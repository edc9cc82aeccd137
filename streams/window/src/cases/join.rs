//! Cases of joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::{Span, Timestamp};
use serde_json::{Value as Json, json};

use super::parse::{Case, Fields, Step};
use super::run::{Clocks, Disturbance, Observed};
use crate::Corrupt;
use crate::join::{At, Join, Joiner, Kind, Over, Paired, Side};
use crate::shelf::Stored;
use crate::spec::{Lateness, Watermark};
use crate::track::Shelved;

type Result<T> = std::result::Result<T, String>;

/// A join, with its clock.
#[derive(Clone, Copy, Debug)]
pub struct JoinCase {
    join: Join,
    watermark: Watermark,
}

impl Stored for String {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> std::result::Result<String, Corrupt> {
        String::from_utf8(bytes.to_vec()).map_err(|_| Corrupt { what: "text expected" })
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

impl JoinCase {
    pub(super) fn read(json: &Json, watermark: Watermark, allowed_lateness: Lateness) -> Result<JoinCase> {
        let mut fields = Fields::of(json, "spec.join")?;
        let over = match fields.word("over")?.as_deref() {
            None | Some("interval") => Over::Interval {
                lower_ms: fields.int("lower")?.ok_or("spec.join.lower: a length expected")?,
                upper_ms: fields.int("upper")?.ok_or("spec.join.upper: a length expected")?,
                lower_included: fields.bool_or("lower_inclusive", true)?,
                upper_included: fields.bool_or("upper_inclusive", true)?,
            },
            Some("window") => Over::Window(fields.optional_span("size")?.unwrap_or(Span::ZERO)),
            Some("version") => Over::Version,
            Some(other) => return Err(format!("spec.join.over: unknown: {other}")),
        };
        let kind = match fields.word("type")?.as_deref() {
            None | Some("inner") => Kind::Inner,
            Some("left") => Kind::Left,
            Some("right") => Kind::Right,
            Some("outer") => Kind::Outer,
            Some(other) => return Err(format!("spec.join.type: unknown: {other}")),
        };
        fields.finish()?;
        let join = Join { over, kind, allowed_lateness };
        match join.check().first() {
            Some(mistake) => Err(format!("spec.join: {}: {}", mistake.field, mistake.message)),
            None => Ok(JoinCase { join, watermark }),
        }
    }

    pub(super) fn run(self, case: &Case, before: &mut dyn FnMut(usize) -> Disturbance) -> Result<Observed> {
        let mut observed = Observed::default();
        let mut clocks = Clocks::new(self.watermark);
        let mut keys: BTreeMap<String, Shelved<Joiner<String>>> = BTreeMap::new();
        for (at, step) in case.steps.iter().enumerate() {
            if matches!(before(at), Disturbance::Evict | Disturbance::Restart) {
                keys.values_mut().for_each(Shelved::restore);
            }
            let results = &mut observed.results;
            let mut out = |paired: Paired<'_, String>| results.push(row(at, &paired));
            if let Step::Event { id, key, ts, fields, .. } = step {
                let side = match fields.get("stream").and_then(Json::as_str) {
                    Some("left") => Side::Left,
                    Some("right") => Side::Right,
                    other => return Err(format!("step: stream: left or right expected, not {other:?}")),
                };
                let is_deletion = side == Side::Right
                    && self.join.over == Over::Version
                    && fields.get("value").is_some_and(Json::is_null);
                let Shelved { machine: joiner, .. } = keys.entry(key.clone()).or_insert_with(|| {
                    let mut joiner = Joiner::new(self.join);
                    joiner.advance(Timestamp(clocks.stream.watermark()), &mut |_| {});
                    Shelved::new(joiner, Arc::new(self.join))
                });
                let event = (!is_deletion).then(|| id.clone());
                if !joiner.event(side, Timestamp(*ts), event, &mut out) {
                    observed.late.push(json!(id));
                }
            }
            if let Some((_, to)) = clocks.step(step) {
                let results = &mut observed.results;
                let mut out = |paired: Paired<'_, String>| results.push(row(at, &paired));
                keys.values_mut().for_each(|joiner| joiner.machine.advance(Timestamp(to), &mut out));
            }
        }
        Ok(observed)
    }
}

fn row(at: usize, paired: &Paired<'_, String>) -> Json {
    let (left, right) = (paired.left, paired.right);
    match paired.at {
        At::Time(ts) => json!({"at": at, "left": left, "right": right, "ts": ts.ms()}),
        At::Window(start, end) => {
            json!({"at": at, "left": left, "right": right, "start": start.ms(), "end": end.ms()})
        }
    }
}
