//! What a run of a cluster is made of: silos, input, calls, and which faults strike when.

use granary_cluster::slot::Outlet;
use granary_core::Span;

use crate::random::{Random, mix};
use crate::scenario::{Faults, Mistake, Scenario};

use super::time::{MS, Micros, SECOND};

/// How long leases are.
pub const LEASE: Span = Span(2_000);
/// A slot that its living owner does not give for so long is taken by force, as the engine does.
pub const WAIT_FOR_GIVE_MAX: Span = Span(20_000);
/// A silo that has not reached the log for so long stands aside while another reaches it.
pub const LOG_AWAY_MAX: Span = Span(4_000);
/// A slot that belongs to another silo by now is given after so long: until that silo has heard of it, too.
pub const GIVE_AFTER: Span = Span(LEASE.0 / 4 + 50);
/// Clocks run too fast or too slow by so many millionths at most: twice what a system corrects at a time.
pub const DRIFT_MAX: i64 = 500;
/// After the last fault each slot is served, and all input processed, within this time: a silo that has ended is found
/// within two leases, what nobody gives is taken after [`WAIT_FOR_GIVE_MAX`], and the log ends a transaction.
pub const SETTLES_WITHIN: Micros = (WAIT_FOR_GIVE_MAX.0 + 5 * LEASE.0) as Micros * MS;

/// The faults of one run, at most.
const FAULTS_MAX: u64 = 6;

/// Something that goes wrong, or that a person does. Silos by number among those there are at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process ends and is started again after a while, perhaps at another address.
    Crash { silo: u64, away: Micros, moves: bool },
    /// A process is stopped and goes on after a while.
    Pause { silo: u64, lasts: Micros },
    /// A silo does not reach the store.
    CutStore { silo: u64, lasts: Micros },
    /// A silo does not reach the log.
    CutLog { silo: u64, lasts: Micros },
    /// A silo does not reach the log, and never will.
    LoseLog { silo: u64 },
    /// A person places a slot on a silo, or leaves it to the rule.
    Move { slot: u64, silo: Option<u64> },
    /// The store answers nobody.
    StoreAway { lasts: Micros },
    /// A replica of the store falls behind, and takes over after `lag`.
    Failover { lag: Micros, away: Micros },
    /// The store's clock leaps.
    StoreClock { by_ms: i64 },
    /// A new silo joins.
    Join,
    /// A silo leaves in order.
    Leave { silo: u64 },
    /// A second process is started with the name of a silo.
    Twin { silo: u64 },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the slots and the log are told.
    pub scenario: Scenario,
    /// Silos at the start.
    pub silos: usize,
    /// A message is lost once in so many times; 0: never.
    pub lost_once_in: u64,
    /// When what goes wrong.
    pub faults: Vec<(Micros, Fault)>,
    /// When the last fault is over.
    pub calm_at: Micros,
    /// Silos that start from then on run what is of the next generation.
    pub upgrade_at: Option<Micros>,
}

impl Plan {
    /// Any run of the real protocol.
    pub fn any(random: &mut Random) -> Plan {
        let scenario = Scenario {
            outlet: Outlet::Log,
            silos: 0, // they are started one by one
            slots: random.between(1, 4) as u16,
            records: random.between(4, 24),
            poison: false,
            calls: 0,
            gives: 0,
            faults: Faults::default(),
            mistake: None,
            timed: true,
        };
        let calm_at = random.between(6, 36) as Micros * SECOND;
        let count = random.below(FAULTS_MAX + 1);
        let mut faults: Vec<(Micros, Fault)> = Vec::new();
        for _ in 0..count {
            let fault = any_fault(random);
            // faults that come soon after one another do what none of them does alone
            let at = match faults.last() {
                Some((before, _)) if random.once_in(2) => before + random.below(3_000) as Micros * MS,
                _ => SECOND + random.below(calm_at as u64 - 2 * SECOND as u64) as Micros,
            };
            faults.push((at.min(calm_at - 1), fault));
        }
        let lost_once_in = [0, 200, 50, 20][random.below(4) as usize];
        // without a draw of its own: runs without an upgrade are what they are without upgrades
        let upgrade_at = mix(calm_at as u64).is_multiple_of(3).then_some(calm_at / 4);
        Plan { scenario, silos: random.between(1, 3) as usize + 1, lost_once_in, faults, calm_at, upgrade_at }
    }

    /// The same with a mistake.
    pub fn planted(random: &mut Random, mistake: Mistake) -> Plan {
        let mut plan = Plan::any(random);
        plan.scenario.mistake = Some(mistake);
        plan
    }
}

fn any_fault(random: &mut Random) -> Fault {
    let silo = random.below(8);
    let mut some = |max_ms: u64| {
        let scale = [20, 4, 1][random.below(3) as usize];
        random.between(100 / scale, max_ms / scale) as Micros * MS
    };
    let (short, long, longer) = (some(3_000), some(8_000), some(30_000));
    match random.below(20) {
        0 | 1 => Fault::Crash { silo, away: long, moves: random.once_in(3) },
        2..=4 => Fault::Pause { silo, lasts: long },
        5 | 6 => Fault::CutStore { silo, lasts: long },
        7 | 8 => Fault::CutLog { silo, lasts: longer },
        9 => Fault::StoreAway { lasts: long },
        10 | 11 => Fault::Failover { lag: short / 2, away: short },
        12 => Fault::StoreClock { by_ms: random.between(500, 20_000) as i64 },
        13 => Fault::Join,
        14 => Fault::Leave { silo },
        15 | 16 => Fault::LoseLog { silo },
        17 | 18 => Fault::Move { slot: random.below(4), silo: (!random.once_in(3)).then_some(silo) },
        _ => Fault::Twin { silo },
    }
}
