//! One rule of the file.

use std::collections::BTreeMap;

use granary_core::Span;
use granary_core::time::{days, hours, mins, secs};
use granary_window::rule::{Condition as Index, Kind, Pace};

use super::cases::{self, CaseOf, Written};
use super::compile;
use super::condition::{Condition, Lists};
use super::event::{EventSpec, FieldKind};
use super::file::{Defaults, length};
use super::include;
use super::problem::{Problems, code};
use super::words::{self, WrittenLimit};
use super::{KINDS, Mode, Rate, Severity};
use crate::file::mistake::nearest;
use crate::file::read::{self, Map};
use crate::file::yaml::{Node, Value};
use crate::file::{Mistakes, Place};

/// What rules are read beside.
pub(crate) struct Context<'a> {
    pub spec: &'a EventSpec,
    pub defaults: Defaults,
    /// The cases of rules that say nothing else.
    pub case: Option<&'a Written>,
    pub lists: &'a Lists,
    /// Modes of rules, whatever the file says.
    pub modes: &'a BTreeMap<String, Mode>,
    pub without_cooldown: bool,
}

/// A rule as it was read. Its kind speaks of fields and of its own conditions by their places; whoever puts rules into
/// sets renumbers them.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub id: Box<str>,
    pub title: Box<str>,
    pub kind_word: &'static str,
    pub kind: Kind,
    /// The condition that all events of the rule fulfil, by its place.
    pub when: Option<Index>,
    /// As they are written, and compiled.
    pub conditions: Vec<(Box<str>, Condition)>,
    pub mode: Mode,
    pub severity: Severity,
    pub cooldown: Span,
    /// With more alerts than this it goes into shadow.
    pub alerts_max: Option<Rate>,
    /// The fields that its alerts show.
    pub include: Vec<usize>,
    /// How its alerts are put into cases, and where that is written.
    pub case: Option<(CaseOf, Place)>,
    /// Whether it is filled from the topic when it is new.
    pub backfill: bool,
    pub pace: Pace,
    /// The fields of its key.
    pub per: Vec<usize>,
    /// The limit as it is written.
    pub limit: String,
    /// The measure, condition or field, for the reason.
    pub subject: String,
    /// What its values are of.
    pub of: Option<usize>,
    /// What it means, whatever it is called.
    pub meaning: String,
}

/// Reads a rule being read.
pub(super) struct Reading<'a, 'n> {
    pub map: Map<'n>,
    pub id: &'n str,
    pub context: &'a Context<'a>,
    pub mistakes: &'a mut Mistakes,
    problems: &'a mut Problems,
    conditions: Vec<(Box<str>, Condition)>,
    pub limit: String,
    pub subject: String,
    pub of: Option<usize>,
    /// The fields it looks at.
    used: Vec<usize>,
}

pub(crate) fn unknown_field(of: &str, name: &str, spec: &EventSpec, place: Place, problems: &mut Problems) {
    let known: Vec<&str> = spec.fields.iter().map(|field| &*field.name).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("Did you mean \"{near}\"?"),
        None => format!("There are: {}", known.join(", ")),
    };
    problems.add(place, code::FIELD, format!("{of}: unknown field \"{name}\". {hint}"));
}

pub(crate) fn pace(node: &Node, mistakes: &mut Mistakes) -> Option<Pace> {
    let word = read::word(node, "judge", &["on_arrival", "on_watermark"], mistakes)?;
    Some(if word == "on_watermark" { Pace::OnWatermark } else { Pace::OnArrival })
}

