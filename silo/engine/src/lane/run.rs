//! Turns begin, wait and end; what panics is undone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use granary_cluster::{CommitNo, Lookup};
use granary_core::call::{Options, Origin};
use granary_core::envelope::{Answer, Ended, Envelope};
use granary_core::host::Place;
use granary_core::shared::AnyGrain;
use granary_core::turn::Turn;
use granary_core::{Access, Cx, Durability, Error, ErrorKind, Key, MethodInfo, Ran, codec};

use crate::keyed::{self, Entry, Stored};
use crate::mailbox::{Call, RETRY_AFTER};
use crate::slot::SlotHost;
use crate::table::Waiting;
use crate::turns::Row;

use super::{Lane, panic_message};

/// What is left of a call when its turn has ended.
pub(super) struct After {
    info: &'static MethodInfo,
    options: Options,
    key: Key,
    needs: u64,
    called_out: bool,
    error: Option<Error>,
}

impl Lane {
    /// Begins a turn; the activation has been entered. A plain turn is over when this returns.
    pub(super) fn start_turn(
        &self,
        host: &Rc<SlotHost>,
        row: u32,
        grain: Rc<dyn AnyGrain>,
        key: Key,
        envelope: Box<dyn Envelope>,
    ) {
        let info = envelope.info();
        if info.is_async {
            self.start_async(host, row, grain, key, envelope);
        } else {
            self.run_plain(host, row, &grain, key, envelope);
        }
    }

    fn run_plain(
        &self,
        host: &Rc<SlotHost>,
        row: u32,
        grain: &Rc<dyn AnyGrain>,
        key: Key,
        envelope: Box<dyn Envelope>,
    ) {
        let (info, options) = (envelope.info(), envelope.options().clone());
        let kind_no = self.kind_no(info.kind_id).unwrap_or_default();
        let place = Place { slot: host.id, activation: row, turn: Place::PLAIN, generation: 0 };
        let mut cx = Cx::new(self.host(), place, info.kind, key.clone(), self.now.get())
            .with_idempotency_key(options.idempotency_key.clone());
        self.plain_needs.set(0);
        let mut after = After { info, options, key, needs: 0, called_out: false, error: None };
        self.mailbox.pulse.turn_begins(info.kind, after.key.as_str(), info.name);
        let ended = envelope.run(&**grain, &mut cx, &mut |error| {
            after.error = error.cloned();
            after.needs = self.turn_needs(host, row, kind_no, info, self.plain_needs.get());
            self.must_hold(host, &after)
        });
        self.mailbox.pulse.turn_ends();
        self.leave(host, row, grain);
        if let Ended::Panicked(answer, payload) = ended {
            let emitted = self.plain_needs.get();
            let error = self.turn_failed(host, row, info, emitted, &panic_message(&*payload));
            answer.refuse(error.clone());
            after.error = Some(error);
            self.call_failed(host, &after);
        } else {
            self.after_turn(host, row, after, ended);
        }
        self.pump(host, row);
    }

    fn start_async(
        &self,
        host: &Rc<SlotHost>,
        row: u32,
        grain: Rc<dyn AnyGrain>,
        key: Key,
        envelope: Box<dyn Envelope>,
    ) {
        let (info, options) = (envelope.info(), envelope.options().clone());
        let (no, generation) = self.turns.borrow_mut().reserve();
        let image = match self.image_before(host, row, info, &grain) {
            Ok(image) => image,
            Err(error) => {
                tracing::error!(grain = %format!("{}/{key}", info.kind), %error, "the state cannot be stored");
                None
            }
        };
        let place = Place { slot: host.id, activation: row, turn: no, generation };
        let cx = Cx::new(self.host(), place, info.kind, key.clone(), self.now.get())
            .with_idempotency_key(options.idempotency_key.clone());
        if let Some(activation) = host.table.borrow_mut().get_mut(row) {
            activation.desk().turns.push(no);
        }
        let turn = envelope.start(grain.clone(), cx, &mut self.pool.borrow_mut());
        let entry = Row {
            turn: Some(turn),
            slot: host.clone(),
            activation: row,
            grain,
            key,
            info,
            began: self.now.get(),
            options,
            link: None,
            needs: 0,
            called_out: false,
            image,
            is_expired: false,
        };
        self.turns.borrow_mut().fill(no, entry);
        self.poll_turn(no);
    }

