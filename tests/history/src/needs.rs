//! Which operations need a state, and which lead to it.
//!
//! With values that are written once this leaves the search of a register hardly a choice: a value is not overwritten
//! while somebody is still to read it.

use std::collections::HashMap;

use crate::config::Config;
use crate::model::{Effect, Model};
use crate::timeline::Timeline;

/// For each state that is needed, who needs it and who leads to it. Empty if the model does not tell.
pub(crate) struct Needs<S> {
    states: HashMap<S, Need>,
}

#[derive(Default)]
struct Need {
    /// Answered operations that need it, by their ends.
    needed_by: Vec<u32>,
    /// Answered operations that lead to it, by their ends.
    after: Vec<u32>,
    /// Unknown operations that lead to it.
    after_unknown: Vec<usize>,
}

impl<S: Clone + Eq + std::hash::Hash> Needs<S> {
    pub fn new<M: Model<State = S>>(timeline: &Timeline<'_, M>) -> Self {
        let mut needs = Self { states: HashMap::new() };
        for (i, operation) in (0..).zip(&timeline.answered) {
            if let Some(state) = M::needs(operation.input, operation.output) {
                needs.states.entry(state).or_default().needed_by.push(i);
            }
        }
        for (i, operation) in (0..).zip(&timeline.answered) {
            match M::effect(operation.input, Some(operation.output)) {
                Effect::Nothing => {}
                Effect::To(state) => needs.note(&state, |need| need.after.push(i)),
                Effect::Any => return Self { states: HashMap::new() },
            }
        }
        for (u, operation) in timeline.unknown.iter().enumerate() {
            match M::effect(operation.input, None) {
                Effect::Nothing => {}
                Effect::To(state) => needs.note(&state, |need| need.after_unknown.push(u)),
                Effect::Any => return Self { states: HashMap::new() },
            }
        }
        needs
    }

    fn note(&mut self, state: &S, note: impl FnOnce(&mut Need)) {
        if let Some(need) = self.states.get_mut(state) {
            note(need);
        }
    }

    /// Whether a state that was just left is needed by an answered operation that is not placed, with nothing that
    /// leads back to it.
    pub fn is_gone(&self, left: &S, config: &Config<S>) -> bool {
        let Some(need) = self.states.get(left) else { return false };
        let is_any_left = |operations: &[u32]| {
            let from = operations.partition_point(|&i| (i as usize) < config.first);
            operations[from..].iter().any(|&i| !config.is_placed(i))
        };
        is_any_left(&need.needed_by)
            && !is_any_left(&need.after)
            && need.after_unknown.iter().all(|&u| config.is_used(u))
    }
}
