//! The rules file: YAML in, rules that can run or all that is wrong with them out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use granary_core::Span;
use granary_window::rule::Pace;

use super::cases::{self, Written};
use super::condition::Lists;
use super::event::{EventSpec, Field, FieldKind, Origin};
use super::problem::{Problems, code};
use super::rule::{self, Context};
use super::trial;
use super::{Mode, Rules, Severity, rules_of};
use crate::file::read::{self, Map};
use crate::file::yaml::{self, Node, Value};
use crate::file::{Mistakes, Place, is_name};

/// The only schema there is.
const SCHEMA: &str = "fraud-rules/v1";
/// Rules of one file.
const RULES_MAX: usize = 1_000;
/// Entries of one list.
const LIST_MAX: usize = 1_000_000;

/// What a rule has unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub mode: Mode,
    pub severity: Severity,
    pub cooldown: Span,
    pub lateness: Span,
    pub dedup: Span,
    pub pace: Pace,
    pub backfill: bool,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            mode: Mode::Shadow,
            severity: Severity::Medium,
            cooldown: granary_core::time::hours(1),
            lateness: granary_core::time::mins(1),
            dedup: granary_core::time::hours(24),
            pace: Pace::OnArrival,
            backfill: true,
        }
    }
}

/// How a file is to be read.
pub struct Options<'a> {
    /// Reads a file that the rules name, by the path as it is written there.
    pub read: &'a dyn Fn(&str) -> Result<String, String>,
    /// Modes of rules, by their ids, whatever the file says.
    pub modes: &'a BTreeMap<String, Mode>,
    /// No rule is silent after an alert.
    pub without_cooldown: bool,
}

/// Reads a rules file. With errors there are no rules; there may be hints beside rules.
pub fn parse(text: &str, options: &Options<'_>) -> (Option<Rules>, Problems) {
    let mut problems = Problems::default();
    let mut mistakes = Mistakes::default();
    let rules =
        yaml::parse(text, &mut mistakes).and_then(|root| whole(&root, options, &mut mistakes, &mut problems));
    problems.take(&mistakes);
    problems.sort();
    (rules.filter(|_| !problems.has_errors()), problems)
}

fn whole(
    root: &Node,
    options: &Options<'_>,
    mistakes: &mut Mistakes,
    problems: &mut Problems,
) -> Option<Rules> {
    let mut map = Map::new(root, "a rules file", mistakes);
    if let Some(node) = map.need("schema", mistakes) {
        read::word(node, "schema", &[SCHEMA], mistakes);
    }
    let stream = map.need("stream", mistakes).and_then(|node| read::text(node, "a stream", mistakes));
    let spec = map.need("event", mistakes).and_then(|node| event(node, mistakes, problems));
    let (defaults, case) = match map.get("defaults") {
        Some(node) => self::defaults(node, mistakes, problems),
        None => (Defaults::default(), None),
    };
    let lists = match map.get("lists") {
        Some(node) => lists(node, options, mistakes, problems),
        None => Lists::default(),
    };
    let nodes = map.need("rules", mistakes);
    let tests = map.get("tests");
    map.finish(mistakes);
    let (spec, stream) = (spec?, stream?);
    let context = Context {
        spec: &spec,
        defaults,
        case: case.as_ref(),
        lists: &lists,
        modes: options.modes,
        without_cooldown: options.without_cooldown,
    };
    let mut rules = Vec::new();
    if let Some(node) = nodes {
        let Value::List(items) = &node.value else {
            mistakes.add(node.place, format!("rules: a list expected, {} found", node.describe()));
            return None;
        };
        if items.len() > RULES_MAX {
            mistakes.add(node.place, format!("a file has at most {RULES_MAX} rules"));
            return None;
        }
        let mut known = Vec::new();
        for item in items {
            rules.extend(rule::read(item, &context, &mut known, mistakes, problems));
        }
        find_twice(&known, problems);
        cases::find_contradictions(&rules, &spec, problems);
    }
    if !mistakes.is_empty() || problems.has_errors() {
        // Tests of rules that are not whole would only add confusion, but their form is looked at.
        tests.iter().for_each(|node| trial::read(node, &[], mistakes).clear());
        return None;
    }
    let made = rules_of(stream, spec, defaults, &lists, rules);
    let tests = tests.map_or(Vec::new(), |node| trial::read(node, made.infos(), mistakes));
    for test in tests {
        if let Err(message) = test.run(&made) {
            problems.add(test.place, code::TEST, message);
        }
    }
    Some(made)
}

