//! Rules over the card sample, whose exact alerts are known: by id, value and evidence.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_streams::rules::backtest::Backtest;
use granary_streams::rules::{Event, Options, Reader, Rules, parse};
use granary_truth_tests::card::{example, payments, pipeline, root, rows, sample};
use granary_truth_tests::{Draw, run};
use serde_json::{Value, json};

fn rules(text: &str, without_cooldown: bool) -> Arc<Rules> {
    let modes = BTreeMap::new();
    let options = Options { read: &|_| Err("no files".to_owned()), modes: &modes, without_cooldown };
    let (rules, problems) = parse(text, &options);
    Arc::new(rules.unwrap_or_else(|| panic!("{problems}")))
}

/// Alerts that stand: by rule and event id.
type Alerts = BTreeMap<(String, String), Value>;

fn note(alerts: &mut Alerts, alert: &Value) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let name = (text(&alert["data"]["rule"]["id"]), text(&alert["causationid"]));
    match alert["type"].as_str() {
        Some("fraud.alert.raised") => {
            assert!(alerts.insert(name, alert.clone()).is_none(), "raised twice: {alert}");
        }
        Some("fraud.alert.withdrawn") => {
            assert!(alerts.remove(&name).is_some(), "withdrawn and never raised: {alert}");
        }
        _ => assert!(alerts.contains_key(&name), "resolved and never raised: {alert}"),
    }
}

fn judge(rules: &Arc<Rules>, events: &[Event]) -> Alerts {
    let mut alerts = Alerts::new();
    let mut test = Backtest::new(Arc::clone(rules), None);
    for event in events {
        test.event(event, &mut |alert| note(&mut alerts, alert));
    }
    test.end(&mut |alert| note(&mut alerts, alert));
    alerts
}

fn table(rules: &Rules, name: &str) -> Vec<Event> {
    let (reader, mut table) = (Reader::new(rules.spec()), sample(name));
    let header = table.headers().expect("a header").clone();
    let lines = reader.csv(&header).expect("the columns the rules name");
    let read = |line: Result<csv::StringRecord, csv::Error>| {
        let mut event = Event::default();
        lines.line(&line.expect("a line"), &mut event).expect("an event");
        event
    };
    table.records().map(read).collect()
}

/// Ids and keys are the expected ones; values and evidence too, unless alerts were raised before all that explains them was
/// there.
fn assert_is_expected(alerts: &Alerts, is_whole: bool) {
    for rule in rules(&example("fraud/rules.yaml"), true).infos() {
        let expected = rows(&format!("expected/{}.csv.gz", rule.id));
        let found = alerts.keys().filter(|(id, _)| **id == *rule.id).count();
        assert_eq!(found, expected.len(), "{}", rule.id);
        for row in expected {
            let alert = alerts.get(&(rule.id.to_string(), row["tx_id"].clone()));
            let data = &alert.unwrap_or_else(|| panic!("{}: {row:?} is missing", rule.id))["data"];
            assert_eq!(data["key"]["customer_id"], row["key"]);
            if !is_whole {
                continue;
            }
            let evidence = data["evidence"].as_array().expect("evidence").iter();
            let evidence: Vec<&str> = evidence.map(|piece| piece["id"].as_str().expect("an id")).collect();
            assert_eq!(evidence.join(" "), row["evidence"], "{}: {row:?}", rule.id);
            let value = data["value"].as_str().expect("a value").replace('.', "");
            assert_eq!(value.trim_start_matches('0'), row["value"], "{}: {row:?}", rule.id);
        }
    }
}

#[test]
fn card_rules_give_exactly_the_expected_alerts() {
    let rules = rules(&example("fraud/rules.yaml"), true);
    assert_is_expected(&judge(&rules, &table(&rules, "cards.csv.gz")), true);
}

#[test]
fn json_events_give_the_same_alerts() {
    let rules = rules(&example("fraud/rules.yaml"), true);
    let reader = Reader::new(rules.spec());
    let event = |row: &HashMap<String, String>| {
        let number = |name: &str| serde_json::from_str::<Value>(&row[name]).expect("a number");
        let cents: i64 = row["amount_cents"].parse().expect("cents");
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let time = number("ts");
        // The amount as a number, digit by digit as it is written.
        let record = format!(
            r#"{{"transaction_id":"{}","customer_id":"{}","vendor_id":"{}","amount":{amount},"ts":{time},"lat":{},"lon":{},"category":{}}}"#,
            row["tx_id"],
            row["customer"],
            row["vendor"],
            row["lat"],
            row["lon"],
            json!(row["category"])
        );
        let mut event = Event::default();
        reader.json(record.as_bytes(), &mut event).expect("an event");
        event
    };
    let events: Vec<Event> = rows("cards.csv.gz").iter().map(event).collect();
    assert_is_expected(&judge(&rules, &events), true);
}

