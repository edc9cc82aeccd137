//! Rules that an analyst writes: the file, the events they look at, the alerts they give, and what they would have given.
//!
//! | module | holds |
//! |---|---|
//! | `file`, `rule`, `kinds`, `words` | the rules file: YAML in, rules or all [`Problems`] out |
//! | `condition`, `compile` | conditions over an event, from CEL |
//! | `decimal` | numbers as they are written, exactly |
//! | `event`, `input` | records into events: JSON, CSV |
//! | `groups` | rules on one key put into one set of [`granary_window::rule`] |
//! | [`judges`] | all sets of a file over a stream |
//! | [`cases`] | alerts that follow each other closely, together |
//! | [`mutes`] | alerts that nobody wants to hear of for a while |
//! | `include` | fields of the event that an alert shows |
//! | [`alert`] | alerts as CloudEvents |
//! | `trial` | the tests in a rules file |
//! | [`backtest`] | what rules would have given |
//!
//! ```
//! use granary_streams::rules::{Event, Judges, Options, Reader, parse};
//!
//! let file = "\
//! schema: fraud-rules/v1
//! stream: payments
//! event: {id: id, time: ts, amount: {type: money, scale: 2}, fields: {card: text}}
//! rules:
//!   - {id: big, kind: threshold, per: card, when: amount > 220.00, mode: live}
//! ";
//! let modes = Default::default();
//! let options = Options { read: &|_| Err("no files here".to_owned()), modes: &modes, without_cooldown: false };
//! let rules = std::sync::Arc::new(parse(file, &options).0.expect("a file without errors"));
//! let (reader, mut judges) = (Reader::new(rules.spec()), Judges::new(rules.clone()));
//! let mut event = Event::default();
//! reader.json(br#"{"id":"7","ts":1704067221,"amount":220.01,"card":"c-1"}"#, &mut event)?;
//! let mut alerts = Vec::new();
//! judges.event(&event, &mut |said| alerts.push(rules.infos()[said.rule].id.to_string()));
//! assert_eq!(alerts, ["big"]);
//! # Ok::<(), granary_streams::rules::UnfitEvent>(())
//! ```

pub mod alert;
pub mod backtest;
pub mod cases;
mod compile;
mod condition;
mod decimal;
mod event;
mod file;
mod groups;
mod include;
mod input;
pub mod judges;
mod kinds;
pub mod mutes;
mod problem;
mod rule;
#[cfg(test)]
mod tests;
mod trial;
mod words;

pub use event::{Event, EventSpec, Unfit as UnfitEvent};
pub(crate) use event::{Field, Raw};
pub use file::{Options, parse};
pub use groups::Rules;
pub(crate) use groups::rules_of;
pub use input::{Reader, Table};
pub use judges::{Judges, Said};
pub use problem::{Problem, Problems};

use granary_core::Span;
use granary_core::cloud::Gravity;
use serde::{Deserialize, Serialize};

use crate::file::Mistakes;
use crate::file::read;
use crate::file::yaml::Node;

/// The kinds of rules.
const KINDS: [&str; 10] = [
    "threshold",
    "velocity",
    "deviation",
    "zscore",
    "geo_velocity",
    "sequence",
    "silence",
    "first_seen",
    "list",
    "feedback",
];

/// Where alerts of a rule go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Among the shadow alerts only: nobody is told.
    #[default]
    Shadow,
    /// To everybody who listens.
    Live,
    /// It is not judged.
    Off,
}

impl Mode {
    pub(crate) fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Mode> {
        // YAML 1.1 readers turn `off` into false; ours does not, and takes both.
        Some(match read::word(node, "mode", &["shadow", "live", "off", "none"], mistakes)? {
            "shadow" => Mode::Shadow,
            "live" => Mode::Live,
            _ => Mode::Off,
        })
    }

    /// The one that is written so.
    pub fn named(name: &str) -> Option<Mode> {
        [Mode::Shadow, Mode::Live, Mode::Off].into_iter().find(|mode| mode.name() == name)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Shadow => "shadow",
            Mode::Live => "live",
            Mode::Off => "off",
        }
    }
}

/// How grave an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Low.
    Low,
    /// Medium.
    #[default]
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl Severity {
    const NAMES: [&str; 5] = ["info", "low", "medium", "high", "critical"];

    pub(crate) fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Severity> {
        read::word(node, "severity", &Severity::NAMES, mistakes).and_then(Severity::named)
    }

    /// The one that is written so.
    pub fn named(name: &str) -> Option<Severity> {
        [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical]
            .into_iter()
            .find(|severity| severity.name() == name)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Severity::NAMES[self as usize]
    }

    /// The same as events say it.
    pub fn gravity(self) -> Gravity {
        let text = ["INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL"][self as usize];
        Gravity { text, number: self.number() }
    }

    /// Its number on OpenTelemetry's scale.
    pub fn number(self) -> u8 {
        [9, 12, 13, 17, 21][self as usize]
    }
}

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In how long.
    pub per: Span,
}

/// Whether events that came before a rule did are read for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backfill {
    /// They are not: nobody wants it, or the rule does not look back.
    No,
    /// Those of this length, so that it has seen all that it looks back on.
    Over(Span),
}

/// A rule as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Its name in the file.
    pub id: Box<str>,
    /// What it is called.
    pub title: Box<str>,
    /// Its kind, as it is written.
    pub kind: &'static str,
    /// Where its alerts go.
    pub mode: Mode,
    /// How grave they are.
    pub severity: Severity,
    /// How long a key is silent after an alert.
    pub cooldown: Span,
    /// With more alerts than this it goes into shadow by itself.
    pub alerts_max: Option<Rate>,
    /// The fields that its alerts show.
    pub(crate) include: Vec<usize>,
    /// How its alerts are put into cases.
    pub case: Option<cases::CaseOf>,
    /// Eight hex digits that follow from what the rule means.
    pub hash: Box<str>,
    /// The limit as it is written.
    pub limit: Box<str>,
    /// What is compared with it.
    pub(crate) subject: Box<str>,
    /// The field that values are of.
    pub(crate) of: Option<usize>,
    /// The fields of its key.
    pub(crate) per: Vec<usize>,
    /// The length it looks back on.
    pub(crate) length: Option<Span>,
    /// Its alerts come by a timer.
    pub(crate) is_timed: bool,
    /// Whether it is filled from its topic when it is new.
    pub backfill: Backfill,
}
