//! Rules that are added while payments come, and are filled from the topic: beside the same rules from the first payment on.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::Timestamp;
use granary_streams::plan::{Bundle, Fill, Mark, Round};
use granary_truth_tests::card::{example, payments, pipeline};
use granary_truth_tests::{Draw, Driver, Input, SLOTS, run};
use serde_json::Value;

/// The rules that are there from the begin on in all runs.
const FIRST: [&str; 2] = ["amount_gt_900", "count_1h_gt_3"];

fn all_rules() -> String {
    example("fraud/rules.yaml")
}

/// Only the first rules, and none of the tests.
fn first_rules() -> String {
    let text = all_rules();
    let (head, rules) = text.split_once("rules:\n").expect("rules");
    let (rules, _) = rules.split_once("tests:\n").expect("tests");
    let rules = rules.split("  - id: ").skip(1);
    let is_first = |rule: &&str| FIRST.iter().any(|id| rule.starts_with(&format!("{id}\n")));
    let rules = rules.filter(is_first).map(|rule| format!("  - id: {rule}"));
    format!("{head}rules:\n{}", rules.collect::<String>())
}

fn bundle(text: String, fill: Option<Fill>) -> Bundle {
    let (bundle, _) = Bundle::collect(text, &|_| Err("no files".to_owned())).expect("rules");
    Bundle { fill, ..bundle }
}

/// A back-fill of all but the first rules, from this payment on.
fn fill(from: usize) -> Fill {
    let before = pipeline(&first_rules());
    let old = bundle(first_rules(), None);
    let new = bundle(all_rules(), None);
    let wanted = before.wants_fill("transactions", &old, &new, Timestamp(0)).expect("rules that fit");
    let wanted = wanted.expect("new rules look back");
    assert_eq!(wanted.rules.len(), 9, "all but the first: {:?}", wanted.rules);
    let from = BTreeMap::from([(wanted.steps[0].name.clone(), vec![from as u64])]);
    let length_ms = wanted.length.ms();
    Fill { number: 1, began_ms: 0, length_ms, rules: wanted.rules, from, short: Vec::new() }
}

/// A second reading: it ends where the first one stood when all slots had begun.
#[derive(Clone, Copy)]
struct Reading {
    from: usize,
    round: Round,
    at: usize,
    end: usize,
    is_over: bool,
}

impl Reading {
    fn new(from: usize) -> Reading {
        Reading { from, round: Round::Begin, at: 0, end: 0, is_over: false }
    }

    /// Hands over what comes next. The slots stand at `stood` in the first reading.
    fn step(&mut self, driver: &mut Driver, payments: &[Input], stood: usize) {
        let mark = Mark { number: 1, round: self.round, at: self.at as u64 };
        let word = Input { appended_at: 0, value: (self.end as u64).to_be_bytes().to_vec() };
        let is_word = matches!(self.round, Round::Begin | Round::End);
        driver.again(mark, if is_word { &word } else { &payments[self.at] }, stood as u64);
        self.at += 1;
        let end = if is_word { usize::from(SLOTS) } else { self.end };
        if self.at < end {
            return;
        }
        (self.round, self.at) = match self.round {
            Round::Begin => {
                self.end = stood;
                (Round::Remember, self.from)
            }
            Round::Remember => (Round::Settle, self.from),
            Round::Settle => (Round::End, 0),
            Round::End => {
                self.is_over = true;
                (Round::End, end)
            }
        };
    }
}

