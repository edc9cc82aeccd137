//! What the engine asks of a store, a log and a pipeline. Adapters implement these; nothing here does IO.

use std::ops::Range;
use std::sync::Arc;

use granary_core::{GrainId, Result, SlotId, Timestamp};

use crate::commit::{
    Cause, Cells, Commit, CommitNo, Epoch, Incarnation, Outbox, Position, RunId, SlotRecord, SourceId,
    StreamId, TxId,
};
use crate::revision::Program;

/// One atomic step on one slot's row and cells. Every script but `Acquire` checks owner and epoch.
#[derive(Clone, Debug)]
pub enum Script {
    /// Takes the slot: `expected` is the owner and epoch last read; raises `tries`, adds `txid` to the list.
    Acquire {
        slot: SlotId,
        me: Incarnation,
        txid: TxId,
        expected: (Incarnation, Epoch),
        epoch: Epoch,
        run: RunId,
        program: Program,
    },
    /// Commit n.
    Commit(Arc<Commit>),
    /// Notes the record about to be applied (a slot that has killed its process).
    Note { slot: SlotId, me: Incarnation, epoch: Epoch, run: RunId, noted: Position },
    /// Forgets outbox entries up to commit `covered`.
    Trim { slot: SlotId, me: Incarnation, epoch: Epoch, run: RunId, covered: CommitNo },
    /// The marker is ahead of the store: go on from its number.
    Rebase { slot: SlotId, me: Incarnation, epoch: Epoch, run: RunId, n: CommitNo },
    /// Gives the slot to a named successor.
    Give {
        slot: SlotId,
        me: Incarnation,
        txid: TxId,
        epoch: Epoch,
        run: RunId,
        to: Incarnation,
        covered: CommitNo,
    },
}

impl Script {
    /// The slot it works on.
    pub fn slot(&self) -> SlotId {
        match self {
            Script::Commit(commit) => commit.slot,
            Script::Acquire { slot, .. }
            | Script::Note { slot, .. }
            | Script::Trim { slot, .. }
            | Script::Rebase { slot, .. }
            | Script::Give { slot, .. } => *slot,
        }
    }
}

/// The store's word on one script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, now or by an earlier sending of the same bytes.
    Done,
    /// Owner, epoch or run do not match: nothing was written.
    Fenced,
    /// The stored commit is not `n - 1`.
    Behind,
    /// A silo of a later generation has owned the slot: this one cannot read its state.
    Outdated,
}

/// The answer to one script.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Which slot.
    pub slot: SlotId,
    /// What became of it.
    pub verdict: Verdict,
    /// The slot's row, after an `Acquire`.
    pub record: Option<SlotRecord>,
    /// Commits whose outbox this store has published in the same atomic batch (the embedded store and log).
    pub published: Option<CommitNo>,
}

/// The answer to a batch of scripts: one reply for each, in order; `Err` when it is not known what became of them.
pub type Done = Box<dyn FnOnce(Result<Vec<Reply>>) + Send>;

/// Hears that the store's adapter is connected anew, and under which run of the server.
pub type OnRun = Box<dyn Fn(RunId) + Send + Sync>;

/// What looking up a cell found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The value was appended.
    Found,
    /// There is no such cell.
    Absent,
}

/// The stored outputs of a slot by commit, ascending.
pub type StoredOutbox = Vec<(CommitNo, Arc<Outbox>)>;

/// Where slots are stored. Cells of a slot are what its commits wrote.
pub trait Store: Send + Sync {
    /// Runs scripts, each atomic by itself, in order. Returns at once; `done` is called once, on any thread.
    fn submit(&self, scripts: Vec<Script>, done: Done);

    /// The slot's row; a new one when nobody has owned the slot.
    fn record(&self, slot: SlotId) -> Result<SlotRecord>;

    /// The stored outbox of a slot: outputs by commit, ascending, that were not trimmed yet. A store that publishes in
    /// the commit's own step has none.
    fn outbox(&self, slot: SlotId) -> Result<StoredOutbox> {
        let _ = slot;
        Ok(Vec::new())
    }

    /// The rows of slots, all of them in one round trip where the store is remote.
    fn records(&self, slots: &[SlotId]) -> Vec<Result<SlotRecord>> {
        slots.iter().map(|slot| self.record(*slot)).collect()
    }

    /// The rows of slots, each read before its outbox, all of them in one round trip where the store is remote.
    fn records_with_outboxes(&self, slots: &[SlotId]) -> Vec<Result<(SlotRecord, StoredOutbox)>> {
        slots.iter().map(|slot| Ok((self.record(*slot)?, self.outbox(*slot)?))).collect()
    }

    /// Appends the value of a cell to `value`.
    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup>;

    /// Looks up cells of slots, all of them in one round trip where the store is remote, and hands each value over, in
    /// order.
    fn load_many(
        &self,
        cells: &[(SlotId, Vec<u8>)],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let mut value = Vec::new();
        for (i, (slot, cell)) in cells.iter().enumerate() {
            value.clear();
            let found = self.load(*slot, cell, &mut value)?;
            each(i, (found == Lookup::Found).then_some(&value));
        }
        Ok(())
    }

