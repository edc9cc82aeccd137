//! Turns past their deadline or past `turn_max`, answers that come too late, and turns of a slot that goes back.

use granary_core::{Access, Error, ErrorKind, Ran, Span, Timestamp};

use crate::slot::{Blame, SlotHost};

use super::Lane;
use super::alarms::Alarm;
use super::deliver::refuse;
use super::moving::Here;

/// A store that has not answered for so long is away: durable calls are refused before they run.
const STORE_AWAY_AFTER: Span = Span(1_000);
/// Deadlines further away than this are looked at with a coarse eye.
const FAR: Span = Span(1_000);
/// What a coarse eye sees.
const COARSE_MS: i64 = 64;
/// Turns are looked at no more often than this for answers out of time.
const TURNS_EVERY: Span = Span(10);

impl Lane {
    /// Wakes the turn that is being polled at this time at the latest.
    pub(super) fn wake_turn_at(&self, at: Timestamp, waker: std::task::Waker) {
        let polled = self.polling.get();
        let mut turns = self.turns.borrow_mut();
        let Some(row) = polled.and_then(|no| turns.get(no)) else {
            return self.set_alarm(at, Alarm::Wake(waker));
        };
        let is_far = at.since(self.now.get()) > FAR;
        let at =
            if is_far { Timestamp(at.ms().saturating_add(COARSE_MS) / COARSE_MS * COARSE_MS) } else { at };
        row.wake_at(at, waker);
        drop(turns);
        self.set_alarm(at, Alarm::Turns);
    }

    /// Wakes the turns that wait for an answer that is out of time.
    pub(super) fn wake_turns(&self) {
        let now = self.now.get();
        if !self.alarms.borrow_mut().turns_ring(now) {
            return;
        }
        let mut turns = self.turns.borrow_mut();
        let numbers = turns.numbers();
        let next = numbers.into_iter().filter_map(|no| turns.get(no)?.wake_due(now)).min();
        drop(turns);
        if let Some(at) = next {
            self.set_alarm(at.max(now + TURNS_EVERY), Alarm::Turns);
        }
    }

    /// Whether the store has not answered for a while.
    pub(super) fn is_store_away(&self) -> bool {
        self.store_away_since.get().is_some_and(|since| self.now.get().since(since) >= STORE_AWAY_AFTER)
    }

    /// Answers whose callers wait no longer, and calls of slots that have not opened in time.
    pub(super) fn check_answers(&self) {
        let now = self.now.get();
        for host in self.slots.iter().flatten() {
            let late = host.inner.borrow_mut().held.expired(now);
            for held in late {
                self.count(|s| &s.timed_out);
                held.answer.refuse(self.not_stored_in_time(host, held.call, now.since(held.since)));
            }
            if !host.is_running.get() || host.here.get() != Here::Yes {
                self.check_backlog(host);
            }
        }
    }

