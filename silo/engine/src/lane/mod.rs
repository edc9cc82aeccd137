//! One lane: its slots, and the loop that runs calls, turns, records and commits on them.
//!
//! | module | does |
//! |---|---|
//! | [`host`](self::host) | what a turn asks for: calls, emits, timers |
//! | `deliver`, `ask` | a call finds its activation, or waits; built-in grains answer |
//! | `run`, `failed`, `limits` | turns begin, wait and end; fail; last too long |
//! | `decided` | outputs and reminders of a turn join the commit in which it ends |
//! | `answers` | answers held until their commit, and kept under idempotency keys |
//! | `commit`, `seal`, `rollback`, `spare` | carries out what the slots' machines decide; seals; goes back; memory used again |
//! | `eager` | streams whose entries leave before their commit |
//! | `opening` | a slot is opened and runs |
//! | `moving` | slots are taken from other silos and given to them |
//! | `publish` | an external log: fencing, markers, transactions, trimming |
//! | `reads`, `reader` | rows, outboxes and cells from the store; the threads that read for the lane |
//! | `feed`, `chunk`, `keep`, `apply` | records from sources to slots, or kept for them, and what they do there |
//! | `clock` | steps that no record causes, and their journal |
//! | `closing` | what falls due in a mass, a portion at a time |
//! | `alarms`, `reminding`, `idle` | what is due when; reminders; activations that leave |
//! | `invariants` | what must hold of every slot |
//! | `route`, `rest` | which lane holds which slot; whether anything goes on |
//! | `show` | what probes and metrics see of the lane |
//! | `words` | what other threads tell the lane |
//! | `cell` | the actix actor around it |
//!
//! No borrow of a table is held while a turn runs: a turn may call back into the lane.

mod alarms;
mod answers;
mod apply;
mod ask;
pub(crate) mod cell;
mod chunk;
pub(crate) mod clock;
mod closing;
mod commit;
mod decided;
mod deliver;
mod eager;
mod failed;
mod feed;
mod host;
mod idle;
mod invariants;
pub(crate) mod keep;
mod limits;
pub(crate) mod moving;
mod opening;
mod publish;
mod reader;
mod reads;
mod reminding;
pub(crate) mod rest;
mod rollback;
mod route;
mod run;
mod seal;
mod show;
mod spare;
mod words;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use granary_cluster::members::View;
use granary_cluster::pace::{Backoff, Pace};
use granary_cluster::slot::Do;
use granary_cluster::{Pipeline, RunId, Script};
use granary_core::host::Host;
use granary_core::turn::TurnPool;
use granary_core::{KindId, KindInfo, SlotId, Timestamp};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::mailbox::{Call, Mailbox};
use crate::slot::SlotHost;
use crate::stats::LaneStats;
use crate::suspect::Suspect;
use crate::turns::Turns;

use alarms::{Alarm, Alarms, TICK_EVERY};
pub(crate) use deliver::refuse;
use feed::Feed;
use publish::{Publisher, RENEW_EVERY};
use reader::Reader;
use reads::Fetched;
pub(crate) use route::Route;
use route::panic_message;
use spare::Spare;

/// Calls handled in one round.
const CALLS_PER_ROUND: usize = 512;
/// Woken turns polled in one.
const POLLS_PER_ROUND: usize = 512;
/// Calls between grains of one lane that may be on their way; one more is `Overloaded`.
const LOCAL_CALLS_MAX: usize = 65_536;

