//! The state machine of one window step in one slot.
//!
//! | module | holds |
//! |---|---|
//! | `mod` | inputs and what they do |
//! | `cells` | which cells are needed, and taking them |
//! | `seal` | writing those that changed |
//! | `closing` | what falls due at once is published in portions |
//! | `look` | reading ahead of an event |
//! | `memory` | what leaves memory |
//! | `peek` | questions about windows and keys |
//! | `reached` | how far the step has come |
//! | `time` | the passing of time |

mod cells;
mod closing;
mod look;
mod memory;
mod peek;
mod reached;
mod seal;
mod time;

pub use closing::PORTION_WINDOWS;
pub use look::LINKS;
pub use seal::Put;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use granary_core::Timestamp;

use crate::aggregate::Sample;
use crate::clock::Partitions;
use crate::event::{Event, Input};
use crate::ids::id_of;
use crate::index::Index;
use crate::key::{Arrival, Stage};
use crate::keys::Keys;
use crate::pool::Pool;
use crate::reach::Ledger;
use crate::row::{Outcome, Output, Row, State};
use crate::rules::{Layout, Rules, length};
use crate::spec::Spec;

use closing::Closing;

/// One window step in one slot: takes inputs, gives rows, keeps its state in cells.
///
/// Before each input ask [`Operator::missing`] which cells must be supplied; then [`Operator::apply`] it. The operator
/// may be dropped at any time and rebuilt from the cells its commits wrote.
#[derive(Debug)]
pub struct Operator {
    spec: Arc<Spec>,
    rules: Rules,
    prefix: Box<[u8]>,
    keys: Keys,
    pool: Pool,
    index: Index,
    /// Keys changed since the last seal.
    dirty: Vec<u32>,
    root: Root,
    /// With a watermark per stream: when each key's next change falls due.
    queue: BinaryHeap<Reverse<(i64, u32)>>,
    /// Everything open is in memory (watermark per stream).
    is_resident: bool,
    /// How much silence has passed, ms.
    silence: i64,
    /// With a watermark per stream: how much silence had passed at the last event; the largest number once it was closed.
    heard: i64,
    /// Listed keys by the silence that had passed at their last event.
    silent: BinaryHeap<Reverse<(i64, u32)>>,
    /// The last commit the store has acknowledged.
    acknowledged: u64,
    /// Keys whose cells are in memory, in the order in which the eviction looks at them.
    hot: VecDeque<u32>,
    /// Keys with something due that is not published yet, by name, the next one last.
    due: Vec<u32>,
    /// Windows published in one step at most.
    portion: usize,
    /// Memory used again.
    windows: Vec<(i64, i64)>,
    /// With somebody who asks how far the step has come.
    ledger: Option<Box<Ledger>>,
}

/// What concerns all keys.
#[derive(Debug)]
struct Root {
    partitions: Partitions,
    /// The wall clock; the smallest time: it has shown nothing.
    now: i64,
    /// The input has ended.
    ended: bool,
    /// What the last input made due and is not published yet.
    closing: Closing,
    dirty: bool,
}

/// The present row of a window, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Peek<'a> {
    /// Where it stands.
    pub state: State,
    /// The watermark that decides it.
    pub watermark: Timestamp,
    /// The row as it would be published now: `revision` is the one of the last row published, or 0. `None` when there is no such
    /// window, or it is no longer kept.
    pub row: Option<Row<'a>>,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStats {
    /// The largest event time seen.
    pub last_event: Timestamp,
    /// The watermark that counts for the key.
    pub clock: Timestamp,
    /// Events accepted.
    pub events: u64,
    /// Copies refused.
    pub duplicates: u64,
    /// Events refused because their windows were closed.
    pub late: u64,
    /// Windows not closed, as far as they are in memory or listed.
    pub open_windows: u64,
}

impl Operator {
    /// A new one without any state in memory. Its cells' keys begin with `prefix` (the step). The spec must be free of
    /// mistakes.
    pub fn new(spec: Arc<Spec>, prefix: &[u8]) -> Operator {
        debug_assert!(spec.check().is_empty(), "{:?}", spec.check());
        let rules = Rules::new(&spec);
        let root = Root {
            partitions: Partitions::new(rules.partitions),
            now: i64::MIN,
            ended: false,
            closing: Closing::Nothing,
            dirty: false,
        };
        Operator {
            spec,
            rules,
            prefix: prefix.into(),
            keys: Keys::default(),
            pool: Pool::default(),
            index: Index::new(),
            dirty: Vec::new(),
            root,
            queue: BinaryHeap::new(),
            is_resident: false,
            silence: 0,
            heard: 0,
            silent: BinaryHeap::new(),
            acknowledged: 0,
            hot: VecDeque::new(),
            due: Vec::new(),
            portion: PORTION_WINDOWS,
            windows: Vec::new(),
            ledger: None,
        }
    }

    /// What it does.
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// The watermark for all keys (watermark per stream, or the wall clock with processing time).
    pub fn stream_watermark(&self) -> Timestamp {
        Timestamp(self.stream_w())
    }

