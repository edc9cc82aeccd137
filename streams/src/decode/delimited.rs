//! Columns between separators, without quoting: `id|device|dt|category|m1|m2`.

use super::{Decoded, Found, Kind, Reject, Rule, Schema, none_missing, number, utf8};

/// Reads one line into `decoded.found`. A carriage return at the end belongs to the line's end.
pub(super) fn read(
    schema: &Schema,
    separator: u8,
    columns: &[Box<str>],
    raw: &[u8],
    decoded: &mut Decoded,
) -> Result<(), Box<Reject>> {
    utf8(raw)?;
    decoded.found.clear();
    decoded.found.resize(schema.fields.len(), Found::Missing);
    let line = raw.strip_suffix(b"\r").unwrap_or(raw);
    let (mut from, mut count) = (0, 0);
    for column in line.split(|byte| *byte == separator) {
        let range = from as u32..(from + column.len()) as u32;
        from += column.len() + 1;
        if let Some(name) = columns.get(count)
            && let Some(i) = schema.fields.iter().position(|field| field.from == *name)
        {
            decoded.found[i] = found(&schema.fields[i].kind, column, range);
        }
        count += 1;
    }
    if count != columns.len() {
        let message = format!("{} columns expected, {count} found", columns.len());
        return Err(Reject::whole(Rule::Fields, message));
    }
    none_missing(schema, decoded)
}

/// A column has no type of its own: it is read as what the field is.
fn found(kind: &Kind, column: &[u8], range: std::ops::Range<u32>) -> Found {
    match kind {
        Kind::Text { .. } => Found::Text(range),
        // Only digits are accepted, whatever they are called here.
        Kind::TimeMs { .. } => Found::Integer(range),
        Kind::Integer { .. } | Kind::Double { .. } => match number::scan(column) {
            Some(shape) if shape.len == column.len() && shape.is_integer => Found::Integer(range),
            Some(shape) if shape.len == column.len() => Found::Decimal(range),
            _ => Found::Text(range),
        },
        Kind::Boolean => match column {
            b"true" => Found::Bool(true),
            b"false" => Found::Bool(false),
            _ => Found::Text(range),
        },
    }
}