/// One lane.
pub(crate) struct Lane {
    me: OnceCell<Weak<Lane>>,
    index: u16,
    config: Arc<Config>,
    route: Route,
    /// All lanes of the silo, this one too.
    lanes: Vec<Arc<Mailbox>>,
    suspect: Arc<Suspect>,
    mailbox: Arc<Mailbox>,
    /// By slot number; empty for slots of other lanes.
    slots: Vec<Option<Rc<SlotHost>>>,
    kinds: Vec<&'static KindInfo>,
    pipeline: RefCell<Box<dyn Pipeline>>,
    feeds: RefCell<Vec<Feed>>,
    turns: RefCell<Turns>,
    pool: RefCell<TurnPool>,
    /// Calls between grains of this lane.
    local: RefCell<VecDeque<Call>>,
    /// Turns that were woken and have not gone on, with their slots.
    ready: RefCell<VecDeque<(u32, Rc<SlotHost>)>>,
    /// Activations that have calls waiting and may have room for them.
    pumps: RefCell<VecDeque<(SlotId, u32)>>,
    alarms: RefCell<Alarms>,
    /// What the machines decided and is not carried out yet.
    decided: RefCell<Vec<(SlotId, Do)>>,
    scripts: RefCell<Vec<Script>>,
    spare: RefCell<Spare>,
    pace: RefCell<Pace>,
    last_seal: Cell<Instant>,
    store_backoff: RefCell<Backoff>,
    now: Cell<Timestamp>,
    started: Timestamp,
    /// With an external log: its producer, and threads for long reads of the store and for very long ones.
    publisher: Option<RefCell<Publisher>>,
    reader: Option<Reader>,
    scanner: Option<Reader>,
    run_seen: Cell<RunId>,
    /// No slot begins to leave before.
    leaves_next: Cell<Timestamp>,
    /// The cluster as last heard of.
    view: RefCell<Option<Arc<View>>>,
    /// Calls taken out of the inbox and not delivered, and what was looked up for them.
    arrived: RefCell<VecDeque<Call>>,
    fetched: RefCell<Fetched>,
    no_reads_before: Cell<Option<Instant>>,
    /// A record that lacks cells may come back for them to be looked up with others.
    may_lack: Cell<bool>,
    /// The commit an emit of the running plain turn belongs to; 0 when it emitted nothing.
    plain_needs: Cell<u64>,
    /// The running plain turn is one of a record, or of a call that such a turn made.
    plain_of_record: Cell<bool>,
    /// The async turn that is being polled.
    polling: Cell<Option<u32>>,
    /// Since when the store has not answered.
    store_away_since: Cell<Option<Timestamp>>,
    stop: RefCell<Option<oneshot::Sender<()>>>,
    is_stopping: Cell<bool>,
    is_finished: Cell<bool>,
    /// Silent keys are to be looked for.
    is_tick_due: Cell<bool>,
    /// Memory is short: clean activations idle for so many seconds leave.
    cut_s: Cell<Option<u64>>,
    /// Slots for which records are kept, and how much memory those take.
    keeping: RefCell<Vec<SlotId>>,
    kept_bytes: Cell<usize>,
    /// When the next pass over all tables begins; `None` while one is under way.
    sweep_at: Cell<Option<Timestamp>>,
}

