//! Sums: exact for whole numbers, compensated for doubles.

use crate::Corrupt;
use crate::encode::{Reader, put_f64, put_i128};
use crate::value::{Computed, Value};

/// A sum that remembers what kinds of numbers went into it. Whole numbers are added exactly in 128 bits (saturating);
/// doubles with Neumaier's compensation, whose error does not grow with the number of terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Total {
    /// Nothing yet.
    #[default]
    Empty,
    /// Whole numbers only: high and low half (an `i128` would widen every accumulator to its alignment).
    Whole(i64, u64),
    /// Doubles only.
    Double(Compensated),
    /// Both.
    Mixed(Box<(i128, Compensated)>),
}

/// A double and the error of the additions that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Compensated {
    sum: f64,
    error: f64,
}

impl Compensated {
    pub(crate) fn add(&mut self, x: f64) {
        let sum = self.sum + x;
        self.error += if self.sum.abs() >= x.abs() { (self.sum - sum) + x } else { (x - sum) + self.sum };
        self.sum = sum;
    }

    pub(crate) fn merge(&mut self, other: Compensated) {
        self.add(other.sum);
        self.error += other.error;
    }

    /// Once the sum left the range of doubles its error means nothing.
    pub(crate) fn value(self) -> f64 {
        if self.sum.is_finite() { self.sum + self.error } else { self.sum }
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_f64(out, self.sum);
        put_f64(out, self.error);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Compensated { sum: reader.f64()?, error: reader.f64()? })
    }
}

fn halves(n: i128) -> (i64, u64) {
    ((n >> 64) as i64, n as u64)
}

fn whole(n: i128) -> Total {
    let (high, low) = halves(n);
    Total::Whole(high, low)
}

fn joined(high: i64, low: u64) -> i128 {
    (i128::from(high) << 64) | i128::from(low)
}

impl Total {
    /// Adds a number; false when the value is none.
    pub(crate) fn add(&mut self, value: Value<'_>) -> bool {
        match value {
            Value::Int(n) => self.add_whole(i128::from(n)),
            Value::Double(x) if !x.is_nan() => {
                let mut one = Compensated::default();
                one.add(x);
                self.add_double(one);
            }
            _ => return false,
        }
        true
    }

    fn add_whole(&mut self, n: i128) {
        match self {
            Total::Empty => *self = whole(n),
            Total::Whole(high, low) => {
                (*high, *low) = halves(joined(*high, *low).saturating_add(n));
            }
            Total::Double(x) => *self = Total::Mixed(Box::new((n, *x))),
            Total::Mixed(both) => both.0 = both.0.saturating_add(n),
        }
    }

    fn add_double(&mut self, x: Compensated) {
        match self {
            Total::Empty => *self = Total::Double(x),
            Total::Whole(high, low) => *self = Total::Mixed(Box::new((joined(*high, *low), x))),
            Total::Double(sum) => sum.merge(x),
            Total::Mixed(both) => both.1.merge(x),
        }
    }

    pub(crate) fn merge(&mut self, other: Total) {
        match other {
            Total::Empty => {}
            Total::Whole(high, low) => self.add_whole(joined(high, low)),
            Total::Double(x) => self.add_double(x),
            Total::Mixed(both) => {
                self.add_whole(both.0);
                self.add_double(both.1);
            }
        }
    }

