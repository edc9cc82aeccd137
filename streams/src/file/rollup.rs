//! The words of a step that reads the rows of windows under another key.

use std::sync::Arc;

use granary_window::rank::Ties;
use granary_window::rollup::{Over, Spec, Told, WINDOWS_MAX};
use granary_window::{Lateness, Window};

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::{Scope, drops};
use super::window::{self, aggregates, lateness};
use super::yaml::{Node, Value};
use crate::plan::{Column, Does, From, RollupStep, Rows, State, Step, unfit_for_rollup};

/// Rows that a ranking shows at most.
const PLACES_MAX: u64 = 10_000;

/// The step in `map`, which reads the rows of the step at place `of`.
pub(super) fn read(
    name: &str,
    node: &Node,
    mut map: Map<'_>,
    of: usize,
    scope: &Scope<'_>,
    mistakes: &mut Mistakes,
) -> Option<Step> {
    let before = &scope.steps[of];
    let over = over(map.get("window"), mistakes);
    if let Some(message) = unfit_for_rollup(before, over) {
        mistakes.add(node.place, message);
        return None;
    }
    let rows = Rows::of(scope.sources, scope.steps, of)?;
    let key = map.need("key", mistakes).and_then(|node| key(node, &rows, mistakes));
    let by = by(map.get("by"), key.as_ref().and_then(Option::as_ref), &rows, mistakes);
    let late = map.get("allowed_lateness").and_then(|node| lateness(node, mistakes));
    let drops = drops(&mut map, mistakes);
    let mut reads = Vec::new();
    let told = match (map.get("rank"), map.get("aggregates")) {
        (Some(node), None) => rank(node, &rows, &mut reads, mistakes),
        (None, Some(node)) => {
            let key = key.iter().flatten().map(|key| &*key.name);
            let taken: Vec<&str> = by.iter().map(|column| &*column.name).chain(key).collect();
            Some(Told::Aggregates(aggregates(node, Some(&rows.members), &taken, &mut reads, mistakes)))
        }
        _ => {
            let message = "a step that reads rows of windows has one of `aggregates` and `rank`";
            mistakes.add(node.place, message.to_owned());
            None
        }
    };
    map.finish(mistakes);
    let source = &scope.sources[before.source];
    if source.watermark.idle_after.is_none() && before.window().is_some() {
        mistakes.add(
            node.place,
            format!(
                "source `{}` has no `idle_after`: a slot without events would hold back these totals for ever. Say after \
                 which silence it does not",
                source.name
            ),
        );
    }
    let spec = Spec {
        over: over?,
        allowed_lateness: late.unwrap_or(Lateness::Span(granary_core::Span::ZERO)),
        told: told?,
    };
    let shown = if matches!(spec.told, Told::Best { .. }) { reads.len() } else { 0 };
    let rollup = RollupStep {
        of,
        level: before.rollup().map_or(1, |rollup| rollup.level + 1),
        key: key?,
        by,
        grid: spec.grid(rows.grid),
        spec: Arc::new(spec),
        reads: reads.iter().map(|place| rows.members[*place].clone()).collect(),
        shown,
        state: State::new(name, drops),
    };
    let does = Does::Rollup(Box::new(rollup));
    Some(Step { name: name.into(), from: From::Step(of), source: before.source, does, columns: Vec::new() })
}

/// `none`, or the key of the rows, or what is below it.
fn key(node: &Node, rows: &Rows, mistakes: &mut Mistakes) -> Option<Option<Column>> {
    if matches!(&node.value, Value::Scalar { text, .. } if text == "none") {
        return Some(None);
    }
    named(node, rows, mistakes).map(Some)
}

/// One of the members that all versions of a row agree on.
fn named(node: &Node, rows: &Rows, mistakes: &mut Mistakes) -> Option<Column> {
    let name = read::text(node, "a field's name", mistakes)?;
    let found = rows.names().iter().find(|column| &*column.name == name).cloned();
    if found.is_none() && rows.members.iter().any(|column| &*column.name == name) {
        let message = format!("`{name}` changes when a row is corrected: a key is part of what names the row");
        mistakes.add(node.place, message);
    } else if found.is_none() {
        let names: Vec<&str> = rows.names().iter().map(|column| &*column.name).collect();
        mistakes.unknown(node.place, "field", name, &names);
    }
    found
}

fn by(node: Option<&Node>, key: Option<&Column>, rows: &Rows, mistakes: &mut Mistakes) -> Vec<Column> {
    let mut by: Vec<Column> = Vec::new();
    for item in node.map(read::items).unwrap_or_default() {
        let Some(found) = named(item, rows, mistakes) else { continue };
        if by.contains(&found) || key == Some(&found) {
            mistakes.add(item.place, format!("`{}` is part of the key already", found.name));
        }
        by.push(found);
    }
    by
}

fn over(node: Option<&Node>, mistakes: &mut Mistakes) -> Option<Over> {
    let Some(node) = node else { return Some(Over::Rows) };
    if matches!(&node.value, Value::Scalar { text, .. } if text == "rows") {
        return Some(Over::Rows);
    }
    let over = match window::window(node, mistakes)? {
        Window::Tumbling { size, offset } => Over::Hopping { size, slide: size, offset_ms: offset },
        Window::Hopping { size, slide, offset } => Over::Hopping { size, slide, offset_ms: offset },
        _ => {
            let message = "rows of windows go into `rows` (their own windows), tumbling or hopping windows";
            mistakes.add(node.place, message.to_owned());
            return None;
        }
    };
    if let Over::Hopping { size, slide, .. } = over
        && (slide.ms() == 0 || slide > size || size.ms() / slide.ms() > WINDOWS_MAX)
    {
        let message = format!("slide: from {WINDOWS_MAX} windows for each row to one, so that none is left out");
        mistakes.add(node.place, message);
        return None;
    }
    Some(over)
}

/// `{by: m1_sum, n: 3, ties: all, order: least, show: [device, m1_sum]}`.
fn rank(node: &Node, rows: &Rows, reads: &mut Vec<usize>, mistakes: &mut Mistakes) -> Option<Told> {
    let mut map = Map::new(node, "rank", mistakes);
    let value = map.need("by", mistakes).and_then(|node| window::column(node, Some(&rows.members), mistakes));
    let n = map.need("n", mistakes).and_then(|node| read::number(node, "n", 1..=PLACES_MAX, mistakes));
    let ties = map.get("ties").and_then(|node| read::word(node, "ties", &["key", "all"], mistakes));
    let order = map.get("order").and_then(|node| read::word(node, "order", &["greatest", "least"], mistakes));
    let shown: Vec<Column> = match map.get("show") {
        Some(node) => {
            let items = read::items(node);
            items.iter().filter_map(|item| window::column(item, Some(&rows.members), mistakes)).collect()
        }
        None => rows.names().iter().chain(&value).cloned().collect(),
    };
    map.finish(mistakes);
    let value = value?;
    for column in &shown {
        if !reads.contains(&column.index) {
            reads.push(column.index);
        }
    }
    let by = reads.iter().position(|place| *place == value.index);
    if by.is_none() {
        mistakes.add(node.place, format!("show: `{}` decides the places: show it too", value.name));
    }
    let ties = if ties == Some("all") { Ties::All } else { Ties::Key };
    Some(Told::Best { n: usize::try_from(n?).ok()?, ties, by: by?, is_least: order == Some("least") })
}
