//! Every key there is, and what may stand there.

use std::collections::BTreeMap;

use ::config::{Map, Value, ValueKind};

use super::found;
use super::layers::Layer;
use super::mistakes::{Mistakes, nearest};

/// What may stand at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Any text but the empty one.
    Text,
    /// A name that is also part of topics and keys: letters, digits, `-`, `_` and `.`.
    Name,
    /// Host and port.
    Address,
    /// Some of those, comma-separated.
    Addresses,
    /// A whole number.
    Whole { min: u64, max: u64 },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts; in variables and arguments comma-separated.
    Texts,
    /// A section whose keys are another program's.
    Foreign,
}

/// Longest name, in bytes: Kafka's limit for topics leaves room for our prefix and suffix.
const NAME_BYTES_MAX: usize = 100;

/// Lanes beyond this are a mistake of writing, not a machine.
const LANES_MAX: u64 = 1_024;

/// A shorter lease than this would end whenever a machine is busy.
const LEASE_MS_MIN: u64 = 200;

/// A broker that is busy takes its time to answer; beyond an hour nobody waits.
const KAFKA_AWAY_MS_MIN: u64 = 1_000;
const KAFKA_AWAY_MS_MAX: u64 = 3_600_000;

/// A minute between commits is beyond every use.
const INTERVAL_MS_MAX: u64 = 60_000;

/// The keys, sections first to last.
pub(super) const KEYS: &[(&str, Shape)] = &[
    ("pipelines", Shape::Texts),
    ("cluster.name", Shape::Name),
    ("cluster.slots", Shape::Whole { min: 1, max: 4_096 }),
    ("cluster.left_out", Shape::Texts),
    ("silo.listen", Shape::Address),
    ("silo.gateway", Shape::Address),
    ("silo.name", Shape::Name),
    ("silo.advertise", Shape::Address),
    ("silo.lease_ms", Shape::Whole { min: LEASE_MS_MIN, max: INTERVAL_MS_MAX }),
    ("silo.kafka_away_max_ms", Shape::Whole { min: KAFKA_AWAY_MS_MIN, max: KAFKA_AWAY_MS_MAX }),
    ("silo.lanes", Shape::Whole { min: 1, max: LANES_MAX }),
    ("silo.memory_bytes_max", Shape::Whole { min: 16 << 20, max: i64::MAX as u64 }),
    ("store.kind", Shape::Word(&["embedded", "redis"])),
    ("store.path", Shape::Text),
    ("store.url", Shape::Text),
    ("store.durability", Shape::Word(&["fsync", "everysec"])),
    ("store.wait_replicas", Shape::Whole { min: 0, max: 16 }),
    ("log.kind", Shape::Word(&["embedded", "kafka"])),
    ("log.brokers", Shape::Addresses),
    ("log.kafka", Shape::Foreign),
    ("commit.interval_min_ms", Shape::Whole { min: 0, max: INTERVAL_MS_MAX }),
    ("commit.interval_max_ms", Shape::Whole { min: 1, max: INTERVAL_MS_MAX }),
    ("alerts.http", Shape::Word(&["refused", "allowed"])),
    ("alerts.ports", Shape::Texts),
    ("alerts.allowed", Shape::Texts),
    ("alerts.ca_file", Shape::Text),
];

fn shape_of(key: &str) -> Option<Shape> {
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, shape)| *shape)
}

