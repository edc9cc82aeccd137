//! One run: a seed decides the scenario, every step and every fault; then the faults cease and the work must get done.

use std::collections::BTreeSet;
use std::fmt;

use granary_cluster::slot::{Heard, Phase};

use crate::check::Check;
use crate::lane::End;
use crate::random::{Random, mix};
use crate::scenario::{Mistake, Scenario};
use crate::silo::Life;
use crate::step::{Loss, Part, Step};
use crate::world::World;

mod next;
mod stall;

/// Steps with faults, at most.
const STEPS_WILD: u32 = 1_500;
/// Steps after the faults have ceased, at most: far more than the work needs.
const STEPS_CALM: u32 = 30_000;
/// A fault strikes once in so many steps.
const FAULT_ONCE_IN: u64 = 12;
/// Evictions in a run, at most.
const EVICTIONS: u32 = 6;
/// The last steps of a failed run that are shown.
const STEPS_SHOWN: usize = 100;

/// A run that broke something.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// What does not hold.
    pub what: String,
    /// The scenario and the last steps.
    pub trace: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        write!(f, "replay it alone: GRANARY_SEED={} cargo test -p granary-sim", self.seed)
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps taken.
    pub steps: u32,
    /// A hash of all of them: equal for equal seeds.
    pub digest: u64,
    /// The less common paths of the protocol that were walked.
    pub walked: BTreeSet<&'static str>,
}

struct Run {
    world: World,
    calm: bool,
    history: Vec<Step>,
    renewals: u32,
    evictions: u32,
    /// What stands still, and until which step.
    stalled: Vec<(Part, usize)>,
}

/// Runs a seed in a scenario.
pub fn run(seed: u64, scenario: impl FnOnce(&mut Random) -> Scenario) -> Result<Summary, Box<Failed>> {
    let mut random = Random::new(seed);
    let scenario = scenario(&mut random);
    let world = World::new(scenario, random);
    let mut run = Run {
        world,
        calm: false,
        history: Vec::new(),
        renewals: 2,
        evictions: EVICTIONS,
        stalled: Vec::new(),
    };
    match run.play() {
        Ok(()) => Ok(run.summary()),
        Err(what) => {
            let from = run.history.len().saturating_sub(STEPS_SHOWN);
            let mut trace = vec![format!("{:?}", run.world.scenario)];
            trace
                .extend(run.history[from..].iter().enumerate().map(|(i, s)| format!("{:5} {s:?}", from + i)));
            Err(Box::new(Failed { seed, what, trace }))
        }
    }
}

impl Run {
    fn summary(&self) -> Summary {
        let text = |step: &Step| format!("{step:?}");
        let digest = self
            .history
            .iter()
            .map(text)
            .fold(0, |hash, text| text.bytes().fold(mix(hash), |hash, byte| mix(hash ^ u64::from(byte))));
        Summary { steps: self.history.len() as u32, digest, walked: self.world.walked.clone() }
    }

    fn play(&mut self) -> Check {
        for _ in 0..STEPS_WILD {
            if !self.step()? {
                break;
            }
        }
        self.calm = true;
        for _ in 0..STEPS_CALM {
            if self.world.is_done() && self.world.network.is_empty() {
                return self.world.end();
            }
            if !self.step()? {
                break;
            }
        }
        if self.world.is_done() {
            return self.world.end();
        }
        Err(format!("the work does not get done; {}", self.where_it_stands()))
    }

    fn where_it_stands(&self) -> String {
        let world = &self.world;
        let slots = (0..world.checks.len()).map(|slot| {
            let record = &world.row(slot).record;
            let phases: Vec<Phase> = world.silos.iter().map(|silo| silo.seats[slot].slot.phase()).collect();
            format!("slot {slot}: {record:?}, {phases:?}, marker {:?}", world.log.markers[slot])
        });
        slots.collect::<Vec<_>>().join("; ")
    }

    /// Takes one step; false when nothing can happen any more.
    fn step(&mut self) -> Result<bool, String> {
        let (mut steps, mut faults) = (Vec::with_capacity(32), Vec::new());
        self.network_steps(&mut steps, &mut faults);
        for silo in 0..self.world.silos.len() {
            self.silo_steps(silo, &mut steps, &mut faults);
        }
        self.fate_steps(&mut steps, &mut faults);
        self.put_off(&mut steps);
        let random = &mut self.world.random;
        let is_fault = steps.is_empty() || !faults.is_empty() && random.once_in(FAULT_ONCE_IN);
        let from = if is_fault { &faults } else { &steps };
        if from.is_empty() {
            return Ok(false);
        }
        let step =
            if is_fault { pick_fault(from, random) } else { from[random.below(from.len() as u64) as usize] };
        self.history.push(step);
        self.take(step)?;
        self.follow(step);
        Ok(true)
    }

