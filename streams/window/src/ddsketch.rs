//! Quantiles with a bounded relative error, in bounded memory: DDSketch.
//!
//! C. Masson, J. E. Rim, H. K. Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
//! guarantees", PVLDB 12 (2019), arXiv:1908.10693. Numbers are counted in bins; a bin is so narrow that the number in
//! its middle is no further than the accuracy, as a share, from all that belong into it. Bins of positive and negative
//! numbers, of zero and of the two infinities stand in one list, in the order of the numbers.
//!
//! The bounds of bins are those of the paper's logarithm, interpolated by a parabola between powers of two, at the cost
//! of 8 % more bins: unlike the logarithm of the machine it is the same on every machine. (Additions, multiplications,
//! divisions and square roots of doubles are rounded alike everywhere.)
//!
//! Above [`BINS_MAX`] bins the lowest are counted in the lowest that is kept: quantiles that fall there are too high,
//! those above it stay accurate, and the least number stays exact.
//!
//! Invariant: the state follows from the numbers alone, not from their order or the parts they were counted in. (The
//! bins that are kept are the highest of all that ever were: a bin that took in lower ones was the lowest, and can only
//! be taken in itself.)

use std::cmp::Ordering;

use crate::Corrupt;
use crate::encode::{Reader, put_f64, put_i64, put_u64};

/// Bins of one sketch. With an accuracy of 1 % so many span a factor of 10^32, with 0.1 % one of 1,900.
pub(crate) const BINS_MAX: usize = 4_096;

/// The key of the bin of what is greater than every number; that of its negative is the negative.
const INFINITE: i32 = i32::MAX;

/// From the smallest normal double, beneath which numbers count as zero, to the end of doubles.
const DOUBLINGS: f64 = 2_046.0;
const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const BEYOND: Corrupt = Corrupt { what: "bins of numbers expected" };

/// The numbers counted so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DdSketch {
    scale: Scale,
    /// Ascending.
    bins: Vec<Bin>,
    /// How many numbers there are.
    count: u64,
    /// The least and the greatest number, of no meaning while there is none.
    least: f64,
    greatest: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bin {
    /// Its place in the order of all bins: 0 is that of zero.
    key: i32,
    count: u64,
}

impl DdSketch {
    /// An empty one, whose quantiles are this accurate.
    pub(crate) fn new(accuracy_ppm: u32) -> DdSketch {
        DdSketch { scale: Scale::new(accuracy_ppm), bins: Vec::new(), count: 0, least: 0.0, greatest: 0.0 }
    }

    /// Counts a number; returns how many bytes of memory were newly taken.
    pub(crate) fn add(&mut self, x: f64) -> usize {
        self.take_bounds(x + 0.0, x + 0.0); // a negative zero becomes the other one
        self.count = self.count.saturating_add(1);
        let key = self.scale.key(x);
        match self.bins.binary_search_by_key(&key, |bin| bin.key) {
            Ok(at) => self.bins[at].count = self.bins[at].count.saturating_add(1),
            Err(at) if self.bins.len() < BINS_MAX => {
                let room = self.bins.len().max(4).min(BINS_MAX - self.bins.len());
                if self.bins.len() == self.bins.capacity() {
                    self.bins.reserve_exact(room); // twice as many, but never more than there may be
                }
                self.bins.insert(at, Bin { key, count: 1 });
                return size_of::<Bin>();
            }
            Err(0) => self.bins[0].count = self.bins[0].count.saturating_add(1),
            Err(at) => {
                let lowest = self.bins[0].count;
                self.bins.copy_within(1..at, 0);
                self.bins[at - 1] = Bin { key, count: 1 };
                self.bins[0].count = self.bins[0].count.saturating_add(lowest);
            }
        }
        0
    }

    /// Counts what another one of the same accuracy has counted.
    pub(crate) fn merge(&mut self, other: DdSketch) {
        if other.count == 0 {
            return;
        }
        self.take_bounds(other.least, other.greatest);
        self.count = self.count.saturating_add(other.count);
        self.bins.extend(other.bins);
        self.bins.sort_by_key(|bin| bin.key);
        self.bins.dedup_by(|next, bin| {
            let is_same = next.key == bin.key;
            if is_same {
                bin.count = bin.count.saturating_add(next.count);
            }
            is_same
        });
        if let Some(excess) = self.bins.len().checked_sub(BINS_MAX) {
            let lower = self.bins.drain(..excess).fold(0u64, |sum, bin| sum.saturating_add(bin.count));
            self.bins[0].count = self.bins[0].count.saturating_add(lower);
        }
        self.bins.shrink_to(BINS_MAX);
    }

    fn take_bounds(&mut self, least: f64, greatest: f64) {
        let is_first = self.count == 0;
        self.least = if is_first { least } else { self.least.min(least) };
        self.greatest = if is_first { greatest } else { self.greatest.max(greatest) };
    }

