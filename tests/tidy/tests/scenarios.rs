//! Every test that `tests/SCENARIOS.md` names exists, and no scenario is missing there.

use granary_tidy::root;

/// The scenarios and faults of many silos.
const SCENARIOS: [u32; 41] = [
    1, 2, 3, 4, 5, 8, 9, 16, 17, 18, 19, 21, 22, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 36, 37, 38, 39,
    41, 42, 43, 44, 45, 46, 47, 48, 50, 51, 52, 53, 54,
];
const FAULTS: [u32; 9] = [7, 8, 15, 18, 19, 20, 31, 32, 34];

/// The rows of a table of the page: number and the tests it names.
fn rows(part: &str) -> Vec<(u32, Vec<(String, String)>)> {
    let row = |line: &str| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let no = cells.next()?.parse().ok()?;
        let tests = cells.nth(1)?.split('`').filter_map(|text| text.split_once("::"));
        Some((no, tests.map(|(file, test)| (file.to_owned(), test.to_owned())).collect()))
    };
    part.lines().filter_map(row).collect()
}

/// Whether this source has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        rest.and_then(|rest| rest.split_once('(')).is_some_and(|(found, _)| found == name)
    };
    let Some(at) = lines.iter().position(|line| is_it(line)) else { return false };
    let marks = lines[..at].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
    marks.into_iter().any(|mark| mark.starts_with("#[test]") || mark.starts_with("#[tokio::test"))
}

#[test]
fn each_scenario_names_tests_that_exist() {
    let page = std::fs::read_to_string(root().join("tests/SCENARIOS.md")).expect("the page is there");
    let (scenarios, faults) = page.split_once("## Faults").expect("a table of faults");
    let (scenarios, faults) = (rows(scenarios), rows(faults));
    let numbers = |rows: &[(u32, Vec<_>)]| rows.iter().map(|(no, _)| *no).collect::<Vec<_>>();
    assert_eq!(numbers(&scenarios), SCENARIOS, "scenarios");
    assert_eq!(numbers(&faults), FAULTS, "faults");
    for (no, tests) in scenarios.iter().chain(&faults) {
        assert!(!tests.is_empty(), "{no} names no test");
        for (file, test) in tests {
            let source =
                std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{no}: {file}: {e}"));
            assert!(has_test(&source, test), "{no}: {file} has no test `{test}`");
        }
    }
}

#[test]
fn a_test_that_is_missing_is_seen() {
    let source =
        "/// Says so.\n#[tokio::test]\n#[ignore = \"long\"]\nasync fn held() {\n}\n\nfn helper() {}\n";
    assert!(has_test(source, "held"));
    assert!(!has_test(source, "hel") && !has_test(source, "helper") && !has_test(source, "gone"));
}
