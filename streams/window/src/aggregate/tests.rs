//! Accumulators merge: any split of the events gives the same values.

use super::*;

const FUNCTIONS: [Function; 15] = [
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
    Function::ApproxDistinct,
    Function::Quantile(Quantile { q_ppm: 250_000, accuracy_ppm: 10_000 }),
    Function::Quantile(Quantile { q_ppm: 900_000, accuracy_ppm: 10_000 }),
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
    let quantile = |q: f64| Function::Quantile(q.into());
    let finer = Function::Quantile(Quantile::of(0.5).within(0.001));
    let plan = Plan::new(&[of(quantile(0.5), 0), of(quantile(0.99), 0), of(finer, 0), of(quantile(0.5), 1)]);
    assert_eq!(plan.kinds.len(), 3);
}

fn sample<'a>(values: &'a [Value<'a>]) -> Sample<'a> {
    Sample { values, time: 0, arrival: 0 }
}

/// What each of the functions makes of values.
fn computed(functions: &[Function], values: &[Value<'_>]) -> Vec<String> {
    let aggregates = functions.iter().map(|f| Aggregate { name: "".into(), function: *f, field: 0 });
    let plan = Plan::new(&aggregates.collect::<Vec<_>>());
    let mut accumulators = Vec::new();
    plan.reset(&mut accumulators);
    for value in values {
        plan.accumulate(&mut accumulators, &sample(&[*value]));
    }
    (0..functions.len()).map(|i| format!("{:?}", plan.compute(&accumulators, i))).collect()
}

#[test]
fn sketches_take_the_values_that_exact_aggregates_take() {
    let counts = [Function::Distinct, Function::ApproxDistinct];
    let mixed = [
        Value::Null,
        Value::Double(f64::NAN),
        Value::Int(7),
        Value::Double(7.0),
        Value::Text(b"7"),
        Value::Bool(true),
        Value::Int((1 << 53) + 1),
        Value::Int(1 << 53),
        Value::Double((1i64 << 53) as f64),
        Value::Double(0.0),
        Value::Double(-0.0),
        Value::Double(f64::INFINITY),
        Value::Text(b""),
    ];
    for n in 0..=mixed.len() {
        let found = computed(&counts, &mixed[..n]);
        assert_eq!(found[0], found[1], "{:?}", &mixed[..n]);
    }
    let numbers =
        [Function::Min, Function::Max, Function::Quantile(0.0.into()), Function::Quantile(1.0.into())];
    assert_eq!(computed(&numbers, &mixed[..2]), ["Null"; 4], "as long as there is no number");
    let words = [Function::Sum, Function::Quantile(0.5.into())];
    assert_eq!(computed(&words, &mixed[4..6]), ["Null"; 2], "text and truth are no numbers");
    let beyond = [Value::Double(f64::NEG_INFINITY), Value::Int(-3), Value::Int(i64::MAX)];
    assert_eq!(computed(&numbers[2..], &beyond), ["Double(-inf)", "Double(9.223372036854776e18)"]);
}

/// 4,096 registers of a byte, 4,096 bins of 16: a pane with one of each takes no more, whatever it sees.
#[test]
fn sketches_are_bounded() {
    let of = |function| Aggregate { name: "".into(), function, field: 0 };
    let finest = Function::Quantile(Quantile::of(0.5).within(0.001));
    let plan = Plan::new(&[of(Function::ApproxDistinct), of(finest)]);
    let mut accumulators = Vec::new();
    plan.reset(&mut accumulators);
    let (mut seed, mut taken) = (3, 0);
    for _ in 0..200_000 {
        let x = (random(&mut seed, 1 << 20) as f64 / 8_192.0 - 64.0).exp();
        taken += plan.accumulate(&mut accumulators, &sample(&[Value::Double(x)]));
    }
    assert_eq!(taken, (4 << 10) + (64 << 10));
    assert_eq!(accumulators.iter().map(Accumulator::sketch_bytes).sum::<usize>(), taken);
    let mut bytes = Vec::new();
    plan.encode(&accumulators, &mut bytes);
    assert!(bytes.len() < 24 << 10, "{} bytes in a cell", bytes.len());
}
