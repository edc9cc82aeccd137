//! The demo says no when its pipeline is wrong: its truth is not made by the window code.

use std::fs;

use crate::kit;

fn demo(change: Option<(&str, &str)>) -> std::process::Output {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pipeline.yaml");
    let text =
        fs::read_to_string(kit::root().join("deploy/examples/demo/pipeline.yaml")).expect("the example");
    let changed = change.map_or(text.clone(), |(from, to)| text.replace(from, to));
    assert!(change.is_none() || changed != text, "the pipeline has {change:?}");
    fs::write(&file, changed).expect("the pipeline can be written");
    let mut command = kit::granary();
    let output = kit::run_to_end(command.args(["demo", "--devices", "40", "--pipeline"]).arg(&file));
    println!("{change:?}: {}", kit::said(&output));
    output
}

/// The last line: `exceptions N of M windows`.
fn exceptions(output: &std::process::Output) -> (u64, u64) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("exceptions ")).expect("a line of exceptions");
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn the_demo_agrees_with_its_truth_and_not_with_another_pipeline() {
    let right = demo(None);
    assert_eq!(right.status.code(), Some(0));
    let (none, windows) = exceptions(&right);
    assert!(none == 0 && windows > 2_000, "{none} of {windows}");
    for change in [
        ("dedup: {by: id, horizon: pane}", ""),
        ("allowed_lateness: forever", "allowed_lateness: 0s"),
        ("size: 5s", "size: 6s"),
    ] {
        let wrong = demo(Some(change));
        assert_eq!(wrong.status.code(), Some(1), "{change:?}");
        assert!(exceptions(&wrong).0 > 0, "{change:?}");
    }
}
