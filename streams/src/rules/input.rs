//! Records into events: JSON objects and lines of CSV with a header.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::event::{Event, EventSpec, Raw, Unfit};

/// Reads records of one stream.
#[derive(Clone, Debug)]
pub struct Reader {
    spec: EventSpec,
    members: HashMap<Box<str>, Vec<Slot>>,
}

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Id,
    Time,
    Field(usize),
}

impl Reader {
    /// One for these events.
    pub fn new(spec: &EventSpec) -> Reader {
        let mut members: HashMap<Box<str>, Vec<Slot>> = HashMap::new();
        members.entry(spec.id.member.clone()).or_default().push(Slot::Id);
        members.entry(spec.time.member.clone()).or_default().push(Slot::Time);
        for (i, field) in spec.fields.iter().enumerate() {
            members.entry(field.from.member.clone()).or_default().push(Slot::Field(i));
        }
        Reader { spec: spec.clone(), members }
    }

    /// Reads a JSON object.
    pub fn json(&self, record: &[u8], event: &mut Event) -> Result<(), Unfit> {
        event.clear(self.spec.fields.len());
        let mut json = serde_json::Deserializer::from_slice(record);
        let filled = Fill { reader: self, event }.deserialize(&mut json);
        let filled = filled.and_then(|filled| json.end().map(|()| filled));
        let unfit = filled.map_err(|error| Unfit::new("json", error.to_string()))?;
        unfit.map_or(Ok(()), Err)?;
        if event.id.is_empty() {
            return Err(Unfit::new(&self.spec.id.member, "the id is missing"));
        }
        if event.time == granary_core::Timestamp::MIN {
            return Err(Unfit::new(&self.spec.time.member, "the time is missing"));
        }
        Ok(())
    }

    fn put(&self, slot: Slot, raw: Raw<'_>, event: &mut Event, is_csv: bool) -> Result<(), Unfit> {
        match slot {
            Slot::Id => event.set_id(&self.spec.id.member, raw),
            Slot::Time => event.set_time(&self.spec.time.member, raw),
            Slot::Field(i) => {
                event.set(i, &self.spec.fields[i], raw, is_csv);
                Ok(())
            }
        }
    }

    /// A reader of lines under this header; the names of columns that are not there otherwise.
    pub fn csv(&self, header: &csv::StringRecord) -> Result<Table<'_>, Vec<Box<str>>> {
        let place = |column: &str| header.iter().position(|name| name.trim() == column);
        let mut missing = Vec::new();
        let mut slots = Vec::new();
        let mut want = |slot, column: &str, is_needed| match place(column) {
            Some(place) => slots.push((slot, place)),
            None if is_needed => missing.push(column.into()),
            None => {}
        };
        want(Slot::Id, &self.spec.id.column, true);
        want(Slot::Time, &self.spec.time.column, true);
        for (i, field) in self.spec.fields.iter().enumerate() {
            want(Slot::Field(i), &field.from.column, !field.is_optional);
        }
        if missing.is_empty() { Ok(Table { reader: self, slots }) } else { Err(missing) }
    }
}

/// Reads lines of a CSV file.
#[derive(Clone, Debug)]
pub struct Table<'r> {
    reader: &'r Reader,
    slots: Vec<(Slot, usize)>,
}

impl Table<'_> {
    /// Reads a line.
    pub fn line(&self, line: &csv::StringRecord, event: &mut Event) -> Result<(), Unfit> {
        event.clear(self.reader.spec.fields.len());
        for (slot, place) in &self.slots {
            let raw = line.get(*place).map_or(Raw::Nothing, |text| Raw::Text(text.trim()));
            self.reader.put(*slot, raw, event, true)?;
        }
        Ok(())
    }
}

/// Fills an event from an object; gives what makes it unfit.
struct Fill<'a> {
    reader: &'a Reader,
    event: &'a mut Event,
}

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = Option<Unfit>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Unfit>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = Option<Unfit>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Unfit>, A::Error> {
        let mut unfit = None;
        let mut seen: Vec<Slot> = Vec::new();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let Some(slots) = self.reader.members.get(&*name.0) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &RawValue = map.next_value()?;
            let unescaped: Cow<'_, str>;
            let raw = match value.get().as_bytes()[0] {
                b'"' => {
                    unescaped = text(value);
                    Raw::Text(&unescaped)
                }
                b't' => Raw::Boolean(true),
                b'f' => Raw::Boolean(false),
                b'n' => Raw::Nothing,
                b'{' | b'[' => Raw::Other,
                _ => Raw::Number(value.get()),
            };
            for slot in slots {
                let is_twice = seen.contains(slot);
                seen.push(*slot);
                let raw = if is_twice { Raw::Other } else { raw };
                if let Err(error) = self.reader.put(*slot, raw, self.event, false) {
                    unfit.get_or_insert(error);
                }
            }
        }
        Ok(unfit)
    }
}

/// The text of a JSON string that was read already. Escapes that stand for no character are replaced.
fn text(value: &RawValue) -> Cow<'_, str> {
    let inside = &value.get()[1..value.get().len() - 1];
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    serde_json::from_str(value.get()).map_or(Cow::Borrowed("\u{fffd}"), Cow::Owned)
}

/// A member's name.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
