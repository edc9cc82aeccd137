//! Durable reminders of one slot: what is due, what a firing leaves behind, and what catching up means. No IO.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::host::{CatchUp, Later};
use granary_core::{GrainId, Result, Span, Timestamp, codec};
use serde::{Deserialize, Serialize};

/// Reminders one slot holds in memory at most.
pub(crate) const REMINDERS_MAX: usize = 1 << 18;

/// The first byte of a reminder's cell.
pub(crate) const CELL_PREFIX: &[u8] = b"r/";

/// A reminder, as stored in its cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reminder {
    pub grain: GrainId,
    pub name: Box<str>,
    pub method: Box<str>,
    pub arguments: Vec<u8>,
    pub due: Timestamp,
    pub period: Option<Span>,
    pub catch_up: CatchUp,
}

impl Reminder {
    /// What a turn of `grain` asked for.
    pub fn asked(grain: GrainId, later: &Later<'_>, now: Timestamp) -> Reminder {
        Reminder {
            grain,
            name: later.name.into(),
            method: later.method.into(),
            arguments: later.arguments.to_vec(),
            due: now + later.schedule.first,
            period: later.schedule.period,
            catch_up: later.schedule.catch_up,
        }
    }

    /// The key of its cell.
    pub fn cell_key(&self, key: &mut Vec<u8>) {
        cell_key(&self.grain, &self.name, key);
    }

    /// An occurrence was handled at `now`: when it is due next, `None` when it is over.
    fn after(&self, now: Timestamp) -> Option<Timestamp> {
        let period = self.period?;
        let next = self.due + period;
        if self.catch_up == CatchUp::Each || next > now {
            return Some(next);
        }
        // the missed ones are passed over: the next occurrence of the same grid that lies ahead
        let missed = now.since(self.due).ms() / period.ms().max(1);
        Some(self.due + Span(period.ms().saturating_mul(missed + 1)))
    }

    /// Whether an occurrence that is due since `due` is left out at `now` without firing.
    fn is_skipped(&self, now: Timestamp, served_since: Timestamp) -> bool {
        self.catch_up == CatchUp::Skip && self.due < served_since && self.due < now
    }
}

/// The key of a reminder's cell.
pub(crate) fn cell_key(grain: &GrainId, name: &str, key: &mut Vec<u8>) {
    key.extend_from_slice(CELL_PREFIX);
    key.extend_from_slice(grain.to_string().as_bytes());
    key.push(0);
    key.extend_from_slice(name.as_bytes());
}

/// The reminders of one slot.
#[derive(Debug, Default)]
pub(crate) struct Reminders {
    /// Each with its entry in `due`: later than the reminder says when it is tried again.
    by_no: BTreeMap<u32, (Reminder, Timestamp)>,
    by_name: BTreeMap<(GrainId, Box<str>), u32>,
    due: BTreeSet<(Timestamp, u32)>,
    next: u32,
    /// Since when the slot is served: what was due before was missed.
    served_since: Timestamp,
}

/// What happened to a reminder's cell.
pub(crate) enum Change {
    Put(Reminder),
    Delete(Reminder),
}

impl Reminders {
    /// Those of the slot's next opening, to be loaded: what was due before `served_since` was missed.
    pub fn opening(&self, served_since: Timestamp) -> Reminders {
        Reminders { served_since, next: self.next, ..Reminders::default() }
    }

    /// Reads a stored one.
    pub fn load(&mut self, cell: &[u8]) -> Result<()> {
        let reminder = codec::from_bytes(cell)?;
        self.insert(reminder);
        Ok(())
    }

    fn insert(&mut self, reminder: Reminder) {
        let no = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_name.insert((reminder.grain.clone(), reminder.name.clone()), no);
        self.due.insert((reminder.due, no));
        let at = reminder.due;
        self.by_no.insert(no, (reminder, at));
    }

    fn take(&mut self, grain: &GrainId, name: &str) -> Option<Reminder> {
        let no = self.by_name.remove(&(grain.clone(), name.into()))?;
        let (reminder, at) = self.by_no.remove(&no)?;
        self.due.remove(&(at, no));
        Some(reminder)
    }

