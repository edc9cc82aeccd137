//! Rules that change while a pipeline runs: numbered revisions of a rules file, and which of them steps are to judge by.
//!
//! A step has the rules of the file that its pipeline names, which are revision 0, and hears of later ones. A slot takes the
//! newest over between two records and stores which one it judges by, with all that it is made of: so every event is judged by
//! one revision, and a slot that is opened anew needs nobody to tell it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use granary_core::time::days;
use granary_core::{Result, Span, Timestamp, codec};
use serde::{Deserialize, Serialize};

use super::{Fill, Plan, RulesStep, Step};
use crate::rules::mutes::Mute;
use crate::rules::{self, Mode, Rules};
use crate::run::Backfills;

/// The bytes of a revision: every slot stores the one it judges by.
pub const REVISION_BYTES_MAX: usize = 1 << 20;

/// How long a mute that is over is kept.
const OVER_FOR: Span = days(1);

/// A rules file with all that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The file.
    pub text: String,
    /// Files it names, by the paths that are written there.
    pub files: BTreeMap<String, String>,
    /// Modes of rules that were set since, by their ids: `live`, `shadow`, `off`.
    pub modes: BTreeMap<String, String>,
    /// Alerts that nobody is told of for a while.
    #[serde(default)]
    pub mutes: Vec<Mute>,
    /// The last back-fill: it goes on through revisions that ask for none.
    #[serde(default)]
    pub fill: Option<Fill>,
}

impl Bundle {
    /// The bundle of a file whose lists are read by `read`, and its rules; what is wrong with it, a line for each.
    pub fn collect(
        text: String,
        read: &dyn Fn(&str) -> std::result::Result<String, String>,
    ) -> std::result::Result<(Bundle, Rules), Vec<String>> {
        let files = std::cell::RefCell::new(BTreeMap::new());
        let noted = |path: &str| {
            let text = read(path)?;
            files.borrow_mut().insert(path.to_owned(), text.clone());
            Ok(text)
        };
        let rules = parse(&text, &noted, &BTreeMap::new())?;
        Ok((Bundle { text, files: files.into_inner(), ..Bundle::default() }, rules))
    }

    /// Its rules; what is wrong with it, a line for each.
    pub fn rules(&self) -> std::result::Result<Rules, Vec<String>> {
        let modes = self.modes.iter();
        let modes = modes.filter_map(|(id, mode)| Some((id.clone(), Mode::named(mode)?))).collect();
        let read = |path: &str| self.files.get(path).cloned().ok_or_else(|| "it is not there".to_owned());
        parse(&self.text, &read, &modes)?.with_mutes(&self.mutes)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        let files: usize = self.files.values().map(String::len).sum();
        self.text.len() + files + self.mutes.iter().map(Mute::bytes).sum::<usize>()
    }

    /// Mutes alerts, and forgets mutes that have been over for a day: events of that time do not come any more.
    pub fn mute(&mut self, mute: Mute, now: Timestamp) {
        let is_over = |mute: &Mute| mute.ends_at().is_some_and(|end| end + OVER_FOR < now);
        self.mutes.retain(|known| !known.is_on(&mute) && !is_over(known));
        self.mutes.push(mute);
    }

    /// Takes mutes over from the revision before; those that these rules have no use for.
    pub fn keep_mutes(&mut self, before: Vec<Mute>, rules: &Rules) -> Vec<Mute> {
        let (kept, dropped) = before.into_iter().partition(|mute| rules.find_muted(mute).is_ok());
        self.mutes = kept;
        dropped
    }
}

fn parse(
    text: &str,
    read: &dyn Fn(&str) -> std::result::Result<String, String>,
    modes: &BTreeMap<String, Mode>,
) -> std::result::Result<Rules, Vec<String>> {
    let options = rules::Options { read, modes, without_cooldown: false };
    let (rules, problems) = rules::parse(text, &options);
    let errors = problems.iter().filter(|problem| problem.is_error());
    rules.ok_or_else(|| errors.map(ToString::to_string).collect())
}

/// The newest revision that a step has heard of.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    number: AtomicU64,
    step: RwLock<Option<Arc<RulesStep>>>,
    /// The last back-fill that slots have ended here, and how many.
    filled: Mutex<(u64, u64)>,
}