#[test]
fn arrivals_shuffled_within_the_lateness_change_nothing() {
    for pace in ["on_arrival", "on_watermark"] {
        let text = example("fraud/rules.yaml")
            .replace("lateness: 60s", "lateness: 12h")
            .replace("judge: on_arrival", &format!("judge: {pace}"));
        let rules = rules(&text, true);
        let mut events = table(&rules, "cards.csv.gz");
        let mut draw = Draw(7);
        let copies: Vec<Event> = events.iter().filter(|_| draw.below(20) == 0).cloned().collect();
        events.extend(copies);
        let mut arrivals: Vec<(i64, Event)> = events
            .into_iter()
            .map(|event| (event.time().ms() + draw.below(43_000_000) as i64, event))
            .collect();
        arrivals.sort_by_key(|(at, _)| *at);
        let events: Vec<Event> = arrivals.into_iter().map(|(_, event)| event).collect();
        assert_is_expected(&judge(&rules, &events), pace == "on_watermark");
    }
}

#[test]
fn cooldowns_leave_the_expected_numbers() {
    let rules = rules(&example("fraud/rules.yaml"), false);
    let alerts = judge(&rules, &table(&rules, "cards.csv.gz"));
    let path = root().join("tests/data/fraud-sample/expected/summary.json");
    let summary: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a summary")).expect("JSON");
    for (rule, expected) in summary["rules"].as_object().expect("rules") {
        let found = alerts.keys().filter(|(id, _)| id == rule).count();
        assert_eq!(json!(found), expected["alerts_with_cooldown_1h"], "{rule}");
    }
}

#[test]
fn readings_out_of_range_are_the_expected_ones() {
    let expected = rows("expected/telemetry-z150-5.csv.gz");
    for without_cooldown in [true, false] {
        let rules = rules(&example("telemetry/rules.yaml"), without_cooldown);
        let alerts = judge(&rules, &table(&rules, "telemetry.csv.gz"));
        // Rows are numbered by device: the id alone does not tell alerts apart, so these are counted by key.
        assert!(!alerts.is_empty());
        let mut found = 0;
        let mut test = Backtest::new(Arc::clone(&rules), None);
        for event in table(&rules, "telemetry.csv.gz") {
            test.event(&event, &mut |alert| {
                found += 1;
                let is_it = |row: &&HashMap<String, String>| {
                    alert["data"]["key"]["device_id"] == row["device"] && alert["causationid"] == row["row"]
                };
                let row = expected.iter().find(is_it).unwrap_or_else(|| panic!("not expected: {alert}"));
                assert!(without_cooldown || row["with_cooldown"] == "1", "to be silent: {alert}");
            });
        }
        let wanted = expected.iter().filter(|row| without_cooldown || row["with_cooldown"] == "1").count();
        assert_eq!(found, wanted);
    }
}

/// The rule of an edge case as a rules file.
fn edge_rules(rule: &Value) -> String {
    let seconds = |name: &str| format!("{}s", rule[name]);
    let key = rule["key"][0].as_str().expect("a key");
    let units = |value: &Value| {
        let cents = value.as_i64().expect("cents");
        format!("{}.{:02}", cents / 100, cents % 100)
    };
    let kind = rule["kind"].as_str().expect("a kind");
    let body = match kind {
        "velocity" => {
            let measure = match rule["agg"].as_str().expect("a measure") {
                "sum" => "sum(amount)",
                measure => measure,
            };
            let limit = if measure == "sum(amount)" { units(&rule["gt"]) } else { rule["gt"].to_string() };
            format!("window: {}, measure: {measure}, limit: '> {limit}'", seconds("window_s"))
        }
        "deviation" => format!(
            "of: amount, last: {}, min_events: {}, limit: '> {}x'",
            rule["last_n"], rule["min_events"], rule["ratio_gt"]
        ),
        "zscore" => format!(
            "of: amount, last: {}, min_events: {}, limit: '> {}'",
            rule["last_n"], rule["min_events"], rule["z_gt"]
        ),
        "geo_velocity" => format!(
            "limit: '> {} km/h', min_distance: {}km, max_gap: {}",
            rule["speed_gt_kmh"],
            rule["min_km"],
            seconds("max_gap_s")
        ),
        _ => {
            let steps: Vec<String> = rule["steps"]
                .as_array()
                .expect("steps")
                .iter()
                .enumerate()
                .map(|(i, step)| {
                    let (sign, limit) = match step.get("amount_lt") {
                        Some(limit) => ("<", limit),
                        None => (">", &step["amount_gt"]),
                    };
                    format!("{{name: s{i}, when: amount {sign} {}}}", units(limit))
                })
                .collect();
            let contiguity = rule["contiguity"].as_str().expect("a contiguity");
            let (within, steps) = (seconds("within_s"), steps.join(", "));
            format!("within: {within}, contiguity: {contiguity}, steps: [{steps}]")
        }
    };
    let cooldown = rule.get("cooldown_s").map_or("0s".to_owned(), |cooldown| format!("{cooldown}s"));
    format!(
        "schema: fraud-rules/v1\nstream: s\nevent:\n  id: tx_id\n  time: ts\n  amount: {{type: money, scale: 2}}\n  \
         fields: {{customer: text, vendor: text, lat: float, lon: float}}\n  optional: [lat, lon]\n\
         defaults: {{lateness: 300s}}\nrules:\n  - {{id: r, kind: {kind}, per: {key}, cooldown: {cooldown}, {body}}}\n"
    )
}

