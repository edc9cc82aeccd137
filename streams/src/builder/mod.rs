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

mod results;
mod value;
mod windows;

use std::marker::PhantomData;

use granary_core::{Span, Timestamp};
use granary_window as window;

pub use granary_window::Quantile;
pub use results::{Results, Windowed};
pub use value::{Number, Segment, Shown, Time};
pub use windows::{Count, Cumulate, Hopping, Session, Sliding, Tumbling, WindowStream};

use crate::decode::{BYTES_MAX_DEFAULT, Decoded, Reject, Rule};
use crate::plan::{Column, ColumnKind, Does, EventTime, Filter, From, Read, Source, Start, Step};

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
        let (stream, column) = self.column("key", ColumnKind::Text, move |value, column, decoded| {
            decoded.set(column, key(value).value());
        });
        Keyed { stream, key: column }
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

    /// Windows over the events of each key.
    pub fn window(self, window: impl Into<window::Window>) -> WindowStream<T> {
        WindowStream::new(self, window.into())
    }

    /// Source and filter steps; the last step the window reads from.
    fn into_parts(self) -> (Box<str>, Source, Vec<Step>, From) {
        let Keyed { stream, key } = self;
        let Stream { topic, pipeline, start, read, decode, columns, filters, id, time, watermark } = stream;
        let name = name_of(&topic);
        let mut steps: Vec<Step> = Vec::new();
        let mut from = From::Source(0);
        for (i, column) in filters.into_iter().enumerate() {
            steps.push(Step {
                name: format!("{name}-filter-{}", i + 1).into(),
                from,
                source: 0,
                does: Does::Filter(Filter::Column(column)),
                columns: columns.clone(),
            });
            from = From::Step(i);
        }
        let decode = move |raw: &[u8], decoded: &mut Decoded| decode(raw, decoded).map(drop);
        let decoder = crate::plan::Decoder::Closure(Box::new(decode));
        let pipeline = pipeline.unwrap_or_else(|| name.clone());
        let source = Source { name, topic, start, read, decoder, columns, id, key, time, watermark };
        (pipeline, source, steps, from)
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
