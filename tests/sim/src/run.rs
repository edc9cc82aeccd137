//! One run: a seed decides the scenario, every step and every fault; then the faults cease and the work must get done.

use std::collections::BTreeSet;
use std::fmt;

use granary_core::SlotId;

use crate::check::Check;
use crate::lane::End;
use crate::random::{Random, mix};
use crate::scenario::{Mistake, Scenario};
use crate::silo::{Life, What};
use crate::step::{Loss, Step};
use crate::world::World;
use granary_cluster::slot::{Heard, Phase};

/// Steps with faults, at most.
const STEPS_WILD: u32 = 1_500;
/// Steps after the faults have ceased, at most: far more than the work needs.
const STEPS_CALM: u32 = 30_000;
/// The last steps of a failed run that are shown.
const STEPS_SHOWN: usize = 60;

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
}

/// Runs a seed in a scenario.
pub fn run(seed: u64, scenario: impl FnOnce(&mut Random) -> Scenario) -> Result<Summary, Box<Failed>> {
    let mut random = Random::new(seed);
    let scenario = scenario(&mut random);
    let world = World::new(scenario, random);
    let mut run = Run { world, calm: false, history: Vec::new(), renewals: 2 };
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
        let random = &mut self.world.random;
        let from = if !faults.is_empty() && random.once_in(12) { &faults } else { &steps };
        let from = if from.is_empty() { &faults } else { from };
        if from.is_empty() {
            return Ok(false);
        }
        let step = from[random.below(from.len() as u64) as usize];
        self.history.push(step);
        self.take(step)?;
        Ok(true)
    }

    fn network_steps(&self, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
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

    fn silo_steps(&self, silo: usize, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
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
    fn fate_steps(&self, steps: &mut Vec<Step>, faults: &mut Vec<Step>) {
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
            Step::Init(silo) => world.init_producer(silo),
            Step::HandlerFails { silo, slot } => {
                world.scenario.faults.handler -= 1;
                world.roll_memory_back(silo, slot)
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
