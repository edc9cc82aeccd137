//! All case files of `tests/data/conformance` run through the operator that pipelines use.

use granary_window::cases::{CaseOutcome, run_file};

#[test]
fn every_case_passes() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/conformance/windows");
    let mut passed = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        for report in run_file(&std::fs::read_to_string(&path).unwrap()) {
            match report.outcome {
                CaseOutcome::Passed => passed += 1,
                CaseOutcome::Failed(text) => panic!("{}:\n{text}", report.name),
            }
        }
    }
    assert_eq!(passed, 15, "cases that ran");
}

#[test]
fn an_unknown_field_of_a_spec_is_an_error() {
    let text = r#"{"format": 1, "group": "g", "cases": [
        {"name": "c", "spec": {"window": {"type": "tumbling", "size": 5, "sise": 5}}, "events": [], "expect": {}}]}"#;
    let reports = run_file(text);
    assert!(matches!(&reports[0].outcome, CaseOutcome::Failed(why) if why.contains("sise")));
}

#[test]
fn a_wrong_expectation_fails() {
    let text = r#"{"format": 1, "group": "g", "cases": [
        {"name": "c", "spec": {"window": {"type": "tumbling", "size": 5}},
         "events": [{"id": "a", "ts": 1}, {"end": true}],
         "expect": {"results": [{"at": 1, "key": "*", "start": 0, "end": 5, "value": 2, "pane": "on_time"}]}}]}"#;
    let reports = run_file(text);
    assert!(
        matches!(&reports[0].outcome, CaseOutcome::Failed(why) if why.contains("missing") && why.contains("unexpected"))
    );
}

/// The state of a key is stored and read again before every step, and nothing comes out otherwise.
#[test]
fn every_case_passes_wherever_its_state_was() {
    use granary_window::cases::{Case, Disturbance, cases_of, run};
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/conformance/windows");
    for name in ["pattern", "join"] {
        let text = std::fs::read_to_string(format!("{dir}/{name}.json")).unwrap();
        for case in cases_of(&serde_json::from_str(&text).unwrap()).unwrap() {
            let case = Case::read(&case).unwrap();
            let plain = run(&case, &mut |_| Disturbance::None).unwrap();
            assert!(!plain.results.is_empty());
            assert_eq!(run(&case, &mut |_| Disturbance::Restart).unwrap(), plain);
        }
    }
}
