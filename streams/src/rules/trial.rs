//! The tests in a rules file: events in, the times of alerts out.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::Timestamp;
use granary_window::rule::Change;

use super::event::{Event, EventSpec, Field, Raw};
use super::{Info, Judges, Rules};
use crate::file::read::{self, Map};
use crate::file::yaml::{Node, Value};
use crate::file::{Mistakes, Place, rfc3339};

/// The day of times without one.
const DAY: &str = "2000-01-01T";
/// Events of one test.
const EVENTS_MAX: usize = 10_000;

/// A test.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub place: Place,
    rule: usize,
    events: Vec<Row>,
    alerts_at: Vec<Timestamp>,
}

/// An event of a test: when, and what it has by name.
#[derive(Clone, Debug)]
struct Row {
    at: Timestamp,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    /// The fields of the rule's key, then the amount.
    InOrder(Vec<String>),
    Named(Vec<(String, String)>),
}

/// Reads the tests; what is wrong is noted.
pub(crate) fn read(node: &Node, rules: &[Info], mistakes: &mut Mistakes) -> Vec<Trial> {
    let Value::List(items) = &node.value else {
        mistakes.add(node.place, format!("tests: a list expected, {} found", node.describe()));
        return Vec::new();
    };
    items.iter().filter_map(|item| trial(item, rules, mistakes)).collect()
}

fn trial(node: &Node, rules: &[Info], mistakes: &mut Mistakes) -> Option<Trial> {
    let mut map = Map::new(node, "a test", mistakes);
    let rule = map.need("rule", mistakes);
    let (events, alerts) = (map.need("events", mistakes), map.need("alerts_at", mistakes));
    let place = map.place;
    map.finish(mistakes);
    let events: Vec<Option<Row>> =
        events.map_or(Vec::new(), |node| read::items(node).into_iter().map(|n| row(n, mistakes)).collect());
    let alerts_at: Option<Vec<Timestamp>> =
        read::items(alerts?).into_iter().map(|node| time(node, mistakes)).collect();
    let id = read::text(rule?, "a rule", mistakes)?;
    if events.len() > EVENTS_MAX {
        mistakes.add(place, format!("a test has at most {EVENTS_MAX} events"));
    }
    if rules.is_empty() {
        return None;
    }
    let Some(rule) = rules.iter().position(|info| *info.id == *id) else {
        let ids: Vec<&str> = rules.iter().map(|info| &*info.id).collect();
        mistakes.unknown(place, "rule", id, &ids);
        return None;
    };
    Some(Trial { place, rule, events: events.into_iter().collect::<Option<_>>()?, alerts_at: alerts_at? })
}

fn time(node: &Node, mistakes: &mut Mistakes) -> Option<Timestamp> {
    let text = read::text(node, "a time", mistakes)?;
    let time = parse_time(text);
    if time.is_none() {
        let message =
            format!("`{text}` is no time: 10:30, 10:30:15, 10:30:15.5 or 2026-01-31T10:30:00Z expected");
        mistakes.add(node.place, message);
    }
    time
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let seconds = if text.matches(':').count() == 1 { ":00" } else { "" };
    rfc3339(text).or_else(|| rfc3339(&format!("{DAY}{text}{seconds}Z")))
}

fn row(node: &Node, mistakes: &mut Mistakes) -> Option<Row> {
    if let Value::Map(_) = node.value {
        let mut map = Map::new(node, "an event", mistakes);
        let at = map.need("at", mistakes).and_then(|node| time(node, mistakes));
        let named = map.entries().into_iter().filter(|(name, _)| name.text != "at");
        let named = named
            .map(|(name, node)| Some((name.text.clone(), read::text(node, "a value", mistakes)?.to_owned())));
        let named: Option<Vec<_>> = named.collect();
        return Some(Row { at: at?, values: Values::Named(named?) });
    }
    let text = read::text(node, "an event", mistakes)?;
    let mut words = text.split_whitespace();
    let at = words.next().and_then(parse_time);
    if at.is_none() {
        mistakes.add(node.place, format!("event `{text}`: a time, a key and an amount expected"));
    }
    Some(Row { at: at?, values: Values::InOrder(words.map(str::to_owned).collect()) })
}

impl Trial {
    /// Runs the test, or says what came instead.
    pub fn run(&self, rules: &Rules) -> Result<(), String> {
        let info = &rules.infos()[self.rule];
        let fail = |message: String| Err(format!("{}: its test fails: {message}", info.id));
        let mut judges = Judges::new(Arc::new(rules.clone()));
        let mut standing: BTreeMap<(Timestamp, Vec<u8>), i64> = BTreeMap::new();
        let mut note = |said: super::Said<'_>| {
            if said.rule == self.rule {
                let change = match said.decision.change {
                    Change::Raised(_) => 1,
                    Change::Withdrawn => -1,
                    Change::Resolved { .. } => 0,
                };
                *standing.entry((said.decision.time, said.decision.id.to_vec())).or_default() += change;
            }
        };
        for (i, row) in self.events.iter().enumerate() {
            let event = match row.event(i, info, rules.spec()) {
                Ok(event) => event,
                Err(message) => return fail(message),
            };
            judges.event(&event, &mut note);
            judges.catch_up(&mut note);
        }
        judges.end();
        judges.catch_up(&mut note);
        let found: Vec<Timestamp> =
            standing.iter().filter(|(_, n)| **n > 0).map(|((time, _), _)| *time).collect();
        let mut wanted = self.alerts_at.clone();
        wanted.sort_unstable();
        if found == wanted {
            return Ok(());
        }
        let list = |times: &[Timestamp]| {
            let times: Vec<String> = times.iter().map(|time| time.to_rfc3339()).collect();
            if times.is_empty() { "none".to_owned() } else { times.join(", ") }
        };
        fail(format!("alerts at {} expected, at {} found", list(&wanted), list(&found)))
    }
}

impl Row {
    fn event(&self, i: usize, info: &Info, spec: &EventSpec) -> Result<Event, String> {
        let mut event = Event::default();
        event.clear(spec.fields.len());
        event.id.extend_from_slice(format!("{}", i + 1).as_bytes());
        event.time = self.at;
        let mut set = |place: usize, text: &str| {
            // Amounts are written as people write them, whatever a file's columns hold.
            let field = Field { is_minor: false, ..spec.fields[place].clone() };
            event.set(place, &field, Raw::Text(text), true);
        };
        match &self.values {
            Values::InOrder(values) => {
                let places: Vec<usize> = info.per.iter().copied().chain(info.of.or(spec.amount)).collect();
                if values.len() > places.len() {
                    return Err(format!("event {} has more values than key and amount", i + 1));
                }
                places.iter().zip(values).for_each(|(place, text)| set(*place, text));
            }
            Values::Named(values) => {
                for (name, text) in values {
                    let place = spec.fields.iter().position(|field| *field.name == *name);
                    set(place.ok_or_else(|| format!("event {}: no field \"{name}\"", i + 1))?, text);
                }
            }
        }
        Ok(event)
    }
}
