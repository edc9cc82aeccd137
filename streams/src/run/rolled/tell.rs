//! What leaves: rows for a roll-up, what a roll-up tells, what all slots are told.

use granary_cluster::{Effects, StreamId};
use granary_core::{Timestamp, codec};
use granary_window::rollup::Output;
use granary_window::{Datum, Row};

use super::Rolled;
use super::aside::Aside;
use super::message::{Message, Sent};
use crate::plan::{ALL, Member, Rows, Target, time_of};
use crate::run::counts::Tally;
use crate::run::emit::{Causes, grain};
use crate::run::judged_rows::WaitingRows;
use crate::run::prepared::Prepared;
use crate::run::rows::{self, Template};
use crate::run::{segments, text};

/// Sends a row to the roll-ups that read it.
pub(crate) fn send(
    prepared: &Prepared,
    to: &[usize],
    (row, template, has): (&Row<'_>, &Template, &Rows),
    causes: &mut Causes,
    effects: &mut Effects,
) {
    for place in to {
        let rolled = &prepared.rolled[*place];
        let step = &prepared.plan.steps[rolled.step];
        let rollup = step.rollup().expect("a prepared roll-up");
        let key = match rollup.key.as_ref().map(|key| has.member(key.index)) {
            None => ALL.as_bytes(),
            Some(Member::By(at)) => segments::iter(row.by).nth(at).map_or(&b""[..], |segment| segment.text),
            Some(_) => row.key,
        };
        let time = rows::time(row, row.start);
        let mut id = Vec::new();
        template.window(row, &mut id);
        let named = String::from_utf8_lossy(&id).into_owned();
        let cause = causes.next();
        match Sent::of(named, row, has, rollup) {
            Ok(sent) => effects.outbox.push(
                rolled.stream,
                cause,
                time,
                key,
                |out| {
                    out.extend_from_slice(step.name.as_bytes());
                    out.push(b'/');
                    template.identity(row, out);
                },
                |out| Message::Row(sent).write(out),
            ),
            Err(_) => {
                let mut event = Vec::new();
                template.row(row, &mut event);
                let (reason, watermark) = ("unassigned", None);
                let aside = Aside { step: &step.name, reason, key, time, watermark, id: &id };
                aside.put(prepared, &event, cause, effects);
            }
        }
    }
}

/// Tells all slots how far all of them have come.
pub(super) fn broadcast(
    prepared: &Prepared,
    place: usize,
    watermark: Timestamp,
    causes: &mut Causes,
    effects: &mut Effects,
) {
    let rolled = &prepared.rolled[place];
    let name = &prepared.plan.steps[rolled.step].name;
    for (slot, home) in prepared.homes.iter().enumerate() {
        effects.outbox.push(
            rolled.stream,
            causes.next(),
            time_of(watermark),
            home,
            |out| out.extend_from_slice(format!("watermark/{name}/{slot}/{}", watermark.ms()).as_bytes()),
            |out| Message::Watermark { watermark_ms: watermark.ms() }.write(out),
        );
    }
}

/// Takes what a roll-up tells to its sinks, and to the roll-ups that read it.
pub(super) struct Tell<'a> {
    pub prepared: &'a Prepared,
    pub rolled: &'a Rolled,
    pub tally: &'a mut Tally,
    pub causes: &'a mut Causes,
    pub effects: &'a mut Effects,
    /// Where rows wait that rules judge.
    pub waiting: &'a mut WaitingRows,
}

impl Output for Tell<'_> {
    fn result(&mut self, row: &Row<'_>, best: Option<&[&[Datum]]>) {
        let Tell { prepared, rolled, .. } = *self;
        self.waiting.push(prepared, &rolled.judged_by, &rolled.template, row);
        let write = |out: &mut Vec<u8>| self::write(prepared, rolled, row, best, out);
        for sink in &rolled.sinks {
            match &prepared.plan.sinks[*sink].to {
                Target::Topic(_) | Target::File(_) => self.effects.outbox.push(
                    StreamId(*sink as u16),
                    self.causes.next(),
                    rows::time(row, row.start),
                    row.key,
                    |out| rolled.template.identity(row, out),
                    write,
                ),
                Target::Grain { kind, method } => {
                    let mut json = Vec::new();
                    write(&mut json);
                    let value: serde_json::Value =
                        serde_json::from_slice(&json).expect("a row that was just written is JSON");
                    let arguments = codec::to_bytes(&value).expect("JSON can be encoded");
                    self.effects.tells.push((grain(kind, row.key), method.clone(), arguments));
                }
                Target::Call(_) => {} // made for windows only
            }
            self.tally.result(*sink, rows::standing(row));
        }
        let sent = (row, &rolled.template, &rolled.told);
        send(prepared, &rolled.rolled_by, sent, self.causes, self.effects);
    }
}

/// The row as JSON.
pub(super) fn write(
    prepared: &Prepared,
    rolled: &Rolled,
    row: &Row<'_>,
    best: Option<&[&[Datum]]>,
    out: &mut Vec<u8>,
) {
    match best {
        None => rolled.template.row(row, out),
        Some(best) => rolled.template.row_with(row, out, |out| self::best(prepared, rolled, best, out)),
    }
}

/// `,"top":[{"device":"d-7","m1_sum":40},...]`
fn best(prepared: &Prepared, rolled: &Rolled, best: &[&[Datum]], out: &mut Vec<u8>) {
    let rollup = prepared.plan.steps[rolled.step].rollup().expect("a prepared roll-up");
    out.extend_from_slice(b",\"top\":[");
    for (place, values) in best.iter().enumerate() {
        out.extend_from_slice(if place > 0 { b",{" } else { b"{" });
        for (i, (column, value)) in rollup.reads.iter().zip(values.iter()).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            text::string(out, column.name.as_bytes());
            out.push(b':');
            text::value(out, &value.value());
        }
        out.push(b'}');
    }
    out.push(b']');
}
