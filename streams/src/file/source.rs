//! The `sources:` of a pipeline file.

use granary_core::Timestamp;
use granary_window as window;

use super::mistake::{Mistakes, Place};
use super::read::{self, Map};
use super::yaml::Node;
use crate::decode::{BYTES_MAX_DEFAULT, FIELDS_MAX, Field, Format, Kind, Schema};
use crate::plan::{Column, ColumnKind, Decoder, EventTime, Read, Source, Start};

/// The largest `record_bytes_max`.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// One source.
pub(super) fn read(name: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Source> {
    let mut map = Map::new(node, "a source", mistakes);
    let topic = map.need("topic", mistakes).and_then(|node| read::text(node, "a topic's name", mistakes));
    let start = map.get("start").and_then(|node| start(node, mistakes)).unwrap_or_default();
    let read = match map.get("read").and_then(|n| read::word(n, "read", &["in_place", "rekey"], mistakes)) {
        Some("rekey") => Read::Rekey,
        _ => Read::InPlace,
    };
    let schema = map.need("decode", mistakes).and_then(|node| schema(node, mistakes));
    let columns = schema.as_ref().map(columns).unwrap_or_default();
    let is_whole = schema.is_some();
    let mut column = |node: &Node, what: &str, mistakes: &mut Mistakes| {
        is_whole.then(|| field(node, what, &columns, mistakes)).flatten()
    };
    let id = map.get("id").and_then(|node| column(node, "id", mistakes));
    let key = map.need("key", mistakes).and_then(|node| {
        let key = column(node, "key", mistakes)?;
        if key.kind == ColumnKind::Double {
            mistakes.add(
                node.place,
                format!("`{}` is a double: a key is text, an integer or a boolean", key.name),
            );
        }
        Some(key)
    });
    let time = event_time(&mut map, &mut column, mistakes);
    let watermark = map.need("watermark", mistakes).and_then(|node| watermark(node, mistakes));
    map.not_yet("remember_key", mistakes);
    map.not_yet("enrich", mistakes);
    map.finish(mistakes);
    let (id, key) = (id.map(|column| column.index), key?.index);
    Some(Source {
        name: name.into(),
        topic: topic?.into(),
        start,
        read,
        decoder: Decoder::Schema(schema?),
        columns,
        id,
        key,
        time: time?,
        watermark: watermark?,
    })
}

fn event_time(
    map: &mut Map<'_>,
    column: &mut impl FnMut(&Node, &str, &mut Mistakes) -> Option<Column>,
    mistakes: &mut Mistakes,
) -> Option<EventTime> {
    let time = map.get("time").map(|node| (node.place, read::word(node, "time", &TIMES, mistakes)));
    match time {
        Some((_, Some("ingestion"))) => return Some(EventTime::Ingestion),
        Some((place, Some("processing"))) => {
            mistakes.add(
                place,
                "`processing` is not supported yet; use `ingestion` or an `event_time`".to_owned(),
            );
            return None;
        }
        _ => {}
    }
    let node = map.need("event_time", mistakes)?;
    let found = column(node, "event_time", mistakes)?;
    if found.kind != ColumnKind::Int {
        let message = format!("`{}` is no time: a field of type time_ms or integer expected", found.name);
        mistakes.add(node.place, message);
    }
    Some(EventTime::Column(found.index))
}

const TIMES: [&str; 3] = ["event", "ingestion", "processing"];

fn field(node: &Node, what: &str, columns: &[Column], mistakes: &mut Mistakes) -> Option<Column> {
    let name = read::text(node, "a field's name", mistakes)?;
    let found = columns.iter().find(|column| &*column.name == name).cloned();
    if found.is_none() {
        let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        mistakes.unknown(node.place, &format!("field in `{what}`:"), name, &names);
    }
    found
}

fn columns(schema: &Schema) -> Vec<Column> {
    let kind = |kind: &Kind| match kind {
        Kind::Text { .. } => ColumnKind::Text,
        Kind::TimeMs { .. } | Kind::Integer { .. } => ColumnKind::Int,
        Kind::Double { .. } => ColumnKind::Double,
        Kind::Boolean => ColumnKind::Bool,
    };
    let column =
        |(index, field): (usize, &Field)| Column { name: field.name.clone(), index, kind: kind(&field.kind) };
    schema.fields.iter().enumerate().map(column).collect()
}

fn start(node: &Node, mistakes: &mut Mistakes) -> Option<Start> {
    let found = read::text(node, "start", mistakes)?;
    match (found, rfc3339(found)) {
        ("earliest", _) => Some(Start::Earliest),
        ("latest", _) => Some(Start::Latest),
        (_, Some(time)) => Some(Start::At(time)),
        _ => {
            mistakes.unknown(node.place, "start", found, &["earliest", "latest", "2026-01-31T00:00:00Z"]);
            None
        }
    }
}

/// A point in time: `2026-01-31T00:00:00Z` or `2026-01-31T02:00:00+02:00`, with or without fractions of a second.
pub fn rfc3339(text: &str) -> Option<Timestamp> {
    let Some(text) = text.strip_suffix('Z') else {
        let (text, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
        let [sign @ (b'+' | b'-'), hours @ .., _, _, _] = offset.as_bytes() else { return None };
        let (hours, minutes) = (std::str::from_utf8(hours).ok()?, offset[3..].strip_prefix(':')?);
        let is_number = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
        let (hours, minutes) = is_number(hours).then_some((hours, minutes)).filter(|_| is_number(minutes))?;
        let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
        let ahead_ms = if *sign == b'+' { minutes } else { -minutes } * 60_000;
        return utc(text).map(|time| Timestamp(time.ms() - ahead_ms));
    };
    utc(text)
}

fn utc(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse::<i64>().ok()).flatten()
        });
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days_in_month = *days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year > 9_999 || day < 1 || day > days_in_month || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Days since 1970 in the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp(seconds * 1_000 + digits.parse::<i64>().ok()?))
}

