//! Whether a recorded history of calls is linearizable: could every call have happened at one instant between its
//! begin and its end, one after the other, with the answers that were seen?
//!
//! | module | holds |
//! |---|---|
//! | [`history`] | what was seen: operations with input, outcome, begin and end |
//! | [`recorder`] | notes them from many threads |
//! | [`model`] | what an object does when it is called alone; a register and a counter |
//! | [`mod@check`] | the verdict over all keys |
//! | [`report`] | a violation, for a person to read |
//!
//! The definition, and that it may be checked object by object, is of Herlihy and Wing, "Linearizability: A Correctness
//! Condition for Concurrent Objects" (1990). The search is of Wing and Gong, "Testing and Verifying Concurrent
//! Objects" (1993), with the memory of visited configurations of Lowe, "Testing for Linearizability" (2017), and of
//! Horn and Kroening, "Faster Linearizability Checking via P-Compositionality" (2015). The module `search` says what
//! is different here and why it misses nothing.
//!
//! ```
//! use granary_history::{Counter, CounterInput, Recorder, VISITED_STATES, check};
//!
//! let recorder = Recorder::new();
//! let token = recorder.begin(1, "sensor-7", CounterInput::Add(5));
//! // ... the call is made ...
//! recorder.end(token, granary_history::Outcome::Answered(5));
//! let verdict = check::<Counter, _>(&recorder.history(), VISITED_STATES);
//! assert!(verdict.is_linearizable(), "{verdict}");
//! ```
//!
//! What a test that records should know: many unknown additions of the same amounts hide a lost or a doubled one, since
//! one of them may have happened instead. Amounts and values that are all different hide the least, and for a register
//! they are the fastest, too.
//!
//! Limits: times must come from one clock. The problem is NP-complete: a key with very many calls at once, or with
//! many calls of unknown outcome that all differ, may end as [`Verdict::Undecided`], which a test must not take for
//! success. Memory grows with the operations of a key times those that are open at once.

pub mod check;
mod config;
pub mod history;
pub mod model;
mod needs;
pub mod recorder;
pub mod report;
mod search;
mod timeline;

pub use check::{VISITED_STATES, Verdict, check};
pub use history::{History, NEVER, Operation, Outcome};
pub use model::{Counter, CounterInput, Effect, Model, Register, RegisterInput, RegisterOutput};
pub use recorder::{Recorder, Token};
pub use report::Violation;
