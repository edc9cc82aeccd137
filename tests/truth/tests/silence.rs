//! Devices that fall silent: found by the clock of their slot and by the wall clock, once, wherever state was stored.

use std::collections::{BTreeMap, BTreeSet};

use granary_streams::Plan;
use granary_truth_tests::{Draw, Driver, Input};
use serde_json::Value;

const PIPELINE: &str = "pipeline: devices
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields:
        id: {type: text, chars: 1..64}
        device_id: {type: text, chars: 1..64}
        ts: {type: time_ms, digits: 1..15}
    id: id
    key: device_id
    event_time: ts
    watermark: {per: key, out_of_orderness: 5s}
steps:
  watch: {from: readings, rules: rules.yaml}
";

const RULES: &str = "schema: fraud-rules/v1
stream: readings
event: {id: id, time: ts, fields: {device_id: text}}
defaults: {mode: live, cooldown: 0s, lateness: 5s}
rules:
  - {id: silent, kind: silence, per: device_id, gap: 60s, severity: high}
";

fn plan() -> Plan {
    plan_of(RULES)
}

fn plan_of(rules: &str) -> Plan {
    let read = |_: &str| Ok(rules.to_owned());
    granary_streams::file::parse_beside(PIPELINE, &read).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn reading(device: u64, id: u64, ms: i64) -> Input {
    let value = format!(r#"{{"id":"{id}","device_id":"d-{device}","ts":{ms}}}"#);
    Input { appended_at: ms, value: value.into_bytes() }
}

/// What was said, by device and event: in order.
fn said(driver: &Driver) -> BTreeMap<(String, String), Vec<String>> {
    let mut said: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for sent in driver.stream("alerts") {
        let alert: Value = serde_json::from_str(&sent.value).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        assert!(ids.insert(sent.id.clone()), "said twice: {alert}");
        assert_eq!(text(&alert["id"]), sent.id);
        let of = (text(&alert["data"]["key"]["device_id"]), text(&alert["causationid"]));
        said.entry(of).or_default().push(text(&alert["type"]).replace("fraud.alert.", ""));
    }
    said
}

#[test]
fn a_silence_is_told_while_it_lasts_and_resolved_when_it_ends() {
    let mut driver = Driver::new(plan());
    for (id, s) in (0..).zip([0, 10, 20]) {
        driver.record(id, &reading(1, id, s * 1_000));
    }
    driver.commit();
    driver.tick(1_000_000);
    driver.tick(1_000_000 + 60_000);
    driver.commit();
    assert!(said(&driver).is_empty(), "the lateness is waited for, too");
    driver.crash();
    driver.tick(2_000_000); // whatever time it is: silence is what the slot has stood
    driver.tick(2_000_000 + 66_000);
    driver.commit();
    let alert: Value = serde_json::from_str(&driver.stream("alerts")[0].value).expect("JSON");
    assert_eq!(alert["type"], "fraud.alert.raised");
    assert_eq!(alert["data"]["reason"], "Nothing was heard of device id d-1 for more than 1 minute.");
    assert_eq!(alert["data"]["evidence"][0]["id"], "2");
    assert_eq!(alert["time"], "1970-01-01T00:01:20Z");
    driver.tick(3_000_000);
    driver.tick(9_000_000);
    driver.commit();
    assert_eq!(driver.stream("alerts").len(), 1, "a silence is told once");
    driver.record(3, &reading(1, 3, 140_000));
    driver.commit();
    let resolved: Value = serde_json::from_str(&driver.stream("alerts")[1].value).expect("JSON");
    assert_eq!(resolved["type"], "fraud.alert.resolved");
    assert_eq!(resolved["data"]["alert_id"], alert["id"]);
    assert_eq!(
        (&resolved["time"], &resolved["data"]["resolved_by"]["id"]),
        (&"1970-01-01T00:02:20Z".into(), &"3".into())
    );
    assert_eq!(resolved["data"]["reason"], "device id d-1 was heard of again after 2 minutes.");
}

#[test]
fn an_event_that_came_in_time_withdraws_what_the_wall_clock_said() {
    let mut driver = Driver::new(plan());
    driver.record(0, &reading(1, 0, 0));
    driver.tick(1_000_000);
    driver.tick(1_100_000);
    driver.record(1, &reading(1, 1, 30_000));
    driver.record(2, &reading(1, 2, 200_000));
    driver.commit();
    let of = |id: &str| said(&driver)[&("d-1".to_owned(), id.to_owned())].clone();
    assert_eq!(of("0"), ["raised", "withdrawn"]);
    assert_eq!(of("1"), ["raised", "resolved"]);
}

/// An alert of the clock finds the case of its key in the store, as one of an event does.
#[test]
fn silences_of_a_device_are_one_case() {
    let rules = RULES.replace("severity: high", "severity: high, case: {per: device_id, open_for: 1d}");
    let mut driver = Driver::new(plan_of(&rules));
    for (id, s) in (0..).zip([0, 100]) {
        driver.record(id, &reading(1, id, s * 1_000));
    }
    driver.commit();
    driver.crash();
    driver.tick(1_000_000);
    driver.tick(1_100_000);
    driver.record(2, &reading(1, 2, 300_000));
    driver.commit();
    let of_case = |sent: &granary_truth_tests::Sent| {
        let event: Value = serde_json::from_str(&sent.value).expect("JSON");
        let kind = event["type"].as_str().expect("a type").replace("fraud.", "");
        (kind, event["data"]["case"]["alerts"].as_u64().expect("a number"), event["correlationid"].clone())
    };
    let told: Vec<_> = driver.stream("alerts").iter().map(of_case).collect();
    let expected = [
        ("case.opened", 1),
        ("alert.raised", 1),
        ("alert.resolved", 1),
        ("alert.raised", 2),
        ("alert.resolved", 2),
    ];
    let found: Vec<_> = told.iter().map(|(kind, alerts, _)| (kind.as_str(), *alerts)).collect();
    assert_eq!(found, expected);
    assert!(told.iter().all(|(.., id)| *id == told[0].2), "one case");
}

/// Devices that fall silent now and then; the silences by the definition.
fn readings(draw: &mut Draw) -> (Vec<Input>, BTreeSet<(String, String)>) {
    let mut all: Vec<(i64, u64, u64)> = Vec::new();
    let mut silences = BTreeSet::new();
    let mut id = 0;
    for device in 0..8 {
        let mut ms = 0;
        while ms < 900_000 {
            all.push((ms, device, id));
            let gap = if draw.below(12) == 0 { 60_001 + draw.below(90_000) } else { 1 + draw.below(30_000) };
            if gap > 60_000 && ms + (gap as i64) < 900_000 {
                silences.insert((format!("d-{device}"), id.to_string()));
            }
            ms += gap as i64;
            id += 1;
        }
    }
    // each arrives up to the lateness later than it happened
    all.sort_by_cached_key(|(ms, ..)| ms + draw.below(4_999) as i64);
    let inputs = all.iter().map(|(ms, device, id)| reading(*device, *id, *ms)).collect();
    (inputs, silences)
}

#[test]
fn silences_are_the_same_whatever_happens_to_the_slots() {
    for seed in 1..=12 {
        let mut draw = Draw(seed);
        let (inputs, silences) = readings(&mut draw);
        let mut driver = Driver::new(plan());
        let (mut at, mut committed, mut now) = (0, 0, 0);
        while at < inputs.len() {
            driver.record(at as u64, &inputs[at]);
            at += 1;
            match draw.below(30) {
                0 => {
                    driver.crash();
                    at = committed;
                }
                1..=5 => {
                    driver.commit();
                    committed = at;
                }
                6 => driver.evict(),
                7..=9 => {
                    now += 20_000; // the input pauses
                    driver.tick(now);
                    now += draw.below(30_000) as i64;
                    driver.tick(now);
                }
                _ => {}
            }
        }
        driver.commit();
        let mut told = BTreeMap::new();
        for (of, said) in said(&driver) {
            // a wall clock that is ahead of the events may be taken back
            let net = said.iter().fold(0, |net, what| match what.as_str() {
                "raised" => net + 1,
                "withdrawn" => net - 1,
                _ => net,
            });
            told.insert(of, (net, said));
        }
        for of in &silences {
            let (net, said) = told.get(of).unwrap_or_else(|| panic!("seed {seed}: {of:?} was not told"));
            assert_eq!(*net, 1, "seed {seed}: {of:?} {said:?}");
            assert!(said.contains(&"resolved".to_owned()), "seed {seed}: {of:?} {said:?}");
        }
        let last_ones: usize =
            told.iter().filter(|(of, (net, _))| *net == 1 && !silences.contains(*of)).count();
        assert!(last_ones <= 8, "seed {seed}: beside them only the last event of each device");
    }
}
