//! What a turn asks of its lane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Waker;

use granary_cluster::{SourceId, StreamId};
use granary_core::call::{CHAIN_DEPTH_MAX, Options, Origin};
use granary_core::host::{Begun, Emitted, Host, Later, LocalCall, Place};
use granary_core::{Access, Cx, Durability, Error, ErrorKind, GrainId, Key, KindId, Ran, Result, Timestamp};

use crate::mailbox::{Call, RETRY_AFTER};
use crate::reminders::{REMINDERS_MAX, Reminder};
use crate::slot::SlotHost;
use crate::table::Stay;
use crate::table::hash_of;
use crate::timers::Timer;
use crate::turns::Decided;

use super::alarms::Alarm;
use super::{LOCAL_CALLS_MAX, Lane, panic_message};

/// The source number of outputs that no record caused: calls and the clock.
pub(crate) const NO_SOURCE: SourceId = SourceId(u16::MAX);

impl Host for Lane {
    fn now(&self) -> Timestamp {
        self.now.get()
    }

    fn call(&self, from: Place, kind: KindId, key: &Key, call: &mut dyn LocalCall) -> Result<Begun> {
        let slot = self.route.slot(key);
        let info = call.info();
        let simple = !info.is_async && !call.options().one_way && call.options().idempotency_key.is_none();
        if slot == from.slot && simple && self.call_inline(from, kind, key, call)? {
            return Ok(Begun::Ran);
        }
        let mut options = self.options_from(from, slot, call)?;
        let deadline = options.deadline.unwrap_or(Timestamp::MAX);
        options.inside = (slot == from.slot).then_some(from);
        let lane = self.route.lane(slot);
        if lane == self.index && self.local.borrow().len() >= LOCAL_CALLS_MAX {
            self.count(|s| &s.overloaded);
            let message = format!("{LOCAL_CALLS_MAX} calls between grains of lane {lane} are on their way");
            return Err(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
        }
        if options.one_way && self.is_of_record(from) {
            // part of the record's turn: the record is committed with what it tells, or not at all
            options.origin = Origin::Stream;
            if let Some(host) = self.slot(slot) {
                host.stream_turns.set(host.stream_turns.get() + 1);
            }
        }
        let letter = Call::Letter { slot, kind, key: key.clone(), envelope: call.envelope(options) };
        if lane == self.index {
            self.send_here(letter);
        } else if let Err(Call::Letter { envelope, .. }) = self.lanes[lane as usize].call(letter) {
            self.count(|s| &s.overloaded);
            let message = format!("the inbox of lane {lane} of silo {} is full", self.config.silo);
            envelope.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
        }
        Ok(Begun::Waits(deadline))
    }

    fn whereabouts(&self, kind: &'static str, key: &Key) -> String {
        let slot = self.route.slot(key);
        let Some(host) = self.slot(slot) else {
            return format!("did not answer in time (slot {slot}, lane {})", self.route.lane(slot));
        };
        let table = host.table.borrow();
        let id = KindId::of(kind);
        let entry =
            self.kind_no(id).and_then(|no| table.find(hash_of(id, key), no, key)).and_then(|r| table.get(r));
        let Some(activation) = entry else {
            return format!("was not in memory on silo {}", self.config.silo);
        };
        let queue = activation.queue_len();
        let mut turns = self.turns.borrow_mut();
        let running = activation.turns().first().and_then(|no| turns.get(*no));
        let held = running.map_or_else(
            || "no turn was running".to_string(),
            |row| {
                let age = self.now.get().since(row.began).ms() as f64 / 1_000.0;
                format!("the running turn `{}` has held it for {age:.1}s", row.info.name)
            },
        );
        format!("waited in a queue of {queue}; {held} on {}", self.config.silo)
    }

    fn wake_at(&self, at: Timestamp, waker: Waker) {
        self.wake_turn_at(at, waker);
    }

    fn emit(&self, from: Place, stream: &str, emitted: Emitted) -> Result<()> {
        let host = self.slot(from.slot).ok_or_else(|| stale(from))?;
        let stream = self.stream_id(stream)?;
        // a record's turn goes on: its slot takes no further records, so the outbox grows by one commit at most
        if host.inner.borrow().machine.is_outbox_full() && !self.is_of_record(from) {
            let message = format!("the outbox of slot {} is full: the log takes nothing at present", host.id);
            return Err(Error::new(ErrorKind::Overloaded, message).after(RETRY_AFTER));
        }
        if from.turn != Place::PLAIN {
            return self.decide(from, Decided::Emit(stream, emitted));
        }
        let key = self.key_of(&host, from).ok_or_else(|| stale(from))?;
        let n = self.push_output(&host, &key, self.plain_of_record.get(), stream, &emitted);
        self.needs(from, n);
        Ok(())
    }

    fn set_timer(&self, from: Place, later: Later<'_>) -> Result<()> {
        let host = self.slot(from.slot).ok_or_else(|| stale(from))?;
        let timer = Timer {
            activation: from.activation,
            name: later.name.into(),
            method: later.method,
            arguments: later.arguments.to_vec(),
            period: later.schedule.period,
            due: self.now.get() + later.schedule.first,
            is_ticking: false,
        };
        let due = timer.due;
        let set = host.inner.borrow_mut().timers.set(timer);
        let no = set.ok_or_else(|| {
            Error::new(ErrorKind::Overloaded, format!("slot {} holds too many timers", host.id))
        })?;
        self.set_alarm(due, Alarm::Timer(host.id, no));
        Ok(())
    }

    fn cancel_timer(&self, from: Place, name: &str) -> bool {
        self.slot(from.slot).is_some_and(|host| host.inner.borrow_mut().timers.cancel(from.activation, name))
    }

    fn set_reminder(&self, from: Place, later: Later<'_>) -> Result<()> {
        let host = self.slot(from.slot).ok_or_else(|| stale(from))?;
        let grain = self.grain_id(&host, from).ok_or_else(|| stale(from))?;
        let reminder = Reminder::asked(grain, &later, self.now.get());
        if host.inner.borrow().reminders.is_full() {
            let message = format!("slot {} holds {REMINDERS_MAX} reminders already", host.id);
            return Err(Error::new(ErrorKind::Overloaded, message));
        }
        if from.turn != Place::PLAIN {
            return self.decide(from, Decided::Remind(reminder));
        }
        let n = self.remind(&host, reminder);
        self.needs(from, n);
        Ok(())
    }

    fn cancel_reminder(&self, from: Place, name: &str) -> Result<bool> {
        let host = self.slot(from.slot).ok_or_else(|| stale(from))?;
        let grain = self.grain_id(&host, from).ok_or_else(|| stale(from))?;
        let was_set = host.inner.borrow().reminders.has(&grain, name);
        if from.turn != Place::PLAIN {
            let was_decided = self.has_decided(from, name);
            self.decide(from, Decided::Forget(name.into()))?;
            return Ok(was_decided.unwrap_or(was_set));
        }
        if let Some(n) = self.forget(&host, &grain, name) {
            self.needs(from, n);
        }
        Ok(was_set)
    }

    fn deactivate(&self, from: Place) {
        if let Some(host) = self.slot(from.slot) {
            let mut table = host.table.borrow_mut();
            if let Some(activation) = table.get_mut(from.activation).filter(|a| a.stay == Stay::Here) {
                activation.stay = Stay::Asked;
            }
        }
    }
}

impl Lane {
    /// Runs a plain method of an idle grain of the caller's slot inside the caller's turn. False when it has to queue.
    fn call_inline(&self, from: Place, kind: KindId, key: &Key, call: &mut dyn LocalCall) -> Result<bool> {
        let Some(host) = self.slots.get(from.slot.0 as usize).and_then(Option::as_ref) else {
            return Err(stale(from));
        };
        let Some(kind_no) = self.kind_no(kind) else { return Ok(false) };
        let hash = hash_of(kind, key);
        let found = host.table.borrow().find(hash, kind_no, key);
        let row = match found {
            Some(row) => row,
            None => self.activate(host, kind_no, key, hash)?,
        };
        let info = call.info();
        let grain = {
            let mut table = host.table.borrow_mut();
            let Some(activation) = table.get_mut(row) else { return Ok(false) };
            if activation.queue_len() > 0
                || activation.stay != Stay::Here
                || activation.busy.enter(info.access).is_none()
            {
                return Ok(false);
            }
            activation.used_at_s = self.seconds();
            activation.grain.clone()
        };
        let place = Place { slot: from.slot, activation: row, turn: Place::PLAIN, generation: 0 };
        let mut cx = Cx::new(self.host(), place, info.kind, key.clone(), self.now.get())
            .with_context(call.options().context.clone());
        let outer = self.plain_needs.replace(0);
        let of_record = self.is_of_record(from);
        let outer_of_record = self.plain_of_record.replace(of_record);
        let ran = catch_unwind(AssertUnwindSafe(|| call.run_here(&*grain, &mut cx)));
        let emitted = self.plain_needs.replace(outer);
        self.plain_of_record.set(outer_of_record);
        if let Err(payload) = ran {
            let error = self.turn_failed(host, row, info, emitted, of_record, &panic_message(&*payload));
            call.panicked(error);
            return Ok(true);
        }
        let needs = self.turn_needs(host, row, kind_no, info, emitted);
        self.needs(from, needs);
        if host.table.borrow().get(row).is_some_and(|a| a.stay == Stay::Asked) {
            self.pump_soon(host, row);
        }
        Ok(true)
    }

