//! Turns begin, wait and end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use granary_core::call::{Options, Origin};
use granary_core::envelope::{Ended, Envelope};
use granary_core::host::Place;
use granary_core::shared::AnyGrain;
use granary_core::turn::Turn;
use granary_core::{Access, Cx, Durability, Error, Key, MethodInfo, Timestamp};

use crate::slot::SlotHost;
use crate::turns::Row;

use super::{Lane, panic_message};

/// What is left of a call when its turn has ended.
pub(super) struct After {
    pub info: &'static MethodInfo,
    pub options: Options,
    pub key: Key,
    pub needs: u64,
    pub called_out: bool,
    pub error: Option<Error>,
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
        let of_record = self.belongs_to_record(&options);
        let mut cx = Cx::new(self.host(), place, info.kind, key.clone(), self.time_of(host, of_record))
            .with_idempotency_key(options.idempotency_key.clone())
            .with_context(options.context.clone());
        self.plain_needs.set(0);
        self.plain_of_record.set(of_record);
        let mut after = After { info, options, key, needs: 0, called_out: false, error: None };
        self.mailbox.pulse.turn_begins(info.kind, after.key.as_str(), info.name);
        let ended = envelope.run(&**grain, &mut cx, &mut |error| {
            after.error = error.cloned();
            after.needs = self.turn_needs(host, row, kind_no, info, self.plain_needs.get());
            self.must_hold(host, &after)
        });
        self.mailbox.pulse.turn_ends();
        self.plain_of_record.set(false);
        self.leave(host, row, grain);
        if let Ended::Panicked(answer, payload) = ended {
            let emitted = self.plain_needs.get();
            let error = self.turn_failed(host, row, info, emitted, of_record, &panic_message(&*payload));
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
        let is_of_record = self.belongs_to_record(&options);
        let cx = Cx::new(self.host(), place, info.kind, key.clone(), self.time_of(host, is_of_record))
            .with_idempotency_key(options.idempotency_key.clone())
            .with_context(options.context.clone());
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
            is_of_record,
            decided: Vec::new(),
            wakes: Vec::new(),
            called_out: false,
            image,
            is_expired: false,
        };
        self.turns.borrow_mut().fill(no, entry);
        self.poll_turn(no);
    }

    /// Whether a call with these options is one of a record's turn: told by it, or made by it inside the slot.
    fn belongs_to_record(&self, options: &Options) -> bool {
        let by_record = options.inside.filter(|from| from.turn != Place::PLAIN);
        options.origin == Origin::Stream || by_record.is_some_and(|from| self.is_of_record(from))
    }

    /// The time a turn sees: of the record, or of the clock.
    fn time_of(&self, host: &SlotHost, is_of_record: bool) -> Timestamp {
        let inner = host.inner.borrow();
        if is_of_record && inner.applying.is_some() { inner.applying_at } else { self.now.get() }
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
        self.polling.set(Some(no));
        let polled = catch_unwind(AssertUnwindSafe(|| turn.as_mut().poll(&mut Context::from_waker(&waker))));
        self.polling.set(None);
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
        let decided = self.carry_decided(&host, info.kind, &entry.key, entry.is_of_record, entry.decided);
        let seen = entry.needs.max(decided);
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
            after.needs = if is_here { self.turn_needs(&host, row, kind_no, info, seen) } else { seen };
            self.must_hold(&host, &after)
        });
        self.pool.borrow_mut().give_back(turn);
        self.after_turn(&host, row, after, ended);
        self.pump(&host, row);
    }

    /// What follows a turn that ended by itself: its answer leaves or is held, its origin is told.
    fn after_turn(&self, host: &Rc<SlotHost>, row: u32, mut after: After, ended: Ended) {
        self.count(|s| &s.turns);
        host.work.set(host.work.get() + 1);
        if let Ended::Held(answer) = ended {
            if let Some(key) = after.options.idempotency_key.clone() {
                self.store_answer(host, &mut after, &key, &*answer);
            }
            self.hold(host, &after, answer);
        }
        if let Some(from) = after.options.inside {
            self.needs(from, after.needs);
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
            Origin::Deactivate => self.closed(host, row),
        }
    }

    pub(super) fn leave(&self, host: &SlotHost, row: u32, grain: &Rc<dyn AnyGrain>) {
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
}
