//! A pattern step as it is asked for.

use std::sync::Arc;

use granary_core::Span;
use granary_window::pattern::{Pattern, Skip, Stage};

use super::{Written, column, compile, in_words, is_condition};
use crate::file::{Mistakes, Place, is_name};
use crate::plan::expression::{Expression, Group};
use crate::plan::{Column, EventTime, PatternStep, SPAN_MAX, Source, State, column_of, columns_of_stage};

/// Stages of a pattern.
const STAGES_MAX: usize = 32;
/// The largest number of events that a stage asks for.
pub(crate) const TIMES_MAX: u32 = 1_000;
/// Names that rows have for themselves.
const RESERVED: [&str; 5] = ["pattern", "start", "end", "match", "reason"];
/// Names that rows have for each event.
const OF_EVENT: [&str; 2] = ["id", "time"];

/// A pattern.
#[derive(Debug)]
pub(crate) struct AskedPattern<'a> {
    /// Where it stands.
    pub place: Option<Place>,
    /// Where its stages stand.
    pub stages_place: Option<Place>,
    pub stages: Vec<AskedStage<'a>>,
    /// How long a match takes, and where that stands.
    pub within: Option<(Span, Option<Place>)>,
    /// `None` when it could not be read.
    pub skip: Option<AskedSkip<'a>>,
    /// Whether partial matches that ran out of time give rows, and where that stands.
    pub timeouts: Option<(bool, Option<Place>)>,
    /// The fields that rows show of each event.
    pub fields: Vec<Written<'a>>,
    /// The columns that name an event.
    pub dedup: Vec<usize>,
}

/// One stage of it.
#[derive(Debug)]
pub(crate) struct AskedStage<'a> {
    /// All but its name.
    pub stage: Stage,
    /// An absent stage has none.
    pub name: Option<Written<'a>>,
    pub when: Option<Written<'a>>,
}

/// What a match takes away.
#[derive(Debug)]
pub(crate) enum AskedSkip<'a> {
    Plain(Skip),
    /// Up to the first event of a stage.
    ToFirst(Written<'a>),
    /// Up to its last event.
    ToLast(Written<'a>),
}

impl AskedPattern<'_> {
    /// The step it becomes. `source` and `columns` are missing when what it reads from could not be read.
    pub fn step(
        self,
        state: State,
        source: Option<&Source>,
        columns: Option<&[Column]>,
        mistakes: &mut Mistakes,
    ) -> Option<PatternStep> {
        if let Some((within, place)) = self.within
            && (within.ms() == 0 || within > SPAN_MAX)
        {
            mistakes.add(place, format!("within: more than nothing, and {SPAN_MAX} at most, expected"));
        }
        if let (Some((true, place)), None) = (self.timeouts, self.within) {
            mistakes.add(place, "timeouts: without `within` no time runs out".to_owned());
        }
        if self.stages.len() > STAGES_MAX {
            mistakes.add(self.stages_place, format!("stages: {STAGES_MAX} at most"));
        }
        let conditions = conditions(&self.stages, columns, mistakes);
        let skip = self.skip.as_ref().and_then(|skip| skip.stage(&self.stages, mistakes));
        let mut kept = shown(&self.fields, source, columns, mistakes);
        let key = source.and_then(|source| source.columns.iter().find(|column| column.index == source.key));
        if let Some(key) = key.filter(|key| RESERVED.contains(&&*key.name)) {
            let message = format!(
                "the key `{}` has a name that every row of a pattern has: name the field otherwise",
                key.name
            );
            mistakes.add(self.place, message);
        }
        let within = self.within.map(|(within, _)| within);
        let timeouts = self.timeouts.is_some_and(|(timeouts, _)| timeouts);
        let stages = self.stages.into_iter().map(|asked| asked.stage).collect();
        let pattern = Pattern { stages, within, skip: skip?, timeouts };
        for mistake in pattern.check() {
            mistakes.add(self.stages_place, format!("{}: {}", mistake.field, mistake.message));
        }
        let shown = kept.len();
        keep(&mut kept, &conditions, columns?);
        Some(PatternStep { pattern: Arc::new(pattern), conditions, kept, shown, state, dedup: self.dedup })
    }
}

impl AskedSkip<'_> {
    fn stage(&self, stages: &[AskedStage<'_>], mistakes: &mut Mistakes) -> Option<Skip> {
        let mut stage = |written: &Written<'_>| {
            let found = stages.iter().position(|asked| asked.is_called(written.text));
            if found.is_none() {
                let names = stages.iter().filter(|asked| !asked.stage.is_absent);
                let names: Vec<&str> = names.map(|asked| &*asked.stage.name).collect();
                mistakes.unknown(written.place, "stage", written.text, &names);
            }
            found
        };
        match self {
            AskedSkip::Plain(skip) => Some(*skip),
            AskedSkip::ToFirst(written) => stage(written).map(Skip::ToFirst),
            AskedSkip::ToLast(written) => stage(written).map(Skip::ToLast),
        }
    }
}

