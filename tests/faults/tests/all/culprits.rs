//! One record in the middle of a batch makes its turn panic, fail, overflow the stack or never end.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_faults::{changes, kinds, stored};
use serde_json::Value;

use crate::kit;

/// As often as a supervisor starts the process again.
const STARTS_MAX: u32 = 20;

/// How each end of the process must look.
type Ended = fn(&Output) -> bool;

fn never(_: &Output) -> bool {
    false
}

/// A run in which one record is marked; says how often the process had to be started again.
fn poisoned_only_the_culprit(mark: &str, is_expected_end: Ended) -> u32 {
    let directory = tempfile::tempdir().expect("a directory");
    let input = kit::inject(directory.path(), 30, 200, 11);
    let text = fs::read_to_string(&input.file).expect("the input");
    let mut lines: Vec<&str> = text.lines().collect();
    let place = lines.len() / 2;
    let mut culprit: Value = serde_json::from_str(lines[place]).expect("a message");
    culprit["id"] = format!("{mark}{}", culprit["id"].as_str().expect("an id")).into();
    let culprit = culprit.to_string();
    lines.insert(place, &culprit);
    fs::write(&input.file, lines.join("\n") + "\n").expect("the input can be written");
    let pipeline = directory.path().join("pipeline.yaml");
    let sinks = "sinks:\n  tally: {from: measurements, grain: Tally, method: record}\n";
    fs::write(&pipeline, kit::boontadata().replace("sinks:\n", sinks)).expect("the pipeline can be written");

    let out = directory.path().join("out");
    // on a busy machine an innocent turn may be away from its core for a while
    let turn_max_ms = if mark == kinds::LOOP { "2000" } else { "60000" };
    let mut starts = 0;
    let output = loop {
        let output =
            kit::run_to_end(kit::run(&pipeline, &input.file, &out).args(["--turn-max-ms", turn_max_ms]));
        if output.status.success() {
            break output;
        }
        starts += 1;
        assert!(is_expected_end(&output), "{mark}: {}", kit::said(&output));
        assert!(starts < STARTS_MAX, "{mark}: it never comes to its end");
    };
    let summary = kit::summary(&output);
    assert_eq!((&summary["records"], &summary["poisoned"]), (&(input.lines + 1).into(), &1.into()));
    let poisoned = fs::read_to_string(out.join("poisoned.jsonl")).expect("the file of poisoned records");
    let row: Value = serde_json::from_str(&poisoned).expect("one row");
    assert_eq!(row["offset"].as_u64(), Some(place as u64), "{row}");
    let raw = STANDARD.decode(row["raw"].as_str().expect("the record")).expect("base64");
    assert_eq!(raw, culprit.as_bytes());
    kit::assert_equals_truth(&input.truth, &out.join("aggregates.jsonl"));
    let rows =
        changes::check(&out.join("aggregates.changes.jsonl")).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(rows.last, changes::sorted_lines(&out.join("aggregates.jsonl")));
    assert_eq!(stored::tallied(&out, &pipeline), input.lines, "each other record counted once");
    starts
}

#[test]
fn a_record_whose_turn_panics_is_poisoned() {
    assert_eq!(poisoned_only_the_culprit(kinds::PANIC, never), 0);
}

#[test]
fn a_record_whose_turn_fails_is_poisoned() {
    assert_eq!(poisoned_only_the_culprit(kinds::FAIL, never), 0);
}

#[test]
fn a_record_that_overflows_the_stack_is_poisoned() {
    let starts = poisoned_only_the_culprit(kinds::OVERFLOW, |output| {
        output.status.signal().is_some() && String::from_utf8_lossy(&output.stderr).contains("overflow")
    });
    println!("started again {starts} times");
    assert!(starts >= 3, "a single end of the process poisons nothing");
}

#[test]
fn a_record_whose_turn_never_ends_is_poisoned() {
    let starts = poisoned_only_the_culprit(kinds::LOOP, |output| {
        output.status.code() == Some(70) && String::from_utf8_lossy(&output.stderr).contains("Tally/")
    });
    println!("started again {starts} times");
    assert!(starts >= 3, "a single end of the process poisons nothing");
}

#[test]
fn a_sink_whose_grain_is_not_hosted_is_a_mistake() {
    let directory = tempfile::tempdir().expect("a directory");
    let input = kit::inject(directory.path(), 1, 10, 1);
    for (sink, told) in [
        ("{from: totals, grain: Talli, method: record}", "does not host the kind `Talli`"),
        ("{from: totals, grain: Tally, method: rekord}", "no method `rekord`"),
    ] {
        let pipeline = directory.path().join("pipeline.yaml");
        let text = kit::boontadata().replace("sinks:\n", &format!("sinks:\n  tally: {sink}\n"));
        fs::write(&pipeline, text).expect("the pipeline can be written");
        let output = kit::run_to_end(&mut kit::run(&pipeline, &input.file, &directory.path().join("out")));
        assert_eq!(output.status.code(), Some(2), "{}", kit::said(&output));
        assert!(kit::said(&output).contains(told), "{}", kit::said(&output));
    }
}
