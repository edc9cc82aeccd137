//! A call finds its slot and its activation; there it runs, or waits.

use std::rc::Rc;

use granary_cluster::Lookup;
use granary_core::call::{Options, Origin};
use granary_core::envelope::Envelope;
use granary_core::grain::MethodEntry;
use granary_core::{Durability, Error, ErrorKind, GrainId, Key, KindId, Ran, Result, SlotId};
use tokio::sync::oneshot;

use crate::mailbox::{Call, Named, RETRY_AFTER};
use crate::slot::{BACKLOG_CALLS_MAX, Blame, SlotHost};
use crate::stats::LaneStats;
use crate::table::{Busy, Stay, Waiting, hash_of};

use super::Lane;
use super::moving::Here;

/// The first byte of a grain's cell.
pub(crate) const GRAIN_CELL: &[u8] = b"g/";

/// Appends the key of a grain's cell.
pub(crate) fn grain_cell(kind: &str, key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(GRAIN_CELL);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'/');
    out.extend_from_slice(key.as_str().as_bytes());
}

impl Lane {
    /// Handles one call that arrived.
    pub(super) fn deliver(&self, call: Call) {
        let slot = call.slot();
        let Some(host) = self.slot(slot) else {
            return refuse(call, self.elsewhere(slot));
        };
        if host.here.get() == Here::No {
            return self.pass_on(call);
        }
        if !host.is_running.get() || self.waits_for_successor(&host, &call) {
            self.backlog(&host, call);
            return self.look_sooner(&host);
        }
        match call {
            Call::Letter { kind, key, envelope, .. } => self.letter(&host, kind, key, envelope),
            Call::Named(named) => self.named(&host, *named),
        }
    }

    fn elsewhere(&self, slot: SlotId) -> Error {
        let message = format!("slot {slot} is not on lane {} of silo {}", self.index, self.config.silo);
        Error::new(ErrorKind::Moved, message).ran(Ran::No)
    }

    pub(super) fn backlog(&self, host: &SlotHost, call: Call) {
        let mut inner = host.inner.borrow_mut();
        let is_hopeless = inner.is_parked || inner.is_outdated;
        if !is_hopeless && !self.is_stopping.get() && inner.backlog.len() < BACKLOG_CALLS_MAX {
            return inner.backlog.push_back(call);
        }
        let why = if inner.is_parked {
            "is parked: it fails whatever is tried, see the log"
        } else if inner.is_outdated {
            "holds state of a newer program than this silo's: start silos of the newer program"
        } else {
            "is being opened or closed"
        };
        drop(inner);
        let message = format!("slot {} of silo {} {why}", host.id, self.config.silo);
        refuse(call, Error::new(ErrorKind::Unavailable, message).ran(Ran::No).after(RETRY_AFTER));
    }

