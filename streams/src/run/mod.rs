//! A plan at work: the slots of one lane, as the engine drives them.
//!
//! | module | holds |
//! |---|---|
//! | `route` | the record on its way: decoded once, filters and maps evaluated |
//! | `slot` | one slot's memory: operators, counts, and what a record does to them |
//! | `ahead` | memory of the records to come is waited for together |
//! | `clock` | what the passing of time does to a slot |
//! | `emit` | rows on their way to the sinks |
//! | `again` | what is read a second time for rules that are new |
//! | `judged`, `judged_rows` | what rules say of a record, and of the row of a window |
//! | `follow`, `found` | what patterns and joins find, and its rows |
//! | `rolled` | totals over the rows of windows |
//! | `rows` | rows and identities, written straight into the outbox |
//! | `ask` | answers of `Window/...` and `Device/...` |
//! | [`counts`] | what became of the records |
//!
//! Invariant: what a record does depends on the record and the slot's cells alone, so a replay does the same.

mod again;
mod ahead;
mod ask;
mod clock;
pub mod counts;
mod emit;
mod follow;
mod found;
mod judged;
mod judged_rows;
mod pack;
mod prepared;
mod rolled;
mod route;
mod rows;
mod segments;
mod slot;
mod text;

use std::sync::Arc;

use granary_cluster::{
    Applied, Cause, Cells, CommitNo, Effects, Failure, Foreseen, Pipeline, Record, SourceId,
};
use granary_core::{Error, ErrorKind, GrainId, Result, SlotId, Timestamp};

pub use ask::{DEVICE, GET, WINDOW};
pub use counts::{Counts, Verdict};

use granary_window::Operator;
use granary_window::rollup::Rollup;

use crate::plan::{Mark, Plan, Round};
pub(crate) use again::Backfills;
use follow::Follower;
use judged::Seat;
use prepared::Prepared;
use route::Chunk;
pub(crate) use slot::INPUTS_MAX;
use slot::{Buffers, Slot};

/// Keys that one eviction looks at, of all operators together: some milliseconds.
const EVICTION_LOOKS_MAX: usize = 65_536;

/// The slots of one lane, running one plan.
#[derive(Debug)]
pub struct Slots {
    prepared: Prepared,
    /// By the slot's number; a slot without memory is `None`.
    slots: Vec<Option<Box<Slot>>>,
    /// The decoded records of the present chunk.
    chunk: Chunk,
    /// The place of the record that was routed or recalled last.
    at: usize,
    /// Where a slot stands in the first reading of what it is to read a second time.
    stood: (SlotId, u64),
    buffers: Buffers,
}

impl Slots {
    /// No slot is in memory yet. `slots` is the number of slots of the cluster.
    pub fn new(plan: Arc<Plan>, slots: u16) -> Slots {
        Slots {
            prepared: Prepared::new(plan, slots),
            slots: (0..slots).map(|_| None).collect(),
            chunk: Chunk::default(),
            at: 0,
            stood: (SlotId(0), 0),
            buffers: Buffers::default(),
        }
    }

    /// The topics that strays of the plan's sources come from, for rows that name their records.
    #[must_use]
    pub fn with_strays(mut self, topics: Vec<String>) -> Slots {
        self.prepared.strays = topics;
        self
    }

    /// The topics in which rows come to the plan's roll-ups, for rows that name their records.
    #[must_use]
    pub fn with_rolled(mut self, topics: Vec<String>) -> Slots {
        self.prepared.rolled_topics = topics;
        self
    }

    /// Told that their inputs have ended, they end roll-ups up to this level too: all that comes to those was read.
    #[must_use]
    pub fn ending(mut self, level: u16) -> Slots {
        self.prepared.ending_level = level;
        self
    }

