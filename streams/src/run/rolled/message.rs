//! What comes to a roll-up, in the stream of its rows: rows, how far slots have come, how far all have.

use granary_core::{Result, Timestamp, codec};
use granary_window::rollup::Report;
use granary_window::{Computed, Reason, Row, Value};
use serde::{Deserialize, Serialize};

use crate::plan::{Member, RollupStep, Rows};
use crate::run::segments;

/// One record of the stream.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// A row; the record's key is the one it comes under.
    Row(Sent),
    /// How far a slot has come.
    Reached { slot: u16, watermark_ms: i64, is_idle: bool },
    /// How far all of them have come.
    Watermark { watermark_ms: i64 },
}

/// A row on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sent {
    /// What names all its versions.
    pub id: String,
    pub start_ms: i64,
    pub end_ms: i64,
    /// What it comes under below the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Plain>,
    /// By the names of the members that are read; `None`: it is withdrawn.
    pub values: Option<Vec<(String, Plain)>>,
}

/// A value as MessagePack has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
}

impl Plain {
    pub fn value(&self) -> Value<'_> {
        match self {
            Plain::Null => Value::Null,
            Plain::Bool(value) => Value::Bool(*value),
            Plain::Int(value) => Value::Int(*value),
            Plain::Double(value) => Value::Double(*value),
            Plain::Text(text) => Value::Text(text.as_bytes()),
        }
    }

    fn of(value: &Value<'_>) -> Plain {
        match value {
            Value::Null => Plain::Null,
            Value::Bool(value) => Plain::Bool(*value),
            Value::Int(value) => Plain::Int(*value),
            Value::Double(value) => Plain::Double(*value),
            Value::Text(text) => Plain::Text(String::from_utf8_lossy(text).into_owned()),
        }
    }

    /// `None`: it is a list, or no number that 64 bits hold.
    fn of_result(value: &Computed<'_>) -> Option<Plain> {
        Some(match value {
            Computed::Null => Plain::Null,
            Computed::Bool(value) => Plain::Bool(*value),
            Computed::Int(value) => Plain::Int(i64::try_from(*value).ok()?),
            Computed::Double(value) => Plain::Double(*value),
            Computed::Text(text) => Plain::Text(String::from_utf8_lossy(text).into_owned()),
            Computed::List(_) => return None,
        })
    }
}

impl Message {
    pub fn read(bytes: &[u8]) -> Result<Message> {
        codec::from_bytes(bytes)
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&codec::to_bytes(self).expect("texts and numbers can be encoded"));
    }

    pub fn of(report: &Report) -> Message {
        let Report { slot, watermark, is_idle } = *report;
        Message::Reached { slot, watermark_ms: watermark.ms(), is_idle }
    }
}

impl Sent {
    /// A row as a roll-up reads it, or the name of a member that it cannot read.
    pub fn of(
        id: String,
        row: &Row<'_>,
        rows: &Rows,
        rollup: &RollupStep,
    ) -> std::result::Result<Sent, String> {
        let read = |place: usize, name: &str| {
            let plain = match rows.member(place) {
                Member::Start => Some(Plain::Int(row.start.ms())),
                Member::End => Some(Plain::Int(row.end.ms())),
                Member::Key => Some(Plain::of(&typed(row.key, &rows.key().kind))),
                Member::By(at) => segments::iter(row.by).nth(at).map(|segment| Plain::of(&segment.value())),
                Member::Value(at) => Plain::of_result(&row.values.get(at)),
            };
            plain.ok_or_else(|| name.to_owned())
        };
        let by = rollup.by.iter().map(|column| read(column.index, &column.name)).collect::<Result<_, _>>()?;
        let named =
            |column: &crate::plan::Column| Ok((column.name.to_string(), read(column.index, &column.name)?));
        let values = match row.reason {
            Reason::Delete => None,
            _ => Some(rollup.reads.iter().map(named).collect::<Result<_, String>>()?),
        };
        Ok(Sent { id, start_ms: row.start.ms(), end_ms: row.end.ms(), by, values })
    }

    pub fn bounds(&self) -> (Timestamp, Timestamp) {
        (Timestamp(self.start_ms), Timestamp(self.end_ms))
    }

    /// The values a roll-up reads, in its order: what an older program did not send is missing.
    pub fn values_for(&self, rollup: &RollupStep) -> Option<Vec<Value<'_>>> {
        let values = self.values.as_ref()?;
        let value =
            |name: &str| values.iter().find(|(of, _)| of == name).map_or(Value::Null, |(_, v)| v.value());
        Some(rollup.reads.iter().map(|column| value(&column.name)).collect())
    }
}

/// A routing key as the value it was.
fn typed<'k>(key: &'k [u8], kind: &crate::plan::ColumnKind) -> Value<'k> {
    let text = std::str::from_utf8(key).unwrap_or_default();
    match kind {
        crate::plan::ColumnKind::Int => text.parse().map_or(Value::Text(key), Value::Int),
        crate::plan::ColumnKind::Bool => Value::Bool(key == b"true"),
        _ => Value::Text(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_as_they_were_sent() {
        let sent = |plain: Plain| {
            let values = Some(vec![("m".to_owned(), plain)]);
            let row = Message::Row(Sent {
                id: "w".into(),
                start_ms: -1,
                end_ms: 2,
                by: vec![Plain::Int(3)],
                values,
            });
            let mut out = Vec::new();
            row.write(&mut out);
            match Message::read(&out).unwrap() {
                Message::Row(sent) => (sent.by, sent.values.unwrap().remove(0).1),
                other => panic!("{other:?}"),
            }
        };
        let values =
            [Plain::Null, Plain::Bool(true), Plain::Int(-1), Plain::Int(i64::MAX), Plain::Text("3".into())];
        for plain in values.into_iter().chain([2.0, 0.1, -0.0].map(Plain::Double)) {
            assert_eq!(sent(plain.clone()), (vec![Plain::Int(3)], plain));
        }
    }
}
