//! Counts against the truth, and a state that follows from the set of values alone.

use super::*;
use crate::encode::VERSION;
use crate::value::{Value, stored_hash};

/// The value's hash, of a family of values of its own for each seed.
fn hash(seed: u64, n: u64) -> u64 {
    stored_hash(Value::Int((seed << 40 | n) as i64))
}

fn counted(hashes: impl IntoIterator<Item = u64>) -> HyperLogLog {
    let mut sketch = HyperLogLog::default();
    hashes.into_iter().for_each(|hash| {
        sketch.add(hash);
    });
    sketch
}

fn stored(sketch: &HyperLogLog) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    sketch.encode(&mut bytes);
    bytes
}

#[test]
fn up_to_so_many_it_is_exact() {
    for n in [0, 1, 100, HASHES_MAX as u64] {
        let sketch = counted((0..n).chain(0..n).map(|i| hash(1, i)));
        assert_eq!(sketch.count(), n);
    }
}

/// The mean of many errors is near zero, their spread near the standard error, and none is far beyond it.
#[test]
fn beyond_that_the_error_is_as_stated() {
    const STANDARD: f64 = 1.04 / 64.0;
    for (n, seeds) in [(513, 200), (1_000, 200), (10_000, 100), (40_000, 50), (1_000_000, 12)] {
        let errors: Vec<f64> = (0..seeds)
            .map(|seed| counted((0..n).map(|i| hash(seed, i))).count() as f64 / n as f64 - 1.0)
            .collect();
        let mean = errors.iter().sum::<f64>() / seeds as f64;
        let spread = (errors.iter().map(|e| e * e).sum::<f64>() / seeds as f64).sqrt();
        assert!(mean.abs() < 4.0 * STANDARD / (seeds as f64).sqrt(), "{n}: mean {mean}");
        assert!(spread < 1.5 * STANDARD, "{n}: spread {spread}");
        assert!(errors.iter().all(|e| e.abs() < 4.0 * STANDARD), "{n}: {errors:?}");
    }
}

#[test]
fn parts_in_any_order_make_the_state_of_the_whole() {
    for n in [1, 3, 300, 600, 1_000, 20_000] {
        let whole = counted((0..n).map(|i| hash(7, i)));
        assert_eq!(counted((0..n).rev().map(|i| hash(7, i))), whole, "{n} the other way round");
        for cut in [0, 1, n / 3, n / 2, n] {
            // They overlap.
            let parts = || (counted((0..cut).map(|i| hash(7, i))), counted((cut / 2..n).map(|i| hash(7, i))));
            let (mut a, b) = parts();
            a.merge(b);
            assert_eq!(a, whole, "{n} cut at {cut}");
            let (a, mut b) = parts();
            b.merge(a);
            assert_eq!(stored(&b), stored(&whole), "{n} cut at {cut}");
        }
    }
}

#[test]
fn it_is_stored_and_read() {
    for n in [0, 5, HASHES_MAX as u64, HASHES_MAX as u64 + 1, 100_000] {
        let sketch = counted((0..n).map(|i| hash(3, i)));
        let bytes = stored(&sketch);
        assert!(bytes.len() <= 1 + 3 + 8 * HASHES_MAX, "{n}: {} bytes", bytes.len());
        let mut reader = Reader::cell(&bytes).unwrap();
        assert_eq!(HyperLogLog::decode(&mut reader).unwrap(), sketch);
        reader.finish().unwrap();
        for end in 1..bytes.len() {
            assert!(
                HyperLogLog::decode(&mut Reader::cell(&bytes[..end]).unwrap()).is_err(),
                "{n} cut at {end}"
            );
        }
    }
    // An end of all bits is a rank, too.
    let sketch = counted([0, u64::MAX].into_iter().chain((0..600).map(|i| hash(3, i))));
    let HyperLogLog::Many(registers) = &sketch else { panic!("registers") };
    assert_eq!((registers[0], registers[REGISTERS - 1] > 0), (RANK_MAX, true));
    assert_eq!(HyperLogLog::decode(&mut Reader::cell(&stored(&sketch)).unwrap()).unwrap(), sketch);
}

#[test]
fn damage_is_an_error() {
    let read = |bytes: &[u8]| HyperLogLog::decode(&mut Reader::cell(bytes).unwrap()).is_ok();
    let two = |a: u64, b: u64| [&[VERSION, 0, 2][..], &a.to_le_bytes(), &b.to_le_bytes()].concat();
    assert!(read(&two(1, 2)) && !read(&two(2, 1)) && !read(&two(1, 1)));
    let full = |byte| [&[VERSION, 1][..], &[byte; PACKED_BYTES]].concat();
    assert!(read(&full(0)) && !read(&full(0xff)) && !read(&[VERSION, 2]));
}

/// Every register empty or full: the sums end.
#[test]
fn the_ends_of_the_range_have_an_answer() {
    assert_eq!(estimate(&[0; REGISTERS]), 0.0);
    assert!(estimate(&[RANK_MAX; REGISTERS]) > 1e18);
    let mut one_empty = [RANK_MAX; REGISTERS];
    one_empty[0] = 0;
    assert!(estimate(&one_empty).is_finite());
}
