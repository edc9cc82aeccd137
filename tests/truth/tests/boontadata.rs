//! The boontadata sample: the pipeline of the examples gives its truth, whatever happens on the way.

use std::collections::{BTreeMap, BTreeSet};

use granary_streams::compare::{KEY_DEFAULT, Report, compare};
use granary_streams::{Plan, file};
use granary_truth_tests::{Driver, Sent, lines, run};

const PIPELINE: &str = include_str!("../../../deploy/examples/boontadata/pipeline.yaml");
const EVENTS: &[u8] = include_bytes!("../../data/boonta-sample/events.jsonl");
const TRUTH: &[u8] = include_bytes!("../../data/boonta-sample/truth.csv");
const MALFORMED: &[u8] = include_bytes!("../../data/boonta-sample/malformed.jsonl");
const MALFORMED_TRUTH: &[u8] = include_bytes!("../../data/boonta-sample/malformed-truth.csv");
const VERDICTS: &[u8] = include_bytes!("../../data/boonta-sample/malformed-verdicts.csv");

fn plan(text: &str) -> Plan {
    file::parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn against(truth: &[u8], driver: &Driver) -> Report {
    compare(truth, driver.results("aggregates").as_bytes(), &KEY_DEFAULT).expect("files that fit")
}

/// No identity twice; revisions of a window from 0 without a gap.
fn check_identities(sent: &[Sent]) {
    let mut next: BTreeMap<&str, u32> = BTreeMap::new();
    for sent in sent {
        let (window, revision) = sent.id.rsplit_once('#').expect("an identity with a revision");
        let expected = next.entry(window).or_default();
        assert_eq!(revision.parse(), Ok(*expected), "{}", sent.id);
        *expected += 1;
    }
}

#[test]
fn the_sample_gives_its_truth() {
    let driver = run(plan(PIPELINE), &lines(EVENTS), 0);
    assert_eq!(against(TRUTH, &driver), Report { exceptions: 0, of: 2_967, first: vec![] });
    let counts = driver.counts();
    assert!(counts.is_balanced());
    assert_eq!((counts.records, counts.accepted, counts.duplicates), (5_348, 5_032, 316));
    assert_eq!((counts.late, counts.rejected, counts.poisoned), (0, 0, 0));
    assert_eq!(counts.results["aggregates"], 2_967);
    check_identities(driver.stream("aggregates"));
}

#[test]
fn commits_crashes_and_evictions_change_nothing() {
    let whole = run(plan(PIPELINE), &lines(EVENTS), 0);
    let by_id = |driver: &Driver| -> BTreeMap<String, String> {
        driver.stream("aggregates").iter().map(|sent| (sent.id.clone(), sent.value.clone())).collect()
    };
    for seed in 1..=6 {
        let driver = run(plan(PIPELINE), &lines(EVENTS), seed);
        check_identities(driver.stream("aggregates"));
        assert_eq!(by_id(&driver), by_id(&whole), "seed {seed}");
        assert_eq!(driver.counts(), whole.counts(), "seed {seed}");
        assert!(driver.loads > 0, "seed {seed}: state came back from the store");
    }
}

#[test]
fn malformed_lines_get_exactly_their_verdicts() {
    let driver = run(plan(PIPELINE).with_verdicts(), &lines(MALFORMED), 0);
    let mut found: Vec<(u64, String, String)> = driver
        .stream("verdicts")
        .iter()
        .map(|sent| {
            let [line, verdict, rule, field] = sent.value.split(',').collect::<Vec<_>>().try_into().unwrap();
            (line.parse().unwrap(), verdict.to_owned(), sample_rule(rule, field))
        })
        .collect();
    found.sort();
    let mut reader = csv::Reader::from_reader(VERDICTS);
    let expected: Vec<(u64, String, String)> = reader
        .records()
        .map(|record| record.unwrap())
        .map(|record| (record[0].parse().unwrap(), record[1].to_owned(), record[2].to_owned()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(against(MALFORMED_TRUTH, &driver).exceptions, 0);
    let counts = driver.counts();
    assert!(counts.is_balanced());
    assert_eq!(counts.rejected as usize, driver.stream("rejected").len(), "nothing is lost silently");
    assert_eq!(
        counts.rejected as usize,
        expected.iter().filter(|(_, verdict, _)| verdict == "rejected").count()
    );
}

/// The sample writes `name` for the limit of a text field, and the field's own name for the others.
fn sample_rule(rule: &str, field: &str) -> String {
    let is_text = ["id", "device", "category"].contains(&field);
    match (rule, field) {
        ("type", _) if is_text => "type".to_owned(),
        ("limit", _) if is_text => "name".to_owned(),
        ("type" | "limit", "at") => "dt".to_owned(),
        ("type" | "limit", field) => field.to_owned(),
        (rule, _) => rule.to_owned(),
    }
}

#[test]
fn rows_have_the_fields_of_the_formats_page() {
    let driver = run(plan(PIPELINE), &lines(EVENTS), 0);
    let first = &driver.stream("aggregates")[0];
    let names = [
        "window_start",
        "window_end",
        "device",
        "category",
        "count",
        "m1_sum",
        "m1_min",
        "m1_max",
        "m2_sum",
        "m2_avg",
        "m2_min",
        "m2_max",
        "revision",
        "reason",
    ];
    let places: Vec<usize> =
        names.iter().map(|name| first.value.find(&format!("\"{name}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{}", first.value);
    let row: serde_json::Value = serde_json::from_str(&first.value).unwrap();
    let identity = format!(
        "Window/{}/{}/totals/{}#0",
        row["device"].as_str().unwrap(),
        row["category"].as_str().unwrap(),
        row["window_start"]
    );
    assert_eq!((first.id.as_str(), row.as_object().unwrap().len()), (identity.as_str(), names.len()));
    assert_eq!(first.key, row["device"].as_str().unwrap().as_bytes(), "the record's key is the routing key");
}

#[test]
fn a_rejected_record_keeps_its_bytes_and_its_place() {
    let driver = run(plan(PIPELINE), &lines(MALFORMED), 0);
    let row = |offset: u64| -> serde_json::Value {
        let sent = driver.stream("rejected").iter().find(|sent| sent.cause.offset == offset).unwrap();
        serde_json::from_str(&sent.value).unwrap()
    };
    let expected = serde_json::json!({
        "source": "measurements", "topic": "boontadata", "partition": 0, "offset": 7,
        "rule": "type", "field": "m1", "message": "m1: integer expected, text found",
        "raw": row(7)["raw"],
    });
    assert_eq!(row(7), expected);
    let raw = row(13)["raw"].as_str().unwrap().to_owned();
    assert_eq!(raw.len().div_ceil(4) * 4, raw.len());
    assert!(raw.len() * 3 / 4 >= lines(MALFORMED)[13].value.len(), "the whole record, invalid UTF-8 too");
    assert_eq!((row(13)["rule"].as_str(), row(13)["field"].is_null()), (Some("utf8"), true));
}

#[test]
fn taking_a_rule_away_is_seen() {
    for (from, to) in [
        ("dedup: {by: id, horizon: pane}", ""),
        ("allowed_lateness: forever", "allowed_lateness: 0s"),
        ("size: 5s", "size: 6s"),
    ] {
        let driver = run(plan(&PIPELINE.replace(from, to)), &lines(EVENTS), 0);
        assert!(against(TRUTH, &driver).exceptions > 0, "{to}");
        assert!(driver.counts().is_balanced());
    }
}

#[test]
fn what_is_too_late_goes_to_the_late_stream() {
    let driver =
        run(plan(&PIPELINE.replace("allowed_lateness: forever", "allowed_lateness: 1s")), &lines(EVENTS), 3);
    let counts = driver.counts();
    assert!(counts.late > 100 && counts.is_balanced());
    assert_eq!(driver.stream("late").len() as u64, counts.late);
    let ids: BTreeSet<&str> = driver.stream("late").iter().map(|sent| sent.id.as_str()).collect();
    assert_eq!(ids.len() as u64, counts.late, "each once, whatever crashed");
    for sent in driver.stream("late") {
        let row: serde_json::Value = serde_json::from_str(&sent.value).unwrap();
        let names: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["event", "event_time", "key", "offset", "partition", "reason", "source", "topic", "watermark"];
        assert_eq!(names, expected);
        assert_eq!(row["event"].as_object().unwrap().len(), 6);
        let end = row["event_time"].as_i64().unwrap().div_euclid(5_000) * 5_000 + 5_000;
        assert!(
            row["watermark"].as_i64().unwrap() >= end - 1 + 1_000,
            "its window was closed: {}",
            sent.value
        );
    }
}

/// The rows of windows as rules see them: an alert for each of more than sixty units, whatever happens on the way.
#[test]
fn rules_judge_every_row_of_a_window_once() {
    let alerts = include_str!("../../../deploy/examples/boontadata/alerts.yaml");
    let rules = include_str!("../../../deploy/examples/boontadata/rules.yaml");
    let parse = || file::parse_beside(alerts, &|_| Ok(rules.to_owned()));
    let plan = || parse().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let json = |sent: &Sent| -> serde_json::Value { serde_json::from_str(&sent.value).expect("JSON") };
    let (mut whole, mut of_whole) = (None, None);
    for seed in 0..=4 {
        let driver = run(plan(), &lines(EVENTS), seed);
        assert_eq!(against(TRUTH, &driver), Report { exceptions: 0, of: 2_967, first: vec![] });
        let rows = driver.stream("aggregates").iter();
        let over: BTreeSet<String> = rows
            // beyond 2^53 a number is of no use to rules: they skip the row, and count that
            .filter(|sent| (61..=1 << 53).contains(&json(sent)["m1_sum"].as_i64().expect("a sum")))
            .map(|sent| sent.id.clone())
            .collect();
        let late = driver.stream("late").iter().map(|sent| json(sent)["event"]["window"].clone());
        let late: BTreeSet<String> = late.map(|id| id.as_str().expect("an id").to_owned()).collect();
        let by_rule = |rule: &str| -> BTreeMap<String, serde_json::Value> {
            let alerts = driver.stream("alerts").iter().map(json);
            let of = alerts.filter(|alert| alert["data"]["rule"]["id"] == *rule);
            of.map(|alert| (alert["causationid"].as_str().expect("an id").to_owned(), alert)).collect()
        };
        let busy = by_rule("busy-window");
        let expected: BTreeSet<String> = over.difference(&late).cloned().collect();
        assert!(expected.len() > 50, "{} rows", expected.len());
        let found: BTreeSet<String> = busy.keys().cloned().collect();
        let wrong: Vec<_> = found.symmetric_difference(&expected).take(3).collect();
        assert!(wrong.is_empty(), "seed {seed}: of {} and {}: {wrong:?}", found.len(), expected.len());
        assert!(!by_rule("above-habit").is_empty());
        // whoever takes a portion again names the same outputs by the same causes
        let causes = driver.stream("alerts").iter().map(|sent| (sent.id.clone(), sent.cause));
        let causes: BTreeMap<String, granary_cluster::Cause> = causes.collect();
        assert!(*of_whole.get_or_insert_with(|| causes.clone()) == causes, "seed {seed}");
        let said = (busy, by_rule("above-habit"), late);
        assert!(seed == 0 || driver.loads > 0, "seed {seed}: state came back from the store");
        let whole = whole.get_or_insert_with(|| said.clone());
        let ids = |alerts: &BTreeMap<String, serde_json::Value>| alerts.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (ids(&said.0), ids(&said.1), &said.2),
            (ids(&whole.0), ids(&whole.1), &whole.2),
            "seed {seed}"
        );
    }
}
