//! A slot on its lane: the activations, what was decided since the last seal, and the protocol's machine.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use granary_cluster::invariants::Watch;
use granary_cluster::pace::Backoff;
use granary_cluster::retry::{Caution, Culprit};
use granary_cluster::slot::{Outlet, Seat, Slot};
use granary_cluster::{Cells, Commit, CommitNo, Effects, Epoch, Incarnation, Position, RunId, Script, TxId};
use granary_core::{GrainId, SlotId, Timestamp};

use crate::answers::Answers;
use crate::config::Config;
use crate::keyed::Keyed;
use crate::lane::clock::Replay;
use crate::lane::keep::Kept;
use crate::lane::moving::Here;
use crate::mailbox::Call;
use crate::reminders::Reminders;
use crate::table::Table;
use crate::timers::Timers;

/// Calls that wait while a slot is being opened; one more is refused.
pub(crate) const BACKLOG_CALLS_MAX: usize = 4_096;

/// A slot's batch closes at so many dirty cells.
pub(crate) const COMMIT_CELLS_MAX: usize = 4_000;

/// A slot's batch closes at so many bytes of output.
pub(crate) const COMMIT_OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Why a slot has to roll back.
#[derive(Debug)]
pub(crate) struct Broken {
    /// For a person.
    pub reason: String,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault a rollback is: only what fails by itself is counted against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The handler of this record.
    Record(Position),
    /// A call: its caller has the error, nothing is tried again.
    Call,
    /// A seal or the clock: it will be tried again as it is.
    Slot,
    /// The store could not be read: it is tried again after a while, however often.
    Store,
    /// The process ended again and again in this slot, whatever was tried.
    Process,
}

/// A slot this lane holds.
pub(crate) struct SlotHost {
    pub id: SlotId,
    pub table: RefCell<Table>,
    /// Activations changed since the last seal, each once.
    pub dirty: RefCell<Vec<u32>>,
    /// The commit that will hold what is changed now.
    pub open_commit: Cell<u64>,
    /// The last acknowledged commit.
    pub stored: Cell<u64>,
    /// How often it was opened: what was read for an opening that is past is not its own.
    pub opening: Cell<u64>,
    /// Records may be applied and calls run.
    pub is_running: Cell<bool>,
    /// Turns of the present record that have not ended: the slot is not sealed before.
    pub stream_turns: Cell<u32>,
    /// Records that came while such a turn was under way.
    pub kept: RefCell<Kept>,
    /// A commit was due while such a turn was under way: it comes before the next record.
    pub seal_waits: Cell<bool>,
    /// More is due than one step publishes, or nobody has looked yet since the slot was opened: nothing else is applied.
    pub is_closing: Cell<bool>,
    /// The commit that holds the last portion of a closing.
    pub closed_in: Cell<u64>,
    /// Something was decided since the last seal.
    pub has_changes: Cell<bool>,
    /// Since when, if it was not sealed in the round that decided it.
    pub changed_since: Cell<Option<Instant>>,
    /// Since when a stored commit with outputs waits for its transaction.
    pub stored_since: Cell<Option<Instant>>,
    /// Calls of this slot by its own turns on their way, and its turns that were woken and have not gone on: while there
    /// are any, a seal would part what belongs together.
    pub stirring: Cell<u32>,
    /// Rounds a seal has been put off for that.
    pub put_off: Cell<u32>,
    /// Records wait until then: the store could not be read.
    pub paused_until: Cell<Timestamp>,
    /// A turn failed in a way that undoes the slot.
    pub broken: RefCell<Option<Broken>>,
    /// Since when published outputs wait to be trimmed.
    pub trim_since: Cell<Option<Timestamp>>,
    /// The store's run under which it was opened.
    pub run: Cell<RunId>,
    /// Whether it belongs to this silo.
    pub here: Cell<Here>,
    /// Since when it belongs here and its owner has not given it.
    pub waits_since: Cell<Option<Timestamp>>,
    /// It belongs to another silo, and is given from then on.
    pub gives_at: Cell<Option<Timestamp>>,
    /// Its row is being read, to see whether it may be taken.
    pub is_looking: Cell<bool>,
    /// How often the silo had stood aside when it took the slot.
    pub asides: Cell<u64>,
    /// Its owner stands aside: its row was read by then, and named this epoch.
    pub unfit_owner: Cell<Option<(Incarnation, Epoch, Timestamp)>>,
    /// Turns and records of it on this silo so far.
    pub work: Cell<u64>,
    /// What must hold of the slot.
    pub watch: RefCell<Watch>,
    /// The end of the commits that were named as lost since the slot was opened last.
    pub named_lost: Cell<CommitNo>,
    /// What leaves before its commit.
    pub eager: Eager,
    pub inner: RefCell<Inner>,
}

/// What a slot publishes before its commit.
#[derive(Default)]
pub(crate) struct Eager {
    /// Entries of the open outbox that were looked at.
    pub looked_at: Cell<usize>,
    /// Batches handed over, and those of them that the log has taken: in order, and through all openings of the slot.
    pub sent: Cell<u64>,
    pub taken: Cell<u64>,
    /// A commit waits until the log has taken so many.
    pub held: RefCell<Option<(u64, Script)>>,
}

