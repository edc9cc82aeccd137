//! From bytes to declared fields, strictly.
//!
//! A record either meets every rule of its [`Schema`] or is refused with the first rule it breaks: `size`, `utf8`,
//! the format's own rule (`json`), `fields`, then per field, in the order of their declaration, `type` or `limit`.
//! Nothing is trimmed, folded or normalised.
//!
//! Invariant: decoding never panics, whatever the bytes, and allocates nothing for a record that is accepted once
//! its [`Decoded`] has grown to its working size.

mod delimited;
mod fast;
mod json;
mod messagepack;
pub mod number;
mod schema;

use std::ops::Range;

use granary_window::Value;

pub use schema::{BYTES_MAX_DEFAULT, FIELDS_MAX, Field, Format, Kind, Schema};

/// How deep the values inside a record may be nested: a bound of memory, far above what a person writes.
pub const DEPTH_MAX: usize = 65_536;

/// Which rule a record breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// It is longer than `record_bytes_max`.
    Size,
    /// It is not valid UTF-8.
    Utf8,
    /// It is not exactly one JSON object.
    Json,
    /// It is not exactly one MessagePack map with text names.
    MessagePack,
    /// A declared field is missing or stands twice.
    Fields,
    /// A field is of another type.
    Type,
    /// A field is of the right type and outside its limits.
    Limit,
    /// A `filter` step could not be evaluated on it.
    Filter,
    /// A `map` step could not be evaluated on it.
    Map,
}

impl Rule {
    /// The name, as rows and verdicts write it.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Size => "size",
            Rule::Utf8 => "utf8",
            Rule::Json => "json",
            Rule::MessagePack => "messagepack",
            Rule::Fields => "fields",
            Rule::Type => "type",
            Rule::Limit => "limit",
            Rule::Filter => "filter",
            Rule::Map => "map",
        }
    }
}

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The first broken rule.
    pub rule: Rule,
    /// The declared name of the field, for `fields`, `type` and `limit`; the step for `filter` and `map`.
    pub field: Option<Box<str>>,
    /// What was expected and what was found, for a person.
    pub message: String,
}

impl Reject {
    #[cold]
    fn whole(rule: Rule, message: impl Into<String>) -> Box<Reject> {
        Box::new(Reject { rule, field: None, message: message.into() })
    }

    #[cold]
    fn of(rule: Rule, field: &Field, what: impl std::fmt::Display) -> Box<Reject> {
        let message = format!("{}: {what}", field.name);
        Box::new(Reject { rule, field: Some(field.name.clone()), message })
    }
}

/// One field's value, pointing into the record's bytes or into the scratch bytes of its [`Decoded`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Item {
    #[default]
    Absent,
    Bool(bool),
    Int(i64),
    Double(f64),
    /// In the record, from and to.
    Raw(u32, u32),
    /// In the scratch bytes, from and to.
    Scratch(u32, u32),
}

/// The declared fields of the record decoded last. Reused from record to record.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    items: Vec<Item>,
    scratch: Vec<u8>,
    /// Which field each member of the last record was: members mostly keep their order.
    order: Vec<u8>,
    /// What each declared field holds, before its type is checked.
    pub(crate) found: Vec<Found>,
    /// Bits (JSON) or counts (MessagePack) of the open values around the one being read.
    open: Vec<u64>,
}

/// A member's value as the format shows it, before its type is checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Found {
    #[default]
    Missing,
    Null,
    Bool(bool),
    /// An integer in the text of the record, without fraction or exponent.
    Integer(Range<u32>),
    /// Another number in the text of the record.
    Decimal(Range<u32>),
    Int(i64),
    /// An integer above the 64-bit signed ones.
    Huge(u64),
    Double(f64),
    /// Text without escapes, in the record.
    Text(Range<u32>),
    /// Text that had escapes, in the scratch bytes.
    Unescaped(Range<u32>),
    List,
    Map,
    Binary,
}

impl Found {
    fn describe(&self) -> &'static str {
        match self {
            Found::Missing => "nothing",
            Found::Null => "null",
            Found::Bool(_) => "boolean",
            Found::Integer(_) | Found::Int(_) | Found::Huge(_) => "integer",
            Found::Decimal(_) | Found::Double(_) => "number",
            Found::Text(_) | Found::Unescaped(_) => "text",
            Found::List => "list",
            Found::Map => "object",
            Found::Binary => "bytes",
        }
    }
}

