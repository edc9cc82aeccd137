//! Totals over the rows of windows: a step whose events are what another one has published, under another key.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | inputs and what they do |
//! | `pane` | the rows of one window, in cells |
//! | `cells` | which cells are needed, taking them, writing those that changed, what leaves memory |
//! | `gauge` | how far all slots have come |
//!
//! Rows are *upserts*: a corrected row takes the place of the one before it, a withdrawn one leaves. So a pane holds its rows, each
//! in its newest version, and what it tells is found from them when it is told: exact for every aggregate, also for those that
//! nothing can be taken out of, and the same in whatever order rows came.
//!
//! Its watermark comes with the rows, in the stream they come in: slots report how far they have come ([`crate::reach`]), a
//! [`Gauge`] finds how far all of them have, and tells each.
//!
//! Invariant: what comes out depends on the inputs alone, not on when cells were stored and loaded.

mod cells;
mod gauge;
mod pane;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use foldhash::fast::FixedState;
use granary_core::{Span, Timestamp};
use hashbrown::HashMap;

use crate::Corrupt;
use crate::agenda::{Agenda, NOT_LISTED};
use crate::aggregate::{Accumulator, Plan, Sample};
use crate::encode::{Reader, put_bytes};
use crate::rank::{Ties, best};
use crate::row::{Reason, Row, State};
use crate::rules::{floor_rest, lateness_ms, length};
use crate::spec::{Aggregate, Lateness};
use crate::value::{Datum, Value, Values, ValuesOf, order};

pub use crate::reach::{Grid, Reach};
use gauge::Teller;
pub use gauge::{Gauge, Report};
pub use pane::ROWS_MAX;
use pane::{Held, Pane};

/// What a roll-up does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The windows.
    pub over: Over,
    /// How long a window that is due still takes rows.
    pub allowed_lateness: Lateness,
    /// What is told of a window.
    pub told: Told,
}

/// The windows of a roll-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Those of the rows: rows of one window come together.
    Rows,
    /// A row is in the windows that hold the last millisecond of its own.
    Hopping {
        /// Their length.
        size: Span,
        /// From start to start, `size` at most.
        slide: Span,
        /// Where one of them starts, ms.
        offset_ms: i64,
    },
}

/// What is told of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Aggregates over the values of its rows.
    Aggregates(Vec<Aggregate>),
    /// The rows with the greatest values, or the least. Those without a value take no part.
    Best {
        /// How many.
        n: usize,
        /// Who shares the last place.
        ties: Ties,
        /// The place of the value among the row's.
        by: usize,
        /// The least instead of the greatest.
        is_least: bool,
    },
}

/// Windows that a row is in at most.
pub const WINDOWS_MAX: u64 = 1_000;

impl Spec {
    /// The ends of its windows, when those of the rows are on this one.
    pub fn grid(&self, of_rows: Grid) -> Grid {
        match self.over {
            Over::Rows => of_rows,
            Over::Hopping { size, slide, offset_ms } => {
                Grid::new(slide, offset_ms.saturating_add(length(size)))
            }
        }
    }

    fn due(end_ms: i64) -> i64 {
        end_ms.saturating_sub(1)
    }

    /// The watermark at which a window closes.
    fn close(&self, end_ms: i64) -> i64 {
        lateness_ms(self.allowed_lateness).map_or(i64::MAX, |late| Spec::due(end_ms).saturating_add(late))
    }

    fn windows(&self, start: Timestamp, end: Timestamp) -> Vec<(i64, i64)> {
        let Over::Hopping { size, slide, offset_ms } = self.over else { return vec![(start.ms(), end.ms())] };
        let (size, slide, last) = (length(size), length(slide), Spec::due(end.ms()));
        let newest = last.saturating_sub(floor_rest(last, offset_ms, slide));
        let starts = (0..).map(|n: i64| newest.saturating_sub(n.saturating_mul(slide)));
        let starts = starts.take_while(|start| start.saturating_add(size) > last);
        let mut windows: Vec<_> = starts.map(|start| (start, start.saturating_add(size))).collect();
        windows.reverse();
        windows
    }
}

/// A row of the step before.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The key it comes under here.
    pub key: &'a [u8],
    /// The further segments.
    pub by: &'a [u8],
    /// Its window.
    pub start: Timestamp,
    /// The first time after it.
    pub end: Timestamp,
    /// What names it, the same for all its versions.
    pub id: &'a [u8],
    /// What it holds; `None`: it is withdrawn.
    pub values: Option<&'a [Value<'a>]>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in its windows.
    Accepted,
    /// All its windows were closed.
    Late,
    /// A window of it has as many rows as it may have.
    Overflow,
}