    fn named(&self, host: &Rc<SlotHost>, named: Named) {
        let Named { grain, method, arguments, options, reply, .. } = named;
        let kind = KindId::of(&grain.kind);
        let Some(no) = self.kind_no(kind) else {
            return self.ask(host, &grain, &method, &arguments, (options, reply));
        };
        let entry = match self.method(no, &grain, &method) {
            Ok(entry) => entry,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // the reply goes through a channel of its own, so that refusing needs no second sender
        match (entry.open)(&arguments, options.started(self.now.get()), reply) {
            Ok(envelope) => self.letter(host, kind, grain.key, envelope),
            Err(error) => tracing::debug!(%grain, method, %error, "call refused"),
        }
    }

    fn method(&self, kind_no: u16, grain: &GrainId, method: &str) -> Result<MethodEntry> {
        let info = self.kinds[kind_no as usize];
        info.method(method).copied().ok_or_else(|| {
            let names: Vec<&str> = info.methods.iter().map(|m| m.info.name).collect();
            let message = format!("{grain} has no method `{method}`; it has: {}", names.join(", "));
            Error::new(ErrorKind::NotFound, message).ran(Ran::No)
        })
    }

    /// A call of a grain of this slot, which runs.
    pub(super) fn letter(&self, host: &Rc<SlotHost>, kind: KindId, key: Key, envelope: Box<dyn Envelope>) {
        let Some(envelope) = self.admit(host, &key, envelope) else { return };
        let Some(kind_no) = self.kind_no(kind) else {
            let message =
                format!("{}/{key}: silo {} does not host this kind", envelope.info().kind, self.config.silo);
            let error = Error::new(ErrorKind::NotFound, message).ran(Ran::No);
            return self.refuse_call(host, &key, envelope, error);
        };
        let hash = hash_of(kind, &key);
        let found = host.table.borrow().find(hash, kind_no, &key);
        let row = match found.map_or_else(|| self.activate(host, kind_no, &key, hash), Ok) {
            Ok(row) => row,
            Err(error) => return self.cannot_activate(host, &key, envelope, error.ran(Ran::No)),
        };
        self.enter(host, row, envelope);
    }

    fn cannot_activate(&self, host: &Rc<SlotHost>, key: &Key, envelope: Box<dyn Envelope>, error: Error) {
        if envelope.options().origin == Origin::Stream && error.kind() == ErrorKind::Unavailable {
            host.break_with(format!("{}/{key}: {error}", envelope.info().kind), Blame::Store);
        }
        self.refuse_call(host, key, envelope, error);
    }

    /// Refuses what cannot run, and answers what has run before under its idempotency key.
    fn admit(
        &self,
        host: &Rc<SlotHost>,
        key: &Key,
        envelope: Box<dyn Envelope>,
    ) -> Option<Box<dyn Envelope>> {
        let options = envelope.options();
        if options.deadline.is_some_and(|deadline| self.now.get() >= deadline) {
            self.count(|s| &s.timed_out);
            let info = envelope.info();
            let message = format!("{}/{key}.{} arrived after its deadline", info.kind, info.name);
            envelope.refuse(Error::new(ErrorKind::Timeout, message).ran(Ran::No));
            return None;
        }
        if !envelope.is_awaited() {
            return None; // the caller has gone: it never runs
        }
        if self.is_refused_while_away(envelope.info(), options) {
            let message = format!("the store of silo {} cannot be reached at present", self.config.silo);
            envelope.refuse(Error::new(ErrorKind::Unavailable, message).ran(Ran::No).after(RETRY_AFTER));
            return None;
        }
        if options.origin == Origin::Call && !options.one_way && host.inner.borrow().held.is_full() {
            self.count(|s| &s.overloaded);
            let message = format!("slot {} holds too many answers that wait for the store", host.id);
            envelope.refuse(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER));
            return None;
        }
        match options.idempotency_key.clone() {
            Some(idempotency_key) => self.first_of_key(host, key, &idempotency_key, envelope),
            None => Some(envelope),
        }
    }

    /// While the store is away only what needs none runs: `snapshot` reads, volatile kinds, and what is under way.
    fn is_refused_while_away(&self, info: &granary_core::MethodInfo, options: &Options) -> bool {
        let durable = || {
            let kind = self.kind(info.kind_id);
            kind.is_none_or(|kind| kind.options.durability == Durability::Durable)
        };
        options.origin == Origin::Call
            && options.inside.is_none()
            && !info.snapshot
            && self.is_store_away()
            && durable()
    }

    /// A tick of a timer or reminder that was taken back meanwhile.
    fn is_void(&self, host: &SlotHost, envelope: &dyn Envelope) -> bool {
        match envelope.options().origin {
            Origin::Timer(no) => !host.inner.borrow().timers.is_set(no),
            Origin::Reminder(no) => !host.inner.borrow().reminders.is_set(no),
            _ => false,
        }
    }

