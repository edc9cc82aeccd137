//! Events as rules read them: which members of a record there are, of which type, and what a record has of them.

use granary_core::Timestamp;
use granary_window::rule::NUMBER_MAX;

use super::decimal::{Decimal, Excess};
use crate::file::rfc3339;

/// Numbers below this are seconds, others milliseconds: as seconds it is the year 5138.
const SECONDS_BELOW: i128 = 100_000_000_000;
/// The longest id, in bytes.
const ID_BYTES_MAX: usize = 256;
/// The longest text of a field, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;

/// The events of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSpec {
    /// What names an event.
    pub(crate) id: Origin,
    /// When it happened.
    pub(crate) time: Origin,
    /// The other members.
    pub(crate) fields: Vec<Field>,
    /// The field that evidence shows.
    pub(crate) amount: Option<usize>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Origin {
    /// The member of a JSON object.
    pub member: Box<str>,
    /// The column of a CSV file.
    pub column: Box<str>,
}

/// A member of an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub name: Box<str>,
    pub from: Origin,
    /// In CSV files it is a whole number of its last place.
    pub is_minor: bool,
    pub kind: FieldKind,
    pub is_optional: bool,
    /// What its numbers count, for alerts.
    pub unit: Option<Box<str>>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Text,
    Boolean,
    /// A whole number.
    Integer,
    /// A decimal number, rounded to this place.
    Decimal(u32),
    /// An amount of money; digits after this place are refused.
    Money(u32),
    /// A double.
    Float,
}

impl FieldKind {
    pub fn name(self) -> &'static str {
        match self {
            FieldKind::Text => "text",
            FieldKind::Boolean => "boolean",
            FieldKind::Integer => "integer",
            FieldKind::Decimal(_) => "decimal",
            FieldKind::Money(_) => "money",
            FieldKind::Float => "float",
        }
    }

    /// The place its units are of; none for what is not exact.
    pub fn scale(self) -> Option<u32> {
        match self {
            FieldKind::Integer => Some(0),
            FieldKind::Decimal(scale) | FieldKind::Money(scale) => Some(scale),
            FieldKind::Text | FieldKind::Boolean | FieldKind::Float => None,
        }
    }
}

/// What an event has in a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell {
    Missing,
    /// Something else than its type allows.
    Wrong,
    /// Units of its last place.
    Number(i64),
    Double(f64),
    Boolean(bool),
    /// Where it begins and ends in the event's text.
    Text(u32, u32),
}

/// A value as it stands in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    Nothing,
    Boolean(bool),
    /// A number as it is written.
    Number(&'a str),
    Text(&'a str),
    /// A list, an object, or a name that stands twice.
    Other,
}

/// An event. Its memory is used for the next one.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub(crate) id: Vec<u8>,
    pub(crate) time: Timestamp,
    /// Where it was read; partitions of a source and of its strays are told apart.
    pub(crate) partition: u64,
    pub(crate) cells: Vec<Cell>,
    text: Vec<u8>,
}

/// Why a record is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Unfit {
    /// The member, or `json`.
    pub field: Box<str>,
    /// What is wrong with it.
    pub message: String,
}

impl Unfit {
    pub(crate) fn new(field: &str, message: impl Into<String>) -> Unfit {
        Unfit { field: field.into(), message: message.into() }
    }
}

