//! Arrows between crates only point down, and every crate forbids `unsafe`.

use std::process::Command;

use serde_json::Value;

/// The rows, lowest first. A crate may use those of lower rows only.
const ROWS: [&[&str]; 6] = [
    &["granary-core", "granary-macros"],
    &["granary-cluster", "granary-window", "granary-wire"],
    &["granary-engine", "granary-streams", "granary-client", "granary-grains"],
    &["granary-store", "granary-kafka", "granary-alerts"],
    &["granary", "granary-testkit"],
    &[], // whatever lives in tests/
];

const PROOF: usize = ROWS.len() - 1;

/// Arrows inside a row, each with its reason.
const INSIDE_A_ROW: [(&str, &str, &str); 2] = [
    ("granary-macros", "granary-core", "its tests compile what the attribute writes, which names the traits"),
    ("granary-testkit", "granary", "its example reads as a user's test does"),
];

/// Crates that a row of pure crates must not use: they would bring sockets, clocks, threads or chance.
const IMPURE: [&str; 9] =
    ["actix", "actix-rt", "axum", "fastrand", "fjall", "mio", "rand", "rdkafka", "redis"];

/// The rows without sockets, clocks, threads and chance.
const PURE_ROWS: usize = 2;

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(granary_tidy::root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("cargo metadata names `{name}`"))
}

fn row(package: &Value) -> Option<usize> {
    let name = text(package, "name");
    let tests = granary_tidy::root().join("tests");
    if text(package, "manifest_path").starts_with(&*tests.to_string_lossy()) {
        return Some(PROOF);
    }
    ROWS.iter().position(|row| row.contains(&name))
}

/// What is wrong with the arrow from a crate to another.
fn wrong_arrow(from: (&str, usize), to: (&str, usize), is_dev: bool) -> Option<String> {
    let inside = INSIDE_A_ROW.iter().any(|(a, b, _)| (*a, *b) == (from.0, to.0) && is_dev);
    match to.1.cmp(&from.1) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal if inside || from.1 == PROOF => None,
        std::cmp::Ordering::Equal => Some(format!("{} uses {} of its own row", from.0, to.0)),
        std::cmp::Ordering::Greater => Some(format!("{} uses {} of a row above", from.0, to.0)),
    }
}

#[test]
fn arrows_only_point_down() {
    let packages = packages();
    let rows: Vec<(&str, Option<usize>)> = packages.iter().map(|p| (text(p, "name"), row(p))).collect();
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for package in &packages {
        let name = text(package, "name");
        let Some(own) = row(package) else {
            wrong.push(format!("{name} has no row: give it one in {}", file!()));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            let target = text(dependency, "name");
            if own < PURE_ROWS && IMPURE.contains(&target) {
                wrong.push(format!("{name} is pure and uses {target}"));
            }
            let Some((_, Some(other))) = rows.iter().find(|(n, _)| *n == target) else { continue };
            arrows += 1;
            wrong.extend(wrong_arrow((name, own), (target, *other), dependency["kind"] == "dev"));
        }
    }
    assert!(arrows >= packages.len() - 1, "every crate but the lowest uses another: {arrows} arrows found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_arrow_is_seen() {
    assert!(wrong_arrow(("granary-client", 2), ("granary", 4), false).is_some());
    assert!(wrong_arrow(("granary-client", 2), ("granary", 4), true).is_some(), "in tests neither");
    assert!(wrong_arrow(("granary-engine", 2), ("granary-client", 2), false).is_some());
    assert!(wrong_arrow(("granary-macros", 0), ("granary-core", 0), false).is_some(), "only in its tests");
    assert!(wrong_arrow(("granary-macros", 0), ("granary-core", 0), true).is_none());
    assert!(wrong_arrow(("granary", 4), ("granary-core", 0), false).is_none());
}

#[test]
fn every_crate_forbids_unsafe() {
    let manifest = |path: &str| std::fs::read_to_string(path).expect("a manifest can be read");
    let workspace = manifest(&granary_tidy::root().join("Cargo.toml").to_string_lossy());
    assert!(workspace.contains("unsafe_code = \"forbid\""), "the workspace forbids unsafe code");
    for package in packages() {
        let own = manifest(text(&package, "manifest_path"));
        let takes = own.contains("[lints]\nworkspace = true");
        assert!(takes, "{} does not take the lints of the workspace", text(&package, "name"));
    }
}
