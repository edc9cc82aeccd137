//! Rules on one key, at one pace, become one set: what the set needs of an event is found once.

use std::sync::Arc;

use granary_core::Span;
use granary_window::rule::{Condition as Index, Kind, Measure, Names, Number, Pace, Rule, Set, Step, Text};
use sha2::{Digest, Sha256};

use super::condition::{Condition, Lists};
use super::event::{EventSpec, Field};
use super::file::Defaults;
use super::mutes::Muted;
use super::rule::Read;
use super::words::in_words;
use super::{Backfill, Info, Mode, cases};

/// The rules of a file, ready to judge.
#[derive(Clone, Debug)]
pub struct Rules {
    stream: Box<str>,
    spec: EventSpec,
    lists: Vec<(Box<str>, usize, Box<str>)>,
    infos: Vec<Info>,
    pub(crate) groups: Vec<Group>,
    /// All conditions of all groups, each once.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) mutes: Vec<Muted>,
}

/// Rules that are judged together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Its name among the groups: its key and its pace.
    pub name: Box<str>,
    /// The fields of the key.
    pub per: Vec<usize>,
    pub set: Arc<Set>,
    /// For each number of the set where it comes from.
    pub numbers: Vec<NumberOf>,
    pub texts: Vec<usize>,
    pub conditions: Vec<usize>,
    /// For each rule of the set its place in the file.
    pub rules: Vec<usize>,
}

/// Where a number of a set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberOf {
    pub field: usize,
    /// It is a double that becomes whole units of 1e-7.
    pub is_degrees: bool,
}

impl Rules {
    /// The lists they look into: name, entries, and eight hex digits that follow from those.
    pub fn lists(&self) -> &[(Box<str>, usize, Box<str>)] {
        &self.lists
    }

    /// The stream they are on.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The events of the stream.
    pub fn spec(&self) -> &EventSpec {
        &self.spec
    }

    /// The rules, in the order of the file.
    pub fn infos(&self) -> &[Info] {
        &self.infos
    }

    /// What a rule does, in a sentence.
    pub fn in_words(&self, info: &Info) -> String {
        let per: Vec<&str> = info.per.iter().map(|field| &*self.spec.fields[*field].name).collect();
        let (per, length) = (per.join(" and "), info.length.map(in_words).unwrap_or_default());
        let (subject, limit) = (&info.subject, &info.limit);
        let when = match info.kind {
            "threshold" => format!("when {subject}"),
            "list" => format!("when {subject} is {limit}"),
            "velocity" => format!("when {subject} over the last {length} is {limit}"),
            "feedback" => format!("when {subject} in the last {length} are {limit}"),
            "deviation" => format!("when {subject} is {limit} the mean of the events before"),
            "zscore" => {
                format!("when {subject} is {limit} standard deviations from the mean of the events before")
            }
            "geo_velocity" => format!("when it took {limit} to get from the place before to this one"),
            "sequence" => format!("when these follow within {length}: {subject}"),
            "silence" if info.is_timed => format!("when more than {length} have passed without an event"),
            "silence" => format!("at the first event after more than {length} without one"),
            _ => format!("when {subject} was not seen in the last {length}"),
        };
        let quiet = match info.cooldown.ms() {
            0 => "every time".to_owned(),
            _ => format!("then silent for {}", in_words(info.cooldown)),
        };
        let case = info.case.map_or(String::new(), |case| {
            let names = cases::names(info, case, &self.spec).join(" and ");
            format!(" Alerts of one {names} within {} of each other are one case.", in_words(case.open_for))
        });
        format!("{}: per {per}, {when}; {quiet}.{case}", info.title)
    }
}

