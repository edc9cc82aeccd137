//! Quantiles against the truth, and a state that follows from the numbers alone.

use super::*;
use crate::encode::VERSION;

const ACCURACIES_PPM: [u32; 4] = [1_000, 10_000, 50_000, 500_000];

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed ^ (*seed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
}

/// A number from 0 to 1.
fn share(seed: &mut u64) -> f64 {
    random(seed) as f64 / (1u64 << 53) as f64
}

fn counted(accuracy_ppm: u32, numbers: &[f64]) -> DdSketch {
    let mut sketch = DdSketch::new(accuracy_ppm);
    numbers.iter().for_each(|x| {
        sketch.add(*x);
    });
    sketch
}

fn stored(sketch: &DdSketch) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    sketch.encode(&mut bytes);
    bytes
}

fn read(accuracy_ppm: u32, bytes: &[u8]) -> Result<DdSketch, Corrupt> {
    let mut reader = Reader::cell(bytes).unwrap();
    let sketch = DdSketch::decode(accuracy_ppm, &mut reader)?;
    reader.finish()?;
    Ok(sketch)
}

/// Numbers of several shapes, none of which needs more bins than there are at 1 %.
fn numbers(shape: u64, n: usize, seed: u64) -> Vec<f64> {
    let mut seed = seed * 1_000 + shape;
    let one = |seed: &mut u64| match shape {
        0 => (random(seed) % 1_000) as f64,
        1 => 1.0 / (share(seed) + 1e-9),
        2 => share(seed) * 200.0 - 100.0,
        3 => (10.0 * share(seed)).exp(),
        _ => (random(seed) % 5) as f64 * -0.25,
    };
    (0..n).map(|_| one(&mut seed)).collect()
}

fn check(sketch: &DdSketch, accuracy_ppm: u32, numbers: &[f64], what: &str) {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    for q_ppm in [0, 1, 10_000, 250_000, 500_000, 900_000, 990_000, 999_900, 1_000_000] {
        let place = (sorted.len() as u64 - 1) * q_ppm / 1_000_000;
        let (exact, found) = (sorted[place as usize], sketch.quantile(q_ppm as u32).unwrap());
        let error = (found - exact).abs();
        let allowed = f64::from(accuracy_ppm) / 1e6 * exact.abs() * (1.0 + 1e-9);
        assert!(error <= allowed, "{what}, q {q_ppm} ppm: {found} for {exact}");
    }
}

#[test]
fn quantiles_are_as_accurate_as_stated() {
    for shape in 0..5 {
        for n in [1, 2, 100, 10_000, 1_000_000] {
            let numbers = numbers(shape, n, 1);
            for accuracy_ppm in &ACCURACIES_PPM[1..] {
                let sketch = counted(*accuracy_ppm, &numbers);
                check(&sketch, *accuracy_ppm, &numbers, &format!("shape {shape}, {n} at {accuracy_ppm}"));
            }
        }
    }
    assert_eq!(DdSketch::new(10_000).quantile(500_000), None);
    let narrow: Vec<f64> = (0..5_000).map(|n| 100.0 + f64::from(n) / 10.0).collect();
    check(&counted(1_000, &narrow), 1_000, &narrow, "a factor of 6 at 0.1 %");
}

#[test]
fn every_double_is_near_the_middle_of_its_bin() {
    let mut seed = 9;
    for accuracy_ppm in ACCURACIES_PPM {
        let scale = Scale::new(accuracy_ppm);
        let accuracy = f64::from(accuracy_ppm) / 1e6;
        let edges = [f64::MIN_POSITIVE, f64::MAX, f64::MAX.next_down(), 1.0, 1.0f64.next_down(), 2.0, 1.5];
        let others = (0..200_000).map(|_| f64::from_bits(random(&mut seed) << 10 & (i64::MAX as u64)));
        for x in edges.into_iter().chain(others).filter(|x| x.is_normal()) {
            let (key, opposite) = (scale.key(x), scale.key(-x));
            assert!(key > 0 && opposite == -key);
            let middle = scale.middle(key);
            assert!((middle - x).abs() <= accuracy * x * (1.0 + 1e-9), "{x} in a bin of {middle}");
            assert_eq!(scale.middle(opposite), -middle);
            assert!(scale.key(x.next_up()) >= key);
        }
    }
}

