//! Known mistakes, planted one at a time: the simulation must find each of them, and the same runs hold without it.

use granary_sim::run::run;
use granary_sim::scenario::{Mistake, Scenario};

/// Each shows itself within so many seeds.
const SEEDS_MAX: u64 = 1_000;
/// But for the one that takes a lost write, a pause and a crash in the midst of fencing, in this order.
const SEEDS_RARE_MAX: u64 = 30_000;

/// The first seed that shows the mistake, and what it says.
fn found(mistake: Mistake) -> Option<(u64, String)> {
    let planted = |random: &mut _| Scenario { mistake: Some(mistake), ..Scenario::cluster(random) };
    let seeds_max = if mistake == Mistake::ForgetUnfenced { SEEDS_RARE_MAX } else { SEEDS_MAX };
    (0..seeds_max).find_map(|seed| {
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
    assert!(missed.is_empty(), "not found: {missed:?}");
}