fn watermark(node: &Node, mistakes: &mut Mistakes) -> Option<window::Watermark> {
    let mut map = Map::new(node, "watermark", mistakes);
    let per = match map.get("per").and_then(|n| read::word(n, "per", &["key", "partition"], mistakes)) {
        // A slot reads one partition of a source, so this is the partition's clock as the slot sees it.
        Some("partition") => window::Per::Stream { partitions: 1 },
        _ => window::Per::Key,
    };
    // Zero is a trap for whoever does not know of it, so it must be said.
    let disorder = map.need("out_of_orderness", mistakes);
    let out_of_orderness = disorder.and_then(|node| read::span(node, "out_of_orderness", mistakes));
    let mut or_none = |name: &'static str, mistakes: &mut Mistakes| match map.get(name) {
        Some(node) if is_none(node) => None,
        Some(node) => read::span(node, name, mistakes),
        None => None,
    };
    let idle_after = or_none("idle_after", mistakes);
    let future_guard = or_none("future_guard", mistakes);
    map.finish(mistakes);
    Some(window::Watermark { per, out_of_orderness: Some(out_of_orderness?), idle_after, future_guard })
}

fn is_none(node: &Node) -> bool {
    matches!(&node.value, super::yaml::Value::Scalar { text, .. } if text == "none")
}

fn schema(node: &Node, mistakes: &mut Mistakes) -> Option<Schema> {
    let mut map = Map::new(node, "decode", mistakes);
    let formats = ["json", "delimited", "messagepack"];
    let format_node = map.need("format", mistakes);
    let format = format_node.and_then(|node| match read::text(node, "format", mistakes)? {
        later @ ("avro" | "json_schema" | "json_registry") => {
            mistakes.add(
                node.place,
                format!("format `{later}` is not supported yet; allowed: {}", formats.join(", ")),
            );
            None
        }
        _ => read::word(node, "format", &formats, mistakes),
    });
    let record_bytes_max = match map.get("record_bytes_max") {
        Some(node) => read::number(node, "record_bytes_max", 1..=RECORD_BYTES_MAX, mistakes)? as usize,
        None => BYTES_MAX_DEFAULT,
    };
    let delimited = (format == Some("delimited")).then(|| delimited(&mut map, mistakes));
    let fields = map.need("fields", mistakes).map(|node| (node.place, fields(node, mistakes)));
    map.finish(mistakes);
    let (place, fields) = fields?;
    let format = match format? {
        "json" => Format::Json,
        "messagepack" => Format::MessagePack,
        _ => {
            let (separator, columns) = delimited??;
            columns_exist(&columns, &fields, place, mistakes);
            Format::Delimited { separator, columns }
        }
    };
    Some(Schema { format, record_bytes_max, fields })
}

