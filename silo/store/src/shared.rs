//! What the threads of one embedded store share.

use std::sync::{Condvar, Mutex, PoisonError, RwLock};

use fjall::UserValue;
use granary_cluster::{Cells, Commit, Reply, Script, SlotRecord};
use granary_core::{Error, Result, id::positive_murmur2};

use crate::block::{self, Builder, Chunk};
use crate::disk::Engine;
use crate::options::Options;
use crate::recent::Recent;
use crate::segment;
use crate::topics::Topics;

/// The longest key of a cell: the engine's limit less the slot.
pub const CELL_KEY_BYTES_MAX: usize = u16::MAX as usize - 2;

/// State of an open store.
pub struct Shared {
    /// As it was opened.
    pub options: Options,
    /// The engine.
    pub engine: Engine,
    /// Recent cells.
    pub recent: Recent,
    /// Rows of the slots, as they are on disk.
    pub rows: RwLock<Vec<SlotRecord>>,
    /// Topics.
    pub topics: Topics,
    /// Number and partitions of the topic of each output stream.
    pub streams: Vec<(u32, u32)>,
    /// Whether a fold is running.
    pub folding: Mutex<bool>,
    /// Told when a fold ends.
    pub folded: Condvar,
    /// Set for good when the disk refused a write.
    pub failed: Mutex<Option<Error>>,
}

impl Shared {
    /// The disk refused a write: nothing is written any more. Returns the error all later writes get.
    pub fn fail(&self, error: &Error) -> Error {
        let error = Error::new(
            error.kind(),
            format!(
                "{}; the store takes no more writes: see to the disk, then start the silo again",
                error.message()
            ),
        );
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::error!(%error, "the embedded store has stopped writing");
        failed.get_or_insert(error).clone()
    }

    /// The error of an earlier write.
    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A script as the writer takes it: what can be encoded beforehand is.
pub struct Prepared {
    /// The script.
    pub script: Script,
    /// Its cells as `recent` keeps them.
    pub segment: UserValue,
    /// Its outputs: topic, partition, batches.
    pub outputs: Vec<(u32, u32, Vec<Chunk>)>,
}

/// What the writer is asked for.
pub enum Request {
    /// Scripts of slots.
    Scripts(Vec<Prepared>, Box<dyn FnOnce(Result<Vec<Reply>>) + Send>),
    /// Records for one partition.
    Append { topic: String, partition: u32, chunks: Vec<Chunk>, done: Answer<u64> },
    /// A topic.
    Create { topic: String, partitions: u32, done: Answer<()> },
    /// Old batches may go: of each partition all but the latest so many bytes, and all older than a time.
    Retain {
        topic: String,
        bytes_max: Option<u64>,
        before: Option<granary_core::Timestamp>,
        done: Answer<u64>,
    },
    /// A bookmark.
    Bookmark { name: String, value: Vec<u8>, done: Answer<()> },
    /// No more will come.
    Close,
}

/// Takes the answer to one request.
pub type Answer<T> = Box<dyn FnOnce(Result<T>) + Send>;

impl Shared {
    /// Checks and encodes a script on the thread that submits it, so that the writer has less to do.
    pub fn prepare(&self, script: Script) -> Result<Prepared> {
        let slot = script.slot().0;
        if slot >= self.options.slots {
            return Err(Error::invalid(format!(
                "slot {slot} does not exist: the cluster has {} slots",
                self.options.slots
            )));
        }
        let Script::Commit(commit) = &script else {
            return Ok(Prepared { script, segment: UserValue::empty(), outputs: Vec::new() });
        };
        check_cells(&commit.cells)?;
        let segment = segment::of(slot, &commit.cells);
        let outputs = self.outputs(commit)?;
        Ok(Prepared { script, segment, outputs })
    }

    fn outputs(&self, commit: &Commit) -> Result<Vec<(u32, u32, Vec<Chunk>)>> {
        let outbox = &commit.outbox;
        let mut building: Vec<(u32, u32, Builder, Vec<Chunk>)> = Vec::new();
        let appended_at = (self.options.clock)();
        let mut last = 0;
        for entry in outbox.entries() {
            let Some((topic, partitions)) = self.streams.get(usize::from(entry.stream.0)) else {
                return Err(Error::invalid(format!(
                    "output stream {} has no topic: the store was opened with {} streams",
                    entry.stream,
                    self.streams.len()
                )));
            };
            let key = outbox.key(entry);
            let place = (*topic, positive_murmur2(key) % partitions);
            if building.get(last).is_none_or(|(topic, partition, ..)| (*topic, *partition) != place) {
                last = building.iter().position(|(t, p, ..)| (*t, *p) == place).unwrap_or_else(|| {
                    building.push((place.0, place.1, Builder::new(), Vec::new()));
                    building.len() - 1
                });
            }
            let (_, _, builder, chunks) = &mut building[last];
            builder.push(block::Entry {
                appended_at,
                key: Some(key),
                id: Some(outbox.id(entry)),
                time: Some(entry.time),
                value: outbox.value(entry),
            });
            if builder.is_full() {
                chunks.extend(builder.finish());
            }
        }
        Ok(building
            .into_iter()
            .map(|(topic, partition, mut builder, mut chunks)| {
                chunks.extend(builder.finish());
                (topic, partition, chunks)
            })
            .collect())
    }
}

fn check_cells(cells: &Cells) -> Result<()> {
    match cells.iter().find(|(key, _)| key.len() > CELL_KEY_BYTES_MAX) {
        Some((key, _)) => Err(Error::invalid(format!(
            "the key of a cell has {} bytes; at most {CELL_KEY_BYTES_MAX} are possible",
            key.len()
        ))),
        None => Ok(()),
    }
}
