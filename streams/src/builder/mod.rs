//! The Rust builder: the same plan as the pipeline file makes, from closures.
//!
//! A closure is erased into a column: the record is decoded once into the user's type, each closure puts its value
//! into a column of its own, and the steps read columns as they do for a file.
//!
//! ```
//! use granary_core::time::{mins, secs};
//! use granary_streams::builder::{Stream, Tumbling};
//!
//! #[derive(serde::Deserialize)]
//! struct Reading { id: u64, device: String, at: i64, watts: f64 }
//!
//! let plan = Stream::<Reading>::topic("readings")
//!     .event_time(|r| r.at)
//!     .dedupe_by(|r| r.id)
//!     .key_by(|r| &r.device)
//!     .filter(|r| r.watts >= 0.0)
//!     .window(Tumbling::of(secs(5)))
//!     .allowed_lateness(mins(15))
//!     .count()
//!     .to_topic("device-counts")
//!     .plan()
//!     .unwrap();
//! assert_eq!(plan.streams()[0], "device-counts");
//! ```

mod follow;
mod pairs;
mod results;
mod sequence;
mod sinks;
mod value;
mod windows;

use std::marker::PhantomData;

use granary_core::{Span, Timestamp};
use granary_window as window;

pub use follow::Follow;
pub use granary_window::Quantile;
pub use granary_window::join::Kind as JoinKind;
pub use granary_window::pattern::Contiguity;
pub use pairs::{Interval, Pairs, SameWindow, Versions};
pub use results::{Results, Windowed};
pub use sequence::{Sequence, Stage, Times};
pub use value::{Field, Number, Segment, Shown, Time};
pub use windows::{Count, Cumulate, Hopping, Session, Sliding, Tumbling, WindowStream};

use crate::decode::{BYTES_MAX_DEFAULT, Decoded, Reject, Rule};
use crate::plan::{Column, ColumnKind, Does, EventTime, Filter, From, Plan, Read, Source, Start, Step};
use sinks::Sinks;

/// Reads a record into the user's type and fills the columns of the closures so far.
type Decode<T> = Box<dyn Fn(&[u8], &mut Decoded) -> Result<T, Box<Reject>> + Send + Sync>;

/// Records of a topic as values of `T`, JSON unless said otherwise.
#[must_use = "a stream does nothing until its plan is run"]
pub struct Stream<T> {
    topic: Box<str>,
    pipeline: Option<Box<str>>,
    start: Start,
    read: Read,
    decode: Decode<T>,
    columns: Vec<Column>,
    /// The columns of filters, in order.
    filters: Vec<usize>,
    id: Option<usize>,
    time: EventTime,
    watermark: window::Watermark,
}

/// A stream whose key is known: its events have an order and a clock.
#[must_use = "a stream does nothing until its plan is run"]
pub struct Keyed<T> {
    stream: Stream<T>,
    key: usize,
    /// The columns of [`Keyed::field`].
    fields: Vec<usize>,
}

impl<T: serde::de::DeserializeOwned + 'static> Stream<T> {
    /// The records of a topic, decoded as JSON objects.
    pub fn topic(name: &str) -> Stream<T> {
        Stream::decode_with(name, |raw| {
            serde_json::from_slice(raw).map_err(|error| {
                let rule = if error.is_data() { Rule::Type } else { Rule::Json };
                (rule, error.to_string())
            })
        })
    }
}

