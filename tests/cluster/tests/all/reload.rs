//! Rules that change while silos judge by them: every event is judged once, by one revision, and every alert says which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::granary;
use granary_cluster_tests::kit::{PATIENCE, until};
use serde_json::Value;

use super::rules;

const SILOS: usize = 3;
/// The first payments of the sample, in their order.
const PAYMENTS: usize = 30_000;
/// Payments written between two changes.
const STEP_PAYMENTS: usize = 2_500;

/// Rules by which every payment is an alert, by another version of the rule for each `n`.
fn every_payment(n: u64, mode: &str) -> String {
    format!(
        "schema: fraud-rules/v1
stream: transactions
event: {{id: transaction_id, time: ts, amount: {{type: money, scale: 2, unit: USD}}, fields: {{customer_id: text}}}}
defaults: {{mode: live, severity: low, cooldown: 0s, lateness: 60s, judge: on_arrival}}
rules:
  - {{id: every, kind: threshold, title: Every payment, per: customer_id, mode: {mode}, when: amount > -{n}.00}}
"
    )
}

fn rig() -> Rig {
    let rig = Rig::with(Setup { partitions: 4, ..Setup::default() });
    let path = rules::root().join("deploy/examples/fraud/pipeline.yaml");
    let pipeline = std::fs::read_to_string(path).unwrap();
    let pipeline = pipeline.replace("topic: transactions\n", &format!("topic: {}\n", rig.input));
    std::fs::write(rig.directory.path().join("pipeline.yaml"), pipeline).unwrap();
    std::fs::write(rig.directory.path().join("rules.yaml"), every_payment(1, "live")).unwrap();
    rig
}

pub(super) fn command(silos: &Several<'_>, arguments: &[&str]) -> Output {
    granary().args(["rules", "--json"]).args(arguments).args(["--silo", &silos.addresses()]).output().unwrap()
}

pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub(super) fn reload(rig: &Rig, silos: &Several<'_>, text: &str) -> Value {
    let file = rig.directory.path().join("next.yaml");
    std::fs::write(&file, text).unwrap();
    let output = command(silos, &["reload", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An alert: its payment, the rule's version, the revision.
type Alert = (String, String, u64);

fn alerts(rig: &Rig, stream: &str) -> Vec<Alert> {
    let topic = format!("granary.{}.{stream}", rig.cluster);
    let read = |value: &[u8]| {
        let alert: Value = serde_json::from_slice(value).unwrap();
        assert_eq!(alert["type"], "fraud.alert.raised", "{alert}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rule = &alert["data"]["rule"];
        (text(&alert["causationid"]), text(&rule["hash"]), rule["revision"].as_u64().unwrap())
    };
    Published::read(rig.kafka.brokers(), &topic).rows.iter().map(|row| read(&row.value)).collect()
}

#[test]
fn rules_that_change_under_load_judge_every_event_once_by_one_revision() {
    let rig = rig();
    let mut silos = Several::start(&rig, SILOS);
    silos.until_settled();
    let payments = &rules::payments(0)[..PAYMENTS];
    for (step, some) in payments.chunks(STEP_PAYMENTS).enumerate() {
        rules::write(&rig, some, |_| {});
        match step {
            1 | 3 | 5 | 7 => {
                let answer = reload(&rig, &silos, &every_payment(step as u64 + 1, "live"));
                assert_eq!(answer["revision"], (step as u64).div_ceil(2), "{answer}");
            }
            2 => {
                // a file that is wrong leaves the rules in force
                let file = rig.directory.path().join("bad.yaml");
                std::fs::write(&file, every_payment(9, "live").replace("amount >", "amont >")).unwrap();
                let output = command(&silos, &["reload", file.to_str().unwrap()]);
                assert_eq!(output.status.code(), Some(2), "{}", said(&output));
                assert!(said(&output).contains("amont"), "{}", said(&output));
            }
            4 => silos.kill(1),
            6 => silos.begin(1),
            _ => {}
        }
    }
    let expected: BTreeSet<String> = (1..=PAYMENTS).map(|n| n.to_string()).collect();
    let began = Instant::now();
    let mut found = alerts(&rig, "alerts");
    while found.len() < PAYMENTS && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
        found = alerts(&rig, "alerts");
    }
    silos.stop_all();
    let found = if found.len() == PAYMENTS { alerts(&rig, "alerts") } else { found };
    let judged: BTreeSet<String> = found.iter().map(|(payment, ..)| payment.clone()).collect();
    assert_eq!(judged.len(), PAYMENTS, "every payment is judged");
    assert_eq!(found.len(), PAYMENTS, "and none twice");
    assert_eq!(judged, expected);
    let mut hashes: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for (_, hash, revision) in &found {
        hashes.entry(*revision).or_default().insert(hash);
    }
    println!("judged by revisions {:?}", hashes.keys().collect::<Vec<_>>());
    assert_eq!(hashes.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4], "each was in force for a while");
    let versions: BTreeSet<&&str> = hashes.values().flatten().collect();
    assert!(
        hashes.values().all(|of| of.len() == 1) && versions.len() == 5,
        "a revision is one version: {hashes:?}"
    );
}

#[test]
fn a_rule_in_shadow_tells_nobody_and_a_restart_remembers_the_revision() {
    let rig = rig();
    let mut silos = Several::start(&rig, SILOS);
    silos.until_settled();
    let payments = rules::payments(0);
    let mut steps = payments.chunks(500);
    let mut next = |expected: (usize, usize)| {
        rules::write(&rig, steps.next().unwrap(), |_| {});
        let counts = || (alerts(&rig, "alerts").len(), alerts(&rig, "alerts.shadow").len());
        until("the alerts are there", || {
            std::thread::sleep(Duration::from_millis(200));
            let (live, shadow) = counts();
            live + shadow >= expected.0 + expected.1
        });
        assert_eq!(counts(), expected);
    };
    next((500, 0));
    let output = command(&silos, &["promote", "every", "--to", "shadow"]);
    assert!(said(&output).contains("\"was\":\"live\""), "{}", said(&output));
    next((500, 500));
    let output = command(&silos, &["promote", "nothing"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("there is no rule `nothing`; there are: every"), "{}", said(&output));
    for no in 0..SILOS {
        silos.kill(no);
        silos.begin(no);
        silos.until_settled();
    }
    next((500, 1_000));
    let output = command(&silos, &["promote", "every"]);
    assert!(output.status.success(), "{}", said(&output));
    next((1_000, 1_000));
    let status = command(&silos, &["status"]);
    assert_eq!(said(&status).matches("\"revision\":2").count(), SILOS, "{}", said(&status));
    silos.stop_all();
}
