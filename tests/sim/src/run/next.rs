//! Everything that can happen next: ordinary steps, and faults while there are to be some.

use granary_cluster::slot::Phase;
use granary_core::SlotId;

use super::Run;
use crate::lane::End;
use crate::scenario::Mistake;
use crate::silo::{Life, What};
use crate::step::{Loss, Step};

impl Run {
    pub(super) fn network_steps(&self, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
        let world = &self.world;
        let may_lose = !self.calm && world.scenario.faults.lost > 0;
        for (i, message) in world.network.iter().enumerate() {
            steps.push(Step::Arrive(i));
            if may_lose && message.awaited {
                let losses = [Loss::Request, Loss::Reply, Loss::Late];
                faults.extend(losses.map(|how| Step::Lose { message: i, how }));
            }
        }
        steps.extend((0..world.replies.len()).map(Step::Answer));
    }

    pub(super) fn silo_steps(&self, silo: usize, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
        let world = &self.world;
        let own = &world.silos[silo];
        if !own.runs() {
            return;
        }
        let may_lose = !self.calm && world.scenario.faults.lost > 0;
        for (i, asked) in own.asked.iter().enumerate() {
            let blocks = match asked.what {
                What::Marker => world.log.blocks(SlotId(asked.slot as u16)),
                _ => Vec::new(),
            };
            if blocks.is_empty() {
                steps.push(Step::CarryOn { silo, asked: i });
            }
            steps.extend(blocks.into_iter().map(Step::TimeOut));
            if may_lose {
                faults.push(Step::NoAnswer { silo, asked: i });
            }
        }
        for slot in 0..own.seats.len() {
            self.slot_steps(silo, slot, steps, faults);
        }
        match &own.transaction {
            Some(transaction) if transaction.staged => {
                steps.push(Step::End(silo, End::Done));
                if may_lose {
                    let ends = [End::ReplyLost, End::RequestLost, End::Aborted];
                    faults.extend(ends.map(|end| Step::End(silo, end)));
                }
            }
            Some(_) => steps.push(Step::Stage(silo)),
            None if own.unregistered.is_some() => steps.push(Step::Register(silo)),
            None if own.must_init => steps.push(Step::Init(silo)),
            None => {
                if own.seats.iter().any(|seat| seat.slot.wants_to_publish()) {
                    steps.push(Step::Begin(silo));
                }
            }
        }
    }

    fn slot_steps(&self, silo: usize, slot: usize, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
        let world = &self.world;
        let (own, seat) = (&world.silos[silo], &world.silos[silo].seats[slot]);
        let owner = world.row(slot).record.owner;
        let free = owner == own.me || world.life_of(owner) != Life::Up;
        if seat.slot.phase() == Phase::Off && own.life == Life::Up && free {
            steps.push(Step::Take { silo, slot });
        }
        let ignores_run = world.scenario.mistake == Some(Mistake::SkipRunCheck);
        if !matches!(seat.slot.phase(), Phase::Off | Phase::Acquire)
            && seat.slot.run() != world.store.run
            && !ignores_run
        {
            steps.push(Step::Connected { silo, slot });
        }
        if !seat.slot.may_apply() {
            return;
        }
        let at = seat.memory.at(seat.memory.next);
        if world.can_apply(silo, slot) {
            steps.push(Step::Apply { silo, slot });
        }
        let scenario = &world.scenario;
        if !self.calm && scenario.calls > 0 {
            steps.extend([true, false].map(|writes| Step::Call { silo, slot, writes }));
        }
        if !self.calm && scenario.faults.handler > 0 {
            faults.push(Step::HandlerFails { silo, slot });
        }
        if !self.calm && self.evictions > 0 {
            faults.push(Step::Evict { silo, slot });
        }
        if !self.calm && self.renewals > 0 {
            faults.push(Step::RenewMarker { silo, slot });
        }
        if !seat.slot.may_seal() {
            return;
        }
        let mode = seat.memory.mode(&seat.culprit);
        let must_note = mode.must_note()
            && seat.memory.noted != Some(at)
            && at.offset < world.checks[slot].truth().records
            && seat.memory.unsealed == 0;
        match () {
            _ if must_note => steps.push(Step::Note { silo, slot }),
            _ if seat.memory.is_dirty() => steps.push(Step::Seal { silo, slot }),
            _ if seat.slot.wants_trim() => steps.push(Step::Trim { silo, slot }),
            _ => {}
        }
        if !self.calm && scenario.gives > 0 && seat.slot.may_give() && !seat.memory.is_dirty() {
            let others = world.silos.iter().filter(|other| other.life == Life::Up && other.me != own.me);
            steps.extend(others.map(|other| Step::Give { silo, slot, to: other.me }));
        }
    }

    /// What happens to silos and to the store.
    pub(super) fn fate_steps(&self, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
        let world = &self.world;
        let budget = if self.calm { Default::default() } else { world.scenario.faults };
        let up = world.silos.iter().filter(|silo| silo.life == Life::Up).count() as u64;
        for (i, silo) in world.silos.iter().enumerate() {
            if silo.life == Life::Zombie {
                (if self.calm { &mut *steps } else { &mut *faults }).push(Step::FencesItself(i));
            }
            if silo.runs() && budget.crash > 0 {
                faults.push(Step::Crash(i));
            }
            if silo.life == Life::Up && budget.pause > 0 {
                faults.push(Step::Declare(i));
            }
        }
        if up < world.scenario.silos {
            (if up == 0 { &mut *steps } else { &mut *faults }).push(Step::Start);
        }
        if budget.rollback > 0 {
            faults.extend((1..=world.store.history()).map(Step::StoreLoses));
        }
    }
}
