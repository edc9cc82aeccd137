//! The operations of one key, in the orders the search needs.

use std::collections::HashMap;

use crate::history::{Operation, Outcome};
use crate::model::{Effect, Model};

pub(crate) type Of<K, M> = Operation<K, <M as Model>::Input, <M as Model>::Output>;

/// An operation that has to be placed.
pub(crate) struct Answered<'h, M: Model> {
    pub input: &'h M::Input,
    pub output: &'h M::Output,
    /// It changes nothing, whatever the state.
    pub is_read: bool,
    /// Which of the key's operations it is.
    pub at: usize,
    invoked_at: u64,
    returned_at: u64,
}

/// An operation that may be placed.
pub(crate) struct Unknown<'h, M: Model> {
    pub input: &'h M::Input,
    invoked_at: u64,
}

/// The operations of one key.
pub(crate) struct Timeline<'h, M: Model> {
    /// By their ends.
    pub answered: Vec<Answered<'h, M>>,
    /// By their begins.
    pub unknown: Vec<Unknown<'h, M>>,
    /// Unknown ones with the same input, by their begins; the classes by their first ones.
    pub classes: Vec<Vec<usize>>,
    /// For each answered one, those that end with or after it and have begun when it ends: itself and those beside it.
    open: Vec<u32>,
    /// Where the part of `open` of each begins.
    open_from: Vec<usize>,
    /// For each answered one, how many unknown ones have begun when it ends.
    begun: Vec<usize>,
}

impl<'h, M: Model> Timeline<'h, M> {
    pub fn new<K>(operations: &[&'h Of<K, M>]) -> Self {
        let mut timeline = Self {
            answered: answered(operations),
            unknown: unknown(operations),
            classes: Vec::new(),
            open: Vec::new(),
            open_from: vec![0],
            begun: Vec::new(),
        };
        timeline.find_open();
        timeline.find_classes();
        timeline
    }

    /// The answered ones that may come next when all those that end before `first` are placed, if they are not placed
    /// themselves: none that is unplaced has ended when they begin. Equal times count as beside each other.
    pub fn open(&self, first: usize) -> &[u32] {
        &self.open[self.open_from[first]..self.open_from[first + 1]]
    }

    /// How many unknown ones may come next, the same way.
    pub fn begun(&self, first: usize) -> usize {
        self.begun[first]
    }

    fn find_open(&mut self) {
        let mut by_begin: Vec<usize> = (0..self.answered.len()).collect();
        by_begin.sort_by_key(|&i| self.answered[i].invoked_at);
        let mut begins = by_begin.into_iter().peekable();
        let mut now: Vec<u32> = Vec::new();
        for (first, operation) in self.answered.iter().enumerate() {
            let end = operation.returned_at;
            now.retain(|&i| i as usize >= first);
            while let Some(i) = begins.next_if(|&i| self.answered[i].invoked_at <= end) {
                now.push(u32::try_from(i).expect("a key has less than four thousand million operations"));
            }
            now.sort_unstable();
            self.open.extend_from_slice(&now);
            self.open_from.push(self.open.len());
            self.begun.push(self.unknown.partition_point(|u| u.invoked_at <= end));
        }
    }

    fn find_classes(&mut self) {
        let mut places: HashMap<&M::Input, usize> = HashMap::new();
        for (u, unknown) in self.unknown.iter().enumerate() {
            let place = *places.entry(unknown.input).or_insert(self.classes.len());
            if place == self.classes.len() {
                self.classes.push(Vec::new());
            }
            self.classes[place].push(u);
        }
    }
}

fn answered<'h, K, M: Model>(operations: &[&'h Of<K, M>]) -> Vec<Answered<'h, M>> {
    let mut answered: Vec<Answered<'h, M>> = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let Outcome::Answered(output) = &operation.outcome else { continue };
        let Operation { input, invoked_at, returned_at, .. } = *operation;
        let is_read = M::effect(input, Some(output)) == Effect::Nothing;
        let (invoked_at, returned_at) = (*invoked_at, *returned_at);
        answered.push(Answered { input, output, is_read, at, invoked_at, returned_at });
    }
    answered.sort_by_key(|a| (a.returned_at, a.invoked_at));
    answered
}

fn unknown<'h, K, M: Model>(operations: &[&'h Of<K, M>]) -> Vec<Unknown<'h, M>> {
    let is_unknown = |operation: &&&'h Of<K, M>| matches!(operation.outcome, Outcome::Unknown);
    let note =
        |operation: &&'h Of<K, M>| Unknown { input: &operation.input, invoked_at: operation.invoked_at };
    let mut unknown: Vec<Unknown<'h, M>> = operations.iter().filter(is_unknown).map(note).collect();
    unknown.sort_by_key(|u| u.invoked_at);
    unknown
}
