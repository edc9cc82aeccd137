//! Rows of patterns and joins: JSON, and what names them.

use granary_core::Timestamp;
use granary_window::join::{At, Paired};
use granary_window::noted::Noted;
use granary_window::pattern::{Found, Pane};
use granary_window::{Datum, Value};
use sha2::{Digest, Sha256};

use super::{segments, text};
use crate::plan::{Column, ColumnKind, JoinStep, PatternStep, Plan, Step};

/// What the rows of a step have in common.
#[derive(Debug)]
pub(crate) struct Frame {
    /// `"device":`
    key: Box<[u8]>,
    key_is_text: bool,
    /// `Pattern/` or `Join/`
    kind: &'static str,
    step: Box<str>,
}

/// A row on its way.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub time: Timestamp,
    pub id: Vec<u8>,
    pub json: Vec<u8>,
}

impl Frame {
    pub fn new(plan: &Plan, step: &Step) -> Frame {
        let source = &plan.sources[step.source];
        let key = source.columns.iter().find(|column| column.index == source.key);
        let is_text = |column: &Column| matches!(column.kind, ColumnKind::Text | ColumnKind::Any);
        let (name, key_is_text) = key.map_or(("key", true), |column| (&*column.name, is_text(column)));
        let mut key = Vec::new();
        text::string(&mut key, name.as_bytes());
        key.push(b':');
        let kind = if step.join().is_some() { "Join/" } else { "Pattern/" };
        Frame { key: key.into(), key_is_text, kind, step: step.name.clone() }
    }

    fn begin(&self, key: &[u8], out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.key);
        if self.key_is_text {
            text::string(out, key);
        } else {
            out.extend_from_slice(key);
        }
    }

    /// `Pattern/<key>/<step>/<digest>`: a replay makes the same one, and so do copies of the same events.
    fn identity(&self, key: &[u8], digest: Sha256) -> Vec<u8> {
        let mut id = self.kind.as_bytes().to_vec();
        segments::escape(&mut id, key);
        id.push(b'/');
        id.extend_from_slice(self.step.as_bytes());
        id.push(b'/');
        let digest = digest.finalize();
        for byte in &digest[..16] {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            id.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        id
    }

    /// The row of a match, or of a partial one that ran out of time.
    pub fn matched(&self, of: &PatternStep, key: &[u8], found: &Found<'_, Noted>) -> Row {
        let events = found.selection.all();
        let mut row = Row::default();
        let mut digest = Sha256::new_with_prefix([u8::from(found.pane == Pane::Timeout)]);
        let (Some((_, first)), Some((_, last))) = (events.first(), events.last()) else { return row };
        row.time = last.time;
        let out = &mut row.json;
        self.begin(key, out);
        out.extend_from_slice(b",\"pattern\":");
        text::string(out, self.step.as_bytes());
        for (name, time) in [("start", first.time), ("end", last.time)] {
            out.extend_from_slice(&text::member(name));
            text::int(out, time.ms());
        }
        out.extend_from_slice(b",\"match\":");
        for (i, events) in events.chunk_by(|a, b| a.0 == b.0).enumerate() {
            out.push(if i == 0 { b'{' } else { b',' });
            let stage = events[0].0;
            text::string(out, of.pattern.stages[stage].name.as_bytes());
            for (i, (stage, event)) in events.iter().enumerate() {
                out.extend_from_slice(if i == 0 { b":[" } else { b"," });
                digest.update((*stage as u64).to_le_bytes());
                name(event, &mut digest);
                out.extend_from_slice(b"{\"id\":");
                text::value(out, &event.id.value());
                out.extend_from_slice(b",\"time\":");
                text::int(out, event.time.ms());
                for (place, column) in of.kept[..of.shown].iter().enumerate() {
                    out.extend_from_slice(&text::member(&column.name));
                    text::value(out, &event.value(place));
                }
                out.push(b'}');
            }
            out.push(b']');
        }
        let reason: &[u8] = if found.pane == Pane::Match { b"match" } else { b"timeout" };
        out.extend_from_slice(b"},\"reason\":\"");
        out.extend_from_slice(reason);
        out.extend_from_slice(b"\"}");
        row.id = self.identity(key, digest);
        row
    }

    /// The row of a pair, or of an event without a partner.
    pub fn paired(&self, of: &JoinStep, key: &[u8], paired: &Paired<'_, Noted>) -> Row {
        let mut row = Row::default();
        let mut digest = Sha256::new();
        let out = &mut row.json;
        self.begin(key, out);
        match paired.at {
            At::Time(time) => {
                row.time = time;
                out.extend_from_slice(b",\"time\":");
                text::int(out, time.ms());
            }
            At::Window(start, end) => {
                row.time = Timestamp(end.ms().saturating_sub(1));
                digest.update(start.ms().to_le_bytes());
                for (name, time) in [("window_start", start), ("window_end", end)] {
                    out.extend_from_slice(&text::member(name));
                    text::int(out, time.ms());
                }
            }
        }
        let sides = [("left", paired.left), ("right", paired.right)];
        for ((side, event), of) in sides.into_iter().zip(&of.sides) {
            out.extend_from_slice(&text::member(side));
            let Some(event) = event else {
                digest.update([0]);
                out.extend_from_slice(b"null");
                continue;
            };
            name(event, &mut digest);
            out.push(b'{');
            for (place, column) in of.shown.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                text::string(out, column.name.as_bytes());
                out.push(b':');
                text::value(out, &event.value(place));
            }
            out.push(b'}');
        }
        out.push(b'}');
        row.id = self.identity(key, digest);
        row
    }
}

/// What names an event, into the digest of a row.
fn name(event: &Noted, digest: &mut Sha256) {
    let mut id = Vec::new();
    segments::push(&mut id, &event.id.value());
    digest.update([1]);
    digest.update((id.len() as u64).to_le_bytes());
    digest.update(&id);
    digest.update(event.time.ms().to_le_bytes());
}

/// What names an event in rows: its id, or where it was read.
pub(crate) fn id_of(id: Option<Value<'_>>, partition: u32, offset: u64) -> Datum {
    match id {
        Some(id) => id.keep(),
        None => Datum::Text(format!("{partition}/{offset}").into_bytes().into()),
    }
}
