//! Steps that compare events of a key with others: patterns and joins.

use std::sync::Arc;

use granary_window::join::{Join, Over};
use granary_window::pattern::Pattern;
use granary_window::track::Pace;

use super::expression::Expression;
use super::{Column, From, Plan, Step};

/// A pattern step.
#[derive(Debug)]
pub struct PatternStep {
    /// What is looked for.
    pub pattern: Arc<Pattern>,
    /// What an event must be for each stage; `None`: anything.
    pub conditions: Vec<Option<Expression>>,
    /// The columns that are kept of an event; rows show the first ones of them.
    pub kept: Vec<Column>,
    /// How many of them rows show.
    pub shown: usize,
    /// What is the same for patterns and joins.
    pub state: State,
    /// The columns that name an event, for copies to be refused; none without that.
    pub dedup: Vec<usize>,
}

/// A join step.
#[derive(Debug)]
pub struct JoinStep {
    /// What matches.
    pub join: Arc<Join>,
    /// Left and right.
    pub sides: [JoinSide; 2],
    /// The right event of which this is true deletes its key from the table.
    pub deleted: Option<Expression>,
    /// What is the same for patterns and joins.
    pub state: State,
}

/// A side of a join.
#[derive(Debug)]
pub struct JoinSide {
    /// What it reads from.
    pub from: From,
    /// The source at the beginning of its chain.
    pub source: usize,
    /// The columns that rows show.
    pub shown: Vec<Column>,
    /// The columns that name an event, for copies to be refused; none without that.
    pub dedup: Vec<usize>,
}

/// The state of a step.
#[derive(Debug)]
pub struct State {
    /// How often a person has decided to drop it.
    pub drops: u32,
    /// The prefix of its cells' keys: those it had before its state was dropped have another.
    pub prefix: Box<[u8]>,
}

impl State {
    /// Of the step with this name.
    pub(crate) fn new(step: &str, drops: u32) -> State {
        State { drops, prefix: super::prefix(step, drops) }
    }
}

/// Stages have the columns of their events at these places, by the stage.
const STAGE_COLUMNS: usize = 1 << 20;

/// The columns of a stage's event, as conditions of later stages see them.
pub(crate) fn columns_of_stage(stage: usize, columns: &[Column]) -> Vec<Column> {
    let place =
        |column: &Column| Column { index: (stage + 1) * STAGE_COLUMNS + column.index, ..column.clone() };
    columns.iter().map(place).collect()
}

/// Whose column it is: an earlier stage's or the event's own, and which.
pub(crate) fn column_of(index: usize) -> (Option<usize>, usize) {
    ((index / STAGE_COLUMNS).checked_sub(1), index % STAGE_COLUMNS)
}

impl Plan {
    /// The clocks of a side of a step.
    pub(crate) fn pace(&self, source: usize) -> Pace {
        Pace::of(&self.sources[source].watermark)
    }

    /// What a person should know of a pattern or a join before it runs.
    pub(super) fn notice_of(&self, step: &Step) -> Option<String> {
        let source = |source: usize| &self.sources[source];
        let never = |place: usize| {
            let watermark = source(place).watermark;
            watermark.idle_after.is_none() && watermark.per == granary_window::Per::Key
        };
        let places = match (step.pattern(), step.join()) {
            (Some(_), _) => vec![step.source],
            (_, Some(join)) => join.sides.iter().map(|side| side.source).collect(),
            _ => return None,
        };
        let place = places.into_iter().find(|place| never(*place))?;
        Some(format!(
            "step `{}`: source `{}` has no `idle_after`, so what is due of a key that falls silent waits for its next event \
             or the end of the input",
            step.name,
            source(place).name
        ))
    }
}

impl PatternStep {
    /// What its state depends on.
    pub(super) fn shape(&self) -> String {
        let Pattern { stages, within, skip, timeouts } = &*self.pattern;
        let stages: Vec<String> = stages
            .iter()
            .zip(&self.conditions)
            .map(|(stage, condition)| {
                let condition = condition.as_ref().map_or("", Expression::source);
                format!("{stage:?}:{condition:?}").replace(' ', "")
            })
            .collect();
        format!(
            "stages=[{}] within={within:?} skip={skip:?} timeouts={timeouts} kept={} shown={} dedup={:?}",
            stages.join(","),
            names(&self.kept),
            self.shown,
            self.dedup
        )
    }
}

impl JoinStep {
    /// What its state depends on.
    pub(super) fn shape(&self) -> String {
        let Join { over, kind, allowed_lateness } = &*self.join;
        let over = match over {
            Over::Interval { .. } => format!("{over:?}").replace(' ', ""),
            over => format!("{over:?}"),
        };
        let [left, right] = &self.sides;
        let deleted = self.deleted.as_ref().map_or("", Expression::source);
        format!(
            "over={over} type={kind:?} lateness={allowed_lateness:?} left={} right={} dedup={:?},{:?} deleted={deleted:?}",
            names(&left.shown),
            names(&right.shown),
            left.dedup,
            right.dedup
        )
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| &*column.name).collect::<Vec<_>>().join(",")
}
