//! What rules would have given: the judges of production over records of the past, by the time of the events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use granary_core::Timestamp;
use granary_window::rule::Change;
use serde::Serialize;
use serde_json::Value;

use super::alert::{self, Setting};
use super::cases::Filed;
use super::decimal::write;
use super::event::{Cell, Event};
use super::judges::{Counts, Said, key_values};
use super::{Judges, Rules};

/// Keys that a report names.
const TOP_KEYS: usize = 10;

/// A back-test under way.
pub struct Backtest {
    rules: Arc<Rules>,
    judges: Judges,
    labels: Option<HashSet<Box<[u8]>>>,
    /// Amounts of labelled events.
    amounts: HashMap<Box<[u8]>, i64>,
    alerts: u64,
    standing: BTreeMap<String, Standing>,
    /// Alerts of each case.
    cases: HashMap<String, u64>,
    events: u64,
    rejected: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

/// An alert that stands.
struct Standing {
    rule: usize,
    key: Box<[u8]>,
    event: Box<[u8]>,
    time: Timestamp,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Records that are no events.
    pub rejected: u64,
    /// What became of the others.
    #[serde(flatten)]
    pub counts: Counts,
    /// The time of the first event.
    pub from: Option<String>,
    /// The time of the last.
    pub to: Option<String>,
    /// Labelled events among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frauds: Option<u64>,
    /// What they are worth together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraud_amount: Option<String>,
    /// What became of alerts of rules with `case`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cases: Option<CasesReport>,
    /// By rule, in the order of the file.
    pub rules: Vec<RuleReport>,
}

/// Alerts that were put together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CasesReport {
    /// Cases with an alert that stands.
    pub count: u64,
    /// Their alerts.
    pub alerts: u64,
    /// Of each, on average.
    pub alerts_per_case: f64,
    /// Of the case that has most.
    pub alerts_max: u64,
}

/// What came out of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub id: Box<str>,
    /// Its kind.
    pub kind: &'static str,
    /// Its version.
    pub hash: Box<str>,
    /// Its mode.
    pub mode: &'static str,
    /// Alerts that stand.
    pub alerts: u64,
    /// Alerts and hits that were silenced.
    pub hits: u64,
    /// Hits silenced after an alert.
    pub suppressed: u64,
    /// Alerts of each thousand events.
    pub alerts_per_1000_events: f64,
    /// Alerts of each day of the stretch.
    pub alerts_per_day: f64,
    /// Events that lacked what it needs.
    pub skipped: u64,
    /// Keys with an alert.
    pub keys: u64,
    /// The first alert.
    pub first: Option<String>,
    /// The last alert.
    pub last: Option<String>,
    /// The keys with most alerts.
    pub top_keys: Vec<(String, u64)>,
    /// The share of its alerts whose event also gave one of another rule.
    pub shared: f64,
    /// What labels say of it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// Beside the older rules, if there are any.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// What labels say of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Alerts of labelled events.
    pub true_positives: u64,
    /// Their share among the alerts.
    pub precision: f64,
    /// Their share among the labelled events.
    pub recall: f64,
    /// What they are worth.
    pub caught: String,
}

/// A rule beside the one of the same name in older rules.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// Events that give an alert now and did not.
    pub new_alerts: u64,
    /// Events that gave one and do not.
    pub gone_alerts: u64,
}

/// The events that gave alerts, by rule.
pub type AlertedEvents = BTreeMap<Box<str>, HashSet<Box<[u8]>>>;

impl Backtest {
    /// One with these rules, and the ids of the events that were fraud, where they are known.
    pub fn new(rules: Arc<Rules>, labels: Option<HashSet<Box<[u8]>>>) -> Backtest {
        Backtest {
            judges: Judges::new(Arc::clone(&rules)),
            labels,
            amounts: HashMap::new(),
            alerts: 0,
            standing: BTreeMap::new(),
            cases: HashMap::new(),
            events: 0,
            rejected: 0,
            first: None,
            last: None,
            rules,
        }
    }

    /// A record that is no event.
    pub fn reject(&mut self) {
        self.events += 1;
        self.rejected += 1;
    }

    /// An event; alerts are written as CloudEvents.
    pub fn event(&mut self, event: &Event, out: &mut impl FnMut(&Value)) {
        self.events += 1;
        let time = Some(event.time());
        self.first = self.first.min(time).or(time);
        self.last = self.last.max(time);
        if self.labels.as_ref().is_some_and(|labels| labels.contains(event.id())) {
            let amount = self.rules.spec().amount.map(|field| event.cells[field]);
            let amount = if let Some(Cell::Number(units)) = amount { units } else { 0 };
            self.amounts.entry(event.id().into()).or_insert(amount);
        }
        let Backtest { judges, rules, alerts, standing, cases, .. } = self;
        let mut heard = |said: Said<'_>| hear(rules, alerts, (&mut *standing, &mut *cases), &said, out);
        judges.event(event, &mut heard);
        judges.catch_up(&mut heard);
    }

    /// There are no more.
    pub fn end(&mut self, out: &mut impl FnMut(&Value)) {
        let Backtest { judges, rules, alerts, standing, cases, .. } = self;
        judges.end();
        judges.catch_up(&mut |said| hear(rules, alerts, (&mut *standing, &mut *cases), &said, out));
    }

    /// The events that gave alerts that stand.
    pub fn alerted(&self) -> AlertedEvents {
        let mut alerted = AlertedEvents::new();
        for alert in self.standing.values() {
            let id = self.rules.infos()[alert.rule].id.clone();
            alerted.entry(id).or_default().insert(alert.event.clone());
        }
        alerted
    }

