//! Runs of the protocol as it is. `GRANARY_SEED=7` replays one seed, `GRANARY_SEEDS=10000` runs so many.

use std::collections::BTreeMap;
use std::ops::Range;

use granary_sim::paths::{DEFENCES, PATHS};
use granary_sim::run::run;
use granary_sim::scenario::Scenario;

const SEEDS: u64 = 2_000;
/// Seeds of the long form.
const SEEDS_LONG: u64 = 200_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn every_seed_holds() {
    hold(match number("GRANARY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GRANARY_SEEDS").unwrap_or(SEEDS),
    });
}

#[test]
#[ignore = "many seeds: make soak"]
fn many_seeds_hold() {
    hold(0..number("GRANARY_SEEDS").unwrap_or(SEEDS_LONG));
}

fn hold(seeds: Range<u64>) {
    let mut steps = 0u64;
    for seed in seeds.clone() {
        match run(seed, Scenario::any) {
            Ok(summary) => steps += u64::from(summary.steps),
            Err(failed) => panic!("{failed}"),
        }
    }
    println!("{} seeds, {steps} steps", seeds.end - seeds.start);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 77, 1_234] {
        let twice = [(); 2].map(|()| run(seed, Scenario::any).unwrap_or_else(|failed| panic!("{failed}")));
        assert_eq!(twice[0], twice[1], "seed {seed}");
        assert!(twice[0].steps > 10, "seed {seed} does something");
    }
    assert_ne!(run(3, Scenario::any).unwrap().digest, run(4, Scenario::any).unwrap().digest);
}

/// A simulation that never gets to the rare paths proves little.
#[test]
fn the_rare_paths_are_walked() {
    let mut walked = BTreeMap::new();
    for seed in 0..SEEDS {
        let summary = run(seed, Scenario::any).unwrap_or_else(|failed| panic!("{failed}"));
        summary.walked.into_iter().for_each(|path| *walked.entry(path).or_insert(0) += 1);
    }
    println!("{walked:#?}");
    let missing: Vec<&str> = PATHS.into_iter().filter(|path| !walked.contains_key(path)).collect();
    assert!(missing.is_empty(), "never walked in {SEEDS} seeds: {missing:?}");
    let reached: Vec<&str> = DEFENCES.into_iter().filter(|path| walked.contains_key(path)).collect();
    assert!(reached.is_empty(), "a last line of defence was needed: {reached:?}");
}
