//! The one thread that writes: takes what is asked, checks it in order, writes it as one atomic batch, answers.
//!
//! Invariant: an answer leaves only after its batch is kept as the durability promises, and what readers see (cells,
//! rows, bounds) changes only then. After a write failed nothing is written any more.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use fjall::{PersistMode, UserValue};
use granary_cluster::{Reply, RunId, Script, SlotRecord, Verdict};
use granary_core::{Error, ErrorKind, Ran, Result};

use crate::block::{self, Chunk};
use crate::disk::{self, engine_error};
use crate::fold::Job;
use crate::group::Group;
use crate::options::Durability;
use crate::rows::{self, Bounds};
use crate::shared::{Answer, Prepared, Request, Shared};
use crate::slots;
use crate::topics::Topic;

/// The only run: nothing acknowledged is ever taken back.
pub const RUN: RunId = RunId(1);
/// One batch takes so many requests at most,
const GROUP_REQUESTS_MAX: usize = 1024;
/// or so many bytes.
const GROUP_BYTES_MAX: usize = 32 << 20;
/// So many batches of recent cells are folded even when they are small.
const RECENT_BATCHES_MAX: u64 = 1 << 16;
/// Cells of a commit that take so many bytes are not copied together with others.
const OWN_ROW_BYTES_MIN: usize = 16 << 10;
/// How long `everysec` leaves a commit unsynced, about.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The writer's own state.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rows: Vec<SlotRecord>,
    pub(crate) bounds: BTreeMap<(u32, u32), Bounds>,
    folds: SyncSender<Job>,
    next_seq: u64,
    folded_seq: u64,
    recent_bytes: usize,
    unsynced: Option<Instant>,
}

impl Writer {
    /// Takes over from what the opening found.
    pub fn new(shared: Arc<Shared>, folds: SyncSender<Job>, recent: std::ops::Range<u64>) -> Writer {
        let rows = shared.rows.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut bounds = BTreeMap::new();
        for topic in shared.topics.read().values() {
            for (partition, kept) in topic.partitions.iter().enumerate() {
                bounds.insert((topic.id, partition as u32), *kept);
            }
        }
        let recent_bytes = (0..shared.recent.slots()).map(|slot| shared.recent.read(slot).bytes()).sum();
        Writer {
            shared,
            rows,
            bounds,
            folds,
            next_seq: recent.end,
            folded_seq: recent.start,
            recent_bytes,
            unsynced: None,
        }
    }

    /// Writes until told to close.
    pub fn run(mut self, requests: &Receiver<Request>) {
        let mut open = true;
        while open {
            let Some(first) = self.next(requests) else { break };
            let mut group = Group::new(&self.shared);
            open = self.take(first, &mut group);
            while open && group.requests < GROUP_REQUESTS_MAX && group.bytes < GROUP_BYTES_MAX {
                let Ok(request) = requests.try_recv() else { break };
                open = self.take(request, &mut group);
            }
            self.write(group);
            self.fold_if_due();
        }
        if self.shared.options.durability != Durability::None && self.shared.failure().is_none() {
            self.sync();
        }
    }