    /// What they run.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.prepared.plan
    }

    /// What became of the records of all slots in memory since each was built: for the total, add the cells under
    /// [`counts::PREFIX`].
    pub fn counts(&self) -> Counts {
        let mut total = Counts::default();
        for slot in self.slots.iter().flatten() {
            total.add(&slot.tally.counts(sinks(&self.prepared)));
        }
        total
    }

    fn slot(&mut self, slot: SlotId) -> (&mut Slot, &Prepared, &mut Buffers) {
        let Slots { prepared, slots, buffers, .. } = self;
        (in_memory(slots, prepared, slot), prepared, buffers)
    }
}

/// A slot, with empty memory if it has none.
fn in_memory<'s>(slots: &'s mut [Option<Box<Slot>>], prepared: &Prepared, slot: SlotId) -> &'s mut Slot {
    slots[usize::from(slot.0)].get_or_insert_with(|| Box::new(Slot::new(prepared, slot)))
}

fn sinks(prepared: &Prepared) -> impl Iterator<Item = &str> {
    prepared.plan.counted()
}

impl Pipeline for Slots {
    fn fed_by(&mut self, source: SourceId, partitions: u32, in_place: bool) {
        if let Some(fed_by) = self.prepared.fed_by.get_mut(usize::from(source.0)) {
            *fed_by = (partitions, in_place);
        }
    }

    fn route(&mut self, record: &Record<'_>) -> SlotId {
        self.route_at(0, record)
    }

    fn route_at(&mut self, place: usize, record: &Record<'_>) -> SlotId {
        self.at = place;
        if self.prepared.plan.rollup_of(record.source).is_some() {
            self.chunk.pass(place);
            return rolled::slot(record, self.slots.len() as u16);
        }
        let is_again = self.prepared.again(record).is_some();
        if is_again && matches!(Mark::of(record.offset).round, Round::Begin | Round::End) {
            self.chunk.pass(place);
            return SlotId(Mark::of(record.offset).at as u16); // a word for a slot
        }
        self.chunk.read(place, &self.prepared.plan, record);
        self.chunk.at(place).slot(record, self.slots.len() as u16)
    }

    fn recall(&mut self, place: usize, _: &Record<'_>) {
        self.at = place;
    }