#[test]
fn zero_and_infinities_are_numbers_and_one_value_is_itself() {
    let sketch = counted(10_000, &[0.0, -0.0, 1e-310, f64::INFINITY, f64::NEG_INFINITY]);
    let all: Vec<f64> =
        [0, 250_000, 500_000, 750_000, 1_000_000].map(|q| sketch.quantile(q).unwrap()).to_vec();
    assert_eq!(all, [f64::NEG_INFINITY, 0.0, 0.0, 0.0, f64::INFINITY]);
    let same = counted(500_000, &[7.25; 9]);
    assert_eq!(same.quantile(300_000), Some(7.25));
    assert_eq!(stored(&counted(10_000, &[-0.0])), stored(&counted(10_000, &[0.0])));
    let top = counted(500_000, &[f64::MAX, f64::MAX, f64::INFINITY]);
    assert_eq!(top.quantile(500_000).map(f64::is_finite), Some(true));
}

/// Numbers of both signs over a factor of e^60: at 1 % more bins than are kept.
fn wide(n: usize, mut seed: u64) -> Vec<f64> {
    let magnitude = |seed: &mut u64| (60.0 * share(seed) - 20.0).exp();
    (0..n)
        .map(|_| if random(&mut seed) & 4 == 0 { -magnitude(&mut seed) } else { magnitude(&mut seed) })
        .collect()
}

#[test]
fn parts_in_any_order_make_the_state_of_the_whole() {
    for accuracy_ppm in ACCURACIES_PPM {
        for n in [0, 1, 50, 20_000] {
            let numbers = wide(n, 5);
            let whole = counted(accuracy_ppm, &numbers);
            let mut other_way = numbers.clone();
            other_way.reverse();
            assert_eq!(counted(accuracy_ppm, &other_way), whole);
            other_way.sort_by(f64::total_cmp);
            assert_eq!(counted(accuracy_ppm, &other_way), whole, "ascending");
            other_way.reverse();
            assert_eq!(counted(accuracy_ppm, &other_way), whole, "descending");
            for cut in [0, n / 7, n / 2, n] {
                let parts =
                    || (counted(accuracy_ppm, &numbers[..cut]), counted(accuracy_ppm, &numbers[cut..]));
                let (mut a, b) = parts();
                a.merge(b);
                assert_eq!(a, whole, "{n} at {accuracy_ppm} cut at {cut}");
                let (a, mut b) = parts();
                b.merge(a);
                assert_eq!(stored(&b), stored(&whole), "{n} at {accuracy_ppm} cut at {cut}");
            }
        }
    }
}

#[test]
fn the_lowest_bins_give_way_and_the_others_stay_accurate() {
    let mut numbers = wide(40_000, 11);
    let sketch = counted(1_000, &numbers);
    assert_eq!(sketch.bins.len(), BINS_MAX);
    assert!(sketch.bins.capacity() <= BINS_MAX && sketch.heap_bytes() <= 64 << 10);
    let mut grown = counted(1_000, &numbers[..1_500]);
    grown.merge(counted(1_000, &numbers[1_500..2_300]));
    numbers[2_300..].iter().for_each(|x| {
        grown.add(*x);
    });
    assert_eq!(grown, sketch);
    assert!(grown.bins.capacity() <= BINS_MAX, "room for {}", grown.bins.capacity());
    numbers.sort_by(f64::total_cmp);
    assert_eq!(sketch.quantile(0), Some(numbers[0]), "the least is exact");
    let lowest = sketch.scale.middle(sketch.bins[0].key);
    assert_eq!(sketch.bins.iter().map(|bin| bin.count).sum::<u64>(), 40_000, "nothing is lost");
    let (mut accurate, mut too_high) = (0, 0);
    for q_ppm in (0..1_000_000).step_by(999).skip(1) {
        let exact = numbers[(39_999u64 * q_ppm / 1_000_000) as usize];
        let found = sketch.quantile(q_ppm as u32).unwrap();
        if found > lowest {
            assert!((found - exact).abs() <= 0.001 * exact.abs() * (1.0 + 1e-9), "{found} for {exact}");
            accurate += 1;
        } else {
            assert!(found >= exact * 0.999, "{found} for {exact}");
            too_high += 1;
        }
    }
    assert!(accurate > 50 && too_high > 50, "{accurate} accurate, {too_high} too high");
}

