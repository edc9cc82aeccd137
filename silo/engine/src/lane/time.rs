//! Time on a lane: alarms, timers, reminders, deadlines, idle activations, turns that last too long.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use granary_cluster::Cells;
use granary_core::call::{Options, Origin};
use granary_core::envelope::Envelope;
use granary_core::{Access, Error, ErrorKind, Key, KindId, Ran, Result, SlotId, Span, Timestamp};
use tokio::sync::oneshot;

use crate::reminders::{CELL_PREFIX, Change, Reminder};
use crate::slot::SlotHost;
use crate::table::Table;

use super::Lane;

/// How often silent keys, deadlines of turns and their age are looked at.
pub(super) const TICK_EVERY: Span = Span(100);
/// Rows of a table looked at in one go.
const SWEEP_ROWS: usize = 4_096;
/// Times a reminder's turn may undo its slot before the occurrence is given up.
const REMINDER_FAILURES_MAX: u32 = 3;
/// What an activation costs besides its state, about, in bytes.
const ACTIVATION_BYTES: usize = 200;

/// What is due at a time.
pub(crate) enum Alarm {
    Wake(Waker),
    /// A call in this queue runs out of time.
    Queue(SlotId, u32),
    Timer(SlotId, u32),
    Reminders(SlotId),
    Take(SlotId),
    Resend(SlotId),
    /// Sources may have more.
    Sources,
    /// A commit may be due.
    Look,
    Tick,
    /// Idle activations, from this slot and row on.
    Sweep {
        slot: u16,
        from: u32,
    },
}

struct Due {
    at: Timestamp,
    no: u64,
    alarm: Alarm,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest, as the heap wants it; of two at one time the one set first.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.no).cmp(&(self.at, self.no))
    }
}

/// What is due when.
#[derive(Default)]
pub(crate) struct Alarms {
    heap: BinaryHeap<Due>,
    next: u64,
    looks_at: Option<Timestamp>,
}

impl Lane {
    pub(super) fn set_alarm(&self, at: Timestamp, alarm: Alarm) {
        let mut alarms = self.alarms.borrow_mut();
        if matches!(alarm, Alarm::Look) {
            if alarms.looks_at.is_some_and(|set| set <= at) {
                return; // an earlier look will set the next one
            }
            alarms.looks_at = Some(at);
        }
        let no = alarms.next;
        alarms.next += 1;
        alarms.heap.push(Due { at, no, alarm });
    }

    /// How long until the next alarm; `None` when there is none.
    pub(super) fn next_alarm_in(&self) -> Option<Duration> {
        let at = self.alarms.borrow().heap.peek()?.at;
        Some(at.since(self.config.clock.now()).into())
    }

    pub(super) fn ring_alarms(&self) {
        let now = self.now.get();
        loop {
            let mut alarms = self.alarms.borrow_mut();
            if alarms.heap.peek().is_none_or(|due| due.at > now) {
                return;
            }
            let Some(due) = alarms.heap.pop() else { return };
            drop(alarms);
            self.ring(due.alarm);
        }
    }

    fn ring(&self, alarm: Alarm) {
        match alarm {
            Alarm::Wake(waker) => waker.wake(),
            Alarm::Queue(slot, row) => self.with(slot, |host| self.queue_alarm(host, row)),
            Alarm::Timer(slot, no) => self.with(slot, |host| self.tick_timer(host, no)),
            Alarm::Reminders(slot) => self.with(slot, |host| self.fire_reminders(host)),
            Alarm::Take(slot) => self.with(slot, |host| self.take(host)),
            Alarm::Resend(slot) => self.resend(slot),
            Alarm::Sources => self.look_at_sources(),
            Alarm::Look => self.alarms.borrow_mut().looks_at = None,
            Alarm::Tick => {
                self.check_turns();
                self.tick_slots();
                self.set_alarm(self.now.get() + TICK_EVERY, Alarm::Tick);
            }
            Alarm::Sweep { slot, from } => self.sweep(slot, from),
        }
    }

    fn with(&self, slot: SlotId, then: impl FnOnce(&Rc<SlotHost>)) {
        if let Some(host) = self.slot(slot) {
            then(&host);
        }
    }