/// Reads a rule, or notes all that is wrong with it. Its name and place are noted in any case.
pub(crate) fn read(
    node: &Node,
    context: &Context<'_>,
    known: &mut Vec<(String, Place)>,
    mistakes: &mut Mistakes,
    problems: &mut Problems,
) -> Option<Read> {
    let mut map = Map::new(node, "a rule", mistakes);
    let id = map.need("id", mistakes).and_then(|node| read::text(node, "an id", mistakes))?;
    let place = map.place;
    known.push((id.to_owned(), place));
    let kind_word = map.need("kind", mistakes).and_then(|node| read::word(node, "kind", &KINDS, mistakes));
    let title = map.get("title").and_then(|node| read::text(node, "a title", mistakes)).unwrap_or(id);
    let mode = map.get("mode").and_then(|node| Mode::read(node, mistakes));
    let severity = map.get("severity").and_then(|node| Severity::read(node, mistakes));
    let set = context.modes.get(id).copied();
    let cooldown = map.get("cooldown").and_then(|node| length(id, "cooldown", node, mistakes, problems));
    let pace = map.get("judge").and_then(|node| self::pace(node, mistakes));
    let alerts_max = map.get("max_alert_rate").and_then(|node| rate(node, mistakes));
    let pace = pace.unwrap_or(context.defaults.pace);
    let include =
        map.get("include").map(|node| include::fields(id, node, (context.spec, pace), mistakes, problems));
    let backfill = map.get("backfill").and_then(|node| self::backfill(node, mistakes));
    map.not_yet("resolution", mistakes);
    let conditions = Vec::new();
    let (limit, subject) = (String::new(), String::new());
    let mut reading = Reading {
        map,
        id,
        context,
        mistakes,
        problems,
        conditions,
        limit,
        subject,
        of: None,
        used: Vec::new(),
    };
    if !read::is_name(id) {
        let message = format!("rule `{id}`: a letter, then letters, digits, `_` or `-` expected");
        reading.mistakes.add(place, message);
    }
    let kind_word = kind_word?;
    reading.map.knows(names_of(kind_word));
    let per = reading.per();
    let when = match kind_word {
        "list" => reading.listed(),
        "feedback" => Some(reading.condition_or("when", "verdict == \"fraud\"")),
        "threshold" => reading.needed_condition("when"),
        _ => reading.condition("when"),
    };
    let kind = reading.kind(kind_word);
    if let (Some(Kind::Silence { is_timed: true, .. }), Some(node)) = (&kind, reading.get("include")) {
        let message = "include: an alert by a timer has no event that comes with it. Write `alert: return`";
        reading.problem(node, code::FIELD, message);
    }
    let case = reading.case(per.as_deref());
    reading.hint_at_optional_fields();
    let Reading { map, conditions, limit, subject, of, mistakes, .. } = reading;
    map.finish(mistakes);
    Some(Read {
        id: id.into(),
        title: title.into(),
        kind_word,
        kind: kind?,
        when,
        conditions,
        mode: set.or(mode).unwrap_or(context.defaults.mode),
        severity: severity.unwrap_or(context.defaults.severity),
        cooldown: match cooldown {
            _ if context.without_cooldown => Span::ZERO,
            cooldown => cooldown.unwrap_or(context.defaults.cooldown),
        },
        alerts_max,
        include: include.unwrap_or_default(),
        case,
        backfill: backfill.unwrap_or(context.defaults.backfill),
        pace,
        per: per?,
        limit,
        subject,
        of,
        meaning: meaning(node, context),
    })
}

/// Whether a new rule is filled from its topic.
pub(super) fn backfill(node: &Node, mistakes: &mut Mistakes) -> Option<bool> {
    read::word(node, "backfill", &["yes", "no"], mistakes).map(|word| word == "yes")
}

/// So many in so long, as `100/min`.
fn rate(node: &Node, mistakes: &mut Mistakes) -> Option<Rate> {
    let text = read::text(node, "a rate such as 100/min", mistakes)?;
    let rate = text.split_once('/').and_then(|(count, per)| {
        let per = match per.trim() {
            "s" => secs(1),
            "min" => mins(1),
            "h" => hours(1),
            "d" => days(1),
            _ => return None,
        };
        let count = count.trim().parse().ok().filter(|count| *count > 0)?;
        Some(Rate { count, per })
    });
    if rate.is_none() {
        let message = format!("max_alert_rate: a number, `/` and s, min, h or d expected, `{text}` found");
        mistakes.add(node.place, message);
    }
    rate
}

/// A text without what only lays it out.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What rules of a kind may say beside what all may.
fn names_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "threshold" => &["per", "when"],
        "velocity" => &["per", "when", "window", "measure", "limit"],
        "deviation" => &["per", "when", "of", "last", "min_events", "limit"],
        "zscore" => &["per", "when", "of", "last", "min_events", "limit", "sides"],
        "geo_velocity" => &["per", "when", "lat", "lon", "limit", "min_distance", "max_gap", "unless"],
        "sequence" => &["per", "when", "within", "contiguity", "after_match", "steps"],
        "silence" => &["per", "when", "gap", "alert"],
        "first_seen" => &["per", "when", "of", "after", "forget"],
        "list" => &["per", "field", "in", "not_in"],
        _ => &["per", "when", "confirmed", "window"],
    }
}