    /// The next request; syncs meanwhile when that is due.
    fn next(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        loop {
            let Some(since) = self.unsynced else { return requests.recv().ok() };
            match requests.recv_timeout(SYNC_EVERY.saturating_sub(since.elapsed())) {
                Ok(request) => {
                    if since.elapsed() >= SYNC_EVERY {
                        self.sync();
                    }
                    return Some(request);
                }
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn sync(&mut self) {
        self.unsynced = None;
        if let Err(e) = self.shared.engine.db.persist(PersistMode::SyncAll) {
            self.shared.fail(&engine_error("sync its journal", e));
        }
    }

    /// Adds a request to the group; false when it was the last.
    fn take(&mut self, request: Request, group: &mut Group) -> bool {
        group.requests += 1;
        group.must_sync |= !is_notes(&request);
        match request {
            Request::Scripts(scripts, done) => {
                let replies = scripts.into_iter().map(|script| self.script(script, group)).collect();
                group.scripts.push((replies, done));
            }
            Request::Append { topic, partition, chunks, done } => {
                self.append(&topic, partition, chunks, done, group);
            }
            Request::Create { topic, partitions, done } => self.create(topic, partitions, done, group),
            Request::Retain { topic, bytes_max, before, done } => {
                let removed = self.retain(&topic, bytes_max, before, group);
                group.answer(removed, done);
            }
            Request::Bookmark { name, value, done } => {
                group.batch.insert(&self.shared.engine.meta, rows::bookmark_key(&name), value);
                group.answer(Ok(()), done);
            }
            Request::Close => return false,
        }
        true
    }

    fn script(&mut self, prepared: Prepared, group: &mut Group) -> Reply {
        let slot = prepared.script.slot();
        let row = &mut self.rows[usize::from(slot.0)];
        let (verdict, changed) = slots::run_script(row, &prepared.script, RUN);
        let reply = Reply {
            slot,
            record: (matches!(prepared.script, Script::Acquire { .. }) && verdict == Verdict::Done)
                .then(|| row.clone()),
            published: (verdict == Verdict::Done).then_some(row.n),
            verdict,
        };
        if changed {
            group.dirty.insert(slot.0);
            if let Script::Commit(commit) = prepared.script {
                group.bytes += commit.cells.bytes() + commit.outbox.bytes();
                self.keep_cells(prepared.segment, group);
                for (topic, partition, chunks) in prepared.outputs {
                    self.place(topic, partition, chunks, group);
                }
                group.commits.push(commit);
            }
        }
        reply
    }

    /// Cells of a commit for `recent`: those of small commits in one row, a large commit's in a row of its own.
    fn keep_cells(&mut self, segment: UserValue, group: &mut Group) {
        if segment.len() < OWN_ROW_BYTES_MIN {
            return group.segments.extend_from_slice(&segment);
        }
        self.put_collected(group); // a slot's cells stay in the order of its commits
        self.put_recent(segment, group);
    }

    fn put_collected(&mut self, group: &mut Group) {
        if !group.segments.is_empty() {
            self.put_recent(UserValue::from(&*group.segments), group);
            group.segments.clear();
        }
    }

    fn put_recent(&mut self, segments: UserValue, group: &mut Group) {
        group.batch.insert(&self.shared.engine.recent, self.next_seq.to_be_bytes(), segments);
        self.next_seq += 1;
    }

    /// Gives batches their offsets; returns the first.
    fn place(&mut self, topic: u32, partition: u32, chunks: Vec<Chunk>, group: &mut Group) -> u64 {
        let bounds = self.bounds.entry((topic, partition)).or_default();
        let base = bounds.next;
        for chunk in chunks {
            let key = rows::batch_key(topic, partition, bounds.next);
            bounds.next += u64::from(chunk.count);
            bounds.bytes += chunk.value.len() as u64;
            group.bytes += chunk.value.len();
            group.batch.insert(&self.shared.engine.log, key, chunk.value);
        }
        group.grown.insert((topic, partition), *bounds);
        group.woken.insert(topic);
        base
    }

    fn append(
        &mut self,
        topic: &str,
        partition: u32,
        chunks: Vec<Chunk>,
        done: Answer<u64>,
        group: &mut Group,
    ) {
        let known = group.topic(&self.shared, topic);
        let placed = match known {
            Some((id, partitions)) if partition < partitions => Ok(self.place(id, partition, chunks, group)),
            _ => Err(self.shared.topics.bounds(topic, partition).err().unwrap_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no partition {partition} of `{topic}`"))
            })),
        };
        group.answer(placed, done);
    }

    fn create(&mut self, topic: String, partitions: u32, done: Answer<()>, group: &mut Group) {
        let answer = match group.topic(&self.shared, &topic) {
            _ if partitions == 0 => {
                Err(Error::invalid(format!("topic `{topic}` needs at least one partition")))
            }
            Some((_, existing)) if existing == partitions => Ok(()),
            Some((_, existing)) => Err(Error::invalid(format!(
                "topic `{topic}` exists with {existing} partitions, {partitions} are wanted: use another name, or \
                 start with an empty directory"
            ))),
            None => {
                let known = self.shared.topics.read().len() + group.created.len();
                let id = known as u32;
                let row = [id.to_be_bytes(), partitions.to_be_bytes()].concat();
                group.batch.insert(&self.shared.engine.meta, rows::topic_key(&topic), row);
                let partitions = vec![Bounds::default(); partitions as usize];
                group.created.push((topic, Topic { id, partitions }));
                Ok(())
            }
        };
        group.answer(answer, done);
    }

    /// Deletes whole batches from the start of each partition; returns how many.
    fn retain(
        &mut self,
        topic: &str,
        bytes_max: Option<u64>,
        before: Option<granary_core::Timestamp>,
        group: &mut Group,
    ) -> Result<u64> {
        let (id, _) = self.shared.topics.bounds(topic, 0)?;
        let failed = |e: fjall::Error| engine_error("read its log", e);
        let mut removed = 0;
        let log = &self.shared.engine.log;
        for ((_, partition), bounds) in self.bounds.range_mut((id, 0)..=(id, u32::MAX)) {
            let first = rows::batch_key(id, *partition, bounds.first);
            let last = rows::batch_key(id, *partition, u64::MAX);
            for item in log.range(first..=last) {
                let (key, value) = item.into_inner().map_err(failed)?;
                let header = block::header(&value)?;
                let over = bytes_max.is_some_and(|max| bounds.bytes > max);
                let old = before.is_some_and(|before| header.latest < before);
                if !over && !old {
                    break;
                }
                bounds.first = rows::batch_base(&key)? + u64::from(header.count);
                bounds.bytes = bounds.bytes.saturating_sub(value.len() as u64);
                group.batch.remove(log, key);
                group.grown.insert((id, *partition), *bounds);
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn write(&mut self, mut group: Group) {
        if let Some(error) = self.shared.failure() {
            return group.refuse(&error.ran(Ran::No));
        }
        match self.commit(&mut group) {
            Ok(()) => {
                self.publish(&group);
                // Before those who sealed them hear of it, so that they can use the memory again.
                group.commits.clear();
                group.acknowledge(&self.shared);
            }
            // Part of it may be on disk: what became of it shows when the store is opened again.
            Err(e) => group.refuse(&self.shared.fail(&e).ran(Ran::Unknown)),
        }
    }

    fn commit(&mut self, group: &mut Group) -> Result<()> {
        self.put_collected(group);
        let engine = &self.shared.engine;
        for slot in &group.dirty {
            let row = rows::slot_row(&self.rows[usize::from(*slot)])?;
            group.batch.insert(&engine.meta, rows::slot_key(*slot), row);
        }
        for ((topic, partition), bounds) in &group.grown {
            group.batch.insert(&engine.meta, rows::partition_key(*topic, *partition), bounds.to_bytes());
        }
        if group.batch.is_empty() {
            return Ok(());
        }
        let persist = match self.shared.options.durability {
            Durability::Fsync if group.must_sync => PersistMode::SyncData,
            Durability::Fsync | Durability::Everysec | Durability::None => PersistMode::Buffer,
        };
        let batch = std::mem::replace(&mut group.batch, disk::batch(engine, 0, None));
        batch.durability(Some(persist)).commit().map_err(|e| engine_error("write a commit", e))?;
        if self.shared.options.durability == Durability::Everysec && self.unsynced.is_none() {
            self.unsynced = Some(Instant::now());
        }
        Ok(())
    }

    /// Shows readers what is kept now.
    fn publish(&mut self, group: &Group) {
        for commit in &group.commits {
            let slot = commit.slot.0;
            let mut view = self.shared.recent.write(slot);
            let before = view.bytes();
            for (cell, value) in commit.cells.iter() {
                view.set(slot, cell, value);
            }
            self.recent_bytes = self.recent_bytes + view.bytes() - before;
        }
        if !group.dirty.is_empty() {
            let mut rows = self.shared.rows.write().unwrap_or_else(PoisonError::into_inner);
            for slot in &group.dirty {
                rows[usize::from(*slot)].clone_from(&self.rows[usize::from(*slot)]);
            }
        }
        if group.created.is_empty() && group.grown.is_empty() {
            return;
        }
        let mut topics = self.shared.topics.write();
        topics.extend(group.created.iter().cloned());
        for (_, topic) in topics.iter_mut() {
            for ((_, partition), bounds) in group.grown.range((topic.id, 0)..=(topic.id, u32::MAX)) {
                topic.partitions[*partition as usize] = *bounds;
            }
        }
        for (_, topic) in &group.created {
            for partition in 0..topic.partitions.len() as u32 {
                self.bounds.entry((topic.id, partition)).or_default();
            }
        }
    }

    /// Starts a fold when half of the memory is used; waits for the running one when all is.
    fn fold_if_due(&mut self) {
        let half = self.shared.options.recent_bytes_max / 2;
        if self.recent_bytes < half && self.next_seq - self.folded_seq < RECENT_BATCHES_MAX {
            return;
        }
        let mut folding = self.shared.folding.lock().unwrap_or_else(PoisonError::into_inner);
        while *folding {
            if self.recent_bytes < 2 * half && self.next_seq - self.folded_seq < 2 * RECENT_BATCHES_MAX {
                return;
            }
            folding = self.shared.folded.wait(folding).unwrap_or_else(PoisonError::into_inner);
        }
        if self.shared.failure().is_some() {
            return;
        }
        let slots = 0..self.shared.recent.slots();
        let frozen = slots.map(|slot| (slot, self.shared.recent.write(slot).freeze())).collect();
        let covers = self.folded_seq..self.next_seq;
        self.folded_seq = self.next_seq;
        self.recent_bytes = 0;
        *folding = self.folds.send(Job { frozen, covers }).is_ok();
    }
}

/// A note speaks of the end of the process, not of the machine: it need not be synced, and the time in which an end from
/// outside would speak against an innocent record stays short.
fn is_notes(request: &Request) -> bool {
    matches!(request, Request::Scripts(scripts, _)
        if scripts.iter().all(|prepared| matches!(prepared.script, Script::Note { .. })))
}
