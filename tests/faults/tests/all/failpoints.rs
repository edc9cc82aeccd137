//! The process ends at an exact place: before and after each arrow of a commit's way.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use granary_faults::changes;

use crate::kit;

/// The arrows that a run passes: its replies are the commits it is told of.
const ARROWS: [&str; 5] = ["fetch", "apply", "seal", "commit", "reply"];

/// The signal of a process that aborted.
const ABORTED: i32 = 6;

#[test]
fn ended_at_each_fail_point_a_run_ends_with_the_truth() {
    let directory = tempfile::tempdir().expect("a directory");
    let input = kit::inject(directory.path(), 30, 600, 3);
    let pipeline = directory.path().join("pipeline.yaml");
    fs::write(&pipeline, kit::boontadata()).expect("the pipeline can be written");
    let clean = directory.path().join("clean");
    let summary = kit::summary(&kit::run_to_end(&mut kit::run(&pipeline, &input.file, &clean)));
    let clean = changes::check(&clean.join("aggregates.changes.jsonl")).expect("a clean run is right");
    for arrow in ARROWS {
        for side in ["before", "after"] {
            let point = format!("{arrow}.{side}");
            let out = directory.path().join(&point);
            let mut run = kit::run(&pipeline, &input.file, &out);
            // what ends a process takes nothing from the operating system
            run.args(["--batch", "100", "--lanes", "1", "--durability", "none"]);
            // the second passing lies after what the first life stored, if it stored anything
            for passing in ["1", "3", "2"] {
                let output = kit::run_to_end(run.env("GRANARY_FAIL", format!("{point}={passing}:exit")));
                let signal = output.status.signal();
                assert_eq!(signal, Some(ABORTED), "{point}={passing}: {}", kit::said(&output));
            }
            let ended = kit::summary(&kit::run_to_end(run.env_remove("GRANARY_FAIL")));
            assert_eq!(ended, summary, "{point}");
            kit::assert_equals_truth(&input.truth, &out.join("aggregates.jsonl"));
            let changes = changes::check(&out.join("aggregates.changes.jsonl"));
            let changes = changes.unwrap_or_else(|wrong| panic!("{point}: {wrong}"));
            assert!(changes.sorted == clean.sorted, "{point}: every row once");
        }
    }
}
