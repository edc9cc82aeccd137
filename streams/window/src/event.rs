//! What goes into an operator: events and the passing of time.

use granary_core::{Span, Timestamp};

use crate::value::Value;

/// One event, borrowed from the decoded record. Events of a slot are applied in the order of their arrival.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The routing key: order and clock.
    pub key: &'a [u8],
    /// The step's further segments below the key, encoded; empty when there are none.
    pub by: &'a [u8],
    /// Event time.
    pub time: Timestamp,
    /// When the log took the event, for [`crate::Watermark::future_guard`]; `None` switches the guard off.
    pub logged_at: Option<Timestamp>,
    /// What names the event for de-duplication; an event without it is never a duplicate.
    pub id: Option<&'a [u8]>,
    /// The values its aggregates read, by [`crate::Aggregate::field`]. A field beyond the end is null.
    pub values: &'a [Value<'a>],
    /// The partition it came from, for a watermark per stream.
    pub partition: u32,
    /// The event's own session gap, when the spec says that events carry one.
    pub gap: Option<Span>,
}

impl<'a> Event<'a> {
    /// An event of `key` at `time` with `values`, and nothing else.
    pub fn new(key: &'a [u8], time: Timestamp, values: &'a [Value<'a>]) -> Self {
        Event { key, by: &[], time, logged_at: None, id: None, values, partition: 0, gap: None }
    }
}

/// One input of an operator. Each is handled to its end, with all rows it causes, before the next one: when it makes
/// more windows due than one portion has, [`Input::GoOn`] follows until [`crate::Operator::is_closing`] says no.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// An event arrives.
    Event(&'a Event<'a>),
    /// Only the time of an event passes: it moves the clock as the event would, but enters no window (it was
    /// filtered out, or belongs to another step of the same source).
    Observe(&'a Event<'a>),
    /// The watermark of one key (watermark per key) is at least this.
    KeyWatermark {
        /// Whose.
        key: &'a [u8],
        /// No further event of the key with a time up to this will come.
        to: Timestamp,
    },
    /// A silent key: its clock moves to where its last result falls due, never further.
    CloseIdle {
        /// Whose.
        key: &'a [u8],
    },
    /// A silent stream (watermark per stream): its watermark moves to where the last result falls due, never further.
    CloseIdleStream,
    /// The watermark of one partition (watermark per stream); makes it active.
    PartitionWatermark {
        /// Which.
        partition: u32,
        /// No further event of the partition with a time up to this will come.
        to: Timestamp,
    },
    /// A partition is idle: the others no longer wait for it.
    PartitionIdle(u32),
    /// A partition is active again.
    PartitionActive(u32),
    /// The wall clock shows this.
    ProcessingTime(Timestamp),
    /// The input has ended: every watermark becomes the largest time. Its rows come with [`Input::GoOn`].
    End,
    /// The next portion of what the last input made due.
    GoOn,
}
