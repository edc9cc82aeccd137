//! Notes operations from many threads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::history::{History, NEVER, Operation, Outcome};

/// Clients write into as many lists, so that they hardly wait for each other.
const LISTS: usize = 16;

type List<K, I, O> = Mutex<Vec<Operation<K, I, O>>>;

/// Notes operations while they run.
///
/// An operation is noted at its begin, as one of unknown outcome, and changed at its end. What a cancelled task or a
/// panic leaves open so stays in the history, as it must: it may have happened.
#[derive(Debug)]
pub struct Recorder<K, I, O> {
    start: Instant,
    lists: [List<K, I, O>; LISTS],
}

/// An operation that has begun. Without [`Recorder::end`] its outcome stays unknown.
#[derive(Debug)]
#[must_use = "an operation that is not ended has an unknown outcome"]
pub struct Token {
    list: usize,
    index: usize,
}

impl<K, I, O> Default for Recorder<K, I, O> {
    fn default() -> Self {
        Self { start: Instant::now(), lists: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<K, I, O> Recorder<K, I, O> {
    /// A recorder whose clock starts now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nanoseconds since the recorder was made: the clock of its history.
    pub fn now(&self) -> u64 {
        // 584 years fit.
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    /// Notes that `process` begins an operation. To be called before its request leaves.
    pub fn begin(&self, process: u64, key: K, input: I) -> Token {
        let list = usize::try_from(process % LISTS as u64).unwrap_or(0);
        let mut operations = lock(&self.lists[list]);
        // The clock is read with the lock held: waiting for it is no part of the operation.
        let invoked_at = self.now();
        let outcome = Outcome::Unknown;
        operations.push(Operation { process, key, input, outcome, invoked_at, returned_at: NEVER });
        Token { list, index: operations.len() - 1 }
    }

    /// Notes the end of an operation of this recorder. To be called after its answer has come.
    pub fn end(&self, token: Token, outcome: Outcome<O>) {
        let returned_at = self.now();
        let mut operations = lock(&self.lists[token.list]);
        let operation = &mut operations[token.index];
        operation.outcome = outcome;
        operation.returned_at = returned_at;
    }
}

impl<K: Clone, I: Clone, O: Clone> Recorder<K, I, O> {
    /// What was noted until now. Operations that are open have an unknown outcome.
    pub fn history(&self) -> History<K, I, O> {
        // All lists at one instant: else an answer could be in the history without the operation it shows.
        let lists: Vec<_> = self.lists.iter().map(lock).collect();
        lists.iter().flat_map(|list| list.iter().cloned()).collect()
    }
}

/// A list that a panic left behind is whole: it is changed by single steps.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
