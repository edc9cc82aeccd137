//! Rules that are added while payments come and a silo is killed: filled from the topic, they say what they had said from the
//! begin on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::Rig;
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::{PATIENCE, until};
use serde_json::Value;

use super::reload::{command, reload, said};
use super::rules;

const SILOS: usize = 3;
/// The first payments of the sample, in their order; so many are there when the rules come.
const PAYMENTS: usize = 40_000;
const BEFORE: usize = 15_000;
/// Payments written at a time.
const STEP_PAYMENTS: usize = 1_000;
/// It tells by which revision each payment was judged first.
const EVERY: &str = "every";
/// The rule that is there from the begin on, beside that.
const FIRST: &str = "count_1h_gt_3";

/// The example's rules, without cooldowns: those that are there first, or all.
fn rules_file(rig: &Rig, is_first: bool) -> String {
    let text = fs::read_to_string(rig.directory.path().join("all.yaml")).unwrap();
    let (head, rules) = text.split_once("rules:\n").unwrap();
    let (rules, _) = rules.split_once("tests:\n").unwrap();
    let rules = rules.split("  - id: ").skip(1);
    let rules = rules.filter(|rule| !is_first || rule.starts_with(&format!("{FIRST}\n")));
    let every = format!(
        "  - {{id: {EVERY}, kind: threshold, title: Every payment, per: customer_id, when: amount > -1.00}}\n"
    );
    format!("{head}rules:\n{every}{}", rules.map(|rule| format!("  - id: {rule}")).collect::<String>())
}

/// What the topic of alerts says.
#[derive(Default)]
struct Alerts {
    /// What stands, by rule and payment; whether it warned that its rule had not seen all.
    standing: BTreeMap<(String, String), bool>,
    /// By which revision each payment was judged first.
    judged_by: BTreeMap<String, u64>,
    withdrawn: usize,
}

impl Alerts {
    fn read(rig: &Rig) -> Alerts {
        let topic = format!("granary.{}.alerts", rig.cluster);
        let mut alerts = Alerts::default();
        for row in Published::read(rig.kafka.brokers(), &topic).rows {
            let alert: Value = serde_json::from_slice(&row.value).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let rule = &alert["data"]["rule"];
            let (rule, revision, payment) =
                (text(&rule["id"]), rule["revision"].as_u64(), text(&alert["causationid"]));
            if alert["type"] != "fraud.alert.raised" {
                alerts.withdrawn += 1;
                assert!(
                    alerts.standing.remove(&(rule, payment)).is_some(),
                    "withdrawn and not raised: {alert}"
                );
            } else if rule == EVERY {
                let before = alerts.judged_by.insert(payment, revision.unwrap());
                assert_eq!(before, None, "judged twice for the first time: {alert}");
            } else {
                let warns = alert["data"]["warming"].as_bool().unwrap();
                let before = alerts.standing.insert((rule, payment), warns);
                assert_eq!(before, None, "raised twice: {alert}");
            }
        }
        alerts
    }

    /// What should stand: new rules tell of payments that were judged by them first.
    fn should_stand(&self) -> BTreeSet<(String, String)> {
        let is_told = |(rule, payment): &(String, String)| match self.judged_by.get(payment) {
            None => false,
            Some(revision) => rule == FIRST || *revision > 0,
        };
        rules::expected().into_iter().filter(is_told).collect()
    }
}

#[test]
fn rules_that_come_under_load_are_filled_from_the_topic() {
    let rig = rules::rig(4, "60s");
    let (file, all) = (rig.directory.path().join("rules.yaml"), rig.directory.path().join("all.yaml"));
    fs::rename(&file, all).unwrap();
    fs::write(&file, rules_file(&rig, true)).unwrap();
    let mut silos = Several::start(&rig, SILOS);
    silos.until_settled();
    let payments = rules::payments(0);
    let (load, rest) = payments.split_at(PAYMENTS);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for some in load.chunks(STEP_PAYMENTS) {
                rules::write(&rig, some, |_| {});
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        until("the first payments are judged", || {
            std::thread::sleep(Duration::from_millis(200));
            Alerts::read(&rig).judged_by.len() >= BEFORE
        });
        let answer = reload(&rig, &silos, &rules_file(&rig, false));
        assert_eq!(answer["backfill"]["rules"].as_array().unwrap().len(), 9, "{answer}");
        assert_eq!(
            (&answer["notices"], &answer["revision"]),
            (&serde_json::json!([]), &1.into()),
            "{answer}"
        );
        silos.kill(1);
        std::thread::sleep(Duration::from_secs(2));
        silos.begin(1);
        writing.join().unwrap();
    });
    must_stand(&rig, PAYMENTS);
    // What comes from now on is judged by rules that have seen all they look back on, and say so.
    let mut written = PAYMENTS;
    let warns = |alerts: &Alerts, from: &[(String, String)]| -> usize {
        let ids: BTreeSet<String> = from.iter().map(|(_, record)| id_of(record)).collect();
        alerts.standing.iter().filter(|((_, payment), warns)| ids.contains(payment) && **warns).count()
    };
    let began = Instant::now();
    for some in rest.chunks(STEP_PAYMENTS) {
        rules::write(&rig, some, |_| {});
        written += some.len();
        let alerts = must_stand(&rig, written);
        if warns(&alerts, some) == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "rules warn for ever");
    }
    let status = command(&silos, &["status"]);
    assert_eq!(said(&status).matches("\"looks_back\"").count(), SILOS, "{}", said(&status));
    silos.stop_all();
}

fn id_of(record: &str) -> String {
    serde_json::from_str::<Value>(record).unwrap()["transaction_id"].as_str().unwrap().to_owned()
}

/// Waits until so many payments are judged and what stands is what should.
fn must_stand(rig: &Rig, payments: usize) -> Alerts {
    let began = Instant::now();
    loop {
        let alerts = Alerts::read(rig);
        let expected = alerts.should_stand();
        let standing: BTreeSet<(String, String)> = alerts.standing.keys().cloned().collect();
        if alerts.judged_by.len() == payments && standing == expected {
            let of_revisions =
                |of: u64| alerts.judged_by.values().filter(|revision| **revision == of).count();
            println!(
                "{} alerts stand, {} were withdrawn; {} payments judged by the first rules, {} by all",
                standing.len(),
                alerts.withdrawn,
                of_revisions(0),
                of_revisions(1)
            );
            assert!(of_revisions(0) >= BEFORE && of_revisions(1) > 1_000);
            return alerts;
        }
        let missing: Vec<_> = expected.difference(&standing).take(10).collect();
        let wrong: Vec<_> = standing.difference(&expected).take(10).collect();
        assert!(
            began.elapsed() < PATIENCE,
            "{} of {payments} payments are judged; {} alerts stand; missing {missing:?}; wrong {wrong:?}",
            alerts.judged_by.len(),
            standing.len()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}
