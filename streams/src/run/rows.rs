//! Rows as flat JSON, written straight into the outbox. What does not change from row to row is prepared once.

use granary_cluster::Record;
use granary_core::Timestamp;
use granary_window::{Computed, Reason, Row, Values, Window};

use super::{segments, text};
use crate::decode::{Decoded, Reject};
use crate::plan::{Column, Plan, Source, Step, WindowStep};

/// The fixed parts of a window step's rows and identities.
#[derive(Debug)]
pub(crate) struct Template {
    key: Box<[u8]>,
    key_is_text: bool,
    by: Vec<Box<[u8]>>,
    aggregates: Vec<Box<[u8]>>,
    /// `/totals/`
    step: Box<[u8]>,
    /// Several windows have the same start: identities name the end too.
    names_end: bool,
}

impl Template {
    pub fn new(plan: &Plan, step: &Step, window: &WindowStep) -> Template {
        let source = &plan.sources[step.source];
        let key = source.columns.iter().find(|column| column.index == source.key);
        let (name, is_text) = key.map_or(("key", true), |column| (&*column.name, is_text(column)));
        Template {
            key: text::member(name),
            key_is_text: is_text,
            by: window.by.iter().map(|column| text::member(&column.name)).collect(),
            aggregates: window
                .spec
                .aggregates
                .iter()
                .map(|aggregate| text::member(&aggregate.name))
                .collect(),
            step: format!("/{}/", step.name).into_bytes().into(),
            names_end: matches!(window.spec.window, Window::Cumulate { .. }),
        }
    }

    /// The identity of a row without `#` and its revision.
    #[inline]
    pub fn window(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Window/");
        segments::escape(out, row.key);
        for segment in segments::iter(row.by) {
            out.push(b'/');
            segments::escape(out, segment.text);
        }
        out.extend_from_slice(&self.step);
        if row.start == Timestamp::MIN {
            out.extend_from_slice(b"all");
        } else {
            text::int(out, row.start.ms());
        }
        if self.names_end {
            out.extend_from_slice(b"..");
            text::int(out, row.end.ms());
        }
    }

    /// The identity of a row: a replay makes the same one.
    #[inline]
    pub fn identity(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        self.window(row, out);
        out.push(b'#');
        text::int(out, row.revision);
    }

    /// The row.
    #[inline]
    pub fn row(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        out.reserve(256);
        self.names(row, out);
        self.values(&row.values, out);
        out.extend_from_slice(b",\"revision\":");
        text::int(out, row.revision);
        out.extend_from_slice(b",\"reason\":\"");
        out.extend_from_slice(row.reason.as_str().as_bytes());
        if let Some(op) = row.op {
            out.extend_from_slice(b"\",\"op\":\"");
            out.extend_from_slice(op.as_str().as_bytes());
        }
        out.extend_from_slice(b"\"}");
    }

    #[inline]
    fn names(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        if row.start == Timestamp::MIN {
            // The members begin with a comma; the first one's place is taken by the brace.
            let start = out.len();
            self.key_and_by(row, out);
            out[start] = b'{';
            return;
        }
        out.extend_from_slice(b"{\"window_start\":");
        text::int(out, row.start.ms());
        out.extend_from_slice(b",\"window_end\":");
        text::int(out, row.end.ms());
        self.key_and_by(row, out);
    }

    #[inline]
    fn key_and_by(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key);
        if self.key_is_text {
            text::string(out, row.key);
        } else {
            out.extend_from_slice(row.key);
        }
        for (name, segment) in self.by.iter().zip(segments::iter(row.by)) {
            out.extend_from_slice(name);
            segment.json(out);
        }
    }

    #[inline]
    fn values(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        // Of few events sum, average and extremes are often the same double: its digits are found once.
        let mut last: Option<(u64, std::ops::Range<usize>)> = None;
        for (name, value) in self.aggregates.iter().zip(values.iter()) {
            out.extend_from_slice(name);
            match (&value, &last) {
                (Computed::Double(double), Some((bits, digits))) if double.to_bits() == *bits => {
                    out.extend_from_within(digits.clone());
                }
                (Computed::Double(double), _) => {
                    let start = out.len();
                    text::double(out, *double);
                    last = Some((double.to_bits(), start..out.len()));
                }
                _ => text::computed(out, &value),
            }
        }
    }
}

