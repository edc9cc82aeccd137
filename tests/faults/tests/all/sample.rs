//! The boontadata sample through the binary.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit;

fn sample(name: &str) -> PathBuf {
    kit::root().join("tests/data/boonta-sample").join(name)
}

fn run(input: &str, out: &Path) -> Value {
    let pipeline = kit::root().join("deploy/examples/boontadata/pipeline.yaml");
    let output = kit::run_to_end(kit::run(&pipeline, &sample(input), out).arg("--verdicts"));
    kit::summary(&output)
}

#[test]
fn the_sample_equals_its_truth_in_every_column() {
    let directory = tempfile::tempdir().expect("a directory");
    let summary = run("events.jsonl", directory.path());
    let expected = serde_json::json!({
        "records": 5_348, "accepted": 5_032, "duplicates": 316, "late": 0, "rejected": 0, "poisoned": 0,
        "results": {"aggregates": 2_967},
    });
    assert_eq!(summary, expected);
    let result = directory.path().join("aggregates.jsonl");
    kit::assert_equals_truth(&sample("truth.csv"), &result);
    assert_whole_numbers_and_texts_are_equal(&sample("truth.csv"), &result, 2_967);
    for name in ["rejected", "late", "poisoned"] {
        let file = fs::read(directory.path().join(format!("{name}.jsonl"))).expect("a file");
        assert!(file.is_empty(), "{name}");
    }
}

/// The columns that allow no tolerance, read here and not by `compare`.
fn assert_whole_numbers_and_texts_are_equal(truth: &Path, result: &Path, rows: usize) {
    let mut reader = csv::Reader::from_path(truth).expect("the truth");
    let header: Vec<String> = reader.headers().expect("a header").iter().map(str::to_owned).collect();
    assert_eq!(header[..7], ["window_start", "device", "category", "count", "m1_sum", "m1_min", "m1_max"]);
    let mut expected: Vec<Vec<String>> =
        reader.records().map(|row| row.expect("a row").iter().take(7).map(str::to_owned).collect()).collect();
    let found = fs::read_to_string(result).expect("the result");
    let mut found: Vec<Vec<String>> = found
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a row");
            let column = |name: &String| row[name].as_str().map_or(row[name].to_string(), str::to_owned);
            header[..7].iter().map(column).collect()
        })
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(expected.len(), rows);
    assert!(expected == found, "count, m1_sum, m1_min and m1_max are exact");
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
fn malformed_lines_get_exactly_their_verdicts() {
    let directory = tempfile::tempdir().expect("a directory");
    let summary = run("malformed.jsonl", directory.path());
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
    let found = read(directory.path().join("verdicts.csv"));
    let found: Vec<String> = found
        .lines()
        .skip(1)
        .map(|line| {
            let [line, verdict, rule, field] = line.split(',').collect::<Vec<_>>().try_into().expect("four");
            format!("{line},{verdict},{}", sample_rule(rule, field))
        })
        .collect();
    let expected = read(sample("malformed-verdicts.csv"));
    let expected: Vec<String> = expected
        .lines()
        .skip(1)
        .map(|line| line.splitn(4, ',').take(3).collect::<Vec<_>>().join(","))
        .collect();
    assert_eq!(found, expected);
    kit::assert_equals_truth(&sample("malformed-truth.csv"), &directory.path().join("aggregates.jsonl"));
    let rejected = expected.iter().filter(|line| line.contains(",rejected,")).count();
    let kept = read(directory.path().join("rejected.jsonl"));
    assert_eq!((kept.lines().count(), &summary["rejected"]), (rejected, &rejected.into()), "none is lost");
}
