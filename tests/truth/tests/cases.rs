//! Cases over the card sample: found again from the alerts alone, and the same whatever happens to slots. And alerts that are
//! muted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use granary_streams::plan::Bundle;
use granary_streams::rules::backtest::Backtest;
use granary_streams::rules::mutes::Mute;
use granary_streams::rules::{Event, Options, Reader, parse};
use granary_truth_tests::card::{example, payments, pipeline};
use granary_truth_tests::{Draw, Driver, Input, run};
use serde_json::Value;

/// How long cases are open, in ms.
const OPEN_FOR_MS: i64 = 7_200_000;

/// The example's rules, with cases. Events may come so late.
fn rules(lateness: &str) -> String {
    example("fraud/rules.yaml")
        .replace("lateness: 60s", &format!("lateness: {lateness}, case: {{per: customer_id, open_for: 2h}}"))
}

/// What was said on the stream of alerts, in the order it was said.
fn told(driver: &Driver) -> Vec<Value> {
    let mut sent: Vec<_> = driver.stream("alerts").iter().collect();
    sent.sort_by_key(|sent| (sent.cause.offset, sent.cause.index));
    sent.iter().map(|sent| serde_json::from_str(&sent.value).expect("JSON")).collect()
}

/// The payments, each up to twelve hours later than it was.
fn shuffled() -> Vec<Input> {
    let mut draw = Draw(11);
    let mut payments = payments();
    payments.iter_mut().for_each(|payment| payment.appended_at += draw.below(43_000_000) as i64);
    payments.sort_by_key(|payment| payment.appended_at);
    payments
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, {value} found")).to_owned()
}

fn ms(value: &Value) -> i64 {
    granary_streams::file::rfc3339(&text(value)).expect("a time").ms()
}

/// A case as it follows from the alerts.
#[derive(Debug)]
struct Case {
    id: String,
    first: i64,
    last: i64,
    alerts: u64,
}

/// What cases came to.
#[derive(Debug, Default)]
struct Found {
    opened: u64,
    closed: u64,
    withdrawn: u64,
    nameless: u64,
    alerts_max: u64,
}

/// Puts the alerts of one stream into cases again, and compares.
#[derive(Default)]
struct Oracle {
    open: HashMap<String, Case>,
    /// The case of every alert.
    of: HashMap<String, String>,
    /// What was said of cases since the last alert.
    said: Vec<Value>,
    found: Found,
}

impl Oracle {
    fn raised(&mut self, event: &Value) {
        let (key, at) = (text(&event["data"]["key"]["customer_id"]), ms(&event["time"]));
        let id = text(&event["correlationid"]);
        let over = self.open.get(&key).is_none_or(|case| at > case.last + OPEN_FOR_MS);
        let mut said = std::mem::take(&mut self.said).into_iter();
        if over {
            if let Some(before) = self.open.remove(&key) {
                let closed = said.next().unwrap_or_else(|| panic!("{before:?} is over: {event}"));
                assert_eq!(closed["type"], "fraud.case.closed");
                assert_eq!(closed["data"]["key"]["customer_id"], key.as_str());
                assert_eq!(text(&closed["correlationid"]), before.id);
                let case = &closed["data"]["case"];
                assert_eq!((ms(&case["first"]), ms(&case["last"])), (before.first, before.last), "{closed}");
                assert_eq!(case["alerts"], before.alerts, "{closed}");
                self.found.closed += 1;
            }
            let opened = said.next().unwrap_or_else(|| panic!("a case begins: {event}"));
            assert_eq!(opened["type"], "fraud.case.opened");
            assert_eq!(text(&opened["correlationid"]), id);
            self.found.opened += 1;
            self.open.insert(key.clone(), Case { id: id.clone(), first: at, last: at, alerts: 0 });
        }
        assert_eq!(said.next(), None, "nothing else is said of cases");
        let case = self.open.get_mut(&key).expect("a case");
        (case.first, case.last, case.alerts) = (case.first.min(at), case.last.max(at), case.alerts + 1);
        assert_eq!(case.id, id, "{event}");
        assert_eq!(event["data"]["case"]["id"], id);
        assert_eq!(event["data"]["case"]["alerts"], case.alerts, "{event}");
        self.found.alerts_max = self.found.alerts_max.max(case.alerts);
        self.of.insert(text(&event["id"]), id);
    }

    fn withdrawn(&mut self, event: &Value) {
        self.found.withdrawn += 1;
        assert!(self.said.is_empty(), "a withdrawal says nothing of cases");
        let was = &self.of[&text(&event["data"]["alert_id"])];
        let Some(named) = event["correlationid"].as_str() else {
            self.found.nameless += 1;
            return;
        };
        assert_eq!(named, was, "{event}");
        let case = self.open.get_mut(&text(&event["data"]["key"]["customer_id"])).expect("a case");
        assert_eq!(case.id, named, "the last case of its key");
        case.alerts -= 1;
        assert_eq!(event["data"]["case"]["alerts"], case.alerts, "{event}");
    }

    fn hear(&mut self, event: &Value) {
        match event["type"].as_str().expect("a type") {
            "fraud.alert.raised" => self.raised(event),
            "fraud.alert.withdrawn" => self.withdrawn(event),
            _ => self.said.push(event.clone()),
        }
    }
}

fn found(told: &[Value]) -> Found {
    let mut oracle = Oracle::default();
    told.iter().for_each(|event| oracle.hear(event));
    oracle.found
}