    /// Calls `each` with the cells of the slot whose key starts with `prefix` and is greater than `after`, in the
    /// order of their keys, until it returns false.
    fn scan(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()>;

    /// The present run of the store's server, as last heard: it stays while the server is away.
    fn run(&self) -> RunId;

    /// Calls `tell` after every new connection to a remote store's server. Under another run than before the server
    /// may have lost writes: each slot hears it (`Slot::connected`). It is called on any thread, also from inside a
    /// call of this store: it should pass the word on and do no more. A store without a server never calls it.
    fn on_run(&self, tell: OnRun) {
        drop(tell);
    }
}

/// One record of a stream, as a source hands it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which source of the plan.
    pub source: SourceId,
    /// Which partition.
    pub partition: u32,
    /// Its offset there; in a file, its line - 1.
    pub offset: u64,
    /// When the log took it, ms.
    pub appended_at: Timestamp,
    /// The record's key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its bytes.
    pub value: &'a [u8],
}

/// Records of one partition in order, in one arena.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    arena: Vec<u8>,
    records: Vec<InBatch>,
}

/// Offset, append time, key and value of a record, in the batch's arena.
type InBatch = (u64, Timestamp, Option<Range<u32>>, Range<u32>);

impl Batch {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.records.clear();
    }

    /// Appends a record.
    pub fn push(&mut self, offset: u64, appended_at: Timestamp, key: Option<&[u8]>, value: &[u8]) {
        let key = key.map(|key| self.append(key));
        let value = self.append(value);
        self.records.push((offset, appended_at, key, value));
    }

    fn append(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        start..u32::try_from(self.arena.len()).expect("a batch stays below 4 GiB: reads are bounded")
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The records, as of this source and partition.
    pub fn iter(&self, source: SourceId, partition: u32) -> impl Iterator<Item = Record<'_>> {
        (0..self.records.len()).map(move |i| self.get(i, source, partition))
    }

    /// The `i`-th record.
    pub fn get(&self, i: usize, source: SourceId, partition: u32) -> Record<'_> {
        let (offset, appended_at, key, value) = &self.records[i];
        let bytes = |range: &Range<u32>| &self.arena[range.start as usize..range.end as usize];
        Record {
            source,
            partition,
            offset: *offset,
            appended_at: *appended_at,
            key: key.as_ref().map(bytes),
            value: bytes(value),
        }
    }
}

/// Topics of records in partitions.
pub trait Log: Send + Sync {
    /// Creates a topic; fine when it exists with as many partitions, else an error.
    fn create(&self, topic: &str, partitions: u32) -> Result<()>;

    /// How many partitions a topic has; `None` when there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Option<u32>>;

    /// Appends the records from offset `from` on to `batch`, about `bytes_max` bytes of them, at least one if there is
    /// one. An offset below the first kept one is an error that names both.
    fn read(&self, topic: &str, partition: u32, from: u64, bytes_max: usize, batch: &mut Batch)
    -> Result<()>;

    /// The first kept offset and the next one to be written.
    fn bounds(&self, topic: &str, partition: u32) -> Result<(u64, u64)>;

    /// Appends records to one partition as one atomic, durable step; returns the offset of the first.
    fn append(&self, topic: &str, partition: u32, records: &Batch) -> Result<u64>;
}

/// What applying records decided, for one slot, since its last seal.
#[derive(Debug, Default)]
pub struct Effects {
    /// Outputs, in order.
    pub outbox: Outbox,
    /// Calls of grains of the same slot that belong to the turn: kind and key, method, arguments (MessagePack).
    pub tells: Vec<(GrainId, Box<str>, Vec<u8>)>,
    /// Cells that must be supplied before the record can be applied.
    pub missing: Vec<Vec<u8>>,
    /// What was done that no record caused, if anything.
    pub by_clock: Option<ByClock>,
}

/// A step of a slot that no record caused. Steps are numbered; with the same records and the same inputs of the clock between
/// them a slot takes the same steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ByClock {
    /// It follows from the slot's state alone.
    Derived,
    /// The wall clock decided: taking the step again, by [`Pipeline::replay`], needs these bytes.
    Input(Vec<u8>),
}

/// What records need that memory lacks.
#[derive(Debug, Default)]
pub struct Foreseen {
    /// Cells to be supplied, by slot.
    pub cells: Vec<(SlotId, Vec<u8>)>,
    /// Grains that will be told.
    pub grains: Vec<(SlotId, GrainId)>,
}

/// Whether a record was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was: all its effects are there.
    Done,
    /// It was, and it made more due than one step publishes: [`Pipeline::go_on`] comes before anything else is applied
    /// to the slot.
    More,
    /// Nothing was changed: [`Effects::missing`] names the cells to supply first.
    Missing,
}

/// A record a handler refused, or that made it panic: the slot rolls back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, for a person.
    pub message: String,
}

