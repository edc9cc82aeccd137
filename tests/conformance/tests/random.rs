//! Random cases: the operator agrees with the oracle, and with itself wherever its state was stored and loaded.

use granary_conformance_tests::{generate, oracle};
use granary_window::cases::{Case, Disturbance, Observed, difference, run};
use serde_json::{Value as Json, json};

/// How many seeds are tried.
const SEEDS: u64 = 10_000;

fn as_expectation(observed: &Observed) -> Json {
    json!({
        "results": observed.results, "late": observed.late, "partially_late": observed.partially_late,
        "duplicates": observed.duplicates, "unassigned": observed.unassigned,
    })
}

/// All seeds, or the one of the environment variable `SEED`.
fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

#[test]
fn the_operator_agrees_with_the_oracle() {
    let mut rows = 0;
    for seed in seeds() {
        let json = generate::case(&mut generate::Random::new(seed));
        let case = Case::read(&json).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{json}"));
        let mut observed = run(&case, &mut |_| Disturbance::None).unwrap();
        if json["spec"]["aggregate"]["fn"] == "quantile" {
            observed.results.iter_mut().for_each(|row| exact(&mut row["value"]));
        }
        let wanted = oracle::run(&json);
        if let Some(text) = difference(&observed, &as_expectation(&wanted)) {
            panic!("SEED={seed}\nspec {}\n{}\n{text}", json["spec"], numbered(&json));
        }
        rows += wanted.results.len() as u64;
    }
    assert!(rows > 0, "some case gives rows");
}

/// Values are halves up to 9, and a quantile is within 1 % of one: the nearest half is the value itself.
fn exact(value: &mut Json) {
    if let Some(quantile) = value.as_f64() {
        let half = (quantile * 2.0).round() / 2.0;
        assert!((quantile - half).abs() <= 0.0101 * half.abs(), "{quantile} is within 1 % of {half}");
        *value = json!(half);
    }
}

#[test]
fn nothing_depends_on_where_state_was() {
    for seed in seeds() {
        let mut random = generate::Random::new(seed);
        let json = generate::case(&mut random);
        let case = Case::read(&json).unwrap();
        let plain = run(&case, &mut |_| Disturbance::None).unwrap();
        let all = [Disturbance::Seal, Disturbance::Evict, Disturbance::Restart];
        for every in [1, 7, 1000] {
            for disturbance in all {
                let mut before =
                    |at: usize| if at.is_multiple_of(every) { disturbance } else { Disturbance::None };
                let again = run(&case, &mut before);
                check(seed, &json, &plain, again, &format!("{disturbance:?} every {every}"));
            }
        }
        let mut before = |_: usize| match random.range(0, 8) {
            n @ 0..=2 => all[n as usize],
            _ => Disturbance::None,
        };
        let again = run(&case, &mut before);
        check(seed, &json, &plain, again, "random disturbances");
    }
}

/// Rows are the same and in the same order.
fn check(seed: u64, json: &Json, plain: &Observed, again: Result<Observed, String>, how: &str) {
    let again = again.unwrap_or_else(|why| panic!("SEED={seed} {how}: {why}\n{}", numbered(json)));
    if again != *plain {
        let text = difference(&again, &as_expectation(plain)).unwrap_or("another order".to_owned());
        panic!("SEED={seed} {how}\nspec {}\n{}\n{text}", json["spec"], numbered(json));
    }
}

fn numbered(json: &Json) -> String {
    let steps = json["events"].as_array().expect("events are a list");
    steps.iter().enumerate().map(|(at, step)| format!("{at}: {step}\n")).collect()
}
