//! Histories of an object without a defect are accepted, whatever is lost or late.

use granary_history::{Counter, Outcome, Register, VISITED_STATES, check};

use crate::dice::Dice;
use crate::objects::{Played, Wheel};
use crate::simulated::{Plan, Run};

const SEEDS: u64 = 1_250;

fn accepts<M: Played>(name: &str) {
    let (mut operations, mut unknown, mut refused) = (0, 0, 0);
    for seed in 0..SEEDS {
        let plan = Plan::draw(&mut Dice::new(seed ^ 0xacce));
        let history = Run::<M>::new(plan.clone(), seed).history();
        let verdict = check::<M, _>(&history, VISITED_STATES);
        assert!(verdict.is_linearizable(), "{name}, seed {seed}, {plan:?}: {verdict}");
        operations += history.operations().len();
        unknown += history.operations().iter().filter(|o| o.outcome == Outcome::Unknown).count();
        refused += history.operations().iter().filter(|o| o.outcome == Outcome::NotRun).count();
    }
    println!("{name}: {SEEDS} seeds, {operations} operations, {unknown} unknown, {refused} not run");
    assert!(unknown > operations / 20 && refused > operations / 40, "{unknown} and {refused}");
}

#[test]
fn a_register_is_accepted() {
    accepts::<Register>("register");
}

#[test]
fn a_counter_is_accepted() {
    accepts::<Counter>("counter");
}

#[test]
fn a_wheel_is_accepted() {
    accepts::<Wheel>("wheel");
}
