//! What a record must hold: formats, fields, their types and limits.

use std::ops::RangeInclusive;

use super::{Decoded, Found, Item, Reject, Rule, number};

/// Declared fields of one source, at most.
pub const FIELDS_MAX: usize = 64;
/// `record_bytes_max` where the pipeline does not say.
pub const BYTES_MAX_DEFAULT: usize = 65_536;

/// The layout of a source's records.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// How they are written.
    pub format: Format,
    /// The longest record, in bytes.
    pub record_bytes_max: usize,
    /// The fields, each exactly once in a record; other names are ignored. Checked in this order.
    pub fields: Vec<Field>,
}

/// How records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object (RFC 8259).
    Json,
    /// Columns between separators, without quoting; each declared field is the column of this number.
    Delimited {
        /// The byte between two columns.
        separator: u8,
        /// All columns, in order.
        columns: Vec<Box<str>>,
    },
    /// One MessagePack map with text names.
    MessagePack,
}

/// A declared field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in the pipeline and in rows.
    pub name: Box<str>,
    /// Its name in the record.
    pub from: Box<str>,
    /// Its type and limits.
    pub kind: Kind,
}

/// A field's type and limits.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Text of this many Unicode characters, none of them a control character.
    Text {
        /// The number of characters.
        chars: RangeInclusive<u64>,
    },
    /// Milliseconds since 1970 in decimal digits.
    TimeMs {
        /// The number of digits.
        digits: RangeInclusive<u64>,
        /// Whether they may also stand in quotes.
        quoted: bool,
    },
    /// An integer without fraction or exponent.
    Integer {
        /// The values allowed.
        range: RangeInclusive<i64>,
    },
    /// A number; its nearest double counts.
    Double {
        /// The values allowed.
        range: RangeInclusive<f64>,
    },
    /// `true` or `false`.
    Boolean,
}

impl Kind {
    /// Text of `from` to `to` characters.
    pub const fn text(from: u64, to: u64) -> Kind {
        Kind::Text { chars: from..=to }
    }

    /// Any integer of 64 bits.
    pub const fn integer() -> Kind {
        Kind::Integer { range: i64::MIN..=i64::MAX }
    }

    /// Any finite double.
    pub const fn double() -> Kind {
        Kind::Double { range: f64::MIN..=f64::MAX }
    }

    /// Milliseconds since 1970, 1 to 15 digits, quoted or not.
    pub const fn time_ms() -> Kind {
        Kind::TimeMs { digits: 1..=15, quoted: true }
    }

    /// The name of the type, as pipeline files write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Kind::Text { .. } => "text",
            Kind::TimeMs { .. } => "time_ms",
            Kind::Integer { .. } => "integer",
            Kind::Double { .. } => "double",
            Kind::Boolean => "boolean",
        }
    }
}

impl Field {
    /// A field `name`, called `from` in the record.
    pub fn new(name: &str, from: &str, kind: Kind) -> Field {
        Field { name: name.into(), from: from.into(), kind }
    }
}

impl Schema {
    /// JSON records with these fields.
    pub fn json(fields: Vec<Field>) -> Schema {
        Schema { format: Format::Json, record_bytes_max: BYTES_MAX_DEFAULT, fields }
    }

    /// The place of a declared field.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| &*field.name == name)
    }
}

/// One field: its value, or the rule it breaks.
#[inline]
pub(super) fn check(
    field: &Field,
    found: &Found,
    raw: &[u8],
    decoded: &Decoded,
) -> Result<Item, Box<Reject>> {
    match &field.kind {
        Kind::Text { chars } => text(field, chars, found, raw, decoded),
        Kind::TimeMs { digits, quoted } => time_ms(field, digits, *quoted, found, raw, decoded),
        Kind::Integer { range } => integer(field, range, found, raw, decoded),
        Kind::Double { range } => double(field, range, found, raw, decoded),
        Kind::Boolean => match found {
            Found::Bool(value) => Ok(Item::Bool(*value)),
            _ => Err(expected(field, "boolean", found)),
        },
    }
}

#[cold]
fn expected(field: &Field, what: &str, found: &Found) -> Box<Reject> {
    Reject::of(Rule::Type, field, format_args!("{what} expected, {} found", found.describe()))
}

#[cold]
fn limit(field: &Field, what: impl std::fmt::Display) -> Box<Reject> {
    Reject::of(Rule::Limit, field, what)
}