impl Event {
    /// What names it.
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// When it happened.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    pub(crate) fn text(&self, field: usize) -> Option<&[u8]> {
        match self.cells[field] {
            Cell::Text(start, end) => Some(&self.text[start as usize..end as usize]),
            _ => None,
        }
    }

    /// Begins a new event of so many fields.
    pub(crate) fn clear(&mut self, fields: usize) {
        self.id.clear();
        self.text.clear();
        self.time = Timestamp::MIN;
        self.partition = 0;
        self.cells.clear();
        self.cells.resize(fields, Cell::Missing);
    }

    pub(crate) fn set_id(&mut self, name: &str, raw: Raw<'_>) -> Result<(), Unfit> {
        let text = match raw {
            Raw::Text(text) | Raw::Number(text) => text,
            Raw::Nothing => return Err(Unfit::new(name, "the id is missing")),
            Raw::Boolean(_) | Raw::Other => return Err(Unfit::new(name, "an id is text or a number")),
        };
        if text.is_empty() || text.len() > ID_BYTES_MAX {
            return Err(Unfit::new(name, format!("an id has from 1 to {ID_BYTES_MAX} bytes")));
        }
        self.id.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn set_time(&mut self, name: &str, raw: Raw<'_>) -> Result<(), Unfit> {
        let time = match raw {
            Raw::Number(text) => unix_time(text),
            Raw::Text(text) => rfc3339(text).or_else(|| unix_time(text)),
            Raw::Nothing => return Err(Unfit::new(name, "the time is missing")),
            Raw::Boolean(_) | Raw::Other => None,
        };
        self.time = time.ok_or_else(|| {
            Unfit::new(name, "a time is 2026-01-31T00:00:00Z, or seconds or milliseconds since 1970")
        })?;
        Ok(())
    }

    pub(crate) fn set(&mut self, place: usize, field: &Field, raw: Raw<'_>, is_csv: bool) {
        let is_minor = is_csv && field.is_minor;
        self.cells[place] = match (field.kind, raw) {
            (_, Raw::Nothing) => Cell::Missing,
            (_, Raw::Text("")) if is_csv => Cell::Missing,
            (FieldKind::Text, Raw::Text(text) | Raw::Number(text)) if text.len() <= TEXT_BYTES_MAX => {
                let start = self.text.len() as u32;
                self.text.extend_from_slice(text.as_bytes());
                Cell::Text(start, self.text.len() as u32)
            }
            (FieldKind::Boolean, Raw::Boolean(value)) => Cell::Boolean(value),
            (FieldKind::Boolean, Raw::Text("true")) if is_csv => Cell::Boolean(true),
            (FieldKind::Boolean, Raw::Text("false")) if is_csv => Cell::Boolean(false),
            (FieldKind::Float, Raw::Number(text) | Raw::Text(text)) => match Decimal::parse(text) {
                Some(_) => text.parse().map_or(Cell::Wrong, Cell::Double),
                None => Cell::Wrong,
            },
            (kind, Raw::Number(text) | Raw::Text(text)) => number(kind, text, is_minor),
            _ => Cell::Wrong,
        };
    }
}

fn number(kind: FieldKind, text: &str, is_minor: bool) -> Cell {
    let Some((decimal, scale)) = Decimal::parse(text).zip(kind.scale()) else { return Cell::Wrong };
    let excess = if let FieldKind::Decimal(_) = kind { Excess::Rounded } else { Excess::Refused };
    let units = decimal.at(if is_minor { 0 } else { scale }, excess);
    match units.filter(|units| units.unsigned_abs() <= NUMBER_MAX.unsigned_abs()) {
        Some(units) => Cell::Number(units),
        None => Cell::Wrong,
    }
}

fn unix_time(text: &str) -> Option<Timestamp> {
    let decimal = Decimal::parse(text)?;
    let is_seconds =
        decimal.units.abs() < SECONDS_BELOW.checked_mul(super::decimal::power(decimal.scale)?)?;
    let ms = decimal.at(if is_seconds { 3 } else { 0 }, Excess::Rounded)?;
    // A thousand million years are no time of an event, and leave room for arithmetic.
    (ms.unsigned_abs() < 1 << 55).then_some(Timestamp(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_milliseconds_or_written_out() {
        let mut event = Event::default();
        for (raw, ms) in [
            (Raw::Number("1704067221"), 1_704_067_221_000),
            (Raw::Number("1704067221.5"), 1_704_067_221_500),
            (Raw::Text("1704067221000"), 1_704_067_221_000),
            (Raw::Text("2024-01-01T00:00:21Z"), 1_704_067_221_000),
            (Raw::Text("2024-01-01T02:00:21+02:00"), 1_704_067_221_000),
        ] {
            event.set_time("ts", raw).unwrap();
            assert_eq!(event.time.ms(), ms, "{raw:?}");
        }
        for wrong in [Raw::Nothing, Raw::Text("yesterday"), Raw::Other, Raw::Number("1e30")] {
            assert!(event.set_time("ts", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_amount_is_wrong_and_never_zero() {
        let money = |text| number(FieldKind::Money(2), text, false);
        assert_eq!(money("12.34"), Cell::Number(1_234));
        assert_eq!(number(FieldKind::Money(2), "1234", true), Cell::Number(1_234));
        for wrong in ["NaN", "1e400", "12.345", "90071992547409.93", "Infinity", ""] {
            assert_eq!(money(wrong), Cell::Wrong, "{wrong}");
        }
        assert_eq!(number(FieldKind::Decimal(1), "12.35", false), Cell::Number(124));
    }
}
