//! The `steps:` of a pipeline file: filters and maps here, windows, patterns, joins and roll-ups in modules of their names.

use std::sync::Arc;

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::yaml::Node;
use super::{join, pattern, rollup, window};
use crate::asked;
use crate::plan::expression::Expression;
use crate::plan::{Bundle, Column, ColumnKind, Does, EventTime, Filter, From, Rows, RulesStep, Source, Step};
use granary_window::Window;
use granary_window::rollup::Told;

/// What stands before a step or sink and may be named by it.
pub(super) struct Scope<'p> {
    pub sources: &'p [Source],
    pub steps: &'p [Step],
    /// Whether all that came before could be read: otherwise an unknown name may be no mistake of its own.
    pub sources_are_whole: bool,
    /// Reads a file that the pipeline names.
    pub read: &'p dyn Fn(&str) -> Result<String, String>,
}

impl Scope<'_> {
    /// Whether a source has this name.
    pub fn is_taken(&self, name: &str) -> bool {
        self.sources.iter().any(|source| &*source.name == name)
    }

    /// The source or step a `from` names.
    pub fn find(&self, node: &Node, mistakes: &mut Mistakes) -> Option<From> {
        let name = read::text(node, "the name of a source or step", mistakes)?;
        let source = self.sources.iter().position(|source| &*source.name == name).map(From::Source);
        let found = source.or_else(|| self.steps.iter().position(|step| &*step.name == name).map(From::Step));
        if found.is_none() && self.sources_are_whole {
            let names: Vec<&str> =
                self.sources.iter().map(|s| &*s.name).chain(self.steps.iter().map(|s| &*s.name)).collect();
            mistakes.unknown(node.place, "source or step", name, &names);
        }
        found
    }

    pub fn source_of(&self, from: From) -> usize {
        match from {
            From::Source(i) => i,
            From::Step(i) => self.steps[i].source,
        }
    }

    pub fn columns(&self, from: From) -> &[Column] {
        match from {
            From::Source(i) => &self.sources[i].columns,
            From::Step(i) => &self.steps[i].columns,
        }
    }

    /// The first column index no step of this source uses.
    fn next_index(&self, source: usize) -> usize {
        let steps = self.steps.iter().filter(|step| step.source == source);
        let used = steps.flat_map(|step| &step.columns).chain(&self.sources[source].columns);
        used.map(|column| column.index + 1).max().unwrap_or(0)
    }
}

/// How often the state of a step may be dropped.
const DROPS_MAX: u64 = 1_000_000;

/// What later versions do in a step.
const NOT_YET: [&str; 3] = ["enrich", "deduplicate", "migrate"];

