//! A join step as it is asked for.

use std::sync::Arc;

use granary_core::Span;
use granary_window::Lateness;
use granary_window::join::{Join, Kind, Over};

use super::{Written, column, compile, in_words, is_condition};
use crate::file::{Mistakes, Place};
use crate::plan::{Column, ColumnKind, From, JoinSide, JoinStep, SPAN_MAX, Source, State};

/// Names that rows have for themselves.
const RESERVED: [&str; 5] = ["time", "window_start", "window_end", "left", "right"];

/// A join.
#[derive(Debug)]
pub(crate) struct AskedJoin<'a> {
    /// Where it stands.
    pub place: Option<Place>,
    /// What matches, and where that stands; `None` when it could not be read.
    pub over: Option<(Over, Option<Place>)>,
    pub kind: Kind,
    /// How much later events may be, and where that stands.
    pub allowed_lateness: Option<(Lateness, Option<Place>)>,
    /// Which right events delete.
    pub deleted: Option<Written<'a>>,
    /// Left and right; `None` what could not be read.
    pub sides: [Option<AskedSide<'a>>; 2],
}

/// A side of it.
#[derive(Debug)]
pub(crate) struct AskedSide<'a> {
    pub from: From,
    /// The place of the source at the beginning of its chain.
    pub place: usize,
    pub source: &'a Source,
    /// The columns of its events.
    pub columns: &'a [Column],
    /// What rows show of it: all columns, unless it is said.
    pub fields: Option<Vec<Written<'a>>>,
    /// The columns that name an event.
    pub dedup: Vec<usize>,
}

impl AskedJoin<'_> {
    /// The step it becomes.
    pub fn step(self, state: State, mistakes: &mut Mistakes) -> Option<JoinStep> {
        let over = self.over.map(|(over, _)| over);
        if let Some((Over::Window(size), place)) = self.over
            && size > SPAN_MAX
        {
            mistakes.add(place, format!("window: {SPAN_MAX} at most"));
        }
        if let (Some((_, place)), Some(Over::Window(_))) = (self.allowed_lateness, over) {
            mistakes.add(place, "allowed_lateness: a join of windows has none".to_owned());
        }
        let right = self.sides[1].as_ref().map(|side| side.columns);
        let deleted = self.deleted.and_then(|written| {
            if over.is_some_and(|over| over != Over::Version) {
                mistakes.add(written.place, "deleted: only a join with versions has a table".to_owned());
            }
            let (expression, kind) = compile(written, right?, &[], mistakes)?;
            if !is_condition(kind) {
                mistakes.add(written.place, "deleted: a condition on the right event expected".to_owned());
            }
            Some(expression)
        });
        let read = self.sides.each_ref().map(|side| side.as_ref().map(|side| side.read(mistakes)));
        if let [Some(left), Some(right)] = self.sides.each_ref().map(|side| side.as_ref().map(|s| s.source)) {
            co_partitioned(self.place, [left, right], mistakes);
        }
        let lateness = self.allowed_lateness.map(|(lateness, _)| lateness);
        let allowed_lateness = lateness.unwrap_or(Lateness::Span(Span::ZERO));
        let join = Join { over: over?, kind: self.kind, allowed_lateness };
        for mistake in join.check() {
            mistakes.add(self.place, format!("{}: {}", mistake.field, mistake.message));
        }
        let [left, right] = read;
        Some(JoinStep { join: Arc::new(join), sides: [left?, right?], deleted, state })
    }
}

impl AskedSide<'_> {
    fn read(&self, mistakes: &mut Mistakes) -> JoinSide {
        let shown = match &self.fields {
            Some(fields) => fields.iter().filter_map(|name| column(*name, self.columns, mistakes)).collect(),
            None => self.columns.to_vec(),
        };
        JoinSide { from: self.from, source: self.place, shown, dedup: self.dedup.clone() }
    }
}

/// Equal keys have to meet in one slot: a slot follows from the text of the key, so both keys have to be written alike. How many
/// partitions the topics have does not matter.
fn co_partitioned(place: Option<Place>, sides: [&Source; 2], mistakes: &mut Mistakes) {
    let keys = sides.map(|source| {
        let key = source.columns.iter().find(|column| column.index == source.key);
        (&*source.name, key.map_or(("key", ColumnKind::Any), |key| (&*key.name, key.kind)))
    });
    let [(left, (left_key, left_kind)), (right, (right_key, right_kind))] = keys;
    if left_kind != right_kind {
        mistakes.add(
            place,
            format!(
                "the key `{left_key}` of `{left}` is {}, the key `{right_key}` of `{right}` is {}: equal keys would not meet in \
                 one slot. Declare both fields with one type",
                in_words(left_kind),
                in_words(right_kind)
            ),
        );
    }
    if RESERVED.contains(&left_key) {
        let message =
            format!("the key `{left_key}` has a name that every row of a join has: name the field otherwise");
        mistakes.add(place, message);
    }
}
