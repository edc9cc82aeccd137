//! A store and log in memory: the same ports and rules without a disk, for tests and simulations.
//!
//! [`Memory::new`] publishes outputs in the step of their commit, as the embedded store does. [`Memory::behind_a_log`] keeps
//! them in each slot's outbox for the transactions of another log, and can lose its last writes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use granary_cluster::port::Done;
use granary_cluster::{
    Batch, Commit, CommitNo, Log, Lookup, Outbox, Reply, RunId, Script, SlotRecord, SourceId, Store, Verdict,
};
use granary_core::{Clock, Error, ErrorKind, HandClock, Result, SlotId, Timestamp, id::positive_murmur2};

use crate::log::{beyond, gone};
use crate::options::Stream;
use crate::slots;

/// Writes that [`Memory::roll_back`] can undo at most.
pub const ROLLBACK_MAX: usize = 4_096;

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When the log took it.
    pub appended_at: Timestamp,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its identity, if it came out of a slot's outbox.
    pub id: Option<Vec<u8>>,
    /// Its bytes.
    pub value: Vec<u8>,
}

#[derive(Debug, Default)]
struct Partition {
    first: u64,
    records: Vec<Stored>,
}

impl Partition {
    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

type Outboxes = Vec<(CommitNo, Arc<Outbox>)>;

/// What one write replaced.
#[derive(Debug)]
struct Undo {
    slot: usize,
    row: SlotRecord,
    outbox: Outboxes,
    cells: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

#[derive(Debug)]
struct State {
    rows: Vec<SlotRecord>,
    outboxes: Vec<Outboxes>,
    /// The last writes, the latest last; only behind a log.
    past: VecDeque<Undo>,
    cells: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
    topics: BTreeMap<String, Vec<Partition>>,
    run: RunId,
}

/// The store and log. Its contents live as long as it does.
pub struct Memory {
    state: Mutex<State>,
    streams: Vec<Stream>,
    clock: Arc<dyn Clock>,
    publishes: bool,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty store of so many slots, whose output streams go to these topics. Time stands at 0.
    pub fn new(slots: u16, streams: impl IntoIterator<Item = Stream>) -> Arc<Memory> {
        Memory::with_clock(slots, streams, Arc::new(HandClock::default()))
    }