    /// What came out, beside what older rules gave.
    pub fn report(&self, older: Option<&AlertedEvents>) -> Report {
        let scale = self.rules.spec().amount.and_then(|field| self.rules.spec().fields[field].kind.scale());
        let scale = scale.unwrap_or(0);
        let (skipped, hits) = (self.judges.skipped(), self.judges.hits());
        let mut of_event: HashMap<&[u8], HashSet<usize>> = HashMap::new();
        for alert in self.standing.values() {
            of_event.entry(&alert.event).or_default().insert(alert.rule);
        }
        let rule = |i: usize| {
            let alerts: Vec<&Standing> = self.standing.values().filter(|alert| alert.rule == i).collect();
            let count = alerts.len() as u64;
            let shared = alerts.iter().filter(|alert| of_event[&*alert.event].len() > 1).count();
            let mut keys: HashMap<&[u8], u64> = HashMap::new();
            alerts.iter().for_each(|alert| *keys.entry(&alert.key).or_default() += 1);
            let info = &self.rules.infos()[i];
            RuleReport {
                id: info.id.clone(),
                kind: info.kind,
                hash: info.hash.clone(),
                mode: info.mode.name(),
                alerts: count,
                hits: hits[i],
                suppressed: hits[i] - count.min(hits[i]),
                alerts_per_1000_events: share(count * 1_000, self.events),
                alerts_per_day: count as f64 / self.days(),
                skipped: skipped[i],
                keys: keys.len() as u64,
                first: alerts.iter().map(|alert| alert.time).min().map(Timestamp::to_rfc3339),
                last: alerts.iter().map(|alert| alert.time).max().map(Timestamp::to_rfc3339),
                top_keys: top(keys),
                shared: share(shared as u64, count),
                judged: self.labels.as_ref().map(|_| self.judged(&alerts, scale)),
                against: older.map(|older| against(&alerts, older.get(&info.id))),
            }
        };
        let total: i128 = self.amounts.values().map(|amount| i128::from(*amount)).sum();
        Report {
            records: self.events,
            rejected: self.rejected,
            counts: self.judges.counts(),
            from: self.first.map(Timestamp::to_rfc3339),
            to: self.last.map(Timestamp::to_rfc3339),
            frauds: self.labels.as_ref().map(|_| self.amounts.len() as u64),
            fraud_amount: self.labels.as_ref().map(|_| write(total, scale)),
            cases: self.cases(),
            rules: (0..self.rules.infos().len()).map(rule).collect(),
        }
    }

    fn cases(&self) -> Option<CasesReport> {
        self.rules.infos().iter().find(|info| info.case.is_some())?;
        let alerts = || self.cases.values().copied().filter(|alerts| *alerts > 0);
        let (count, sum) = (alerts().count() as u64, alerts().sum());
        let alerts_max = alerts().max().unwrap_or(0);
        Some(CasesReport { count, alerts: sum, alerts_per_case: share(sum, count), alerts_max })
    }

    fn days(&self) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else { return 1.0 };
        (last.since(first).ms() as f64 / 86_400_000.0).max(1.0)
    }

    fn judged(&self, alerts: &[&Standing], scale: u32) -> Judged {
        let caught = alerts.iter().filter_map(|alert| self.amounts.get(&alert.event));
        let (count, sum) =
            caught.fold((0, 0i128), |(count, sum), amount| (count + 1, sum + i128::from(*amount)));
        Judged {
            true_positives: count,
            precision: share(count, alerts.len() as u64),
            recall: share(count, self.amounts.len() as u64),
            caught: write(sum, scale),
        }
    }
}

fn hear(
    rules: &Rules,
    alerts: &mut u64,
    (standing, cases): (&mut BTreeMap<String, Standing>, &mut HashMap<String, u64>),
    said: &Said<'_>,
    out: &mut impl FnMut(&Value),
) {
    let decision = &said.decision;
    let id = alert::alert_id(&rules.infos()[said.rule], decision.key, decision.id);
    match &decision.change {
        Change::Raised(_) => {
            let (key, event) = (decision.key.into(), decision.id.into());
            standing.insert(id, Standing { rule: said.rule, key, event, time: decision.time });
        }
        Change::Withdrawn => {
            standing.remove(&id);
        }
        Change::Resolved { .. } => {}
    }
    if let Some(Filed { case, .. }) = &said.filed {
        cases.insert(case.id.clone(), case.alerts);
    }
    let setting = Setting { recorded_at: decision.time, sequence: *alerts, revision: 0 };
    *alerts += 1;
    alert::cloud_events(rules, said, setting).iter().for_each(out);
}

/// A share to four places.
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { (part as f64 / of as f64 * 10_000.0).round() / 10_000.0 }
}

fn top(keys: HashMap<&[u8], u64>) -> Vec<(String, u64)> {
    let mut keys: Vec<(String, u64)> = keys
        .into_iter()
        .map(|(key, count)| {
            let values: Vec<_> = key_values(key)
                .into_iter()
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .collect();
            (values.join("/"), count)
        })
        .collect();
    keys.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    keys.truncate(TOP_KEYS);
    keys
}

fn against(alerts: &[&Standing], older: Option<&HashSet<Box<[u8]>>>) -> Against {
    let nothing = HashSet::new();
    let older = older.unwrap_or(&nothing);
    let now: HashSet<&[u8]> = alerts.iter().map(|alert| &*alert.event).collect();
    let new_alerts = now.iter().filter(|event| !older.contains(**event)).count() as u64;
    let gone_alerts = older.iter().filter(|event| !now.contains(&***event)).count() as u64;
    Against { new_alerts, gone_alerts }
}
