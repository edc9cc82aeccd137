//! The rules on one key, made ready to run: which stretches of events they need totals of, and for how long events are kept.

use granary_core::Span;

use super::kept::Layout;
use super::steps::Progress;
use super::{Condition, Kind, Measure, Number, Pace, RULES_MAX, Rule, Text};
use crate::spec::Mistake;

/// Rules that are judged together: on the same events, by the same key, at the same pace.
#[derive(Clone, Debug)]
pub struct Set {
    pub(super) rules: Vec<Rule>,
    pub(super) pace: Pace,
    pub(super) lateness_ms: i64,
    pub(super) amount: Option<Number>,
    pub(super) layout: Layout,
    pub(super) names: Names,
    pub(super) windows: Vec<Window>,
    /// For each rule the window it needs.
    pub(super) window_of: Vec<Option<usize>>,
    /// Events are kept for so long at least.
    pub(super) retention_ms: i64,
    /// And so many of each of these, however old they are.
    pub(super) at_least: Vec<(Track, u32)>,
}

/// What a fact of the set has, by names that stay: state belongs to them. The same name means the same thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Its numbers.
    pub numbers: Vec<Box<str>>,
    /// Its texts.
    pub texts: Vec<Box<str>>,
    /// Its conditions.
    pub conditions: Vec<Box<str>>,
    /// The rules and their versions.
    pub rules: Vec<Box<str>>,
}

impl Names {
    pub(super) fn layout(&self) -> Layout {
        let Names { numbers, texts, conditions, rules } = self;
        let (numbers, texts) = (numbers.len(), texts.len());
        Layout { numbers, texts, conditions: conditions.len(), rules: rules.len() }
    }
}

/// The events that a total is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Track {
    /// Those for which this holds.
    pub when: Option<Condition>,
    /// Those that have this number.
    pub of: Option<Number>,
    /// Those that have this text.
    pub text: Option<Text>,
}

/// How far a total reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Back from the event that is judged, itself included, for less than so many milliseconds.
    Time(i64),
    /// So many events before the one that is judged.
    Count(u32),
}

/// A total that some rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub track: Track,
    pub bound: Bound,
    pub has_extremes: bool,
}

/// What a rule carries from event to event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Carry {
    /// When the last alert was; `i64::MIN` without one.
    pub alert_at: i64,
    /// Hits since then that were silenced.
    pub suppressed: u32,
    /// Events that it has looked at.
    pub events: u64,
    pub progress: Progress,
}

impl Default for Carry {
    fn default() -> Carry {
        Carry { alert_at: i64::MIN, suppressed: 0, events: 0, progress: Progress::default() }
    }
}

/// What the rules carry; most of them nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Carries(pub Vec<(u16, Carry)>);

impl Carries {
    pub fn get(&self, rule: usize) -> Option<&Carry> {
        let found = self.0.binary_search_by_key(&(rule as u16), |(rule, _)| *rule).ok()?;
        Some(&self.0[found].1)
    }

    pub fn of(&mut self, rule: usize) -> &mut Carry {
        let place = self.0.binary_search_by_key(&(rule as u16), |(rule, _)| *rule);
        let place = place.unwrap_or_else(|place| {
            self.0.insert(place, (rule as u16, Carry::default()));
            place
        });
        &mut self.0[place].1
    }

    pub fn memory_bytes(&self) -> usize {
        let progress: usize = self.0.iter().map(|(_, carry)| carry.progress.memory_bytes()).sum();
        self.0.capacity() * size_of::<(u16, Carry)>() + progress
    }
}

impl Set {
    /// Makes rules ready. An id is refused for `dedup` after its event.
    pub fn new(
        names: Names,
        amount: Option<Number>,
        rules: Vec<Rule>,
        pace: Pace,
        lateness: Span,
        dedup: Span,
    ) -> Result<Set, Vec<Mistake>> {
        let mistakes = check(&rules, &names);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let lateness_ms = length_ms(lateness);
        let mut set = Set {
            pace,
            lateness_ms,
            amount,
            layout: names.layout(),
            names,
            windows: Vec::new(),
            window_of: Vec::new(),
            retention_ms: length_ms(dedup),
            at_least: Vec::new(),
            rules,
        };
        for i in 0..set.rules.len() {
            set.plan(i);
        }
        set.retention_ms = set.retention_ms.saturating_add(lateness_ms);
        Ok(set)
    }

