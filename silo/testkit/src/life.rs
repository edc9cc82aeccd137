//! One life of a silo: its lanes, its place in the member table, and what a test does to it.

use std::sync::Arc;

use granary_cluster::members::{Change, Do, Membership, Out, Table, Terms, View};
use granary_cluster::{Incarnation, RunId, Store as _};
use granary_core::{Clock, HandClock, Result, Span, Timestamp};
use granary_engine::{Cluster, Config, Engine, Handle, Lease, Peers};
use granary_store::Memory;
use tokio::sync::watch;

use crate::clock::{Gate, SiloClock};
use crate::faults::Faults;
use crate::outputs::Parts;

/// A slot that its owner does not give is taken after so long, or three leases.
const TAKE_AFTER: Span = Span(20_000);
/// Silos hear of a change with their next renewal, and some time for its way; only then are slots given.
const GIVE_MARGIN: Span = Span(50);

/// What lives are made of.
pub(crate) struct Mold {
    pub parts: Parts,
    pub memory: Arc<Memory>,
    pub clock: HandClock,
    pub lease: Span,
}

/// One life of a silo.
pub(crate) struct Life {
    pub me: Incarnation,
    pub handle: Handle,
    pub faults: Arc<Faults>,
    engine: Option<Engine>,
    gate: Arc<Gate>,
    lease: Arc<Lease>,
    machine: Membership,
    /// Comes true when it ends: nothing it still says counts.
    over: watch::Sender<bool>,
    /// It stands still, as a stopped process does.
    pub is_paused: bool,
    /// It does not reach the store.
    pub is_cut_off: bool,
}

impl Mold {
    /// Begins a life. Its lanes run; it has asked nobody for anything.
    pub fn live(&self, name: &str, me: Incarnation, peers: Arc<dyn Peers>) -> Result<Life> {
        let faults = Faults::of(self.memory.clone());
        let gate = Arc::new(Gate::default());
        let clock = Arc::new(SiloClock { hand: self.clock.clone(), gate: gate.clone() });
        let terms = Terms::of(self.lease);
        let mut config = Config::new(faults.clone(), clock, self.parts.kinds.clone());
        config.silo = name.to_owned();
        config.me = me;
        config.slots = self.parts.slots;
        config.lanes = self.parts.lanes;
        config.commit_interval = (Span::ZERO, Span::ZERO);
        let lease = Lease::none();
        let give_after = Span(terms.renew_every.ms() + GIVE_MARGIN.ms());
        let take_after = TAKE_AFTER.max(Span(3 * self.lease.ms()));
        config.cluster = Some(Cluster { lease: lease.clone(), peers, give_after, take_after });
        self.parts.furnish(&mut config, &self.memory)?;
        let engine = Engine::start(config)?;
        let machine = Membership::new(me, name, name, terms, self.clock.now());
        let (over, _) = watch::channel(false);
        Ok(Life {
            me,
            handle: engine.handle(),
            faults,
            engine: Some(engine),
            gate,
            lease,
            machine,
            over,
            is_paused: false,
            is_cut_off: false,
        })
    }
}

impl Life {
    /// Hears when it is over.
    pub fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// Whether it can do anything for its place in the cluster.
    pub fn is_well(&self) -> bool {
        !self.is_paused && !self.is_cut_off
    }

    /// The membership as it knows it.
    pub fn table(&self) -> &Table {
        self.machine.table()
    }

    /// When its membership wants to be looked at.
    pub fn wakes_at(&self) -> Timestamp {
        if self.is_paused { Timestamp::MAX } else { self.machine.wakes_at() }
    }

    /// Its membership goes on as far as it does at this time. Why it is over, if it is.
    pub fn tick(&mut self, now: Timestamp, members: &mut Table) -> Option<Out> {
        if self.is_paused {
            return None;
        }
        let (mut todo, mut out) = (Vec::new(), None);
        self.machine.tick(now, &mut todo);
        while !todo.is_empty() {
            for what in std::mem::take(&mut todo) {
                match what {
                    Do::Ask(change) => self.ask(&change, now, members, &mut todo),
                    Do::Members(table) => self.see(table),
                    // the lease itself tells the lanes; the log is never away
                    Do::LeaseOver | Do::LeaseBack | Do::Unfit => {}
                    Do::Out(why) => out = Some(why),
                }
            }
        }
        out
    }

    fn ask(&mut self, change: &Change, now: Timestamp, members: &mut Table, todo: &mut Vec<Do>) {
        if self.is_cut_off {
            return self.machine.unanswered(now);
        }
        let done = members.apply(change);
        self.machine.answered(done, members.clone(), now, todo);
        if let Some(until) = self.machine.lease_until() {
            self.lease.set(until, self.faults.run());
        }
    }

    /// Its lanes hear of the members.
    pub fn see(&self, table: Table) {
        self.handle.see(&Arc::new(View::new(table, self.handle.slots())));
    }

    /// It takes no more slots and gives those it has.
    pub fn leave(&mut self, now: Timestamp) {
        self.machine.leave(now);
    }

    /// It has no more slots, and goes.
    pub fn go(&mut self, now: Timestamp) {
        self.machine.go(now);
    }

    pub fn pause(&mut self) {
        self.is_paused = true;
        self.gate.shut();
    }

    pub fn resume(&mut self) {
        self.is_paused = false;
        self.gate.open();
    }

    pub fn set_cut_off(&mut self, is_cut_off: bool) {
        self.is_cut_off = is_cut_off;
        self.faults.set_away(is_cut_off);
    }

    /// Its lanes, to be stopped in order.
    pub fn take_engine(&mut self) -> Option<Engine> {
        self.engine.take()
    }

    /// Nothing it does from now on is seen by anybody.
    pub fn end(&self) {
        self.over.send_replace(true);
        self.faults.cut_off();
        self.lease.set(Timestamp::MIN, RunId(0));
        self.gate.open(); // its threads have to end
    }
}

/// Without [`Life::take_engine`] it ends as a killed process does.
impl Drop for Life {
    fn drop(&mut self) {
        if self.engine.is_some() {
            self.end();
        }
    }
}
