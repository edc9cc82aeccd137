//! The words of a pattern step.

use std::sync::Arc;

use granary_window::pattern::{Contiguity, Pattern, Skip, Stage};

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::{compile_beside, dedup_columns, drops};
use super::window::column;
use super::yaml::{Node, Value};
use crate::plan::expression::{Expression, Group};
use crate::plan::{
    Column, ColumnKind, Does, PatternStep, SPAN_MAX, Source, State, column_of, columns_of_stage,
};

/// Stages of a pattern.
pub const STAGES_MAX: usize = 32;
/// The largest number of events that a stage asks for.
const TIMES_MAX: u32 = 1_000;
/// Names that rows have for themselves.
const RESERVED: [&str; 5] = ["pattern", "start", "end", "match", "reason"];
/// Names that rows have for each event.
const OF_EVENT: [&str; 2] = ["id", "time"];
const CONTIGUITIES: [&str; 3] = ["next", "followed_by", "followed_by_any"];

/// The pattern step in `map`. `source` and `columns` are missing when what it reads from could not be read.
pub(super) fn read(
    name: &str,
    map: &mut Map<'_>,
    source: Option<&Source>,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Option<Does> {
    let pattern_node = map.need("pattern", mistakes)?;
    let drops = drops(map, mistakes);
    let dedup = map.get("dedup").map(|node| dedup_columns(node, columns, mistakes)).unwrap_or_default();
    let mut map = Map::new(pattern_node, "pattern", mistakes);
    let within = map.get("within").and_then(|node| {
        let within = read::span(node, "within", mistakes)?;
        if within.ms() == 0 || within > SPAN_MAX {
            mistakes.add(node.place, format!("within: more than nothing, and {SPAN_MAX} at most, expected"));
        }
        Some(within)
    });
    let timeouts = map.get("timeouts").and_then(|node| read::boolean(node, "timeouts", mistakes));
    if let (Some(true), None, Some(node)) = (timeouts, within, map.get("timeouts")) {
        mistakes.add(node.place, "timeouts: without `within` no time runs out".to_owned());
    }
    let fields = map.get("fields");
    let skip = map.get("skip");
    let stages_node = map.need("stages", mistakes);
    let read = stages_node.map(|node| stages(node, columns, mistakes)).unwrap_or_default();
    let names: Vec<&str> = read.iter().filter(|s| !s.stage.is_absent).map(|s| &*s.stage.name).collect();
    let skip = match skip {
        Some(node) => self::skip(node, &read, &names, mistakes),
        None => Some(Skip::None),
    };
    let mut kept: Vec<Column> = Vec::new();
    for node in fields.map(read::items).unwrap_or_default() {
        let Some(found) = column(node, columns, mistakes) else { continue };
        if kept.contains(&found) {
            mistakes.add(node.place, format!("`{}` stands twice", found.name));
        } else if OF_EVENT.contains(&&*found.name) && !is_shown_anyway(source, &found) {
            mistakes.add(node.place, format!("`{}` is a name every event of a row has", found.name));
        } else if !OF_EVENT.contains(&&*found.name) {
            kept.push(found);
        }
    }
    map.finish(mistakes);
    let key = source.and_then(|source| source.columns.iter().find(|column| column.index == source.key));
    if let Some(key) = key.filter(|key| RESERVED.contains(&&*key.name)) {
        let message = format!(
            "the key `{}` has a name that every row of a pattern has: name the field otherwise",
            key.name
        );
        mistakes.add(pattern_node.place, message);
    }
    let (stages, conditions): (Vec<Stage>, Vec<_>) = read.into_iter().map(|s| (s.stage, s.when)).unzip();
    let pattern = Pattern { stages, within, skip: skip?, timeouts: timeouts.unwrap_or(false) };
    for mistake in pattern.check() {
        let place = stages_node.unwrap_or(pattern_node).place;
        mistakes.add(place, format!("{}: {}", mistake.field, mistake.message));
    }
    let shown = kept.len();
    keep(&mut kept, &conditions, columns?);
    let state = State::new(name, drops);
    Some(Does::Pattern(Box::new(PatternStep {
        pattern: Arc::new(pattern),
        conditions,
        kept,
        shown,
        state,
        dedup,
    })))
}

/// Whether rows show this column of every event anyway.
fn is_shown_anyway(source: Option<&Source>, column: &Column) -> bool {
    source.is_some_and(|source| {
        source.id == Some(column.index) || source.time == crate::plan::EventTime::Column(column.index)
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

/// A stage and its condition.
struct Read {
    stage: Stage,
    when: Option<Expression>,
}

fn stages(node: &Node, columns: Option<&[Column]>, mistakes: &mut Mistakes) -> Vec<Read> {
    let items = read::items(node);
    if items.len() > STAGES_MAX {
        mistakes.add(node.place, format!("stages: {STAGES_MAX} at most"));
    }
    let mut stages: Vec<Read> = Vec::new();
    for item in items.into_iter().take(STAGES_MAX) {
        let stage = stage(item, &stages, columns, mistakes);
        stages.push(stage);
    }
    stages
}

fn stage(node: &Node, before: &[Read], columns: Option<&[Column]>, mistakes: &mut Mistakes) -> Read {
    let mut map = Map::new(node, "a stage", mistakes);
    let mut stage = Stage::new("");
    let is_set = |name, map: &mut Map<'_>, mistakes: &mut Mistakes| {
        map.get(name).and_then(|node| read::boolean(node, name, mistakes)).unwrap_or(false)
    };
    stage.is_absent = is_set("absent", &mut map, mistakes);
    let words = |name, map: &mut Map<'_>, mistakes: &mut Mistakes| {
        let word = map.get(name).and_then(|node| read::word(node, name, &CONTIGUITIES, mistakes));
        match word {
            Some("next") => Contiguity::Next,
            Some("followed_by_any") => Contiguity::FollowedByAny,
            _ => Contiguity::FollowedBy,
        }
    };
    stage.contiguity = words("contiguity", &mut map, mistakes);
    if stage.is_absent {
        if let Some(node) = map.get("name") {
            mistakes.add(node.place, "an absent stage takes no event and has no name".to_owned());
        }
    } else {
        if let Some(node) = map.need("name", mistakes) {
            let name = read::text(node, "the name of a stage", mistakes).unwrap_or_default();
            if !read::is_name(name) || name.contains('-') {
                let message = format!("stage `{name}`: a letter, then letters, digits or `_` expected");
                mistakes.add(node.place, message);
            }
            if columns.is_some_and(|columns| columns.iter().any(|column| *column.name == *name)) {
                mistakes
                    .add(node.place, format!("`{name}` is the name of a field: call the stage otherwise"));
            }
            stage.name = name.into();
        }
        stage.inner = words("inner", &mut map, mistakes);
        stage.is_optional = is_set("optional", &mut map, mistakes);
        stage.is_greedy = is_set("greedy", &mut map, mistakes);
        if let Some((least, most)) = map.get("times").and_then(|node| times(node, mistakes)) {
            (stage.times_min, stage.times_max) = (least, most);
        }
    }
    let when = map.get("when").zip(columns).and_then(|(node, columns)| when(node, before, columns, mistakes));
    map.finish(mistakes);
    Read { stage, when }
}

/// `2`, `1..3`, `1..`.
fn times(node: &Node, mistakes: &mut Mistakes) -> Option<(u32, Option<u32>)> {
    let text = read::text(node, "times", mistakes)?;
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=TIMES_MAX).contains(n));
    let found = match text.split_once("..") {
        None => number(text).map(|n| (n, Some(n))),
        Some((least, "")) => number(least).map(|least| (least, None)),
        Some((least, most)) => {
            number(least).zip(number(most)).filter(|(least, most)| least <= most).map(|(a, b)| (a, Some(b)))
        }
    };
    if found.is_none() {
        let message = format!("times: 2, 1..3 or 1.. expected, up to {TIMES_MAX}, `{text}` found");
        mistakes.add(node.place, message);
    }
    found
}