/// Runs payments under rules that change at one of them: commits, crashes and evictions come as the seed says. Of each `pace`
/// payments that are handed over while rules are filled, about one is for the first time.
fn run_filled(payments: &[Input], change: usize, from: usize, seed: u64, pace: u64) -> Driver {
    let mut draw = Draw(seed);
    let mut driver = Driver::new(pipeline(&first_rules()));
    let (mut at, mut reading, mut is_changed) = (0, Reading::new(from), false);
    let mut committed = (at, reading);
    let mut crashes = 0;
    while at < payments.len() || !reading.is_over {
        if at == change && !is_changed {
            driver.commit(); // else slots that go back would take the revision over before this payment
            committed = (at, reading);
            driver.revise("transactions", 1, &bundle(all_rules(), Some(fill(from))));
            is_changed = true;
        }
        let reads_again = is_changed && !reading.is_over;
        if at < payments.len() && (!reads_again || draw.below(pace) == 0) {
            driver.record(at as u64, &payments[at]);
            at += 1;
        } else {
            reading.step(&mut driver, payments, at);
        }
        match draw.below(600) {
            0 if crashes < 30 => {
                driver.crash();
                (at, reading) = committed;
                crashes += 1;
            }
            1..=8 => {
                driver.commit();
                committed = (at, reading);
            }
            9 => driver.evict(),
            _ => {}
        }
    }
    driver.end();
    driver.commit();
    driver
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// What stands at the end, by rule and event, with the value it shows; each raised once and withdrawn once at most in turn.
fn standing(driver: &Driver) -> BTreeMap<(String, String), String> {
    let mut alerts = BTreeMap::new();
    for sent in driver.stream("alerts") {
        let alert: Value = serde_json::from_str(&sent.value).expect("JSON");
        let name = (text(&alert["data"]["rule"]["id"]), text(&alert["causationid"]));
        if alert["type"] == "fraud.alert.raised" {
            let value = alert["data"]["value"].to_string();
            assert!(alerts.insert(name, value).is_none(), "raised twice: {alert}");
        } else {
            assert!(alerts.remove(&name).is_some(), "withdrawn and never raised: {alert}");
        }
    }
    alerts
}

/// Of these alerts those that rules told of that were there when the event came.
fn told(
    alerts: &BTreeMap<(String, String), String>,
    before: &BTreeSet<String>,
) -> BTreeSet<(String, String)> {
    let is_told = |name: &&(String, String)| FIRST.contains(&&*name.0) || !before.contains(&name.1);
    alerts.keys().filter(is_told).cloned().collect()
}

fn ids(payments: &[Input]) -> BTreeSet<String> {
    let id = |payment: &Input| {
        let payment: Value = serde_json::from_slice(&payment.value).expect("JSON");
        text(&payment["transaction_id"])
    };
    payments.iter().map(id).collect()
}

#[test]
fn filled_rules_say_of_later_payments_what_they_had_said_from_the_begin_on() {
    let payments: Vec<Input> = payments().into_iter().take(30_000).collect();
    let always = standing(&run(pipeline(&all_rules()), &payments, 0));
    for (seed, change, pace) in [(1, 12_000, 2), (2, 20_000, 8), (3, 4_000, 30)] {
        let driver = run_filled(&payments, change, 0, seed, pace);
        assert!(driver.loads > 0, "seed {seed}: state came back from the store");
        assert_eq!(driver.counts().accepted, payments.len() as u64, "seed {seed}: each is counted once");
        let before = ids(&payments[..change]);
        let expected = told(&always, &before);
        let filled = told(&standing(&driver), &before);
        assert_eq!(
            filled.len(),
            standing(&driver).len(),
            "seed {seed}: nobody hears of what was there before"
        );
        let later = expected.iter().filter(|(rule, _)| !FIRST.contains(&&**rule)).count();
        assert!(later > 200, "seed {seed}: {later} alerts of new rules");
        assert_eq!(filled, expected, "seed {seed}");
    }
}

/// What alerts say of whether their rules have seen all, in the order in which they came.
fn warnings(driver: &Driver) -> Vec<(String, bool)> {
    let alerts = driver.stream("alerts").iter();
    let alerts = alerts.map(|sent| serde_json::from_str::<Value>(&sent.value).expect("JSON"));
    let raised = alerts.filter(|alert| alert["type"] == "fraud.alert.raised");
    let warning = |alert: Value| {
        (text(&alert["data"]["rule"]["id"]), alert["data"]["warming"].as_bool().expect("true or false"))
    };
    raised.map(warning).collect()
}

#[test]
fn rules_warn_until_their_slot_is_filled_and_no_longer() {
    let payments: Vec<Input> = payments().into_iter().take(6_000).collect();
    let (change, live) = (5_000, 500);
    let mut driver = Driver::new(pipeline(&first_rules()));
    let give = |driver: &mut Driver, places: std::ops::Range<usize>| {
        places.for_each(|at| driver.record(at as u64, &payments[at]));
    };
    give(&mut driver, 0..change);
    driver.commit();
    let before = warnings(&driver).len();
    driver.revise("transactions", 1, &bundle(all_rules(), Some(fill(0))));
    give(&mut driver, change..change + live);
    let mut reading = Reading::new(0);
    while !reading.is_over {
        reading.step(&mut driver, &payments, change + live);
    }
    driver.commit();
    let during = warnings(&driver);
    let is_new = |(rule, _): &&(String, bool)| !FIRST.contains(&&**rule);
    assert!(during[before..].iter().filter(is_new).count() > 5);
    assert!(during[before..].iter().filter(is_new).all(|(_, warns)| *warns), "{during:?}");
    give(&mut driver, change + live..payments.len());
    driver.commit();
    let after = &warnings(&driver)[during.len()..];
    assert!(after.iter().filter(is_new).count() > 5);
    assert!(after.iter().all(|(_, warns)| !warns), "{after:?}");
}
