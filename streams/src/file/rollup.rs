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
        size: match spec.over {
            Over::Rows => rows.size,
            Over::Hopping { size, .. } => Some(size),
        },
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
        let message =
            format!("`{name}` changes when a row is corrected: a key is part of what names the row");
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
        let message =
            format!("slide: from {WINDOWS_MAX} windows for each row to one, so that none is left out");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::parse;
    use crate::plan::Plan;

    const EXAMPLE: &str = include_str!("../../../deploy/examples/boontadata/categories.yaml");

    fn plan(text: &str) -> Plan {
        parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    #[test]
    fn rows_of_windows_are_read_under_another_key() {
        let plan = plan(EXAMPLE);
        let rollups: Vec<_> = plan.rollups().map(|(_, rollup)| rollup).collect();
        let [categories, greatest] = rollups[..] else { panic!("{rollups:?}") };
        assert_eq!(categories.key.as_ref().map(|key| (&*key.name, key.index)), Some(("category", 3)));
        let reads = |rollup: &crate::plan::RollupStep| {
            rollup.reads.iter().map(|column| column.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(reads(categories), ["count", "m1_sum", "m1_max"], "what is not read is not sent");
        assert_eq!(
            (&greatest.key, reads(greatest)),
            (&None, ["device", "category", "m1_sum"].map(String::from).into())
        );
        let told = Told::Best { n: 3, ties: Ties::All, by: 2, is_least: false };
        assert_eq!((&greatest.spec.told, greatest.spec.over), (&told, Over::Rows));
        assert_eq!(plan.streams()[5..], ["rolled.categories", "rolled.greatest"]);
        assert_eq!(
            (plan.levels(), plan.source_count()),
            (1, 4),
            "a source, its strays, and two streams of rows"
        );
        let hidden = plan.shown_streams().any(|stream| stream.contains("rolled"));
        assert!(!hidden);
        let second = "  more: {from: categories, key: none, window: {type: hopping, size: 1m, slide: 10s}, \
                      aggregates: {m: sum(m1_sum)}}\nsinks:\n";
        assert_eq!(self::plan(&EXAMPLE.replace("sinks:\n", second)).levels(), 2, "a roll-up of a roll-up");
    }

    #[test]
    fn state_belongs_to_what_is_read() {
        let shapes = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            plan(&EXAMPLE.replacen(from, to, 1))
                .shapes()
                .into_iter()
                .map(|(_, shape)| shape)
                .collect::<Vec<_>>()
        };
        let before = shapes("n: 3", "n: 3");
        for (from, to) in
            [("key: category ", "key: device "), ("m1_max:  max(m1_max)", "m1_max:  max(m1_min)")]
        {
            assert_ne!(shapes(from, to), before, "{to}");
        }
        for (from, to) in
            [("n: 3", "n: 4"), ("devices: count()", "all: count()"), ("sum(m1_sum)", "avg(m1_sum)")]
        {
            assert_eq!(shapes(from, to), before, "{to}: what is told is found from the rows");
        }
    }

    #[test]
    fn what_cannot_be_rolled_up_is_said() {
        let said = |from: &str, to: &str, expected: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            let mistakes = parse(&EXAMPLE.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(mistakes.contains(expected), "{to}: {mistakes}");
        };
        let tumbling = "window: {type: tumbling, size: 5s}";
        for (from, to, expected) in [
            ("key: category ", "key: categroy ", "unknown field `categroy`; did you mean `category`"),
            ("key: category ", "key: m1_sum ", "`m1_sum` changes when a row is corrected"),
            ("    key: category ", "    # ", "`key`"),
            ("window: rows ", "window: {type: session, gap: 1s} ", "tumbling or hopping"),
            ("window: rows ", "window: {type: hopping, size: 1h, slide: 1s} ", "1000 windows for each row"),
            ("window: rows ", "window: {type: hopping, size: 1s, slide: 2s} ", "to one"),
            (tumbling, "window: {type: global}", "have no end"),
            (
                tumbling,
                "window: {type: tumbling, size: 5s}\n    accumulation: discarding",
                "parts of results",
            ),
            ("idle_after: 10s, ", "", "has no `idle_after`"),
            ("rank: {by: m1_sum, n: 3,", "rank: {by: m1_sum, n: 0,", "n"),
            ("show: [device, category, m1_sum]", "show: [device]", "show it too"),
            (
                "    rank: {by",
                "    aggregates: {n: count()}\n    rank: {by",
                "one of `aggregates` and `rank`",
            ),
            (
                "sinks:\n",
                "  more: {from: greatest, key: none, aggregates: {n: count()}}\nsinks:\n",
                "are lists",
            ),
            ("    by: [category] ", "    key: device ", "`key` is for a step that reads rows"),
        ] {
            said(from, to, expected);
        }
        let hopping = EXAMPLE.replacen(tumbling, "window: {type: hopping, size: 10s, slide: 5s}", 1);
        plan(&hopping);
        let again = hopping.replacen("window: rows ", "window: {type: tumbling, size: 1m} ", 1);
        let mistakes = parse(&again).expect_err("windows that overlap").to_string();
        assert!(mistakes.contains("an event would count several times"), "{mistakes}");
    }
}
