//! Reads of the store: rows and outboxes as the lane asks its reading threads for them, cells on the lane itself, those
//! surely needed together.

use std::rc::Rc;
use std::time::{Duration, Instant};

use granary_cluster::slot::{Ask, Heard, Phase, Stored};
use granary_cluster::{Lookup, RunId, SlotRecord};
use granary_core::{Durability, Error, ErrorKind, Key, KindId, Result, SlotId, Span};
use hashbrown::HashMap;

use crate::keyed;
use crate::mailbox::Call;
use crate::slot::SlotHost;
use crate::stats::LaneStats;
use crate::table::hash_of;

use super::alarms::Alarm;
use super::commit::millis;
use super::deliver::grain_cell;
use super::moving::Here;
use super::reader::{Task, stored};
use super::{CALLS_PER_ROUND, Lane};

/// A slot that was lost is taken again after this.
const TAKE_AGAIN_AFTER: Span = Span(50);
/// After a read failed the lane reads nothing for so many times as long as that took: it is held up for a part of its
/// time at most.
const PAUSE_TIMES: u32 = 4;
/// But not for longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Cells looked up before they are needed, by slot and key. They hold for as long as nothing of their slots is applied.
pub(super) type Fetched = HashMap<Vec<u8>, Option<Vec<u8>>, foldhash::fast::FixedState>;

fn fetched_key(slot: SlotId, cell: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + cell.len());
    key.extend_from_slice(&slot.0.to_be_bytes());
    key.extend_from_slice(cell);
    key
}

impl Lane {
    /// Takes a slot, from the store's row on.
    pub(super) fn take(&self, host: &Rc<SlotHost>) {
        if self.is_stopping.get() || host.here.get() == Here::No {
            return;
        }
        match &self.reader {
            Some(_) if host.is_looking.replace(true) => {} // the answer is on its way
            Some(reader) => reader.ask(Task::Row(host.id)),
            None => {
                let run = self.config.store.run();
                self.row_read(host, self.config.store.record(host.id).map(|record| (record, run)));
            }
        }
    }

    pub(super) fn row(&self, slot: SlotId, row: Result<(SlotRecord, RunId)>) {
        if let Some(host) = self.slot(slot) {
            self.row_read(&host, row);
        }
    }

