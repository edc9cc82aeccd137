//! Rows as flat JSON, written straight into the outbox. What does not change from row to row is prepared once.

use std::cell::{RefCell, RefMut};

use granary_cluster::Record;
use granary_core::Timestamp;
use granary_window::{Computed, Reason, Row, Values};

use super::{segments, text};
use crate::decode::{Fields, Reject};
use crate::plan::{Column, Rows};

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
    last: RefCell<Last>,
}

/// What the row before had in its text: rows of one window come together, and those of one key.
#[derive(Debug, Default)]
struct Last {
    bounds: Option<(Timestamp, Timestamp)>,
    /// `{"window_start":...,"window_end":...`
    row_bounds: Vec<u8>,
    /// `/totals/1690000000000`
    id_bounds: Vec<u8>,
    key: Option<Vec<u8>>,
    /// `,"device":"d-7"`
    row_key: Vec<u8>,
    /// `Window/d-7`
    id_key: Vec<u8>,
}

impl Template {
    /// Of the rows of a step; `names_end`: several of its windows have the same start.
    pub fn new(step: &str, rows: &Rows, names_end: bool) -> Template {
        let members = |columns: &[Column]| columns.iter().map(|column| text::member(&column.name)).collect();
        Template {
            key: text::member(&rows.key().name),
            key_is_text: is_text(rows.key()),
            by: members(rows.by()),
            aggregates: members(rows.values()),
            step: format!("/{step}/").into_bytes().into(),
            names_end,
            last: RefCell::default(),
        }
    }

    /// The texts of this row's bounds and key.
    fn last(&self, row: &Row<'_>) -> RefMut<'_, Last> {
        let mut last = self.last.borrow_mut();
        if last.bounds != Some((row.start, row.end)) {
            self.write_bounds(row, &mut last);
        }
        if last.key.as_deref() != Some(row.key) {
            self.write_key(row, &mut last);
        }
        last
    }

    fn write_bounds(&self, row: &Row<'_>, last: &mut Last) {
        let Last { bounds, row_bounds, id_bounds, .. } = last;
        *bounds = Some((row.start, row.end));
        row_bounds.clear();
        id_bounds.clear();
        id_bounds.extend_from_slice(&self.step);
        if row.start == Timestamp::MIN {
            id_bounds.extend_from_slice(b"all");
        } else {
            row_bounds.extend_from_slice(b"{\"window_start\":");
            text::int(row_bounds, row.start.ms());
            row_bounds.extend_from_slice(b",\"window_end\":");
            text::int(row_bounds, row.end.ms());
            text::int(id_bounds, row.start.ms());
        }
        if self.names_end {
            id_bounds.extend_from_slice(b"..");
            text::int(id_bounds, row.end.ms());
        }
    }

    fn write_key(&self, row: &Row<'_>, last: &mut Last) {
        let Last { key, row_key, id_key, .. } = last;
        let key = key.get_or_insert_default();
        key.clear();
        key.extend_from_slice(row.key);
        row_key.clear();
        row_key.extend_from_slice(&self.key);
        if self.key_is_text {
            text::string(row_key, row.key);
        } else {
            row_key.extend_from_slice(row.key);
        }
        id_key.clear();
        id_key.extend_from_slice(b"Window/");
        segments::escape(id_key, row.key);
    }

    /// The identity of a row without `#` and its revision.
    #[inline]
    pub fn window(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        let last = self.last(row);
        out.extend_from_slice(&last.id_key);
        for segment in segments::iter(row.by) {
            out.push(b'/');
            segments::escape(out, segment.text);
        }
        out.extend_from_slice(&last.id_bounds);
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
        self.row_with(row, out, |out| self.values(&row.values, out));
    }

    /// The row with other members than its values.
    #[inline]
    pub fn row_with(&self, row: &Row<'_>, out: &mut Vec<u8>, members: impl FnOnce(&mut Vec<u8>)) {
        out.reserve(256);
        let start = out.len();
        let last = self.last(row);
        out.extend_from_slice(&last.row_bounds);
        out.extend_from_slice(&last.row_key);
        for (name, segment) in self.by.iter().zip(segments::iter(row.by)) {
            out.extend_from_slice(name);
            segment.json(out);
        }
        // The members begin with a comma; the first one's place is taken by the brace.
        out[start] = b'{';
        members(out);
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

/// Where a record came from.
pub(crate) struct Origin<'a> {
    /// The name of its source.
    pub source: &'a str,
    /// The topic it was read from.
    pub topic: &'a str,
    /// It was re-keyed: its partition and offset are those of another topic than the source's own.
    pub is_stray: bool,
}

/// The first members of every set-aside row.
fn begin(origin: &Origin<'_>, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"source\":");
    text::string(out, origin.source.as_bytes());
    out.extend_from_slice(b",\"topic\":");
    text::string(out, origin.topic.as_bytes());
    out.extend_from_slice(b",\"partition\":");
    text::int(out, record.partition);
    out.extend_from_slice(b",\"offset\":");
    text::int(out, record.offset);
}

/// The row of a rejected record.
pub(crate) fn rejected(origin: &Origin<'_>, record: &Record<'_>, reject: &Reject, out: &mut Vec<u8>) {
    begin(origin, record, out);
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
pub(crate) fn poisoned(origin: &Origin<'_>, record: &Record<'_>, message: &str, out: &mut Vec<u8>) {
    begin(origin, record, out);
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
    origin: &Origin<'_>,
    columns: &[Column],
    record: &Record<'_>,
    late: &Late<'_>,
    fields: Fields<'_>,
    out: &mut Vec<u8>,
) {
    begin(origin, record, out);
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
    event(columns, record, fields, out);
    out.push(b'}');
}

/// A row of a window that a step cannot take.
pub(crate) struct LateRow<'a> {
    pub step: &'a str,
    pub reason: &'static str,
    pub key: &'a [u8],
    pub time: Timestamp,
    pub watermark: Option<Timestamp>,
    /// It itself, as JSON.
    pub event: &'a [u8],
}

impl LateRow<'_> {
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"reason\":");
        text::string(out, self.reason.as_bytes());
        out.extend_from_slice(b",\"step\":");
        text::string(out, self.step.as_bytes());
        out.extend_from_slice(b",\"key\":");
        text::string(out, self.key);
        out.extend_from_slice(b",\"event_time\":");
        text::int(out, self.time.ms());
        out.extend_from_slice(b",\"watermark\":");
        match self.watermark {
            Some(watermark) => text::int(out, watermark.ms()),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"event\":");
        out.extend_from_slice(self.event);
        out.push(b'}');
    }
}

/// What names a row that a step cannot take: `late/<step>/<identity>`.
pub(crate) fn late_id(step: &str, row: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"late/");
    out.extend_from_slice(step.as_bytes());
    out.push(b'/');
    out.extend_from_slice(row);
}

/// An event as it stands after a step.
pub(crate) fn event(columns: &[Column], record: &Record<'_>, fields: Fields<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text::string(out, column.name.as_bytes());
        out.push(b':');
        text::value(out, &fields.value(column.index, record.value));
    }
    out.push(b'}');
}

/// The identity of what a record made: `<stream>/<source>/<partition>/<offset>`, of a stray
/// `<stream>/<source>/rekeyed/<partition>/<offset>`.
pub(crate) fn of_record(stream: &str, origin: &Origin<'_>, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(stream.as_bytes());
    out.push(b'/');
    out.extend_from_slice(origin.source.as_bytes());
    out.extend_from_slice(if origin.is_stray { b"/rekeyed/" } else { b"/" });
    text::int(out, record.partition);
    out.push(b'/');
    text::int(out, record.offset);
}