    fn queue_alarm(&self, host: &Rc<SlotHost>, row: u32) {
        let now = self.now.get();
        let mut expired = Vec::new();
        {
            let mut table = host.table.borrow_mut();
            let Some(activation) = table.get_mut(row) else { return };
            let key = activation.key.clone();
            let desk = activation.desk();
            desk.alarm_at = None;
            let mut staying = std::collections::VecDeque::with_capacity(desk.queue.len());
            for waiting in desk.queue.drain(..) {
                if waiting.envelope.options().deadline.is_some_and(|deadline| now >= deadline) {
                    expired.push((key.clone(), waiting));
                } else {
                    staying.push_back(waiting);
                }
            }
            desk.queue = staying;
            let next = desk.queue.iter().filter_map(|w| w.envelope.options().deadline).min();
            if let Some(at) = next {
                desk.alarm_at = Some(at);
                self.set_alarm(at, Alarm::Queue(host.id, row));
            }
            activation.tidy();
        }
        for (key, waiting) in expired {
            self.expire_waiting(host, &key, waiting);
        }
    }

    /// Turns past their deadline lose their caller, turns past `turn_max` end.
    fn check_turns(&self) {
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
                        host.break_with(format!("{grain}: {error}"), None);
                    }
                }
                None => self.drop_activation(&host, entry.activation),
            }
        }
        self.turn_cut_off(&host, entry.info, entry.options, entry.key, error);
        self.pump(&host, entry.activation);
    }

    fn tick_timer(&self, host: &Rc<SlotHost>, no: u32) {
        let mut inner = host.inner.borrow_mut();
        let Some(timer) = inner.timers.begin_tick(no, self.now.get()) else { return };
        let (row, method, arguments) = (timer.activation, timer.method, timer.arguments.clone());
        drop(inner);
        let target = host.table.borrow().get(row).map(|a| (a.kind, a.key.clone()));
        let Some((kind, key)) = target else { return };
        let info = self.kinds[kind as usize];
        if let Err(error) = self.fire(host, info.id, &key, method, &arguments, Origin::Timer(no)) {
            tracing::error!(grain = %format!("{}/{key}", info.name), method, %error, "the timer cannot tick");
        }
    }

    pub(super) fn timer_ticked(&self, host: &SlotHost, no: u32) {
        let next = host.inner.borrow_mut().timers.end_tick(no, self.now.get());
        if let Some(at) = next {
            self.set_alarm(at, Alarm::Timer(host.id, no));
        }
    }

    pub(super) fn load_reminders(&self, host: &SlotHost) -> Result<()> {
        let mut inner = host.inner.borrow_mut();
        inner.reminders.open(self.now.get());
        let mut broken = None;
        self.config.store.scan(host.id, CELL_PREFIX, None, &mut |_, cell| {
            broken = inner.reminders.load(cell).err();
            broken.is_none()
        })?;
        if let Some(at) = inner.reminders.next_due() {
            self.set_alarm(at, Alarm::Reminders(host.id));
        }
        broken.map_or(Ok(()), Err)
    }

    fn fire_reminders(&self, host: &Rc<SlotHost>) {
        if !host.is_running.get() {
            return; // it is looked at again when the slot is open
        }
        let now = self.now.get();
        loop {
            let mut inner = host.inner.borrow_mut();
            let Some(popped) = inner.reminders.pop(now) else {
                if let Some(at) = inner.reminders.next_due() {
                    self.set_alarm(at, Alarm::Reminders(host.id));
                }
                return;
            };
            let (no, reminder) = match popped {
                Ok(due) => due,
                Err(change) => {
                    put_change(&mut inner.cells, change);
                    host.has_changes.set(true);
                    continue;
                }
            };
            let failures = inner.reminder_failures.get(&(reminder.grain.clone(), reminder.name.clone()));
            let given_up = failures.is_some_and(|failures| *failures >= REMINDER_FAILURES_MAX);
            drop(inner);
            let (kind, Reminder { grain, name, method, arguments, .. }) =
                (KindId::of(&reminder.grain.kind), &reminder);
            self.count(|s| &s.reminders);
            if given_up {
                tracing::error!(%grain, %name, "the reminder undid its slot {REMINDER_FAILURES_MAX} times: skipped");
                self.reminder_fired(host, no, None);
            } else if let Err(error) =
                self.fire(host, kind, &grain.key, method, arguments, Origin::Reminder(no))
            {
                tracing::error!(%grain, %name, %error, "the reminder cannot fire");
                self.reminder_fired(host, no, Some(&error));
            }
        }
    }

    /// The turn of a reminder has ended: its cell moves on in the same commit as the turn's effects.
    pub(super) fn reminder_fired(&self, host: &SlotHost, no: u32, error: Option<&Error>) {
        if let Some(error) = error {
            tracing::warn!(slot = %host.id, %error, "a reminder's turn failed");
        }
        let mut inner = host.inner.borrow_mut();
        let undone = host.broken.borrow().is_some();
        let Some(change) = inner.reminders.fired(no, self.now.get()) else { return };
        let (Change::Put(reminder) | Change::Delete(reminder)) = &change;
        let name = (reminder.grain.clone(), reminder.name.clone());
        if undone {
            *inner.reminder_failures.entry(name).or_insert(0) += 1;
            return;
        }
        inner.reminder_failures.remove(&name);
        put_change(&mut inner.cells, change);
        host.has_changes.set(true);
        if let Some(at) = inner.reminders.next_due() {
            self.set_alarm(at, Alarm::Reminders(host.id));
        }
    }

    fn fire(
        &self,
        host: &Rc<SlotHost>,
        kind: KindId,
        key: &Key,
        method: &str,
        arguments: &[u8],
        origin: Origin,
    ) -> Result<()> {
        let info = self.kinds.iter().find(|info| info.id == kind);
        let entry = info.and_then(|info| info.method(method)).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("this silo hosts no grain with a method `{method}` for it"),
            )
        })?;
        let (reply, _) = oneshot::channel();
        let envelope =
            (entry.open)(arguments, Options { origin, one_way: true, ..Options::default() }, reply)?;
        self.letter(host, kind, key.clone(), envelope);
        Ok(())
    }

    /// Looks for idle activations; when memory is over its limit, for cold clean ones.
    fn sweep(&self, slot: u16, from: u32) {
        let Some(host) = self.slots.get(slot as usize) else {
            return self.swept();
        };
        let Some(host) = host else { return self.sweep(slot + 1, 0) };
        let (rows, next) = host.table.borrow().sweep(from, SWEEP_ROWS);
        let (now_s, cut_s) = (self.seconds(), self.cut_s.get());
        for row in rows {
            let table = host.table.borrow();
            let Some(activation) = table.get(row) else { continue };
            let info = self.kinds[activation.kind as usize];
            let idle_s = u64::from(now_s.saturating_sub(activation.used_at_s));
            let is_idle = idle_s * 1_000 >= info.options.idle.ms() || cut_s.is_some_and(|cut| idle_s >= cut);
            if !is_idle || !activation.is_quiet() || activation.is_leaving {
                continue;
            }
            drop(table);
            match info.on_deactivate {
                Some(hook) => {
                    if let Some(activation) = host.table.borrow_mut().get_mut(row) {
                        activation.is_leaving = true;
                    }
                    self.queue_hook(host, row, hook, Origin::Deactivate);
                }
                None => self.leaves(host, row),
            }
        }
        let (slot, from) = next.map_or((slot + 1, 0), |from| (slot, from));
        self.set_alarm(self.now.get(), Alarm::Sweep { slot, from });
    }

    /// A pass over all tables is done: memory decides how cold the next one cuts.
    fn swept(&self) {
        let limit = self.config.memory_bytes_max / self.lanes.len().max(1);
        let active: usize =
            self.slots.iter().flatten().map(|host| host.table.borrow().bytes(ACTIVATION_BYTES)).sum();
        let panes = self.pipeline.borrow().memory_bytes();
        if active + panes <= limit {
            self.cut_s.set(None);
            return self
                .set_alarm(self.now.get() + self.config.sweep_every, Alarm::Sweep { slot: 0, from: 0 });
        }
        self.pipeline.borrow_mut().evict(limit.saturating_sub(active.min(limit / 2)));
        let colder = self.cut_s.get().map_or(60, |cut| cut / 2);
        self.cut_s.set(Some(colder));
        let wait = if colder == 0 { Span(1_000) } else { Span(10) };
        self.set_alarm(self.now.get() + wait, Alarm::Sweep { slot: 0, from: 0 });
    }

    /// The activation leaves memory now, or as soon as what it changed is stored.
    pub(super) fn leaves(&self, host: &SlotHost, row: u32) {
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return };
        if !activation.is_quiet() {
            return; // it is in use again; settled() looks once more
        }
        if activation.changed_in > host.stored.get() {
            activation.is_leaving = true;
            host.inner.borrow_mut().leaving.push(row);
            return;
        }
        table.remove(row);
        drop(table);
        host.inner.borrow_mut().timers.drop_activation(row);
        self.count(|s| &s.deactivated);
        self.activation_gone();
    }

    fn activation_gone(&self) {
        let active = &self.mailbox.stats.active;
        active.store(
            active.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(1),
            std::sync::atomic::Ordering::Relaxed,
        );
    }

    /// Drops an activation whatever it is at; calls that wait for it go to the next one.
    pub(super) fn drop_activation(&self, host: &SlotHost, row: u32) {
        let Some(mut gone) = host.table.borrow_mut().remove(row) else { return };
        host.inner.borrow_mut().timers.drop_activation(row);
        self.activation_gone();
        let key = gone.key.clone();
        for waiting in gone.desk().queue.drain(..) {
            self.redeliver(host, key.clone(), waiting.envelope);
        }
    }

    /// `on_activate` refused: nobody sees the half-built grain.
    pub(super) fn refuse_activation(&self, host: &Rc<SlotHost>, row: u32, error: &Error) {
        let Some(mut gone) = host.table.borrow_mut().remove(row) else { return };
        self.activation_gone();
        let key = gone.key.clone();
        let waiting: Vec<_> = gone.desk().queue.drain(..).collect();
        for waiting in waiting {
            let message = format!(
                "{}/{key}: on_activate failed: {}",
                self.kinds[gone.kind as usize].name,
                error.message()
            );
            self.refuse_call(host, &key, waiting.envelope, Error::new(error.kind(), message).ran(Ran::No));
        }
    }

    /// Takes all activations out of a slot; the calls that waited for them are handed back.
    pub(super) fn drop_activations(&self, host: &SlotHost) -> Vec<(Key, Box<dyn Envelope>)> {
        let mut table = std::mem::take(&mut *host.table.borrow_mut());
        host.dirty.borrow_mut().clear();
        let active = &self.mailbox.stats.active;
        let before = active.load(std::sync::atomic::Ordering::Relaxed);
        active.store(before.saturating_sub(table.len() as u64), std::sync::atomic::Ordering::Relaxed);
        table.drain_waiting()
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

    /// A queue has run empty: a leaving activation goes.
    pub(super) fn settled(&self, host: &SlotHost, row: u32, mut table: std::cell::RefMut<'_, Table>) {
        let Some(activation) = table.get_mut(row) else { return };
        activation.tidy();
        if activation.is_leaving && activation.is_quiet() {
            drop(table);
            self.leaves(host, row);
        }
    }
}

/// Writes a reminder's cell.
pub(super) fn put_reminder(cells: &mut Cells, reminder: &Reminder) {
    match granary_core::codec::to_bytes(reminder) {
        Ok(value) => cells.put(|key| reminder.cell_key(key), |out| out.extend_from_slice(&value)),
        Err(error) => tracing::error!(grain = %reminder.grain, %error, "the reminder cannot be stored"),
    }
}

fn put_change(cells: &mut Cells, change: Change) {
    match change {
        Change::Put(reminder) => put_reminder(cells, &reminder),
        Change::Delete(reminder) => cells.delete(|key| reminder.cell_key(key)),
    }
}
