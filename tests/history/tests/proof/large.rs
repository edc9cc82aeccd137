//! Histories as long as those of a real test, in seconds.

use std::time::{Duration, Instant};

use granary_history::{Counter, History, Register, VISITED_STATES, Verdict, check};

use crate::objects::Played;
use crate::simulated::{DEFECTS, Defect, Plan, Run};

const OPERATIONS: usize = 100_000;

/// Far more than it takes, for a machine that does other things.
const SECONDS: Duration = Duration::from_secs(60);

fn plan(keys: u64, unknown: u64, defect: Option<Defect>) -> Plan {
    Plan { clients: 16, keys, operations: OPERATIONS, think: 50, travel: 2000, unknown, refused: 10, defect }
}

type Of<M> = History<u64, <M as granary_history::Model>::Input, <M as granary_history::Model>::Output>;

fn timed<M: Played>(name: &str, history: &Of<M>) -> Verdict<u64, M::Input, M::Output> {
    let started = Instant::now();
    let verdict = check::<M, _>(history, VISITED_STATES);
    let took = started.elapsed();
    println!("{name}: {} operations in {took:?}", history.operations().len());
    assert!(took < SECONDS, "{name}: {took:?}");
    verdict
}

fn accepts<M: Played>(name: &str, plan: Plan) {
    let name = format!("{name}, {} keys, {} of 1000 unknown", plan.keys, plan.unknown);
    let verdict = timed::<M>(&name, &Run::<M>::new(plan, 7).history());
    assert!(verdict.is_linearizable(), "{name}: {verdict}");
}

/// Half of the operations are on one key.
#[test]
fn a_hundred_thousand_operations() {
    for unknown in [0, 10, 50] {
        accepts::<Counter>("counter", plan(300, unknown, None));
        accepts::<Register>("register", plan(300, unknown, None));
    }
}

#[test]
fn a_hundred_thousand_operations_on_one_key() {
    for unknown in [0, 10] {
        accepts::<Counter>("counter", plan(1, unknown, None));
        accepts::<Register>("register", plan(1, unknown, None));
    }
}

/// A violation takes longer than an order: every other way is tried before it is told. The defect
/// may show nowhere, when all clients have an operation open all the time; but each of these runs is decided.
fn finds<M: Played>(name: &str, think: u64) {
    let mut violated = 0;
    for (seed, defect) in (0..).zip(DEFECTS) {
        let run = Run::<M>::new(Plan { think, ..plan(300, 10, Some(defect)) }, seed);
        let name = format!("{name}, {defect:?}, at most {think} us between operations");
        let verdict = timed::<M>(&name, &run.history());
        println!("{name}: {}", verdict.to_string().lines().next().unwrap_or_default());
        assert!(verdict.is_linearizable() || verdict.is_violated(), "{verdict}");
        violated += u64::from(verdict.is_violated());
    }
    assert!(violated >= 2, "{name}: {violated} of the defects found");
}

#[test]
fn a_violation_among_a_hundred_thousand_operations() {
    for think in [50, 5_000, 50_000] {
        finds::<Counter>("counter", think);
        finds::<Register>("register", think);
    }
}