impl Newest {
    /// Its number; 0 when there is none beside the file's.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// The newest revision, if it is later than this one.
    pub fn after(&self, revision: u64) -> Option<Arc<RulesStep>> {
        if self.number() <= revision {
            return None;
        }
        self.step.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A slot has ended this back-fill.
    pub fn note_filled(&self, number: u64) {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, slots) = *filled;
        *filled = if known == number { (number, slots + 1) } else { (number, 1) };
    }

    /// How many slots have ended it.
    pub fn filled(&self, number: u64) -> u64 {
        let (known, slots) = *self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if known == number { slots } else { 0 }
    }

    fn announce(&self, step: Arc<RulesStep>) {
        let mut newest = self.step.write().unwrap_or_else(PoisonError::into_inner);
        if step.revision > self.number() {
            self.number.store(step.revision, Ordering::Relaxed);
            *newest = Some(step);
        }
    }
}

/// What the name of that cell ends with.
const REVISION: &[u8] = b"V";

/// Which revision a slot judges by, as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    revision: u64,
    bundle: Bundle,
    #[serde(default)]
    backfills: Backfills,
}

impl RulesStep {
    /// The newest revision of this step; itself when there was none.
    pub(crate) fn newest(self: &Arc<RulesStep>) -> Arc<RulesStep> {
        self.newest.after(0).unwrap_or_else(|| self.clone())
    }

    /// The cell that says which revision a slot judges by.
    pub(crate) fn revision_cell(&self) -> Vec<u8> {
        [&self.prefix[..], REVISION].concat()
    }

    /// Whether it is that cell.
    pub(crate) fn is_revision_cell(&self, cell: &[u8]) -> bool {
        cell.strip_prefix(&*self.prefix) == Some(REVISION)
    }

    /// What stands there, for this one.
    pub(crate) fn to_cell(&self, backfills: Backfills) -> Result<Vec<u8>> {
        codec::to_bytes(&Stored { revision: self.revision, bundle: self.bundle.clone(), backfills })
    }

    /// The revision that stands there, and what the slot knows of back-fills.
    pub(crate) fn of_cell(&self, value: &[u8]) -> std::result::Result<(Arc<RulesStep>, Backfills), String> {
        let stored: Stored = codec::from_bytes(value).map_err(|error| error.message().to_owned())?;
        let newest = self.newest.step.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(newest) = newest.filter(|newest| newest.revision == stored.revision) {
            return Ok((newest, stored.backfills));
        }
        let revised = self.revised(stored.revision, &stored.bundle).map_err(|wrong| {
            format!("the rules of revision {} do not fit the pipeline: {}", stored.revision, wrong.join("; "))
        })?;
        self.newest.announce(revised.clone()); // other slots were there, too
        Ok((revised, stored.backfills))
    }
}