impl<T: 'static> Stream<T> {
    /// The records of a topic, decoded by `decode`; what it refuses goes to `rejected` with rule and message.
    pub fn decode_with(
        topic: &str,
        decode: impl Fn(&[u8]) -> Result<T, (Rule, String)> + Send + Sync + 'static,
    ) -> Stream<T> {
        let decode = move |raw: &[u8], _: &mut Decoded| {
            let refuse = |(rule, message)| Box::new(Reject { rule, field: None, message });
            if raw.len() > BYTES_MAX_DEFAULT {
                let message = format!("at most {BYTES_MAX_DEFAULT} bytes expected, {} found", raw.len());
                return Err(refuse((Rule::Size, message)));
            }
            decode(raw).map_err(refuse)
        };
        Stream {
            topic: topic.into(),
            pipeline: None,
            start: Start::Earliest,
            read: Read::InPlace,
            decode: Box::new(decode),
            columns: Vec::new(),
            filters: Vec::new(),
            id: None,
            time: EventTime::Ingestion,
            watermark: window::Watermark::default(),
        }
    }

    /// Names the pipeline; without it, it is named like the topic.
    pub fn pipeline(mut self, name: &str) -> Self {
        self.pipeline = Some(name.into());
        self
    }

    /// Where the pipeline begins when it is new; without it, at the first kept record.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sends all records through the internal re-keyed topic: for a topic with another partitioner, or without keys.
    pub fn rekey(mut self) -> Self {
        self.read = Read::Rekey;
        self
    }

    /// When an event happened; without it, when the log took it.
    pub fn event_time<V: Time>(self, time: impl Fn(&T) -> V + Send + Sync + 'static) -> Self {
        let (mut stream, column) =
            self.column("event_time", ColumnKind::Int, move |value, column, decoded| {
                decoded.set(column, window::Value::Int(time(value).timestamp().ms()));
            });
        stream.time = EventTime::Column(column);
        stream
    }

    /// What names an event: copies with the same name count once per window.
    pub fn dedupe_by<V: Segment>(self, id: impl Fn(&T) -> V + Send + Sync + 'static) -> Self {
        let (mut stream, column) = self.column("id", ColumnKind::Any, move |value, column, decoded| {
            decoded.set(column, id(value).value());
        });
        stream.id = Some(column);
        stream
    }

    /// Lets events pass for which `condition` holds. The others still move their key's clock.
    pub fn filter(self, condition: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let name = format!("filter-{}", self.filters.len() + 1);
        let (mut stream, column) = self.column(&name, ColumnKind::Bool, move |value, column, decoded| {
            decoded.set(column, window::Value::Bool(condition(value)));
        });
        stream.filters.push(column);
        stream
    }

    /// Goes on with what `change` makes of each event.
    pub fn map<U: 'static>(self, change: impl Fn(T) -> U + Send + Sync + 'static) -> Stream<U> {
        let Stream { topic, pipeline, start, read, decode, columns, filters, id, time, watermark } = self;
        let decode = move |raw: &[u8], decoded: &mut Decoded| decode(raw, decoded).map(&change);
        let decode = Box::new(decode);
        Stream { topic, pipeline, start, read, decode, columns, filters, id, time, watermark }
    }

    /// How much earlier than the latest one an event of the same key may still be expected.
    pub fn out_of_orderness(mut self, span: Span) -> Self {
        self.watermark.out_of_orderness = Some(span);
        self
    }

    /// Closes the windows of a key that has been silent for so long.
    pub fn idle_after(mut self, span: Span) -> Self {
        self.watermark.idle_after = Some(span);
        self
    }

    /// Sets aside an event that is further ahead of its log time.
    pub fn future_guard(mut self, span: Span) -> Self {
        self.watermark.future_guard = Some(span);
        self
    }

    /// What an event belongs to: its slot, its order, its clock.
    pub fn key_by<K: Segment + ?Sized>(self, key: impl Fn(&T) -> &K + Send + Sync + 'static) -> Keyed<T> {
        let (stream, column) = self.column("key", K::KIND, move |value, column, decoded| {
            decoded.set(column, key(value).value());
        });
        Keyed { stream, key: column, fields: Vec::new() }
    }

    /// Adds a column that `put` fills.
    fn column(
        mut self,
        name: &str,
        kind: ColumnKind,
        put: impl Fn(&T, usize, &mut Decoded) + Send + Sync + 'static,
    ) -> (Stream<T>, usize) {
        let index = self.columns.len();
        self.columns.push(Column { name: name.into(), index, kind });
        let decode = self.decode;
        self.decode = Box::new(move |raw, decoded| {
            let value = decode(raw, decoded)?;
            put(&value, index, decoded);
            Ok(value)
        });
        (self, index)
    }
}

