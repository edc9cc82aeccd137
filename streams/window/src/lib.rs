//! Windows, watermarks, triggers and aggregates as state machines without IO.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a window step shall do, and the mistakes found in it |
//! | [`value`] | the values events carry and results show |
//! | [`event`] | what goes into an operator: events and the passing of time |
//! | [`row`] | what comes out: rows and outcomes |
//! | [`operator`] | the state machine of one step in one slot |
//! | [`distinct`] | de-duplication without a window |
//! | [`pattern`], [`join`], [`rank`] | sequences of events of one key, pairs of two streams, the best of many keys |
//! | [`agenda`] | keys with something due, though no event of theirs may come |
//! | [`rollup`] | totals over the rows of windows, under another key |
//! | [`track`] | the keys of a pattern or a join in one slot: their state, their clocks, what falls due without an event |
//! | [`noted`], [`shelf`] | an event as these keep it, and the events of a key in cells |
//! | [`cases`] | runs conformance cases through these |
//! | [`clock`] | the watermark of a stream in partitions |
//!
//! ```
//! use std::sync::Arc;
//! use granary_core::{Timestamp, time::secs};
//! use granary_window::{Aggregate, Computed, Event, Function, Input, Operator, Row, Spec, Value, Window};
//!
//! let sum = Aggregate { name: "sum".into(), function: Function::Sum, field: 0 };
//! let spec = Spec::new(Window::Tumbling { size: secs(5), offset: 0 }, vec![sum]);
//! let mut totals = Operator::new(Arc::new(spec), b"totals/");
//! let (mut sums, mut cells) = (Vec::new(), Vec::new());
//! for (time, value) in [(1_000, 2), (4_000, 3), (6_000, 5)] {
//!     let values = [Value::Int(value)];
//!     let event = Event::new(b"d-7", Timestamp(time), &values);
//!     totals.missing(&Input::Event(&event), &mut cells);
//!     for cell in cells.drain(..) {
//!         totals.supply(&cell, None)?; // the store has none yet
//!     }
//!     totals.apply(&Input::Event(&event), &mut |row: Row<'_>| {
//!         if let Computed::Int(sum) = row.values.get(0) {
//!             sums.push((row.start, sum));
//!         }
//!     });
//! }
//! assert_eq!(sums, [(Timestamp(0), 5)]);
//! # Ok::<(), granary_window::Corrupt>(())
//! ```
//!
//! Invariant: nothing here opens a socket, reads a clock, starts a thread or draws a random number. The same inputs
//! give the same rows in the same order, wherever state was stored and loaded in between.

pub mod agenda;
mod aggregate;
pub mod cases;
pub mod clock;
mod ddsketch;
pub mod distinct;
mod encode;
pub mod event;
mod fire;
mod heard;
mod hyperloglog;
mod ids;
mod index;
pub mod join;
mod key;
mod keys;
mod moments;
pub mod noted;
pub mod operator;
mod pane;
pub mod pattern;
mod pool;
pub mod rank;
mod reach;
pub mod rollup;
pub mod row;
pub mod rule;
mod rules;
pub mod shelf;
mod shifting;
mod slice;
pub mod spec;
mod total;
pub mod track;
pub mod value;

pub use clock::Partitions;
pub use event::{Event, Input};
pub use operator::{KeyStats, LINKS, Operator, PORTION_WINDOWS, Peek, Put};
pub use row::{Op, Outcome, Output, Reason, Row, State, Values};
pub use spec::{
    Accumulation, Aggregate, Dedup, Early, Emit, Function, Horizon, Lateness, Mistake, Per, Quantile, Spec,
    Time, Watermark, Window,
};
pub use value::{Computed, Datum, Value};

/// A cell's bytes could not be read: they were not written by this version, or are damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged window state: {what}")]
pub struct Corrupt {
    /// What was expected and not found.
    pub what: &'static str,
}
