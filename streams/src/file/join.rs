//! The words of a join step.

use std::sync::Arc;

use granary_core::Span;
use granary_window::Lateness;
use granary_window::join::{Join, Kind, Over};

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::{Scope, compile_beside, drops};
use super::window::{column, lateness};
use super::yaml::Node;
use crate::plan::{Column, ColumnKind, Does, From, JoinSide, JoinStep, SPAN_MAX, State, Step};

/// Names that rows have for themselves.
const RESERVED: [&str; 5] = ["time", "window_start", "window_end", "left", "right"];

/// The join step in `map`.
pub(super) fn read(name: &str, mut map: Map<'_>, scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<Step> {
    let node = map.need("join", mistakes)?;
    let drops = drops(&mut map, mistakes);
    map.finish(mistakes);
    let mut map = Map::new(node, "join", mistakes);
    let [left, right] = ["left", "right"].map(|side| {
        let node = map.need(side, mistakes)?;
        from(node, scope, mistakes)
    });
    let columns = |side: Option<From>| side.map(|side| scope.columns(side).to_vec());
    let columns = [columns(left), columns(right)];
    let kinds = ["inner", "left", "right", "outer"];
    let kind = match map.get("type").and_then(|node| read::word(node, "type", &kinds, mistakes)) {
        Some("left") => Kind::Left,
        Some("right") => Kind::Right,
        Some("outer") => Kind::Outer,
        _ => Kind::Inner,
    };
    let late = map.get("allowed_lateness").map(|node| (node, lateness(node, mistakes)));
    let over = over(&mut map, mistakes);
    if let (Some((node, _)), Some(Over::Window(_))) = (&late, over) {
        mistakes.add(node.place, "allowed_lateness: a join of windows has none".to_owned());
    }
    let deleted = map.get("deleted").and_then(|node| {
        if over.is_some() && over != Some(Over::Version) {
            mistakes.add(node.place, "deleted: only a join with versions has a table".to_owned());
        }
        let (expression, kind) = compile_beside(node, columns[1].as_deref()?, &[], mistakes)?;
        if !matches!(kind, ColumnKind::Bool | ColumnKind::Any) {
            mistakes.add(node.place, "deleted: a condition on the right event expected".to_owned());
        }
        Some(expression)
    });
    let shown = shown(map.get("fields"), &columns, mistakes);
    let dedup = dedup(map.get("dedup"), &columns, mistakes);
    map.finish(mistakes);
    let (left, right) = (left?, right?);
    co_partitioned(node, [left, right], scope, mistakes);
    let allowed_lateness = match late {
        Some((_, lateness)) => lateness?,
        None => Lateness::Span(Span::ZERO),
    };
    let join = Join { over: over?, kind, allowed_lateness };
    for mistake in join.check() {
        mistakes.add(node.place, format!("{}: {}", mistake.field, mistake.message));
    }
    let ([shown_left, shown_right], [dedup_left, dedup_right]) = (shown, dedup);
    let source = |from| scope.source_of(from);
    let sides = [
        JoinSide { from: left, source: source(left), shown: shown_left, dedup: dedup_left },
        JoinSide { from: right, source: source(right), shown: shown_right, dedup: dedup_right },
    ];
    let state = State::new(name, drops);
    let does = Does::Join(Box::new(JoinStep { join: Arc::new(join), sides, deleted, state }));
    Some(Step { name: name.into(), from: left, source: source(left), does, columns: Vec::new() })
}