    fn look_ahead(&self, next: &[(SlotId, usize, Record<'_>)]) {
        ahead::look(&self.prepared, &self.slots, &self.chunk, next);
    }

    fn routed_key(&self, record: &Record<'_>) -> Vec<u8> {
        let routed = self.chunk.at(self.at);
        if routed.is_refused() || self.prepared.plan.rollup_of(record.source).is_some() {
            return record.key.unwrap_or_default().to_vec();
        }
        routed.key(record.value).to_vec()
    }

    fn apply(
        &mut self,
        slot: SlotId,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        if let Some(place) = self.prepared.plan.rollup_of(record.source) {
            let (slot, prepared, ..) = self.slot(slot);
            return slot.roll(prepared, place, record, effects);
        }
        let Slots { prepared, slots, chunk, at, stood, buffers } = self;
        let id = slot;
        let slot = in_memory(slots, prepared, slot);
        if prepared.again(record).is_some() {
            let stood = if stood.0 == id { stood.1 } else { 0 };
            return Ok(slot.read_again(prepared, chunk.at(*at), record, stood, buffers, effects));
        }
        debug_assert!(chunk.holds(*at, record), "the record applied is the one routed last");
        slot.apply(prepared, chunk.at(*at), record, buffers, effects)
    }

    fn foresee(&mut self, place: usize, slot: SlotId, record: &Record<'_>, foreseen: &mut Foreseen) {
        let Slots { prepared, slots, chunk, buffers, .. } = self;
        let mut effects = Effects::default();
        if let Some(place) = prepared.plan.rollup_of(record.source) {
            in_memory(slots, prepared, slot).roll_foresees(place, record, &mut effects);
            foreseen.cells.extend(effects.missing.into_iter().map(|cell| (slot, cell)));
        } else if chunk.holds(place, record) && !chunk.at(place).is_refused() {
            let memory = in_memory(slots, prepared, slot);
            if prepared.again(record).is_some() {
                memory.again_lacks_cells(prepared, chunk.at(place), record, buffers, &mut effects);
            } else {
                memory.lacks_cells(prepared, chunk.at(place), record, buffers, &mut effects);
            }
            foreseen.cells.extend(effects.missing.into_iter().map(|cell| (slot, cell)));
        }
    }

    fn supply(&mut self, slot: SlotId, cell: &[u8], value: Option<&[u8]>) -> Result<()> {
        let (slot, prepared, ..) = self.slot(slot);
        for (operator, window) in slot.operators.iter_mut().zip(&prepared.windows) {
            let step = &prepared.plan.steps[window.step];
            if step.window().is_some_and(|window| cell.starts_with(&window.prefix)) {
                return operator.supply(cell, value).map_err(|corrupt| {
                    Error::new(ErrorKind::Codec, format!("a cell of step {}: {corrupt}", step.name))
                });
            }
        }
        if let Some(supplied) = slot.waiting.supply(cell, value).or_else(|| slot.supply_judges(cell, value)) {
            return supplied
                .map_err(|wrong| Error::new(ErrorKind::Codec, format!("a cell of rules: {wrong}")));
        }
        if let Some(supplied) = slot.followers.iter_mut().find_map(|follower| follower.supply(cell, value)) {
            return supplied.map_err(|corrupt| {
                Error::new(ErrorKind::Codec, format!("a cell of a pattern or a join: {corrupt}"))
            });
        }
        if let Some(rollup) = slot.rollups.iter_mut().find(|rollup| cell.starts_with(rollup.prefix())) {
            let supplied = rollup.supply(cell, value);
            return supplied
                .map_err(|corrupt| Error::new(ErrorKind::Codec, format!("a cell of a roll-up: {corrupt}")));
        }
        let cell = String::from_utf8_lossy(cell);
        Err(Error::new(ErrorKind::NotFound, format!("the cell `{cell}` belongs to no step of the plan")))
    }

    fn stands(&mut self, slot: SlotId, at: u64) {
        self.stood = (slot, at);
    }

    fn poison(&mut self, slot: SlotId, record: &Record<'_>, reason: &str, effects: &mut Effects) {
        if self.prepared.again(record).is_some() {
            return; // the first reading has dealt with it: it is not remembered
        }
        let (slot, prepared, ..) = self.slot(slot);
        match prepared.plan.rollup_of(record.source) {
            Some(place) => rolled::poison(prepared, place, record, reason, effects),
            None => slot.poison(prepared, record, reason, effects),
        }
    }

    fn tick(
        &mut self,
        slot: SlotId,
        now: Timestamp,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let (slot, prepared, ..) = self.slot(slot);
        slot.tick(prepared, now, cause, effects)
    }

    fn end(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        let _ = cause;
        let (slot, prepared, ..) = self.slot(slot);
        Ok(slot.end(prepared, effects))
    }

    fn go_on(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        let (slot, prepared, ..) = self.slot(slot);
        slot.go_on(prepared, cause, effects)
    }

    fn replay(
        &mut self,
        slot: SlotId,
        input: &[u8],
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let (slot, prepared, ..) = self.slot(slot);
        slot.replay(prepared, input, cause, effects)
    }

    fn open_cells(&self, slot: SlotId) -> usize {
        let slot = self.slots[usize::from(slot.0)].as_ref();
        let of = |slot: &Slot| {
            slot.operators.iter().map(Operator::open_cells).sum::<usize>()
                + slot.open_judges()
                + slot.waiting.open_cells()
                + slot.followers.iter().map(Follower::open_cells).sum::<usize>()
                + slot.rollups.iter().map(Rollup::open_cells).sum::<usize>()
        };
        slot.map_or(0, |slot| of(slot))
    }

    fn seal(&mut self, slot: SlotId, n: CommitNo, cells: &mut Cells) {
        let (slot, prepared, ..) = self.slot(slot);
        let mut put = |key: &[u8], value: Option<&[u8]>| match value {
            Some(value) => cells.put(|out| out.extend_from_slice(key), |out| out.extend_from_slice(value)),
            None => cells.delete(|out| out.extend_from_slice(key)),
        };
        slot.operators.iter_mut().for_each(|operator| operator.seal(n.0, &mut put));
        slot.each_judge().for_each(|judge| judge.seal(n.0, &mut put));
        slot.waiting.seal(&mut put);
        slot.each_cases().for_each(|cases| cases.seal(n.0, &mut put));
        slot.followers.iter_mut().for_each(|follower| follower.seal(n.0, &mut put));
        slot.rollups.iter_mut().for_each(|rollup| rollup.seal(n.0, &mut put));
        for (key, value) in slot.seats.iter_mut().filter_map(Seat::seal) {
            put(&key, Some(&value));
        }
        if let Some((key, value)) = slot.tally.seal(n.0, sinks(prepared)) {
            cells.put(|out| out.extend_from_slice(key), |out| out.extend_from_slice(&value));
        }
    }

    fn acknowledged(&mut self, slot: SlotId, n: CommitNo) {
        if let Some(slot) = &mut self.slots[usize::from(slot.0)] {
            slot.operators.iter_mut().for_each(|operator| operator.acknowledged(n.0));
            slot.each_judge().for_each(|judge| judge.acknowledged(n.0));
            slot.each_cases().for_each(|cases| cases.acknowledged(n.0));
            slot.followers.iter_mut().for_each(|follower| follower.acknowledged(n.0));
            slot.rollups.iter_mut().for_each(|rollup| rollup.acknowledged(n.0));
        }
    }

    fn close(&mut self, slot: SlotId) {
        self.slots[usize::from(slot.0)] = None;
    }

    fn ask(
        &mut self,
        slot: SlotId,
        grain: &GrainId,
        method: &str,
        _arguments: &[u8],
        missing: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let (slot, prepared, ..) = self.slot(slot);
        ask::ask(slot, prepared, grain, method, missing)
    }

    fn memory_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|slot| slot.memory_bytes()).sum()
    }

