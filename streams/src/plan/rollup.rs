//! Totals over the rows of windows: what such a step reads, and under which key.

use std::sync::Arc;

use granary_core::{Span, Timestamp};
use granary_window::rollup::{Grid, Over, Spec, Told};
use granary_window::{Accumulation, Function, Window};

use super::{Column, ColumnKind, Plan, Source, State, Step, WindowStep};

/// The routing key of a roll-up that takes all rows together.
pub(crate) const ALL: &str = "all";
/// The name of that key in rows.
const KEY: &str = "key";
/// Ends of windows that are on no grid are looked for this often, in the time of the events.
const GRID_OF_OTHERS: Span = Span(1_000);

/// The stream in which rows come to a roll-up: one partition for each slot.
pub(crate) fn stream_of(step: &str) -> String {
    format!("rolled.{step}")
}

/// A roll-up: totals over the rows of another step.
#[derive(Debug)]
pub struct RollupStep {
    /// The step whose rows it reads.
    pub of: usize,
    /// 1 over windows, one more for each roll-up between.
    pub level: u16,
    /// The member of the rows that is the routing key; `None`: all rows have the same.
    pub key: Option<Column>,
    /// The members below it.
    pub by: Vec<Column>,
    /// What it does.
    pub spec: Arc<Spec>,
    /// The members that are sent, in the order of a row's values.
    pub reads: Vec<Column>,
    /// How many of them the rows of a ranking show.
    pub shown: usize,
    /// The ends of its windows.
    pub grid: Grid,
    /// The length of its windows, when all have one.
    pub size: Option<Span>,
    /// Its state.
    pub state: State,
}

/// What the rows of a step hold besides `revision` and `reason`. A column's index is its place among the members.
#[derive(Debug)]
pub(crate) struct Rows {
    /// `window_start` and `window_end`, the key, what is below it, the values.
    pub members: Vec<Column>,
    /// How many members are below the key.
    pub by: usize,
    /// The ends of the windows.
    pub grid: Grid,
    /// Their length, when all have one.
    pub size: Option<Span>,
}

/// The place of the key among the members of a row.
const KEY_AT: usize = 2;

impl Rows {
    /// Of the step at this place; `None` when it has no rows of windows.
    pub fn of(sources: &[Source], steps: &[Step], place: usize) -> Option<Rows> {
        let step = &steps[place];
        if let Some(window) = step.window() {
            let source = &sources[step.source];
            let key = source.columns.iter().find(|column| column.index == source.key);
            let key = key.map_or((KEY, ColumnKind::Text), |key| (&*key.name, key.kind));
            let aggregates = window.spec.aggregates.iter();
            let values = aggregates.map(|aggregate| (&*aggregate.name, kind_of(aggregate.function)));
            let size = match window.spec.window {
                Window::Tumbling { size, .. } | Window::Hopping { size, .. } => Some(size),
                _ => None,
            };
            return Some(Rows::new(key, &window.by, values, (grid_of(window), size)));
        }
        let rollup = step.rollup()?;
        let key = rollup.key.as_ref().map_or((KEY, ColumnKind::Text), |key| (&*key.name, key.kind));
        let aggregates = match &rollup.spec.told {
            Told::Aggregates(aggregates) => &aggregates[..],
            Told::Best { .. } => &[],
        };
        let values = aggregates.iter().map(|aggregate| (&*aggregate.name, kind_of(aggregate.function)));
        Some(Rows::new(key, &rollup.by, values, (rollup.grid, rollup.size)))
    }

    fn new<'a>(
        key: (&'a str, ColumnKind),
        by: &'a [Column],
        values: impl Iterator<Item = (&'a str, ColumnKind)>,
        (grid, size): (Grid, Option<Span>),
    ) -> Rows {
        let bounds = [("window_start", ColumnKind::Int), ("window_end", ColumnKind::Int)];
        let by_names = by.iter().map(|column| (&*column.name, column.kind));
        let members = bounds.into_iter().chain([key]).chain(by_names).chain(values).enumerate();
        let members =
            members.map(|(index, (name, kind))| Column { name: name.into(), index, kind }).collect();
        Rows { members, by: by.len(), grid, size }
    }

    /// The key and what is below it: the members that all versions of a row agree on.
    pub fn names(&self) -> &[Column] {
        &self.members[KEY_AT..=KEY_AT + self.by]
    }

    pub fn key(&self) -> &Column {
        &self.members[KEY_AT]
    }

    pub fn by(&self) -> &[Column] {
        &self.members[KEY_AT + 1..=KEY_AT + self.by]
    }

    pub fn values(&self) -> &[Column] {
        &self.members[KEY_AT + 1 + self.by..]
    }

    /// What a member is, by its place.
    pub fn member(&self, place: usize) -> Member {
        match place {
            0 => Member::Start,
            1 => Member::End,
            KEY_AT => Member::Key,
            _ if place <= KEY_AT + self.by => Member::By(place - KEY_AT - 1),
            _ => Member::Value(place - KEY_AT - 1 - self.by),
        }
    }
}

/// A member of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    Start,
    End,
    Key,
    By(usize),
    Value(usize),
}