    /// The row of a slot that is to be taken.
    pub(super) fn row_read(&self, host: &Rc<SlotHost>, row: Result<(SlotRecord, RunId)>) {
        host.is_looking.set(false);
        match row {
            Ok((record, run)) if !self.may_take(host, &record, run) => {}
            Ok((record, run)) => {
                host.waits_since.set(None);
                host.unfit_owner.set(None);
                host.asides.set(self.config.cluster.as_ref().map_or(0, |cluster| cluster.lease.asides()));
                let taken = self.machine(host, |machine, out| machine.take(&record, run, out));
                if !taken && host.inner.borrow().machine.phase() == Phase::Off {
                    self.take_again(host); // a script of an earlier time is on its way
                }
            }
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                tracing::warn!(slot = %host.id, %error, "the slot's row cannot be read; trying again in {wait:?}");
                self.set_alarm(self.now.get() + millis(wait), Alarm::Take(host.id));
            }
        }
    }

    /// The slot was lost, for a reason that another acquire may mend.
    pub(super) fn take_again(&self, host: &SlotHost) {
        self.set_alarm(self.now.get() + TAKE_AGAIN_AFTER, Alarm::Take(host.id));
    }

    /// A slot asks for its row and outbox.
    pub(super) fn read_record(&self, host: &SlotHost, ask: Ask) {
        match &self.reader {
            Some(reader) => reader.ask(Task::Record(host.id, ask)),
            None => self.record(host.id, ask, stored(&*self.config.store, host.id, self.config.store.run())),
        }
    }

    pub(super) fn record(&self, slot: SlotId, ask: Ask, stored: Result<Stored>) {
        self.answered(slot, ask, "read its row", stored.map(|stored| Heard::Record(ask, stored)));
    }

    /// Looks up a cell of a slot; appends its value.
    pub(super) fn load(&self, host: &SlotHost, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        if !self.config.store_is_remote {
            return self.config.store.load(host.id, cell, value);
        }
        let fetched = self.fetched.borrow_mut().remove(&fetched_key(host.id, cell));
        match fetched {
            Some(Some(bytes)) => {
                value.extend_from_slice(&bytes);
                Ok(Lookup::Found)
            }
            Some(None) => Ok(Lookup::Absent),
            None => {
                let start = value.len();
                let found = self.timed(1, || self.config.store.load(host.id, cell, value))?;
                self.of_its_run(host).inspect_err(|_| value.truncate(start))?;
                Ok(found)
            }
        }
    }

    /// A cell read under another run of the store's server may be older than the slot.
    fn of_its_run(&self, host: &SlotHost) -> Result<()> {
        let run = self.config.store.run();
        if run == host.run.get() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("slot {}: the store's server is another one now", host.id),
        ))
    }

    /// Reads, and pauses reading for a while after a failure.
    fn timed<R>(&self, cells: usize, read: impl FnOnce() -> Result<R>) -> Result<R> {
        let began = Instant::now();
        if self.no_reads_before.get().is_some_and(|until| began < until) {
            return Err(Error::new(ErrorKind::Unavailable, "the store could not be read a moment ago"));
        }
        LaneStats::add(&self.mailbox.stats.loads, cells as u64);
        LaneStats::add(&self.mailbox.stats.load_trips, 1);
        let read = read();
        let failed = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
        let pause = began.elapsed().saturating_mul(PAUSE_TIMES).min(PAUSE_MAX);
        self.no_reads_before.set(failed.then(|| Instant::now() + pause));
        read
    }

    /// Looks up all these cells in one round trip; what fails here is read one by one where it is needed.
    pub(super) fn fetch(&self, mut cells: Vec<(SlotId, Vec<u8>)>) {
        cells.sort_unstable();
        cells.dedup();
        if cells.len() < 2 {
            return; // one cell is one round trip anyway
        }
        let mut fetched = self.fetched.borrow_mut();
        let run = self.config.store.run();
        let read = self.timed(cells.len(), || {
            self.config.store.load_many(&cells, &mut |i, value| {
                let (slot, cell) = &cells[i];
                fetched.insert(fetched_key(*slot, cell), value.map(<[u8]>::to_vec));
            })
        });
        let is_of_run = |slot: &SlotId| self.slot(*slot).is_some_and(|host| host.run.get() == run);
        if read.is_err() || self.config.store.run() != run || !cells.iter().all(|(slot, _)| is_of_run(slot)) {
            fetched.clear();
        }
    }

    /// Hands the pipeline the cells that were found, if any; a cell it cannot read fails the record that needs it.
    pub(super) fn supply_fetched(&self, mut cells: Vec<(SlotId, Vec<u8>)>) -> bool {
        let mut supplied = false;
        cells.sort_unstable();
        cells.dedup();
        for (slot, cell) in cells {
            let key = fetched_key(slot, &cell);
            let mut fetched = self.fetched.borrow_mut();
            let Some(value) = fetched.get(&key) else { continue };
            if self.pipeline.borrow_mut().supply(slot, &cell, value.as_deref()).is_ok() {
                fetched.remove(&key);
                supplied = true;
            }
        }
        supplied
    }

    /// Before a round delivers calls: takes them out of the inbox and looks up what they surely need.
    pub(super) fn fetch_for_calls(&self) {
        let mut arrived = self.arrived.borrow_mut();
        while arrived.len() < CALLS_PER_ROUND
            && let Some(call) = self.mailbox.calls.pop()
        {
            arrived.push_back(call);
        }
        let mut cells = Vec::new();
        for call in self.local.borrow().iter().chain(arrived.iter()).take(CALLS_PER_ROUND) {
            self.name_cells(call, &mut cells);
        }
        drop(arrived);
        self.fetch(cells);
    }

    fn name_cells(&self, call: &Call, cells: &mut Vec<(SlotId, Vec<u8>)>) {
        let Some(host) = self.slot(call.slot()).filter(|host| host.is_running.get()) else { return };
        let (kind, key, options) = match call {
            Call::Letter { kind, key, envelope, .. } => (*kind, key, envelope.options()),
            Call::Named(named) => (KindId::of(&named.grain.kind), &named.grain.key, &named.options),
        };
        self.name_grain(&host, kind, key, cells);
        if let (Some(idempotency_key), Some(no)) = (&options.idempotency_key, self.kind_no(kind)) {
            let name = self.kinds[usize::from(no)].name;
            cells.push((host.id, keyed::cell_key(name, key.as_str(), idempotency_key)));
        }
    }

    /// The cell of a grain, if it is not in memory.
    pub(super) fn name_grain(
        &self,
        host: &SlotHost,
        kind: KindId,
        key: &Key,
        cells: &mut Vec<(SlotId, Vec<u8>)>,
    ) {
        let Some(no) = self.kind_no(kind) else { return };
        let info = self.kinds[usize::from(no)];
        if info.options.durability != Durability::Durable {
            return;
        }
        if host.table.borrow().find(hash_of(kind, key), no, key).is_none() {
            let mut cell = Vec::with_capacity(64);
            grain_cell(info.name, key, &mut cell);
            cells.push((host.id, cell));
        }
    }
}