impl AskedStage<'_> {
    fn is_called(&self, name: &str) -> bool {
        !self.stage.is_absent && *self.stage.name == *name
    }

    /// What is wrong with it by itself.
    fn check(&self, columns: Option<&[Column]>, mistakes: &mut Mistakes) {
        let Stage { times_min, times_max, .. } = self.stage;
        if times_min.max(times_max.unwrap_or(0)) > TIMES_MAX {
            mistakes.add(None, format!("times: {TIMES_MAX} at most"));
        }
        let takes_nothing = Stage { contiguity: self.stage.contiguity, is_absent: true, ..Stage::new("") };
        if self.stage.is_absent && (self.name.is_some() || self.stage != takes_nothing) {
            let place = self.name.and_then(|name| name.place);
            mistakes.add(place, "an absent stage takes no event and has no name".to_owned());
        }
        let Some(name) = self.name.filter(|_| !self.stage.is_absent) else { return };
        if !is_name(name.text) || name.text.contains('-') {
            let message = format!("stage `{}`: a letter, then letters, digits or `_` expected", name.text);
            mistakes.add(name.place, message);
        }
        if columns.is_some_and(|columns| columns.iter().any(|column| *column.name == *name.text)) {
            let message = format!("`{}` is the name of a field: call the stage otherwise", name.text);
            mistakes.add(name.place, message);
        }
    }
}

/// The conditions of the stages, each on an event beside those that the stages before have taken.
fn conditions(
    stages: &[AskedStage<'_>],
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Vec<Option<Expression>> {
    let mut conditions = Vec::new();
    for (i, asked) in stages.iter().take(STAGES_MAX).enumerate() {
        let mut own = Mistakes::default();
        asked.check(columns, &mut own);
        let when = asked.when.zip(columns);
        conditions.push(when.and_then(|(when, columns)| condition(when, &stages[..i], columns, &mut own)));
        mistakes.add_part(&format!("stage {i}"), own);
    }
    conditions
}

fn condition(
    written: Written<'_>,
    before: &[AskedStage<'_>],
    columns: &[Column],
    mistakes: &mut Mistakes,
) -> Option<Expression> {
    let named = before.iter().enumerate().filter(|(_, asked)| !asked.stage.is_absent);
    let taken: Vec<(&str, Vec<Column>)> =
        named.map(|(i, asked)| (&*asked.stage.name, columns_of_stage(i, columns))).collect();
    let groups: Vec<Group<'_>> = taken.iter().map(|(name, columns)| Group { name, columns }).collect();
    let (expression, kind) = compile(written, columns, &groups, mistakes)?;
    if !is_condition(kind) {
        let kind = in_words(kind);
        let message = format!("when: true or false expected, the expression gives {kind}");
        mistakes.add(written.place, message);
    }
    Some(expression)
}

/// What rows show of each event beside its id and time.
fn shown(
    fields: &[Written<'_>],
    source: Option<&Source>,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Vec<Column> {
    let mut shown: Vec<Column> = Vec::new();
    for field in fields {
        let Some(found) = columns.and_then(|columns| column(*field, columns, mistakes)) else { continue };
        let is_of_event = OF_EVENT.contains(&&*found.name);
        if shown.contains(&found) {
            mistakes.add(field.place, format!("`{}` stands twice", found.name));
        } else if is_of_event && !is_shown_anyway(source, &found) {
            mistakes.add(field.place, format!("`{}` is a name every event of a row has", found.name));
        } else if !is_of_event {
            shown.push(found);
        }
    }
    shown
}

/// Whether rows show this column of every event anyway.
fn is_shown_anyway(source: Option<&Source>, column: &Column) -> bool {
    source.is_some_and(|source| {
        source.id == Some(column.index) || source.time == EventTime::Column(column.index)
    })
}

/// What conditions need when they look at two events is kept, too.
fn keep(kept: &mut Vec<Column>, conditions: &[Option<Expression>], columns: &[Column]) {
    for expression in conditions.iter().flatten().filter(|expression| expression.reads_groups()) {
        for index in expression.reads() {
            let (_, index) = column_of(index);
            let known = columns.iter().find(|column| column.index == index);
            if let Some(column) = known.filter(|column| !kept.iter().any(|kept| kept.index == column.index)) {
                kept.push(column.clone());
            }
        }
    }
}