impl Lane {
    /// A lane that holds the slots given to it, none of them taken yet.
    pub fn new(index: u16, config: Arc<Config>, lanes: Vec<Arc<Mailbox>>, suspect: Arc<Suspect>) -> Rc<Lane> {
        let mailbox = lanes[index as usize].clone();
        let now = config.clock.now();
        let route = Route::new(&config);
        let mine = |slot: u16| route.lane(SlotId(slot)) == index;
        let slots = (0..config.slots)
            .map(|slot| mine(slot).then(|| Rc::new(SlotHost::new(SlotId(slot), index, &config))))
            .collect();
        let (interval_min, interval_max) = config.commit_interval;
        let start_reader = |of: &str| {
            let name = format!("{}-{of}-{index}", config.silo);
            let is_external = config.producer.is_some();
            is_external.then(|| Reader::start(name, config.store.clone(), mailbox.clone()))
        };
        let lane = Rc::new(Lane {
            me: OnceCell::new(),
            index,
            kinds: config.kinds.clone(),
            pipeline: RefCell::new((config.pipeline)()),
            feeds: RefCell::default(),
            turns: RefCell::new(Turns::new(mailbox.clone())),
            pool: RefCell::default(),
            local: RefCell::default(),
            ready: RefCell::default(),
            pumps: RefCell::default(),
            alarms: RefCell::default(),
            decided: RefCell::default(),
            scripts: RefCell::default(),
            spare: RefCell::default(),
            pace: RefCell::new(Pace::new(interval_min.into(), interval_max.into())),
            last_seal: Cell::new(Instant::now()),
            store_backoff: RefCell::default(),
            now: Cell::new(now),
            started: now,
            publisher: publish::publisher_of(&config, index),
            reader: start_reader("reads"),
            scanner: start_reader("scans"),
            run_seen: Cell::new(config.store.run()),
            leaves_next: Cell::new(Timestamp::MIN),
            view: RefCell::default(),
            arrived: RefCell::default(),
            fetched: RefCell::default(),
            no_reads_before: Cell::new(None),
            may_lack: Cell::new(false),
            plain_needs: Cell::new(0),
            plain_of_record: Cell::new(false),
            polling: Cell::new(None),
            store_away_since: Cell::new(None),
            stop: RefCell::default(),
            is_stopping: Cell::new(false),
            is_finished: Cell::new(false),
            is_tick_due: Cell::new(false),
            cut_s: Cell::new(None),
            keeping: RefCell::default(),
            kept_bytes: Cell::new(0),
            sweep_at: Cell::new(None),
            config,
            route,
            lanes,
            suspect,
            mailbox,
            slots,
        });
        lane.me.set(Rc::downgrade(&lane)).expect("set once, here");
        lane
    }

    /// Opens its sources and takes its slots; in a cluster when it is told which they are.
    pub fn begin(&self) {
        self.open_feeds();
        if self.publisher.is_some() {
            self.init_producer();
            self.set_alarm(self.now.get() + RENEW_EVERY, Alarm::RenewMarkers);
        }
        if self.config.cluster.is_none() {
            for host in self.slots.iter().flatten() {
                self.take(host);
            }
        }
        self.show();
        self.set_alarm(self.now.get() + TICK_EVERY, Alarm::Tick);
        self.sweep_at.set(Some(self.now.get() + self.config.sweep_every));
    }

    /// One round of everything; true when there is more to do at once.
    pub fn round(&self) -> bool {
        self.look_at_clock();
        let mut more = self.hear_words();
        more |= self.carry_out();
        self.ring_alarms();
        more |= self.poll_woken();
        more |= self.take_calls();
        more |= self.pump_all();
        self.undo_broken();
        self.close_due();
        self.replay_clock();
        more |= self.feed();
        self.undo_broken();
        if self.is_tick_due.take() {
            self.tick_slots(); // after the sources were read: now it is known which of them stand at their end
            self.undo_broken();
        }
        more |= self.carry_out();
        self.publish_eagerly();
        self.note_woken(); // a turn woken in this round is part of its slot's open commit
        self.seal_due();
        self.give_quiet();
        more |= self.carry_out();
        self.submit();
        self.publish();
        self.try_stop();
        more |= self.next_closing().is_some();
        let is_stirring = !self.ready.borrow().is_empty() || !self.pumps.borrow().is_empty();
        more || is_stirring || !self.local.borrow().is_empty()
    }

    /// The lane ends as if the process had: what waits gets no answer, and nothing keeps the lane in memory.
    pub fn end(&self) {
        let turns = self.turns.borrow_mut().clear();
        drop(turns);
        self.local.borrow_mut().clear();
        self.alarms.take();
        self.arrived.take();
        while self.mailbox.calls.pop().is_some() {}
        for host in self.slots.iter().flatten() {
            let activations = host.table.take();
            drop(activations);
            let mut inner = host.inner.borrow_mut();
            inner.backlog.clear();
            inner.held = crate::answers::Answers::default();
            inner.keyed = crate::keyed::Keyed::default();
        }
        self.mailbox.is_over.store(true, Ordering::Release);
        while self.mailbox.rests.pop().is_some() {}
        while self.mailbox.calls.pop().is_some() {} // pushed between the two: nobody would look at it
    }

    fn look_at_clock(&self) {
        self.now.set(self.config.clock.now().max(self.now.get()));
        self.mailbox.beat.store(self.now.get().0, Ordering::Relaxed);
    }