    /// The sum; a whole number when only whole numbers went in.
    pub(crate) fn sum(&self) -> Computed<'static> {
        match self {
            Total::Empty => Computed::Null,
            Total::Whole(high, low) => Computed::Int(joined(*high, *low)),
            Total::Double(x) => Computed::Double(x.value()),
            Total::Mixed(both) => Computed::Double(mixed(both)),
        }
    }

    /// The sum divided by `n`, correctly rounded for whole numbers.
    pub(crate) fn mean(&self, n: u64) -> Computed<'static> {
        match self {
            Total::Empty => Computed::Null,
            Total::Whole(high, low) => Computed::Double(quotient(joined(*high, *low), n)),
            Total::Double(x) => Computed::Double(x.value() / n as f64),
            Total::Mixed(both) => Computed::Double(mixed(both) / n as f64),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Total::Empty => out.push(0),
            Total::Whole(high, low) => {
                out.push(1);
                put_i128(out, joined(*high, *low));
            }
            Total::Double(x) => {
                out.push(2);
                x.encode(out);
            }
            Total::Mixed(both) => {
                out.push(3);
                put_i128(out, both.0);
                both.1.encode(out);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(match reader.byte()? {
            0 => Total::Empty,
            1 => whole(reader.i128()?),
            2 => Total::Double(Compensated::decode(reader)?),
            3 => Total::Mixed(Box::new((reader.i128()?, Compensated::decode(reader)?))),
            _ => return Err(Corrupt { what: "sum expected" }),
        })
    }
}

fn mixed(both: &(i128, Compensated)) -> f64 {
    let mut sum = both.1;
    sum.add(both.0 as f64);
    sum.value()
}

/// `n / d` rounded once, to the nearest double. Small numbers take the short way: both are exact doubles, and one
/// division rounds correctly. Others are scaled until the quotient has at least 63 bits; a remainder only matters as a
/// tie-breaker, which the lowest bit then holds.
fn quotient(n: i128, d: u64) -> f64 {
    const EXACT: u64 = 1 << 53;
    if let Ok(n) = i64::try_from(n)
        && n.unsigned_abs() <= EXACT
        && d <= EXACT
    {
        return n as f64 / d as f64;
    }
    let magnitude = n.unsigned_abs();
    let shift = magnitude.leading_zeros();
    let scaled = magnitude << shift;
    let (q, r) = (scaled / u128::from(d), scaled % u128::from(d));
    let value = (q | u128::from(r != 0)) as f64 * 2f64.powi(-(shift as i32));
    if n < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(values: &[Value<'_>]) -> Total {
        let mut total = Total::default();
        values.iter().for_each(|v| assert!(total.add(*v)));
        total
    }

    #[test]
    fn whole_numbers_are_exact_beyond_doubles_and_beyond_i64() {
        let big = 1 << 60;
        assert_eq!(total(&[Value::Int(big), Value::Int(1), Value::Int(-big)]).sum(), Computed::Int(1));
        let max = i64::MAX;
        assert_eq!(
            total(&[Value::Int(max), Value::Int(max), Value::Int(2)]).sum(),
            Computed::Int(i128::from(max) * 2 + 2)
        );
        assert_eq!(
            total(&[Value::Int(i64::MIN), Value::Int(-1)]).sum(),
            Computed::Int(i128::from(i64::MIN) - 1)
        );
    }

    #[test]
    fn doubles_do_not_lose_the_small_ones() {
        let sum = total(&[Value::Double(1e16), Value::Double(1.0), Value::Double(-1e16), Value::Double(0.5)]);
        assert_eq!(sum.sum(), Computed::Double(1.5));
        let mixed = total(&[Value::Double(0.5), Value::Int(1 << 53), Value::Int(-(1 << 53))]);
        assert_eq!(mixed.sum(), Computed::Double(0.5));
        assert_eq!(
            total(&[Value::Double(1e308), Value::Double(1e308)]).sum(),
            Computed::Double(f64::INFINITY)
        );
    }

    #[test]
    fn means_are_rounded_once() {
        assert_eq!(quotient(1, 3), 1.0 / 3.0);
        assert_eq!(quotient(-7, 2), -3.5);
        // (2^53 + 1) * 3 / 3 lies between two doubles and is rounded to the even one.
        assert_eq!(quotient(((1 << 53) + 1) * 3, 3), 9_007_199_254_740_992.0);
        // One more in the numerator, and it is above the middle.
        assert_eq!(quotient(((1 << 53) + 1) * 3 + 1, 3), 9_007_199_254_740_994.0);
        assert_eq!(quotient(i128::MAX, 1), i128::MAX as f64);
    }
}
