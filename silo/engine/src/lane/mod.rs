//! One lane: its slots, and the loop that runs calls, turns, records and commits on them.
//!
//! | module | does |
//! |---|---|
//! | [`host`](self::host) | what a turn asks for: calls, emits, timers |
//! | `deliver` | a call finds its activation, or waits |
//! | `run` | turns begin, wait and end |
//! | `commit` | carries out what the slots' machines decide; seals |
//! | `feed` | records from sources to slots |
//! | `time` | alarms, reminders, idle activations, turns that last too long |
//! | `cell` | the actix actor around it |
//!
//! No borrow of a table is held while a turn runs: a turn may call back into the lane.

pub(crate) mod cell;
mod commit;
mod deliver;
mod feed;
mod host;
mod run;
mod time;

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
use crate::turns::Turns;

pub(crate) use deliver::refuse;
use feed::Feed;
use time::Alarms;

/// Calls handled in one round before the lane looks at everything else.
const CALLS_PER_ROUND: usize = 512;
/// Woken turns polled in one round.
const POLLS_PER_ROUND: usize = 512;

/// One lane.
pub(crate) struct Lane {
    me: OnceCell<Weak<Lane>>,
    index: u16,
    config: Arc<Config>,
    route: Route,
    /// All lanes of the silo, this one too.
    lanes: Vec<Arc<Mailbox>>,
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
    /// Activations that have calls waiting and may have room for them.
    pumps: RefCell<VecDeque<(SlotId, u32)>>,
    alarms: RefCell<Alarms>,
    /// What the machines decided and is not carried out yet.
    decided: RefCell<Vec<(SlotId, Do)>>,
    scripts: RefCell<Vec<Script>>,
    pace: RefCell<Pace>,
    last_seal: Cell<Instant>,
    store_backoff: RefCell<Backoff>,
    now: Cell<Timestamp>,
    started: Timestamp,
    /// The commit an emit of the running plain turn belongs to; 0 when it emitted nothing.
    plain_needs: Cell<u64>,
    /// The running plain turn asked for its activation to leave.
    plain_leaves: Cell<bool>,
    stop: RefCell<Option<oneshot::Sender<()>>>,
    is_stopping: Cell<bool>,
    is_finished: Cell<bool>,
    /// Memory is short: clean activations idle for so many seconds leave.
    cut_s: Cell<Option<u64>>,
}

impl Lane {
    /// A lane that holds the slots given to it, none of them taken yet.
    pub fn new(index: u16, config: Arc<Config>, lanes: Vec<Arc<Mailbox>>) -> Rc<Lane> {
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
            pumps: RefCell::default(),
            alarms: RefCell::default(),
            decided: RefCell::default(),
            scripts: RefCell::default(),
            pace: RefCell::new(Pace::new(interval_min.into(), interval_max.into())),
            last_seal: Cell::new(Instant::now()),
            store_backoff: RefCell::default(),
            now: Cell::new(now),
            started: now,
            plain_needs: Cell::new(0),
            plain_leaves: Cell::new(false),
            stop: RefCell::default(),
            is_stopping: Cell::new(false),
            is_finished: Cell::new(false),
            cut_s: Cell::new(None),
            config,
            route,
            lanes,
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
        self.set_alarm(self.now.get() + time::TICK_EVERY, time::Alarm::Tick);
        self.set_alarm(self.now.get() + self.config.sweep_every, time::Alarm::Sweep { slot: 0, from: 0 });
    }

    /// One round of everything; true when there is more to do at once.
    pub fn round(&self) -> bool {
        self.now.set(self.config.clock.now().max(self.now.get()));
        self.mailbox.now_ms.store(self.now.get().ms().unsigned_abs(), Ordering::Relaxed);
        let mut more = self.hear_words();
        more |= self.carry_out();
        self.ring_alarms();
        more |= self.poll_woken();
        more |= self.take_calls();
        more |= self.pump_all();
        self.undo_broken();
        more |= self.feed();
        self.undo_broken();
        more |= self.carry_out();
        self.seal_due();
        more |= self.carry_out();
        self.submit();
        self.try_stop();
        more
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
            let Some(turn) = self.mailbox.woken.pop() else { return false };
            self.poll_turn(turn);
        }
        !self.mailbox.woken.is_empty()
    }

    fn take_calls(&self) -> bool {
        for _ in 0..CALLS_PER_ROUND {
            let local = self.local.borrow_mut().pop_front();
            let Some(call) = local.or_else(|| self.mailbox.calls.pop()) else { return false };
            self.deliver(call);
        }
        true
    }

    fn pump_all(&self) -> bool {
        for _ in 0..CALLS_PER_ROUND {
            let next = self.pumps.borrow_mut().pop_front();
            let Some((slot, row)) = next else { return false };
            if let Some(host) = self.slot(slot) {
                self.pump(&host, row);
            }
        }
        true
    }

    /// The slot, if this lane holds it.
    fn slot(&self, slot: SlotId) -> Option<Rc<SlotHost>> {
        self.slots.get(slot.0 as usize)?.clone()
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
