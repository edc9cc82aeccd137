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
//! | `feed`, `chunk`, `apply` | records from sources to slots, and what they do there |
//! | `closing` | what falls due in a mass, a portion at a time |
//! | `alarms`, `reminding`, `idle` | what is due when; reminders; activations that leave |
//! | `cell` | the actix actor around it |
//!
//! No borrow of a table is held while a turn runs: a turn may call back into the lane.

mod alarms;
mod answers;
mod apply;
mod ask;
pub(crate) mod cell;
mod chunk;
mod closing;
mod commit;
mod decided;
mod deliver;
mod failed;
mod feed;
mod host;
mod idle;
mod limits;
mod reminding;
mod rollback;
mod run;
mod seal;
mod spare;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use granary_cluster::pace::{Backoff, Pace};
use granary_cluster::slot::Do;
use granary_cluster::slots::Slots;
use granary_cluster::{Pipeline, Script};
use granary_core::host::Host;
use granary_core::turn::TurnPool;
use granary_core::{Key, KindId, KindInfo, SlotId, Timestamp, id};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::mailbox::{Call, Mailbox, Word};
use crate::slot::SlotHost;
use crate::stats::LaneStats;
use crate::suspect::Suspect;
use crate::turns::Turns;

use alarms::{Alarm, Alarms, TICK_EVERY};
pub(crate) use deliver::refuse;
use feed::Feed;
use spare::Spare;

/// Calls handled in one round before the lane looks at everything else.
const CALLS_PER_ROUND: usize = 512;
/// Woken turns polled in one round.
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
}

impl Lane {
    /// A lane that holds the slots given to it, none of them taken yet.
    pub fn new(index: u16, config: Arc<Config>, lanes: Vec<Arc<Mailbox>>, suspect: Arc<Suspect>) -> Rc<Lane> {
        let mailbox = lanes[index as usize].clone();
        let now = config.clock.now();
        let route = Route::new(&config);
        let mine = |slot: u16| route.lane(SlotId(slot)) == index;
        let slots = (0..config.slots)
            .map(|slot| mine(slot).then(|| Rc::new(SlotHost::new(SlotId(slot), config.me, index))))
            .collect();
        let (interval_min, interval_max) = config.commit_interval;
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
            plain_needs: Cell::new(0),
            plain_of_record: Cell::new(false),
            polling: Cell::new(None),
            store_away_since: Cell::new(None),
            stop: RefCell::default(),
            is_stopping: Cell::new(false),
            is_finished: Cell::new(false),
            is_tick_due: Cell::new(false),
            cut_s: Cell::new(None),
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

    /// Takes its slots and opens its sources.
    pub fn begin(&self) {
        self.open_feeds();
        for host in self.slots.iter().flatten() {
            self.take(host);
        }
        self.set_alarm(self.now.get() + TICK_EVERY, Alarm::Tick);
        self.set_alarm(self.now.get() + self.config.sweep_every, Alarm::Sweep { slot: 0, from: 0 });
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
        more |= self.feed();
        self.undo_broken();
        if self.is_tick_due.take() {
            self.tick_slots(); // after the sources were read: now it is known which of them stand at their end
            self.undo_broken();
        }
        more |= self.carry_out();
        self.note_woken(); // a turn woken in this round is part of its slot's open commit
        self.seal_due();
        more |= self.carry_out();
        self.submit();
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
        while self.mailbox.calls.pop().is_some() {} // pushed between the two: nobody would look at it
    }

    fn look_at_clock(&self) {
        self.now.set(self.config.clock.now().max(self.now.get()));
    }

    fn hear_words(&self) -> bool {
        let mut heard = false;
        while let Some(word) = self.mailbox.words.pop() {
            heard = true;
            match word {
                Word::Scripted(slots, replies) => self.scripted(&slots, replies),
                Word::Look => self.look_at_sources(),
                Word::Stop(done) => {
                    self.is_stopping.set(true);
                    self.mailbox.is_closed.store(true, Ordering::Release);
                    *self.stop.borrow_mut() = Some(done);
                }
            }
        }
        heard
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
        for _ in 0..CALLS_PER_ROUND {
            let local = self.local.borrow_mut().pop_front();
            if let Some(host) = local.as_ref().and_then(|call| self.inside_of(call)) {
                host.settles();
            }
            let Some(call) = local.or_else(|| self.mailbox.calls.pop()) else { return false };
            if !self.mailbox.words.is_empty() {
                self.look_at_clock(); // a clock moved by hand before the call was made is seen by the call
            }
            self.deliver(call);
        }
        true
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

/// Which lane holds which slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    slots: u16,
    lanes: u16,
    group: u16,
}

impl Route {
    /// Slots fed by one partition share a lane where the sources allow it.
    pub fn new(config: &Config) -> Route {
        let slots = Slots::new(config.slots).expect("a cluster has at least one slot");
        let counts: Vec<u32> = config.sources.iter().filter(|s| s.in_place).map(|s| s.partitions).collect();
        let group = granary_cluster::slots::group(slots, config.lanes, &counts);
        Route { slots: config.slots, lanes: config.lanes, group }
    }

    /// The slot of a grain.
    pub fn slot(self, key: &Key) -> SlotId {
        id::slot_of(key.routing_key().as_bytes(), self.slots)
    }

    /// The lane of a slot.
    pub fn lane(self, slot: SlotId) -> u16 {
        granary_cluster::slots::lane_of(slot, self.lanes, self.group)
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