/// What a turn on the hot path does not touch.
pub(crate) struct Inner {
    pub machine: Slot,
    pub effects: Effects,
    /// Cells beside grains and pipeline: reminders, stored replies.
    pub cells: Cells,
    pub held: Answers,
    /// Waiting before a question is asked again.
    pub ask_backoff: Backoff,
    /// The next offset to apply, for each partition that feeds the slot.
    pub positions: Vec<Position>,
    /// Records applied since the last seal.
    pub records_open: u32,
    /// The commit in flight, for its memory.
    pub sent: Option<Arc<Commit>>,
    /// Records in the commit in flight.
    pub records_sealed: u32,
    /// The commit is full by other measures: a record was applied that forms one alone, or a closing has changed many
    /// cells.
    pub is_single_full: bool,
    pub culprit: Culprit,
    pub caution: Option<Caution>,
    /// The position that is noted and may be applied.
    pub noted: Option<Position>,
    /// Inputs of the clock that are taken again.
    pub replay: Option<Replay>,
    pub backlog: VecDeque<Call>,
    pub timers: Timers,
    pub reminders: Reminders,
    /// Idempotency keys whose first call is under way, and the calls that joined it.
    pub keyed: Keyed,
    /// Activations that leave as soon as what they changed is stored.
    pub leaving: Vec<u32>,
    /// Failing whatever is tried: left alone, loudly.
    pub is_parked: bool,
    /// A silo of a later generation has owned it: left alone until the placement changes.
    pub is_outdated: bool,
    /// The pipeline was told that the inputs have ended.
    pub has_ended: bool,
    /// The record being applied, or applied last; `None` when the clock tells.
    pub applying: Option<Position>,
    /// The next output it causes is the how-manieth.
    pub next_index: u32,
    /// When the log took it.
    pub applying_at: Timestamp,
    /// What the last failure said, for the `poisoned` stream.
    pub last_failure: String,
    /// Reminders whose turns undid the slot, and how often.
    pub reminder_failures: BTreeMap<(GrainId, Box<str>), u32>,
}

impl SlotHost {
    pub fn new(id: SlotId, lane: u16, config: &Config) -> SlotHost {
        let me = config.me;
        let txid = TxId { incarnation: me, lane };
        let outlet = if config.producer.is_some() { Outlet::Log } else { Outlet::Store };
        let mut machine = Slot::new(Seat { slot: id, me, txid, outlet, program: config.program });
        machine.set_outbox_bytes_max(config.outbox_bytes_max);
        SlotHost {
            id,
            table: RefCell::default(),
            dirty: RefCell::default(),
            open_commit: Cell::new(1),
            stored: Cell::new(0),
            opening: Cell::new(0),
            is_running: Cell::new(false),
            stream_turns: Cell::new(0),
            kept: RefCell::default(),
            seal_waits: Cell::new(false),
            is_closing: Cell::new(false),
            closed_in: Cell::new(0),
            has_changes: Cell::new(false),
            changed_since: Cell::new(None),
            stored_since: Cell::new(None),
            stirring: Cell::new(0),
            put_off: Cell::new(0),
            paused_until: Cell::new(Timestamp::MIN),
            broken: RefCell::default(),
            trim_since: Cell::new(None),
            run: Cell::new(RunId(0)),
            here: Cell::new(if config.cluster.is_some() { Here::No } else { Here::Yes }),
            waits_since: Cell::new(None),
            gives_at: Cell::new(None),
            is_looking: Cell::new(false),
            asides: Cell::new(0),
            unfit_owner: Cell::new(None),
            work: Cell::new(0),
            watch: RefCell::new(Watch::new(id)),
            named_lost: Cell::new(CommitNo(0)),
            eager: Eager::default(),
            inner: RefCell::new(Inner {
                machine,
                effects: Effects::default(),
                cells: Cells::default(),
                held: Answers::default(),
                ask_backoff: Backoff::default(),
                positions: Vec::new(),
                records_open: 0,
                sent: None,
                records_sealed: 0,
                is_single_full: false,
                culprit: Culprit::default(),
                caution: None,
                noted: None,
                replay: None,
                backlog: VecDeque::new(),
                timers: Timers::default(),
                reminders: Reminders::default(),
                keyed: Keyed::default(),
                leaving: Vec::new(),
                is_parked: false,
                is_outdated: false,
                has_ended: false,
                applying: None,
                next_index: 0,
                applying_at: Timestamp(0),
                last_failure: String::new(),
                reminder_failures: BTreeMap::new(),
            }),
        }
    }

    /// Marks an activation changed by a turn that ends now.
    pub fn mark_changed(&self, row: u32) {
        let mut table = self.table.borrow_mut();
        if let Some(activation) = table.get_mut(row) {
            self.mark(activation, row);
        }
    }

    /// The same, with the entry at hand.
    pub fn mark(&self, activation: &mut crate::table::Activation, row: u32) {
        activation.changed_in = self.open_commit.get();
        if !activation.is_dirty {
            activation.is_dirty = true;
            self.dirty.borrow_mut().push(row);
            self.has_changes.set(true);
        }
    }

    /// Says that the slot has to roll back; the first reason stays.
    pub fn break_with(&self, reason: String, blame: Blame) {
        self.broken.borrow_mut().get_or_insert(Broken { reason, blame });
    }

    /// A handler of the present record, or of the clock, failed.
    pub fn break_applying(&self, reason: String) {
        let blame = {
            let mut inner = self.inner.borrow_mut();
            inner.last_failure.clone_from(&reason);
            inner.applying.map_or(Blame::Slot, Blame::Record)
        };
        self.break_with(reason, blame);
    }

    /// One more thing is on its way inside the slot.
    pub fn stirs(&self) {
        self.stirring.set(self.stirring.get() + 1);
    }

    /// It has arrived.
    pub fn settles(&self) {
        self.stirring.set(self.stirring.get().saturating_sub(1));
    }

    /// Whether the open batch is full: sources pause until it is sealed.
    pub fn is_batch_full(&self, inner: &Inner) -> bool {
        self.dirty.borrow().len() >= COMMIT_CELLS_MAX
            || inner.effects.outbox.bytes() >= COMMIT_OUTBOX_BYTES_MAX
            || inner.is_single_full
    }
}
