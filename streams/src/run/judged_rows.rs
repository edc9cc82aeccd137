//! Rows of windows that rules judge. A row waits until the input that made it is done, and is judged then as an event of its own:
//! its id is the row's identity, its time the last of its window.
//!
//! Invariant: no further input is taken while a row waits (`Applied::More`), and rows that wait are part of the commit. So rules
//! see rows in the order in which they were made, each once, wherever the slot is opened anew.

use std::collections::VecDeque;

use granary_cluster::{Applied, ByClock, Cause, Effects};
use granary_core::{Timestamp, codec};
use granary_window::rule::Outcome;
use granary_window::{Op, Reason, Row};
use serde::{Deserialize, Serialize};

use super::emit::Causes;
use super::judged::{Seat, Writer};
use super::prepared::Prepared;
use super::rows::{self, Template};
use super::slot::Slot;
use super::text;
use crate::rules::Event;

/// The cell of the rows that wait. No step's prefix begins like it.
const CELL: &[u8] = b"q/rows";
/// Rows judged in one portion.
const PORTION_ROWS: usize = 256;

/// A row that waits.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    /// The step of rules, by its name.
    step: String,
    time_ms: i64,
    key: String,
    /// Its identity.
    id: String,
    /// As topics have it, its identity before all else.
    row: String,
}

/// The rows of a slot that wait.
#[derive(Debug, Default)]
pub(crate) struct WaitingRows {
    rows: VecDeque<Waiting>,
    /// The store was asked for them.
    is_known: bool,
    is_stored: bool,
    is_changed: bool,
}

impl WaitingRows {
    /// Takes in a row for the steps of rules that judge it. What is withdrawn is no event.
    pub fn push(&mut self, prepared: &Prepared, judged_by: &[usize], template: &Template, row: &Row<'_>) {
        if judged_by.is_empty() || row.reason == Reason::Delete || row.op == Some(Op::Retract) {
            return;
        }
        let (mut id, mut value) = (Vec::new(), Vec::new());
        template.identity(row, &mut id);
        template.row(row, &mut value);
        let mut named = b"{\"window\":".to_vec();
        text::string(&mut named, &id);
        named.push(b',');
        named.extend_from_slice(value.get(1..).unwrap_or_default());
        for step in judged_by {
            self.rows.push_back(Waiting {
                step: prepared.plan.steps[*step].name.to_string(),
                time_ms: rows::time(row, row.start).ms(),
                key: String::from_utf8_lossy(row.key).into_owned(),
                id: String::from_utf8_lossy(&id).into_owned(),
                row: String::from_utf8_lossy(&named).into_owned(),
            });
        }
        self.is_changed = true;
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names their cell, as long as it is not known what it holds.
    pub fn missing(&self, prepared: &Prepared, cells: &mut Vec<Vec<u8>>) {
        if !self.is_known && prepared.judges_rows() {
            cells.push(CELL.to_vec());
        }
    }

    /// Hands over their cell; `None` when it is another one.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Option<Result<(), String>> {
        if cell != CELL {
            return None;
        }
        let rows = value.map_or(Ok(VecDeque::new()), codec::from_bytes);
        Some(rows.map_err(|error| error.message().to_owned()).map(|rows| {
            (self.rows, self.is_known, self.is_stored) = (rows, true, value.is_some());
        }))
    }

    pub fn open_cells(&self) -> usize {
        usize::from(self.is_changed)
    }

    /// Writes their cell, when that changed.
    pub fn seal(&mut self, put: &mut impl FnMut(&[u8], Option<&[u8]>)) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        if !self.rows.is_empty() {
            put(CELL, Some(&codec::to_bytes(&self.rows).expect("texts and numbers can be encoded")));
        } else if self.is_stored {
            put(CELL, None);
        }
        self.is_stored = !self.rows.is_empty();
    }
}

impl Slot {
    /// Judges a portion of the rows that wait. Which rows are in it does not depend on what is in memory: a portion that is taken
    /// again gives the same outputs the same causes.
    pub fn judge_rows(&mut self, prepared: &Prepared, cause: Cause, effects: &mut Effects) -> Applied {
        let mut missing = Vec::new();
        let mut portion = Vec::new();
        for row in self.waiting.rows.iter().take(PORTION_ROWS) {
            let place = self.seats.iter().position(|seat| *seat.name == *row.step);
            let event = place.and_then(|place| self.seats[place].event_of(row));
            if let Some((place, event)) = place.zip(event.as_ref()) {
                self.seats[place].missing(event, &mut missing);
            }
            portion.push((place, event));
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup(); // rows of one key lack the same
            effects.missing.append(&mut missing);
            return Applied::Missing;
        }
        let mut causes = Causes(cause);
        for (place, event) in portion {
            let Some(row) = self.waiting.rows.pop_front() else { break };
            self.waiting.is_changed = true;
            let Some(place) = place else { continue }; // the step is not there any more
            self.judge_row(prepared, place, (&row, event.as_ref()), &mut causes, effects);
        }
        effects.by_clock = Some(ByClock::Derived);
        self.applied()
    }

    fn judge_row(
        &mut self,
        prepared: &Prepared,
        place: usize,
        (row, event): (&Waiting, Option<&Event>),
        causes: &mut Causes,
        effects: &mut Effects,
    ) {
        let tally = &mut self.tally;
        let Seat { step: rules, judges, name, .. } = &mut self.seats[place];
        let (recorded_at, sequence) = (Timestamp(row.time_ms), causes.0.offset);
        let mut writer = Writer { prepared, rules, tally, causes, effects, recorded_at, sequence };
        let outcome = event.map(|event| judges.event(event, &mut |said| writer.write(&said)));
        let (reason, watermark) = match outcome {
            Some(Outcome::Accepted | Outcome::Duplicate) => return,
            Some(Outcome::Late(watermark)) => ("late", Some(watermark)),
            None => ("unassigned", None),
        };
        effects.outbox.push(
            prepared.late,
            causes.next(),
            recorded_at,
            row.key.as_bytes(),
            |out| rows::late_id(name, row.id.as_bytes(), out),
            |out| {
                let (key, event) = (row.key.as_bytes(), row.row.as_bytes());
                rows::LateRow { step: name, reason, key, time: recorded_at, watermark, event }.write(out);
            },
        );
    }
}

impl Seat {
    /// The row as an event; `None` when it cannot be one.
    fn event_of(&self, row: &Waiting) -> Option<Event> {
        let mut event = Event::default();
        self.step.reader.json(row.row.as_bytes(), &mut event).ok()?;
        event.time = Timestamp(row.time_ms);
        Some(event)
    }
}
