//! Clients: they call whichever silo they believe to have a slot, and judge the answers.

use granary_cluster::slot::Phase;

use crate::check::Check;
use crate::reads::Floor;
use crate::scenario::Mistake;
use crate::silo::{Answer, Life};

use super::Cluster;
use super::event::{Event, Turn};
use super::shell::Here;
use super::time::MS;

/// Between two calls, at most.
const CALL_EVERY_MAX: u64 = 150;
/// A turn that reads takes so long at most.
const TURN_MAX: u64 = 4_000;

impl Cluster {
    /// A client makes a call; the next one follows.
    pub(super) fn client(&mut self) {
        let again = self.world.random.between(5, CALL_EVERY_MAX) as i64 * MS;
        self.queue.put(self.now + again, Event::Client);
        let slot = self.world.random.below(u64::from(self.plan.scenario.slots)) as usize;
        let holds = |silo: &usize| self.world.silos[*silo].seats[slot].slot.phase() == Phase::Run;
        let alive: Vec<usize> = self.alive().collect();
        let holders: Vec<usize> = alive.iter().copied().filter(holds).collect();
        let among = if holders.is_empty() { alive } else { holders };
        if among.is_empty() {
            return;
        }
        let random = &mut self.world.random;
        let silo = among[random.below(among.len() as u64) as usize];
        let writes = random.once_in(2);
        let floor = self.world.checks[slot].reads.invoke();
        let at = self.now + self.delay();
        self.queue.put(at, Event::Call { silo, slot, writes, floor });
    }

    /// A call arrives. What the silo does not have it refuses, and the client asks elsewhere.
    pub(super) fn call(&mut self, silo: usize, slot: usize, writes: bool, floor: Floor) -> Check {
        let seat = &self.world.silos[silo].seats[slot];
        let takes = self.shells[silo].places[slot].here == Here::Yes && seat.slot.may_apply();
        if !takes || !(seat.memory.has_for_call() || self.can_load(silo, slot)) {
            return Ok(());
        }
        self.world.calls += 1;
        let call = self.world.calls;
        let row = self.world.loadable(silo, slot).cloned();
        let seat = &mut self.world.silos[silo].seats[slot];
        let seen = if writes { seat.memory.call(row.as_ref(), call) } else { seat.memory.seen(row.as_ref()) };
        let Ok(seen) = seen else { return Ok(()) };
        let unsealed = writes || seat.memory.is_dirty();
        let needs = if unsealed { seat.slot.open_commit() } else { seat.slot.sealed() };
        let answer = Answer { call: writes.then_some(call), seen, floor };
        if writes {
            return self.hold(silo, slot, needs, answer);
        }
        let turn = Turn { slot, opening: seat.openings, needs, answer };
        self.shells[silo].turns[slot] += 1;
        let at = self.now + self.world.random.below(TURN_MAX) as i64;
        self.queue.put(at, Event::TurnEnds { silo, turn });
        Ok(())
    }

    fn hold(&mut self, silo: usize, slot: usize, n: granary_cluster::CommitNo, answer: Answer) -> Check {
        let held = &mut self.world.silos[silo].seats[slot].held;
        held.hold(n, false, answer).map_err(|_| "a slot holds too many replies".to_owned())
    }

    /// A turn that has read ends: only now the lease is looked at.
    pub(super) fn turn_ends(&mut self, silo: usize, turn: Turn) -> Check {
        let Turn { slot, opening, needs, answer } = turn;
        self.shells[silo].turns[slot] -= 1;
        let seat = &self.world.silos[silo].seats[slot];
        if seat.openings != opening || !matches!(seat.slot.phase(), Phase::Run | Phase::Give) {
            return Ok(()); // dropped with the slot
        }
        if needs > seat.slot.n() {
            return self.hold(silo, slot, needs, answer);
        }
        if !self.lease_holds(silo) && !self.has(Mistake::ReadPastLease) {
            self.walked("read refused: lease over");
            return Ok(());
        }
        self.world.leave(silo, slot, &answer)
    }

    /// Whether reads may be answered by the silo's own clock.
    pub(super) fn lease_holds(&self, silo: usize) -> bool {
        self.clock(silo) < self.shells[silo].lease_until
    }

    /// A slot is open: nobody else may answer for it any more. A silo that has not heard that the store lost writes may
    /// still: what it shows is judged where it answers.
    pub(super) fn check_alone(&self, silo: usize, slot: usize) -> Check {
        let is_owner = |at: usize| {
            let (own, record) = (&self.world.silos[at], &self.world.store.rows[slot].record);
            (record.owner, record.epoch) == (own.me, own.seats[slot].slot.epoch())
        };
        if !is_owner(silo) {
            return Ok(()); // overtaken on its way; it will hear
        }
        for other in (0..self.shells.len()).filter(|other| *other != silo) {
            let own = &self.world.silos[other];
            let seat = &own.seats[slot];
            let answers = own.life == Life::Up
                && seat.slot.phase() == Phase::Run
                && seat.slot.run() == self.world.store.run
                && self.shells[other].places[slot].here == Here::Yes
                && self.lease_holds(other);
            if answers && !self.has(Mistake::ReadPastLease) {
                return Err(format!(
                    "slot {slot}: silo {} has it open, and silo {} may answer reads of it",
                    self.world.silos[silo].me, own.me
                ));
            }
        }
        Ok(())
    }
}