    /// The number that stands, in the order of all numbers, at the share `q` of the way from the first to the last
    /// (rounded down), within the accuracy; `None` when there is no number. First and last are exact.
    pub(crate) fn quantile(&self, q_ppm: u32) -> Option<f64> {
        let last = self.count.checked_sub(1)?;
        let place = u128::from(last) * u128::from(q_ppm) / 1_000_000;
        if place == 0 {
            return Some(self.least);
        }
        if place >= u128::from(last) {
            return Some(self.greatest);
        }
        let mut passed = 0;
        let bin = self.bins.iter().find(|bin| {
            passed += u128::from(bin.count);
            passed > place
        });
        let x = bin.map_or(self.greatest, |bin| self.scale.middle(bin.key));
        Some(x.max(self.least).min(self.greatest))
    }

    /// Memory beside the value itself, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.bins.len() * size_of::<Bin>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.bins.len() as u64);
        let Some(first) = self.bins.first() else { return };
        put_f64(out, self.least);
        put_f64(out, self.greatest);
        put_i64(out, i64::from(first.key));
        let mut before = first.key;
        for bin in &self.bins {
            put_u64(out, u64::from(bin.key.abs_diff(before)));
            put_u64(out, bin.count);
            before = bin.key;
        }
    }

    pub(crate) fn decode(accuracy_ppm: u32, reader: &mut Reader<'_>) -> Result<DdSketch, Corrupt> {
        let mut sketch = DdSketch::new(accuracy_ppm);
        let n = reader.count()?;
        if n == 0 {
            return Ok(sketch);
        }
        if n > BINS_MAX {
            return Err(BEYOND);
        }
        (sketch.least, sketch.greatest) = (reader.f64()?, reader.f64()?);
        let mut at = reader.i64()?;
        let key_max = sketch.scale.key(f64::MAX);
        for i in 0..n {
            let distance = i64::from(reader.u32()?);
            at = at.checked_add(distance).ok_or(BEYOND)?;
            let key = i32::try_from(at).map_err(|_| BEYOND)?;
            let count = reader.u64()?;
            let is_known =
                key.unsigned_abs() <= key_max.unsigned_abs() || key.checked_abs() == Some(INFINITE);
            if (distance == 0) != (i == 0) || count == 0 || !is_known {
                return Err(BEYOND);
            }
            sketch.bins.push(Bin { key, count });
            sketch.count = sketch.count.saturating_add(count);
        }
        match sketch.least.partial_cmp(&sketch.greatest) {
            Some(Ordering::Less | Ordering::Equal) => Ok(sketch),
            _ => Err(BEYOND),
        }
    }
}

/// Where bins begin and end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    /// How many bins there are from one power of two to the next.
    bins_per_doubling: f64,
}

impl Scale {
    /// Bins in which no number is further than the accuracy `a` from the middle: their bounds are at most a factor of
    /// (1 + a) / (1 - a) apart, the logarithm of which is 2 artanh a. The interpolated logarithm rises by 4/3 at least
    /// where the natural one rises by 1.
    fn new(accuracy_ppm: u32) -> Scale {
        Scale { bins_per_doubling: 3.0 / (8.0 * artanh(f64::from(accuracy_ppm) / 1e6)) }
    }

    fn key(self, x: f64) -> i32 {
        let magnitude = x.abs();
        let key = if magnitude < f64::MIN_POSITIVE {
            0
        } else if magnitude.is_infinite() {
            INFINITE
        } else {
            (logarithm(magnitude) * self.bins_per_doubling) as i32 + 1
        };
        if x < 0.0 { -key } else { key }
    }

    /// The number of the bin that is equally far from both of its bounds, as a share of them.
    fn middle(self, key: i32) -> f64 {
        let magnitude = match key.abs() {
            0 => 0.0,
            INFINITE => f64::INFINITY,
            place => {
                let low = power(f64::from(place - 1) / self.bins_per_doubling);
                let high = power(f64::from(place) / self.bins_per_doubling);
                low * (2.0 / (1.0 + low / high))
            }
        };
        if key < 0 { -magnitude } else { magnitude }
    }
}

/// x + x³/3 + x⁵/5 + ..., for 0 < x < 1, until another term changes nothing.
fn artanh(x: f64) -> f64 {
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    loop {
        term *= x * x;
        n += 2.0;
        let before = sum;
        sum += term / n;
        if sum == before {
            return sum;
        }
    }
}

/// The logarithm to the base of 2, from that of the smallest normal double on: right at powers of two, and
/// (s - 1)(5 - s) / 3 above them at s times one.
fn logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let doublings = (bits >> MANTISSA_BITS) - 1;
    let s = f64::from_bits(bits & ((1 << MANTISSA_BITS) - 1) | 1.0f64.to_bits());
    doublings as f64 + (s - 1.0) * (5.0 - s) / 3.0
}

/// What that logarithm is of; the greatest double beyond it.
fn power(logarithm: f64) -> f64 {
    let doublings = logarithm.floor();
    if doublings >= DOUBLINGS {
        return f64::MAX;
    }
    let s = 3.0 - (4.0 - 3.0 * (logarithm - doublings)).sqrt();
    (f64::from_bits((doublings as u64 + 1) << MANTISSA_BITS) * s).min(f64::MAX)
}

#[cfg(test)]
mod tests;