    /// Runs the call on its activation, or puts it into the queue.
    fn enter(&self, host: &Rc<SlotHost>, row: u32, envelope: Box<dyn Envelope>) {
        let info = envelope.info();
        if host.table.borrow().get(row).is_some_and(|a| a.stay == Stay::Closed) {
            self.renew(host, row);
        }
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return };
        if envelope.options().origin == Origin::Call {
            activation.used_at_s = self.seconds();
        }
        let may_enter =
            activation.queue_len() == 0 && activation.stay == Stay::Here && !self.is_void(host, &*envelope);
        if may_enter && let Some(busy) = activation.busy.enter(info.access) {
            activation.busy = busy;
            let (grain, key) = (activation.grain.clone(), activation.key.clone());
            drop(table);
            return self.start_turn(host, row, grain, key, envelope);
        }
        let key = activation.key.clone();
        if let Some(chain) = envelope.options().chain.as_ref().filter(|chain| chain.holds(info.kind, &key)) {
            let path = format!("{chain} -> {}/{key}.{}", info.kind, info.name);
            drop(table);
            let message = format!("{path}: the call could only wait for itself");
            return self.refuse_call(
                host,
                &key,
                envelope,
                Error::new(ErrorKind::CallCycle, message).ran(Ran::No),
            );
        }
        let queue_max = self.kinds[activation.kind as usize].options.queue_max as usize;
        if activation.queue_len() >= queue_max && envelope.options().origin == Origin::Call {
            drop(table);
            self.count(|s| &s.overloaded);
            let message = format!("{}/{key} has {queue_max} calls waiting", info.kind);
            let error = Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER);
            return self.refuse_call(host, &key, envelope, error);
        }
        let deadline = envelope.options().deadline;
        activation.desk().queue.push_back(Waiting { envelope, since: self.now.get() });
        let is_idle = activation.busy == Busy::Idle;
        drop(table);
        if let Some(deadline) = deadline {
            self.watch_queue(host, row, deadline);
        }
        if is_idle {
            self.pump_soon(host, row);
        }
    }

    /// Lets waiting calls run as far as there is room.
    pub(super) fn pump(&self, host: &Rc<SlotHost>, row: u32) {
        loop {
            self.move_on(host, row);
            let mut table = host.table.borrow_mut();
            let Some(activation) = table.get_mut(row) else { return };
            let (busy, stay, desk) = (activation.busy, activation.stay, activation.desk());
            let Some(waiting) = desk.queue.front() else { return self.settled(host, row, table) };
            let origin = waiting.envelope.options().origin;
            if stay == Stay::Asked || (stay == Stay::Closing && origin != Origin::Deactivate) {
                return; // it is about to leave: what waits is for the next activation
            }
            let gone = !waiting.envelope.is_awaited() || self.is_void(host, &*waiting.envelope);
            let expired =
                waiting.envelope.options().deadline.is_some_and(|deadline| self.now.get() >= deadline);
            let room = busy.enter(waiting.envelope.info().access);
            if room.is_none() && !gone && !expired {
                return;
            }
            let Some(waiting) = desk.queue.pop_front() else { return };
            let (grain, key) = (activation.grain.clone(), activation.key.clone());
            if gone {
                drop(table);
                let message = format!("{}/{key}: nobody waits for it any more", waiting.envelope.info().kind);
                self.refuse_call(
                    host,
                    &key,
                    waiting.envelope,
                    Error::new(ErrorKind::Closed, message).ran(Ran::No),
                );
            } else if expired {
                drop(table);
                self.expire_waiting(host, &key, waiting);
            } else if let Some(busy) = room {
                activation.busy = busy;
                drop(table);
                self.start_turn(host, row, grain, key, waiting.envelope);
            }
        }
    }

    /// An activation on which nothing runs goes on with its leaving, if it leaves.
    fn move_on(&self, host: &SlotHost, row: u32) {
        let (stay, waits) = {
            let table = host.table.borrow();
            let Some(activation) = table.get(row).filter(|a| a.busy == Busy::Idle) else { return };
            (activation.stay, activation.queue_len() > 0)
        };
        match stay {
            Stay::Asked => self.close(host, row),
            Stay::Closed if waits => self.renew(host, row),
            Stay::Here | Stay::Closing | Stay::Closed => {}
        }
    }

    /// Makes a grain of its cell, or a new one, and queues its hook. The grain must not be in the table.
    pub(super) fn activate(&self, host: &Rc<SlotHost>, kind_no: u16, key: &Key, hash: u32) -> Result<u32> {
        let info = self.kinds[kind_no as usize];
        let mut image = Vec::new();
        let mut found = Lookup::Absent;
        if info.options.durability == Durability::Durable {
            let mut cell = Vec::with_capacity(64);
            grain_cell(info.name, key, &mut cell);
            found = self.load(host, &cell, &mut image)?;
        }
        let grain = (info.wake)((found == Lookup::Found).then_some(&image)).map_err(|error| {
            Error::new(
                error.kind(),
                format!("{}/{key}: its stored state cannot be read: {}", info.name, error.message()),
            )
        })?;
        let mut table = host.table.borrow_mut();
        let row = table.insert(hash, kind_no, key.clone(), grain, self.seconds());
        table.set_state_bytes(row, image.len());
        drop(table);
        self.count(|s| &s.activated);
        LaneStats::add(&self.mailbox.stats.active, 1);
        if let Some(hook) = info.on_activate {
            self.queue_hook(host, row, hook, Origin::Activate);
        }
        Ok(row)
    }

    /// Puts a hook before everything that waits.
    pub(super) fn queue_hook(&self, host: &SlotHost, row: u32, hook: MethodEntry, origin: Origin) {
        let options = Options { origin, one_way: true, ..Options::default() };
        let (reply, _) = oneshot::channel();
        match (hook.open)(&[], options, reply) {
            Ok(envelope) => {
                let mut table = host.table.borrow_mut();
                let Some(activation) = table.get_mut(row) else { return };
                activation.desk().queue.push_front(Waiting { envelope, since: self.now.get() });
                drop(table);
                self.pump_soon(host, row);
            }
            Err(error) => tracing::error!(%error, hook = hook.info.name, "the hook could not be called"),
        }
    }
}

/// Answers a call that goes nowhere.
pub(crate) fn refuse(call: Call, error: Error) {
    match call {
        Call::Letter { envelope, .. } => envelope.refuse(error),
        Call::Named(named) => drop(named.reply.send(Err(error))),
    }
}