#[test]
fn cases_follow_from_the_alerts_whatever_happens_to_slots() {
    let payments = payments();
    let told = |seed| {
        let driver = run(pipeline(&rules("60s")), &payments, seed);
        assert!(seed == 0 || driver.loads > 0, "seed {seed}: state came back from the store");
        assert_eq!(driver.counts().results["alerts"], 8_766, "cases change no alert");
        told(&driver)
    };
    let whole = told(0);
    let found = found(&whole);
    println!("{found:?}");
    assert!(found.opened > 1_000 && found.closed > 1_000 && found.alerts_max > 3, "{found:?}");
    assert_eq!(found.withdrawn, 0);
    let ids: BTreeMap<String, &Value> = whole.iter().map(|event| (text(&event["id"]), event)).collect();
    assert_eq!(ids.len(), whole.len(), "nothing is said twice");
    for seed in 1..=2 {
        assert!(told(seed) == whole, "seed {seed}");
    }
}

#[test]
fn a_withdrawn_alert_leaves_its_case_and_opens_none() {
    let payments = shuffled();
    let told = |seed| told(&run(pipeline(&rules("12h")), &payments, seed));
    let whole = told(0);
    let found = found(&whole);
    println!("{found:?}");
    assert!(found.withdrawn > 100 && found.nameless < found.withdrawn, "{found:?}");
    assert!(told(3) == whole);
}

#[test]
fn a_back_test_finds_the_cases_of_the_pipeline_also_for_rules_in_shadow() {
    let payments = payments();
    let of_pipeline = told(&run(pipeline(&rules("60s")), &payments, 0));
    let of_pipeline: BTreeSet<String> =
        of_pipeline.iter().map(|event| text(&event["correlationid"])).collect();
    let modes = BTreeMap::new();
    let options = Options { read: &|_| Err("no files".to_owned()), modes: &modes, without_cooldown: false };
    let (shadow, problems) = parse(&rules("60s").replace("mode: live", "mode: shadow"), &options);
    let shadow = Arc::new(shadow.unwrap_or_else(|| panic!("{problems}")));
    let reader = Reader::new(shadow.spec());
    let mut test = Backtest::new(shadow, None);
    let mut ids = BTreeSet::new();
    for payment in &payments {
        let mut event = Event::default();
        reader.json(&payment.value, &mut event).expect("an event");
        test.event(&event, &mut |event| {
            ids.insert(text(&event["correlationid"]));
        });
    }
    assert_eq!(ids, of_pipeline);
    let report = test.report(None).cases.expect("rules with cases");
    println!("{report:?}");
    assert_eq!((report.count, report.alerts), (ids.len() as u64, 8_766));
    assert!(report.alerts_max > 3 && report.alerts_per_case > 1.0 && report.alerts_per_case < 4.0);
}

/// The customer of an alert, and the id.
fn whose(value: &str) -> (String, String) {
    let event: Value = serde_json::from_str(value).expect("JSON");
    (text(&event["data"]["key"]["customer_id"]), text(&event["id"]))
}

#[test]
fn muted_alerts_are_in_shadow_and_in_no_case() {
    const UNTIL: &str = "2024-03-01T00:00:00Z";
    let payments = payments();
    let raised = |driver: &Driver, stream: &str| -> BTreeMap<(String, String), Value> {
        let sent = driver.stream(stream).iter().filter(|sent| sent.value.contains("fraud.alert.raised"));
        sent.map(|sent| (whose(&sent.value), serde_json::from_str(&sent.value).expect("JSON"))).collect()
    };
    let all = raised(&run(pipeline(&rules("60s")), &payments, 0), "alerts");
    let mut by_customer: BTreeMap<&str, u64> = BTreeMap::new();
    all.keys().for_each(|(customer, _)| *by_customer.entry(customer).or_default() += 1);
    let customer = *by_customer.iter().max_by_key(|(_, alerts)| **alerts).expect("a customer").0;
    let mute = Mute {
        rule: None,
        key: BTreeMap::from([("customer_id".to_owned(), customer.to_owned())]),
        until: UNTIL.to_owned(),
        reason: "away".to_owned(),
    };
    let is_muted = |event: &Value| {
        event["data"]["key"]["customer_id"] == customer && ms(&event["time"]) < ms(&UNTIL.into())
    };
    let muted = all.values().filter(|event| is_muted(event)).count();
    assert!(muted > 5 && (muted as u64) < by_customer[customer], "{muted} of {}", by_customer[customer]);
    for seed in 0..=1 {
        let plan = pipeline(&rules("60s"));
        let (mut bundle, _) = Bundle::collect(rules("60s"), &|_| Err("no files".to_owned())).expect("rules");
        bundle.mutes.push(mute.clone());
        plan.announce(&plan.revise("transactions", 1, &bundle).expect("rules that fit"));
        let driver = run(plan, &payments, seed);
        let (live, shadow) = (raised(&driver, "alerts"), raised(&driver, "alerts.shadow"));
        assert_eq!(shadow.len(), muted, "seed {seed}");
        assert_eq!(driver.counts().results["alerts.shadow"], muted as i64);
        for event in shadow.values() {
            assert!(is_muted(event), "{event}");
            assert_eq!(
                (&event["data"]["muted"]["until"], &event["data"]["case"]),
                (&UNTIL.into(), &Value::Null)
            );
            assert_eq!(event["data"]["muted"]["reason"], "away");
        }
        assert!(live.values().all(|event| !is_muted(event) && event["data"]["muted"].is_null()));
        assert_eq!(live.len() + shadow.len(), all.len(), "seed {seed}");
        assert!(live.keys().chain(shadow.keys()).all(|alert| all.contains_key(alert)), "seed {seed}");
    }
}