fn is_text(column: &Column) -> bool {
    use crate::plan::ColumnKind::{Any, Text};
    matches!(column.kind, Text | Any)
}

/// The event time a row carries: the last one its window holds.
pub(crate) fn time(row: &Row<'_>, otherwise: Timestamp) -> Timestamp {
    if row.end == Timestamp::MAX { otherwise } else { Timestamp(row.end.ms().saturating_sub(1)) }
}

/// How a row changes the number of results that stand.
#[inline]
pub(crate) fn standing(row: &Row<'_>) -> i64 {
    match row.reason {
        Reason::Delete => -1,
        _ => i64::from(row.revision == 0),
    }
}

/// Where a record came from: the first members of every set-aside row.
fn origin(source: &Source, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"source\":");
    text::string(out, source.name.as_bytes());
    out.extend_from_slice(b",\"topic\":");
    text::string(out, source.topic.as_bytes());
    out.extend_from_slice(b",\"partition\":");
    text::int(out, record.partition);
    out.extend_from_slice(b",\"offset\":");
    text::int(out, record.offset);
}

/// The row of a rejected record.
pub(crate) fn rejected(source: &Source, record: &Record<'_>, reject: &Reject, out: &mut Vec<u8>) {
    origin(source, record, out);
    out.extend_from_slice(b",\"rule\":");
    text::string(out, reject.rule.name().as_bytes());
    out.extend_from_slice(b",\"field\":");
    match &reject.field {
        Some(field) => text::string(out, field.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"message\":");
    text::string(out, reject.message.as_bytes());
    out.extend_from_slice(b",\"raw\":");
    text::base64(out, record.value);
    out.push(b'}');
}

/// The row of a poisoned record.
pub(crate) fn poisoned(source: &Source, record: &Record<'_>, message: &str, out: &mut Vec<u8>) {
    origin(source, record, out);
    out.extend_from_slice(b",\"reason\":\"poisoned\",\"message\":");
    text::string(out, message.as_bytes());
    out.extend_from_slice(b",\"raw\":");
    text::base64(out, record.value);
    out.push(b'}');
}

/// Why and by which clock a record is late.
pub(crate) struct Late<'a> {
    pub reason: &'static str,
    pub key: &'a [u8],
    pub time: Timestamp,
    pub watermark: Option<Timestamp>,
    /// The step, where the plan has several that could have judged otherwise.
    pub step: Option<&'a str>,
}

/// The row of a late record.
pub(crate) fn late(
    source: &Source,
    record: &Record<'_>,
    late: &Late<'_>,
    decoded: &Decoded,
    out: &mut Vec<u8>,
) {
    origin(source, record, out);
    out.extend_from_slice(b",\"reason\":");
    text::string(out, late.reason.as_bytes());
    if let Some(step) = late.step {
        out.extend_from_slice(b",\"step\":");
        text::string(out, step.as_bytes());
    }
    out.extend_from_slice(b",\"key\":");
    text::string(out, late.key);
    out.extend_from_slice(b",\"event_time\":");
    text::int(out, late.time.ms());
    out.extend_from_slice(b",\"watermark\":");
    match late.watermark {
        Some(watermark) => text::int(out, watermark.ms()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"event\":");
    event(&source.columns, record, decoded, out);
    out.push(b'}');
}

/// An event as it stands after a step.
pub(crate) fn event(columns: &[Column], record: &Record<'_>, decoded: &Decoded, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text::string(out, column.name.as_bytes());
        out.push(b':');
        text::value(out, &decoded.value(column.index, record.value));
    }
    out.push(b'}');
}

/// The identity of what a record made: `<stream>/<source>/<partition>/<offset>`.
pub(crate) fn of_record(stream: &str, source: &Source, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(stream.as_bytes());
    out.push(b'/');
    out.extend_from_slice(source.name.as_bytes());
    out.push(b'/');
    text::int(out, record.partition);
    out.push(b'/');
    text::int(out, record.offset);
}