/// Takes what a roll-up tells.
pub trait Output {
    /// A row. Of the best its values are none, and `best` holds them: the values of each, in their order.
    fn result(&mut self, row: &Row<'_>, best: Option<&[&[Datum]]>);
}

/// A roll-up in one slot.
///
/// Before each input ask for the cells it needs, [`Rollup::missing`], [`Rollup::missing_gauge`] or [`Rollup::missing_due`], and
/// supply them. While [`Rollup::is_due`] the next portion comes before any other input.
#[derive(Debug)]
pub struct Rollup {
    spec: Arc<Spec>,
    plan: Plan,
    prefix: Box<[u8]>,
    panes: HashMap<Box<[u8]>, Pane, FixedState>,
    /// Panes of which chunks are still to be supplied.
    loading: HashMap<Box<[u8]>, Pane, FixedState>,
    agenda: Agenda,
    gauge: Gauge,
    teller: Teller,
    dirty: Vec<Box<[u8]>>,
    /// Cells of panes that have closed since the last seal.
    deleted: Vec<Vec<u8>>,
    bytes: usize,
    acknowledged: u64,
    /// Accumulators, used again.
    room: Vec<Accumulator>,
}

impl Rollup {
    /// One without any state in memory, of a cluster with so many slots. The keys of its cells begin with `prefix`.
    pub fn new(spec: Arc<Spec>, slots: u16, prefix: &[u8]) -> Rollup {
        let plan = match &spec.told {
            Told::Aggregates(aggregates) => Plan::new(aggregates),
            Told::Best { .. } => Plan::new(&[]),
        };
        Rollup {
            spec,
            plan,
            prefix: prefix.into(),
            panes: HashMap::default(),
            loading: HashMap::default(),
            agenda: Agenda::new(&[prefix, b"A"].concat(), Span(1)),
            gauge: Gauge::new(slots),
            teller: Teller::default(),
            dirty: Vec::new(),
            deleted: Vec::new(),
            bytes: 0,
            acknowledged: 0,
            room: Vec::new(),
        }
    }

    /// Rows to come have later times, as far as slots have told.
    pub fn watermark(&self) -> Timestamp {
        match self.agenda.clock() {
            Timestamp::MIN => Timestamp::MIN,
            clock => Timestamp(clock.ms() - 1),
        }
    }

    /// All slots have come this far. What that makes due follows with [`Rollup::go_on`].
    pub fn advance(&mut self, watermark: Timestamp) {
        self.agenda.set_clock(Timestamp(watermark.ms().saturating_add(1)));
    }

    /// How far it has come itself, for one that reads its rows; `None` while more is due than was told.
    pub fn reach(&self) -> Option<Reach> {
        (!self.is_due()).then(|| Reach { watermark: self.watermark(), is_quiet: false })
    }

    /// Whether something is due.
    pub fn is_due(&self) -> bool {
        self.agenda.is_due()
    }

    /// A row arrives.
    ///
    /// # Panics
    /// When [`Rollup::missing`] has something missing for it.
    pub fn row(&mut self, arrival: &Arrival<'_>, out: &mut impl Output) -> Outcome {
        let w = self.watermark().ms();
        let mut outcome = Outcome::Late;
        for (start, end) in self.spec.windows(arrival.start, arrival.end) {
            if w >= self.spec.close(end) {
                continue;
            }
            let name = name(start, end, arrival.key, arrival.by);
            let time_ms = Spec::due(arrival.end.ms());
            let pane =
                self.panes.get_mut(&name[..]).expect("missing cells are supplied before a row is applied");
            if !pane.put(arrival.id, time_ms, arrival.values) {
                return Outcome::Overflow;
            }
            outcome = Outcome::Accepted;
            if Spec::due(end) <= w {
                self.tell(&name, Reason::Late, out);
            }
            self.settle(&name, end);
        }
        outcome
    }

    /// Tells the next portion of what is due: the panes of a page.
    pub fn go_on(&mut self, out: &mut impl Output) {
        let Some(due) = self.agenda.take() else { return };
        let w = self.watermark().ms();
        for name in &due.keys {
            let Some(pane) = self.panes.get_mut(name).filter(|pane| pane.listed == due.date) else {
                continue;
            };
            pane.listed = NOT_LISTED;
            let Ok(Named { end, .. }) = named(name) else { continue };
            if w >= Spec::due(end) && !pane.is_due {
                self.tell(name, Reason::OnTime, out);
            }
            if w >= self.spec.close(end) {
                self.close(name);
            } else {
                self.settle(name, end);
            }
        }
    }

    /// A pane has changed: it is listed for what comes next, and written with the next commit.
    fn settle(&mut self, name: &[u8], end: i64) {
        let Some(pane) = self.panes.get_mut(name) else { return };
        let next = if pane.is_due { self.spec.close(end) } else { Spec::due(end) };
        if next != i64::MAX {
            self.agenda.list(name, &mut pane.listed, Timestamp(next));
        }
        let now = pane.memory_bytes(name);
        self.bytes = self.bytes - std::mem::replace(&mut pane.bytes, now) + now;
        pane.is_touched = true;
        if !std::mem::replace(&mut pane.is_dirty, true) {
            self.dirty.push(name.into());
        }
    }

