//! Objects the tests play with, and what they are asked.

use std::marker::PhantomData;

use granary_history::{Counter, CounterInput, Model, Register, RegisterInput};

use crate::dice::Dice;

/// A model that the tests can ask something.
pub trait Played: Model {
    /// An operation; `unique` is another number each time.
    fn draw(dice: &mut Dice, unique: u64) -> Self::Input;

    /// A few different operations and few different values, so that answers often fit by chance.
    fn draw_small(dice: &mut Dice) -> Self::Input;

    /// An answer that is a little wrong.
    fn spoil(dice: &mut Dice, output: &Self::Output) -> Self::Output;
}

impl Played for Counter {
    fn draw(dice: &mut Dice, _unique: u64) -> CounterInput {
        if dice.one_in(3) { CounterInput::Read } else { CounterInput::Add(dice.between(1, 9)) }
    }

    fn draw_small(dice: &mut Dice) -> CounterInput {
        if dice.one_in(2) { CounterInput::Read } else { CounterInput::Add(dice.below(3)) }
    }

    fn spoil(dice: &mut Dice, output: &u64) -> u64 {
        if dice.one_in(2) { output + 1 } else { output.saturating_sub(1) }
    }
}

impl Played for Register {
    fn draw(dice: &mut Dice, unique: u64) -> RegisterInput {
        match dice.below(8) {
            0..=3 => RegisterInput::Read,
            4..=6 => RegisterInput::Write(unique),
            _ => RegisterInput::CompareAndSet { expected: Some(dice.below(unique + 1)), new: unique },
        }
    }

    fn draw_small(dice: &mut Dice) -> RegisterInput {
        let new = dice.below(3);
        match dice.below(5) {
            0 | 1 => RegisterInput::Read,
            2 | 3 => RegisterInput::Write(new),
            _ => RegisterInput::CompareAndSet { expected: Some(dice.below(3)), new },
        }
    }

    fn spoil(dice: &mut Dice, output: &Self::Output) -> Self::Output {
        use granary_history::RegisterOutput::{Changed, Value, Written};
        match output {
            Value(_) if dice.one_in(4) => Value(None),
            Value(_) => Value(Some(dice.below(3))),
            Written => Written,
            Changed(is_changed) => Changed(!is_changed),
        }
    }
}

/// A model that spares the search nothing.
#[derive(Debug)]
pub struct Plain<M>(PhantomData<M>);

impl<M: Model> Model for Plain<M> {
    type State = M::State;
    type Input = M::Input;
    type Output = M::Output;

    fn init() -> M::State {
        M::init()
    }

    fn step(state: &M::State, input: &M::Input) -> (M::State, M::Output) {
        M::step(state, input)
    }
}

/// A total that may shrink and wraps in a small range: different orders lead to the same state, and nothing is ever
/// past.
#[derive(Debug)]
pub struct Wheel;

/// What a [`Wheel`] is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Where it stands.
    Read,
    /// To go on by so much; it does not say where it stands then.
    Blind(u8),
    /// To go on by so much, and where it stands then.
    Told(u8),
}

const WHEEL: u8 = 5;

impl Model for Wheel {
    type State = u8;
    type Input = Turn;
    type Output = Option<u8>;

    fn init() -> u8 {
        0
    }

    fn step(state: &u8, input: &Turn) -> (u8, Option<u8>) {
        match input {
            Turn::Read => (*state, Some(*state)),
            Turn::Blind(n) => ((state + n) % WHEEL, None),
            Turn::Told(n) => ((state + n) % WHEEL, Some((state + n) % WHEEL)),
        }
    }
}

impl Played for Wheel {
    fn draw(dice: &mut Dice, _unique: u64) -> Turn {
        let by = dice.below(u64::from(WHEEL)) as u8;
        match dice.below(4) {
            0 | 1 => Turn::Read,
            2 => Turn::Blind(by),
            _ => Turn::Told(by),
        }
    }

    fn draw_small(dice: &mut Dice) -> Turn {
        Self::draw(dice, 0)
    }

    fn spoil(dice: &mut Dice, output: &Option<u8>) -> Option<u8> {
        output.map(|at| (at + dice.between(1, 4) as u8) % WHEEL)
    }
}