/// Puts rules that were read into sets.
pub(crate) fn rules_of(
    stream: &str,
    spec: EventSpec,
    defaults: Defaults,
    lists: &Lists,
    read: Vec<Read>,
) -> Rules {
    let infos = read.iter().map(|rule| info(rule, defaults)).collect();
    let lists = lists.iter().map(|(name, entries)| {
        let mut sorted: Vec<&[u8]> = entries.iter().map(|entry| &**entry).collect();
        sorted.sort_unstable();
        (name.as_str().into(), sorted.len(), version(&sorted.join(&b'\n')))
    });
    let (stream, lists) = (stream.into(), lists.collect());
    let (groups, conditions, mutes) = (Vec::new(), Vec::new(), Vec::new());
    let mut rules = Rules { stream, spec, lists, infos, groups, conditions, mutes };
    let mut keys: Vec<(&[usize], Pace)> = Vec::new();
    for rule in read.iter().filter(|rule| rule.mode != Mode::Off) {
        if !keys.contains(&(&rule.per, rule.pace)) {
            keys.push((&rule.per, rule.pace));
        }
    }
    for (per, pace) in keys {
        let members = read.iter().enumerate();
        let members = members.filter(|(_, r)| r.mode != Mode::Off && (&*r.per, r.pace) == (per, pace));
        rules.group(per, pace, defaults, &members.collect::<Vec<_>>());
    }
    rules
}

/// Eight hex digits that follow from what something means.
fn version(meaning: &[u8]) -> Box<str> {
    let digest = Sha256::digest(meaning);
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// What is read again for a rule that is new: all it looks back on, and the alerts after which it would be silent. A rule that
/// looks back on a number of events has those that are kept for the sake of their ids.
fn backfill(rule: &Read, defaults: Defaults) -> Backfill {
    let length = match &rule.kind {
        Kind::Velocity { window, .. } => *window,
        Kind::Sequence { within, .. } => *within,
        Kind::FirstSeen { forget, .. } => *forget,
        Kind::Geo { gap_max, .. } => *gap_max,
        Kind::Silence { gap, .. } => *gap,
        Kind::Deviation { .. } | Kind::ZScore { .. } => defaults.dedup,
        Kind::Match { .. } => return Backfill::No,
    };
    let all_ms = length.ms().saturating_add(rule.cooldown.ms()).saturating_add(defaults.lateness.ms());
    if rule.backfill { Backfill::Over(Span(all_ms)) } else { Backfill::No }
}

fn info(rule: &Read, defaults: Defaults) -> Info {
    let length = match &rule.kind {
        Kind::Velocity { window, .. } => Some(*window),
        Kind::Sequence { within, .. } => Some(*within),
        Kind::FirstSeen { forget, .. } => Some(*forget),
        Kind::Silence { gap, .. } => Some(*gap),
        _ => None,
    };
    Info {
        id: rule.id.clone(),
        title: rule.title.clone(),
        kind: rule.kind_word,
        mode: rule.mode,
        severity: rule.severity,
        cooldown: rule.cooldown,
        alerts_max: rule.alerts_max,
        include: rule.include.clone(),
        case: rule.case.map(|(case, _)| case),
        hash: version(rule.meaning.as_bytes()),
        limit: rule.limit.as_str().into(),
        subject: rule.subject.as_str().into(),
        of: rule.of,
        per: rule.per.clone(),
        length,
        is_timed: matches!(rule.kind, Kind::Silence { is_timed: true, .. }),
        backfill: backfill(rule, defaults),
    }
}

impl Rules {
    fn group(&mut self, per: &[usize], pace: Pace, defaults: Defaults, members: &[(usize, &Read)]) {
        let mut group = Numbering {
            numbers: Vec::new(),
            texts: Vec::new(),
            conditions: Vec::new(),
            all: &mut self.conditions,
            names: Names::default(),
            fields: &self.spec.fields,
        };
        let amount = self.spec.amount.map(|field| group.number(Number(field as u16), false));
        let rules: Vec<Rule> = members
            .iter()
            .map(|(_, read)| Rule {
                when: read.when.map(|when| group.condition(read, when)),
                kind: group.kind(read),
                cooldown: read.cooldown,
            })
            .collect();
        let Numbering { numbers, texts, conditions, mut names, .. } = group;
        let version = |place: usize| format!("{}@{}", self.infos[place].id, self.infos[place].hash).into();
        names.rules = members.iter().map(|(place, _)| version(*place)).collect();
        let Defaults { lateness, dedup, .. } = defaults;
        let set = Set::new(names, amount, rules, pace, lateness, Span(dedup.ms()));
        let set = Arc::new(set.expect("rules were checked when they were read"));
        let rules = members.iter().map(|(place, _)| *place).collect();
        let fields: Vec<&str> = per.iter().map(|field| &*self.spec.fields[*field].name).collect();
        let name = format!("{}:{pace:?}", fields.join(",")).into();
        self.groups.push(Group { name, per: per.to_vec(), set, numbers, texts, conditions, rules });
    }
}

/// Gives what rules need its places in the set.
struct Numbering<'a> {
    numbers: Vec<NumberOf>,
    texts: Vec<usize>,
    conditions: Vec<usize>,
    all: &'a mut Vec<Condition>,
    /// The names of what it gave places.
    names: Names,
    fields: &'a [Field],
}

