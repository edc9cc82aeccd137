//! Histories of an object that does something wrong once are refused. Not all of them: what nobody looks at is no
//! violation, and a wrong answer may be right by chance. So each defect has a number of seeds within which it is found.

use granary_history::{Counter, Register, VISITED_STATES, check};

use crate::dice::Dice;
use crate::objects::{Plain, Played};
use crate::simulated::{DEFECTS, Defect, Plan, Run};

const RUNS: u64 = 500;

struct Found {
    shown: u64,
    violated: u64,
    undecided: u64,
    /// Decided without the help of the model, too.
    plain: u64,
    /// The most seeds between two findings.
    longest: u64,
}

fn look<M: Played>(defect: Defect) -> Found {
    let mut found = Found { shown: 0, violated: 0, undecided: 0, plain: 0, longest: 0 };
    let mut since = 0;
    for seed in 0..RUNS {
        let plan = Plan { defect: Some(defect), ..Plan::draw(&mut Dice::new(seed ^ 0xdefec7)) };
        let run = Run::<M>::new(plan.clone(), seed);
        let verdict = check::<M, _>(&run.history(), VISITED_STATES);
        let plain = check::<Plain<M>, _>(&run.history(), 5_000);
        assert!(
            plain.is_violated() == verdict.is_violated() || !plain.is_violated() && !plain.is_linearizable(),
            "{defect:?}, seed {seed}: {verdict}, and without the help of the model {plain}"
        );
        found.plain += u64::from(plain.is_linearizable() || plain.is_violated());
        since += 1;
        found.longest = found.longest.max(since);
        found.shown += u64::from(run.is_defect_shown);
        if verdict.is_violated() {
            assert!(run.is_defect_shown, "{defect:?}, seed {seed}: nothing was wrong, but {verdict}");
            found.violated += 1;
            since = 0;
        } else if !verdict.is_linearizable() {
            found.undecided += 1;
        }
    }
    found
}

/// Wherever one begins, each defect is found within so many seeds, in the order of the defects.
fn finds<M: Played>(name: &str, seeds: [u64; DEFECTS.len()]) {
    for (defect, seeds) in DEFECTS.into_iter().zip(seeds) {
        let started = std::time::Instant::now();
        let Found { shown, violated, undecided, plain, longest } = look::<M>(defect);
        println!(
            "{name}, {defect:?}: shown in {shown} of {} runs, found in {violated}, undecided {undecided}, \
             {plain} without the help of the model, \
             at most {longest} seeds between two findings, {:?}",
            RUNS,
            started.elapsed()
        );
        assert!(longest <= seeds, "{name}, {defect:?}: not found within {longest} seeds");
        assert_eq!(undecided, 0, "{name}, {defect:?}");
    }
}

#[test]
// Most writes are overwritten before anybody reads them.
fn each_defect_of_a_register_is_found() {
    finds::<Register>("register", [20, 30, 60, 8, 120]);
}

#[test]
fn each_defect_of_a_counter_is_found() {
    finds::<Counter>("counter", [15, 5, 8, 8, 20]);
}
