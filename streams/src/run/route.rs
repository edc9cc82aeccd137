//! A record on its way: decoded once, its filters and maps evaluated, its slot known.

use std::ops::Range;

use granary_cluster::Record;
use granary_core::{SlotId, Timestamp, id::slot_of};
use granary_window::Value;

use crate::decode::{Decoded, Fields, Item, Reject, Rule, decode};
use crate::plan::expression::Outcome;
use crate::plan::{Decoder, Does, EventTime, Filter, From, Plan, Step};

/// The records of a chunk on their way. They are taken up again in another order than they were read in, by when little
/// of them is in the processor's caches: so they lie flat, a few lines each.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    heads: Vec<Head>,
    items: Vec<Item>,
    scratch: Vec<u8>,
    passes: Vec<bool>,
    /// The record being read.
    reading: Reading,
}

/// A record of the chunk: what it is, and where its fields begin.
#[derive(Debug, Default)]
struct Head {
    offset: u64,
    partition: u32,
    source: u16,
    /// It was read since the chunk began.
    is_read: bool,
    time: Timestamp,
    reject: Option<Box<Reject>>,
    /// The routing key.
    key: Item,
    items: Range<u32>,
    scratch: u32,
    passes: u32,
}

/// A record on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routed<'a> {
    pub fields: Fields<'a>,
    /// For each step whether the event gets to its end; for a window step, whether it gets there.
    pub passes: &'a [bool],
    head: &'a Head,
}

/// The record being read: its memory is used for the next one.
#[derive(Debug, Default)]
struct Reading {
    decoded: Decoded,
    passes: Vec<bool>,
}

impl Chunk {
    /// Reads the record at a place: decodes it and evaluates what needs no state. The first place begins a new chunk,
    /// places go up.
    pub fn read(&mut self, place: usize, plan: &Plan, record: &Record<'_>) {
        self.begin(place);
        let mut head = Head {
            offset: record.offset,
            partition: record.partition,
            source: record.source.0,
            is_read: true,
            scratch: self.scratch.len() as u32,
            passes: self.passes.len() as u32,
            ..Head::default()
        };
        head.reject = self.reading.read(plan, record, &mut head.time, &mut head.key).err();
        let Fields { items, scratch } = self.reading.decoded.fields();
        let start = self.items.len() as u32;
        head.items = start..start + items.len() as u32;
        self.items.extend_from_slice(items);
        self.scratch.extend_from_slice(scratch);
        self.passes.extend_from_slice(&self.reading.passes);
        self.heads.push(head);
    }

    fn begin(&mut self, place: usize) {
        if self.heads.len() > place {
            self.heads.clear();
            self.items.clear();
            self.scratch.clear();
            self.passes.clear();
        }
        self.heads.resize_with(place, Head::default);
    }

    /// Nothing is read at a place.
    pub fn pass(&mut self, place: usize) {
        self.begin(place);
        self.heads.push(Head::default());
    }

    /// The record at a place, which was read.
    #[inline]
    pub fn at(&self, place: usize) -> Routed<'_> {
        let head = &self.heads[place];
        let fields = Fields {
            items: &self.items[head.items.start as usize..head.items.end as usize],
            scratch: &self.scratch[head.scratch as usize..],
        };
        Routed { fields, passes: &self.passes[head.passes as usize..], head }
    }

    /// Whether the record at this place is this one.
    pub fn holds(&self, place: usize, record: &Record<'_>) -> bool {
        self.heads.get(place).is_some_and(|head| head.is(record))
    }
}

impl Head {
    fn is(&self, record: &Record<'_>) -> bool {
        self.is_read
            && (self.source, self.partition, self.offset)
                == (record.source.0, record.partition, record.offset)
    }
}

impl<'a> Routed<'a> {
    /// Its event time.
    pub fn time(self) -> Timestamp {
        self.head.time
    }

    /// Why it is refused, if it is.
    pub fn reject(self) -> Option<&'a Reject> {
        self.head.reject.as_deref()
    }

    /// The routing key.
    #[inline]
    pub fn key(self, raw: &'a [u8]) -> &'a [u8] {
        match self.fields.value_of(&self.head.key, raw) {
            Value::Text(key) => key,
            _ => &[],
        }
    }

    /// Whether it could not be decoded: then it has no key. What a filter or map refuses has one.
    pub fn is_refused(self) -> bool {
        self.reject().is_some_and(|reject| !matches!(reject.rule, Rule::Filter | Rule::Map))
    }

    /// The slot it belongs to. A refused record has no key: its partition decides.
    pub fn slot(self, record: &Record<'_>, slots: u16) -> SlotId {
        if self.is_refused() {
            return SlotId((record.partition % u32::from(slots)) as u16);
        }
        slot_of(self.key(record.value), slots)
    }
}

impl Reading {
    fn read(
        &mut self,
        plan: &Plan,
        record: &Record<'_>,
        time: &mut Timestamp,
        key: &mut Item,
    ) -> Result<(), Box<Reject>> {
        let place = plan.source_of(record.source);
        let source = &plan.sources[place];
        self.passes.clear();
        match &source.decoder {
            Decoder::Schema(schema) => decode(schema, record.value, &mut self.decoded)?,
            Decoder::Closure(decode) => {
                self.decoded.reset(source.columns.len());
                decode(record.value, &mut self.decoded)?;
            }
        }
        *time = match source.time {
            EventTime::Ingestion => record.appended_at,
            EventTime::Column(column) => Timestamp(self.decoded.int(column).unwrap_or(i64::MIN)),
        };
        *key = match self.decoded.value(source.key, record.value) {
            Value::Null => Item::Absent,
            Value::Text(_) => self.decoded.fields().items[source.key],
            Value::Int(key) => self.decoded.keep(itoa::Buffer::new().format(key).as_bytes()),
            Value::Bool(key) => self.decoded.keep(if key { b"true" } else { b"false" }),
            Value::Double(key) => self.decoded.keep(zmij::Buffer::new().format(key).as_bytes()),
        };
        self.stages(plan, place, record)
    }

    /// Filters and maps of all chains of the source, in the order of the plan.
    fn stages(&mut self, plan: &Plan, source: usize, record: &Record<'_>) -> Result<(), Box<Reject>> {
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
            Does::Window(_) | Does::Rules(_) | Does::Pattern(_) | Does::Join(_) | Does::Rollup(_) => Ok(true),
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

fn refused(rule: Rule, step: &Step, error: &str) -> Box<Reject> {
    Box::new(Reject { rule, field: Some(step.name.clone()), message: format!("step {}: {error}", step.name) })
}