fn kind_of(function: Function) -> ColumnKind {
    match function {
        Function::Count | Function::Distinct | Function::ApproxDistinct => ColumnKind::Int,
        Function::Avg | Function::Variance | Function::Quantile(_) => ColumnKind::Double,
        _ => ColumnKind::Any,
    }
}

fn grid_of(window: &WindowStep) -> Grid {
    match window.spec.window {
        Window::Tumbling { size, offset } => Grid::new(size, offset),
        Window::Hopping { size, slide, offset } => {
            let size_ms = i64::try_from(size.ms()).unwrap_or(i64::MAX);
            Grid::new(slide, offset.saturating_add(size_ms))
        }
        Window::Cumulate { step, offset, .. } => Grid::new(step, offset),
        _ => Grid::new(GRID_OF_OTHERS, 0),
    }
}

/// Why the rows of this step cannot be rolled up, if they cannot.
pub(crate) fn unfit(step: &Step, over: Option<Over>) -> Option<String> {
    let name = &step.name;
    if let Some(rollup) = step.rollup() {
        let is_ranking = matches!(rollup.spec.told, Told::Best { .. });
        return is_ranking
            .then(|| format!("the rows of `{name}` are lists: read those of the step before it"));
    }
    let spec = &step.window()?.spec;
    if matches!(spec.window, Window::Count { .. } | Window::Global) {
        return Some(format!("the windows of `{name}` have no end"));
    }
    if spec.accumulation != Accumulation::Accumulating {
        return Some(format!(
            "the rows of `{name}` are parts of results: it needs `accumulation: accumulating`"
        ));
    }
    let overlap =
        matches!(spec.window, Window::Hopping { .. } | Window::Cumulate { .. } | Window::Sliding { .. });
    (overlap && over.is_some_and(|over| over != Over::Rows)).then(|| {
        format!(
            "the windows of `{name}` overlap, so an event would count several times: write `window: rows`"
        )
    })
}

impl RollupStep {
    /// A text that is equal for equal state.
    pub(crate) fn shape(&self, of: &str) -> String {
        let names = |columns: &[Column]| columns.iter().map(|c| &*c.name).collect::<Vec<_>>().join(",");
        let key = self.key.as_ref().map_or("none", |key| &*key.name);
        let over = format!("{:?}", self.spec.over).replace(' ', "");
        // What is told is found from the rows each time: only which values they have must not change.
        format!("1 rollup of={of} key={key} by={} over={over} reads={}", names(&self.by), names(&self.reads))
    }
}

impl Plan {
    /// The roll-ups, with their places among the steps. Their topics are sources behind all others of the plan.
    pub fn rollups(&self) -> impl Iterator<Item = (usize, &RollupStep)> {
        self.steps.iter().enumerate().filter_map(|(place, step)| Some((place, step.rollup()?)))
    }

    /// The streams of [`Plan::rollups`], in their order.
    pub fn rolled(&self) -> impl Iterator<Item = granary_cluster::StreamId> + '_ {
        let streams = self.rollups().map(|(place, _)| self.stream(&stream_of(&self.steps[place].name)));
        streams.map(|stream| stream.expect("each roll-up of a plan has its stream"))
    }

    /// The streams that people read: all but what comes to roll-ups.
    pub fn shown_streams(&self) -> impl Iterator<Item = &str> {
        let rolled: Vec<_> = self.rolled().collect();
        let streams = (0_u16..).map(granary_cluster::StreamId).zip(self.streams());
        streams.filter(move |(id, _)| !rolled.contains(id)).map(|(_, name)| name.as_str())
    }

    /// How many sources a slot reads for this plan: those it names, their strays, what rules read again, the rows of roll-ups.
    pub fn source_count(&self) -> u16 {
        (self.rolled_from + self.rollups().count()) as u16
    }

    /// The roll-up, by its place among them, that a record of this source comes to.
    #[inline]
    pub(crate) fn rollup_of(&self, source: granary_cluster::SourceId) -> Option<usize> {
        usize::from(source.0).checked_sub(self.rolled_from)
    }

    /// The source of a roll-up's rows, by its place among them.
    pub fn rollup_source(&self, place: usize) -> granary_cluster::SourceId {
        granary_cluster::SourceId((self.rolled_from + place) as u16)
    }

    /// The highest level of its roll-ups.
    pub fn levels(&self) -> u16 {
        self.rollups().map(|(_, rollup)| rollup.level).max().unwrap_or(0)
    }
}

/// The time of a record that says how far slots have come.
pub(crate) fn time_of(watermark: Timestamp) -> Timestamp {
    // the range of a log's times: 1970 to 9999
    Timestamp(watermark.ms().clamp(0, 253_402_300_799_999))
}