impl<T: 'static> Keyed<T> {
    /// Lets events pass for which `condition` holds: see [`Stream::filter`].
    pub fn filter(self, condition: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Keyed { stream: self.stream.filter(condition), ..self }
    }

    /// A field that conditions of patterns and joins know by this name, and that rows can show.
    pub fn field<F: Field + ?Sized>(
        self,
        name: &str,
        field: impl Fn(&T) -> &F + Send + Sync + 'static,
    ) -> Self {
        let Keyed { stream, key, mut fields } = self;
        let (stream, column) = stream.column(name, F::KIND, move |value, column, decoded| {
            decoded.set(column, field(value).value());
        });
        fields.push(column);
        Keyed { stream, key, fields }
    }

    /// Windows over the events of each key.
    pub fn window(self, window: impl Into<window::Window>) -> WindowStream<T> {
        WindowStream::new(self, window.into())
    }

    /// Events of each key that fit these stages one after the other.
    ///
    /// Conditions are CEL, over the fields that were named by [`Keyed::field`]; `small.amount` is that of the last event which
    /// the stage `small` took. With [`Stream::dedupe_by`] copies are refused.
    ///
    /// ```
    /// use granary_core::time::{hours, mins};
    /// use granary_streams::builder::{Stage, Stream};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Payment { id: String, card: String, at: i64, amount: f64, country: String }
    ///
    /// let plan = Stream::<Payment>::topic("payments")
    ///     .event_time(|p| p.at)
    ///     .dedupe_by(|p| p.id.clone())
    ///     .out_of_orderness(mins(1))
    ///     .idle_after(mins(1))
    ///     .key_by(|p| &p.card)
    ///     .field("amount", |p| &p.amount)
    ///     .field("country", |p| &p.country)
    ///     .pattern([
    ///         Stage::new("small").when("amount < 5.0").times(1..=3),
    ///         Stage::absent().when("country != small.country"),
    ///         Stage::new("large").when("amount > small.amount * 100.0"),
    ///     ])
    ///     .named("escalation")
    ///     .within(hours(1))
    ///     .skip_past_last()
    ///     .timeouts()
    ///     .show(["amount"])
    ///     .to_topic("escalations")
    ///     .plan()
    ///     .unwrap();
    /// assert_eq!(plan.streams()[0], "escalations");
    /// ```
    pub fn pattern(self, stages: impl IntoIterator<Item = Stage>) -> Follow<Sequence> {
        Follow::sequence(self, stages.into_iter().collect())
    }

    /// Pairs of an event of this stream, the left one, and one of the other with the same key. `over` says which match: an
    /// [`Interval`], [`SameWindow`] or [`Versions`]. With [`Stream::dedupe_by`] copies of that side are refused.
    ///
    /// ```
    /// use granary_core::time::mins;
    /// use granary_streams::builder::{Interval, JoinKind, Stream};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Order { id: String, order: String, at: i64, amount: f64 }
    /// #[derive(serde::Deserialize)]
    /// struct Shipment { no: String, of: String, at: i64, carrier: String }
    ///
    /// let orders = Stream::<Order>::topic("orders")
    ///     .event_time(|o| o.at)
    ///     .dedupe_by(|o| o.id.clone())
    ///     .idle_after(mins(1))
    ///     .key_by(|o| &o.order)
    ///     .field("amount", |o| &o.amount);
    /// let shipments = Stream::<Shipment>::topic("shipments")
    ///     .event_time(|s| s.at)
    ///     .dedupe_by(|s| s.no.clone())
    ///     .idle_after(mins(1))
    ///     .key_by(|s| &s.of)
    ///     .field("carrier", |s| &s.carrier);
    /// let plan = orders
    ///     .join(shipments, Interval::between_ms(0, 86_400_000)) // at most a day after the order
    ///     .named("shipped")
    ///     .kind(JoinKind::Left) // an order without a shipment gives a row, too
    ///     .to_topic("orders-shipped")
    ///     .plan()
    ///     .unwrap();
    /// assert_eq!(plan.streams()[0], "orders-shipped");
    /// ```
    pub fn join<U: 'static>(self, right: Keyed<U>, over: impl Into<window::join::Over>) -> Follow<Pairs> {
        Follow::pairs(self, right, over.into())
    }

    /// Adds source and filters to the parts of a plan; what is read after the last filter.
    fn read_into(self, parts: &mut Parts) -> From {
        let Keyed { stream, key, fields } = self;
        let Stream { topic, pipeline, start, read, decode, columns, filters, id, time, watermark } = stream;
        let mut name = name_of(&topic);
        if parts.sources.iter().any(|source| source.name == name) {
            name = format!("{name}-right").into(); // a join of a topic with itself
        }
        let source = parts.sources.len();
        let mut from = From::Source(source);
        for (i, column) in filters.into_iter().enumerate() {
            parts.steps.push(Step {
                name: format!("{name}-filter-{}", i + 1).into(),
                from,
                source,
                does: Does::Filter(Filter::Column(column)),
                columns: columns.clone(),
            });
            from = From::Step(parts.steps.len() - 1);
        }
        let decode = move |raw: &[u8], decoded: &mut Decoded| decode(raw, decoded).map(drop);
        let decoder = crate::plan::Decoder::Closure(Box::new(decode));
        parts.pipelines.extend(pipeline);
        parts.fields.push(fields);
        parts.sources.push(Source { name, topic, start, read, decoder, columns, id, key, time, watermark });
        from
    }
}

/// What a plan reads, with the filters.
#[derive(Debug, Default)]
struct Parts {
    /// The names that were said for the pipeline.
    pipelines: Vec<Box<str>>,
    sources: Vec<Source>,
    /// The columns of [`Keyed::field`], by source.
    fields: Vec<Vec<usize>>,
    steps: Vec<Step>,
}

impl Parts {
    /// The plan with one more step, which its sinks read.
    fn plan(self, last: Step, sinks: Sinks) -> Plan {
        let Parts { pipelines, sources, mut steps, .. } = self;
        let name = pipelines.into_iter().next().unwrap_or_else(|| sources[0].name.clone());
        let from = From::Step(steps.len());
        steps.push(last);
        Plan::assemble(&name, sources, steps, sinks.reading(from))
    }
}

/// A topic as the name of a source, step or sink: what may not stand in one becomes `-`.
fn name_of(topic: &str) -> Box<str> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
    let name: String = topic.chars().map(allowed).collect();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name.into() } else { format!("t-{name}").into() }
}

/// Keeps a type parameter without owning one.
type Of<T> = PhantomData<fn() -> T>;

impl Time for Timestamp {
    fn timestamp(self) -> Timestamp {
        self
    }
}
