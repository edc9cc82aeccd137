//! A violation, for a person to read.

use std::fmt::{self, Debug, Display};

use crate::history::{NEVER, Operation, Outcome};

/// At most so many operations that ended before are told.
const BEFORE: usize = 3;

/// At most so many operations of each other part are told.
const TOLD: usize = 24;

/// Why a history is not linearizable: the earliest end up to which it has no order, and what happened around it.
#[derive(Clone, Debug)]
pub struct Violation<K, I, O> {
    /// No order of the operations that ended before this one has room for it.
    pub refused: Operation<K, I, O>,
    /// States it could have met, as text; not all if there are many.
    pub states: Vec<String>,
    /// The operations of its key that ended last before it began, by their ends.
    pub before: Vec<Operation<K, I, O>>,
    /// Those that ran beside it, by their begins.
    pub beside: Vec<Operation<K, I, O>>,
    /// Those of unknown outcome that began before it ended, the last ones first. Their clients gave up, but they may
    /// have happened beside it all the same.
    pub unknown: Vec<Operation<K, I, O>>,
}

impl<K: Clone, I: Clone, O: Clone> Violation<K, I, O> {
    /// What to tell of the operation at `at`, one of the operations of one key.
    pub(crate) fn new<S: Debug>(operations: &[&Operation<K, I, O>], at: usize, states: &[S]) -> Self {
        let refused = operations[at].clone();
        let (mut before, mut beside, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &operation) in operations.iter().enumerate() {
            let is_answered = matches!(operation.outcome, Outcome::Answered(_));
            if i == at || operation.invoked_at > refused.returned_at {
                continue;
            } else if !is_answered {
                unknown.push(operation.clone());
            } else if operation.returned_at < refused.invoked_at {
                before.push(operation.clone());
            } else {
                beside.push(operation.clone());
            }
        }
        before.sort_by_key(|o| o.returned_at);
        before.drain(..before.len().saturating_sub(BEFORE));
        beside.sort_by_key(|o| o.invoked_at);
        unknown.sort_by_key(|o| std::cmp::Reverse(o.invoked_at));
        Self { refused, states: states.iter().map(|s| format!("{s:?}")).collect(), before, beside, unknown }
    }
}

impl<K: Debug, I: Debug, O: Debug> Display for Violation<K, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {:?}: no order of what ended before has room for", self.refused.key)?;
        line(f, &self.refused)?;
        if !self.states.is_empty() {
            writeln!(f, "  it could have met the state: {}", self.states.join(", "))?;
        }
        part(f, "ended last before it began", &self.before)?;
        part(f, "ran beside it", &self.beside)?;
        part(f, "may have happened, the last first", &self.unknown)
    }
}

fn part<K, I: Debug, O: Debug>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    operations: &[Operation<K, I, O>],
) -> fmt::Result {
    if operations.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {title}:")?;
    operations.iter().take(TOLD).try_for_each(|operation| line(f, operation))?;
    match operations.len().saturating_sub(TOLD) {
        0 => Ok(()),
        more => writeln!(f, "    and {more} more"),
    }
}

fn line<K, I: Debug, O: Debug>(f: &mut fmt::Formatter<'_>, operation: &Operation<K, I, O>) -> fmt::Result {
    let from = milliseconds(operation.invoked_at);
    let to = match operation.returned_at {
        NEVER => "the end".to_owned(),
        at => milliseconds(at),
    };
    write!(f, "    {from} to {to} ms  client {}  {:?} ", operation.process, operation.input)?;
    match &operation.outcome {
        Outcome::Answered(output) => writeln!(f, "answered {output:?}"),
        Outcome::NotRun => writeln!(f, "was not run"),
        Outcome::Unknown => writeln!(f, "has an unknown outcome"),
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{}.{:06}", nanoseconds / 1_000_000, nanoseconds % 1_000_000)
}