#[test]
fn edge_cases_hold() {
    let path = root().join("tests/data/fraud-sample/edge-cases.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("cases")).expect("JSON");
    let cases = cases["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let rules = rules(&edge_rules(&case["rule"]), false);
        let reader = Reader::new(rules.spec());
        let event = |row: &Value| {
            let cents = row["amount_cents"].as_i64().expect("cents");
            let mut record = row.clone();
            record["amount"] = json!(format!("{}.{:02}", cents / 100, cents % 100));
            let mut event = Event::default();
            reader.json(record.to_string().as_bytes(), &mut event).expect("an event");
            event
        };
        let events: Vec<Event> =
            case["events_in_arrival_order"].as_array().expect("events").iter().map(event).collect();
        let mut found: Vec<i64> =
            judge(&rules, &events).keys().map(|(_, id)| id.parse().expect("a number")).collect();
        found.sort_unstable();
        assert_eq!(json!(found), case["expect_tx_ids"], "{}", case["name"]);
    }
}

#[test]
fn alerts_of_a_pipeline_are_the_same_whatever_happens_to_its_slots() {
    let payments = payments();
    let alerts = |seed| -> BTreeMap<String, String> {
        let driver = run(pipeline(&example("fraud/rules.yaml")), &payments, seed);
        assert!(seed == 0 || driver.loads > 0, "seed {seed}: state came back from the store");
        let counts = driver.counts();
        assert_eq!((counts.accepted, counts.results["alerts"]), (89_333, 8_766), "seed {seed}");
        let sent = driver.stream("alerts");
        let alerts: BTreeMap<String, String> =
            sent.iter().map(|sent| (sent.id.clone(), sent.value.clone())).collect();
        assert_eq!(alerts.len(), sent.len(), "seed {seed}: no alert comes twice");
        alerts
    };
    let whole = alerts(0);
    assert_eq!(whole.len(), 8_766);
    for seed in 1..=3 {
        assert!(alerts(seed) == whole, "seed {seed}");
    }
}

/// For each rule the events that gave alerts.
fn alerted(driver: &granary_truth_tests::Driver) -> std::collections::BTreeSet<(String, String)> {
    let sent = driver.stream("alerts").iter();
    let mut alerts = Alerts::new();
    sent.for_each(|sent| note(&mut alerts, &serde_json::from_str(&sent.value).expect("JSON")));
    alerts.into_keys().collect()
}

#[test]
fn a_pipeline_that_judges_on_the_watermark_gives_the_same_alerts() {
    let on_arrival = example("fraud/rules.yaml");
    let on_watermark = on_arrival.replace("judge: on_arrival", "judge: on_watermark");
    assert_ne!(on_arrival, on_watermark);
    let payments = payments();
    let expected = alerted(&run(pipeline(&on_arrival), &payments, 0));
    assert_eq!(expected.len(), 8_766);
    for seed in [0, 5] {
        let driver = run(pipeline(&on_watermark), &payments, seed);
        assert_eq!(driver.counts().accepted, 89_333, "seed {seed}");
        let sent = driver.stream("alerts");
        assert!(sent.iter().all(|sent| !sent.value.contains("withdrawn")), "nothing is said too soon");
        assert!(alerted(&driver) == expected, "seed {seed}");
    }
}
