//! The built-in kinds, answered from a slot's present state: `Window/<key>/<by...>/<step>/<start>` and `Device/<key>`.

use granary_core::{Error, ErrorKind, GrainId, Result, Timestamp};
use granary_window::Value;

use super::prepared::Prepared;
use super::rolled::RowsOf;
use super::slot::Slot;
use super::{pack, segments};
use crate::plan::{Column, ColumnKind, WindowStep};

/// The only method of the built-in kinds.
pub const GET: &str = "get";
/// The kind of windows.
pub const WINDOW: &str = "Window";
/// The kind of routing keys.
pub const DEVICE: &str = "Device";

/// The answer in MessagePack; `None` when cells are missing.
pub(crate) fn ask(
    slot: &mut Slot,
    prepared: &Prepared,
    grain: &GrainId,
    method: &str,
    missing: &mut Vec<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    if method != GET {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{grain} has no method `{method}`; it has: {GET}"),
        ));
    }
    match &*grain.kind {
        WINDOW => window(slot, prepared, grain, missing),
        DEVICE => device(slot, prepared, grain, missing),
        kind => Err(Error::new(ErrorKind::NotFound, format!("no built-in kind `{kind}`"))),
    }
}

/// A window's identity, taken apart.
struct Name<'g> {
    key: String,
    by: Vec<u8>,
    of: RowsOf,
    start: Timestamp,
    end: Option<Timestamp>,
    grain: &'g GrainId,
}

fn window(
    slot: &mut Slot,
    prepared: &Prepared,
    grain: &GrainId,
    missing: &mut Vec<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    let name = name(prepared, grain)?;
    let of = match name.of {
        RowsOf::Window(of) => of,
        RowsOf::Rollup(of) => {
            let Name { key, by, start, end, .. } = &name;
            return slot.ask_rolled(prepared, of, (key.as_bytes(), by, *start, *end), grain, missing);
        }
    };
    let place = prepared.windows[of].step;
    let step = &prepared.plan.steps[place];
    let window = step.window().expect("prepared steps are window steps");
    let before = missing.len();
    let operator = &mut slot.operators[of];
    let Some(peek) = operator.peek(name.key.as_bytes(), &name.by, name.start, name.end, missing) else {
        if missing.len() > before {
            return Ok(None);
        }
        return Err(Error::new(ErrorKind::NotFound, format!("no window {}", name.grain)));
    };
    let standing = pack::Standing { state: peek.state.as_str(), watermark: peek.watermark };
    let mut out = Vec::new();
    let named = match &peek.row {
        Some(row) => pack::Named::of(row),
        None => nameless(&name, window),
    };
    pack::row(&prepared.plan, step, window, &named, peek.row.as_ref(), Some(&standing), &mut out);
    Ok(Some(out))
}

/// The bounds of a window without a row.
fn nameless<'n>(name: &'n Name<'_>, window: &WindowStep) -> pack::Named<'n> {
    use granary_window::Window::{Cumulate, Hopping, Sliding, Tumbling};
    let length = match window.spec.window {
        Tumbling { size, .. } | Hopping { size, .. } | Cumulate { size, .. } => Some(size),
        Sliding { difference } => Some(granary_core::Span(difference.ms().saturating_add(1))),
        _ => None,
    };
    let end = name.end.or(length.map(|length| name.start + length)).unwrap_or(Timestamp::MAX);
    pack::Named { key: name.key.as_bytes(), by: &name.by, start: name.start, end }
}

