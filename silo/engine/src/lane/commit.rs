//! Carries out what the slots' machines decide: scripts, openings, releases, rollbacks; and seals commits.

use std::rc::Rc;
use std::time::Instant;

use granary_cluster::retry::{Caution, Mode, Retry};
use granary_cluster::slot::{Do, Dropped, Heard, Opened, Slot, Stored, Why};
use granary_cluster::{Cells, CommitNo, Position, Reply, Script, fail};
use granary_core::{Error, ErrorKind, Ran, Result, SlotId};

use crate::mailbox::Word;
use crate::slot::{Broken, Inner, SlotHost};
use crate::stats::LaneStats;

use super::Lane;
use super::deliver::{grain_cell, refuse};
use super::time::Alarm;

impl Lane {
    /// Takes a slot, from the store's row on.
    pub(super) fn take(&self, host: &SlotHost) {
        match self.config.store.record(host.id) {
            Ok(record) => {
                let run = self.config.store.run();
                self.machine(host, |machine, out| {
                    machine.take(&record, run, out);
                });
            }
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                tracing::warn!(slot = %host.id, %error, "the slot's row cannot be read; trying again in {wait:?}");
                self.set_alarm(self.now.get() + millis(wait), Alarm::Take(host.id));
            }
        }
    }

    /// Lets a slot's machine decide something.
    pub(super) fn machine<R>(&self, host: &SlotHost, decide: impl FnOnce(&mut Slot, &mut Vec<Do>) -> R) -> R {
        let mut out = Vec::new();
        let result = decide(&mut host.inner.borrow_mut().machine, &mut out);
        self.decided.borrow_mut().extend(out.into_iter().map(|what| (host.id, what)));
        result
    }

    /// Carries out what was decided, until nothing is left; true when there was something.
    pub(super) fn carry_out(&self) -> bool {
        let mut any = false;
        loop {
            let decided = std::mem::take(&mut *self.decided.borrow_mut());
            if decided.is_empty() {
                return any;
            }
            any = true;
            for (slot, what) in decided {
                if let Some(host) = self.slot(slot) {
                    self.carry_out_one(&host, what);
                }
            }
        }
    }

    fn carry_out_one(&self, host: &Rc<SlotHost>, what: Do) {
        match what {
            Do::Script(script) => self.scripts.borrow_mut().push(script),
            // store and log are one engine here: nobody else holds a transaction, there is no marker
            Do::Fence(ask, _) => self.machine(host, |machine, out| machine.hear(Heard::Fenced(ask), out)),
            Do::ReadMarker(ask) => {
                self.machine(host, |machine, out| machine.hear(Heard::Marker(ask, None), out))
            }
            Do::InitProducer => self.machine(host, |machine, out| machine.hear(Heard::ProducerReady, out)),
            Do::ReadRecord(ask) => {
                let run = self.config.store.run();
                let heard = match self.config.store.record(host.id) {
                    Ok(record) => Heard::Record(ask, Stored { record, outbox: Vec::new(), run }),
                    Err(_) => Heard::NoAnswer(ask),
                };
                self.machine(host, |machine, out| machine.hear(heard, out));
            }
            Do::Opened(opened) => self.opened(host, &opened),
            Do::Noted(position) => host.inner.borrow_mut().noted = Some(position),
            Do::Release(n) => self.released(host, n),
            Do::Drop(dropped) => self.dropped(host, &dropped),
            Do::Lost { from, to } => {
                tracing::error!(slot = %host.id, %from, %to, "the store lost acknowledged commits: their calls are gone");
            }
            Do::Stop(repair) => {
                tracing::error!(slot = %host.id, ?repair, "the slot cannot go on without the repair command");
                host.inner.borrow_mut().is_parked = true;
            }
        }
    }

    /// Hands the collected scripts to the store, as one batch.
    pub(super) fn submit(&self) {
        let scripts = std::mem::take(&mut *self.scripts.borrow_mut());
        if scripts.is_empty() {
            return;
        }
        let _ = fail::point("commit.before");
        let slots: Vec<SlotId> = scripts.iter().map(Script::slot).collect();
        let mailbox = self.mailbox.clone();
        let done = Box::new(move |replies: Result<Vec<Reply>>| mailbox.tell(Word::Scripted(slots, replies)));
        self.config.store.submit(scripts, done);
    }

    /// The store's answer to a batch.
    pub(super) fn scripted(&self, slots: &[SlotId], replies: Result<Vec<Reply>>) {
        let _ = fail::point("commit.after");
        match replies {
            Ok(replies) => {
                self.store_backoff.borrow_mut().succeeded();
                for reply in replies {
                    if let Some(host) = self.slot(reply.slot) {
                        self.machine(&host, |machine, out| machine.hear(Heard::Scripted(reply), out));
                    }
                }
            }
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                tracing::warn!(%error, slots = slots.len(), "the store did not answer; sending the same again in {wait:?}");
                for slot in slots {
                    self.set_alarm(self.now.get() + millis(wait), Alarm::Resend(*slot));
                }
            }
        }
    }

    pub(super) fn resend(&self, slot: SlotId) {
        if let Some(host) = self.slot(slot) {
            self.machine(&host, |machine, out| machine.hear(Heard::ScriptUnknown, out));
        }
    }

    fn opened(&self, host: &Rc<SlotHost>, opened: &Opened) {
        let mut inner = host.inner.borrow_mut();
        inner.positions.clone_from(&opened.positions);
        let fresh = Caution::new(opened);
        // a rollback opens the slot again: what it was careful about stays
        if inner.caution.is_none() || opened.tries > 0 {
            inner.caution = Some(fresh);
        }
        inner.noted = None;
        (inner.records_open, inner.records_sealed, inner.is_single_full) = (0, 0, false);
        host.stored.set(opened.n.0);
        host.open_commit.set(inner.machine.open_commit().0);
        let backlog = std::mem::take(&mut inner.backlog);
        drop(inner);
        if let Err(error) = self.load_reminders(host) {
            tracing::error!(slot = %host.id, %error, "the reminders of the slot cannot be read");
        }
        host.is_running.set(true);
        host.has_changes.set(false);
        let positions = &opened.positions;
        tracing::debug!(slot = %host.id, n = %opened.n, epoch = %opened.epoch, ?positions, "slot open");
        self.rewind_feeds(host);
        self.local.borrow_mut().extend(backlog);
    }

    /// Commit `n` is stored.
    fn released(&self, host: &Rc<SlotHost>, n: CommitNo) {
        let _ = fail::point("reply.before");
        host.stored.set(n.0);
        host.open_commit.set(host.inner.borrow().machine.open_commit().0);
        self.count(|s| &s.commits);
        self.pipeline.borrow_mut().acknowledged(host.id, n);
        let mut inner = host.inner.borrow_mut();
        let sealed = std::mem::take(&mut inner.records_sealed);
        if let Some(caution) = &mut inner.caution {
            caution.passed(sealed.max(1));
        }
        inner.is_single_full = false;
        let Inner { machine, culprit, held, keyed, leaving, .. } = &mut *inner;
        culprit.passed(machine.positions());
        keyed.stored(n.0);
        for answer in held.release(n) {
            answer.send();
        }
        let leaving = std::mem::take(leaving);
        drop(inner);
        for row in leaving {
            self.leaves(host, row);
        }
        let _ = fail::point("reply.after");
    }

    /// The slot's memory goes: everything not stored is undone.
    fn dropped(&self, host: &Rc<SlotHost>, dropped: &Dropped) {
        host.is_running.set(false);
        host.stream_turns.set(0);
        host.has_changes.set(false);
        *host.broken.borrow_mut() = None;
        self.drop_turns(host, dropped.unsure.is_some());
        let queued = self.drop_activations(host);
        self.pipeline.borrow_mut().close(host.id);
        let mut inner = host.inner.borrow_mut();
        inner.effects = granary_cluster::Effects::default();
        inner.cells = Cells::default();
        inner.timers = crate::timers::Timers::default();
        inner.leaving.clear();
        inner.has_ended = false;
        let joined = inner.keyed.dropped();
        let message = format!("slot {} went back to its last stored commit ({:?})", host.id, dropped.why);
        for (answer, ran) in inner.held.dropped(dropped) {
            answer.refuse(Error::new(ErrorKind::Poisoned, message.clone()).ran(ran));
        }
        drop(inner);
        if dropped.why == Why::Rollback {
            // what only waited has seen nothing: it runs when the slot is open again
            for (key, envelope) in queued {
                self.redeliver(host, key, envelope);
            }
            for envelope in joined {
                envelope.refuse(Error::new(ErrorKind::Poisoned, message.clone()).ran(Ran::No));
            }
            return;
        }
        tracing::warn!(slot = %host.id, why = ?dropped.why, "slot dropped");
        let gone = Error::new(ErrorKind::Moved, format!("slot {} has left this silo", host.id)).ran(Ran::No);
        for envelope in queued.into_iter().map(|(_, envelope)| envelope).chain(joined) {
            envelope.refuse(gone.clone());
        }
        let backlog = std::mem::take(&mut host.inner.borrow_mut().backlog);
        for call in backlog {
            refuse(call, gone.clone());
        }
    }

    /// Rolls back the slots in which a turn failed.
    pub(super) fn undo_broken(&self) {
        for host in self.slots.iter().flatten() {
            let broken = host.broken.borrow_mut().take();
            if let Some(broken) = broken.filter(|_| host.is_running.get()) {
                self.roll_back(host, &broken);
            }
        }
    }

    fn roll_back(&self, host: &Rc<SlotHost>, broken: &Broken) {
        self.count(|s| &s.rollbacks);
        let retry = {
            let mut inner = host.inner.borrow_mut();
            match broken.record {
                Some(at) => inner.culprit.failed(at),
                None => Retry::Retry,
            }
        };
        let reason = &broken.reason;
        match (retry, broken.record) {
            (Retry::Park, _) => {
                self.count(|s| &s.parked);
                tracing::error!(slot = %host.id, %reason, "slot parked: it fails whatever is tried; the others run on");
                host.inner.borrow_mut().is_parked = true;
                self.machine(host, |machine, out| machine.give_up(out));
                return;
            }
            (Retry::Poison, Some(at)) => {
                tracing::error!(slot = %host.id, ?at, %reason, "the record failed again: it goes to `poisoned`");
            }
            (_, at) => {
                tracing::warn!(slot = %host.id, ?at, %reason, "slot rolled back to its last stored commit")
            }
        }
        self.machine(host, |machine, out| machine.rollback(out));
    }

    /// Seals the slots whose commit is due.
    pub(super) fn seal_due(&self) {
        let since = self.last_seal.get().elapsed();
        let paced = self.is_stopping.get() || self.pace.borrow().is_due(since, false, false);
        let began = Instant::now();
        let mut sealed = 0;
        for host in self.slots.iter().flatten() {
            if host.has_changes.get() && self.may_seal(host, paced) {
                self.seal(host);
                sealed += 1;
            }
        }
        if paced && sealed > 0 {
            sealed += self.seal_lagging();
            self.last_seal.set(began);
        }
        if sealed > 0 {
            let took = began.elapsed();
            self.pace.borrow_mut().committed(took);
            LaneStats::add(&self.mailbox.stats.seal_ns, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        } else if !paced && self.slots.iter().flatten().any(|host| host.has_changes.get()) {
            let left = self.pace.borrow().interval().saturating_sub(since);
            self.set_alarm(self.now.get() + millis(left), Alarm::Look);
        }
    }

    fn may_seal(&self, host: &SlotHost, paced: bool) -> bool {
        if !host.is_running.get() || host.stream_turns.get() > 0 || host.broken.borrow().is_some() {
            return false;
        }
        let inner = host.inner.borrow();
        let waits = !inner.held.is_empty() || !inner.leaving.is_empty();
        inner.machine.may_seal() && (paced || waits || host.is_batch_full(&inner))
    }

    /// Slots that applied nothing still move their positions: a restart would else read from the first of them.
    fn seal_lagging(&self) -> usize {
        let mut sealed = 0;
        for host in self.slots.iter().flatten() {
            if !host.has_changes.get() && self.may_seal(host, true) && self.is_lagging(host) {
                self.seal(host);
                sealed += 1;
            }
        }
        sealed
    }

    fn seal(&self, host: &Rc<SlotHost>) {
        let _ = fail::point("seal.before");
        let mut inner = host.inner.borrow_mut();
        let n = inner.machine.open_commit();
        let mut cells = std::mem::take(&mut inner.cells);
        if let Err(error) = self.seal_grains(host, &mut cells) {
            inner.cells = cells;
            drop(inner);
            return host.break_with(format!("a state cannot be encoded: {error}"), None);
        }
        self.pipeline.borrow_mut().seal(host.id, n, &mut cells);
        let outbox = std::mem::take(&mut inner.effects.outbox);
        inner.positions.sort_unstable();
        let positions = self.positions_of(host, &inner.positions);
        inner.positions.clone_from(&positions);
        inner.records_sealed = std::mem::take(&mut inner.records_open);
        inner.noted = None;
        LaneStats::add(&self.mailbox.stats.cells, cells.len() as u64);
        LaneStats::add(&self.mailbox.stats.outputs, outbox.len() as u64);
        drop(inner);
        host.has_changes.set(false);
        self.machine(host, |machine, out| machine.seal(cells, positions, outbox, out));
        host.open_commit.set(host.inner.borrow().machine.open_commit().0);
        let _ = fail::point("seal.after");
    }

    /// Writes the changed grains as they stand between turns: a grain whose exclusive turn waits enters as it was before.
    fn seal_grains(&self, host: &SlotHost, cells: &mut Cells) -> Result<()> {
        let dirty = std::mem::take(&mut *host.dirty.borrow_mut());
        let mut table = host.table.borrow_mut();
        let mut state = Vec::with_capacity(256);
        for row in dirty {
            let Some(activation) = table.get_mut(row) else { continue };
            activation.is_dirty = false;
            state.clear();
            let mut turns = self.turns.borrow_mut();
            let waiting = (activation.busy == crate::table::Busy::Exclusive)
                .then(|| activation.turns().first().and_then(|no| turns.get(*no)))
                .flatten();
            match waiting {
                Some(turn) => state.extend_from_slice(turn.image.as_deref().unwrap_or_default()),
                None => activation.grain.encode(&mut state)?,
            }
            if state.is_empty() {
                continue; // a clean grain whose first exclusive turn waits: its cell is as it was
            }
            let kind = self.kinds[activation.kind as usize].name;
            cells.put(|out| grain_cell(kind, &activation.key, out), |out| out.extend_from_slice(&state));
            drop(turns);
            table.set_state_bytes(row, state.len());
        }
        Ok(())
    }

    /// How the next records of a slot are put into commits.
    pub(super) fn mode(&self, inner: &Inner) -> Mode {
        let caution = inner.caution.as_ref().map_or(Mode::Batch, Caution::mode);
        match inner.culprit.mode() {
            Mode::Batch => caution,
            single if caution == Mode::Batch => single,
            _ => caution,
        }
    }

    /// Notes the position of the record about to be applied, for a slot that has killed its process.
    pub(super) fn note(&self, host: &SlotHost, at: Position) -> bool {
        let inner = host.inner.borrow();
        if inner.noted == Some(at) {
            return true;
        }
        let may_note = inner.machine.may_note(at);
        let may_seal = inner.machine.may_seal();
        drop(inner);
        if may_note {
            self.machine(host, |machine, out| machine.note(at, out));
        } else if may_seal {
            host.has_changes.set(true); // an empty commit clears `tries` first
            host.inner.borrow_mut().is_single_full = true;
        }
        false
    }

    /// Stops when everything that was taken is stored.
    pub(super) fn try_stop(&self) {
        if !self.is_stopping.get() || self.stop.borrow().is_none() {
            return;
        }
        let quiet = self.turns.borrow().is_empty()
            && self.local.borrow().is_empty()
            && self.pumps.borrow().is_empty()
            && self.slots.iter().flatten().all(|host| {
                let inner = host.inner.borrow();
                let running = host.is_running.get();
                !running || (!host.has_changes.get() && inner.machine.may_seal() && inner.held.is_empty())
            });
        if quiet {
            if let Some(done) = self.stop.borrow_mut().take() {
                let _ = done.send(());
            }
        }
    }
}

/// A real length in the lane's time, rounded up: a short wait is still a wait.
pub(super) fn millis(length: std::time::Duration) -> granary_core::Span {
    granary_core::Span(u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
}
