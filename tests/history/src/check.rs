//! The verdict over a history.

use std::collections::HashMap;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

use crate::history::{History, Outcome};
use crate::model::Model;
use crate::report::Violation;
use crate::search::{Found, search};
use crate::timeline::{Of, Timeline};

/// A limit of visited states for each key that takes some seconds and some hundred megabytes when it is reached.
pub const VISITED_STATES: usize = 1_000_000;

/// Whether a history is linearizable.
#[derive(Clone, Debug)]
#[must_use = "a verdict that nobody reads proves nothing"]
pub enum Verdict<K, I, O> {
    /// It is: the operations of each key have an order that explains all answers.
    Linearizable,
    /// It is not.
    Violated(Box<Violation<K, I, O>>),
    /// Neither was found within the limit. No success: nothing is known of this key.
    Undecided {
        /// The first such key.
        key: K,
        /// How many states were visited.
        visited: usize,
    },
}

impl<K, I, O> Verdict<K, I, O> {
    /// Whether the history is surely linearizable.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }

    /// Whether the history is surely not linearizable.
    pub fn is_violated(&self) -> bool {
        matches!(self, Self::Violated(_))
    }
}

impl<K: Debug, I: Debug, O: Debug> Display for Verdict<K, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => write!(f, "linearizable"),
            Self::Violated(violation) => write!(f, "not linearizable: {violation}"),
            Self::Undecided { key, visited } => {
                write!(
                    f,
                    "undecided: key {key:?} has no order within {visited} states, and may have one beyond"
                )
            }
        }
    }
}

/// Whether `history` is linearizable for objects of the model `M`, one for each key, in at most `limit` visited states
/// for each key (such as [`VISITED_STATES`]).
///
/// Keys are checked each alone: a history is linearizable exactly if what it holds of each object is (Herlihy and
/// Wing 1990, theorem 1). The first key with a violation is told; a violation goes before an undecided key.
pub fn check<M: Model, K: Clone + Eq + Hash>(
    history: &History<K, M::Input, M::Output>,
    limit: usize,
) -> Verdict<K, M::Input, M::Output> {
    let mut undecided = None;
    for operations in by_key::<M, K>(history) {
        let timeline = Timeline::<M>::new(&operations);
        match search(&timeline, limit) {
            Found::Order => {}
            Found::Refused { first, states } => {
                let at = timeline.answered[first].at;
                return Verdict::Violated(Box::new(Violation::new(&operations, at, &states)));
            }
            Found::Undecided { visited } => {
                let key = operations[0].key.clone();
                undecided.get_or_insert(Verdict::Undecided { key, visited });
            }
        }
    }
    undecided.unwrap_or(Verdict::Linearizable)
}

/// The operations that may have happened of each key, keys as they come.
fn by_key<M: Model, K: Eq + Hash>(history: &History<K, M::Input, M::Output>) -> Vec<Vec<&Of<K, M>>> {
    let mut places: HashMap<&K, usize> = HashMap::new();
    let mut keys: Vec<Vec<&Of<K, M>>> = Vec::new();
    for operation in history.operations().iter().filter(|o| !matches!(o.outcome, Outcome::NotRun)) {
        let place = *places.entry(&operation.key).or_insert(keys.len());
        if place == keys.len() {
            keys.push(Vec::new());
        }
        keys[place].push(operation);
    }
    keys
}