    /// What a call made by a turn carries: deadline, chain, and the rules of stream turns.
    fn options_from(&self, from: Place, slot: granary_core::SlotId, call: &dyn LocalCall) -> Result<Options> {
        let mut options = call.options().clone().started(self.now.get());
        let mut turns = self.turns.borrow_mut();
        let Some(row) = turns.live(from.turn, from.generation) else {
            if from.turn != Place::PLAIN {
                return Err(stale(from));
            }
            // a plain turn waits for nothing, so it is no link of a chain
            return if self.plain_of_record.get() && slot != from.slot {
                Err(calls_out("a plain turn", slot))
            } else {
                Ok(options)
            };
        };
        if row.is_of_record && slot != from.slot {
            return Err(calls_out(&format!("{}/{}.{}", row.info.kind, row.key, row.info.name), slot));
        }
        if slot != from.slot {
            row.called_out = true;
        }
        if !options.one_way {
            // nobody waits for the turn after that, so it does not wait longer itself
            options.deadline = options.deadline.into_iter().chain(row.options.deadline).min();
            let chain = row.chain();
            if chain.depth >= CHAIN_DEPTH_MAX {
                let message = format!("{CHAIN_DEPTH_MAX} grains wait for one another: {chain}");
                return Err(Error::new(ErrorKind::CallCycle, message).ran(Ran::No));
            }
            options.chain = Some(chain);
        }
        Ok(options)
    }