    /// Whether reminder `no` is still set: a firing that waited while it was taken back is void.
    pub fn is_set(&self, no: u32) -> bool {
        self.by_no.contains_key(&no)
    }

    /// Whether the grain has a reminder of this name.
    pub fn has(&self, grain: &GrainId, name: &str) -> bool {
        self.by_name.contains_key(&(grain.clone(), name.into()))
    }

    /// The turn of reminder `no` could not begin: it is tried again at `at`, as the same occurrence.
    pub fn postpone(&mut self, no: u32, at: Timestamp) {
        if let Some((_, entry)) = self.by_no.get_mut(&no) {
            self.due.remove(&(*entry, no));
            *entry = at;
            self.due.insert((at, no));
        }
    }

    /// Sets one, in place of one with the same grain and name; false when there are too many.
    pub fn set(&mut self, reminder: Reminder) -> bool {
        self.take(&reminder.grain, &reminder.name);
        if self.by_no.len() >= REMINDERS_MAX {
            return false;
        }
        self.insert(reminder);
        true
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.by_no.len() >= REMINDERS_MAX
    }

    pub fn cancel(&mut self, grain: &GrainId, name: &str) -> bool {
        self.take(grain, name).is_some()
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the next due one off the list: it is to be fired (`Ok` with its number), or was skipped and moved on.
    pub fn pop(&mut self, now: Timestamp) -> Option<Result<(u32, Reminder), Change>> {
        let (at, no) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, no));
        let (reminder, _) = self.by_no.get(&no).cloned()?;
        if reminder.is_skipped(now, self.served_since) {
            return self.fired(no, now).map(Err);
        }
        Some(Ok((no, reminder)))
    }

    /// The turn of reminder `no` has ended at `now`: what becomes of its cell, in the same commit.
    pub fn fired(&mut self, no: u32, now: Timestamp) -> Option<Change> {
        let (mut reminder, at) = self.by_no.remove(&no)?;
        self.due.remove(&(at, no));
        match reminder.after(now) {
            Some(due) => {
                reminder.due = due;
                self.due.insert((due, no));
                self.by_no.insert(no, (reminder.clone(), due));
                Some(Change::Put(reminder))
            }
            None => {
                self.by_name.remove(&(reminder.grain.clone(), reminder.name.clone()));
                Some(Change::Delete(reminder))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reminder(due: i64, period: u64, catch_up: CatchUp) -> Reminder {
        Reminder {
            grain: GrainId::new("Meter", "m-1"),
            name: "bill".into(),
            method: "bill".into(),
            arguments: Vec::new(),
            due: Timestamp(due),
            period: Some(Span(period)),
            catch_up,
        }
    }

    fn firings(catch_up: CatchUp, due: i64, back_at: i64, until: i64) -> Vec<i64> {
        let mut reminders = Reminders::default().opening(Timestamp(back_at));
        reminders.set(reminder(due, 10, catch_up));
        let mut fired = Vec::new();
        for now in back_at..=until {
            while let Some(popped) = reminders.pop(Timestamp(now)) {
                if let Ok((no, _)) = popped {
                    fired.push(now);
                    reminders.fired(no, Timestamp(now));
                }
            }
        }
        fired
    }

    #[test]
    fn each_policy_catches_up_as_it_says() {
        // due at 100, 110, ..., 130 while nobody served the slot; back at 135
        assert_eq!(firings(CatchUp::Skip, 100, 135, 150), [140, 150]);
        assert_eq!(firings(CatchUp::Once, 100, 135, 150), [135, 140, 150]);
        assert_eq!(firings(CatchUp::Each, 100, 135, 150), [135, 135, 135, 135, 140, 150]);
    }

    #[test]
    fn without_an_outage_the_policies_agree() {
        for policy in [CatchUp::Skip, CatchUp::Once, CatchUp::Each] {
            assert_eq!(firings(policy, 100, 90, 125), [100, 110, 120]);
        }
    }

    #[test]
    fn the_cell_brings_it_back() {
        let before = reminder(100, 10, CatchUp::Each);
        let mut reminders = Reminders::default();
        reminders.load(&codec::to_bytes(&before).unwrap()).unwrap();
        assert_eq!(reminders.pop(Timestamp(100)).and_then(Result::ok).map(|(_, r)| r), Some(before));
    }
}