    /// When they judge.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    fn plan(&mut self, rule: usize) {
        let Rule { when, ref kind, .. } = self.rules[rule];
        let track = self.track(rule);
        let mut keep = |span: Span| self.retention_ms = self.retention_ms.max(length_ms(span));
        let (bound, has_extremes) = match kind {
            Kind::Velocity { window, measure, .. } => {
                keep(*window);
                let has_extremes = matches!(measure, Measure::Min(_) | Measure::Max(_));
                (Bound::Time(length_ms(*window)), has_extremes)
            }
            Kind::FirstSeen { forget, .. } => {
                keep(*forget);
                (Bound::Time(length_ms(*forget)), false)
            }
            Kind::Deviation { last, .. } | Kind::ZScore { last, .. } => {
                self.at_least.push((track, *last));
                (Bound::Count(*last), false)
            }
            Kind::Geo { gap_max, .. } => {
                keep(*gap_max);
                return self.window_of.push(None);
            }
            Kind::Silence { .. } => {
                self.at_least.push((Track { when, ..Track::default() }, 1));
                return self.window_of.push(None);
            }
            Kind::Match { .. } | Kind::Sequence { .. } => return self.window_of.push(None),
        };
        let window = Window { track, bound, has_extremes };
        let known = self.windows.iter().position(|known| *known == window);
        let place = known.unwrap_or_else(|| {
            self.windows.push(window);
            self.windows.len() - 1
        });
        self.window_of.push(Some(place));
    }

    /// How far a rule looks back, as far as that is a length of time.
    pub(super) fn looks_back_ms(&self, rule: usize) -> i64 {
        match &self.rules[rule].kind {
            Kind::Velocity { window, .. } => length_ms(*window),
            Kind::FirstSeen { forget, .. } => length_ms(*forget),
            Kind::Sequence { within, .. } => length_ms(*within),
            Kind::Geo { gap_max, .. } => length_ms(*gap_max),
            Kind::Silence { gap, .. } => length_ms(*gap),
            Kind::Match { .. } | Kind::Deviation { .. } | Kind::ZScore { .. } => 0,
        }
    }

    /// The events a rule counts.
    pub(super) fn track(&self, rule: usize) -> Track {
        let Rule { when, ref kind, .. } = self.rules[rule];
        let (of, text) = match kind {
            Kind::Velocity { measure, .. } => match *measure {
                Measure::Count => (None, None),
                Measure::Sum(of) | Measure::Avg(of) | Measure::Min(of) | Measure::Max(of) => (Some(of), None),
                Measure::Distinct(text) => (None, Some(text)),
            },
            Kind::Deviation { of, .. } | Kind::ZScore { of, .. } => (Some(*of), None),
            Kind::FirstSeen { of, .. } => (None, Some(*of)),
            _ => (None, None),
        };
        Track { when, of, text }
    }
}

/// Milliseconds, as far as they can be counted.
pub(super) fn length_ms(span: Span) -> i64 {
    i64::try_from(span.ms()).unwrap_or(i64::MAX)
}

fn check(rules: &[Rule], names: &Names) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if rules.len() != names.rules.len() {
        mistakes.push(Mistake { field: "rules", message: "a name for each rule expected".to_owned() });
    }
    if rules.len() > RULES_MAX {
        mistakes.push(Mistake { field: "rules", message: format!("more than {RULES_MAX} rules on one key") });
    }
    for rule in rules {
        let mut wrong = |field, message: String| mistakes.push(Mistake { field, message });
        if rule.when.is_some_and(|when| usize::from(when.0) >= names.conditions.len()) {
            wrong("when", "a condition that the set does not have".to_owned());
        }
        match &rule.kind {
            Kind::Velocity { window, limit, .. } => {
                if window.ms() == 0 {
                    wrong("window", "longer than nothing expected".to_owned());
                }
                if limit.value.den <= 0 {
                    wrong("limit", "a number expected".to_owned());
                }
            }
            Kind::Deviation { last, events_min, .. } | Kind::ZScore { last, events_min, .. } => {
                if !(1..=super::LAST_MAX).contains(last) {
                    wrong("last", format!("from 1 to {} expected", super::LAST_MAX));
                }
                if events_min > last {
                    let message = format!("{events_min} is more than last {last}, the rule could never fire");
                    wrong("min_events", message);
                }
            }
            Kind::Sequence { steps, .. } => {
                if !(2..=super::STEPS_MAX).contains(&steps.len()) {
                    wrong("steps", format!("from 2 to {} steps expected", super::STEPS_MAX));
                }
                for step in steps {
                    let most = step.times_max.unwrap_or(step.times_min);
                    if step.times_min == 0 || most < step.times_min || most > super::TIMES_MAX {
                        let message = format!("step {}: from 1 to {} expected", step.name, super::TIMES_MAX);
                        wrong("times", message);
                    }
                }
            }
            Kind::Match { .. } | Kind::Geo { .. } | Kind::Silence { .. } | Kind::FirstSeen { .. } => {}
        }
    }
    mistakes
}
