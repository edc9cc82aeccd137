//! Who is late: parts of silos that stand still for a while.
//!
//! Were each step as likely as the next one, nobody would ever be late by much, and it is who is late that finds mistakes.

use super::Run;
use crate::step::{Part, Step};

/// How often a part of the world comes to a stand: once in so many steps.
const STALL_ONCE_IN: u64 = 25;
/// For so many steps at most.
const STALL_STEPS_MAX: u64 = 40;

impl Run {
    /// Puts off what stands still; when everything else waits for it, it goes on.
    pub(super) fn put_off(&mut self, steps: &mut Vec<Step>) {
        let now = self.history.len();
        self.stalled.retain(|(_, until)| *until > now);
        if self.calm {
            self.stalled.clear();
        } else if self.world.random.once_in(STALL_ONCE_IN) {
            self.stall_any();
        }
        let world = &self.world;
        let is_stalled = |step: &Step| {
            step.part(world).is_some_and(|part| self.stalled.iter().any(|(each, _)| *each == part))
        };
        if steps.iter().all(is_stalled) {
            self.stalled.clear();
        } else {
            steps.retain(|step| !is_stalled(step));
        }
    }

    /// A part of some silo comes to a stand.
    fn stall_any(&mut self) {
        let world = &mut self.world;
        let running: Vec<usize> = (0..world.silos.len()).filter(|i| world.silos[*i].runs()).collect();
        if !running.is_empty() {
            let silo = running[world.random.below(running.len() as u64) as usize];
            self.stall(silo);
        }
    }

    /// A part of the silo comes to a stand.
    fn stall(&mut self, silo: usize) {
        let random = &mut self.world.random;
        let part = [Part::Lane, Part::Producer, Part::Wire][random.below(3) as usize](silo);
        let until = self.history.len() + random.between(1, STALL_STEPS_MAX) as usize;
        self.stalled.push((part, until));
    }

    /// What often goes together: who is declared dead stands still, a give and a failover find somebody who is late.
    pub(super) fn follow(&mut self, step: Step) {
        match step {
            Step::Declare(silo) | Step::Give { silo, .. } => self.stall(silo),
            Step::StoreLoses(_) | Step::Crash(_) => self.stall_any(),
            _ => {}
        }
    }
}
