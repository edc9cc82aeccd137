//! The embedded store and log: opening, closing and the store's port.

use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use granary_cluster::port::Done;
use granary_cluster::{Lookup, RunId, Script, SlotRecord, Store};
use granary_core::{Error, ErrorKind, Ran, Result, SlotId, Timestamp, codec, time::millis};

use crate::disk::{self, Engine, Lock, engine_error};
use crate::fold;
use crate::options::Options;
use crate::recent::{Recent, Sight};
use crate::rows::{self, Bounds};
use crate::segment;
use crate::shared::{Answer, Request, Shared};
use crate::topics::{ByName, Topic, Topics};
use crate::writer::{RUN, Writer};

/// Requests waiting for the writer; more are refused as `Overloaded`.
pub const QUEUE_REQUESTS_MAX: usize = 4096;

/// A store and log in one directory of one process.
///
/// ```
/// use granary_cluster::{Batch, Log, Store};
/// use granary_core::{SlotId, Timestamp};
/// use granary_store::{Embedded, Options};
/// # fn main() -> granary_core::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("granary-doc-{}", std::process::id()));
/// let store = Embedded::open(&dir, Options::new(96))?;
/// store.create("readings", 4)?;
/// let mut batch = Batch::default();
/// batch.push(0, Timestamp(1), Some(b"d-7"), b"{}");
/// assert_eq!(store.append("readings", 0, &batch)?, 0);
/// assert_eq!(store.bounds("readings", 0)?, (0, 1));
/// assert_eq!(store.record(SlotId(3))?.n.0, 0);
/// # drop(store);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
pub struct Embedded {
    pub(crate) shared: Arc<Shared>,
    requests: SyncSender<Request>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: Lock,
}

impl Embedded {
    /// Opens the store in `dir`, creating it when the directory is empty or missing. Everything acknowledged before is
    /// there; a batch that was being written when the process or the machine stopped is there whole or not at all.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Embedded>> {
        if options.slots == 0 {
            return Err(Error::invalid("a cluster has at least one slot"));
        }
        let (lock, engine) = disk::open(dir.as_ref(), &options)?;
        check_slots(&engine, options.slots)?;
        let rows = read_rows(&engine, options.slots)?;
        let topics = Topics::default();
        *topics.write() = read_topics(&engine)?;
        let streams = assign_streams(&engine, &options, &mut topics.write())?;
        let recent = Recent::new(options.slots, None);
        let covers = read_recent(&engine, &recent)?;
        let shared = Arc::new(Shared {
            options,
            engine,
            recent,
            rows: RwLock::new(rows),
            topics,
            streams,
            folding: Mutex::new(false),
            folded: Condvar::new(),
            failed: Mutex::new(None),
        });
        let (requests, threads) = start(&shared, covers)?;
        Ok(Arc::new(Embedded { shared, requests, threads: Mutex::new(threads), _lock: lock }))
    }

    /// Keeps a few bytes under a name, durably. For readers outside of slots that must know how far they came.
    pub fn set_bookmark(&self, name: &str, value: &[u8]) -> Result<()> {
        let name = name.to_owned();
        let value = value.to_vec();
        self.ask(|done| Request::Bookmark { name, value, done })
    }

    /// What is kept under a name.
    pub fn bookmark(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let found = self.shared.engine.meta.get(rows::bookmark_key(name));
        Ok(found.map_err(|e| engine_error("read a bookmark", e))?.map(|value| value.to_vec()))
    }

    /// Lets old records of a topic go, whole batches at a time: of each partition all but about the latest `bytes_max`
    /// stored bytes, and all that the log took before `before`. Returns how many batches went.
    pub fn retain(&self, topic: &str, bytes_max: Option<u64>, before: Option<Timestamp>) -> Result<u64> {
        let topic = topic.to_owned();
        self.ask(|done| Request::Retain { topic, bytes_max, before, done })
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64> {
        self.shared.engine.db.disk_space().map_err(|e| engine_error("measure itself", e))
    }

    /// Asks the writer and waits for its answer.
    pub(crate) fn ask<T: Send + 'static>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T> {
        let (answer, answered) = sync_channel(1);
        let done: Answer<T> = Box::new(move |result| {
            // The asker waits below, so this fails only when it panicked.
            let _ = answer.send(result);
        });
        self.requests.send(request(done)).map_err(|_| closed())?;
        answered.recv().map_err(|_| closed())?
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the embedded store is closed").ran(Ran::Unknown)
}