fn is_section(key: &str) -> bool {
    KEYS.iter().any(|(known, _)| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// A text of a variable or an argument as what its key wants, or as it is when it is not that.
pub(super) fn parse(key: &str, text: &str) -> ValueKind {
    let as_text = || ValueKind::String(text.to_owned());
    match shape_of(key) {
        Some(Shape::Whole { .. }) => text.trim().parse::<u64>().map_or_else(|_| as_text(), ValueKind::U64),
        Some(Shape::Texts) => {
            let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            ValueKind::Array(entries.map(|entry| Value::new(None, entry)).collect())
        }
        _ => as_text(),
    }
}

/// Notes every mistake of a layer.
pub(super) fn check(layer: &Layer, mistakes: &mut Mistakes) {
    check_table("", &layer.values, layer.is_text, mistakes);
}

fn check_table(section: &str, table: &Map<String, Value>, is_text: bool, mistakes: &mut Mistakes) {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (name, value) in entries {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let place = value.origin().unwrap_or_default();
        match (shape_of(&key), &value.kind) {
            (Some(shape), _) => {
                if let Err(problem) = fits(shape, value, is_text) {
                    mistakes.note(&key, place, problem);
                }
            }
            (None, ValueKind::Table(inner)) if is_section(&key) => {
                check_table(&key, inner, is_text, mistakes);
            }
            (None, _) if is_section(&key) => {
                mistakes.note(&key, place, format!("a section expected, {} found", found(value)));
            }
            (None, kind) => {
                let is_table = matches!(kind, ValueKind::Table(_));
                mistakes.note(&key, place, unknown(section, name, is_table));
            }
        }
    }
}

fn unknown(section: &str, name: &str, is_table: bool) -> String {
    let what = if is_table { "section" } else { "key" };
    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
    let mut words: Vec<&str> = KEYS
        .iter()
        .filter_map(|(known, _)| known.strip_prefix(&*prefix))
        .map(|rest| rest.split_once('.').map_or(rest, |(word, _)| word))
        .collect();
    words.dedup();
    if let Some(word) = nearest(name, words.iter().copied()) {
        return format!("unknown {what}; did you mean `{prefix}{word}`?");
    }
    // A key that belongs elsewhere: the commonest mistake after a misspelt one.
    let elsewhere = KEYS.iter().find(|(known, _)| known.rsplit_once('.').is_some_and(|(_, key)| key == name));
    match elsewhere {
        Some((known, _)) => format!("unknown {what}; did you mean `{known}`?"),
        None => format!("unknown {what}; allowed here: {}", words.join(", ")),
    }
}

fn fits(shape: Shape, value: &Value, is_text: bool) -> Result<(), String> {
    let wants = |what: &str| Err(format!("{what} expected, {} found", found(value)));
    match (shape, &value.kind) {
        (Shape::Whole { min, max }, kind) => match whole(kind) {
            Some(number) if (i128::from(min)..=i128::from(max)).contains(&number) => Ok(()),
            Some(number) => Err(format!("{number} is not between {min} and {max}")),
            None => wants(&format!("a whole number from {min} to {max}")),
        },
        (Shape::Word(words), ValueKind::String(text)) => word(text, words),
        (Shape::Word(words), _) => wants(&format!("one of {}", words.join(", "))),
        (Shape::Texts, ValueKind::Array(list)) => {
            match list
                .iter()
                .find(|entry| !matches!(&entry.kind, ValueKind::String(text) if !text.is_empty()))
            {
                Some(entry) => Err(format!("a list of texts expected, {} found in it", found(entry))),
                None => Ok(()),
            }
        }
        (Shape::Texts, _) => wants("a list of texts"),
        (Shape::Foreign, ValueKind::Table(table)) => {
            let mut wrong: Vec<_> = table.iter().filter(|(_, value)| !is_scalar(value)).collect();
            wrong.sort_by_key(|(key, _)| *key);
            match wrong.first() {
                Some((key, value)) => Err(format!(
                    "`{key}`: one value expected, {} found; a name with dots stands in quotes",
                    found(value)
                )),
                None => Ok(()),
            }
        }
        (Shape::Foreign, _) => wants("a section"),
        (Shape::Text, ValueKind::String(text)) if !text.is_empty() => Ok(()),
        (Shape::Name, ValueKind::String(text)) => name(text),
        (Shape::Address, ValueKind::String(text)) => address(text),
        (Shape::Addresses, ValueKind::String(text)) => {
            text.split(',').try_for_each(|one| address(one.trim()))
        }
        (Shape::Text, ValueKind::String(_)) => Err("it is empty".into()),
        (Shape::Text | Shape::Name, _) if is_text => wants("one value"),
        (Shape::Text | Shape::Name, _) => wants("text in quotes"),
        (Shape::Address, _) => wants("\"host:port\""),
        (Shape::Addresses, _) => wants("\"host:port,host:port\""),
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value.kind, ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil)
}

fn whole(kind: &ValueKind) -> Option<i128> {
    match kind {
        ValueKind::I64(number) => Some(i128::from(*number)),
        ValueKind::U64(number) => Some(i128::from(*number)),
        _ => None,
    }
}

fn word(text: &str, words: &[&'static str]) -> Result<(), String> {
    if words.contains(&text) {
        return Ok(());
    }
    let allowed = words.join(", ");
    Err(match nearest(text, words.iter().copied()) {
        Some(word) => format!("`{text}` is not one of {allowed}; did you mean `{word}`?"),
        None => format!("`{text}` is not one of {allowed}"),
    })
}

fn name(text: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(is_allowed) {
        return Err(format!(
            "`{text}` is not a name: 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.` are allowed"
        ));
    }
    Ok(())
}

fn address(text: &str) -> Result<(), String> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
    });
    if is_address { Ok(()) } else { Err(format!("`{text}` is not \"host:port\"")) }
}

/// Where each value of a merged configuration was set.
pub(super) fn origins(merged: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        let ValueKind::Table(table) = &value.kind else {
            into.insert(prefix.to_owned(), value.origin().unwrap_or_default().to_owned());
            return;
        };
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            walk(&key, value, into);
        }
    }
    let mut origins = BTreeMap::new();
    walk("", merged, &mut origins);
    origins
}