#[inline]
fn text(
    field: &Field,
    chars: &RangeInclusive<u64>,
    found: &Found,
    raw: &[u8],
    decoded: &Decoded,
) -> Result<Item, Box<Reject>> {
    let item = match found {
        Found::Text(range) => Item::Raw(range.start, range.end),
        Found::Unescaped(range) => Item::Scratch(range.start, range.end),
        _ => return Err(expected(field, "text", found)),
    };
    let bytes = decoded.found_bytes(found, raw);
    if bytes.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) {
        return Err(limit(field, "control character found"));
    }
    // A character takes 1 to 4 bytes: most texts need no counting.
    let len = bytes.len() as u64;
    if len > *chars.end() || len < chars.start().saturating_mul(4) {
        let count = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
        if !chars.contains(&count) {
            let (start, end) = (chars.start(), chars.end());
            return Err(limit(field, format_args!("{start} to {end} characters expected, {count} found")));
        }
    }
    Ok(item)
}

#[inline]
fn time_ms(
    field: &Field,
    digits: &RangeInclusive<u64>,
    quoted: bool,
    found: &Found,
    raw: &[u8],
    decoded: &Decoded,
) -> Result<Item, Box<Reject>> {
    let written = match found {
        Found::Integer(_) => decoded.found_bytes(found, raw),
        Found::Text(_) | Found::Unescaped(_) if quoted => decoded.found_bytes(found, raw),
        Found::Int(value) => return whole_time(field, digits, *value, found),
        Found::Huge(_) => return Err(digits_expected(field, digits, 20)),
        _ => return Err(expected(field, "time in ms", found)),
    };
    if written.is_empty() || !written.iter().all(u8::is_ascii_digit) {
        return Err(Reject::of(
            Rule::Type,
            field,
            format_args!("time in ms expected: digits and nothing else, `{}` found", shown(written)),
        ));
    }
    if !digits.contains(&(written.len() as u64)) {
        return Err(digits_expected(field, digits, written.len()));
    }
    match number::integer(written) {
        Some(value) => Ok(Item::Int(value)),
        None => Err(digits_expected(field, digits, written.len())),
    }
}

/// A time that the format carries as a binary integer.
fn whole_time(
    field: &Field,
    digits: &RangeInclusive<u64>,
    value: i64,
    found: &Found,
) -> Result<Item, Box<Reject>> {
    if value < 0 {
        return Err(expected(field, "time in ms, not negative,", found));
    }
    let len = value.checked_ilog10().unwrap_or(0) as usize + 1;
    if digits.contains(&(len as u64)) {
        Ok(Item::Int(value))
    } else {
        Err(digits_expected(field, digits, len))
    }
}

#[cold]
fn digits_expected(field: &Field, digits: &RangeInclusive<u64>, found: usize) -> Box<Reject> {
    limit(field, format_args!("{} to {} digits expected, {found} found", digits.start(), digits.end()))
}

#[inline]
fn integer(
    field: &Field,
    range: &RangeInclusive<i64>,
    found: &Found,
    raw: &[u8],
    decoded: &Decoded,
) -> Result<Item, Box<Reject>> {
    let value = match found {
        Found::Integer(_) => number::integer(decoded.found_bytes(found, raw)),
        Found::Int(value) => Some(*value),
        Found::Huge(_) => None,
        Found::Decimal(_) => {
            let written = shown(decoded.found_bytes(found, raw));
            return Err(Reject::of(Rule::Type, field, format_args!("integer expected, `{written}` found")));
        }
        _ => return Err(expected(field, "integer", found)),
    };
    match value {
        Some(value) if range.contains(&value) => Ok(Item::Int(value)),
        _ => Err(limit(field, format_args!("{} to {} expected", range.start(), range.end()))),
    }
}

#[inline]
fn double(
    field: &Field,
    range: &RangeInclusive<f64>,
    found: &Found,
    raw: &[u8],
    decoded: &Decoded,
) -> Result<Item, Box<Reject>> {
    let value = match found {
        Found::Integer(_) | Found::Decimal(_) => number::double(decoded.found_bytes(found, raw)),
        Found::Int(value) => *value as f64,
        Found::Huge(value) => *value as f64,
        Found::Double(value) => *value,
        _ => return Err(expected(field, "number", found)),
    };
    // Not a number is outside every range.
    if range.contains(&value) {
        Ok(Item::Double(value))
    } else {
        Err(limit(field, format_args!("{:?} to {:?} expected, {value:?} found", range.start(), range.end())))
    }
}

/// The first characters of a value, for a message.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(40).collect()
}