fn from(node: &Node, scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<From> {
    let found = scope.find(node, mistakes)?;
    if let From::Step(i) = found
        && !scope.steps[i].passes_events()
    {
        let name = &scope.steps[i].name;
        mistakes.add(node.place, format!("`{name}` gives results: a join reads sources, filters and maps"));
        return None;
    }
    Some(found)
}

/// Equal keys have to meet in one slot: a slot follows from the text of the key, so both keys have to be written alike. How many
/// partitions the topics have does not matter.
fn co_partitioned(node: &Node, sides: [From; 2], scope: &Scope<'_>, mistakes: &mut Mistakes) {
    let keys = sides.map(|side| {
        let source = &scope.sources[scope.source_of(side)];
        let key = source.columns.iter().find(|column| column.index == source.key);
        (&*source.name, key.map_or(("key", ColumnKind::Any), |key| (&*key.name, key.kind)))
    });
    let [(left, (left_key, left_kind)), (right, (right_key, right_kind))] = keys;
    if left_kind != right_kind {
        let word = |kind: ColumnKind| format!("{kind:?}").to_lowercase();
        mistakes.add(
            node.place,
            format!(
                "the key `{left_key}` of `{left}` is {}, the key `{right_key}` of `{right}` is {}: equal keys would not meet in \
                 one slot. Declare both fields with one type",
                word(left_kind),
                word(right_kind)
            ),
        );
    }
    if RESERVED.contains(&left_key) {
        let message =
            format!("the key `{left_key}` has a name that every row of a join has: name the field otherwise");
        mistakes.add(node.place, message);
    }
}

/// `interval: {lower: -5m, upper: 1h}`, `window: 5m` or `version: true`.
fn over(map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<Over> {
    let (interval, window, version) = (map.get("interval"), map.get("window"), map.get("version"));
    match (interval, window, version) {
        (Some(node), None, None) => {
            let mut map = Map::new(node, "interval", mistakes);
            let mut end = |name, mistakes: &mut Mistakes| {
                map.need(name, mistakes).and_then(|node| read::signed_span_ms(node, name, mistakes))
            };
            let (lower_ms, upper_ms) = (end("lower", mistakes), end("upper", mistakes));
            let mut included = |name, mistakes: &mut Mistakes| {
                map.get(name).and_then(|node| read::boolean(node, name, mistakes)).unwrap_or(true)
            };
            let lower_included = included("lower_inclusive", mistakes);
            let upper_included = included("upper_inclusive", mistakes);
            map.finish(mistakes);
            Some(Over::Interval { lower_ms: lower_ms?, upper_ms: upper_ms?, lower_included, upper_included })
        }
        (None, Some(node), None) => {
            let size = read::span(node, "window", mistakes)?;
            if size > SPAN_MAX {
                mistakes.add(node.place, format!("window: {SPAN_MAX} at most"));
            }
            Some(Over::Window(size))
        }
        (None, None, Some(node)) => match read::boolean(node, "version", mistakes)? {
            true => Some(Over::Version),
            false => {
                mistakes
                    .add(node.place, "version: true, or `interval` or `window` instead, expected".to_owned());
                None
            }
        },
        _ => {
            mistakes.add(map.place, "a join has one of `interval`, `window` and `version`".to_owned());
            None
        }
    }
}

/// What rows show of each side: all columns, unless it is said.
fn shown(
    node: Option<&Node>,
    columns: &[Option<Vec<Column>>; 2],
    mistakes: &mut Mistakes,
) -> [Vec<Column>; 2] {
    let said = of_sides(node, "fields", columns, mistakes);
    let all = columns.each_ref().map(|columns| columns.clone().unwrap_or_default());
    let ([left, right], [all_left, all_right]) = (said, all);
    [left.unwrap_or(all_left), right.unwrap_or(all_right)]
}

/// The columns that name an event of each side; none where copies are not refused.
fn dedup(
    node: Option<&Node>,
    columns: &[Option<Vec<Column>>; 2],
    mistakes: &mut Mistakes,
) -> [Vec<usize>; 2] {
    let said = of_sides(node, "dedup", columns, mistakes);
    said.map(|columns| columns.unwrap_or_default().iter().map(|column| column.index).collect())
}

/// `{left: [amount], right: [carrier]}`.
fn of_sides(
    node: Option<&Node>,
    what: &'static str,
    columns: &[Option<Vec<Column>>; 2],
    mistakes: &mut Mistakes,
) -> [Option<Vec<Column>>; 2] {
    let Some(node) = node else { return [None, None] };
    let mut map = Map::new(node, what, mistakes);
    let mut side = |name, columns: Option<&[Column]>| {
        let items = map.get(name).map(read::items)?;
        Some(items.into_iter().filter_map(|item| column(item, columns, mistakes)).collect())
    };
    let sides = [side("left", columns[0].as_deref()), side("right", columns[1].as_deref())];
    map.finish(mistakes);
    sides
}
