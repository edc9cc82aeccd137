//! What other threads see of a lane: its bounded inbox, the turns they woke, and a bell.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use crossbeam_queue::{ArrayQueue, SegQueue};
use granary_cluster::members::View;
use granary_cluster::slot::{Ask, Stored};
use granary_cluster::{Ended, Marker, Reply, RunId, SlotRecord};
use granary_core::call::{BytesReply, Options};
use granary_core::envelope::Envelope;
use granary_core::{GrainId, Key, KindId, Result, SlotId, Span};
use tokio::sync::{Notify, oneshot};

use crate::lane::rest::Rest;
use crate::lengths::Stages;
use crate::reminders::Reminders;
use crate::stats::LaneStats;
use crate::watch::Pulse;

/// Calls from outside that may wait for a lane; one more is `Overloaded`.
pub(crate) const INBOX_CALLS_MAX: usize = 16_384;

/// How long a caller of a full lane is told to wait.
pub(crate) const RETRY_AFTER: Span = Span(50);

/// A call for a lane.
pub(crate) enum Call {
    /// Typed, of a grain.
    Letter { slot: SlotId, kind: KindId, key: Key, envelope: Box<dyn Envelope> },
    /// By name, with encoded arguments.
    Named(Box<Named>),
}

/// A call by name.
pub(crate) struct Named {
    pub slot: SlotId,
    pub grain: GrainId,
    pub method: Box<str>,
    pub arguments: Vec<u8>,
    pub options: Options,
    pub reply: BytesReply,
}

impl Call {
    /// Until when its caller waits.
    pub fn deadline(&self) -> Option<granary_core::Timestamp> {
        match self {
            Call::Letter { envelope, .. } => envelope.options().deadline,
            Call::Named(named) => named.options.deadline,
        }
    }

    /// The slot it goes to.
    pub fn slot(&self) -> SlotId {
        match self {
            Call::Letter { slot, .. } => *slot,
            Call::Named(named) => named.slot,
        }
    }
}

/// What a lane is told besides calls. Bounded by what the lane itself has asked for.
pub(crate) enum Word {
    /// The store's answer to a batch of scripts.
    Scripted(Sent, Result<Vec<Reply>>),
    /// The row of a slot that is to be taken, and the store's run.
    Row(SlotId, Result<(SlotRecord, RunId)>),
    /// The row and outbox a slot asked for.
    Record(SlotId, Ask, Result<Stored>),
    /// What fires in a slot that is being opened, for its opening of this number, and the store's run.
    Reminders(SlotId, u64, Result<(Reminders, RunId)>),
    /// The marker a slot asked for.
    Marker(SlotId, Ask, Result<Option<Marker>>),
    /// What a slot has to take again of the clock's inputs.
    Journal(SlotId, Result<Vec<Vec<u8>>>),
    /// The ids that slots asked to be fenced are.
    Fenced(Result<()>),
    /// The lane's producer is initialised.
    Inited(Result<()>),
    /// The store is connected anew, and this is its server's run.
    Run(RunId),
    /// The lane's transaction has ended.
    Ended(Ended),
    /// The cluster has changed.
    View(Arc<View>),
    /// A source may have more, or the clock was moved by hand.
    Look,
    /// The log has taken a batch that a slot published before its commit.
    SentEagerly(SlotId),
    /// Stop taking, finish turns, commit, then say so.
    Stop(oneshot::Sender<()>),
}

/// A batch of scripts on its way.
pub(crate) struct Sent {
    pub slots: Vec<SlotId>,
    pub at: Instant,
    pub commits: bool,
    pub trims: bool,
    pub gives: bool,
}

/// Where a lane stands in a partition of a source: the next offset it hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stand {
    pub source: u16,
    pub partition: u32,
    pub next: u64,
}

/// Output streams that are counted by themselves; those beyond are counted with the last.
pub(crate) const STREAMS_COUNTED: usize = 128;

/// The lane, as other threads see it.
pub(crate) struct Mailbox {
    pub calls: ArrayQueue<Call>,
    pub words: SegQueue<Word>,
    pub woken: SegQueue<u32>,
    /// Who waits until nothing goes on.
    pub rests: SegQueue<oneshot::Sender<Rest>>,
    pub stats: LaneStats,
    pub stages: Stages,
    pub stands: Mutex<Vec<Stand>>,
    /// Turns and records so far, of each slot that runs.
    pub work: Mutex<Vec<(SlotId, u64)>>,
    /// Outputs sealed, by stream.
    pub outputs: Box<[AtomicU64]>,
    pub pulse: Pulse,
    /// When the lane's last round began, by its clock.
    pub beat: AtomicI64,
    pub is_closed: AtomicBool,
    /// The lane has ended: nobody looks at the calls any more.
    pub is_over: AtomicBool,
    pub is_finished: AtomicBool,
    pub finished: Notify,
    bell: AtomicWaker,
    rung: AtomicBool,
    /// The lane runs and will look at `rung` before it sleeps: to wake it would cost each caller a system call.
    is_awake: AtomicBool,
}

impl Mailbox {
    pub fn new() -> Arc<Mailbox> {
        let stats = LaneStats::default();
        LaneStats::set(&stats.slots_waiting, 1); // until the lane has looked, it waits for some
        Arc::new(Mailbox {
            calls: ArrayQueue::new(INBOX_CALLS_MAX),
            words: SegQueue::new(),
            woken: SegQueue::new(),
            rests: SegQueue::new(),
            stats,
            stages: Stages::default(),
            stands: Mutex::default(),
            work: Mutex::default(),
            outputs: (0..STREAMS_COUNTED).map(|_| AtomicU64::new(0)).collect(),
            pulse: Pulse::default(),
            beat: AtomicI64::new(i64::MIN),
            is_closed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_finished: AtomicBool::new(false),
            finished: Notify::new(),
            bell: AtomicWaker::new(),
            rung: AtomicBool::new(false),
            is_awake: AtomicBool::new(false),
        })
    }

    /// Hands a call over, or back when the inbox is full.
    pub fn call(&self, call: Call) -> Result<(), Call> {
        self.calls.push(call)?;
        self.ring();
        if self.is_over.load(Ordering::Acquire) {
            while self.calls.pop().is_some() {} // the lane ended meanwhile: their callers hear that it did
        }
        Ok(())
    }

    /// Tells the lane.
    pub fn tell(&self, word: Word) {
        self.words.push(word);
        self.ring();
    }

    /// For the lane: its finite inputs have ended and all is stored.
    pub fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
        self.finished.notify_waiters();
    }

    /// Makes the lane look; cheap while it is awake.
    ///
    /// Of the two stores and loads here and in [`Mailbox::falls_asleep`] all threads see one order: either the lane sees
    /// that it was rung, or who rings sees that it sleeps.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.is_awake.load(Ordering::SeqCst) {
            self.bell.wake();
        }
    }

    /// For the lane: it is awake and takes the ring; true when it was rung since the last time.
    pub fn answer_bell(&self) -> bool {
        self.is_awake.store(true, Ordering::Relaxed);
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// For the lane: it has nothing more to do and will wait to be woken; false when it was rung meanwhile.
    pub fn falls_asleep(&self) -> bool {
        self.is_awake.store(false, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    /// For the lane: the waker to wake when the bell rings.
    pub fn listen(&self, waker: &Waker) {
        self.bell.register(waker);
    }
}

/// Wakes one async turn of a lane, from any thread. Rows are used again: a wake too many is harmless.
pub(crate) struct TurnWaker {
    pub mailbox: Arc<Mailbox>,
    pub row: u32,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mailbox.woken.push(self.row);
        self.mailbox.ring();
    }
}
