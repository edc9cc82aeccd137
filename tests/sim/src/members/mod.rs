//! Runs of a whole cluster in virtual time: silos with leases, one member table, and slots that go where its views say.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | what a run is made of: silos, input, which faults strike when |
//! | [`time`], [`event`] | virtual time, the clocks of silos, what happens when |
//! | [`shell`] | one silo's process beside its lanes |
//! | `member` | the membership and its questions to the table |
//! | `moving` | slots are taken and given, as the engine does |
//! | `wire` | messages to store and log: late, lost, cut off |
//! | `lane` | a lane's rounds and its producer |
//! | `calls` | clients, and what they may see |
//! | `fate` | faults, starts, ends |
//!
//! The slot machines, the store, the log and the checks are those of the kind without time ([`crate::world`]): what a world
//! sends is taken out of its lists after each event and given its time here.
//!
//! Invariant: a run depends on its seed alone. Nothing in here decides by a clock that a silo would not have, but the faults.

mod calls;
pub mod event;
mod fate;
mod lane;
mod member;
mod moving;
pub mod plan;
pub mod shell;
pub mod time;
mod wire;

use std::collections::BTreeMap;

use granary_cluster::Incarnation;
use granary_cluster::members::Table;
use granary_core::Timestamp;

use crate::check::Check;
use crate::random::{Random, mix};
use crate::run::{Failed, Summary};
use crate::scenario::Mistake;
use crate::silo::Life;
use crate::store::Row;
use crate::world::World;

use event::Event;
use plan::{Plan, SETTLES_WITHIN};
use shell::Shell;
use time::{MS, Micros, Queue};

/// More events than any run has that gets anywhere.
const EVENTS_MAX: u32 = 200_000;
/// The last events of a failed run that are shown.
const EVENTS_SHOWN: usize = 400;
/// Looked at so often whether everything is done.
const LOOK_EVERY: u32 = 16;

/// Everything there is, and what is to happen.
pub(crate) struct Cluster {
    world: World,
    plan: Plan,
    queue: Queue,
    now: Micros,
    is_calm: bool,
    /// The member table at the store.
    table: Table,
    /// When each lease was renewed by the store's clock: nobody looks at it but a planted mistake.
    renewed: BTreeMap<Incarnation, i64>,
    store_clock_ahead: i64,
    store_away_until: Micros,
    /// What a replica has that will take over.
    replica: Option<(Vec<Row>, Table)>,
    shells: Vec<Shell>,
    names: usize,
    sent: u64,
    records: u64,
    /// How many reads and writes were answered for each slot before the faults were over.
    answered_before: Vec<(u64, u64)>,
    digest: u64,
    trace: Option<Vec<String>>,
}

/// Runs a seed. A run that breaks something is run once more, to show how.
pub fn run(seed: u64, plan: impl Fn(&mut Random) -> Plan) -> Result<Summary, Box<Failed>> {
    let once = |trace: Option<Vec<String>>| {
        let mut random = Random::new(seed);
        let plan = plan(&mut random);
        let mut cluster = Cluster::new(plan, random, trace);
        let played = cluster.play();
        (played, cluster)
    };
    match once(None) {
        (Ok(summary), _) => Ok(summary),
        (Err(_), _) => {
            let (again, cluster) = once(Some(Vec::new()));
            let what = again.err().unwrap_or_else(|| "it does not fail the second time".to_owned());
            let lines = cluster.trace.unwrap_or_default();
            let mut trace = vec![format!("{:?}", cluster.plan)];
            trace.extend_from_slice(&lines[lines.len().saturating_sub(EVENTS_SHOWN)..]);
            Err(Box::new(Failed { seed, what, trace }))
        }
    }
}

impl Cluster {
    fn new(plan: Plan, random: Random, trace: Option<Vec<String>>) -> Cluster {
        let mut world = World::new(plan.scenario, random);
        world.store = world.store.forgetful();
        let slots = usize::from(plan.scenario.slots);
        let mut cluster = Cluster {
            world,
            queue: Queue::default(),
            now: 0,
            is_calm: false,
            table: Table::default(),
            renewed: BTreeMap::new(),
            store_clock_ahead: 0,
            store_away_until: 0,
            replica: None,
            shells: Vec::new(),
            names: plan.silos,
            sent: 0,
            records: 0,
            answered_before: vec![(0, 0); slots],
            digest: 0,
            trace,
            plan,
        };
        cluster.begin();
        cluster
    }

    fn begin(&mut self) {
        for name in 0..self.plan.silos {
            let at = self.world.random.below(400) as i64 * MS;
            self.queue.put(at, Event::Start { name, address: name as u64 });
        }
        for (at, fault) in self.plan.faults.clone() {
            self.queue.put(at, Event::Fault(fault));
        }
        let records = self.plan.scenario.records as i64;
        for i in 0..records {
            self.queue.put(self.plan.calm_at / records * i, Event::Record);
        }
        self.queue.put(0, Event::Client);
        self.queue.put(self.plan.calm_at, Event::Calm);
    }

    fn play(&mut self) -> Result<Summary, String> {
        for events in 0..EVENTS_MAX {
            let Some((at, event)) = self.queue.take() else { return Err("nothing happens".to_owned()) };
            self.now = at;
            self.happen(event)?;
            if self.is_calm && events % LOOK_EVERY == 0 && self.is_settled() {
                self.world.end()?;
                return Ok(self.summary(events));
            }
            if self.is_calm && self.now > self.plan.calm_at + SETTLES_WITHIN {
                return Err(format!("not served in time; {}", self.where_it_stands()));
            }
        }
        Err(format!("too much happens; {}", self.where_it_stands()))
    }

    fn summary(&self, steps: u32) -> Summary {
        Summary { steps, digest: self.digest, walked: self.world.walked.clone() }
    }