    /// Applies one input. Nothing must be missing for it.
    ///
    /// # Panics
    /// When a cell is missing that had to be supplied: going on would give wrong results.
    pub fn apply(&mut self, input: &Input<'_>, out: &mut impl Output) -> Outcome {
        debug_assert!(
            !self.is_closing() || matches!(input, Input::GoOn),
            "what is due comes before the next input"
        );
        match *input {
            Input::Event(event) => return self.event(event, true, out),
            Input::Observe(event) => return self.event(event, false, out),
            Input::KeyWatermark { key, to } => {
                if self.rules.per_key {
                    let place = self.place(key);
                    self.advance_key(place, to.ms(), out);
                    self.settle(place);
                }
            }
            Input::CloseIdle { key } => self.close_idle(key, out),
            Input::CloseIdleStream => self.close_idle_stream(out),
            Input::PartitionWatermark { partition, to } => {
                self.change_stream(|partitions| partitions.observe(partition, to.ms()), out);
            }
            Input::PartitionIdle(partition) => {
                self.change_stream(|partitions| partitions.set_idle(partition, true), out);
            }
            Input::PartitionActive(partition) => {
                self.change_stream(|partitions| partitions.set_idle(partition, false), out);
            }
            Input::ProcessingTime(now) => self.processing_time(now.ms(), out),
            Input::End => self.end(),
            Input::GoOn => self.go_on(out),
        }
        Outcome::Accepted
    }

    fn event(&mut self, event: &Event<'_>, enters: bool, out: &mut impl Output) -> Outcome {
        if let (Some(guard), Some(logged_at)) = (self.rules.future_guard, event.logged_at)
            && event.time > logged_at + guard
        {
            return Outcome::Future;
        }
        self.heard = self.silence;
        let place = self.place(event.key);
        let time = if self.rules.processing { self.root.now } else { event.time.ms() };
        let outcome = if enters { self.take(place, event, time, out) } else { Outcome::Accepted };
        let key = self.keys.get_mut(place);
        key.last_event = time.max(key.last_event);
        if self.rules.idle_after.is_some() {
            key.mark = self.silence;
        }
        if self.rules.per_key {
            if let Some(to) = self.rules.watermark_after(time) {
                self.advance_key(place, to, out);
            }
            self.settle(place);
        } else {
            self.settle(place);
            if let Some(to) = self.rules.watermark_after(time).filter(|_| !self.rules.processing) {
                self.change_stream(|partitions| partitions.observe(event.partition, to), out);
            }
        }
        outcome
    }

    /// Puts an event into its windows and counts what became of it.
    fn take(&mut self, place: u32, event: &Event<'_>, time: i64, out: &mut impl Output) -> Outcome {
        let w = self.w(place);
        let Operator { rules, keys, pool, windows, root, .. } = self;
        let key = keys.get_mut(place);
        let mut stage = Stage { rules, pool, windows, w, now: root.now, out };
        let wants_id = rules.dedup_pane || rules.dedup_horizon.is_some();
        let arrival = Arrival {
            by: event.by,
            sample: Sample { values: event.values, time, arrival: key.events },
            id: event.id.filter(|_| wants_id).map(id_of),
            gap: event.gap.map(length),
        };
        let outcome = match rules.layout {
            Layout::Hopping { .. } | Layout::Cumulate { .. } | Layout::Global => {
                key.take_fixed(&arrival, &mut stage)
            }
            Layout::Session { gap, inclusive, per_event } => {
                let arrival = Arrival { gap: arrival.gap.filter(|_| per_event), ..arrival };
                key.take_session(gap, inclusive, &arrival, &mut stage)
            }
            Layout::Sliding { difference } => key.take_sliding(difference, &arrival, &mut stage),
            Layout::Count { size, slide } => key.take_counted(size, slide, &arrival, &mut stage),
        };
        match outcome {
            Outcome::Accepted | Outcome::PartiallyLate => key.events += 1,
            Outcome::Duplicate => key.duplicates += 1,
            Outcome::Late => key.late += 1,
            Outcome::Unassigned | Outcome::Future => {}
        }
        outcome
    }

    /// After a change: the key is dirty, listed as long as a result is to come, and queued for it.
    fn settle(&mut self, place: u32) {
        let key = self.keys.get_mut(place);
        key.flags.touched = true;
        if !key.flags.dirty {
            key.flags.dirty = true;
            self.dirty.push(place);
        }
        let listed = key.is_pending(&self.rules);
        if self.rules.idle_after.is_some() && listed && !key.flags.queued {
            key.flags.queued = true;
            key.mark = key.mark.min(self.silence);
            self.silent.push(Reverse((key.mark, place)));
        }
        self.index.set(&mut self.keys, place, listed);
        self.count(place, listed);
        if !self.rules.per_key {
            self.enqueue(place);
        }
    }

    /// The watermark that counts for a key.
    fn w(&self, place: u32) -> i64 {
        if self.root.ended {
            i64::MAX
        } else if self.rules.per_key {
            self.keys.get(place).clock
        } else {
            self.stream_w()
        }
    }

    fn stream_w(&self) -> i64 {
        if self.rules.processing { self.root.now.saturating_sub(1) } else { self.root.partitions.watermark() }
    }

    /// Where a key is whose cells were supplied.
    fn place(&mut self, name: &[u8]) -> u32 {
        let place = self.keys.find(name).filter(|place| self.keys.get(*place).flags.loaded);
        place.expect("missing cells are supplied before an input is applied")
    }
}
