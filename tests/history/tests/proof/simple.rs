//! The checker against the plain search of Wing and Gong, which leaves nothing out but what it has visited, on histories
//! that are too long for all orders.

use std::collections::HashSet;

use granary_history::{Counter, Model, Operation, Outcome, Register, VISITED_STATES, check};

use crate::dice::Dice;
use crate::objects::{Played, Wheel};
use crate::simulated::{DEFECTS, Plan, Run};

const SEEDS: u64 = 750;

/// At most so many states, then the history is passed over.
const LIMIT: usize = 20_000;

type Op<M> = Operation<u64, <M as Model>::Input, <M as Model>::Output>;

/// Whether there is an order of the operations of one key, if that is found within the limit.
fn has_order<M: Model>(operations: &[&Op<M>]) -> Option<bool> {
    let is_answered = |i: usize| matches!(operations[i].outcome, Outcome::Answered(_));
    let mut seen = HashSet::from([(0_u128, M::init())]);
    let mut open = vec![(0_u128, M::init())];
    while let Some((placed, state)) = open.pop() {
        let left: Vec<usize> = (0..operations.len()).filter(|i| placed >> i & 1 == 0).collect();
        let answered = || left.iter().copied().filter(|&i| is_answered(i));
        let Some(first_end) = answered().map(|i| operations[i].returned_at).min() else { return Some(true) };
        for i in left.iter().copied().filter(|&i| operations[i].invoked_at <= first_end) {
            let (next, output) = M::step(&state, &operations[i].input);
            let is_right = match &operations[i].outcome {
                Outcome::Answered(seen) => *seen == output,
                _ => true,
            };
            let config = (placed | 1 << i, next);
            if is_right && seen.insert(config.clone()) {
                open.push(config);
            }
        }
        if seen.len() > LIMIT {
            return None;
        }
    }
    Some(false)
}

fn compare<M: Played>(name: &str) {
    let (mut linearizable, mut violated, mut decided_in_haste) = (0, 0, 0_u64);
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed ^ 0x51);
        let mut plan = Plan::draw(&mut dice);
        plan.operations = dice.between(8, 60) as usize;
        plan.defect = dice.one_in(2).then(|| DEFECTS[dice.below(5) as usize]);
        let history = Run::<M>::new(plan.clone(), seed).history();
        let of_key = |key: u64| -> Vec<&Op<M>> {
            let runs = history.operations().iter().filter(|o| o.outcome != Outcome::NotRun);
            runs.filter(|o| o.key == key).collect()
        };
        let keys: Option<Vec<bool>> = (0..plan.keys).map(|key| has_order::<M>(&of_key(key))).collect();
        let Some(keys) = keys else { continue };
        let verdict = check::<M, _>(&history, VISITED_STATES);
        let is_right = if keys.iter().all(|&has_order| has_order) {
            linearizable += 1;
            verdict.is_linearizable()
        } else {
            violated += 1;
            verdict.is_violated()
        };
        let hasty = check::<M, _>(&history, 3);
        decided_in_haste += u64::from(hasty.is_linearizable() || hasty.is_violated());
        let is_right = is_right
            && (!hasty.is_linearizable() || verdict.is_linearizable())
            && (!hasty.is_violated() || verdict.is_violated());
        assert!(
            is_right,
            "{name}, seed {seed}, {plan:?}: the plain search does not say {verdict}, and in haste {hasty}"
        );
    }
    println!(
        "{name}: {linearizable} linearizable, {violated} violated, {decided_in_haste} decided in 3 states"
    );
    assert!(linearizable > SEEDS / 4 && violated > SEEDS / 20, "{linearizable} and {violated}");
}

#[test]
fn a_register_has_the_verdict_of_the_plain_search() {
    compare::<Register>("register");
}

#[test]
fn a_counter_has_the_verdict_of_the_plain_search() {
    compare::<Counter>("counter");
}

#[test]
fn a_wheel_has_the_verdict_of_the_plain_search() {
    compare::<Wheel>("wheel");
}
