//! Activations leave: idle ones, those that asked for it, the cold ones when memory is short.

use std::cell::RefMut;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use granary_core::call::Origin;
use granary_core::envelope::Envelope;
use granary_core::{Durability, Error, Key, Ran, Result, Span};

use crate::slot::{Blame, SlotHost};
use crate::stats::LaneStats;
use crate::table::{Stay, Table};

use super::Lane;
use super::alarms::Alarm;

/// Rows of a table looked at in one go.
const SWEEP_ROWS: usize = 4_096;
/// Memory is short: activations that were not used for so many seconds leave first, then for half of that, and so on.
const COLD_S: u64 = 60;
/// What an activation costs besides its state, about, in bytes.
const ACTIVATION_BYTES: usize = 200;

impl Lane {
    /// Looks for idle activations; when memory is over its limit, for cold clean ones.
    pub(super) fn sweep(&self, slot: u16, from: u32) {
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
            if is_idle && activation.is_quiet() && activation.stay == Stay::Here {
                drop(table);
                self.close(host, row);
            }
        }
        let (slot, from) = next.map_or((slot + 1, 0), |from| (slot, from));
        self.set_alarm(self.now.get(), Alarm::Sweep { slot, from });
    }

    /// With each tick: where memory is over its limit panes leave at once, and activations with a pass over all tables.
    pub(super) fn mind_memory(&self) {
        let (active, panes, limit) = self.memory();
        LaneStats::set(&self.mailbox.stats.memory_bytes, (active + panes) as u64);
        let now = self.now.get();
        if active + panes > limit {
            // A little further than needed, so that not every tick has to.
            let target = limit.saturating_sub(active.min(limit / 2)) / 10 * 9;
            self.pipeline.borrow_mut().evict(target);
            if self.cut_s.get().is_none() && self.sweep_at.get().is_some() {
                self.cut_s.set(Some(COLD_S));
                self.sweep_at.set(Some(now));
            }
        }
        if self.sweep_at.get().is_some_and(|at| now >= at) {
            self.sweep_at.set(None);
            self.sweep(0, 0);
        }
    }

    /// Bytes of activations and of panes, about, and what both may take.
    fn memory(&self) -> (usize, usize, usize) {
        let tables = self.slots.iter().flatten().map(|host| host.table.borrow().bytes(ACTIVATION_BYTES));
        (
            tables.sum(),
            self.pipeline.borrow().memory_bytes(),
            self.config.memory_bytes_max / self.lanes.len().max(1),
        )
    }

    /// A pass over all tables is done: memory decides how cold the next one cuts, and when it begins.
    fn swept(&self) {
        let (active, panes, limit) = self.memory();
        let is_over = active > 0 && active + panes > limit;
        let colder = is_over.then(|| self.cut_s.get().map_or(COLD_S, |cut| cut / 2));
        let wait = match colder {
            None => self.config.sweep_every,
            Some(0) => Span(1_000),
            Some(_) => Span(10),
        };
        self.cut_s.set(colder);
        self.sweep_at.set(Some(self.now.get() + wait));
    }

    /// The activation, on which nothing runs, begins to leave: first its hook, if it has one.
    pub(super) fn close(&self, host: &SlotHost, row: u32) {
        let hook = {
            let mut table = host.table.borrow_mut();
            let Some(activation) = table.get_mut(row) else { return };
            let hook = self.kinds[activation.kind as usize].on_deactivate;
            activation.stay = if hook.is_some() { Stay::Closing } else { Stay::Closed };
            hook
        };
        match hook {
            Some(hook) => self.queue_hook(host, row, hook, Origin::Deactivate),
            None => self.leaves(host, row),
        }
    }

    /// The hook before leaving has ended.
    pub(super) fn closed(&self, host: &SlotHost, row: u32) {
        if let Some(activation) = host.table.borrow_mut().get_mut(row) {
            activation.stay = Stay::Closed;
        }
    }

    /// A closed activation on which nothing waits leaves memory now, or as soon as what it changed is stored.
    pub(super) fn leaves(&self, host: &SlotHost, row: u32) {
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return };
        if !activation.is_quiet() || activation.stay != Stay::Closed {
            return; // it is in use again
        }
        if activation.changed_in > host.stored.get() {
            host.inner.borrow_mut().leaving.push(row);
            return;
        }
        let gone = table.remove(row);
        drop(table);
        drop(gone);
        host.inner.borrow_mut().timers.drop_activation(row);
        self.count(|s| &s.deactivated);
        self.activation_gone();
    }

    /// A call came for a closed activation that is still here: a new one takes its place, made of its present state. So
    /// no turn ever follows `on_deactivate`, and no call waits for the store.
    pub(super) fn renew(&self, host: &SlotHost, row: u32) {
        let renewed = self.renewed(host, row);
        let hook = match renewed {
            Ok(hook) => hook,
            Err(error) => {
                return host.break_with(format!("an activation cannot be renewed: {error}"), Blame::Slot);
            }
        };
        host.inner.borrow_mut().timers.drop_activation(row);
        self.count(|s| &s.deactivated);
        self.count(|s| &s.activated);
        if let Some(hook) = hook {
            self.queue_hook(host, row, hook, Origin::Activate);
        }
    }

    fn renewed(&self, host: &SlotHost, row: u32) -> Result<Option<granary_core::grain::MethodEntry>> {
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return Ok(None) };
        let info = self.kinds[activation.kind as usize];
        activation.stay = Stay::Here;
        let mut image = Vec::new();
        if info.options.durability == Durability::Durable {
            activation.grain.encode(&mut image)?;
        }
        activation.grain = (info.wake)((!image.is_empty()).then_some(&image))?;
        Ok(info.on_activate)
    }

    fn activation_gone(&self) {
        let active = &self.mailbox.stats.active;
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// Drops an activation whatever it is at; calls that wait for it go to the next one.
    pub(super) fn drop_activation(&self, host: &SlotHost, row: u32) {
        let Some(mut gone) = host.table.borrow_mut().remove(row) else { return };
        host.inner.borrow_mut().timers.drop_activation(row);
        self.activation_gone();
        let key = gone.key.clone();
        for waiting in gone.desk().queue.drain(..) {
            self.admit_again(host, &key, waiting.envelope);
        }
    }

    /// `on_activate` refused: nobody sees the half-built grain.
    pub(super) fn refuse_activation(&self, host: &Rc<SlotHost>, row: u32, error: &Error) {
        let Some(mut gone) = host.table.borrow_mut().remove(row) else { return };
        host.inner.borrow_mut().timers.drop_activation(row);
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
        let before = active.load(Ordering::Relaxed);
        active.store(before.saturating_sub(table.len() as u64), Ordering::Relaxed);
        table.drain_waiting()
    }

    /// A queue has run empty: a closed activation goes.
    pub(super) fn settled(&self, host: &SlotHost, row: u32, mut table: RefMut<'_, Table>) {
        let Some(activation) = table.get_mut(row) else { return };
        activation.tidy();
        if activation.stay == Stay::Closed && activation.is_quiet() {
            drop(table);
            self.leaves(host, row);
        }
    }
}
