//! Known mistakes, planted one at a time: the simulation must find each of them, and the same runs hold without it.

use granary_sim::run::run;
use granary_sim::scenario::{Mistake, Scenario};

/// Each shows itself within so many seeds.
const SEEDS_MAX: u64 = 1_000;

/// The first seed that shows the mistake, and what it says.
fn found(mistake: Mistake) -> Option<(u64, String)> {
    let planted = |random: &mut _| Scenario { mistake: Some(mistake), ..Scenario::cluster(random) };
    (0..SEEDS_MAX).find_map(|seed| {
        let what = run(seed, planted).err()?.what;
        mistake.shows_as().iter().any(|words| what.contains(words)).then_some((seed, what))
    })
}

#[test]
fn every_mistake_is_found() {
    let mut missed = Vec::new();
    for mistake in Mistake::ALL {
        let Some((seed, what)) = found(mistake) else {
            missed.push(mistake);
            continue;
        };
        println!("{mistake:?}: seed {seed}: {what}");
        if let Err(failed) = run(seed, Scenario::cluster) {
            panic!("without {mistake:?}, too: {failed}");
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}
