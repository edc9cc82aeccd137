//! Mutes: for a while nobody wants to hear of alerts of a key. They are part of a revision of the rules and go by the time of
//! events, so whoever judges the same events by the same revision keeps silent about the same alerts.

use std::collections::BTreeMap;
use std::fmt;

use granary_core::Timestamp;
use granary_window::rule::Decision;
use serde::{Deserialize, Serialize};

use super::judges::key_values;
use super::{Mode, Rules};
use crate::file::rfc3339;

/// Mutes of one revision.
pub const MUTES_MAX: usize = 1_000;
/// Bytes of a mute's reason.
pub const REASON_BYTES_MAX: usize = 500;

/// Alerts that nobody is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// The rule; `None`: all that have the fields in their keys.
    pub rule: Option<String>,
    /// The values of fields of their keys.
    pub key: BTreeMap<String, String>,
    /// Those of events before this time, by RFC 3339.
    pub until: String,
    /// Why, for people.
    pub reason: String,
}

/// As people speak of it: `rule big, customer_id=4711`.
impl fmt::Display for Mute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "rule {rule}")?,
            None => f.write_str("all rules")?,
        }
        self.key.iter().try_for_each(|(field, value)| write!(f, ", {field}={value}"))
    }
}

impl Mute {
    /// Whether it is on the same alerts.
    pub fn is_on(&self, other: &Mute) -> bool {
        (&self.rule, &self.key) == (&other.rule, &other.key)
    }

    /// When it ends; `None` when that is no time.
    pub fn ends_at(&self) -> Option<Timestamp> {
        rfc3339(&self.until)
    }

    /// Its bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        let key: usize = self.key.iter().map(|(field, value)| field.len() + value.len()).sum();
        key + self.rule.as_ref().map_or(0, String::len) + self.until.len() + self.reason.len()
    }
}

/// A mute with what it names found.
#[derive(Clone, Debug)]
pub struct Muted {
    rule: Option<usize>,
    /// Fields and their values.
    key: Vec<(usize, Box<[u8]>)>,
    ends_at: Timestamp,
    /// As it is written.
    pub mute: Mute,
}

impl Rules {
    /// What is muted.
    pub fn mutes(&self) -> impl Iterator<Item = &Mute> {
        self.mutes.iter().map(|muted| &muted.mute)
    }

    /// The same rules, some of their alerts muted; what is wrong with that, a line for each.
    pub fn with_mutes(mut self, mutes: &[Mute]) -> Result<Rules, Vec<String>> {
        if mutes.len() > MUTES_MAX {
            return Err(vec![format!(
                "{} mutes: at most {MUTES_MAX} are possible, unmute some",
                mutes.len()
            )]);
        }
        let (found, wrong): (Vec<_>, Vec<_>) =
            mutes.iter().map(|mute| self.find_muted(mute)).partition(Result::is_ok);
        if !wrong.is_empty() {
            return Err(wrong.into_iter().filter_map(Result::err).collect());
        }
        self.mutes = found.into_iter().filter_map(Result::ok).collect();
        Ok(self)
    }

    /// Finds what a mute names; what is wrong with it.
    pub(crate) fn find_muted(&self, mute: &Mute) -> Result<Muted, String> {
        if mute.key.is_empty() {
            return Err(format!(
                "{mute}: a mute is for a key; `granary rules promote` is for all of a rule's"
            ));
        }
        if mute.reason.len() > REASON_BYTES_MAX {
            return Err(format!("{mute}: a reason has at most {REASON_BYTES_MAX} bytes"));
        }
        let ends_at = mute.ends_at().ok_or_else(|| format!("{mute}: `{}` is no time", mute.until))?;
        let rule = match &mute.rule {
            None => None,
            Some(id) => Some(self.infos().iter().position(|info| *info.id == **id).ok_or_else(|| {
                let known: Vec<&str> = self.infos().iter().map(|info| &*info.id).collect();
                format!("there is no rule `{id}`; there are: {}", known.join(", "))
            })?),
        };
        let fields = &self.spec().fields;
        let field = |(name, value): (&String, &String)| {
            let field = fields.iter().position(|field| *field.name == **name);
            let field = field.ok_or_else(|| format!("{mute}: events have no field `{name}`"))?;
            Ok((field, value.as_bytes().into()))
        };
        let key = mute.key.iter().map(field).collect::<Result<Vec<(usize, Box<[u8]>)>, String>>()?;
        let has_key = |per: &[usize]| key.iter().all(|(field, _)| per.contains(field));
        let mut rules = self.infos().iter().enumerate().filter(|(i, _)| rule.is_none_or(|rule| rule == *i));
        if !rules.any(|(_, info)| has_key(&info.per)) {
            let keys: Vec<String> = self
                .infos()
                .iter()
                .filter(|info| mute.rule.as_deref().is_none_or(|id| *info.id == *id))
                .map(|info| {
                    let per: Vec<&str> = info.per.iter().map(|field| &*fields[*field].name).collect();
                    format!("{} is per {}", info.id, per.join(", "))
                })
                .collect();
            return Err(format!("{mute}: no rule has such a key: {}", keys.join("; ")));
        }
        Ok(Muted { rule, key, ends_at, mute: mute.clone() })
    }

    /// The mute that an alert of a live rule falls under.
    pub(crate) fn muted(&self, rule: usize, decision: &Decision<'_>) -> Option<&Muted> {
        let info = &self.infos()[rule];
        if self.mutes.is_empty() || info.mode != Mode::Live {
            return None;
        }
        let values = key_values(decision.key);
        let has = |(field, value): &(usize, Box<[u8]>)| {
            let place = info.per.iter().position(|of| of == field);
            place.and_then(|place| values.get(place)).is_some_and(|found| **found == **value)
        };
        self.mutes.iter().find(|muted| {
            muted.rule.is_none_or(|of| of == rule)
                && decision.time < muted.ends_at
                && muted.key.iter().all(has)
        })
    }
}
