//! The checker against one that tries every order of every choice of unknown operations, over all keys together. They
//! share no code.

use granary_history::{Counter, History, Model, Operation, Outcome, Register, VISITED_STATES, check};

use crate::dice::Dice;
use crate::objects::{Played, Wheel};

const KEYS: u64 = 2;
const SEEDS: u64 = 5_000;

type Op<M> = Operation<u64, <M as Model>::Input, <M as Model>::Output>;

/// Whether an order of all keys' operations explains the answers.
fn has_order<M: Model>(operations: &[Op<M>]) -> bool {
    let unknown: Vec<usize> =
        (0..operations.len()).filter(|&i| operations[i].outcome == Outcome::Unknown).collect();
    (0..1_u32 << unknown.len()).any(|choice| {
        let is_chosen =
            |i: usize| unknown.iter().position(|&u| u == i).is_some_and(|bit| choice >> bit & 1 == 1);
        let mut order: Vec<&Op<M>> = Vec::new();
        for (i, operation) in operations.iter().enumerate() {
            if matches!(operation.outcome, Outcome::Answered(_)) || is_chosen(i) {
                order.push(operation);
            }
        }
        permutations(&mut order, 0, &mut |order| keeps_time::<M>(order) && explains::<M>(order))
    })
}

fn permutations<T>(items: &mut Vec<T>, from: usize, is_right: &mut impl FnMut(&[T]) -> bool) -> bool {
    if from + 1 >= items.len() {
        return is_right(items);
    }
    (from..items.len()).any(|i| {
        items.swap(from, i);
        let found = permutations(items, from + 1, is_right);
        items.swap(from, i);
        found
    })
}

/// Nothing stands before what had ended when it began.
fn keeps_time<M: Model>(order: &[&Op<M>]) -> bool {
    order.iter().enumerate().all(|(i, later)| {
        order[..i].iter().all(|earlier| match later.outcome {
            Outcome::Answered(_) => later.returned_at >= earlier.invoked_at,
            _ => true,
        })
    })
}

fn explains<M: Model>(order: &[&Op<M>]) -> bool {
    let mut states: Vec<M::State> = (0..KEYS).map(|_| M::init()).collect();
    order.iter().all(|operation| {
        let state = &mut states[operation.key as usize];
        let (next, output) = M::step(state, &operation.input);
        *state = next;
        !matches!(&operation.outcome, Outcome::Answered(seen) if *seen != output)
    })
}

/// Up to seven operations with short times, many of them equal: half of the histories as an object would answer, half
/// with something spoiled.
fn draw<M: Played>(dice: &mut Dice) -> Vec<Op<M>> {
    let (span, longest) = (dice.between(2, 24), dice.between(1, 12));
    let mut drawn: Vec<(u64, Op<M>)> = Vec::new();
    for process in 0..dice.between(1, 7) {
        let invoked_at = dice.below(span);
        let returned_at = invoked_at + dice.below(longest);
        let key = if dice.one_in(6) { 1 } else { 0 };
        let is_unknown = dice.one_in(4);
        let happens_at = dice.between(invoked_at, if is_unknown { span + 9 } else { returned_at });
        let (input, outcome) = (M::draw_small(dice), Outcome::Unknown);
        let operation = Operation { process, key, input, outcome, invoked_at, returned_at };
        drawn.push((if is_unknown { happens_at | UNKNOWN } else { happens_at }, operation));
    }
    drawn.sort_by_key(|(at, _)| at & !UNKNOWN);
    let mut states: Vec<M::State> = (0..KEYS).map(|_| M::init()).collect();
    for (at, operation) in &mut drawn {
        let is_unknown = *at & UNKNOWN != 0;
        if is_unknown && dice.one_in(2) {
            continue;
        }
        if dice.one_in(9) {
            operation.outcome = Outcome::NotRun;
            continue;
        }
        let state = &mut states[operation.key as usize];
        let (next, output) = M::step(state, &operation.input);
        *state = next;
        if !is_unknown {
            operation.outcome = Outcome::Answered(output);
        }
    }
    let mut operations: Vec<Op<M>> = drawn.into_iter().map(|(_, operation)| operation).collect();
    if dice.one_in(2) {
        spoil::<M>(dice, &mut operations);
    }
    operations
}

/// Marks the times of unknown operations while a history is drawn.
const UNKNOWN: u64 = 1 << 32;

fn spoil<M: Played>(dice: &mut Dice, operations: &mut [Op<M>]) {
    for _ in 0..dice.between(1, 2) {
        let i = dice.below(operations.len() as u64) as usize;
        let operation = &mut operations[i];
        match &operation.outcome {
            Outcome::Answered(_) if dice.one_in(3) => {
                let length = operation.returned_at - operation.invoked_at;
                operation.invoked_at = dice.below(20);
                operation.returned_at = operation.invoked_at + length;
            }
            Outcome::Answered(output) => operation.outcome = Outcome::Answered(M::spoil(dice, output)),
            Outcome::Unknown => operation.outcome = Outcome::NotRun,
            Outcome::NotRun => {}
        }
    }
}

fn compare<M: Played>(name: &str) {
    let (mut linearizable, mut violated) = (0, 0);
    for seed in 0..SEEDS {
        let operations = draw::<M>(&mut Dice::new(seed));
        let history: History<_, _, _> = operations.iter().cloned().collect();
        let verdict = check::<M, _>(&history, VISITED_STATES);
        let is_right = if has_order::<M>(&operations) {
            linearizable += 1;
            verdict.is_linearizable()
        } else {
            violated += 1;
            verdict.is_violated()
        };
        assert!(is_right, "{name}, seed {seed}: {verdict}\nbut not so by all orders of {operations:#?}");
    }
    println!("{name}: {linearizable} linearizable, {violated} violated");
    assert!(linearizable > SEEDS / 5 && violated > SEEDS / 10, "{linearizable} and {violated}");
}

#[test]
fn a_register_has_the_verdict_of_all_orders() {
    compare::<Register>("register");
}

#[test]
fn a_counter_has_the_verdict_of_all_orders() {
    compare::<Counter>("counter");
}

#[test]
fn a_wheel_has_the_verdict_of_all_orders() {
    compare::<Wheel>("wheel");
}
