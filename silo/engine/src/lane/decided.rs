//! What turns decide beside their state: outputs and reminders. A plain turn's joins the open commit at once; an async
//! turn's when the turn ends, so that a commit holds all of a turn or nothing.

use std::borrow::Cow;
use std::rc::Rc;

use granary_cluster::{Cause, Position, StreamId};
use granary_core::host::{Emitted, Place};
use granary_core::{Error, ErrorKind, GrainId, Key, Ran, Result};

use crate::reminders::{Reminder, cell_key};
use crate::slot::SlotHost;
use crate::turns::Decided;

use super::Lane;
use super::alarms::Alarm;
use super::host::NO_SOURCE;
use super::reminding::put_reminder;

/// What one turn may decide at most: outputs and changes of reminders.
const DECIDED_MAX: usize = 65_536;

impl Lane {
    /// Keeps something for the end of the async turn at `from`.
    pub(super) fn decide(&self, from: Place, decided: Decided) -> Result<()> {
        let mut turns = self.turns.borrow_mut();
        let Some(row) = turns.live(from.turn, from.generation) else {
            let message = format!("this turn of slot {} has ended: it decides nothing more", from.slot);
            return Err(Error::new(ErrorKind::Closed, message).ran(Ran::No));
        };
        if row.decided.len() >= DECIDED_MAX {
            let message = format!("one turn emits and schedules {DECIDED_MAX} things at most");
            return Err(Error::new(ErrorKind::Overloaded, message).ran(Ran::No));
        }
        row.decided.push(decided);
        Ok(())
    }

    /// Whether the turn at `from` has itself set (`true`) or taken back (`false`) a reminder of this name.
    pub(super) fn has_decided(&self, from: Place, name: &str) -> Option<bool> {
        let mut turns = self.turns.borrow_mut();
        turns.live(from.turn, from.generation)?.decided.iter().rev().find_map(|decided| match decided {
            Decided::Remind(reminder) if *reminder.name == *name => Some(true),
            Decided::Forget(forgotten) if **forgotten == *name => Some(false),
            _ => None,
        })
    }

    /// The turn has ended: what it decided joins the open commit; its number, 0 when there was nothing.
    pub(super) fn carry_decided(
        &self,
        host: &Rc<SlotHost>,
        kind: &str,
        key: &Key,
        is_of_record: bool,
        decided: Vec<Decided>,
    ) -> u64 {
        let mut needs = 0;
        for each in decided {
            let n = match each {
                Decided::Emit(stream, emitted) => self.push_output(host, key, is_of_record, stream, &emitted),
                Decided::Remind(reminder) => self.remind(host, reminder),
                Decided::Forget(name) => {
                    let grain = GrainId { kind: kind.into(), key: key.clone() };
                    self.forget(host, &grain, &name).unwrap_or(0)
                }
            };
            needs = needs.max(n);
        }
        needs
    }

    /// Appends an output to the open commit; its number. An output of a record's turn is named by the record, so that a
    /// replay gives the same name; calls are not replayed, so what they emit is named by its place in the slot's commits.
    pub(super) fn push_output(
        &self,
        host: &SlotHost,
        key: &Key,
        is_of_record: bool,
        stream: StreamId,
        emitted: &Emitted,
    ) -> u64 {
        let mut inner = host.inner.borrow_mut();
        let n = host.open_commit.get();
        let record = inner.applying.filter(|_| is_of_record);
        let here = Position { source: NO_SOURCE, partition: u32::from(host.id.0), offset: n };
        let Position { source, partition, offset } = record.unwrap_or(here);
        let index = if record.is_some() { inner.next_index } else { inner.effects.outbox.len() as u32 };
        inner.next_index += u32::from(record.is_some());
        let epoch = inner.machine.epoch();
        let time = if record.is_some() { inner.applying_at } else { self.now.get() };
        let place = || match record {
            Some(_) => format!("{source}/{partition}/{offset}/{index}"),
            None => format!("slot-{}/{epoch}/{n}/{index}", host.id),
        };
        let (name, value) = match emitted {
            Emitted::Value { id, value } => {
                let name = id.as_ref().map_or_else(place, ToString::to_string);
                (name, Cow::Borrowed(value))
            }
            Emitted::Alert(alert) => {
                let (id, event) = alert.at(&place());
                (id, Cow::Owned(event.to_string().into_bytes()))
            }
        };
        inner.effects.outbox.push(
            stream,
            Cause { source, partition, offset, index },
            time,
            key.routing_key().as_bytes(),
            |out| out.extend_from_slice(name.as_bytes()),
            |out| out.extend_from_slice(&value),
        );
        host.has_changes.set(true);
        n
    }

    /// Sets a reminder with the open commit; its number.
    pub(super) fn remind(&self, host: &SlotHost, reminder: Reminder) -> u64 {
        let due = reminder.due;
        let mut inner = host.inner.borrow_mut();
        put_reminder(&mut inner.cells, &reminder);
        if !inner.reminders.set(reminder) {
            tracing::error!(slot = %host.id, "a reminder is stored and will fire when the slot is opened again");
        }
        drop(inner);
        host.has_changes.set(true);
        self.set_alarm(due, Alarm::Reminders(host.id));
        host.open_commit.get()
    }

    /// Takes a reminder back with the open commit; its number, `None` when there was no such reminder.
    pub(super) fn forget(&self, host: &SlotHost, grain: &GrainId, name: &str) -> Option<u64> {
        let mut inner = host.inner.borrow_mut();
        if !inner.reminders.cancel(grain, name) {
            return None;
        }
        inner.cells.delete(|key| cell_key(grain, name, key));
        drop(inner);
        host.has_changes.set(true);
        Some(host.open_commit.get())
    }

    /// Whether the turn at `from` is one of a record, or of a call that such a turn made.
    pub(super) fn is_of_record(&self, from: Place) -> bool {
        if from.turn == Place::PLAIN {
            return self.plain_of_record.get();
        }
        self.turns.borrow_mut().live(from.turn, from.generation).is_some_and(|row| row.is_of_record)
    }
}