    fn evict(&mut self, target_bytes: usize) {
        let total = self.memory_bytes();
        if total <= target_bytes {
            return;
        }
        // Every operator gives the same share, so no slot starves another.
        let parts = self.slots.iter_mut().flatten().map(|slot| slot.parts()).sum::<usize>();
        let looks_max = EVICTION_LOOKS_MAX / parts.max(1);
        let share = |bytes: usize| {
            usize::try_from(bytes as u128 * target_bytes as u128 / total as u128).unwrap_or(usize::MAX)
        };
        for operator in self.slots.iter_mut().flatten().flat_map(|slot| &mut slot.operators) {
            operator.evict(share(operator.memory_bytes()), looks_max.max(1));
        }
        for judge in self.slots.iter_mut().flatten().flat_map(|slot| slot.each_judge()) {
            judge.evict(share(judge.memory_bytes()), looks_max.max(1));
        }
        for cases in self.slots.iter_mut().flatten().flat_map(|slot| slot.each_cases()) {
            cases.evict(share(cases.memory_bytes()), looks_max.max(1));
        }
        for follower in self.slots.iter_mut().flatten().flat_map(|slot| &mut slot.followers) {
            follower.evict(share(follower.memory_bytes()), looks_max.max(1));
        }
        for rollup in self.slots.iter_mut().flatten().flat_map(|slot| &mut slot.rollups) {
            rollup.evict(share(rollup.memory_bytes()), looks_max.max(1));
        }
    }

    fn streams(&self) -> &[String] {
        self.prepared.plan.streams()
    }
}
