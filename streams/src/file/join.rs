//! The words of a join step.

use granary_window::join::{Kind, Over};

use super::mistake::{Mistakes, Place};
use super::read::{self, Map};
use super::step::{Scope, drops};
use super::window::lateness;
use super::yaml::Node;
use crate::asked::{self, AskedJoin, AskedSide, Written};
use crate::plan::{Does, From, State, Step};

/// The join step in `map`.
pub(super) fn read(name: &str, mut map: Map<'_>, scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<Step> {
    let node = map.need("join", mistakes)?;
    let drops = drops(&mut map, mistakes);
    map.finish(mistakes);
    let mut map = Map::new(node, "join", mistakes);
    let sides = ["left", "right"].map(|side| {
        let node = map.need(side, mistakes)?;
        from(node, scope, mistakes)
    });
    let kinds = ["inner", "left", "right", "outer"];
    let kind = match map.get("type").and_then(|node| read::word(node, "type", &kinds, mistakes)) {
        Some("left") => Kind::Left,
        Some("right") => Kind::Right,
        Some("outer") => Kind::Outer,
        _ => Kind::Inner,
    };
    let late = map.get("allowed_lateness");
    let allowed_lateness = late.and_then(|node| Some((lateness(node, mistakes)?, Some(node.place))));
    let over = over(&mut map, mistakes);
    let deleted = map.get("deleted").and_then(|node| read::written(node, "a CEL expression", mistakes));
    let fields = of_sides(map.get("fields"), "fields", mistakes);
    let dedup = of_sides(map.get("dedup"), "dedup", mistakes);
    map.finish(mistakes);
    let is_whole = late.is_none() || allowed_lateness.is_some();
    let mut said = fields.into_iter().zip(dedup);
    let sides = sides.map(|from| {
        let (fields, dedup) = said.next().unwrap_or_default();
        let from = from?;
        let (place, columns) = (scope.source_of(from), scope.columns(from));
        let dedup = dedup.unwrap_or_default().into_iter();
        let dedup = dedup.filter_map(|name| Some(asked::column(name, columns, mistakes)?.index)).collect();
        Some(AskedSide { from, place, source: &scope.sources[place], columns, fields, dedup })
    });
    let left = sides[0].as_ref().map(|side| (side.from, side.place));
    let asked = AskedJoin { place: Some(node.place), over, kind, allowed_lateness, deleted, sides };
    let join = asked.step(State::new(name, drops), mistakes).filter(|_| is_whole)?;
    let (from, source) = left?;
    Some(Step { name: name.into(), from, source, does: Does::Join(Box::new(join)), columns: Vec::new() })
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

/// `interval: {lower: -5m, upper: 1h}`, `window: 5m` or `version: true`.
fn over(map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<(Over, Option<Place>)> {
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
            let (lower_ms, upper_ms) = (lower_ms?, upper_ms?);
            Some((Over::Interval { lower_ms, upper_ms, lower_included, upper_included }, Some(node.place)))
        }
        (None, Some(node), None) => {
            Some((Over::Window(read::span(node, "window", mistakes)?), Some(node.place)))
        }
        (None, None, Some(node)) => match read::boolean(node, "version", mistakes)? {
            true => Some((Over::Version, Some(node.place))),
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

/// `{left: [amount], right: [carrier]}`; a side that is not said is none.
fn of_sides<'n>(
    node: Option<&'n Node>,
    what: &'static str,
    mistakes: &mut Mistakes,
) -> [Option<Vec<Written<'n>>>; 2] {
    let Some(node) = node else { return [None, None] };
    let mut map = Map::new(node, what, mistakes);
    let sides = ["left", "right"].map(|side| {
        let items = map.get(side).map(read::items)?;
        Some(items.into_iter().filter_map(|item| read::written(item, "a field's name", mistakes)).collect())
    });
    map.finish(mistakes);
    sides
}
