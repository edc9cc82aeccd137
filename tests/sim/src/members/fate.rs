//! Silos start, end, stop, leave; the store goes away, falls back, or takes its clock for the time.

use granary_cluster::members::{Change, Membership, Terms};
use granary_cluster::{Generation, Incarnation, Program, RevisionNo};
use granary_core::SlotId;

use crate::check::Check;
use crate::silo::Life;

use super::Cluster;
use super::event::Event;
use super::plan::{DRIFT_MAX, Fault, LEASE, LOG_AWAY_MAX};
use super::shell::Shell;
use super::time::{Clock, MS, Micros, SECOND};

/// How long a silo that leaves waits for its slots to be taken.
const LEAVE_MAX: Micros = 4 * SECOND;
/// A silo that leaves looks so often.
const LEAVE_LOOK_EVERY: Micros = 40 * MS;
/// How long it waits for the table to hear that it went.
const GO_MAX: Micros = SECOND / 2;
/// A broken connection is noticed within so many milliseconds, even if nothing is to be said.
const NOTICE_WITHIN: u64 = 1_500;
/// What could not start tries again after this.
const START_AGAIN_AFTER: Micros = SECOND / 2;

impl Cluster {
    /// A new life.
    pub(super) fn start(&mut self, name: usize, address: u64) {
        if self.now < self.store_away_until {
            self.queue.put(self.now + START_AGAIN_AFTER, Event::Start { name, address });
            return;
        }
        let generation = Generation(1 + u64::from(self.plan.upgrade_at.is_some_and(|at| self.now >= at)));
        self.world.start_silo_of(Program { generation, revision: RevisionNo(generation.0) });
        let silo = self.shells.len();
        let random = &mut self.world.random;
        let drift = random.below(2 * DRIFT_MAX as u64 + 1) as i64 - DRIFT_MAX;
        let clock = Clock { start: random.below(1 << 40) as i64, drift };
        let me = Incarnation(silo as u64 + 1);
        let terms = Terms::of(LEASE).log_away_max(LOG_AWAY_MAX);
        let (told, at) = (format!("silo-{name}"), address.to_string());
        let membership = Membership::new(me, &told, &at, terms, clock.at(self.now)).of(generation);
        let (slots, run) = (self.plan.scenario.slots, self.world.store.run);
        self.shells.push(Shell::new(name, address, clock, membership, slots, run));
        self.appoint(silo);
    }

    fn new_address(&mut self) -> u64 {
        self.sent += 1;
        1_000 + self.sent
    }