impl Plan {
    /// The streams that rules are on, by the names in their files.
    pub fn rules_streams(&self) -> Vec<&str> {
        let mut streams: Vec<&str> = self.rules_steps().map(|step| step.rules.stream()).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    fn rules_steps(&self) -> impl Iterator<Item = &Arc<RulesStep>> {
        self.steps.iter().filter_map(Step::rules)
    }

    fn rules_on(&self, stream: &str) -> impl Iterator<Item = &Arc<RulesStep>> {
        self.rules_steps().filter(move |step| step.rules.stream() == stream)
    }

    /// The newest revision of the rules on a stream that this process has heard of, and what it is made of.
    pub fn rules_of(&self, stream: &str) -> Option<Arc<RulesStep>> {
        self.rules_on(stream).next().map(RulesStep::newest)
    }

    /// The newest revision that every step on a stream has heard of.
    pub fn revision_of(&self, stream: &str) -> u64 {
        self.rules_on(stream).map(|step| step.newest().revision).min().unwrap_or(0)
    }

    /// How many alerts that reach people each rule of the newest revision has raised in this process.
    pub fn raised(&self, stream: &str) -> Vec<u64> {
        self.sums(stream, |step| &step.raised)
    }

    /// How many it has raised that are muted.
    pub fn muted(&self, stream: &str) -> Vec<u64> {
        self.sums(stream, |step| &step.muted)
    }

    /// What the steps of a stream have counted by the newest revision, for each rule.
    fn sums(&self, stream: &str, counts: impl Fn(&RulesStep) -> &Vec<AtomicU64>) -> Vec<u64> {
        self.rules_on(stream).map(RulesStep::newest).fold(Vec::new(), |mut sums, step| {
            sums.resize(counts(&step).len().max(sums.len()), 0);
            for (sum, count) in sums.iter_mut().zip(counts(&step)) {
                *sum += count.load(Ordering::Relaxed);
            }
            sums
        })
    }

    /// Another revision of the rules on a stream, for every step that judges by them; what is wrong with it, a line for each.
    pub fn revise(
        &self,
        stream: &str,
        revision: u64,
        bundle: &Bundle,
    ) -> std::result::Result<Vec<Arc<RulesStep>>, Vec<String>> {
        if bundle.bytes() > REVISION_BYTES_MAX {
            return Err(vec![format!(
                "rules and lists have {} bytes; without a restart {REVISION_BYTES_MAX} are possible",
                bundle.bytes()
            )]);
        }
        if self.eager_streams().next().is_some() {
            let message =
                "the pipeline has sinks with `delivery: eager`: restart its silos with the other file";
            return Err(vec![message.to_owned()]);
        }
        let revised: Vec<Arc<RulesStep>> = self
            .rules_on(stream)
            .map(|step| step.revised(revision, bundle))
            .collect::<std::result::Result<_, _>>()?;
        let Some(first) = revised.first() else {
            let known = self.rules_streams().join(", ");
            return Err(vec![format!("no step judges the stream `{stream}`; there are rules on: {known}")]);
        };
        if first.rules.stream() != stream {
            return Err(vec![format!(
                "the file is on the stream `{}`, not on `{stream}`",
                first.rules.stream()
            )]);
        }
        if let Some((rule, key)) = first.unserved(revised.iter().map(|step| &**step)).next() {
            return Err(vec![format!("rule {rule} is per {key}, and no source of these rules has that key")]);
        }
        Ok(revised)
    }

    /// Has every slot judge by these from its next record on.
    pub fn announce(&self, revised: &[Arc<RulesStep>]) {
        for step in revised {
            step.newest.announce(step.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = "pipeline: cards
sources:
  by_card:
    topic: payments
    decode: {format: json, fields: {id: {type: text}, card: {type: text}, shop: {type: text}, ts: {type: time_ms}}}
    id: id
    key: card
    event_time: ts
    watermark: {per: key, out_of_orderness: 60s}
  by_shop:
    topic: payments
    decode: {format: json, fields: {id: {type: text}, card: {type: text}, shop: {type: text}, ts: {type: time_ms}}}
    id: id
    key: shop
    event_time: ts
    watermark: {per: key, out_of_orderness: 60s}
steps:
  cards: {from: by_card, rules: rules.yaml}
  shops: {from: by_shop, rules: rules.yaml}
";

    fn rules(limit: u32) -> String {
        format!(
            "schema: fraud-rules/v1\nstream: payments\nevent: {{id: id, time: ts, fields: {{card: text, shop: text}}}}\n\
             rules:\n  - {{id: a, kind: velocity, per: card, window: 1h, measure: count, limit: '> {limit}'}}\n  \
             - {{id: b, kind: velocity, per: shop, window: 1h, measure: count, limit: '> {limit}'}}\n"
        )
    }

    /// A slot that is opened anew shows one step a revision; the other one has to hear of it, too.
    #[test]
    fn a_revision_is_known_when_every_step_on_its_stream_knows_it() {
        let read = |_: &str| Ok(rules(3));
        let plan = crate::file::parse_beside(PIPELINE, &read);
        let plan = plan.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let bundle = Bundle { text: rules(4), ..Bundle::default() };
        let revised = plan.revise("payments", 5, &bundle).unwrap();
        let stored = revised[0].to_cell(Backfills::default()).unwrap();
        assert_eq!(plan.rules_steps().next().unwrap().of_cell(&stored).unwrap().0.revision, 5);
        assert_eq!(plan.revision_of("payments"), 0, "the second step has not heard of it");
        plan.announce(&plan.revise("payments", 5, &bundle).unwrap());
        assert_eq!(plan.revision_of("payments"), 5);
    }
}