/// One step.
pub(super) fn read(name: &str, node: &Node, scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<Step> {
    let mut map = Map::new(node, "a step", mistakes);
    if map.get("join").is_some() {
        return join::read(name, map, scope, mistakes);
    }
    let from_node = map.need("from", mistakes);
    let from = from_node.and_then(|node| scope.find(node, mistakes));
    for later in NOT_YET {
        map.not_yet(later, mistakes);
    }
    let filter = map.get("filter");
    let maps = map.get("map");
    let rules = map.get("rules");
    let is_pattern = map.get("pattern").is_some();
    let is_window = ["window", "aggregates", "by"].iter().any(|name| map.get(name).is_some());
    if let Some(From::Step(i)) = from
        && (scope.steps[i].window().is_some() || scope.steps[i].rollup().is_some())
        && [rules.is_some(), filter.is_some(), maps.is_some(), is_pattern] == [false; 4]
    {
        return rollup::read(name, node, map, i, scope, mistakes);
    }
    for (of_rows, what) in [("rank", "the rows of windows"), ("key", "rows of windows under another key")] {
        if map.get(of_rows).is_some() {
            let message =
                format!("`{of_rows}` is for a step that reads {what}: `from` names no step with windows");
            mistakes.add(node.place, message);
        }
    }
    if let (Some(node), Some(From::Step(i))) = (from_node, from)
        && !scope.steps[i].passes_events()
        && (rules.is_none() || !has_ends(&scope.steps[i]))
    {
        let message = "this step reads events, and the one it names gives results. Rows of windows that have an end are \
                       read by `rules`, or under another `key` by `aggregates` and `rank`";
        mistakes.add(node.place, message.to_owned());
        return None;
    }
    let kinds = [filter.is_some(), maps.is_some(), rules.is_some(), is_pattern, is_window];
    if kinds.iter().filter(|is| **is).count() != 1 {
        let message =
            "a step is one of `filter`, `map`, `rules`, `pattern`, `join` and `window` (with `aggregates`)";
        mistakes.add(node.place, message.to_owned());
        return None;
    }
    if let (false, Some(node)) = (is_window || is_pattern, map.get("drop_state")) {
        let message = "drop_state: only windows, patterns and joins have a state of their own".to_owned();
        mistakes.add(node.place, message);
    }
    let columns = from.map(|from| scope.columns(from).to_vec());
    let (does, columns) = match (filter, maps) {
        _ if rules.is_some() => {
            let source = from.map(|from| &scope.sources[scope.source_of(from)]);
            let does = rules.zip(source).zip(columns.as_deref());
            let does = does.and_then(|((node, source), columns)| {
                let of = match from? {
                    From::Step(i) => {
                        Rows::of(scope.sources, scope.steps, i).map(|rows| (&scope.steps[i], rows))
                    }
                    From::Source(_) => None,
                };
                self::rules(name, node, source, (columns, of), scope, mistakes)
            });
            (does, columns)
        }
        (Some(node), _) => (columns.as_ref().and_then(|c| self::filter(node, c, mistakes)), columns),
        (_, Some(node)) => match (from, columns) {
            (Some(from), Some(columns)) => {
                let (does, columns) = self::map(node, from, columns, scope, mistakes);
                (does, Some(columns))
            }
            _ => (None, None),
        },
        _ => {
            let source = from.map(|from| &scope.sources[scope.source_of(from)]);
            let read = if is_pattern { pattern::read } else { window::read };
            (read(name, &mut map, source, columns.as_deref(), mistakes), columns)
        }
    };
    map.finish(mistakes);
    let from = from?;
    Some(Step { name: name.into(), from, source: scope.source_of(from), does: does?, columns: columns? })
}

/// Whether the step has rows of windows, and those have an end and values.
fn has_ends(step: &Step) -> bool {
    if let Some(rollup) = step.rollup() {
        return matches!(rollup.spec.told, Told::Aggregates(_));
    }
    let window = step.window().map(|window| window.spec.window);
    window.is_some_and(|window| !matches!(window, Window::Count { .. } | Window::Global))
}

/// The rules of a file, on the events or rows that come here.
fn rules(
    name: &str,
    node: &Node,
    source: &Source,
    (columns, of): (&[Column], Option<(&Step, Rows)>),
    scope: &Scope<'_>,
    mistakes: &mut Mistakes,
) -> Option<Does> {
    let path = read::text(node, "a rules file", mistakes)?;
    let text = (scope.read)(path)
        .map_err(|error| mistakes.add(node.place, format!("{path}: cannot be read: {error}")))
        .ok()?;
    let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let read = |list: &str| {
        (scope.read)(&if beside.is_empty() { list.to_owned() } else { format!("{beside}/{list}") })
    };
    let collected = Bundle::collect(text, &read)
        .map_err(|problems| {
            problems.iter().for_each(|problem| mistakes.add(node.place, format!("{path}:{problem}")));
        })
        .ok()?;
    let fitted = match of {
        Some((step, rows)) => RulesStep::on_rows(name, collected, step, &rows),
        None => RulesStep::new(name, collected, source, columns),
    };
    match fitted {
        Ok(step) => Some(Does::Rules(Arc::new(step))),
        Err(wrong) => {
            wrong.into_iter().for_each(|message| mistakes.add(node.place, format!("{path}: {message}")));
            None
        }
    }
}

/// Every rule of a file has to be judged by a step: one that reads a source with the rule's key.
pub(super) fn check_rules(steps: &[Step], mistakes: &mut Mistakes) {
    let with_rules: Vec<(&Step, &RulesStep)> =
        steps.iter().filter_map(|step| Some((step, &**step.rules()?))).collect();
    for (step, of) in &with_rules {
        let others = with_rules.iter().map(|(_, other)| *other);
        let same = others.filter(|other| other.rules.stream() == of.rules.stream());
        for (rule, key) in of.unserved(same) {
            let message = format!(
                "step `{}`: rule {rule} is per {key}, and no source of these rules has that key: add a source of \
                 the same topic with `key: {key}`, and a step with the same rules that reads it",
                step.name
            );
            mistakes.add(None, message);
        }
    }
}

fn filter(node: &Node, columns: &[Column], mistakes: &mut Mistakes) -> Option<Does> {
    let (expression, kind) = compile(node, columns, mistakes)?;
    if !matches!(kind, ColumnKind::Bool | ColumnKind::Any) {
        let kind = format!("{kind:?}").to_lowercase();
        mistakes.add(node.place, format!("filter: true or false expected, the expression gives {kind}"));
    }
    Some(Does::Filter(Filter::Expression(expression)))
}

fn map(
    node: &Node,
    from: From,
    mut columns: Vec<Column>,
    scope: &Scope<'_>,
    mistakes: &mut Mistakes,
) -> (Option<Does>, Vec<Column>) {
    let source = &scope.sources[scope.source_of(from)];
    let mut next = scope.next_index(scope.source_of(from));
    let mut values = Vec::new();
    let before = columns.clone();
    for (name, node) in Map::new(node, "map", mistakes).entries() {
        let text = read::name(name, "field", mistakes);
        let hidden = before.iter().find(|column| &*column.name == text).map(|column| column.index);
        let is_fixed = |index| {
            index == source.key || Some(index) == source.id || source.time == EventTime::Column(index)
        };
        if hidden.is_some_and(is_fixed) {
            let message = format!("`{text}` is key, id or event time of the source: a map may not change it");
            mistakes.add(name.place, message);
        }
        if let Some((expression, kind)) = compile(node, &before, mistakes) {
            columns.retain(|column| &*column.name != text);
            columns.push(Column { name: text.into(), index: next, kind });
            values.push((next, expression));
            next += 1;
        }
    }
    if values.is_empty() {
        mistakes.add(node.place, "map: at least one field is needed".to_owned());
        return (None, columns);
    }
    (Some(Does::Map(values)), columns)
}

fn compile(node: &Node, columns: &[Column], mistakes: &mut Mistakes) -> Option<(Expression, ColumnKind)> {
    asked::compile(read::written(node, "a CEL expression", mistakes)?, columns, &[], mistakes)
}

/// How often a person has decided to drop the step's state.
pub(super) fn drops(map: &mut Map<'_>, mistakes: &mut Mistakes) -> u32 {
    let drops =
        map.get("drop_state").and_then(|node| read::number(node, "drop_state", 0..=DROPS_MAX, mistakes));
    drops.and_then(|drops| u32::try_from(drops).ok()).unwrap_or(0)
}

/// `{by: id}`: the columns that name an event.
pub(super) fn dedup_columns(node: &Node, columns: Option<&[Column]>, mistakes: &mut Mistakes) -> Vec<usize> {
    let mut map = Map::new(node, "dedup", mistakes);
    let by = map.need("by", mistakes).map(read::items).unwrap_or_default();
    map.finish(mistakes);
    by.iter().filter_map(|item| window::column(item, columns, mistakes)).map(|column| column.index).collect()
}