fn find_twice(rules: &[(String, Place)], problems: &mut Problems) {
    for (i, (id, place)) in rules.iter().enumerate() {
        if let Some((_, Place { line, column })) = rules[..i].iter().find(|(first, _)| first == id) {
            let message = format!("two rules are called \"{id}\" (first at {line}:{column})");
            problems.add(*place, code::TWICE, message);
        }
    }
}

/// A length of time of a rule, or of what it belongs to.
pub(crate) fn length(
    of: &str,
    what: &str,
    node: &Node,
    mistakes: &mut Mistakes,
    problems: &mut Problems,
) -> Option<Span> {
    let text = read::text(node, what, mistakes)?;
    let span = read::parse_span(text);
    if span.is_none() {
        let message = format!("{of}: {what} \"{text}\" is not a duration. Write 1h, 30m, 90s or 7d");
        problems.add(node.place, code::LENGTH, message);
    }
    span
}

fn defaults(node: &Node, mistakes: &mut Mistakes, problems: &mut Problems) -> (Defaults, Option<Written>) {
    let mut map = Map::new(node, "defaults", mistakes);
    let mut defaults = Defaults::default();
    if let Some(mode) = map.get("mode").and_then(|node| Mode::read(node, mistakes)) {
        defaults.mode = mode;
    }
    if let Some(severity) = map.get("severity").and_then(|node| Severity::read(node, mistakes)) {
        defaults.severity = severity;
    }
    for (name, span) in [
        ("cooldown", &mut defaults.cooldown),
        ("lateness", &mut defaults.lateness),
        ("dedup", &mut defaults.dedup),
    ] {
        let found = map.get(name).and_then(|node| length("defaults", name, node, mistakes, problems));
        *span = found.unwrap_or(*span);
    }
    if let Some(pace) = map.get("judge").and_then(|node| rule::pace(node, mistakes)) {
        defaults.pace = pace;
    }
    if let Some(backfill) = map.get("backfill").and_then(|node| rule::backfill(node, mistakes)) {
        defaults.backfill = backfill;
    }
    let case = map.get("case").and_then(|node| cases::read("defaults", node, mistakes, problems));
    map.finish(mistakes);
    (defaults, case)
}

fn event(node: &Node, mistakes: &mut Mistakes, problems: &mut Problems) -> Option<EventSpec> {
    let mut map = Map::new(node, "event", mistakes);
    let mut origin = |name: &'static str, mistakes: &mut Mistakes| {
        let member = map.need(name, mistakes).and_then(|node| read::text(node, name, mistakes))?;
        Some(Origin { member: member.into(), column: member.into() })
    };
    let (id, time) = (origin("id", mistakes), origin("time", mistakes));
    let mut fields = Vec::new();
    let mut amount = None;
    if let Some(node) = map.get("amount") {
        amount = Some(0);
        fields.extend(field("amount", node, mistakes));
    }
    if let Some(node) = map.get("fields") {
        for (name, node) in Map::new(node, "fields", mistakes).entries() {
            let name = read::name(name, "field", mistakes);
            fields.extend(field(name, node, mistakes));
        }
    }
    for (i, field) in fields.iter().enumerate() {
        if fields[..i].iter().any(|first: &Field| first.name == field.name) {
            problems.add(node.place, code::TWICE, format!("two fields are called \"{}\"", field.name));
        }
    }
    let mut spec = EventSpec { id: id?, time: time?, fields, amount };
    if let Some(node) = map.get("optional") {
        for item in read::items(node) {
            let Some(name) = read::text(item, "a field", mistakes) else { continue };
            match spec.fields.iter_mut().find(|field| *field.name == *name) {
                Some(field) => field.is_optional = true,
                None => rule::unknown_field("optional", name, &spec, item.place, problems),
            }
        }
    }
    if let Some(node) = map.get("csv") {
        columns(node, &mut spec, mistakes, problems);
    }
    map.finish(mistakes);
    Some(spec)
}