    fn not_stored_in_time(
        &self,
        host: &SlotHost,
        call: Option<(&'static granary_core::MethodInfo, granary_core::Key)>,
        waited: Span,
    ) -> Error {
        let (what, silo) = (
            call.map_or("a call".to_string(), |(info, key)| format!("{}/{key}.{}", info.kind, info.name)),
            &self.config.silo,
        );
        let message = format!(
            "{what} has run and waited {waited} for the store to keep it (slot {}, silo {silo})",
            host.id
        );
        let kind = if self.is_store_away() { ErrorKind::Unavailable } else { ErrorKind::Timeout };
        Error::new(kind, message).ran(Ran::Unknown)
    }

    fn check_backlog(&self, host: &SlotHost) {
        let now = self.now.get();
        let is_late = |call: &crate::mailbox::Call| call.deadline().is_some_and(|deadline| now >= deadline);
        let mut inner = host.inner.borrow_mut();
        if !inner.backlog.iter().any(is_late) {
            return;
        }
        let (late, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inner.backlog).into_iter().partition(is_late);
        inner.backlog = staying.into();
        drop(inner);
        for call in late {
            self.count(|s| &s.timed_out);
            let message = format!("slot {} of silo {} was not open in time", host.id, self.config.silo);
            refuse(call, Error::new(ErrorKind::Timeout, message).ran(Ran::No));
        }
    }

    /// Turns past their deadline lose their caller, turns past `turn_max` end.
    pub(super) fn check_turns(&self) {
        let now = self.now.get();
        let numbers = self.turns.borrow().numbers();
        for no in numbers {
            let mut turns = self.turns.borrow_mut();
            let Some(row) = turns.get(no) else { continue };
            let age = now.since(row.began);
            let turn_max = row.grain.kind().options.turn_max.ms().min(self.config.turn_max.ms());
            if age.ms() > turn_max {
                drop(turns);
                self.end_stuck(no, age);
            } else if !row.is_expired && row.options.deadline.is_some_and(|deadline| now >= deadline) {
                row.is_expired = true;
                let (info, key) = (row.info, row.key.clone());
                let mut turn = row.turn.take();
                drop(turns);
                self.count(|s| &s.timed_out);
                let age = age.ms() as f64 / 1_000.0;
                let message = format!(
                    "{}/{key}.{} has been running for {age:.1}s on {}; the turn goes on",
                    info.kind, info.name, self.config.silo
                );
                if let Some(turn) = &mut turn {
                    turn.as_mut().expire(Error::new(ErrorKind::Timeout, message).ran(Ran::Unknown));
                }
                if let Some(row) = self.turns.borrow_mut().get(no) {
                    row.turn = turn;
                }
            }
        }
    }

    /// Ends a waiting turn that lasts too long: its grain goes back to its image from before the turn.
    fn end_stuck(&self, no: u32, age: Span) {
        let Some(entry) = self.turns.borrow_mut().leave(no) else { return };
        let host = entry.slot.clone();
        let grain = format!("{}/{}.{}", entry.info.kind, entry.key, entry.info.name);
        tracing::warn!(%grain, %age, "turn ended: it lasted longer than its kind allows");
        let ran = if entry.called_out { Ran::Unknown } else { Ran::No };
        let message = format!("{grain} was ended after {age}: its grain is as before the turn");
        let error = Error::new(ErrorKind::Timeout, message).ran(ran);
        if let Some(mut turn) = entry.turn {
            turn.as_mut().refuse(error.clone());
        }
        let is_here = self.leave_async(&host, entry.activation, no, &entry.grain);
        if is_here && entry.info.access == Access::Write {
            match &entry.image {
                Some(image) => {
                    if let Err(error) = entry.grain.restore(image) {
                        host.break_with(format!("{grain}: {error}"), Blame::Slot);
                    }
                }
                None => self.drop_activation(&host, entry.activation),
            }
        }
        self.turn_cut_off(&host, entry.info, entry.options, entry.key, error);
        self.pump(&host, entry.activation);
    }

    /// Drops the turns of a slot that goes back: their effects are undone.
    pub(super) fn drop_turns(&self, host: &SlotHost, unsure: bool) {
        let numbers = self.turns.borrow().numbers();
        for no in numbers {
            let mut turns = self.turns.borrow_mut();
            if turns.get(no).is_none_or(|row| row.slot.id != host.id) {
                continue;
            }
            let Some(entry) = turns.leave(no) else { continue };
            drop(turns);
            let message = format!(
                "{}/{}.{}: slot {} went back to its last stored commit",
                entry.info.kind, entry.key, entry.info.name, host.id
            );
            let ran = if entry.called_out || unsure { Ran::Unknown } else { Ran::No };
            if let Some(mut turn) = entry.turn {
                turn.as_mut().refuse(Error::new(ErrorKind::Poisoned, message).ran(ran));
            }
        }
    }
}
