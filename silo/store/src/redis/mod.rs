//! The store on a Redis server.
//!
//! | key | holds |
//! |---|---|
//! | `{granary.<cluster>}` | the cluster: name, slots, schema, last incarnation |
//! | `{granary.<cluster>}:members` | the member table |
//! | `{granary.<cluster>.<slot>}:row` | the slot's row: owner, epoch, number, positions, transactional ids, run, tries |
//! | `...:out` | its outbox: number and outputs of each commit not trimmed yet |
//! | `...:cells`, `...:cells:r` | its cells; those of a scanned kind (`r/...`) by themselves |
//!
//! # How it works
//! All scripts of a submission go to the server as one call of one script (`scripts.lua`), which checks and writes each
//! slot by itself: with `appendfsync always` the server syncs once for a call, but once for each command it happens to
//! read in another round of its loop. Rules are those of [`crate::slots`]; a test compares the two.
//!
//! Connections live on one thread of the store. A lane's thread always uses the same connection for scripts; reads have
//! one of their own. While the server is away requests fail at once, the connection is tried again with a growing wait.
//! A reply that is lost is an error that says `unknown`: the same bytes are sent again and the server says `done`.
//!
//! # Runs
//! A connection cannot outlive a run of the server, so the run is read once for each connection: `run_id` and the id of
//! the server's history (`master_replid`), hashed. Every script carries it, every read of cells or outbox compares it
//! with the run the row names (`fenced` if they differ). When a connection finds another run, all older connections are
//! closed. A master that is made a replica and a master again keeps process and connections but not its last writes: so
//! each request ends with a look at the history, which costs the server some microseconds. (The history also changes
//! when a replica is attached to a server that had none: then every slot is acquired once more, nothing else.)

mod encode;
mod job;
mod keys;
mod lane;
mod link;
mod members;
mod options;
mod outbox;
mod read;
mod row;
mod server;
mod shared;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use granary_cluster::members::{Change, Table};
use granary_cluster::port::Done;
use granary_cluster::{Incarnation, Lookup, OnRun, RunId, Script, SlotRecord, Store, StoredOutbox};
use granary_core::{Error, ErrorKind, Result, SlotId};
use redis::Pipeline;
use tokio::sync::mpsc::{Sender, channel, error::TrySendError};

use encode::Encoded;
use job::{Answer, Job, Read};
use link::Link;
pub use options::RedisOptions;
use shared::Shared;

/// Submissions that may wait for one connection: a slot has one script on its way, so lanes stay far below.
const QUEUE_MAX: usize = 4_096;

/// The store on Redis.
pub struct Redis {
    shared: Arc<Shared>,
    lanes: Vec<Sender<Job>>,
    reads: Sender<Job>,
}