    /// Tells what a pane holds now.
    fn tell(&mut self, name: &[u8], reason: Reason, out: &mut impl Output) {
        let Ok(Named { start, end, key, by }) = named(name) else { return };
        let Some(pane) = self.panes.get_mut(name) else { return };
        pane.is_due = true;
        let stands = !pane.is_empty();
        if !stands && !pane.stands {
            return; // nothing was told, and nothing is there
        }
        let reason = if stands { reason } else { Reason::Delete };
        let revision = pane.revision;
        pane.revision = revision.saturating_add(1);
        pane.stands = stands;
        let (start, end) = (Timestamp(start), Timestamp(end));
        let row = Row { key, by, start, end, reason, op: None, revision, values: Values(ValuesOf::None) };
        if !stands {
            return out.result(&row, None);
        }
        show(&self.spec, (&self.plan, &mut self.room), pane, &row, out);
    }

    /// The present row of a window: what it would tell now, with the last revision. Appends to `cells` and answers `None` when
    /// cells are missing.
    pub fn peek(
        &mut self,
        (key, by): (&[u8], &[u8]),
        (start, end): (Timestamp, Timestamp),
        cells: &mut Vec<Vec<u8>>,
        out: &mut impl Output,
    ) -> Option<State> {
        let name = name(start.ms(), end.ms(), key, by);
        let before = cells.len();
        self.missing_root(cells);
        self.missing_pane(&name, cells);
        if cells.len() > before {
            return None;
        }
        let w = self.watermark().ms();
        let (state, reason) = match end.ms() {
            end if w >= self.spec.close(end) => (State::Closed, Reason::Final),
            end if w >= Spec::due(end) => (State::Due, Reason::OnTime),
            _ => (State::Open, Reason::Early),
        };
        if let Some(pane) = self.panes.get(&name[..]).filter(|pane| !pane.is_empty()) {
            let revision = pane.revision.saturating_sub(1);
            let row = Row { key, by, start, end, reason, op: None, revision, values: Values(ValuesOf::None) };
            show(&self.spec, (&self.plan, &mut self.room), pane, &row, out);
        }
        Some(state)
    }

    fn close(&mut self, name: &[u8]) {
        let Some(pane) = self.panes.remove(name) else { return };
        self.bytes -= pane.bytes;
        if pane.is_stored {
            let chunks: Vec<Vec<u8>> =
                pane.stored_chunks().map(|chunk| self.chunk_cell(name, chunk)).collect();
            self.deleted.extend(chunks);
            self.deleted.push(self.pane_cell(name));
        }
    }
}

/// Hands what a pane holds to `out`, in a row that has all but its values.
fn show(
    spec: &Spec,
    (plan, room): (&Plan, &mut Vec<Accumulator>),
    pane: &Pane,
    row: &Row<'_>,
    out: &mut impl Output,
) {
    let live = pane.live();
    match spec.told {
        Told::Best { n, ties, by, is_least } => {
            out.result(row, Some(&ranked(&live, n, ties, by, is_least)));
        }
        Told::Aggregates(_) => {
            plan.reset(room);
            for (arrival, (held, values)) in live.iter().enumerate() {
                let values: Vec<Value<'_>> = values.iter().map(Datum::value).collect();
                let (time, arrival) = (held.time_ms, arrival as u64);
                plan.accumulate(room, &Sample { values: &values, time, arrival });
            }
            out.result(&Row { values: Values(ValuesOf::Live(plan, room)), ..*row }, None);
        }
    }
}

/// The rows of the first places.
fn ranked<'a>(
    live: &[(&'a Held, &'a [Datum])],
    n: usize,
    ties: Ties,
    by: usize,
    is_least: bool,
) -> Vec<&'a [Datum]> {
    let value = |values: &'a [Datum]| values.get(by).map_or(Value::Null, Datum::value);
    let mut rows: Vec<(&[u8], &[Datum])> = live
        .iter()
        .filter(|(_, values)| !value(values).is_null())
        .map(|(held, values)| (&*held.id, *values))
        .collect();
    let compare = |a: &&'a [Datum], b: &&'a [Datum]| -> Ordering {
        let ordering = order(value(a), value(b));
        if is_least { ordering.reverse() } else { ordering }
    };
    best(&mut rows, n, ties, compare);
    rows.into_iter().map(|(_, values)| values).collect()
}

/// What a pane's name says.
struct Named<'a> {
    start: i64,
    end: i64,
    key: &'a [u8],
    by: &'a [u8],
}

/// The name of a pane: its end first, so that those of one time lie together.
fn name(start: i64, end: i64, key: &[u8], by: &[u8]) -> Vec<u8> {
    let sorted = |ms: i64| (ms as u64 ^ 1 << 63).to_be_bytes();
    let mut name = [sorted(end), sorted(start)].concat();
    put_bytes(&mut name, key);
    put_bytes(&mut name, by);
    name
}

fn named(name: &[u8]) -> Result<Named<'_>, Corrupt> {
    let ms = |bytes: [u8; 8]| (u64::from_be_bytes(bytes) ^ 1 << 63) as i64;
    let mut reader = Reader::new(name);
    let (end, start) = (ms(reader.array()?), ms(reader.array()?));
    let (key, by) = (reader.bytes()?, reader.bytes()?);
    reader.finish()?;
    Ok(Named { start, end, key, by })
}