    fn pick(&self, silo: u64) -> Option<usize> {
        let alive: Vec<usize> = self.alive().collect();
        let at = silo.checked_rem(alive.len() as u64)?;
        alive.get(at as usize).copied()
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Check {
        let calm_at = self.plan.calm_at;
        let until = |now: Micros, lasts: Micros| (now + lasts).min(calm_at);
        let now = self.now;
        match fault {
            Fault::Crash { silo, away, moves } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                let (name, old) = (self.shells[silo].name, self.shells[silo].address);
                let address = if moves { self.new_address() } else { old };
                self.queue.put(until(now, away), Event::Start { name, address });
                return self.end_process(silo);
            }
            Fault::Pause { silo, lasts } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                self.shells[silo].paused_until = until(now, lasts);
            }
            Fault::CutStore { silo, lasts } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                self.shells[silo].cut_store_until = until(now, lasts);
            }
            Fault::CutLog { silo, lasts } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                self.shells[silo].cut_log_until = until(now, lasts);
            }
            Fault::LoseLog { silo } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                self.shells[silo].cut_log_until = Micros::MAX;
            }
            Fault::Move { slot, silo } => {
                let slot = SlotId((slot % u64::from(self.plan.scenario.slots)) as u16);
                let to = silo.and_then(|silo| self.pick(silo));
                let to = to.map(|silo| format!("silo-{}", self.shells[silo].name));
                if self.table.apply(&Change::Move { slot, to }) {
                    self.walked("moved by hand");
                }
            }
            Fault::StoreAway { lasts } => self.store_away_until = until(now, lasts),
            Fault::Failover { lag, away } => {
                if self.replica.is_none() {
                    self.replica = Some((self.world.store.rows.clone(), self.table.clone()));
                    self.queue.put(until(now, lag), Event::Failover { away });
                }
            }
            Fault::StoreClock { by_ms } => self.store_clock_ahead += by_ms,
            Fault::Join => {
                let (name, address) = (self.names, self.new_address());
                self.names += 1;
                self.queue.put(now, Event::Start { name, address });
            }
            Fault::Leave { silo } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                let at = self.clock(silo);
                self.shells[silo].leaves_since.get_or_insert(now);
                self.shells[silo].membership.leave(at);
                self.appoint(silo);
                self.queue.put(now + LEAVE_LOOK_EVERY, Event::LeaveLook(silo));
            }
            Fault::Twin { silo } => {
                let Some(silo) = self.pick(silo) else { return Ok(()) };
                let (name, address) = (self.shells[silo].name, self.new_address());
                self.queue.put(now, Event::Start { name, address });
            }
        }
        Ok(())
    }

    /// A process ends with all it has in memory.
    fn end_process(&mut self, silo: usize) -> Check {
        self.shells[silo].is_member = false;
        self.stop_lanes(silo)
    }

    fn stop_lanes(&mut self, silo: usize) -> Check {
        if self.world.silos[silo].life == Life::Up {
            self.world.crash(silo)?;
        }
        Ok(())
    }

    /// A silo that is no member any more.
    pub(super) fn drop_all(&mut self, silo: usize, comes_back: bool) -> Check {
        let (name, address) = (self.shells[silo].name, self.shells[silo].address);
        if comes_back && self.shells[silo].leaves_since.is_none() {
            let at = self.now + self.world.random.between(20, 300) as i64 * MS;
            self.queue.put(at, Event::Start { name, address });
        }
        self.end_process(silo)
    }

    /// A silo that leaves: when it has given everything, or waited long enough, it ends its lanes and goes.
    pub(super) fn leave_look(&mut self, silo: usize) -> Check {
        let Some(since) = self.shells[silo].leaves_since else { return Ok(()) };
        if !self.runs(silo) {
            // the table has not answered: it is declared dead after a lease
            self.shells[silo].is_member = false;
            return Ok(());
        }
        let holds = self.shells[silo].flights.len() + self.held(silo);
        let has_no_share = self.shells[silo]
            .view
            .as_ref()
            .is_some_and(|view| view.placement.slots_of(self.world.silos[silo].me).next().is_none());
        let is_last = self.shells[silo].view.as_ref().is_some_and(|view| view.table.members.len() <= 1);
        let is_over = has_no_share && (holds == 0 || is_last) || self.now - since >= LEAVE_MAX;
        if !is_over {
            self.queue.put(self.now + LEAVE_LOOK_EVERY, Event::LeaveLook(silo));
            return Ok(());
        }
        self.walked("left");
        self.stop_lanes(silo)?;
        let now = self.clock(silo);
        self.shells[silo].membership.go(now);
        self.appoint(silo);
        self.queue.put(self.now + GO_MAX, Event::LeaveLook(silo));
        Ok(())
    }

    fn held(&self, silo: usize) -> usize {
        let seats = &self.world.silos[silo].seats;
        seats.iter().filter(|seat| seat.slot.phase() != granary_cluster::slot::Phase::Off).count()
    }

    /// The replica takes over: what came after it fell behind is lost.
    pub(super) fn fail_over(&mut self, away: Micros) -> Check {
        let Some((rows, table)) = self.replica.take() else { return Ok(()) };
        let before = self.world.store.rows.clone();
        if before != rows || self.table != table {
            self.walked("failover with loss");
        }
        self.world.store.fail_over(rows);
        self.table = table;
        self.store_away_until = self.store_away_until.max((self.now + away).min(self.plan.calm_at));
        self.world.rolled_back(&before)?;
        // connections are broken, and who has nothing to say notices late
        let alive: Vec<usize> = self.alive().collect();
        for silo in alive {
            let within = self.world.random.below(NOTICE_WITHIN) as i64 * MS;
            self.queue.put(self.now + within, Event::Reconnect(silo));
        }
        Ok(())
    }

    /// Nothing goes wrong any more. If everybody has gone, somebody comes.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.answered_before =
            self.world.checks.iter().map(|checks| (checks.reads.reads, checks.reads.writes)).collect();
        let (name, address) = (self.names, self.new_address());
        self.names += 1;
        self.queue.put(self.now, Event::Start { name, address });
    }
}