    /// Lets an event happen where it belongs: not in a process that has ended, later in one that is stopped.
    fn happen(&mut self, event: Event) -> Check {
        if let Some(silo) = event.silo() {
            let runs = if event.is_of_membership() { self.shells[silo].is_member } else { self.runs(silo) };
            if !runs {
                return Ok(());
            }
            if self.now < self.shells[silo].paused_until {
                let later = self.shells[silo].paused_until + self.world.random.below(3_000) as i64;
                self.queue.put(later, event);
                return Ok(());
            }
        }
        self.note(&event);
        let silo = event.silo();
        let is_round = matches!(event, Event::Round(_));
        self.dispatch(event)?;
        self.collect()?;
        if let Some(silo) = silo.filter(|silo| !is_round && self.runs(*silo)) {
            self.wake(silo);
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let what = event.silo().map_or(0, |silo| silo as u64 + 1);
        self.digest = mix(self.digest ^ mix(self.now as u64) ^ what);
        if let Some(trace) = self.trace.as_mut().filter(|_| !matches!(event, Event::Round(_))) {
            trace.push(format!("{:11.3} ms {event:?}", self.now as f64 / MS as f64));
        }
    }

    fn dispatch(&mut self, event: Event) -> Check {
        match event {
            Event::Tick(silo) => return self.tick(silo),
            Event::AskTable { silo, no, change } => self.ask_table(silo, no, &change),
            Event::HearTable { silo, no, told } => return self.hear_table(silo, no, told),
            Event::TableSilent { silo, no } => self.table_silent(silo, no),
            Event::Arrive { silo, no, run, script } => return self.arrive(silo, no, run, script),
            Event::Answer { silo, no, reply } => return self.answer(silo, no, reply),
            Event::ScriptSilent { silo, no, slot } => return self.script_silent(silo, no, slot),
            Event::Take { silo, slot } => self.ask_row(silo, slot),
            Event::AskRow { silo, slot, run } => self.row_asked(silo, slot, run),
            Event::HearRow { silo, slot, row } => return self.hear_row(silo, slot, row),
            Event::CarryOn { silo, asked } => return self.carry_on(silo, asked),
            Event::Tell { silo, slot, heard } => return self.world.tell(silo, slot, heard),
            Event::Reconnect(silo) => return self.reconnect(silo),
            Event::Place { silo, slot } => self.place(silo, slot),
            Event::Round(silo) => return self.round(silo),
            Event::Stage { silo, no } => return self.stage(silo, no),
            Event::End { silo, no, how } => return self.end_transaction(silo, no, how),
            Event::Init(silo) => self.init(silo),
            Event::Register(silo) => return self.register(silo),
            Event::LogEnds { silo, no } => self.log_ends(silo, no),
            Event::Record => self.record(),
            Event::Client => self.client(),
            Event::Call { silo, slot, writes, floor } => return self.call(silo, slot, writes, floor),
            Event::TurnEnds { silo, turn } => return self.turn_ends(silo, turn),
            Event::Start { name, address } => self.start(name, address),
            Event::LeaveLook(silo) => return self.leave_look(silo),
            Event::DropAll { silo, comes_back } => return self.drop_all(silo, comes_back),
            Event::Fault(fault) => return self.fault(fault),
            Event::Failover { away } => return self.fail_over(away),
            Event::Calm => self.calm(),
        }
        Ok(())
    }

    /// Whether a mistake is planted.
    fn has(&self, mistake: Mistake) -> bool {
        self.plan.scenario.mistake == Some(mistake)
    }

    fn walked(&mut self, path: &'static str) {
        self.world.walked.insert(path);
    }

    fn runs(&self, silo: usize) -> bool {
        self.world.silos[silo].life == Life::Up
    }

    /// The silos whose lanes run.
    fn alive(&self) -> impl Iterator<Item = usize> {
        (0..self.shells.len()).filter(|silo| self.runs(*silo))
    }

    /// What the silo's own clock says.
    fn clock(&self, silo: usize) -> Timestamp {
        self.shells[silo].clock.at(self.now)
    }

    /// Whether all input is processed, each slot is where it belongs, and calls are answered there.
    fn is_settled(&self) -> bool {
        let served =
            self.answered_before.iter().zip(&self.world.checks).all(|((reads, writes), checks)| {
                checks.reads.reads > *reads && checks.reads.writes > *writes
            });
        served && self.records >= self.plan.scenario.records && self.world.is_done() && self.is_placed()
    }

    /// The table names those that live, and each slot's row the silo that the table gives it to.
    fn is_placed(&self) -> bool {
        let mut living: Vec<Incarnation> = self.alive().map(|silo| self.world.silos[silo].me).collect();
        living.sort_unstable();
        let placed = granary_cluster::members::Placement::new(&self.table, self.plan.scenario.slots);
        self.table.members.iter().map(|member| member.incarnation).eq(living)
            && (0..self.plan.scenario.slots).all(|slot| {
                placed.owner(granary_core::SlotId(slot)) == self.world.row(usize::from(slot)).record.owner
            })
    }

    fn where_it_stands(&self) -> String {
        let world = &self.world;
        let mut lines = vec![format!("{:?}, records {}", self.table, self.records)];
        for slot in 0..world.checks.len() {
            let stands: Vec<_> = self
                .alive()
                .map(|silo| {
                    (silo, world.silos[silo].seats[slot].slot.phase(), self.shells[silo].places[slot])
                })
                .collect();
            let (record, marker) = (&world.row(slot).record, &world.log.markers[slot]);
            lines.push(format!("slot {slot}: {record:?}, {stands:?}, marker {marker:?}"));
        }
        lines.join("\n  ")
    }
}