/// What a rule means in one line, whatever it is called and however it is laid out.
fn meaning(node: &Node, context: &Context<'_>) -> String {
    const NAMES_ONLY: [&str; 7] =
        ["title", "severity", "mode", "max_alert_rate", "case", "include", "backfill"];
    fn write(node: &Node, out: &mut String) {
        match &node.value {
            Value::Scalar { text, .. } => match read::parse_span(text) {
                Some(span) => out.push_str(&format!("{}ms", span.ms())),
                None => out.push_str(&format!("{:?}", one_line(text))),
            },
            Value::List(items) => {
                out.push('[');
                items.iter().for_each(|item| {
                    write(item, out);
                    out.push(',');
                });
                out.push(']');
            }
            Value::Map(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
                out.push('{');
                for (name, node) in members {
                    if !NAMES_ONLY.contains(&name.text.as_str()) {
                        out.push_str(&format!("{}:", name.text));
                        write(node, out);
                        out.push(',');
                    }
                }
                out.push('}');
            }
        }
    }
    let mut out = String::new();
    write(node, &mut out);
    let Defaults { cooldown, lateness, pace, .. } = context.defaults;
    out.push_str(&format!(" cooldown {}ms lateness {}ms {pace:?}", cooldown.ms(), lateness.ms()));
    out
}