/// What the slots of one lane run on the records of their sources. State is kept by slot; a slot's memory can be
/// dropped at any time (`close`) and is then built again from its cells, on demand.
///
/// For each record the engine calls `route`, then `apply` on the slot it named, until it is `Done`.
pub trait Pipeline {
    /// A source has so many partitions: each feeds all slots, or in place the slots congruent to it. Said before any record comes;
    /// who is not told does not know what is still unread.
    fn fed_by(&mut self, source: SourceId, partitions: u32, in_place: bool) {
        let _ = (source, partitions, in_place);
    }

    /// Decodes the record and names the slot it belongs to. The decoded event is kept until the next `route`.
    fn route(&mut self, record: &Record<'_>) -> SlotId;

    /// Routes the record at a place of the present chunk, to be recalled when its slot has its turn.
    fn route_at(&mut self, place: usize, record: &Record<'_>) -> SlotId {
        let _ = place;
        self.route(record)
    }

    /// Makes the record at this place the one routed last. All records of a chunk were routed before, one after the
    /// other, and no others since.
    fn recall(&mut self, place: usize, record: &Record<'_>) {
        let _ = place;
        self.route(record);
    }

    /// These records of the present chunk are recalled and applied next, if their slots take them. A pipeline may look
    /// at what it holds for them, so that memory is waited for once for all of them; nothing may change.
    fn look_ahead(&self, next: &[(SlotId, usize, Record<'_>)]) {
        let _ = next;
    }

    /// The routing key of the record routed last, for a stray that is sent on.
    fn routed_key(&self, record: &Record<'_>) -> Vec<u8> {
        record.key.unwrap_or_default().to_vec()
    }

    /// Applies the record routed last to its slot.
    fn apply(&mut self, slot: SlotId, record: &Record<'_>, effects: &mut Effects)
    -> Result<Applied, Failure>;

    /// The record to be applied next is read a second time: its slot stands at this offset in the first reading.
    fn stands(&mut self, slot: SlotId, at: u64) {
        let _ = (slot, at);
    }

    /// Names what a record at a place of the present chunk will surely need, so that it can be looked up together with what
    /// others need. Changes nothing; what is not named is asked for when the record is applied.
    fn foresee(&mut self, place: usize, slot: SlotId, record: &Record<'_>, foreseen: &mut Foreseen) {
        let _ = (place, slot, record, foreseen);
    }

    /// Whether records tell grains by themselves: then [`Pipeline::foresee`] names those.
    fn tells_grains(&self) -> bool {
        false
    }

    /// Hands over a cell that was missing: `None` when the store has none.
    fn supply(&mut self, slot: SlotId, cell: &[u8], value: Option<&[u8]>) -> Result<()>;

    /// Puts the record into the `poisoned` stream instead of applying it. Decodes nothing, never fails.
    fn poison(&mut self, slot: SlotId, record: &Record<'_>, reason: &str, effects: &mut Effects);

    /// Wall-clock time passes while the slot stands at the end of all its inputs: silent keys are closed. `cause`
    /// names the outputs.
    fn tick(
        &mut self,
        slot: SlotId,
        now: Timestamp,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure>;

    /// The inputs have ended: every watermark becomes the largest time.
    fn end(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure>;

    /// Publishes the next portion of what was due when `apply`, `tick` or `end` said [`Applied::More`]; `Done` when
    /// nothing is left. A seal may come between two portions: a slot that was opened anew is asked, too, before
    /// anything else is applied to it, and goes on where its last commit ended.
    fn go_on(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        let _ = (slot, cause, effects);
        Ok(Applied::Done)
    }

    /// Takes a step again that the wall clock once decided, by the bytes it left in [`ByClock::Input`].
    fn replay(
        &mut self,
        slot: SlotId,
        input: &[u8],
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let _ = (slot, input, cause, effects);
        Ok(Applied::Done)
    }

    /// How many cells a seal of the slot would append now, about.
    fn open_cells(&self, slot: SlotId) -> usize {
        let _ = slot;
        0
    }

    /// Appends the slot's dirty cells, and holds them clean as of commit `n`.
    fn seal(&mut self, slot: SlotId, n: CommitNo, cells: &mut Cells);

    /// Commit `n` is stored: what it held may leave memory.
    fn acknowledged(&mut self, slot: SlotId, n: CommitNo);

    /// Drops all memory of the slot; its cells in the store remain.
    fn close(&mut self, slot: SlotId);

    /// Answers a call of a built-in grain (`Window/...`, `Device/...`) from the slot's present state with MessagePack;
    /// `Ok(None)` when cells are missing (named in `missing`). The reply has seen the slot's latest changes.
    fn ask(
        &mut self,
        slot: SlotId,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
        missing: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>>;

    /// Bytes of memory the slots' state takes, about.
    fn memory_bytes(&self) -> usize;

    /// Lets cold clean cells leave until about `target_bytes` remain.
    fn evict(&mut self, target_bytes: usize);

    /// The names of the output streams, by [`StreamId`].
    fn streams(&self) -> &[String];

    /// Where the stream `poisoned` (`late`, `rejected`) of this plan is, if it has one.
    fn stream(&self, name: &str) -> Option<StreamId> {
        self.streams().iter().position(|s| s == name).map(|i| StreamId(i as u16))
    }
}
