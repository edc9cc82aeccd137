//! Rows as MessagePack maps: for calls of grains and for answers.

use granary_core::Timestamp;
use granary_window::{Computed, Row, Value};
use rmp::encode;

use super::segments;
use crate::plan::{ColumnKind, Plan, Step, WindowStep};

/// Writing into memory cannot fail.
const MEMORY: &str = "writing to memory cannot fail";

/// A map being written: members are counted by whoever begins it.
pub(crate) struct Map<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Map<'o> {
    /// A map of so many members.
    pub fn begin(out: &'o mut Vec<u8>, members: usize) -> Map<'o> {
        encode::write_map_len(out, members as u32).expect(MEMORY);
        Map { out }
    }

    pub fn int(&mut self, name: &str, value: i64) {
        self.name(name);
        encode::write_sint(self.out, value).expect(MEMORY);
    }

    pub fn count(&mut self, name: &str, value: u64) {
        self.name(name);
        encode::write_uint(self.out, value).expect(MEMORY);
    }

    pub fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        text(self.out, value);
    }

    pub fn value(&mut self, name: &str, value: &Value<'_>) {
        self.name(name);
        self::value(self.out, value);
    }

    fn computed(&mut self, name: &str, value: &Computed<'_>) {
        self.name(name);
        match value {
            Computed::Null => encode::write_nil(self.out).expect(MEMORY),
            Computed::Bool(value) => encode::write_bool(self.out, *value).expect(MEMORY),
            Computed::Int(value) => match i64::try_from(*value) {
                Ok(value) => drop(encode::write_sint(self.out, value).expect(MEMORY)),
                // MessagePack has no larger integers: as text no digit is lost.
                Err(_) => text(self.out, value.to_string().as_bytes()),
            },
            Computed::Double(value) => encode::write_f64(self.out, *value).expect(MEMORY),
            Computed::Text(value) => text(self.out, value),
            Computed::List(values) => {
                encode::write_array_len(self.out, values.len() as u32).expect(MEMORY);
                values.iter().for_each(|value| self::value(self.out, value));
            }
        }
    }

    fn name(&mut self, name: &str) {
        text(self.out, name.as_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    encode::write_str_len(out, text.len() as u32).expect(MEMORY);
    out.extend_from_slice(text);
}

fn value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => encode::write_nil(out).expect(MEMORY),
        Value::Bool(value) => encode::write_bool(out, *value).expect(MEMORY),
        Value::Int(value) => drop(encode::write_sint(out, *value).expect(MEMORY)),
        Value::Double(value) => encode::write_f64(out, *value).expect(MEMORY),
        Value::Text(bytes) => text(out, bytes),
    }
}

/// What is added to a row in an answer.
pub(crate) struct Standing {
    pub state: &'static str,
    pub watermark: Timestamp,
}

/// Which window a row is about.
pub(crate) struct Named<'a> {
    pub key: &'a [u8],
    pub by: &'a [u8],
    pub start: Timestamp,
    pub end: Timestamp,
}

/// A window's row with the members of its JSON form, in their order; without one, what is known of the window.
pub(crate) fn row(
    plan: &Plan,
    step: &Step,
    window: &WindowStep,
    named: &Named<'_>,
    row: Option<&Row<'_>>,
    standing: Option<&Standing>,
    out: &mut Vec<u8>,
) {
    let source = &plan.sources[step.source];
    let has_bounds = named.start != Timestamp::MIN;
    let of_row = row.map_or(0, |row| {
        row.values.len().min(window.spec.aggregates.len()) + 2 + usize::from(row.op.is_some())
    });
    let of_standing = if standing.is_some() { 2 } else { 0 };
    let members = if has_bounds { 2 } else { 0 } + 1 + window.by.len() + of_row + of_standing;
    let mut map = Map::begin(out, members);
    if has_bounds {
        map.int("window_start", named.start.ms());
        map.int("window_end", named.end.ms());
    }
    let key = source.columns.iter().find(|column| column.index == source.key);
    let is_int = key.is_some_and(|column| column.kind == ColumnKind::Int);
    let number = std::str::from_utf8(named.key).ok().filter(|_| is_int).and_then(|key| key.parse().ok());
    let value = number.map_or(Value::Text(named.key), Value::Int);
    map.value(key.map_or("key", |column| &column.name), &value);
    for (column, segment) in window.by.iter().zip(segments::iter(named.by)) {
        map.value(&column.name, &segment.value());
    }
    if let Some(row) = row {
        for (aggregate, value) in window.spec.aggregates.iter().zip(row.values.iter()) {
            map.computed(&aggregate.name, &value);
        }
        map.count("revision", u64::from(row.revision));
        map.text("reason", row.reason.as_str().as_bytes());
        if let Some(op) = row.op {
            map.text("op", op.as_str().as_bytes());
        }
    }
    if let Some(standing) = standing {
        map.text("state", standing.state.as_bytes());
        map.int("watermark", standing.watermark.ms());
    }
}

impl<'a> Named<'a> {
    pub fn of(row: &Row<'a>) -> Named<'a> {
        Named { key: row.key, by: row.by, start: row.start, end: row.end }
    }
}
