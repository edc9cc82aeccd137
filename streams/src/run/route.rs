//! A record on its way: decoded once, its filters and maps evaluated, its slot known.

use granary_cluster::Record;
use granary_core::{SlotId, Timestamp, id::slot_of};
use granary_window::Value;

use crate::decode::{Decoded, Reject, Rule, decode};
use crate::plan::expression::Outcome;
use crate::plan::{Decoder, Does, EventTime, Filter, From, Plan, Source, Step};

/// The record routed last.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    pub decoded: Decoded,
    /// Why it is refused, if it is.
    pub reject: Option<Box<Reject>>,
    /// For each step whether the event gets to its end; for a window step, whether it gets there.
    pub passes: Vec<bool>,
    /// Its event time.
    pub time: Timestamp,
    /// A key that is no text, as text.
    digits: Vec<u8>,
    key_is_digits: bool,
    at: Option<(u16, u32, u64)>,
}

impl Routed {
    /// Decodes the record and evaluates what needs no state.
    pub fn read(&mut self, plan: &Plan, record: &Record<'_>) {
        let place = usize::from(record.source.0);
        let source = &plan.sources[place];
        self.at = Some(name(record));
        self.reject = match &source.decoder {
            Decoder::Schema(schema) => decode(schema, record.value, &mut self.decoded),
            Decoder::Closure(decode) => {
                self.decoded.reset(source.columns.len());
                decode(record.value, &mut self.decoded)
            }
        }
        .err();
        if self.reject.is_some() {
            return;
        }
        self.time = match source.time {
            EventTime::Ingestion => record.appended_at,
            EventTime::Column(column) => Timestamp(self.decoded.int(column).unwrap_or(i64::MIN)),
        };
        self.digits.clear();
        self.key_is_digits = false;
        match self.decoded.value(source.key, record.value) {
            Value::Text(_) | Value::Null => {}
            Value::Int(key) => {
                self.key_is_digits = true;
                self.digits.extend_from_slice(itoa::Buffer::new().format(key).as_bytes());
            }
            Value::Bool(key) => {
                self.key_is_digits = true;
                self.digits.extend_from_slice(if key { b"true" } else { b"false" });
            }
            Value::Double(key) => {
                self.key_is_digits = true;
                self.digits.extend_from_slice(zmij::Buffer::new().format(key).as_bytes());
            }
        }
        self.reject = self.stages(plan, place, record).err();
    }

    /// Whether this is the record that was routed last.
    pub fn is(&self, record: &Record<'_>) -> bool {
        self.at == Some(name(record))
    }

    /// The routing key.
    #[inline]
    pub fn key<'a>(&'a self, source: &Source, raw: &'a [u8]) -> &'a [u8] {
        if self.key_is_digits {
            return &self.digits;
        }
        self.decoded.text(source.key, raw).unwrap_or_default()
    }

    /// Whether it could not be decoded: then it has no key. What a filter or map refuses has one.
    pub fn is_refused(&self) -> bool {
        self.reject.as_ref().is_some_and(|reject| !matches!(reject.rule, Rule::Filter | Rule::Map))
    }

    /// The slot it belongs to. A refused record has no key: its partition decides.
    pub fn slot(&self, plan: &Plan, record: &Record<'_>, slots: u16) -> SlotId {
        if self.is_refused() {
            return SlotId((record.partition % u32::from(slots)) as u16);
        }
        let source = &plan.sources[usize::from(record.source.0)];
        slot_of(self.key(source, record.value), slots)
    }

    /// Filters and maps of all chains of the source, in the order of the plan.
    fn stages(&mut self, plan: &Plan, source: usize, record: &Record<'_>) -> Result<(), Box<Reject>> {
        self.passes.clear();
        for step in &plan.steps {
            let reaches = match step.from {
                From::Source(from) => from == source,
                From::Step(from) => self.passes[from],
            };
            let passes = reaches && self.stage(step, record)?;
            self.passes.push(passes);
        }
        Ok(())
    }

    fn stage(&mut self, step: &Step, record: &Record<'_>) -> Result<bool, Box<Reject>> {
        match &step.does {
            Does::Window(_) => Ok(true),
            Does::Filter(Filter::Column(column)) => {
                Ok(self.decoded.value(*column, record.value) == Value::Bool(true))
            }
            Does::Filter(Filter::Expression(expression)) => {
                match expression.evaluate(|column| self.decoded.value(column, record.value)) {
                    Ok(Outcome::Bool(passes)) => Ok(passes),
                    Ok(other) => {
                        Err(refused(Rule::Filter, step, &format!("true or false expected, {other:?} found")))
                    }
                    Err(error) => Err(refused(Rule::Filter, step, &error)),
                }
            }
            Does::Map(values) => {
                for (column, expression) in values {
                    let outcome = expression
                        .evaluate(|column| self.decoded.value(column, record.value))
                        .map_err(|error| refused(Rule::Map, step, &error))?;
                    self.decoded.set(*column, outcome.value());
                }
                Ok(true)
            }
        }
    }
}

fn name(record: &Record<'_>) -> (u16, u32, u64) {
    (record.source.0, record.partition, record.offset)
}

fn refused(rule: Rule, step: &Step, error: &str) -> Box<Reject> {
    Box::new(Reject { rule, field: Some(step.name.clone()), message: format!("step {}: {error}", step.name) })
}
