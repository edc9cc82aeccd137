//! A record, or the clock, at work on a slot: the pipeline, and the grains it tells.

use std::cell::RefMut;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use granary_cluster::{Applied, Failure, Lookup, Pipeline, Position, Record};
use granary_core::call::{Options, Origin};
use granary_core::{Error, ErrorKind, GrainId, Key, KindId, MethodInfo, Result};
use tokio::sync::oneshot;

use crate::slot::{Blame, Inner, SlotHost};

use super::feed::offset;
use super::{Lane, panic_message};

/// Why a record, or the clock, could not be applied.
pub(super) enum Fault {
    /// The handler refused or panicked.
    Handler(String),
    /// Cells are missing that may be looked up together with others; nothing was changed.
    Lacks,
    /// The store could not be read: nobody's fault.
    Store(Error),
}

impl Lane {
    pub(super) fn apply(
        &self,
        host: &Rc<SlotHost>,
        inner: &mut Inner,
        record: &Record<'_>,
        at: Position,
    ) -> Result<(), Fault> {
        if let Some(first) = self.config.sources[usize::from(at.source.0)].again_of {
            let stood = offset(&inner.positions, first, at.partition);
            self.pipeline.borrow_mut().stands(host.id, stood);
        }
        let applied = self.until_done(host, inner, b"pipeline/a record.apply ", |pipeline, inner| {
            pipeline.apply(host.id, record, &mut inner.effects)
        })?;
        host.is_closing.set(applied == Applied::More);
        Ok(())
    }

    /// Supplies missing cells until the pipeline is done; a panic is a failure.
    pub(super) fn until_done(
        &self,
        host: &SlotHost,
        inner: &mut Inner,
        what: &'static [u8; 24],
        mut step: impl FnMut(&mut dyn Pipeline, &mut Inner) -> Result<Applied, Failure>,
    ) -> Result<Applied, Fault> {
        loop {
            self.mailbox.pulse.step_begins(what);
            let stepped = catch_unwind(AssertUnwindSafe(|| step(&mut **self.pipeline.borrow_mut(), inner)));
            self.mailbox.pulse.turn_ends();
            match stepped {
                Ok(Ok(applied @ (Applied::Done | Applied::More))) => return Ok(applied),
                Ok(Ok(Applied::Missing)) => {
                    let mut missing = std::mem::take(&mut inner.effects.missing);
                    if self.may_lack.get() {
                        return Err(Fault::Lacks);
                    }
                    self.supply(host, &mut missing).map_err(Fault::Store)?;
                }
                Ok(Err(failure)) => return Err(Fault::Handler(failure.message)),
                Err(payload) => return Err(Fault::Handler(panic_message(&*payload))),
            }
        }
    }

    /// What could not be applied undoes the slot.
    pub(super) fn fault(&self, host: &SlotHost, fault: Fault) {
        match fault {
            Fault::Handler(reason) => host.break_applying(reason),
            Fault::Lacks => {} // it comes again
            // a cell that cannot be decoded will not be better next time
            Fault::Store(error) if error.kind() != ErrorKind::Unavailable => {
                host.break_applying(error.to_string())
            }
            Fault::Store(error) => host.break_with(error.to_string(), Blame::Store),
        }
    }

    /// Hands the named cells from the store to the pipeline.
    pub(super) fn supply(&self, host: &SlotHost, missing: &mut Vec<Vec<u8>>) -> Result<()> {
        if self.config.store_is_remote {
            self.fetch(missing.iter().map(|cell| (host.id, cell.clone())).collect());
        }
        let mut value = Vec::new();
        for cell in missing.drain(..) {
            value.clear();
            let found = self.load(host, &cell, &mut value)?;
            let value = (found == Lookup::Found).then_some(&value[..]);
            self.pipeline.borrow_mut().supply(host.id, &cell, value)?;
        }
        Ok(())
    }

    /// The calls a record makes of grains of its own slot: part of the same turn, and of the same commit.
    pub(super) fn tell_all(&self, host: &Rc<SlotHost>, tells: Vec<(GrainId, Box<str>, Vec<u8>)>) {
        for (grain, method, arguments) in tells {
            host.stream_turns.set(host.stream_turns.get() + 1);
            if let Err(error) = self.tell(host, &grain, &method, &arguments) {
                host.stream_turns.set(host.stream_turns.get().saturating_sub(1));
                return host.break_applying(format!("{grain}.{method}: {error}"));
            }
        }
    }

    fn tell(&self, host: &Rc<SlotHost>, grain: &GrainId, method: &str, arguments: &[u8]) -> Result<()> {
        let kind = KindId::of(&grain.kind);
        let info = self.kind(kind).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("this silo does not host `{}`", grain.kind))
        })?;
        if self.route.slot(&grain.key) != host.id {
            return Err(Error::invalid(format!(
                "{grain} lives in another slot: a stream event calls grains of its own slot only"
            )));
        }
        let entry = info
            .method(method)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{grain} has no method `{method}`")))?;
        let (reply, _) = oneshot::channel();
        let options = Options { origin: Origin::Stream, one_way: true, ..Options::default() };
        let envelope = (entry.open)(arguments, options, reply)?;
        self.letter(host, kind, grain.key.clone(), envelope);
        Ok(())
    }

    /// A turn of the present record has ended; an error undoes the slot.
    pub(super) fn stream_turn_ended(
        &self,
        host: &SlotHost,
        key: &Key,
        info: &'static MethodInfo,
        error: Option<&Error>,
    ) {
        host.stream_turns.set(host.stream_turns.get().saturating_sub(1));
        if let Some(error) = error {
            host.break_applying(format!("{}/{key}.{}: {error}", info.kind, info.name));
        }
    }

    /// The inputs have ended: each slot closes what is open. True while there is more to do.
    pub(super) fn end_inputs(&self) -> bool {
        if self.is_closing_enough() {
            return false;
        }
        for host in self.slots.iter().flatten() {
            let mut inner = host.inner.borrow_mut();
            if inner.is_parked || inner.has_ended {
                continue;
            }
            let is_free = host.is_running.get() && !host.is_closing.get();
            if !is_free || host.stream_turns.get() > 0 || host.is_batch_full(&inner) {
                return false;
            }
            let ended = self.by_clock(host, &mut inner, |pipeline, cause, inner| {
                pipeline.end(host.id, cause, &mut inner.effects)
            });
            if let Some(applied) = ended {
                inner.has_ended = true;
                host.has_changes.set(true);
                host.is_closing.set(applied == Applied::More);
            }
            self.tell_decided(host, inner);
            return true;
        }
        let stored = |host: &Rc<SlotHost>| {
            host.inner.borrow().is_parked
                || (!host.is_closing.get()
                    && !host.has_changes.get()
                    && host.inner.borrow().machine.may_seal())
        };
        if self.slots.iter().flatten().all(stored) && !self.is_finished.replace(true) {
            self.mailbox.finish();
        }
        false
    }

    /// The calls of grains that the clock caused.
    pub(super) fn tell_decided(&self, host: &Rc<SlotHost>, mut inner: RefMut<'_, Inner>) {
        inner.applying = None;
        let tells = std::mem::take(&mut inner.effects.tells);
        drop(inner);
        if !tells.is_empty() {
            host.has_changes.set(true);
            self.tell_all(host, tells);
        }
    }
}