impl Redis {
    /// Connects, checks the server, creates the cluster if there is none.
    ///
    /// A server that is away is `unavailable`; anything else that stands in the way is `invalid` and says what to do.
    pub fn open(options: RedisOptions) -> Result<Arc<Redis>> {
        let shared = Arc::new(Shared::new(options)?);
        let (tell, told) = sync_channel(1);
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("granary-redis".to_owned());
        let started = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(cannot_start(&error)))),
            };
            runtime.block_on(async {
                match connect(&serving).await {
                    Ok((links, queues)) => {
                        let mut serving_all = tokio::task::JoinSet::new();
                        for (link, queue) in links.into_iter().zip(queues.1) {
                            serving_all.spawn(lane::serve(Arc::clone(&serving), link, queue));
                        }
                        // Whoever opens the store waits for it.
                        drop(tell.send(Ok(queues.0)));
                        while serving_all.join_next().await.is_some() {}
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        });
        started.map_err(|error| cannot_start(&error))?;
        let gone = || Error::new(ErrorKind::Closed, "the store's thread has ended");
        let mut lanes = told.recv().map_err(|_| gone())??;
        let reads = lanes.pop().ok_or_else(gone)?;
        Ok(Arc::new(Redis { shared, lanes, reads }))
    }

    /// Takes a number for a new life of a silo: never given before, not even when the server lost its last writes.
    pub fn incarnate(&self) -> Result<Incarnation> {
        let read = self.ask(server::incarnate(&self.shared.keys, self.run()))?;
        match read.values.as_slice() {
            [redis::Value::Int(number)] => {
                Ok(Incarnation(u64::try_from(*number).map_err(|_| encode::unreadable())?))
            }
            _ => Err(encode::unreadable()),
        }
    }

    /// Carries out a change of the member table: whether it was made, and the table after it. After an error it is not
    /// known whether it was made; the same change once more does nothing then.
    pub fn change_members(&self, change: &Change) -> Result<(bool, Table)> {
        let read = self.ask(members::change(&self.shared.keys, change))?;
        members::answer(read.values.into_iter().next().ok_or_else(encode::unreadable)?)
    }

    /// What was noted about the cluster under this name.
    pub fn noted(&self, name: &str) -> Result<Option<String>> {
        self.one(server::noted(&self.shared.keys, name))
    }

    /// Notes something about the cluster, unless something else was noted under this name before: that is what comes
    /// back.
    pub fn note(&self, name: &str, text: &str) -> Result<Option<String>> {
        self.one(server::note(&self.shared.keys, name, text))
    }

    /// Notes something else about the cluster, if this is still what was noted before: whether it was.
    pub fn replace_note(&self, name: &str, before: Option<&str>, text: &str) -> Result<bool> {
        let read = self.ask(server::replace_note(&self.shared.keys, name, before, text))?;
        Ok(matches!(read.values.as_slice(), [redis::Value::Int(1)]))
    }

    fn one(&self, question: Pipeline) -> Result<Option<String>> {
        let read = self.ask(question)?;
        let value = read.values.into_iter().next().ok_or_else(encode::unreadable)?;
        redis::from_redis_value(value).map_err(|_| encode::unreadable())
    }

    /// Sends reads (or what is no slot's) and waits for the answers, not long.
    fn ask(&self, pipeline: Pipeline) -> Result<Read> {
        let (tell, told) = sync_channel(1);
        self.reads.try_send(Job::Read(pipeline, tell)).map_err(|e| no_room(&e))?;
        let Shared { options, address, .. } = &*self.shared;
        told.recv_timeout(options.read_max).map_err(|_| {
            let message = format!(
                "the Redis server at {address} did not answer a read within {:?}: is it overloaded or stopped?",
                options.read_max
            );
            Error::new(ErrorKind::Unavailable, message)
        })?
    }

    /// What a read of several slots says of each; all of them fail with a read that does.
    fn each<T>(
        &self,
        slots: &[SlotId],
        read: impl FnOnce(&[SlotId]) -> Result<Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        let checked = slots.iter().try_for_each(|slot| self.check_slot(*slot));
        match checked.and_then(|()| read(slots)) {
            Ok(found) => found,
            Err(error) => slots.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn check_slot(&self, slot: SlotId) -> Result<()> {
        if slot.0 < self.shared.options.slots {
            return Ok(());
        }
        Err(Error::invalid(format!("slot {slot} does not exist")))
    }
}

type Queues = (Vec<Sender<Job>>, Vec<tokio::sync::mpsc::Receiver<Job>>);

/// The first connections: one for each lane, the last one for reads.
async fn connect(shared: &Shared) -> Result<(Vec<Link>, Queues)> {
    let mut links = Vec::new();
    let first = Link::open(shared).await?;
    if first.server.record.is_none() {
        first.ask(shared, &server::create_record(&shared.keys, &shared.options, first.server.run)).await?;
    }
    for _ in 0..=shared.options.connections {
        let link = Link::open(shared).await?;
        link.server.check_record(&shared.options)?;
        shared.connected(link.server.run);
        links.push(link);
    }
    let queues = links.iter().map(|_| channel(QUEUE_MAX)).unzip();
    Ok((links, queues))
}

fn cannot_start(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the store's thread cannot be started: {error}"))
}

fn no_room(error: &TrySendError<Job>) -> Error {
    match error {
        TrySendError::Full(_) => Error::new(
            ErrorKind::Overloaded,
            format!("{QUEUE_MAX} requests wait for the Redis server: it answers too slowly"),
        ),
        TrySendError::Closed(_) => Error::new(ErrorKind::Closed, "the store is closed"),
    }
}

/// Which connection this thread uses.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static PLACE: Cell<Option<usize>> = const { Cell::new(None) });
    PLACE.with(|place| {
        let mine = place.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        place.set(Some(mine));
        mine
    })
}

impl Store for Redis {
    fn submit(&self, scripts: Vec<Script>, done: Done) {
        let answer = Answer::new(done);
        if scripts.is_empty() {
            return answer.give(Ok(Vec::new()));
        }
        let known = scripts.iter().try_for_each(|script| self.check_slot(script.slot()));
        let encoded = match known.and_then(|()| Encoded::new(&self.shared.keys, &scripts)) {
            Ok(encoded) => encoded,
            Err(error) => return answer.give(Err(error)),
        };
        let lane = &self.lanes[place() % self.lanes.len()];
        if let Err(error) = lane.try_send(Job::Scripts(encoded, answer)) {
            let why = no_room(&error);
            let (TrySendError::Full(job) | TrySendError::Closed(job)) = error;
            job.refuse(&why);
        }
    }

    fn record(&self, slot: SlotId) -> Result<SlotRecord> {
        self.records(&[slot]).pop().unwrap_or_else(|| Err(encode::unreadable()))
    }

    fn outbox(&self, slot: SlotId) -> Result<StoredOutbox> {
        self.check_slot(slot)?;
        self.read_outbox(slot)
    }

    fn records(&self, slots: &[SlotId]) -> Vec<Result<SlotRecord>> {
        self.each(slots, |slots| self.read_rows(slots))
    }

    fn records_with_outboxes(&self, slots: &[SlotId]) -> Vec<Result<(SlotRecord, StoredOutbox)>> {
        self.each(slots, |slots| self.read_with_outboxes(slots))
    }

    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        self.check_slot(slot)?;
        self.read_cell(slot, cell, value)
    }

    fn load_many(
        &self,
        cells: &[(SlotId, Vec<u8>)],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        cells.iter().try_for_each(|(slot, _)| self.check_slot(*slot))?;
        self.read_cells(cells, each)
    }

    fn scan(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.check_slot(slot)?;
        for (cell, value) in self.read_prefix(slot, prefix, after)? {
            if !each(&cell, &value) {
                break;
            }
        }
        Ok(())
    }

    fn run(&self) -> RunId {
        self.shared.run()
    }

    fn on_run(&self, tell: OnRun) {
        self.shared.listen(tell);
    }
}