    /// The turn at `from` changed or saw what commit `n` holds.
    pub(super) fn needs(&self, from: Place, n: u64) {
        if from.turn == Place::PLAIN {
            self.plain_needs.set(self.plain_needs.get().max(n));
        } else if let Some(row) = self.turns.borrow_mut().live(from.turn, from.generation) {
            row.needs = row.needs.max(n);
        }
    }

    /// What the answer of a turn that ends now has to wait for; marks the activation changed by a write.
    pub(super) fn turn_needs(
        &self,
        host: &SlotHost,
        row: u32,
        kind_no: u16,
        info: &'static granary_core::MethodInfo,
        emitted: u64,
    ) -> u64 {
        let is_volatile = self.kinds[kind_no as usize].options.durability == Durability::Volatile;
        if is_volatile || info.snapshot {
            return emitted;
        }
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return emitted };
        match info.access {
            Access::Write => host.mark(activation, row),
            Access::Interleave if activation.grain.take_changed() => host.mark(activation, row),
            Access::Read | Access::Interleave => {}
        }
        activation.changed_in.max(emitted)
    }

    fn stream_id(&self, name: &str) -> Result<StreamId> {
        let named = self.config.streams.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
        named.or_else(|| self.pipeline.borrow().stream(name)).ok_or_else(|| {
            let known: Vec<&str> = self.config.streams.iter().map(|(n, _)| n.as_str()).collect();
            let message = format!("no stream `{name}` is declared; declared are: {}", known.join(", "));
            Error::new(ErrorKind::NotFound, message)
        })
    }

    fn key_of(&self, host: &Rc<SlotHost>, from: Place) -> Option<Key> {
        host.table.borrow().get(from.activation).map(|a| a.key.clone())
    }

    fn grain_id(&self, host: &Rc<SlotHost>, from: Place) -> Option<GrainId> {
        let table = host.table.borrow();
        let activation = table.get(from.activation)?;
        Some(GrainId { kind: self.kinds[activation.kind as usize].name.into(), key: activation.key.clone() })
    }
}

fn calls_out(who: &str, slot: granary_core::SlotId) -> Error {
    let message = format!(
        "{who} handles a stream event and called slot {slot}: such a turn never waits for another slot; \
         fetch before with an enrich step, tell with an emit"
    );
    Error::invalid(message).ran(Ran::No)
}

fn stale(from: Place) -> Error {
    let message = format!("this turn of slot {} has ended: its context cannot be used any more", from.slot);
    Error::new(ErrorKind::Closed, message).ran(Ran::No)
}