/// The declared fields of a decoded record, wherever they are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    pub items: &'a [Item],
    pub scratch: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The value of the `i`-th declared field; `raw` is the record it was decoded from.
    #[inline]
    pub fn value(self, i: usize, raw: &'a [u8]) -> Value<'a> {
        self.items.get(i).map_or(Value::Null, |item| self.value_of(item, raw))
    }

    #[inline]
    pub fn value_of(self, item: &Item, raw: &'a [u8]) -> Value<'a> {
        match item {
            Item::Absent => Value::Null,
            Item::Bool(value) => Value::Bool(*value),
            Item::Int(value) => Value::Int(*value),
            Item::Double(value) => Value::Double(*value),
            Item::Raw(from, to) => Value::Text(&raw[*from as usize..*to as usize]),
            Item::Scratch(from, to) => Value::Text(&self.scratch[*from as usize..*to as usize]),
        }
    }
}

impl Decoded {
    /// All fields.
    #[inline]
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields { items: &self.items, scratch: &self.scratch }
    }

    /// The value of the `i`-th declared field; `raw` is the record it was decoded from.
    #[inline]
    pub fn value<'a>(&'a self, i: usize, raw: &'a [u8]) -> Value<'a> {
        self.fields().value(i, raw)
    }

    /// The `i`-th field as an integer: times are integers.
    #[inline]
    pub fn int(&self, i: usize) -> Option<i64> {
        match self.items.get(i) {
            Some(Item::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// The `i`-th field as text.
    #[inline]
    pub fn text<'a>(&'a self, i: usize, raw: &'a [u8]) -> Option<&'a [u8]> {
        match self.value(i, raw) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Puts a value that did not come from the record: what a `map` step or a closure made.
    pub(crate) fn set(&mut self, i: usize, value: Value<'_>) {
        if self.items.len() <= i {
            self.items.resize(i + 1, Item::Absent);
        }
        self.items[i] = match value {
            Value::Null => Item::Absent,
            Value::Bool(value) => Item::Bool(value),
            Value::Int(value) => Item::Int(value),
            Value::Double(value) => Item::Double(value),
            Value::Text(text) => self.keep(text),
        };
    }

    /// Keeps a text that is not in the record.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Item {
        let start = self.scratch.len() as u32;
        self.scratch.extend_from_slice(text);
        Item::Scratch(start, self.scratch.len() as u32)
    }

    /// Forgets the fields of the last record, keeping their memory.
    pub(crate) fn reset(&mut self, fields: usize) {
        self.items.clear();
        self.items.resize(fields, Item::Absent);
        self.scratch.clear();
        self.open.clear();
    }

    fn found_bytes<'a>(&'a self, found: &'a Found, raw: &'a [u8]) -> &'a [u8] {
        match found {
            Found::Text(range) | Found::Integer(range) | Found::Decimal(range) => {
                &raw[range.start as usize..range.end as usize]
            }
            Found::Unescaped(range) => &self.scratch[range.start as usize..range.end as usize],
            _ => &[],
        }
    }
}

/// Decodes a record into `decoded`, or says why not.
///
/// ```
/// use granary_streams::decode::{Decoded, Field, Kind, Rule, Schema, decode};
/// let schema = Schema::json(vec![Field::new("device", "di", Kind::text(1, 128)), Field::new("m1", "m1", Kind::integer())]);
/// let mut decoded = Decoded::default();
/// let raw = br#"{"di":"d-7","m1":40,"more":[1,2]}"#;
/// decode(&schema, raw, &mut decoded).unwrap();
/// assert_eq!(decoded.text(0, raw), Some(&b"d-7"[..]));
/// let refused = decode(&schema, br#"{"di":"d-7","m1":"40"}"#, &mut decoded).unwrap_err();
/// assert_eq!((refused.rule, refused.message.as_str()), (Rule::Type, "m1: integer expected, text found"));
/// ```
pub fn decode(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> Result<(), Box<Reject>> {
    if raw.len() > schema.record_bytes_max {
        return Err(Reject::whole(
            Rule::Size,
            format!("at most {} bytes expected, {} found", schema.record_bytes_max, raw.len()),
        ));
    }
    decoded.reset(schema.fields.len());
    match &schema.format {
        Format::Json => {
            utf8(raw)?;
            if fast::read(schema, raw, decoded) {
                return Ok(());
            }
            // What the fast reader has put down counts for nothing.
            decoded.reset(schema.fields.len());
            json::read(schema, raw, decoded)?;
        }
        Format::Delimited { separator, columns } => {
            delimited::read(schema, *separator, columns, raw, decoded)?;
        }
        Format::MessagePack => messagepack::read(schema, raw, decoded)?,
    }
    check(schema, raw, decoded)
}

/// Types and limits of what was found, field by field in the order of their declaration.
fn check(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> Result<(), Box<Reject>> {
    for (i, field) in schema.fields.iter().enumerate() {
        decoded.items[i] = schema::check(field, &decoded.found[i], raw, decoded)?;
    }
    Ok(())
}

/// Refuses the first declared field that is missing.
fn none_missing(schema: &Schema, decoded: &Decoded) -> Result<(), Box<Reject>> {
    match decoded.found.iter().position(|found| matches!(found, Found::Missing)) {
        None => Ok(()),
        Some(i) => {
            let field = &schema.fields[i];
            Err(Reject::of(Rule::Fields, field, format_args!("`{}` is missing", field.from)))
        }
    }
}

/// The whole record as UTF-8.
fn utf8(raw: &[u8]) -> Result<(), Box<Reject>> {
    match std::str::from_utf8(raw) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Reject::whole(Rule::Utf8, format!("invalid UTF-8 after byte {}", error.valid_up_to())))
        }
    }
}
