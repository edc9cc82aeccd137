//! What was seen of a system: operations on keys, with their times.

/// The end of an operation that did not end while it was watched.
pub const NEVER: u64 = u64::MAX;

/// What a client learned of its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// It happened, between begin and end, with this answer.
    Answered(O),
    /// It surely did not happen and will not.
    NotRun,
    /// It may have happened at any time after its begin, may still happen after its end, or never.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<K, I, O> {
    /// The client. Only shown: what one client does at once is allowed to overlap.
    pub process: u64,
    /// The object.
    pub key: K,
    /// What was asked.
    pub input: I,
    /// What came of it.
    pub outcome: Outcome<O>,
    /// When it began, in nanoseconds of the one clock of the history.
    pub invoked_at: u64,
    /// When its client knew the outcome, or gave up; [`NEVER`] while it is open.
    pub returned_at: u64,
}

/// Operations on many keys, in any order.
#[derive(Clone, Debug)]
pub struct History<K, I, O> {
    operations: Vec<Operation<K, I, O>>,
}

impl<K, I, O> Default for History<K, I, O> {
    fn default() -> Self {
        Self { operations: Vec::new() }
    }
}

impl<K, I, O> History<K, I, O> {
    /// A history without operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation.
    ///
    /// # Panics
    ///
    /// If it ends before it begins: the times are not of one clock then, and no verdict would mean anything.
    pub fn push(&mut self, operation: Operation<K, I, O>) {
        let (from, to) = (operation.invoked_at, operation.returned_at);
        assert!(from <= to, "an operation ends at {to} ns, before it begins at {from} ns");
        self.operations.push(operation);
    }

    /// The operations, as they were added.
    pub fn operations(&self) -> &[Operation<K, I, O>] {
        &self.operations
    }
}

impl<K, I, O> Extend<Operation<K, I, O>> for History<K, I, O> {
    fn extend<T: IntoIterator<Item = Operation<K, I, O>>>(&mut self, operations: T) {
        operations.into_iter().for_each(|operation| self.push(operation));
    }
}

impl<K, I, O> FromIterator<Operation<K, I, O>> for History<K, I, O> {
    fn from_iter<T: IntoIterator<Item = Operation<K, I, O>>>(operations: T) -> Self {
        let mut history = Self::new();
        history.extend(operations);
        history
    }
}