impl<'n> Reading<'_, 'n> {
    pub fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        self.map.get(name)
    }

    pub fn need(&mut self, name: &'static str) -> Option<&'n Node> {
        self.map.need(name, self.mistakes)
    }

    pub fn text(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        read::text(node, what, self.mistakes)
    }

    pub fn problem(&mut self, node: &Node, code: &'static str, message: &str) {
        self.problems.add(node.place, code, format!("{}: {message}", self.id));
    }

    fn hint_at_optional_fields(&mut self) {
        self.used.sort_unstable();
        self.used.dedup();
        let spec = self.context.spec;
        for field in self.used.iter().map(|field| &spec.fields[*field]).filter(|field| field.is_optional) {
            let (id, name) = (self.id, &field.name);
            let message = format!("{id}: {name} is optional in this stream; events without it are skipped");
            self.problems.add(self.map.place, code::OPTIONAL, message);
        }
    }

    fn per(&mut self) -> Option<Vec<usize>> {
        let node = self.need("per")?;
        let mut per = Vec::new();
        for item in read::items(node) {
            let name = self.text(item, "a field")?;
            per.push(self.field(name, item, &[FieldKind::Text, FieldKind::Integer, FieldKind::Boolean])?);
        }
        if per.is_empty() {
            self.problem(node, code::FIELD, "per: a field expected");
            return None;
        }
        Some(per)
    }

    /// Its own cases, or those of the defaults.
    fn case(&mut self, per: Option<&[usize]>) -> Option<(CaseOf, Place)> {
        let context = self.context;
        let own = match self.get("case") {
            Some(node) => Some((cases::read(self.id, node, self.mistakes, self.problems)?, node.place)),
            None => None,
        };
        let (written, place) = match &own {
            Some((written, place)) => (written, *place),
            None => (context.case?, self.map.place),
        };
        written.of_rule((self.id, place), per?, context.spec, self.problems)
    }

    /// A field of one of these types, whatever their places.
    pub fn field(&mut self, name: &str, node: &Node, kinds: &[FieldKind]) -> Option<usize> {
        let spec = self.context.spec;
        let Some(found) = spec.fields.iter().position(|field| *field.name == *name) else {
            unknown_field(self.id, name, spec, node.place, self.problems);
            return None;
        };
        let field = &spec.fields[found];
        if !kinds.iter().any(|kind| kind.name() == field.kind.name()) {
            let allowed: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let mut message =
                format!("\"{name}\" is {}, {} expected", field.kind.name(), allowed.join(" or "));
            if field.kind == FieldKind::Float {
                message.push_str(". Rules add exactly: declare it as {type: decimal, scale: 6}");
            }
            self.problem(node, code::FIELD, &message);
            return None;
        }
        self.used.push(found);
        Some(found)
    }

    pub fn field_named(&mut self, name: &'static str, kinds: &[FieldKind]) -> Option<usize> {
        let node = self.need(name)?;
        let field = self.text(node, "a field")?;
        field.clone_into(&mut self.subject);
        let field = self.field(field, node, kinds)?;
        self.of = Some(field);
        Some(field)
    }

    pub fn condition(&mut self, name: &'static str) -> Option<Index> {
        let node = self.get(name)?;
        self.compile(node)
    }

    fn needed_condition(&mut self, name: &'static str) -> Option<Index> {
        let node = self.need(name)?;
        if let Some(text) = self.text(node, "a condition") {
            text.clone_into(&mut self.subject);
        }
        self.compile(node)
    }

    fn condition_or(&mut self, name: &'static str, otherwise: &str) -> Index {
        if let Some(condition) = self.condition(name) {
            return condition;
        }
        let place = self.map.place;
        self.compile_text(otherwise, place, 0).unwrap_or(Index(0))
    }

    pub fn compile(&mut self, node: &'n Node) -> Option<Index> {
        let text = self.text(node, "a condition")?;
        let is_quoted = matches!(node.value, Value::Scalar { is_quoted: true, .. });
        self.compile_text(text, node.place, usize::from(is_quoted))
    }

    fn compile_text(&mut self, text: &str, place: Place, quotes: usize) -> Option<Index> {
        match compile::compile(text, self.context.spec, self.context.lists) {
            Ok((condition, fields)) => {
                let of = fields.iter().find(|field| self.context.spec.fields[**field].kind.scale().is_some());
                self.of = self.of.or(of.copied());
                self.conditions.push((one_line(text).into(), condition));
                self.used.extend(fields);
                Some(Index((self.conditions.len() - 1) as u16))
            }
            Err(unfit) => {
                let place = Place { line: place.line, column: place.column + quotes + unfit.at };
                match unfit.unknown {
                    Some(name) if unfit.message.starts_with("unknown field") => {
                        unknown_field(self.id, &name, self.context.spec, place, self.problems);
                    }
                    Some(name) => self.unknown_list(&name, place),
                    None => {
                        let message = format!("{}: {}", self.id, unfit.message);
                        self.problems.add(place, code::CONDITION, message);
                    }
                }
                None
            }
        }
    }

    fn unknown_list(&mut self, name: &str, place: Place) {
        let known: Vec<&str> = self.context.lists.keys().map(String::as_str).collect();
        let near = nearest(name, &known);
        let hint = near.map_or(String::new(), |near| format!(". Did you mean \"{near}\"?"));
        self.problems.add(place, code::LIST, format!("{}: unknown list \"{name}\"{hint}", self.id));
    }

    fn listed(&mut self) -> Option<Index> {
        let field = self.need("field")?;
        let name = self.text(field, "a field")?;
        self.field(name, field, &[FieldKind::Text])?;
        let (node, is_in) = match (self.get("in"), self.get("not_in")) {
            (Some(node), None) => (node, true),
            (None, Some(node)) => (node, false),
            _ => {
                self.problem(field, code::LIST, "either `in` or `not_in` with the name of a list expected");
                return None;
            }
        };
        let list = self.text(node, "a list")?;
        if !self.context.lists.contains_key(list) {
            self.unknown_list(list, node.place);
            return None;
        }
        name.clone_into(&mut self.subject);
        self.limit = if is_in { format!("in {list}") } else { format!("not in {list}") };
        let text = if is_in { format!("{name} in {list}") } else { format!("!({name} in {list})") };
        self.compile_text(&text, node.place, 0)
    }

    pub fn length(&mut self, name: &'static str) -> Option<Span> {
        let node = self.need(name)?;
        let span = length(self.id, name, node, self.mistakes, self.problems)?;
        if span == Span::ZERO {
            self.problem(node, code::LENGTH, &format!("{name} is longer than nothing"));
            return None;
        }
        Some(span)
    }

    /// `limit`, with one of these units behind its number.
    pub fn limit(&mut self, example: &str, units: &[&str]) -> Option<(&'n Node, WrittenLimit)> {
        let node = self.need("limit")?;
        let text = self.text(node, "a limit")?;
        text.trim().clone_into(&mut self.limit);
        let limit = words::limit(text).filter(|limit| units.contains(&limit.unit.as_str()));
        if limit.is_none() {
            self.problem(node, code::LIMIT, &format!("limit \"{text}\" is not one. Write \"{example}\""));
        }
        Some((node, limit?))
    }
}