fn start(
    shared: &Arc<Shared>,
    covers: std::ops::Range<u64>,
) -> Result<(SyncSender<Request>, Vec<JoinHandle<()>>)> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|e| engine_error("start a thread", e))
    };
    let (jobs, due) = sync_channel(1);
    let folder = {
        let shared = Arc::clone(shared);
        spawn("store-fold", Box::new(move || fold::run(&shared, &due)))?
    };
    let (requests, queue) = sync_channel(QUEUE_REQUESTS_MAX);
    let writer = Writer::new(Arc::clone(shared), jobs, covers);
    let writer = spawn("store-writer", Box::new(move || writer.run(&queue)))?;
    Ok((requests, vec![writer, folder]))
}

/// Finishes what was asked, syncs, and gives the directory back.
impl Drop for Embedded {
    fn drop(&mut self) {
        let mut threads = std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner));
        let here = std::thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == here) {
            return; // dropped by an answer on the writing thread, which ends when the queue hangs up
        }
        // A writer that has ended takes no requests: then there is nothing to close.
        let _ = self.requests.send(Request::Close);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the embedded store panicked");
            }
        }
    }
}

fn check_slots(engine: &Engine, slots: u16) -> Result<()> {
    let failed = |e: fjall::Error| engine_error("read its rows", e);
    let stored = engine.meta.get("slots").map_err(failed)?.ok_or_else(|| rows::damaged("slot count"))?;
    let stored = rows::read_u16(&stored)?;
    if stored == slots {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the store was created with {stored} slots and is opened with {slots}: the count is fixed for ever, write \
         {stored}, or give an empty directory"
    )))
}

fn read_rows(engine: &Engine, slots: u16) -> Result<Vec<SlotRecord>> {
    let failed = |e: fjall::Error| engine_error("read its rows", e);
    (0..slots)
        .map(|slot| match engine.meta.get(rows::slot_key(slot)).map_err(failed)? {
            Some(row) => codec::from_bytes(&row),
            None => Ok(SlotRecord::new()),
        })
        .collect()
}

fn read_topics(engine: &Engine) -> Result<ByName> {
    let failed = |e: fjall::Error| engine_error("read its topics", e);
    let mut topics = ByName::new();
    for item in engine.meta.prefix("t") {
        let (key, row) = item.into_inner().map_err(failed)?;
        let name = String::from_utf8(key[1..].to_vec()).map_err(|_| rows::damaged("topic name"))?;
        let (id, partitions) = row.split_at_checked(4).ok_or_else(|| rows::damaged("topic"))?;
        let (id, partitions) = (rows::read_u32(id)?, rows::read_u32(partitions)?);
        let bounds = (0..partitions)
            .map(|p| match engine.meta.get(rows::partition_key(id, p)).map_err(failed)? {
                Some(row) => Bounds::from_bytes(&row),
                None => Ok(Bounds::default()),
            })
            .collect::<Result<Vec<Bounds>>>()?;
        topics.insert(name, Topic { id, partitions: bounds });
    }
    Ok(topics)
}