#[test]
fn it_is_stored_and_read() {
    for accuracy_ppm in ACCURACIES_PPM {
        for numbers in [vec![], vec![3.5], vec![f64::INFINITY, -1.0, 0.0, f64::NEG_INFINITY], wide(10_000, 2)]
        {
            let sketch = counted(accuracy_ppm, &numbers);
            let bytes = stored(&sketch);
            assert!(bytes.len() <= 32 + 13 * BINS_MAX);
            assert_eq!(read(accuracy_ppm, &bytes).unwrap(), sketch);
            for end in (1..bytes.len()).take(300) {
                assert!(read(accuracy_ppm, &bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }
}

#[test]
fn damage_is_an_error() {
    let cell = |least: f64, greatest: f64, first: i64, bins: &[(u64, u64)]| {
        let mut bytes = vec![VERSION];
        put_u64(&mut bytes, bins.len() as u64);
        put_f64(&mut bytes, least);
        put_f64(&mut bytes, greatest);
        put_i64(&mut bytes, first);
        for (distance, count) in bins {
            put_u64(&mut bytes, *distance);
            put_u64(&mut bytes, *count);
        }
        read(10_000, &bytes)
    };
    let infinite = i64::from(INFINITE);
    assert!(cell(1.0, 2.0, 5, &[(0, 1), (3, 2)]).is_ok());
    assert!(cell(1.0, 2.0, -infinite, &[(0, 1), (2 * infinite as u64, 1)]).is_ok());
    assert!(cell(1.0, 2.0, 5, &[(0, 1), (0, 1)]).is_err(), "the same bin twice");
    assert!(cell(1.0, 2.0, 5, &[(0, 0)]).is_err(), "an empty bin");
    assert!(cell(1.0, 2.0, 5, &[(1, 1)]).is_err(), "a first bin that is another");
    assert!(cell(2.0, 1.0, 5, &[(0, 1)]).is_err(), "a least number above the greatest");
    assert!(cell(f64::NAN, 1.0, 5, &[(0, 1)]).is_err());
    for first in [i64::MIN, i64::MAX, i64::from(i32::MIN), 200_000, infinite - 1] {
        assert!(cell(1.0, 2.0, first, &[(0, 1)]).is_err(), "no double is in bin {first}");
    }
    let sketch = cell(1.0, 2.0, 5, &[(0, u64::MAX), (1, u64::MAX), (1, 7)]).unwrap();
    assert!(sketch.quantile(999_999).is_some(), "counts that saturate");
}

/// The bounds of bins are stored for ever: these numbers are in these bins.
#[test]
fn bins_never_change() {
    let scale = Scale::new(10_000);
    let keys = [1e-300, 0.001, 1.0, 1.1, 1.5, 3.0, 1e6, 1e300].map(|x| scale.key(x));
    assert_eq!(keys, [953, 37950, 38324, 38329, 38346, 38384, 39072, 75695]);
    assert_eq!(scale.middle(38_325).to_bits(), 0x3ff03fa477671811);
}
