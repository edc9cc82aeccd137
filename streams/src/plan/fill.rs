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

    const PIPELINE: &str = "pipeline: cards
sources:
  payments:
    topic: payments
    decode: {format: json, fields: {id: {type: text}, card: {type: text}, ts: {type: time_ms}}}
    id: id
    key: card
    event_time: ts
    watermark: {per: key, out_of_orderness: 60s}
steps:
  cards: {from: payments, rules: rules.yaml}
";

    /// A file with these rules: window, whether it is filled, and anything else.
    fn bundle(rules: &[(&str, &str)]) -> Bundle {
        let rule = |(id, rest): &(&str, &str)| {
            format!(
                "  - {{id: {id}, kind: velocity, per: card, measure: count, limit: '> 3', cooldown: 1m, {rest}}}\n"
            )
        };
        let text = format!(
            "schema: fraud-rules/v1\nstream: payments\nevent: {{id: id, time: ts, fields: {{card: text}}}}\n\
             defaults: {{lateness: 10s}}\nrules:\n{}",
            rules.iter().map(rule).collect::<String>()
        );
        Bundle { text, ..Bundle::default() }
    }

    /// How far back in seconds, and for which rules.
    fn wanted(before: &Bundle, next: &Bundle, now_ms: i64) -> Option<(u64, Vec<String>)> {
        let plan = crate::file::parse_beside(PIPELINE, &|_| Ok(before.text.clone()));
        let plan = plan.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let wanted = plan.wants_fill("payments", before, next, Timestamp(now_ms)).unwrap()?;
        let steps: Vec<(&str, &str, bool)> =
            wanted.steps.iter().map(|step| (&*step.name, &*step.topic, step.in_place)).collect();
        assert_eq!(steps, [("cards", "payments", true)]);
        let id = |rule: &String| rule.split('@').next().unwrap_or_default().to_owned();
        Some((wanted.length.ms() / 1_000, wanted.rules.iter().map(id).collect()))
    }

    #[test]
    fn rules_that_are_new_are_filled_over_all_they_look_back_on() {
        let (hour, day) = (("hour", "window: 1h"), ("day", "window: 1d"));
        let before = bundle(&[hour]);
        assert_eq!(
            wanted(&before, &bundle(&[hour, day]), 0),
            Some((86_400 + 60 + 10, vec!["day".to_owned()]))
        );
        assert_eq!(wanted(&before, &bundle(&[hour]), 0), None);
        assert_eq!(wanted(&before, &bundle(&[("hour", "window: 2h")]), 0).unwrap().0, 7_200 + 60 + 10);
        // What it is called, and where its alerts go, makes no other rule; nor that it was to be filled.
        for rest in ["window: 1h, title: One", "window: 1h, mode: live", "window: 1h, backfill: no"] {
            assert_eq!(wanted(&before, &bundle(&[("hour", rest)]), 0), None, "{rest}");
        }
        assert_eq!(wanted(&before, &bundle(&[hour, ("day", "window: 1d, backfill: no")]), 0), None);
        let off = bundle(&[("hour", "window: 1h, mode: off")]);
        assert_eq!(wanted(&off, &before, 0), Some((3_600 + 60 + 10, vec!["hour".to_owned()])));
    }

    #[test]
    fn a_back_fill_that_may_be_under_way_is_part_of_the_next_one() {
        let (hour, day, week) = (("hour", "window: 1h"), ("day", "window: 1d"), ("week", "window: 7d"));
        let mut before = bundle(&[hour, day]);
        let plan = crate::file::parse_beside(PIPELINE, &|_| Ok(before.text.clone()))
            .unwrap_or_else(|_| unreachable!());
        let rules =
            plan.wants_fill("payments", &bundle(&[hour]), &before, Timestamp(0)).unwrap().unwrap().rules;
        before.fill =
            Some(Fill { number: 4, began_ms: 1_000, length_ms: 86_470_000, rules, ..Fill::default() });
        let next = bundle(&[hour, day, week]);
        let both = vec!["day".to_owned(), "week".to_owned()];
        assert_eq!(wanted(&before, &next, 5_000), Some((7 * 86_400 + 70, both)));
        assert_eq!(wanted(&before, &next, 100_000_000).unwrap().1, ["week"], "by now it had seen all anyway");
        assert_eq!(wanted(&before, &bundle(&[hour, day]), 5_000), None, "nothing is new");
        assert_eq!(wanted(&before, &bundle(&[hour, day, ("two", "window: 2h")]), 5_000).unwrap().0, 86_470);
    }

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