    fn take(&mut self, step: Step) -> Check {
        let world = &mut self.world;
        match step {
            Step::Arrive(i) => world.arrive(i),
            Step::Answer(i) => world.answer(i),
            Step::Lose { message, how } => lose(world, message, how),
            Step::CarryOn { silo, asked } => world.carry_on(silo, asked),
            Step::NoAnswer { silo, asked } => {
                world.scenario.faults.lost -= 1;
                let asked = world.silos[silo].asked.remove(asked);
                world.tell(silo, asked.slot, Heard::NoAnswer(asked.ask))
            }
            Step::TimeOut(id) => {
                world.log.init(id);
                Ok(())
            }
            Step::Apply { silo, slot } => world.apply(silo, slot),
            Step::Seal { silo, slot } => world.seal(silo, slot),
            Step::Call { silo, slot, writes } => {
                world.scenario.calls -= 1;
                world.call(silo, slot, writes)
            }
            Step::Begin(silo) => world.begin(silo),
            Step::Stage(silo) => world.stage(silo),
            Step::End(silo, how) => {
                world.scenario.faults.lost -= u32::from(how != End::Done);
                world.end_transaction(silo, how)
            }
            Step::Init(silo) => {
                world.init_producer(silo);
                Ok(())
            }
            Step::Register(silo) => world.register_producer(silo),
            Step::HandlerFails { silo, slot } => {
                world.scenario.faults.handler -= 1;
                world.roll_memory_back(silo, slot)
            }
            Step::Evict { silo, slot } => {
                self.evictions -= 1;
                let too_early = world.scenario.mistake == Some(Mistake::EvictBeforeAcknowledged);
                world.silos[silo].seats[slot].memory.evict(too_early);
                Ok(())
            }
            Step::RenewMarker { silo, slot } => {
                self.renewals -= 1;
                world.silos[silo].seats[slot].slot.renew_marker();
                Ok(())
            }
            Step::Take { silo, slot }
            | Step::Note { silo, slot }
            | Step::Trim { silo, slot }
            | Step::Connected { silo, slot }
            | Step::Give { silo, slot, .. } => ask_slot(world, step, silo, slot),
            Step::Crash(_) | Step::Declare(_) | Step::FencesItself(_) | Step::Start | Step::StoreLoses(_) => {
                fate(world, step)
            }
        }
    }
}

/// The kind first: there are many messages to lose, and one silo to end.
fn pick_fault(faults: &[Step], random: &mut Random) -> Step {
    let mut kinds: Vec<_> = faults.iter().map(std::mem::discriminant).collect();
    kinds.dedup();
    let kind = kinds[random.below(kinds.len() as u64) as usize];
    let of_kind: Vec<&Step> = faults.iter().filter(|step| std::mem::discriminant(*step) == kind).collect();
    *of_kind[random.below(of_kind.len() as u64) as usize]
}

fn lose(world: &mut World, i: usize, how: Loss) -> Check {
    world.scenario.faults.lost -= 1;
    let (silo, slot) = (world.network[i].silo, world.network[i].script.slot());
    match how {
        Loss::Request => {
            world.network.swap_remove(i);
        }
        Loss::Reply => {
            world.network[i].awaited = false;
            world.arrive(i)?;
        }
        Loss::Late => world.network[i].awaited = false,
    }
    world.unknown(silo, slot)
}

fn ask_slot(world: &mut World, step: Step, silo: usize, slot: usize) -> Check {
    let mut out = Vec::new();
    let (seen, run) = (world.row(slot).record.clone(), world.store.run);
    let seat = &mut world.silos[silo].seats[slot];
    match step {
        Step::Take { .. } => drop(seat.slot.take(&seen, run, &mut out)),
        Step::Connected { .. } => seat.slot.connected(run, &mut out),
        Step::Note { .. } => seat.slot.note(seat.memory.at(seat.memory.next), &mut out),
        Step::Give { to, .. } => {
            world.scenario.gives -= u32::from(seat.slot.give(to, &mut out));
        }
        _ => seat.slot.idle(&mut out),
    }
    world.carry_out(silo, slot, out)
}

fn fate(world: &mut World, step: Step) -> Check {
    let faults = &mut world.scenario.faults;
    match step {
        Step::Crash(silo) => {
            faults.crash -= 1;
            world.crash(silo)
        }
        Step::Declare(silo) => {
            faults.pause -= 1;
            world.silos[silo].life = Life::Zombie;
            Ok(())
        }
        Step::FencesItself(silo) => world.crash(silo),
        Step::StoreLoses(writes) => {
            faults.rollback -= 1;
            world.roll_back(writes)
        }
        _ => {
            world.start_silo();
            Ok(())
        }
    }
}