fn field(name: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Field> {
    const TYPES: [&str; 6] = ["text", "boolean", "integer", "decimal", "money", "float"];
    let (mut member, mut scale, mut unit) = (name, None, None);
    let kind = if let Value::Map(_) = node.value {
        let mut map = Map::new(node, "a field", mistakes);
        let kind = map.need("type", mistakes).and_then(|node| read::word(node, "type", &TYPES, mistakes));
        if let Some(from) = map.get("field").and_then(|node| read::text(node, "a member", mistakes)) {
            member = from;
        }
        scale = map.get("scale").and_then(|node| read::number(node, "scale", 0..=9, mistakes));
        unit = map.get("unit").and_then(|node| read::text(node, "a unit", mistakes));
        map.finish(mistakes);
        kind
    } else {
        read::word(node, "type", &TYPES, mistakes)
    };
    let scale = |otherwise| scale.map_or(otherwise, |scale| scale as u32);
    let kind = match kind? {
        "text" => FieldKind::Text,
        "boolean" => FieldKind::Boolean,
        "integer" => FieldKind::Integer,
        "decimal" => FieldKind::Decimal(scale(6)),
        "money" => FieldKind::Money(scale(2)),
        _ => FieldKind::Float,
    };
    let from = Origin { member: member.into(), column: member.into() };
    let unit = unit.map(Into::into);
    Some(Field { name: name.into(), from, is_minor: false, kind, is_optional: false, unit })
}

/// `csv:` says which column is which field.
fn columns(node: &Node, spec: &mut EventSpec, mistakes: &mut Mistakes, problems: &mut Problems) {
    for (name, node) in Map::new(node, "csv", mistakes).entries() {
        let (mut column, mut is_minor) = (None, false);
        if let Value::Map(_) = node.value {
            let mut map = Map::new(node, "a column", mistakes);
            column = map.need("column", mistakes).and_then(|node| read::text(node, "a column", mistakes));
            let unit = map.get("unit").and_then(|n| read::word(n, "unit", &["minor", "major"], mistakes));
            is_minor = unit == Some("minor");
            map.finish(mistakes);
        } else if let Some(text) = read::text(node, "a column", mistakes) {
            column = Some(text);
        }
        let Some(column) = column else { continue };
        match name.text.as_str() {
            "id" => spec.id.column = column.into(),
            "time" => spec.time.column = column.into(),
            other => match spec.fields.iter_mut().find(|field| *field.name == *other) {
                Some(field) => {
                    field.from.column = column.into();
                    field.is_minor = is_minor;
                }
                None => rule::unknown_field("csv", other, spec, name.place, problems),
            },
        }
    }
}

fn lists(node: &Node, options: &Options<'_>, mistakes: &mut Mistakes, problems: &mut Problems) -> Lists {
    let mut lists = Lists::new();
    for (name, node) in Map::new(node, "lists", mistakes).entries() {
        if !is_name(&name.text) || name.text.contains('-') {
            let message = format!("list \"{}\": letters, digits and `_` expected", name.text);
            problems.add(name.place, code::LIST, message);
        }
        let Some(path) = read::text(node, "a file", mistakes) else { continue };
        match (options.read)(path) {
            Ok(text) => {
                let lines = text.lines().map(str::trim);
                let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                let entries: HashSet<Box<[u8]>> = entries.map(|line| line.as_bytes().into()).collect();
                if entries.len() > LIST_MAX {
                    let message = format!("list \"{}\" has more than {LIST_MAX} entries", name.text);
                    problems.add(node.place, code::LIST, message);
                }
                lists.insert(name.text.clone(), Arc::new(entries));
            }
            Err(error) => {
                let message = format!("list \"{}\": {path} cannot be read: {error}", name.text);
                problems.add(node.place, code::LIST, message);
            }
        }
    }
    lists
}
