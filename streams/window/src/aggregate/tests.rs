//! Accumulators merge: any split of the events gives the same values.

use super::*;

const FUNCTIONS: [Function; 12] = [
    Function::Count,
    Function::Sum,
    Function::Min,
    Function::Max,
    Function::Avg,
    Function::Variance,
    Function::Distinct,
    Function::First,
    Function::Last,
    Function::Top(3),
    Function::Ids,
    Function::Collect(4),
];

fn random(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// Equal by value, but for the last bits of a variance, which is rounded at every step.
fn alike(a: &Computed<'_>, b: &Computed<'_>) -> bool {
    match (a, b) {
        (Computed::Double(a), Computed::Double(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
        (Computed::Int(a), Computed::Double(b)) | (Computed::Double(b), Computed::Int(a)) => *a as f64 == *b,
        (Computed::List(a), Computed::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| order(*a, *b) == Ordering::Equal)
        }
        _ => a == b,
    }
}

#[test]
fn parts_merged_in_any_order_equal_the_whole() {
    let aggregates = FUNCTIONS.map(|function| Aggregate { name: "".into(), function, field: 0 });
    let plan = Plan::new(&aggregates);
    let fresh = || {
        let mut accumulators = Vec::new();
        plan.reset(&mut accumulators);
        accumulators
    };
    for seed in 0..2_000u64 {
        let mut state = seed;
        let (mut whole, mut parts) = (fresh(), [fresh(), fresh(), fresh()]);
        for arrival in 0..random(&mut state, 30) {
            let value = match random(&mut state, 5) {
                0 => Value::Null,
                1 => Value::Double(random(&mut state, 40) as f64 / 4.0 - 5.0),
                2 => Value::Int(i64::MAX - random(&mut state, 3) as i64),
                _ => Value::Int(random(&mut state, 20) as i64 - 10),
            };
            let time = random(&mut state, 6) as i64;
            let sample = Sample { values: &[value], time, arrival };
            plan.accumulate(&mut whole, &sample);
            plan.accumulate(&mut parts[random(&mut state, 3) as usize], &sample);
        }
        let [mut a, b, c] = parts;
        let (first, second) = if random(&mut state, 2) == 0 { (b, c) } else { (c, b) };
        plan.merge(&mut a, first);
        plan.merge(&mut a, second);
        let mut bytes = Vec::new();
        bytes.push(crate::encode::VERSION);
        plan.encode(&a, &mut bytes);
        let again = plan.decode(&mut Reader::cell(&bytes).unwrap()).unwrap();
        for (i, function) in FUNCTIONS.iter().enumerate() {
            let (one, merged) = (plan.compute(&whole, i), plan.compute(&a, i));
            assert!(alike(&one, &merged), "seed {seed} {function:?}: {one:?} {merged:?}");
            assert_eq!(merged, plan.compute(&again, i), "seed {seed} {function:?} stored and loaded");
        }
    }
}

#[test]
fn sum_and_avg_of_one_field_share_an_accumulator() {
    let of = |function, field| Aggregate { name: "".into(), function, field };
    let plan = Plan::new(&[of(Function::Sum, 0), of(Function::Avg, 0), of(Function::Sum, 1)]);
    assert_eq!(plan.kinds.len(), 2);
}