    /// The grain from before an exclusive turn: what a commit holds while the turn waits, and what it goes back to when
    /// the turn is ended. A clean durable grain needs none, its cell is that image.
    fn image_before(
        &self,
        host: &SlotHost,
        row: u32,
        info: &'static MethodInfo,
        grain: &Rc<dyn AnyGrain>,
    ) -> granary_core::Result<Option<Vec<u8>>> {
        if info.access != Access::Write {
            return Ok(None);
        }
        let is_volatile = grain.kind().options.durability == Durability::Volatile;
        let changed = host.table.borrow().get(row).is_some_and(|a| a.changed_in > host.stored.get());
        if !is_volatile && !changed {
            return Ok(None);
        }
        let mut image = Vec::with_capacity(64);
        grain.encode(&mut image)?;
        Ok(Some(image))
    }

    /// Goes on with a turn that was woken.
    pub(super) fn poll_turn(&self, no: u32) {
        let lent = self.turns.borrow_mut().lend(no);
        let Some((mut turn, waker)) = lent else { return };
        {
            let mut turns = self.turns.borrow_mut();
            let Some(row) = turns.get(no) else { return };
            self.mailbox.pulse.turn_begins(row.info.kind, row.key.as_str(), row.info.name);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| turn.as_mut().poll(&mut Context::from_waker(&waker))));
        self.mailbox.pulse.turn_ends();
        self.note_interleaved(no);
        match polled {
            Ok(Poll::Pending) => {
                let orphan = self.turns.borrow_mut().put_back(no, turn);
                drop(orphan);
            }
            Ok(Poll::Ready(())) => self.end_turn(no, turn),
            Err(payload) => self.panicked(no, turn, &panic_message(&*payload)),
        }
    }

    /// An interleaving turn may have changed the grain before it waits: that belongs to the open commit.
    fn note_interleaved(&self, no: u32) {
        let mut turns = self.turns.borrow_mut();
        let Some(row) = turns.get(no) else { return };
        if row.info.access == Access::Interleave && row.grain.take_changed() {
            row.slot.mark_changed(row.activation);
            row.needs = row.needs.max(row.slot.open_commit.get());
        }
    }

    fn end_turn(&self, no: u32, mut turn: Turn) {
        let Some(entry) = self.turns.borrow_mut().leave(no) else { return };
        let host = entry.slot.clone();
        let (info, row) = (entry.info, entry.activation);
        let kind_no = self.kind_no(info.kind_id).unwrap_or_default();
        let is_here = self.leave_async(&host, row, no, &entry.grain);
        let mut after = After {
            info,
            options: entry.options,
            key: entry.key,
            needs: 0,
            called_out: entry.called_out,
            error: None,
        };
        let ended = turn.as_mut().end(&mut |error| {
            after.error = error.cloned();
            after.needs =
                if is_here { self.turn_needs(&host, row, kind_no, info, entry.needs) } else { entry.needs };
            self.must_hold(&host, &after)
        });
        self.pool.borrow_mut().give_back(turn);
        self.after_turn(&host, row, after, ended);
        self.pump(&host, row);
    }

    fn must_hold(&self, host: &SlotHost, after: &After) -> bool {
        let keyed = after.options.idempotency_key.is_some();
        let broken = host.broken.borrow().is_some();
        keyed || broken || (after.needs > host.stored.get() && after.options.inside.is_none())
    }

    /// What follows a turn that ended by itself: its answer leaves or is held, its origin is told.
    fn after_turn(&self, host: &Rc<SlotHost>, row: u32, mut after: After, ended: Ended) {
        self.count(|s| &s.turns);
        if let Some(from) = after.options.inside {
            self.needs(from, after.needs);
        }
        match (ended, after.options.idempotency_key.clone()) {
            (Ended::Held(answer), Some(key)) => {
                self.store_answer(host, &mut after, &key, &*answer);
                self.hold(host, &after, answer);
            }
            (Ended::Held(answer), None) => self.hold(host, &after, answer),
            (Ended::Left | Ended::Panicked(..), _) => {}
        }
        match after.options.origin {
            Origin::Call => {}
            Origin::Stream => self.stream_turn_ended(host, &after.key, after.info, after.error.as_ref()),
            Origin::Timer(timer) => self.timer_ticked(host, timer),
            Origin::Reminder(reminder) => self.reminder_fired(host, reminder, after.error.as_ref()),
            Origin::Activate => {
                if let Some(error) = after.error {
                    self.refuse_activation(host, row, &error);
                }
            }
            Origin::Deactivate => self.leaves(host, row),
        }
        if self.plain_leaves.replace(false) {
            self.leaves(host, row);
        }
    }

    fn hold(&self, host: &SlotHost, after: &After, answer: Box<dyn Answer>) {
        if after.needs <= host.stored.get() && host.broken.borrow().is_none() {
            return answer.send();
        }
        let n = CommitNo(after.needs.max(host.stored.get() + 1));
        let held = host.inner.borrow_mut().held.hold(n, after.called_out, answer);
        host.has_changes.set(true);
        if let Err(answer) = held {
            let message = format!("slot {} holds too many answers that wait for the store", host.id);
            answer.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::Unknown).after(RETRY_AFTER));
        }
    }

    fn store_answer(&self, host: &SlotHost, after: &mut After, key: &str, answer: &dyn Answer) {
        let stored = Stored::of(self.now.get(), answer.encoded());
        let cell = keyed::cell_key(after.info.kind, after.key.as_str(), key);
        let Ok(value) = codec::to_bytes(&stored) else { return };
        let n = host.open_commit.get();
        after.needs = after.needs.max(n);
        let mut inner = host.inner.borrow_mut();
        inner.cells.put(|out| out.extend_from_slice(&cell), |out| out.extend_from_slice(&value));
        inner.keyed.done(&cell, n, value);
        host.has_changes.set(true);
    }

    /// Runs the first call of an idempotency key, joins it, or answers from the store.
    pub(super) fn first_of_key(
        &self,
        host: &Rc<SlotHost>,
        key: &Key,
        idempotency_key: &str,
        envelope: Box<dyn Envelope>,
    ) -> Option<Box<dyn Envelope>> {
        let cell = keyed::cell_key(envelope.info().kind, key.as_str(), idempotency_key);
        let envelope = match host.inner.borrow_mut().keyed.enter(&cell, envelope) {
            Entry::First(envelope) => envelope,
            Entry::Joined => return None,
            Entry::Full(envelope) => {
                let message = format!("too many calls wait for the first one with key `{idempotency_key}`");
                envelope.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
                return None;
            }
        };
        let mut value = Vec::new();
        match self.config.store.load(host.id, &cell, &mut value) {
            Err(error) => envelope.refuse(error.ran(Ran::No)),
            Ok(Lookup::Found) => match codec::from_bytes::<Stored>(&value) {
                Ok(stored) if !stored.is_over(self.now.get()) => stored.answer(envelope),
                Ok(_) => {
                    let message = format!("the idempotency key `{idempotency_key}` is older than 24 h");
                    envelope.refuse(Error::new(ErrorKind::Invalid, message).ran(Ran::No));
                }
                Err(error) => envelope.refuse(error.ran(Ran::No)),
            },
            Ok(Lookup::Absent) => {
                host.inner.borrow_mut().keyed.begin(cell);
                return Some(envelope);
            }
        }
        None
    }

    /// A call that was admitted does not run after all: those that joined it take its place.
    fn call_undone(&self, host: &SlotHost, after: &After) {
        let Some(key) = &after.options.idempotency_key else { return };
        let cell = keyed::cell_key(after.info.kind, after.key.as_str(), key);
        let joined = host.inner.borrow_mut().keyed.undone(&cell);
        for envelope in joined {
            self.redeliver(host, after.key.clone(), envelope);
        }
    }

    /// A turn was ended from outside: whoever began it is told.
    pub(super) fn turn_cut_off(
        &self,
        host: &Rc<SlotHost>,
        info: &'static MethodInfo,
        options: Options,
        key: Key,
        error: Error,
    ) {
        let after = After { info, options, key, needs: 0, called_out: false, error: Some(error) };
        self.call_failed(host, &after);
    }

    pub(super) fn redeliver(&self, host: &SlotHost, key: Key, envelope: Box<dyn Envelope>) {
        let kind = envelope.info().kind_id;
        self.local.borrow_mut().push_back(Call::Letter { slot: host.id, kind, key, envelope });
    }

    /// Refuses a call that was admitted.
    pub(super) fn refuse_call(
        &self,
        host: &Rc<SlotHost>,
        key: &Key,
        envelope: Box<dyn Envelope>,
        error: Error,
    ) {
        let (info, options) = (envelope.info(), envelope.options().clone());
        let after = After {
            info,
            options,
            key: key.clone(),
            needs: 0,
            called_out: false,
            error: Some(error.clone()),
        };
        envelope.refuse(error);
        self.call_failed(host, &after);
    }

    /// A call in a queue has run out of time: it never runs.
    pub(super) fn expire_waiting(&self, host: &Rc<SlotHost>, key: &Key, waiting: Waiting) {
        self.count(|s| &s.timed_out);
        let info = waiting.envelope.info();
        let waited = self.now.get().since(waiting.since).ms() as f64 / 1_000.0;
        let place = granary_core::host::Host::whereabouts(self, info.kind, key);
        let message = format!("{}/{key}.{} waited {waited:.1}s: {place}", info.kind, info.name);
        self.refuse_call(host, key, waiting.envelope, Error::new(ErrorKind::Timeout, message).ran(Ran::No));
    }

    fn leave(&self, host: &SlotHost, row: u32, grain: &Rc<dyn AnyGrain>) {
        let mut table = host.table.borrow_mut();
        if let Some(activation) = table.get_mut(row).filter(|a| Rc::ptr_eq(&a.grain, grain)) {
            activation.busy = activation.busy.leave();
        }
    }

    /// An async turn leaves its activation; false when that has left memory before.
    pub(super) fn leave_async(&self, host: &SlotHost, row: u32, no: u32, grain: &Rc<dyn AnyGrain>) -> bool {
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row).filter(|a| Rc::ptr_eq(&a.grain, grain)) else {
            return false;
        };
        activation.busy = activation.busy.leave();
        activation.desk().turns.retain(|turn| *turn != no);
        true
    }

    fn panicked(&self, no: u32, mut turn: Turn, message: &str) {
        let Some(entry) = self.turns.borrow_mut().leave(no) else { return };
        let host = entry.slot.clone();
        self.leave_async(&host, entry.activation, no, &entry.grain);
        let error = self.turn_failed(&host, entry.activation, entry.info, entry.needs, message);
        let error = if entry.called_out { error.ran(Ran::Unknown) } else { error };
        let after = After {
            info: entry.info,
            options: entry.options,
            key: entry.key,
            needs: 0,
            called_out: entry.called_out,
            error: Some(error.clone()),
        };
        turn.as_mut().refuse(error);
        self.call_failed(&host, &after);
        self.pump(&host, entry.activation);
    }

    /// A turn did not come to its end: those that joined its call, and whoever began it, are told.
    fn call_failed(&self, host: &Rc<SlotHost>, after: &After) {
        self.call_undone(host, after);
        match after.options.origin {
            Origin::Stream => self.stream_turn_ended(host, &after.key, after.info, after.error.as_ref()),
            Origin::Timer(timer) => self.timer_ticked(host, timer),
            Origin::Reminder(reminder) => self.reminder_fired(host, reminder, after.error.as_ref()),
            Origin::Call | Origin::Activate | Origin::Deactivate => {}
        }
    }

    /// A turn panicked. If neither it nor its grain has changed anything since the last commit only the activation
    /// goes; else the slot rolls back to its last acknowledged commit.
    pub(super) fn turn_failed(
        &self,
        host: &SlotHost,
        row: u32,
        info: &'static MethodInfo,
        needs: u64,
        message: &str,
    ) -> Error {
        let reason = format!("{}.{} panicked: {message}", info.kind, info.name);
        tracing::warn!(slot = %host.id, "{reason}");
        let changed = host.table.borrow().get(row).is_some_and(|a| a.changed_in > host.stored.get());
        if changed || needs > host.stored.get() || host.stream_turns.get() > 0 {
            let record = host.inner.borrow().applying.filter(|_| host.stream_turns.get() > 0);
            host.break_with(reason.clone(), record);
        } else {
            self.drop_activation(host, row);
        }
        Error::new(ErrorKind::Poisoned, reason).ran(Ran::No)
    }
}
