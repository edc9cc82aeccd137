//! What an object does when its calls come one after the other.

use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

/// What an operation can do to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<S> {
    /// It never changes anything.
    Nothing,
    /// If it changes anything it leads to this state.
    To(S),
    /// That depends on the state.
    Any,
}

/// An object that answers one call after the other, always the same way.
///
/// `init` and `step` say all. The other functions spare the search much work and change no verdict, if they are right.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash + Debug;
    /// What it can be asked.
    type Input: Clone + Eq + Hash + Debug;
    /// What it answers.
    type Output: Clone + PartialEq + Debug;

    /// What a key holds before its first operation.
    fn init() -> Self::State;

    /// The state after `input`, and the answer.
    fn step(state: &Self::State, input: &Self::Input) -> (Self::State, Self::Output);

    /// What `input` can do to any state in which it has this answer, or any answer if none is known.
    fn effect(input: &Self::Input, output: Option<&Self::Output>) -> Effect<Self::State> {
        let _ = (input, output);
        Effect::Any
    }

    /// The one state in which `output` is the answer to `input`, if there is only one.
    fn needs(input: &Self::Input, output: &Self::Output) -> Option<Self::State> {
        let _ = (input, output);
        None
    }

    /// Whether `output` can be the answer to `input` neither in `state` nor after any operations that follow. A model
    /// whose state only grows can tell.
    fn is_past(state: &Self::State, input: &Self::Input, output: &Self::Output) -> bool {
        let _ = (state, input, output);
        false
    }
}

/// A value that is read, written and changed by comparison. It holds nothing at first.
#[derive(Debug)]
pub struct Register<V = u64>(PhantomData<V>);

/// What a [`Register`] can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegisterInput<V = u64> {
    /// What it holds.
    Read,
    /// To hold this.
    Write(V),
    /// To hold `new` if it holds `expected`.
    CompareAndSet {
        /// What it must hold.
        expected: Option<V>,
        /// What it holds then.
        new: V,
    },
}

/// What a [`Register`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegisterOutput<V = u64> {
    /// What it holds, to a read.
    Value(Option<V>),
    /// To a write.
    Written,
    /// Whether a compare-and-set found what it expected.
    Changed(bool),
}

impl<V: Clone + Eq + Hash + Debug> Model for Register<V> {
    type State = Option<V>;
    type Input = RegisterInput<V>;
    type Output = RegisterOutput<V>;

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, input: &Self::Input) -> (Self::State, Self::Output) {
        match input {
            RegisterInput::Read => (state.clone(), RegisterOutput::Value(state.clone())),
            RegisterInput::Write(value) => (Some(value.clone()), RegisterOutput::Written),
            RegisterInput::CompareAndSet { expected, new } if expected == state => {
                (Some(new.clone()), RegisterOutput::Changed(true))
            }
            RegisterInput::CompareAndSet { .. } => (state.clone(), RegisterOutput::Changed(false)),
        }
    }

    fn effect(input: &Self::Input, output: Option<&Self::Output>) -> Effect<Self::State> {
        match (input, output) {
            (RegisterInput::Read, _) | (_, Some(RegisterOutput::Changed(false))) => Effect::Nothing,
            (RegisterInput::Write(new) | RegisterInput::CompareAndSet { new, .. }, _) => {
                Effect::To(Some(new.clone()))
            }
        }
    }

    fn needs(input: &Self::Input, output: &Self::Output) -> Option<Self::State> {
        match (input, output) {
            (RegisterInput::Read, RegisterOutput::Value(value)) => Some(value.clone()),
            (RegisterInput::CompareAndSet { expected, .. }, RegisterOutput::Changed(true)) => {
                Some(expected.clone())
            }
            _ => None,
        }
    }
}

/// A total that never shrinks, 0 at first. It stays at the largest number when it would exceed it.
#[derive(Debug)]
pub struct Counter;

/// What a [`Counter`] can be asked. It answers with the total, after the addition if it is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CounterInput {
    /// The total.
    Read,
    /// To add this.
    Add(u64),
}

impl Counter {
    fn after(total: u64, input: &CounterInput) -> u64 {
        match input {
            CounterInput::Read => total,
            CounterInput::Add(n) => total.saturating_add(*n),
        }
    }
}

impl Model for Counter {
    type State = u64;
    type Input = CounterInput;
    type Output = u64;

    fn init() -> u64 {
        0
    }

    fn step(state: &u64, input: &CounterInput) -> (u64, u64) {
        let total = Self::after(*state, input);
        (total, total)
    }

    fn effect(input: &CounterInput, output: Option<&u64>) -> Effect<u64> {
        match (input, output) {
            (CounterInput::Read | CounterInput::Add(0), _) => Effect::Nothing,
            (CounterInput::Add(_), Some(total)) => Effect::To(*total),
            (CounterInput::Add(_), None) => Effect::Any,
        }
    }

    // From a larger total the answer would be larger still. This takes the place of a fast path: it leaves an addition
    // of unknown outcome no room but where the totals that were seen have a gap.
    fn is_past(state: &u64, input: &CounterInput, output: &u64) -> bool {
        Self::after(*state, input) > *output
    }
}
