//! The words of a window step.

use std::sync::Arc;

use granary_core::Span;
use granary_window::{
    Accumulation, Aggregate, Dedup, Early, Emit, Function, Horizon, Lateness, Quantile, Spec, Time, Window,
};

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::drops;
use super::yaml::{Node, Value};
use crate::asked::{self, Written};
use crate::plan::{Column, ColumnKind, Does, SPAN_MAX, Source, WindowStep, prefix};
use crate::run::INPUTS_MAX;

const TYPES: [&str; 7] = ["tumbling", "hopping", "cumulate", "session", "sliding", "count", "global"];
const FUNCTIONS: [&str; 14] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "variance",
    "quantile",
    "distinct",
    "approx_distinct",
    "first",
    "last",
    "top",
    "collect",
    "ids",
];
/// Names that rows have for themselves.
const RESERVED: [&str; 5] = ["window_start", "window_end", "revision", "reason", "op"];
/// The largest number of values that `top` and `collect` keep.
const VALUES_MAX: u64 = 10_000;

/// The window step in `map`. `source` and `columns` are missing when what it reads from could not be read.
pub(super) fn read(
    name: &str,
    map: &mut Map<'_>,
    source: Option<&Source>,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Option<Does> {
    let by = map.get("by").map(|node| by(node, source, columns, mistakes)).unwrap_or_default();
    let mut inputs = Vec::new();
    let window_node = map.need("window", mistakes);
    let window = window_node.and_then(|node| window(node, mistakes));
    let lateness = map.get("allowed_lateness").and_then(|node| lateness(node, mistakes));
    let emit = map
        .get("emit")
        .and_then(|n| read::word(n, "emit", &["watermark", "final", "every_update"], mistakes));
    let accumulations = ["accumulating", "discarding", "retracting"];
    let accumulation =
        map.get("accumulation").and_then(|n| read::word(n, "accumulation", &accumulations, mistakes));
    let early = map.get("early").and_then(|node| early(node, mistakes));
    let dedup = map.get("dedup").and_then(|node| dedup(node, columns, mistakes));
    let drops = drops(map, mistakes);
    let keep = map.get("keep").and_then(|node| read::span(node, "keep", mistakes));
    let aggregates_node = map.need("aggregates", mistakes);
    let aggregates = aggregates_node.map(|node| {
        let taken: Vec<&str> = by.iter().map(|column| &*column.name).chain(key(source)).collect();
        aggregates(node, columns, &taken, &mut inputs, mistakes)
    });
    let mut spec = Spec::new(window?, aggregates?);
    spec.watermark = source?.watermark;
    spec.allowed_lateness = lateness.unwrap_or(Lateness::Span(Span::ZERO));
    spec.emit = match emit {
        Some("final") => Emit::Final,
        Some("every_update") => Emit::EveryUpdate,
        _ => Emit::Watermark,
    };
    spec.accumulation = match accumulation {
        Some("discarding") => Accumulation::Discarding,
        Some("retracting") => Accumulation::Retracting,
        _ => Accumulation::Accumulating,
    };
    spec.early = early;
    let (dedup, id) = dedup.unzip();
    spec.dedup = dedup;
    spec.keep = keep.unwrap_or(Span::ZERO);
    // Rows are upserts by window: a session that became another must take its row back.
    spec.withdraw = matches!(spec.window, Window::Session { .. });
    spec.time = Time::Event;
    if inputs.len() > INPUTS_MAX {
        let place = aggregates_node.map(|node| node.place);
        mistakes.add(place, format!("aggregates: {INPUTS_MAX} different fields at most"));
    }
    for mistake in spec.check() {
        let place = window_node.or(aggregates_node).map(|node| node.place);
        mistakes.add(place, format!("{}: {}", mistake.field, mistake.message));
    }
    let prefix = prefix(name, drops);
    Some(Does::Window(Box::new(WindowStep {
        by,
        spec: Arc::new(spec),
        inputs,
        id: id.unwrap_or_default(),
        gap: None,
        drops,
        prefix,
    })))
}

fn key(source: Option<&Source>) -> impl Iterator<Item = &str> {
    source.into_iter().flat_map(|source| {
        source.columns.iter().filter(|column| column.index == source.key).map(|column| &*column.name)
    })
}

pub(super) fn column(node: &Node, columns: Option<&[Column]>, mistakes: &mut Mistakes) -> Option<Column> {
    let written = read::written(node, "a field's name", mistakes)?;
    asked::column(written, columns?, mistakes)
}

fn by(
    node: &Node,
    source: Option<&Source>,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Vec<Column> {
    let mut by: Vec<Column> = Vec::new();
    for item in read::items(node) {
        let Some(found) = column(item, columns, mistakes) else { continue };
        if found.kind == ColumnKind::Double {
            let message = format!("`{}` is a double: `by` takes text, integers and booleans", found.name);
            mistakes.add(item.place, message);
        }
        if by.contains(&found) || source.is_some_and(|source| source.key == found.index) {
            mistakes.add(item.place, format!("`{}` is part of the key already", found.name));
        }
        if RESERVED.contains(&&*found.name) {
            mistakes.add(item.place, format!("`{}` is a name every row has", found.name));
        }
        by.push(found);
    }
    by
}

pub(super) fn window(node: &Node, mistakes: &mut Mistakes) -> Option<Window> {
    let mut map = Map::new(node, "window", mistakes);
    let kind = map.need("type", mistakes).and_then(|node| read::word(node, "type", &TYPES, mistakes));
    let window = kind.and_then(|kind| match kind {
        "tumbling" | "hopping" | "cumulate" => aligned(kind, &mut map, mistakes),
        "session" => {
            map.not_yet("gap_field", mistakes);
            let gap = length("gap", &mut map, mistakes);
            let inclusive =
                map.get("gap_inclusive").and_then(|n| read::boolean(n, "gap_inclusive", mistakes));
            Some(Window::Session { gap: gap?, inclusive: inclusive.unwrap_or(false), per_event: false })
        }
        "sliding" => Some(Window::Sliding { difference: length("difference", &mut map, mistakes)? }),
        "count" => {
            let mut count = |name, node: Option<&Node>| {
                let number = read::number(node?, name, 1..=u64::from(u32::MAX), mistakes);
                number.map(|number| number as u32)
            };
            let (size, slide) = (map.get("size"), map.get("slide"));
            let (size, slide) = (count("size", size), count("slide", slide));
            if size.is_none() {
                mistakes.add(node.place, "`size`, a number of events, is missing".to_owned());
            }
            Some(Window::Count { size: size?, slide: slide.or(size)? })
        }
        _ => Some(Window::Global),
    });
    if kind.is_some() {
        map.finish(mistakes);
    }
    window
}

fn aligned(kind: &str, map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<Window> {
    let size = length("size", map, mistakes);
    let offset = match map.get("offset") {
        Some(node) => read::signed_span_ms(node, "offset", mistakes),
        None => Some(0),
    };
    Some(match kind {
        "hopping" => {
            let slide = length("slide", map, mistakes);
            Window::Hopping { size: size?, slide: slide?, offset: offset? }
        }
        "cumulate" => {
            let step = length("step", map, mistakes);
            Window::Cumulate { size: size?, step: step?, offset: offset? }
        }
        _ => Window::Tumbling { size: size?, offset: offset? },
    })
}

fn length(name: &'static str, map: &mut Map<'_>, mistakes: &mut Mistakes) -> Option<Span> {
    let node = map.need(name, mistakes)?;
    let span = read::span(node, name, mistakes)?;
    if span > SPAN_MAX {
        mistakes.add(node.place, format!("{name}: {SPAN_MAX} at most"));
    }
    Some(span)
}

pub(super) fn lateness(node: &Node, mistakes: &mut Mistakes) -> Option<Lateness> {
    match &node.value {
        Value::Scalar { text, .. } if text == "forever" => Some(Lateness::Forever),
        _ => read::span(node, "allowed_lateness (or `forever`)", mistakes).map(Lateness::Span),
    }
}

fn early(node: &Node, mistakes: &mut Mistakes) -> Option<Early> {
    let mut map = Map::new(node, "early", mistakes);
    let count = map.get("count").and_then(|n| read::number(n, "count", 1..=u64::from(u32::MAX), mistakes));
    let every = map.get("event_time_every").and_then(|n| read::span(n, "event_time_every", mistakes));
    let delay =
        map.get("processing_time_delay").and_then(|n| read::span(n, "processing_time_delay", mistakes));
    map.finish(mistakes);
    match (count, every, delay) {
        (Some(count), None, None) => Some(Early::Count(count as u32)),
        (None, Some(every), None) => Some(Early::EventTimeEvery(every)),
        (None, None, Some(delay)) => Some(Early::ProcessingTimeDelay(delay)),
        _ => {
            let message = "early: one of `count`, `event_time_every` and `processing_time_delay` expected";
            mistakes.add(node.place, message.to_owned());
            None
        }
    }
}

fn dedup(node: &Node, columns: Option<&[Column]>, mistakes: &mut Mistakes) -> Option<(Dedup, Vec<usize>)> {
    let mut map = Map::new(node, "dedup", mistakes);
    let by = map.need("by", mistakes).map(read::items).unwrap_or_default();
    let id: Vec<usize> =
        by.iter().filter_map(|item| column(item, columns, mistakes)).map(|c| c.index).collect();
    let horizon = map.need("horizon", mistakes).and_then(|node| match &node.value {
        Value::Scalar { text, .. } if text == "pane" => Some(Horizon::Pane),
        _ => read::span(node, "horizon (or `pane`)", mistakes).map(Horizon::Span),
    });
    if let Some(node) = map.get("keep")
        && let Some(later @ ("last" | "first_by_time")) =
            read::word(node, "keep", &["first", "last", "first_by_time"], mistakes)
    {
        mistakes.add(node.place, format!("keep `{later}` is not supported yet; allowed: first"));
    }
    map.finish(mistakes);
    Some((Dedup { horizon: horizon? }, id))
}

pub(super) fn aggregates(
    node: &Node,
    columns: Option<&[Column]>,
    taken: &[&str],
    inputs: &mut Vec<usize>,
    mistakes: &mut Mistakes,
) -> Vec<Aggregate> {
    let mut aggregates = Vec::new();
    for (name, node) in Map::new(node, "aggregates", mistakes).entries() {
        let text = read::name(name, "aggregate", mistakes);
        if RESERVED.contains(&text) || taken.contains(&text) {
            mistakes.add(name.place, format!("`{text}` is the name of another field of the row"));
        }
        let Some((function, column)) = aggregate(node, columns, mistakes) else { continue };
        let field = match column {
            None => 0,
            Some(column) => inputs.iter().position(|input| *input == column.index).unwrap_or_else(|| {
                inputs.push(column.index);
                inputs.len() - 1
            }),
        };
        aggregates.push(Aggregate { name: text.into(), function, field });
    }
    aggregates
}

/// `count()`, `sum(m1)`, `top(m1, 3)`, `quantile(m1, 0.99, 0.005)`.
fn aggregate(
    node: &Node,
    columns: Option<&[Column]>,
    mistakes: &mut Mistakes,
) -> Option<(Function, Option<Column>)> {
    let text = read::text(node, "an aggregate such as sum(m1)", mistakes)?;
    let Some((function, arguments)) = text.trim().strip_suffix(')').and_then(|text| text.split_once('('))
    else {
        // Braces of YAML end a text at its first comma.
        let hint = if text.contains('(') { ": within {...}, put quotes around what has a comma" } else { "" };
        let message = format!("an aggregate such as count() or sum(m1) expected, `{text}` found{hint}");
        mistakes.add(node.place, message);
        return None;
    };
    let function = function.trim();
    if function == "top_k" {
        mistakes
            .add(node.place, format!("`{function}` is not supported yet; allowed: {}", FUNCTIONS.join(", ")));
        return None;
    }
    if !FUNCTIONS.contains(&function) {
        mistakes.unknown(node.place, "aggregate", function, &FUNCTIONS);
        return None;
    }
    let arguments: Vec<&str> =
        arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty()).collect();
    let (wanted, count, example) = match function {
        "count" => (0..=0, "no argument", ""),
        "top" | "collect" => (2..=2, "two arguments", "m1, 3"),
        "quantile" => (2..=3, "two arguments, or three with its accuracy", "m1, 0.99"),
        _ => (1..=1, "one argument", "m1"),
    };
    if !wanted.contains(&arguments.len()) {
        mistakes.add(node.place, format!("`{function}` takes {count}: write {function}({example})"));
        return None;
    }
    let column = match arguments.first() {
        Some(text) => {
            let written = Written { text, place: Some(node.place), is_quoted: false };
            Some(asked::column(written, columns?, mistakes)?)
        }
        None => None,
    };
    let function_of = match function {
        "quantile" => quantile(&arguments[1..], node, mistakes)?,
        "top" | "collect" => several(function, arguments[1], node, mistakes)?,
        _ => named(function),
    };
    let is_number = |column: &Option<Column>| {
        column.as_ref().is_none_or(|c| !matches!(c.kind, ColumnKind::Text | ColumnKind::Bool))
    };
    if ["sum", "avg", "variance", "quantile"].contains(&function) && !is_number(&column) {
        mistakes.add(node.place, format!("{function}: a number expected, `{}` is none", arguments[0]));
    }
    Some((function_of, column))
}

/// `top` and `collect`, and how many values they keep.
fn several(function: &str, n: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Function> {
    let Some(n) = n.parse::<u64>().ok().filter(|n| (1..=VALUES_MAX).contains(n)) else {
        let message = format!("{function}: a number of values, 1 to {VALUES_MAX}, expected, `{n}` found");
        mistakes.add(node.place, message);
        return None;
    };
    Some(if function == "top" { Function::Top(n as u32) } else { Function::Collect(n as u32) })
}

/// Which quantile, and how accurate it is if that is said.
fn quantile(arguments: &[&str], node: &Node, mistakes: &mut Mistakes) -> Option<Function> {
    // What is no number is no share either, and is told so.
    let share = |text: &str| text.parse().unwrap_or(f64::NAN);
    let mut quantile = Quantile::of(share(arguments[0]));
    if let Some(accuracy) = arguments.get(1) {
        quantile = quantile.within(share(accuracy));
    }
    if let Some(mistake) = quantile.mistake() {
        mistakes.add(node.place, format!("{mistake}, `{}` found", arguments.join(", ")));
        return None;
    }
    Some(Function::Quantile(quantile))
}

fn named(function: &str) -> Function {
    match function {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "min" => Function::Min,
        "max" => Function::Max,
        "avg" => Function::Avg,
        "variance" => Function::Variance,
        "distinct" => Function::Distinct,
        "first" => Function::First,
        "last" => Function::Last,
        "approx_distinct" => Function::ApproxDistinct,
        _ => Function::Ids,
    }
}