/// Finds or creates the topic of each output stream.
fn assign_streams(engine: &Engine, options: &Options, topics: &mut ByName) -> Result<Vec<(u32, u32)>> {
    let mut batch = disk::batch(engine, options.streams.len(), Some(fjall::PersistMode::SyncAll));
    let mut streams = Vec::with_capacity(options.streams.len());
    for stream in &options.streams {
        if stream.partitions == 0 {
            return Err(Error::invalid(format!("topic `{}` needs at least one partition", stream.topic)));
        }
        let next = topics.len() as u32;
        let topic = topics.entry(stream.topic.clone()).or_insert_with(|| {
            let row = [next.to_be_bytes(), stream.partitions.to_be_bytes()].concat();
            batch.insert(&engine.meta, rows::topic_key(&stream.topic), row);
            Topic { id: next, partitions: vec![Bounds::default(); stream.partitions as usize] }
        });
        let existing = topic.partitions.len() as u32;
        if existing != stream.partitions {
            return Err(Error::invalid(format!(
                "topic `{}` exists with {existing} partitions, {} are wanted: use another name, or start with an \
                 empty directory",
                stream.topic, stream.partitions
            )));
        }
        streams.push((topic.id, existing));
    }
    batch.commit().map_err(|e| engine_error("write its topics", e))?;
    Ok(streams)
}

/// Reads the cells of recent commits back into memory; returns the sequence numbers they have.
fn read_recent(engine: &Engine, recent: &Recent) -> Result<std::ops::Range<u64>> {
    let failed = |e: fjall::Error| engine_error("read its recent commits", e);
    let folded = match engine.meta.get(rows::FOLDED_KEY).map_err(failed)? {
        Some(row) => rows::read_u64(&row)?,
        None => 0,
    };
    let mut next = folded;
    for item in engine.recent.range(folded.to_be_bytes()..) {
        let (key, segments) = item.into_inner().map_err(failed)?;
        let seq = rows::read_u64(&key)?;
        if seq != next {
            return Err(rows::damaged("sequence of recent commits"));
        }
        next = seq + 1;
        let mut beyond = false;
        segment::walk(&segments, |slot, cell, value| {
            if slot < recent.slots() {
                recent.write(slot).set(slot, cell, value);
            } else {
                beyond = true;
            }
        })?;
        if beyond {
            return Err(rows::damaged("slot number"));
        }
    }
    Ok(folded..next)
}

impl Store for Embedded {
    fn submit(&self, scripts: Vec<Script>, done: Done) {
        let prepared: Result<Vec<_>> =
            scripts.into_iter().map(|script| self.shared.prepare(script)).collect();
        let request = match prepared {
            Ok(prepared) => Request::Scripts(prepared, done),
            Err(e) => return done(Err(e.ran(Ran::No))),
        };
        let (request, refusal) = match self.requests.try_send(request) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (
                request,
                Error::new(
                    ErrorKind::Overloaded,
                    format!("{QUEUE_REQUESTS_MAX} requests wait for the embedded store"),
                )
                .after(millis(10)),
            ),
            Err(TrySendError::Disconnected(request)) => (request, closed()),
        };
        if let Request::Scripts(_, done) = request {
            done(Err(refusal.ran(Ran::No)));
        }
    }

    fn record(&self, slot: SlotId) -> Result<SlotRecord> {
        let rows = self.shared.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.get(usize::from(slot.0)).cloned().ok_or_else(|| no_slot(slot, &self.shared))
    }

    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        if slot.0 >= self.shared.recent.slots() {
            return Err(no_slot(slot, &self.shared));
        }
        match self.shared.recent.read(slot.0).find(slot.0, cell, value) {
            Sight::Found => return Ok(Lookup::Found),
            Sight::Absent => return Ok(Lookup::Absent),
            Sight::Below => {}
        }
        let found = self.shared.engine.cells.get(rows::cell_key(slot.0, cell));
        match found.map_err(|e| engine_error("read a cell", e))? {
            Some(bytes) => {
                value.extend_from_slice(&bytes);
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
        if slot.0 >= self.shared.recent.slots() {
            return Err(no_slot(slot, &self.shared));
        }
        crate::scan::scan(&self.shared, slot.0, prefix, after, each)
    }

    fn run(&self) -> RunId {
        RUN
    }
}

fn no_slot(slot: SlotId, shared: &Shared) -> Error {
    Error::invalid(format!("slot {slot} does not exist: the cluster has {} slots", shared.options.slots))
}
