//! The words of a pattern step.

use granary_window::pattern::{Contiguity, Skip, Stage};

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::{dedup_columns, drops};
use super::yaml::{Node, Value};
use crate::asked::{AskedPattern, AskedSkip, AskedStage, TIMES_MAX};
use crate::plan::{Column, Does, Source, State};

const CONTIGUITIES: [&str; 3] = ["next", "followed_by", "followed_by_any"];

/// The pattern step in `map`. `source` and `columns` are missing when what it reads from could not be read.
pub(super) fn read(
    name: &str,
    map: &mut Map<'_>,
    source: Option<&Source>,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Option<Does> {
    let node = map.need("pattern", mistakes)?;
    let drops = drops(map, mistakes);
    let dedup = map.get("dedup").map(|node| dedup_columns(node, columns, mistakes)).unwrap_or_default();
    let mut map = Map::new(node, "pattern", mistakes);
    let within =
        map.get("within").and_then(|node| Some((read::span(node, "within", mistakes)?, Some(node.place))));
    let timeouts = map
        .get("timeouts")
        .and_then(|node| Some((read::boolean(node, "timeouts", mistakes)?, Some(node.place))));
    let fields = map.get("fields").map(read::items).unwrap_or_default();
    let fields =
        fields.into_iter().filter_map(|item| read::written(item, "a field's name", mistakes)).collect();
    let skip = match map.get("skip") {
        Some(node) => self::skip(node, mistakes),
        None => Some(AskedSkip::Plain(Skip::None)),
    };
    let stages_node = map.need("stages", mistakes);
    let stages = stages_node.map(read::items).unwrap_or_default();
    let stages = stages.into_iter().map(|item| stage(item, mistakes)).collect();
    map.finish(mistakes);
    let (place, stages_place) = (Some(node.place), Some(stages_node.unwrap_or(node).place));
    let asked = AskedPattern { place, stages_place, stages, within, skip, timeouts, fields, dedup };
    let step = asked.step(State::new(name, drops), source, columns, mistakes)?;
    Some(Does::Pattern(Box::new(step)))
}

fn stage<'n>(node: &'n Node, mistakes: &mut Mistakes) -> AskedStage<'n> {
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
    let name_node = if stage.is_absent { map.get("name") } else { map.need("name", mistakes) };
    let name = name_node.and_then(|node| read::written(node, "the name of a stage", mistakes));
    stage.name = name.map_or("", |name| name.text).into();
    if !stage.is_absent {
        stage.inner = words("inner", &mut map, mistakes);
        stage.is_optional = is_set("optional", &mut map, mistakes);
        stage.is_greedy = is_set("greedy", &mut map, mistakes);
        if let Some((least, most)) = map.get("times").and_then(|node| times(node, mistakes)) {
            (stage.times_min, stage.times_max) = (least, most);
        }
    }
    let when = map.get("when").and_then(|node| read::written(node, "a CEL expression", mistakes));
    map.finish(mistakes);
    AskedStage { stage, name, when }
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

/// `none`, `to_next`, `past_last`, `{to_first: STAGE}`, `{to_last: STAGE}`.
fn skip<'n>(node: &'n Node, mistakes: &mut Mistakes) -> Option<AskedSkip<'n>> {
    if !matches!(node.value, Value::Map(_)) {
        let skip = match read::word(node, "skip", &["none", "to_next", "past_last"], mistakes)? {
            "to_next" => Skip::ToNext,
            "past_last" => Skip::PastLast,
            _ => Skip::None,
        };
        return Some(AskedSkip::Plain(skip));
    }
    let mut map = Map::new(node, "skip", mistakes);
    let (first, last) = (map.get("to_first"), map.get("to_last"));
    map.finish(mistakes);
    let mut stage = |node: &'n Node| read::written(node, "the name of a stage", mistakes);
    match (first, last) {
        (Some(node), None) => stage(node).map(AskedSkip::ToFirst),
        (None, Some(node)) => stage(node).map(AskedSkip::ToLast),
        _ => {
            mistakes
                .add(node.place, "skip: one of `to_first` and `to_last`, with a stage, expected".to_owned());
            None
        }
    }
}