    /// The same with a clock, which only notes when the log took an output.
    pub fn with_clock(
        slots: u16,
        streams: impl IntoIterator<Item = Stream>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Memory> {
        Memory::make(slots, streams.into_iter().collect(), clock, true)
    }

    /// A store whose outputs stay in the outboxes of its slots until they are trimmed.
    pub fn behind_a_log(slots: u16) -> Arc<Memory> {
        Memory::make(slots, Vec::new(), Arc::new(HandClock::default()), false)
    }

    fn make(slots: u16, streams: Vec<Stream>, clock: Arc<dyn Clock>, publishes: bool) -> Arc<Memory> {
        let topics = streams.iter().map(|s| (s.topic.clone(), partitions(s.partitions))).collect();
        let state = State {
            rows: vec![SlotRecord::new(); usize::from(slots)],
            outboxes: vec![Vec::new(); usize::from(slots)],
            past: VecDeque::new(),
            cells: vec![BTreeMap::new(); usize::from(slots)],
            topics,
            run: RunId(1),
        };
        Arc::new(Memory { state: Mutex::new(state), streams, clock, publishes })
    }

    /// A failover to a replica that lags: the last `writes` writes are gone, the server runs anew. How many really were.
    pub fn roll_back(&self, writes: usize) -> usize {
        let mut state = self.state();
        let mut lost = 0;
        while lost < writes {
            let Some(Undo { slot, row, outbox, cells }) = state.past.pop_back() else { break };
            (state.rows[slot], state.outboxes[slot]) = (row, outbox);
            for (cell, value) in cells.into_iter().rev() {
                match value {
                    Some(value) => state.cells[slot].insert(cell, value),
                    None => state.cells[slot].remove(&cell),
                };
            }
            lost += 1;
        }
        state.past.clear();
        state.run = RunId(state.run.0 + 1);
        lost
    }

    /// All kept records of a partition, in order.
    pub fn records(&self, topic: &str, partition: u32) -> Result<Vec<Stored>> {
        let state = self.state();
        Ok(find(&state, topic, partition)?.records.clone())
    }

    /// Drops the records of a partition before `offset`.
    pub fn drop_before(&self, topic: &str, partition: u32, offset: u64) -> Result<()> {
        let mut state = self.state();
        find(&state, topic, partition)?;
        if let Some(kept) = state.topics.get_mut(topic).and_then(|p| p.get_mut(partition as usize)) {
            let gone = offset.saturating_sub(kept.first).min(kept.records.len() as u64);
            kept.records.drain(..gone as usize);
            kept.first += gone;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self, state: &mut State, script: &Script) -> Result<Reply> {
        let slot = script.slot();
        if let Script::Commit(commit) = script {
            let unknown =
                |e: &&granary_cluster::Entry| self.publishes && usize::from(e.stream.0) >= self.streams.len();
            if let Some(entry) = commit.outbox.entries().iter().find(unknown) {
                return Err(Error::invalid(format!("output stream {} has no topic", entry.stream)));
            }
        }
        let run = state.run;
        let no = usize::from(slot.0);
        let row = state.rows.get_mut(no).ok_or_else(|| no_slot(slot))?;
        let before = row.clone();
        let (verdict, changed) = slots::run_script(row, script, run);
        let done = verdict == Verdict::Done;
        let record = (done && matches!(script, Script::Acquire { .. })).then(|| row.clone());
        let published = (done && self.publishes).then_some(row.n);
        if !self.publishes && done && (changed || matches!(script, Script::Trim { .. })) {
            let undo = Undo { slot: no, row: before, outbox: state.outboxes[no].clone(), cells: Vec::new() };
            state.past.push_back(undo);
            if state.past.len() > ROLLBACK_MAX {
                state.past.pop_front();
            }
            keep_outbox(&mut state.outboxes[no], script);
        }
        if let (true, Script::Commit(commit)) = (changed, script) {
            self.apply(state, commit);
        }
        Ok(Reply { slot, verdict, record, published })
    }

    fn apply(&self, state: &mut State, commit: &Commit) {
        let State { cells, past, topics, .. } = state;
        let cells = &mut cells[usize::from(commit.slot.0)];
        for (cell, value) in commit.cells.iter() {
            let before = match value {
                Some(value) => cells.insert(cell.to_vec(), value.to_vec()),
                None => cells.remove(cell),
            };
            if let (false, Some(undo)) = (self.publishes, past.back_mut()) {
                undo.cells.push((cell.to_vec(), before));
            }
        }
        if !self.publishes {
            return;
        }
        for entry in commit.outbox.entries() {
            let stream = &self.streams[usize::from(entry.stream.0)];
            let key = commit.outbox.key(entry);
            let partition = positive_murmur2(key) % stream.partitions;
            let topic = topics.get_mut(&stream.topic).expect("the topics of streams exist from the start");
            topic[partition as usize].records.push(Stored {
                appended_at: self.clock.now(),
                key: Some(key.to_vec()),
                id: Some(commit.outbox.id(entry).to_vec()),
                value: commit.outbox.value(entry).to_vec(),
            });
        }
    }
}

/// What a script does to the outbox of its slot.
fn keep_outbox(outbox: &mut Outboxes, script: &Script) {
    match script {
        Script::Commit(commit) => {
            outbox.retain(|(n, _)| *n > commit.trim);
            if !commit.outbox.is_empty() {
                outbox.push((commit.n, Arc::new(commit.outbox.clone())));
            }
        }
        Script::Trim { covered, .. } | Script::Give { covered, .. } => outbox.retain(|(n, _)| n > covered),
        Script::Acquire { .. } | Script::Note { .. } | Script::Rebase { .. } => {}
    }
}

fn partitions(count: u32) -> Vec<Partition> {
    (0..count).map(|_| Partition::default()).collect()
}

fn find<'a>(state: &'a State, topic: &str, partition: u32) -> Result<&'a Partition> {
    let found = state.topics.get(topic).and_then(|partitions| partitions.get(partition as usize));
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no partition {partition} of a topic `{topic}`"))
    })
}

