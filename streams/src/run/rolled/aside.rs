//! Rows that a roll-up cannot take, and records of its stream that cannot be applied.

use granary_cluster::{Cause, Effects, Record};
use granary_core::Timestamp;

use super::message::Sent;
use crate::run::emit::Causes;
use crate::run::prepared::Prepared;
use crate::run::{rows, text};

/// What is said of a row that is set aside.
pub(super) struct Aside<'a> {
    pub step: &'a str,
    pub reason: &'static str,
    pub key: &'a [u8],
    pub time: Timestamp,
    pub watermark: Option<Timestamp>,
    /// The identity of the row.
    pub id: &'a [u8],
}

impl Aside<'_> {
    /// Puts the row into the stream of late ones; `event` is the row as JSON.
    pub fn put(&self, prepared: &Prepared, event: &[u8], cause: Cause, effects: &mut Effects) {
        let Aside { step, reason, key, time, watermark, id } = *self;
        effects.outbox.push(
            prepared.late,
            cause,
            time,
            key,
            |out| rows::late_id(step, id, out),
            |out| rows::LateRow { step, reason, key, time, watermark, event }.write(out),
        );
    }
}

/// A row on its way, as JSON.
pub(super) fn row(sent: &Sent) -> Vec<u8> {
    let mut out = b"{\"window\":".to_vec();
    text::string(&mut out, sent.id.as_bytes());
    out.extend_from_slice(b",\"window_start\":");
    text::int(&mut out, sent.start_ms);
    out.extend_from_slice(b",\"window_end\":");
    text::int(&mut out, sent.end_ms);
    let values = sent.values.iter().flatten();
    for (name, value) in values.filter(|(name, _)| !["window_start", "window_end"].contains(&&**name)) {
        out.push(b',');
        text::string(&mut out, name.as_bytes());
        out.push(b':');
        text::value(&mut out, &value.value());
    }
    out.push(b'}');
    out
}

/// Puts a record of a roll-up's stream into the stream of poisoned ones.
pub(crate) fn poison(
    prepared: &Prepared,
    place: usize,
    record: &Record<'_>,
    reason: &str,
    effects: &mut Effects,
) {
    let step = &prepared.plan.steps[prepared.rolled[place].step].name;
    let topic = prepared.rolled_topics.get(place).map_or("", String::as_str);
    let origin = rows::Origin { source: step, topic, is_stray: false };
    effects.outbox.push(
        prepared.poisoned,
        Causes::of(record).next(),
        record.appended_at,
        record.key.unwrap_or_default(),
        |out| rows::of_record("poisoned", &origin, record, out),
        |out| rows::poisoned(&origin, record, reason, out),
    );
}
