//! Sealing: what was decided since the last commit becomes the next one.

use std::rc::Rc;
use std::time::Instant;

use granary_cluster::retry::{Caution, Mode};
use granary_cluster::{Cells, Position, fail};
use granary_core::{Result, SlotId};

use crate::mailbox::STREAMS_COUNTED;
use crate::slot::{Blame, Inner, SlotHost};
use crate::stats::LaneStats;
use crate::table::Busy;

use super::Lane;
use super::alarms::Alarm;
use super::commit::millis;
use super::deliver::grain_cell;
use super::moving::Here;

/// Rounds a seal is put off while calls inside the slot are on their way: who calls on and on does not hold it up for ever.
const PUT_OFF_ROUNDS_MAX: u32 = 16;

impl Lane {
    /// Seals the slots whose commit is due.
    pub(super) fn seal_due(&self) {
        let since = self.last_seal.get().elapsed();
        let interval = self.pace.borrow().interval(self.is_behind());
        let paced = self.is_stopping.get() || since >= interval;
        let began = Instant::now();
        let mut sealed = 0;
        for host in self.slots.iter().flatten() {
            let since = host.has_changes.get().then(|| host.changed_since.get().unwrap_or(began));
            let is_sealed = since.is_some() && self.may_seal(host, paced);
            host.changed_since.set(since.filter(|_| !is_sealed));
            if let Some(since) = since.filter(|_| is_sealed) {
                self.mailbox.stages.commit_wait.add(began - since);
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
            self.pace.borrow_mut().sealed(took);
            LaneStats::add(&self.mailbox.stats.seal_ns, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        } else if !paced && self.slots.iter().flatten().any(|host| host.has_changes.get()) {
            let left = interval.saturating_sub(since);
            self.set_alarm(self.now.get() + millis(left), Alarm::Look);
        }
    }

    fn may_seal(&self, host: &SlotHost, paced: bool) -> bool {
        if !host.is_running.get() || host.broken.borrow().is_some() {
            return false;
        }
        if host.stream_turns.get() > 0 {
            // The next record is not to come before the commit that is due now, or there would always be one.
            host.seal_waits.set(host.seal_waits.get() || self.is_due(host, paced));
            return false;
        }
        if host.stirring.get() > 0 && host.put_off.get() < PUT_OFF_ROUNDS_MAX {
            host.put_off.set(host.put_off.get() + 1);
            return false;
        }
        host.inner.borrow().machine.may_seal() && self.is_due(host, paced)
    }

    fn is_due(&self, host: &SlotHost, paced: bool) -> bool {
        let inner = host.inner.borrow();
        let waits = !inner.held.is_empty() || !inner.leaving.is_empty() || host.seal_waits.get();
        let leaves = host.here.get() != Here::Yes;
        paced || leaves || waits || host.is_batch_full(&inner)
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
        let (outbox_room, mut cells) = self.spare.borrow_mut().take();
        if !inner.cells.is_empty() {
            std::mem::swap(&mut inner.cells, &mut cells); // else the slot would hold room it may never need
        }
        if let Err(error) = self.seal_grains(host, &mut cells) {
            inner.cells = cells;
            drop(inner);
            return host.break_with(format!("a state cannot be encoded: {error}"), Blame::Slot);
        }
        self.pipeline.borrow_mut().seal(host.id, n, &mut cells);
        let mut outbox = std::mem::replace(&mut inner.effects.outbox, outbox_room);
        inner.positions.sort_unstable();
        let positions = self.positions_of(host, &inner.positions);
        inner.positions.clone_from(&positions);
        inner.records_sealed = std::mem::take(&mut inner.records_open);
        inner.noted = None;
        host.put_off.set(0);
        host.seal_waits.set(false);
        LaneStats::add(&self.mailbox.stats.cells, cells.len() as u64);
        LaneStats::add(&self.mailbox.stats.outputs, outbox.len() as u64);
        for entry in outbox.entries() {
            let no = usize::from(entry.stream.0).min(STREAMS_COUNTED - 1);
            LaneStats::add(&self.mailbox.outputs[no], 1);
        }
        drop(inner);
        self.take_out_eager(host, &mut outbox);
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
            let waiting = (activation.busy == Busy::Exclusive)
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
        let may_note = inner.machine.may_seal();
        drop(inner);
        if may_note && self.may_suspect(host.id) {
            self.machine(host, |machine, out| machine.note(at, out));
        }
        false
    }

    /// Whether a record of this slot may be noted now. A slot of this lane that has noted one and not yet taken it makes
    /// way: it may come only after this one in the chunk.
    fn may_suspect(&self, slot: SlotId) -> bool {
        let holder = self.suspect.holder();
        if holder == Some(slot) {
            return true;
        }
        if let Some(other) = holder {
            let Some(host) = self.slot(other) else { return false };
            let mut inner = host.inner.borrow_mut();
            if inner.records_open > 0 || inner.noted.is_none() {
                return false;
            }
            inner.noted = None;
        }
        self.suspect.pass(holder, Some(slot))
    }

    /// The slot's noted record is stored, or dropped: another slot may note one.
    pub(super) fn clear_of_suspicion(&self, host: &SlotHost) {
        if self.suspect.pass(Some(host.id), None) {
            self.lanes.iter().for_each(|lane| lane.ring());
        }
    }
}
