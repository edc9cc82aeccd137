//! What a second reading of its source does to a step of rules in a slot.
//!
//! Records of it change nothing but what rules remember: they are counted and written nowhere, since the first reading did that.
//! Only those are taken that the slot has read the first time, up to where it stood when it took the revision over and beyond:
//! what comes later it still has to judge.

use std::collections::BTreeMap;

use granary_cluster::{Applied, Effects, Record};
use serde::{Deserialize, Serialize};

use super::emit::Causes;
use super::judged::{Seat, Writer};
use super::prepared::Prepared;
use super::route::Routed;
use super::slot::{Buffers, Slot};
use crate::plan::{Fill, Mark, Round, RulesStep};

/// What a slot knows of the back-fills of a step, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backfills {
    /// The last one that it has begun; 0: none.
    number: u64,
    /// Those up to this one are over.
    over: u64,
    /// Where the slot stood when it began.
    until: u64,
    /// The rules that were filled, each with its version, and by which one.
    rules: BTreeMap<String, u64>,
}

impl Backfills {
    /// Goes on with other rules: begins a back-fill if they come with one that the slot has not begun.
    pub fn revise(&mut self, name: &str, before: &RulesStep, now: &RulesStep) {
        let known: Vec<String> = before.named().map(|(_, rule)| rule).collect();
        let present: Vec<String> = now.named().map(|(_, rule)| rule).collect();
        let unfinished = |number: Option<&u64>| number.is_some_and(|number| *number > self.over);
        let is_begun = |fill: &&Fill| fill.number > self.number && fill.from.contains_key(name);
        if let Some(fill) = now.bundle.fill.as_ref().filter(is_begun) {
            let wants = |rule: &&String| !known.contains(rule) || unfinished(self.rules.get(*rule));
            let begun: Vec<&String> =
                present.iter().filter(wants).filter(|rule| fill.rules.contains(rule)).collect();
            let over = self.over;
            self.rules.retain(|_, number| *number <= over); // what was begun and is not taken over is not filled
            self.over = if begun.is_empty() { fill.number } else { over };
            self.rules.extend(begun.into_iter().map(|rule| (rule.clone(), fill.number)));
            self.number = fill.number;
        }
        self.rules.retain(|rule, _| present.contains(rule));
    }

    fn is_on(&self, number: u64) -> bool {
        self.number == number && self.over < number
    }

    /// It is over. Rules that have not seen all they look back on are as if they had not been filled.
    fn end(&mut self, is_whole: bool) {
        self.over = self.number;
        if !is_whole {
            let number = self.number;
            self.rules.retain(|_, of| *of != number);
        }
    }
}

impl Seat {
    /// Tells the judges which rules are filled.
    pub fn tell_fill(&mut self) {
        let mut of_rules = vec![0; self.step.rules.infos().len()];
        for (place, rule) in self.step.named() {
            of_rules[place] = self.backfills.rules.get(&rule).copied().unwrap_or(0);
        }
        self.judges.set_fill(self.backfills.number, self.backfills.over, &of_rules);
    }

    /// The slot begins a back-fill, should it be another one's word that it hears of it by.
    fn begin_fill(&mut self, mark: Mark, stood: u64) {
        if self.backfills.is_on(mark.number) {
            self.backfills.until = stood;
            self.is_changed = true;
        }
    }

    fn end_fill(&mut self, mark: Mark, read_to: u64) {
        if self.backfills.number != mark.number {
            return;
        }
        self.step.newest.note_filled(mark.number);
        if self.backfills.is_on(mark.number) {
            let short =
                self.step.bundle.fill.iter().any(|fill| fill.short.iter().any(|step| **step == *self.name));
            self.backfills.end(!short && read_to >= self.backfills.until);
            self.is_changed = true;
            self.tell_fill();
        }
    }
}

impl Slot {
    /// Names what is missing to take a record of a second reading.
    pub fn again_lacks_cells(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        buffers: &mut Buffers,
        effects: &mut Effects,
    ) {
        let Some((i, place)) = prepared.again(record) else { return };
        let seat = &mut self.seats[i];
        if !seat.is_known() {
            return effects.missing.push(seat.step.revision_cell());
        }
        let mark = Mark::of(record.offset);
        let is_event =
            matches!(mark.round, Round::Remember | Round::Settle) && seat.backfills.is_on(mark.number);
        if !is_event || routed.reject().is_some() || !routed.passes[place] {
            return;
        }
        buffers.events.resize_with(self.seats.len(), Default::default);
        let seat = &mut self.seats[i];
        let event = &mut buffers.events[i];
        let fits = seat.step.fill(routed.fields, record.value, routed.time(), &mut event.event).is_ok();
        event.is_fit = fits && !prepared.is_future(record, routed.time());
        if event.is_fit {
            seat.judges.missing_to_remember(&event.event, &mut effects.missing);
        }
    }