/// A condition on an event, beside the events that the stages before have taken.
fn when(node: &Node, before: &[Read], columns: &[Column], mistakes: &mut Mistakes) -> Option<Expression> {
    let named = before.iter().enumerate().filter(|(_, read)| !read.stage.is_absent);
    let taken: Vec<(&str, Vec<Column>)> =
        named.map(|(i, read)| (&*read.stage.name, columns_of_stage(i, columns))).collect();
    let groups: Vec<Group<'_>> = taken.iter().map(|(name, columns)| Group { name, columns }).collect();
    let (expression, kind) = compile_beside(node, columns, &groups, mistakes)?;
    if !matches!(kind, ColumnKind::Bool | ColumnKind::Any) {
        let kind = format!("{kind:?}").to_lowercase();
        mistakes.add(node.place, format!("when: true or false expected, the expression gives {kind}"));
    }
    Some(expression)
}

/// `none`, `to_next`, `past_last`, `{to_first: STAGE}`, `{to_last: STAGE}`.
fn skip(node: &Node, stages: &[Read], names: &[&str], mistakes: &mut Mistakes) -> Option<Skip> {
    if !matches!(node.value, Value::Map(_)) {
        return match read::word(node, "skip", &["none", "to_next", "past_last"], mistakes)? {
            "to_next" => Some(Skip::ToNext),
            "past_last" => Some(Skip::PastLast),
            _ => Some(Skip::None),
        };
    }
    let mut map = Map::new(node, "skip", mistakes);
    let (first, last) = (map.get("to_first"), map.get("to_last"));
    map.finish(mistakes);
    let mut stage = |node: &Node| {
        let name = read::text(node, "the name of a stage", mistakes)?;
        let found = stages.iter().position(|read| !read.stage.is_absent && *read.stage.name == *name);
        if found.is_none() {
            mistakes.unknown(node.place, "stage", name, names);
        }
        found
    };
    match (first, last) {
        (Some(node), None) => stage(node).map(Skip::ToFirst),
        (None, Some(node)) => stage(node).map(Skip::ToLast),
        _ => {
            mistakes
                .add(node.place, "skip: one of `to_first` and `to_last`, with a stage, expected".to_owned());
            None
        }
    }
}