fn no_slot(slot: SlotId) -> Error {
    Error::invalid(format!("slot {slot} does not exist"))
}

impl Store for Memory {
    fn submit(&self, scripts: Vec<Script>, done: Done) {
        let replies = {
            let mut state = self.state();
            scripts.iter().map(|script| self.script(&mut state, script)).collect()
        };
        done(replies);
    }

    fn record(&self, slot: SlotId) -> Result<SlotRecord> {
        self.state().rows.get(usize::from(slot.0)).cloned().ok_or_else(|| no_slot(slot))
    }

    fn outbox(&self, slot: SlotId) -> Result<Outboxes> {
        self.state().outboxes.get(usize::from(slot.0)).cloned().ok_or_else(|| no_slot(slot))
    }

    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        let state = self.state();
        match state.cells.get(usize::from(slot.0)).ok_or_else(|| no_slot(slot))?.get(cell) {
            Some(bytes) => {
                value.extend_from_slice(bytes);
                Ok(Lookup::Found)
            }
            None => Ok(Lookup::Absent),
        }
    }

    fn scan(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let found: Vec<(Vec<u8>, Vec<u8>)> = {
            let state = self.state();
            let cells = state.cells.get(usize::from(slot.0)).ok_or_else(|| no_slot(slot))?;
            let matching = cells.range(prefix.to_vec()..).take_while(|(cell, _)| cell.starts_with(prefix));
            let later = matching.filter(|(cell, _)| after.is_none_or(|after| cell.as_slice() > after));
            later.map(|(cell, value)| (cell.clone(), value.clone())).collect()
        };
        for (cell, value) in found {
            if !each(&cell, &value) {
                break;
            }
        }
        Ok(())
    }

    fn run(&self) -> RunId {
        self.state().run
    }
}

impl Log for Memory {
    fn create(&self, topic: &str, wanted: u32) -> Result<()> {
        if wanted == 0 {
            return Err(Error::invalid(format!("topic `{topic}` needs at least one partition")));
        }
        let mut state = self.state();
        let existing =
            state.topics.entry(topic.to_owned()).or_insert_with(|| partitions(wanted)).len() as u32;
        if existing == wanted {
            return Ok(());
        }
        Err(Error::invalid(format!("topic `{topic}` exists with {existing} partitions, {wanted} are wanted")))
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.state().topics.get(topic).map(|partitions| partitions.len() as u32))
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        let state = self.state();
        let kept = find(&state, topic, partition)?;
        if from < kept.first {
            return Err(gone(topic, partition, from, kept.first));
        }
        if from > kept.next() {
            return Err(beyond(topic, partition, from, kept.next()));
        }
        let start = batch.bytes();
        for (offset, record) in (from..).zip(&kept.records[(from - kept.first) as usize..]) {
            batch.push(offset, record.appended_at, record.key.as_deref(), &record.value);
            if batch.bytes() - start >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn bounds(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        let state = self.state();
        let kept = find(&state, topic, partition)?;
        Ok((kept.first, kept.next()))
    }

    fn append(&self, topic: &str, partition: u32, records: &Batch) -> Result<u64> {
        let mut state = self.state();
        find(&state, topic, partition)?;
        let kept = state
            .topics
            .get_mut(topic)
            .and_then(|partitions| partitions.get_mut(partition as usize))
            .expect("it was found above, under the same lock");
        let first = kept.next();
        kept.records.extend(records.iter(SourceId(0), partition).map(|record| Stored {
            appended_at: record.appended_at,
            key: record.key.map(<[u8]>::to_vec),
            id: None,
            value: record.value.to_vec(),
        }));
        Ok(first)
    }
}
