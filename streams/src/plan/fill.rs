//! Back-fills: what of its source a step of rules reads a second time, because rules are new that look back on it.
//!
//! Who publishes a revision finds where that begins and writes it into the revision, so every silo reads the same. A second
//! reading is a source of its own for the slot. Its offsets are [`Mark`]s: which back-fill, how far it is, and there the offset in
//! the topic; so they rise from one back-fill to the next, although each begins further back.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::revision::Bundle;
use super::{Plan, Read, RulesStep, Step};
use crate::rules::Backfill;

/// A back-fill of rules, as a revision has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// The revision that began it.
    pub number: u64,
    /// When that was, in milliseconds.
    pub began_ms: i64,
    /// How far it looks back, in milliseconds.
    pub length_ms: u64,
    /// The rules that are filled, each with its version.
    pub rules: Vec<String>,
    /// The first offset of each partition, by the steps that read again.
    pub from: BTreeMap<String, Vec<u64>>,
    /// The steps whose topic does not reach back that far: their rules go on as if nothing had been read.
    pub short: Vec<String>,
}

impl Fill {
    /// Whether its rules would have seen all they look back on by now, had nothing been read again.
    pub fn is_past(&self, now: Timestamp) -> bool {
        now.ms().saturating_sub(self.began_ms) > i64::try_from(self.length_ms).unwrap_or(i64::MAX)
    }
}

/// How far a back-fill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Round {
    /// Each slot takes the revision over.
    Begin,
    /// Events are remembered.
    Remember,
    /// The keys of the same events are judged anew.
    Settle,
    /// Each slot is told that it is over.
    End,
}

/// A place in a second reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which back-fill.
    pub number: u64,
    /// How far it is.
    pub round: Round,
    /// The offset in the topic; of the first and the last round the slot.
    pub at: u64,
}

/// Bits of an offset in a topic.
const AT_BITS: u32 = 40;

impl Mark {
    /// The place that is written so.
    pub fn of(offset: u64) -> Mark {
        let round = match offset >> AT_BITS & 3 {
            0 => Round::Begin,
            1 => Round::Remember,
            2 => Round::Settle,
            _ => Round::End,
        };
        Mark { number: offset >> (AT_BITS + 2), round, at: offset & ((1 << AT_BITS) - 1) }
    }

    /// As the offset of a record.
    pub fn offset(self) -> u64 {
        self.number << (AT_BITS + 2) | (self.round as u64) << AT_BITS | self.at
    }
}

/// A back-fill that a revision asks for, before anybody knows where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How far it looks back.
    pub length: Span,
    /// The rules that are filled, each with its version.
    pub rules: Vec<String>,
    /// The steps that read again.
    pub steps: Vec<WantedStep>,
}

/// A step that reads its topic again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedStep {
    /// Its name.
    pub name: String,
    /// The topic of its source.
    pub topic: String,
    /// Whether the source may be read in place.
    pub in_place: bool,
}

impl Plan {
    /// The steps of rules that may read their sources again, in the order of those second readings: those that judge events.
    pub fn again(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.rules().is_some_and(|rules| !rules.reads_rows()))
    }

    /// The back-fill of the newest revision for one of those steps: its number, and where each partition begins.
    pub fn fill_of(&self, step: &Step) -> Option<(u64, Vec<u64>)> {
        let newest = step.rules()?.newest();
        let fill = newest.bundle.fill.as_ref()?;
        Some((fill.number, fill.from.get(&*step.name)?.clone()))
    }

    /// Whether the newest revision of the rules on a stream has a back-fill.
    pub fn is_filling(&self, stream: &str) -> bool {
        self.rules_of(stream).is_some_and(|newest| newest.bundle.fill.is_some())
    }

    /// How many slots of this process have ended a back-fill, in every step that reads again.
    pub fn slots_filled(&self, stream: &str, number: u64) -> u64 {
        let reads = self.again().filter(|step| self.fill_of(step).is_some_and(|(known, _)| known == number));
        let steps = reads.filter_map(Step::rules).filter(|step| step.rules.stream() == stream);
        steps.map(|step| step.newest.filled(number)).min().unwrap_or(0)
    }

    /// What a bundle asks for that follows another one on a stream: rules that were not there, and those of a back-fill that may not
    /// be over.
    pub fn wants_fill(
        &self,
        stream: &str,
        before: &Bundle,
        next: &Bundle,
        now: Timestamp,
    ) -> Result<Option<Wanted>, Vec<String>> {
        let under_way = before.fill.as_ref().filter(|fill| !fill.is_past(now));
        let mut wanted = Wanted { length: Span::ZERO, rules: Vec::new(), steps: Vec::new() };
        let mut is_new = false;
        let steps = self.again().filter_map(|step| Some((step, step.rules()?)));
        for (step, rules) in steps.filter(|(_, rules)| rules.rules.stream() == stream) {
            let (old, new) = (rules.revised(0, before)?, rules.revised(0, next)?);
            let known: Vec<String> = old.named().map(|(_, name)| name).collect();
            let many = wanted.rules.len();
            for (place, name) in new.named() {
                let backfill = &new.rules.infos()[place].backfill;
                let Backfill::Over(length) = backfill else { continue };
                let is_unknown = !known.contains(&name);
                let is_filling = under_way.is_some_and(|fill| fill.rules.contains(&name));
                if is_unknown || is_filling {
                    wanted.length = wanted.length.max(*length);
                    is_new |= is_unknown;
                    wanted.rules.push(name);
                }
            }
            if wanted.rules.len() > many {
                let source = &self.sources[step.source];
                let (name, topic) = (step.name.to_string(), source.topic.to_string());
                wanted.steps.push(WantedStep { name, topic, in_place: source.read == Read::InPlace });
            }
        }
        if let Some(under_way) = under_way {
            wanted.length = wanted.length.max(Span(under_way.length_ms));
        }
        Ok(is_new.then_some(wanted))
    }
}

impl RulesStep {
    /// The rules that are judged here, by their places in the file, each with its version.
    pub(crate) fn named(&self) -> impl Iterator<Item = (usize, String)> {
        let of_groups = self.groups.iter().flat_map(|group| &self.rules.groups[*group].rules);
        of_groups.map(|place| {
            let info = &self.rules.infos()[*place];
            (*place, format!("{}@{}", info.id, info.hash))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_rise_from_one_back_fill_to_the_next() {
        let rounds = [Round::Begin, Round::Remember, Round::Settle, Round::End];
        let mut last = None;
        for number in [1, 2, 70_000] {
            for round in rounds {
                for at in [0, 1, 999, (1 << AT_BITS) - 1] {
                    let mark = Mark { number, round, at };
                    assert_eq!(Mark::of(mark.offset()), mark);
                    assert!(last < Some(mark.offset()), "{mark:?}");
                    last = Some(mark.offset());
                }
            }
        }
    }
}
