//! Threads that read for a lane behind an external log, so that neither a store that is away nor much that is stored holds
//! the lane up: rows and outboxes on one, reminders on another.

use std::sync::Arc;
use std::sync::mpsc;

use granary_cluster::slot::{Ask, Stored};
use granary_cluster::{RunId, Store};
use granary_core::{Error, ErrorKind, Result, SlotId};

use crate::mailbox::{Mailbox, Word};
use crate::reminders::{CELL_PREFIX, Reminders};

/// Slots whose rows are read together.
const TOGETHER_MAX: usize = 256;
/// Outboxes read together: each may be as large as an outbox gets.
const OUTBOXES_TOGETHER_MAX: usize = 8;
const OTHER_RUN: &str = "the store's server was another one while the slot was read";

/// What the reading thread is asked for.
pub(super) enum Task {
    /// The row of a slot that is to be taken.
    Row(SlotId),
    /// The row and outbox of a slot.
    Record(SlotId, Ask),
    /// What fires in a slot, to be read into these, for its opening of this number.
    Reminders(SlotId, u64, Reminders),
}

/// A reading thread of one lane.
pub(super) struct Reader {
    tasks: Option<mpsc::Sender<Task>>,
    store: Arc<dyn Store>,
    mailbox: Arc<Mailbox>,
}

impl Reader {
    pub fn start(name: String, store: Arc<dyn Store>, mailbox: Arc<Mailbox>) -> Reader {
        let (tasks, asked) = mpsc::channel();
        let (on_store, to) = (store.clone(), mailbox.clone());
        let body = move || {
            while let Ok(first) = asked.recv() {
                let others = std::iter::from_fn(|| asked.try_recv().ok()).take(TOGETHER_MAX - 1);
                carry_out(std::iter::once(first).chain(others), &*on_store, &to);
            }
        };
        let started = std::thread::Builder::new().name(name).spawn(body);
        if let Err(error) = &started {
            tracing::error!(%error, "the reading thread cannot be started: the lane reads by itself");
        }
        Reader { tasks: started.is_ok().then_some(tasks), store, mailbox }
    }

    pub fn ask(&self, task: Task) {
        let unasked = match &self.tasks {
            Some(tasks) => tasks.send(task).err().map(|error| error.0),
            None => Some(task),
        };
        if let Some(task) = unasked {
            carry_out(std::iter::once(task), &*self.store, &self.mailbox);
        }
    }
}

/// Reads for several slots at once: a slot that moves waits for round trips, and many move together.
fn carry_out(tasks: impl Iterator<Item = Task>, store: &dyn Store, mailbox: &Mailbox) {
    let (mut rows, mut records) = (Vec::new(), Vec::new());
    for task in tasks {
        match task {
            Task::Row(slot) => rows.push(slot),
            Task::Record(slot, ask) => records.push((slot, ask)),
            Task::Reminders(slot, opening, empty) => {
                mailbox.tell(Word::Reminders(slot, opening, reminders(store, slot, empty)));
            }
        }
    }
    if !rows.is_empty() {
        let run = store.run();
        for (slot, row) in rows.iter().zip(store.records(&rows)) {
            mailbox.tell(Word::Row(*slot, row.map(|record| (record, run))));
        }
    }
    for records in records.chunks(OUTBOXES_TOGETHER_MAX) {
        let run = store.run();
        let slots: Vec<SlotId> = records.iter().map(|(slot, _)| *slot).collect();
        let found = store.records_with_outboxes(&slots);
        let is_of_run = store.run() == run;
        for ((slot, ask), found) in records.iter().zip(found) {
            let stored = found.and_then(|(record, outbox)| {
                let stored = Stored { record, outbox, run };
                is_of_run.then_some(stored).ok_or_else(|| Error::new(ErrorKind::Unavailable, OTHER_RUN))
            });
            mailbox.tell(Word::Record(*slot, *ask, stored));
        }
    }
}

/// Row and outbox, under one run of the store's server.
pub(super) fn stored(store: &dyn Store, slot: SlotId, run: RunId) -> Result<Stored> {
    let (record, outbox) = (store.record(slot)?, store.outbox(slot)?);
    if store.run() == run {
        return Ok(Stored { record, outbox, run });
    }
    Err(Error::new(ErrorKind::Unavailable, OTHER_RUN))
}

/// The slot's reminders, read into empty ones, and the run of the store's server that they are of.
pub(super) fn reminders(
    store: &dyn Store,
    slot: SlotId,
    mut reminders: Reminders,
) -> Result<(Reminders, RunId)> {
    let run = store.run();
    let mut broken = None;
    store.scan(slot, CELL_PREFIX, None, &mut |_, cell| {
        broken = reminders.load(cell).err();
        broken.is_none()
    })?;
    match broken {
        Some(error) => Err(error),
        None if store.run() != run => Err(Error::new(ErrorKind::Unavailable, OTHER_RUN)),
        None => Ok((reminders, run)),
    }
}