/// The place of an item in a list; it is appended if it is not there.
fn place_in<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

impl Numbering<'_> {
    fn number(&mut self, field: Number, is_degrees: bool) -> Number {
        let of = NumberOf { field: usize::from(field.0), is_degrees };
        let place = place_in(&mut self.numbers, of);
        if place == self.names.numbers.len() {
            let field = &self.fields[of.field];
            self.names.numbers.push(format!("{} {:?}", field.name, field.kind).into());
        }
        Number(place as u16)
    }

    fn text(&mut self, field: Text) -> Text {
        let place = place_in(&mut self.texts, usize::from(field.0));
        if place == self.names.texts.len() {
            self.names.texts.push(self.fields[usize::from(field.0)].name.clone());
        }
        Text(place as u16)
    }

    fn condition(&mut self, rule: &Read, condition: Index) -> Index {
        let (source, own) = rule.conditions[usize::from(condition.0)].clone();
        let all = place_in(self.all, own);
        let place = place_in(&mut self.conditions, all);
        if place == self.names.conditions.len() {
            self.names.conditions.push(source);
        }
        Index(place as u16)
    }

    fn kind(&mut self, rule: &Read) -> Kind {
        match rule.kind.clone() {
            Kind::Match { shows } => Kind::Match { shows: shows.map(|number| self.number(number, false)) },
            Kind::Velocity { measure, window, limit } => {
                let measure = match measure {
                    Measure::Count => Measure::Count,
                    Measure::Sum(of) => Measure::Sum(self.number(of, false)),
                    Measure::Avg(of) => Measure::Avg(self.number(of, false)),
                    Measure::Min(of) => Measure::Min(self.number(of, false)),
                    Measure::Max(of) => Measure::Max(self.number(of, false)),
                    Measure::Distinct(of) => Measure::Distinct(self.text(of)),
                };
                Kind::Velocity { measure, window, limit }
            }
            Kind::Deviation { of, last, events_min, ratio } => {
                Kind::Deviation { of: self.number(of, false), last, events_min, ratio }
            }
            Kind::ZScore { of, last, events_min, z, sides } => {
                Kind::ZScore { of: self.number(of, false), last, events_min, z, sides }
            }
            Kind::Geo { lat, lon, speed_kmh, distance_km_min, gap_max, unless } => Kind::Geo {
                lat: self.number(lat, true),
                lon: self.number(lon, true),
                speed_kmh,
                distance_km_min,
                gap_max,
                unless: unless.map(|unless| self.condition(rule, unless)),
            },
            Kind::Sequence { steps, within, contiguity } => {
                let step = |step: Step| Step { when: self.condition(rule, step.when), ..step };
                Kind::Sequence { steps: steps.into_iter().map(step).collect(), within, contiguity }
            }
            Kind::Silence { gap, is_timed } => Kind::Silence { gap, is_timed },
            Kind::FirstSeen { of, events_min, forget } => {
                Kind::FirstSeen { of: self.text(of), events_min, forget }
            }
        }
    }
}