    /// Takes a record of a second reading. The slot stands at `stood` in the first one.
    pub fn read_again(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        stood: u64,
        buffers: &mut Buffers,
        effects: &mut Effects,
    ) -> Applied {
        let Some((i, place)) = prepared.again(record) else { return Applied::Done };
        let mark = Mark::of(record.offset);
        self.take_over_rules();
        let is_event = matches!(mark.round, Round::Remember | Round::Settle);
        let is_read = !is_event || mark.at < stood;
        let missing = effects.missing.len();
        self.again_lacks_cells(prepared, routed, record, buffers, effects);
        if effects.missing.len() > missing {
            return Applied::Missing;
        }
        let (seat, tally) = (&mut self.seats[i], &mut self.tally);
        if !is_event {
            match mark.round {
                Round::End => seat.end_fill(mark, read_to(record)),
                _ => seat.begin_fill(mark, stood),
            }
            return Applied::Done;
        }
        let is_taken = is_read && seat.backfills.is_on(mark.number) && routed.reject().is_none();
        if !is_taken || !routed.passes[place] || !buffers.events[i].is_fit {
            return Applied::Done;
        }
        let event = &buffers.events[i].event;
        if mark.round == Round::Remember {
            seat.judges.remember(event);
            return Applied::Done;
        }
        let (rules, judges, mut causes) = (&seat.step, &mut seat.judges, Causes::of(record));
        let (causes, recorded_at, sequence) = (&mut causes, record.appended_at, stood);
        let mut writer = Writer { prepared, rules, tally, causes, effects, recorded_at, sequence };
        judges.settle(event, &mut |said| {
            writer.recorded_at = recorded_at.max(said.decision.time); // the event itself came later
            writer.write(&said);
        });
        Applied::Done
    }
}

/// How far all that was there was read again, as the last word of a second reading says.
fn read_to(record: &Record<'_>) -> u64 {
    record.value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::Bundle;

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

    fn bundle(rules: &[&str]) -> Bundle {
        let rule = |id: &&str| {
            format!("  - {{id: {id}, kind: velocity, per: card, window: 1h, measure: count, limit: '> 3'}}\n")
        };
        let rules: String = rules.iter().map(rule).collect();
        let head = "schema: fraud-rules/v1\nstream: payments\nevent: {id: id, time: ts, fields: {card: text}}\nrules:\n";
        Bundle { text: format!("{head}{rules}"), ..Bundle::default() }
    }

    /// A revision with these rules, and a back-fill of some of them.
    fn revision(number: u64, rules: &[&str], fill: Option<(u64, &[&str])>) -> Arc<RulesStep> {
        let plan = crate::file::parse_beside(PIPELINE, &|_| Ok(bundle(&["a"]).text));
        let plan = plan.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let mut bundle = bundle(rules);
        let names = |of: &RulesStep| of.named().map(|(_, name)| name).collect::<Vec<String>>();
        let all = names(&plan.revise("payments", number, &bundle).unwrap()[0]);
        bundle.fill = fill.map(|(number, of)| {
            let is_of = |name: &&String| of.iter().any(|id| name.starts_with(&format!("{id}@")));
            let from = BTreeMap::from([("cards".to_owned(), vec![0])]);
            Fill { number, rules: all.iter().filter(is_of).cloned().collect(), from, ..Fill::default() }
        });
        plan.revise("payments", number, &bundle).unwrap()[0].clone()
    }

    /// The rules by their ids, each with its back-fill and whether that is over.
    fn known(backfills: &Backfills) -> Vec<(&str, u64, bool)> {
        let rules = backfills.rules.iter();
        rules.map(|(name, of)| (name.split('@').next().unwrap(), *of, *of <= backfills.over)).collect()
    }

    #[test]
    fn a_back_fill_goes_on_is_taken_over_or_is_given_up() {
        let first = revision(0, &["a"], None);
        let second = revision(1, &["a", "b"], Some((1, &["b"])));
        let mut begun = Backfills::default();
        begun.revise("cards", &first, &second);
        assert_eq!(known(&begun), [("b", 1, false)]);
        // A revision that asks for none.
        begun.revise("cards", &second, &revision(2, &["a", "b"], Some((1, &["b"]))));
        assert_eq!(known(&begun), [("b", 1, false)]);
        let mut over = begun.clone();
        over.end(true);
        let mut cut_short = begun.clone();
        cut_short.end(false);
        assert_eq!((known(&over), known(&cut_short)), (vec![("b", 1, true)], vec![]));
        // The next one has both, if the first may be under way.
        let both = revision(3, &["a", "b", "c"], Some((3, &["b", "c"])));
        let mut taken_over = begun.clone();
        taken_over.revise("cards", &second, &both);
        assert_eq!(known(&taken_over), [("b", 3, false), ("c", 3, false)]);
        over.revise("cards", &second, &both);
        assert_eq!(known(&over), [("b", 1, true), ("c", 3, false)], "what is filled is not filled again");
        // One that does not know of it ends it: then its rules warn as others do.
        begun.revise("cards", &second, &revision(3, &["a", "b", "c"], Some((3, &["c"]))));
        assert_eq!(known(&begun), [("c", 3, false)]);
        begun.revise("cards", &both, &first);
        assert_eq!(known(&begun), []);
    }
}