    fn poll_woken(&self) -> bool {
        for _ in 0..POLLS_PER_ROUND {
            self.note_woken();
            let next = self.ready.borrow_mut().pop_front();
            let Some((turn, host)) = next else { return false };
            host.settles();
            self.poll_turn(turn);
        }
        true
    }

    /// Turns that were woken stir their slots until they have gone on.
    fn note_woken(&self) {
        while let Some(no) = self.mailbox.woken.pop() {
            let slot = self.turns.borrow_mut().get(no).map(|row| row.slot.clone());
            if let Some(host) = slot {
                host.stirs();
                self.ready.borrow_mut().push_back((no, host));
            }
        }
    }

    /// Puts a call of a grain of this lane on its way.
    fn send_here(&self, call: Call) {
        if let Some(host) = self.inside_of(&call) {
            host.stirs();
        }
        self.local.borrow_mut().push_back(call);
    }

    /// The slot inside of which this call was made.
    fn inside_of(&self, call: &Call) -> Option<&Rc<SlotHost>> {
        let Call::Letter { slot, envelope, .. } = call else { return None };
        envelope.options().inside.and_then(|_| self.slots.get(slot.0 as usize)?.as_ref())
    }

    fn take_calls(&self) -> bool {
        if self.config.store_is_remote {
            self.fetch_for_calls();
        }
        let more = self.deliver_calls();
        self.fetched.borrow_mut().clear();
        more
    }

    fn deliver_calls(&self) -> bool {
        for _ in 0..CALLS_PER_ROUND {
            let local = self.local.borrow_mut().pop_front();
            if let Some(host) = local.as_ref().and_then(|call| self.inside_of(call)) {
                host.settles();
            }
            let Some(call) = local.or_else(|| self.next_call()) else {
                return !self.mailbox.calls.is_empty();
            };
            if !self.mailbox.words.is_empty() {
                self.look_at_clock(); // a clock moved by hand before the call was made is seen by the call
            }
            self.deliver(call);
        }
        true
    }

    /// The next call from outside. With a remote store only those whose cells were looked up: the next round takes others.
    fn next_call(&self) -> Option<Call> {
        if self.config.store_is_remote {
            return self.arrived.borrow_mut().pop_front();
        }
        self.mailbox.calls.pop()
    }

    fn pump_all(&self) -> bool {
        for _ in 0..CALLS_PER_ROUND {
            let next = self.pumps.borrow_mut().pop_front();
            let Some((slot, row)) = next else { return false };
            if let Some(host) = self.slot(slot) {
                host.settles();
                self.pump(&host, row);
            }
        }
        true
    }

    /// An activation has calls waiting and may have room for them.
    fn pump_soon(&self, host: &SlotHost, row: u32) {
        host.stirs();
        self.pumps.borrow_mut().push_back((host.id, row));
    }

    /// The slot, if this lane holds it.
    fn slot(&self, slot: SlotId) -> Option<Rc<SlotHost>> {
        self.slots.get(slot.0 as usize)?.clone()
    }

    /// What this lane knows of a kind, if it hosts it.
    fn kind(&self, kind: KindId) -> Option<&'static KindInfo> {
        self.kind_no(kind).map(|no| self.kinds[usize::from(no)])
    }

    /// The number this lane gave to a kind.
    fn kind_no(&self, kind: KindId) -> Option<u16> {
        self.kinds.iter().position(|info| info.id == kind).map(|i| i as u16)
    }

    fn host(&self) -> Rc<dyn Host> {
        self.me.get().and_then(Weak::upgrade).expect("a lane is alive while it runs")
    }

    /// Seconds since the lane began, for idleness.
    fn seconds(&self) -> u32 {
        u32::try_from(self.now.get().since(self.started).ms() / 1_000).unwrap_or(u32::MAX)
    }

    fn count(&self, counter: impl Fn(&LaneStats) -> &std::sync::atomic::AtomicU64) {
        LaneStats::add(counter(&self.mailbox.stats), 1);
    }
}