fn delimited(map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<(u8, Vec<Box<str>>)> {
    let separator = match map.get("separator") {
        None => b'|',
        Some(node) => match read::text(node, "separator", mistakes)?.as_bytes() {
            [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && *byte != b'\n' => *byte,
            _ => {
                mistakes.add(
                    node.place,
                    "separator: one ASCII character, no letter or digit, expected".to_owned(),
                );
                return None;
            }
        },
    };
    let node = map.need("columns", mistakes)?;
    let columns: Vec<Box<str>> = read::items(node)
        .iter()
        .filter_map(|item| read::text(item, "a column's name", mistakes))
        .map(Into::into)
        .collect();
    if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)) {
        mistakes.add(node.place, format!("column `{}` stands twice", twice.1));
    }
    Some((separator, columns))
}

fn columns_exist(columns: &[Box<str>], fields: &[Field], place: Place, mistakes: &mut Mistakes) {
    let names: Vec<&str> = columns.iter().map(|name| &**name).collect();
    for field in fields.iter().filter(|field| !columns.contains(&field.from)) {
        mistakes.unknown(place, &format!("column for field `{}`", field.name), &field.from, &names);
    }
}

fn fields(node: &Node, mistakes: &mut Mistakes) -> Vec<Field> {
    let entries = Map::new(node, "fields", mistakes).entries();
    if entries.is_empty() || entries.len() > FIELDS_MAX {
        mistakes.add(node.place, format!("fields: 1 to {FIELDS_MAX} expected, {} found", entries.len()));
    }
    let mut fields: Vec<Field> = Vec::new();
    for (name, node) in entries.into_iter().take(FIELDS_MAX) {
        let text = read::name(name, "field", mistakes);
        let mut map = Map::new(node, "a field", mistakes);
        let from = map.get("from").and_then(|node| read::text(node, "a name", mistakes)).unwrap_or(text);
        let kind = map.need("type", mistakes).and_then(|node| read::word(node, "type", &TYPES, mistakes));
        // Of an unknown type nobody knows which names belong to it.
        let kind = kind.and_then(|word| {
            let kind = kind_of(word, &mut map, mistakes);
            map.finish(mistakes);
            kind
        });
        if let Some(other) = fields.iter().find(|field| &*field.from == from) {
            mistakes.add(node.place, format!("`{from}` is read by field `{}` already", other.name));
        }
        if let Some(kind) = kind {
            fields.push(Field::new(text, from, kind));
        }
    }
    fields
}

const TYPES: [&str; 5] = ["text", "time_ms", "integer", "double", "boolean"];

fn kind_of(word: &str, map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<Kind> {
    Some(match word {
        "text" => match map.get("chars") {
            Some(node) => Kind::Text { chars: read::range(node, "chars", "1..128", mistakes)? },
            None => Kind::Text { chars: 0..=u64::MAX },
        },
        "time_ms" => {
            let digits = match map.get("digits") {
                Some(node) => read::range(node, "digits", "1..15", mistakes)?,
                None => 1..=15,
            };
            let quoted =
                map.get("quoted").and_then(|n| read::word(n, "quoted", &["allowed", "none"], mistakes));
            Kind::TimeMs { digits, quoted: quoted == Some("allowed") }
        }
        "integer" => match map.get("range") {
            Some(node) => Kind::Integer { range: read::range(node, "range", "-100..100", mistakes)? },
            None => Kind::integer(),
        },
        "double" => match map.get("range") {
            Some(node) => Kind::Double { range: read::range(node, "range", "-1e12..1e12", mistakes)? },
            None => Kind::double(),
        },
        _ => Kind::Boolean,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(Timestamp(0)));
        assert_eq!(rfc3339("2026-01-31T00:00:00Z"), Some(Timestamp(1_769_817_600_000)));
        assert_eq!(rfc3339("2024-02-29T23:59:59.5Z"), Some(Timestamp(1_709_251_199_500)));
        assert_eq!(rfc3339("1970-01-01T01:30:00+01:30"), Some(Timestamp(0)));
        assert_eq!(rfc3339("1969-12-31T23:00:00-01:00"), Some(Timestamp(0)));
        for wrong in
            ["2023-02-29T00:00:00Z", "2026-01-31", "2026-1-31T24:00:00Z", "x", "2026-01-31T00:00:00+1:00"]
        {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }
}