fn name<'g>(prepared: &Prepared, grain: &'g GrainId) -> Result<Name<'g>> {
    let segments: Vec<String> = grain.key.segments().map(|segment| segment.into_owned()).collect();
    let wrong = |what: String| Err(Error::invalid(format!("{grain}: {what}")));
    let [key, middle @ .., step, bounds] = &segments[..] else {
        return wrong("Window/<key>/<by...>/<step>/<start> expected".to_owned());
    };
    let plan = &prepared.plan;
    let windows = (0..).zip(&prepared.windows).map(|(i, window)| (RowsOf::Window(i), window.step));
    let rolled = (0..).zip(&prepared.rolled).map(|(i, rolled)| (RowsOf::Rollup(i), rolled.step));
    let mut steps = windows.chain(rolled);
    let Some((of, place)) = steps.find(|(_, place)| *plan.steps[*place].name == **step) else {
        let places = prepared.windows.iter().map(|window| window.step);
        let places = places.chain(prepared.rolled.iter().map(|rolled| rolled.step));
        let names: Vec<&str> = places.map(|place| &*plan.steps[place].name).collect();
        return wrong(format!("no window step `{step}`; there are: {}", names.join(", ")));
    };
    let columns = plan.steps[place].window().map(|window| &window.by);
    let columns = columns.or(plan.steps[place].rollup().map(|rollup| &rollup.by));
    let columns = columns.map_or(&[][..], |columns| columns);
    if middle.len() != columns.len() {
        let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        return wrong(format!("`{step}` has {} segments below the key: {}", names.len(), names.join(", ")));
    }
    let mut by = Vec::new();
    for (column, text) in columns.iter().zip(middle) {
        segments::push(&mut by, &typed(column, text));
    }
    let (start, end) = match bounds.split_once("..") {
        Some((start, end)) => (start, Some(end)),
        None => (bounds.as_str(), None),
    };
    let time = |text: &str| text.parse().map(Timestamp).ok();
    let start = if start == "all" { Some(Timestamp::MIN) } else { time(start) };
    let Some(start) = start else {
        return wrong(format!("`{bounds}` is no window start in ms"));
    };
    let end = match end.map(time) {
        Some(None) => return wrong(format!("`{bounds}` is no window start and end in ms")),
        Some(end) => end,
        None => None,
    };
    Ok(Name { key: key.clone(), by, of, start, end, grain })
}

/// A segment of an identity as the value it was made of.
fn typed<'t>(column: &Column, text: &'t str) -> Value<'t> {
    match column.kind {
        ColumnKind::Int => text.parse().map_or(Value::Text(text.as_bytes()), Value::Int),
        ColumnKind::Bool if text == "true" || text == "false" => Value::Bool(text == "true"),
        _ => Value::Text(text.as_bytes()),
    }
}

/// What is known of a key over all window steps: each sees every event of its source.
fn device(
    slot: &mut Slot,
    prepared: &Prepared,
    grain: &GrainId,
    missing: &mut Vec<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    let key = grain.key.routing_key();
    if prepared.windows.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("{grain}: the pipeline has no window step")));
    }
    let before = missing.len();
    let stats: Vec<_> = slot
        .operators
        .iter_mut()
        .filter_map(|operator| operator.key_stats(key.as_bytes(), missing))
        .collect();
    if missing.len() > before {
        return Ok(None);
    }
    if stats.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("{grain} has not been seen")));
    }
    let largest = |of: fn(&granary_window::KeyStats) -> u64| stats.iter().map(of).max().unwrap_or(0);
    let latest = |of: fn(&granary_window::KeyStats) -> Timestamp| {
        stats.iter().map(of).max().map_or(i64::MIN, |time| time.ms())
    };
    let mut out = Vec::new();
    let mut map = pack::Map::begin(&mut out, 7);
    map.text("key", key.as_bytes());
    map.int("last_event_time", latest(|stats| stats.last_event));
    map.int("clock", latest(|stats| stats.clock));
    map.count("events", largest(|stats| stats.events + stats.duplicates + stats.late));
    map.count("duplicates", largest(|stats| stats.duplicates));
    map.count("late", largest(|stats| stats.late));
    map.count("open_windows", stats.iter().map(|stats| stats.open_windows).sum());
    Ok(Some(out))
}
