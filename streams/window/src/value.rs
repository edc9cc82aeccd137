//! The values events carry and results show.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::Corrupt;
use crate::aggregate::{Accumulator, Plan};
use crate::encode::{Reader, put_bytes, put_datum, put_f64, put_i128, put_u64};

/// A value of an event, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Missing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number. Not-a-number counts as missing.
    Double(f64),
    /// Text in UTF-8.
    Text(&'a [u8]),
}

/// A value that is kept. Ordered as: missing, then truth values, then numbers by value, then text by bytes; `7` and
/// `7.0` are the same value.
#[derive(Clone, Debug)]
pub enum Datum {
    /// Missing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// Text in UTF-8.
    Text(Box<[u8]>),
}

/// A result's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Computed<'a> {
    /// No event had a value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number; sums go beyond `i64`.
    Int(i128),
    /// A floating-point number.
    Double(f64),
    /// Text in UTF-8.
    Text(&'a [u8]),
    /// Several values, in order.
    List(Vec<Value<'a>>),
}

/// The values of a row's aggregates, computed when asked for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a>(pub(crate) ValuesOf<'a>);

#[derive(Clone, Copy, Debug)]
pub(crate) enum ValuesOf<'a> {
    None,
    Live(&'a Plan, &'a [Accumulator]),
    Kept(&'a [Former]),
}

/// A published value that may have to be taken back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Former {
    Null,
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(Box<[u8]>),
    List(Vec<Datum>),
}

impl<'a> Values<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self.0 {
            ValuesOf::None => 0,
            ValuesOf::Live(plan, _) => plan.len(),
            ValuesOf::Kept(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of the `i`-th aggregate of the spec; null when there is none.
    pub fn get(&self, i: usize) -> Computed<'a> {
        match self.0 {
            ValuesOf::None => Computed::Null,
            ValuesOf::Live(plan, accumulators) => plan.compute(accumulators, i),
            ValuesOf::Kept(values) => values.get(i).map_or(Computed::Null, Former::computed),
        }
    }

    /// All values, in the order of the spec.
    pub fn iter(&self) -> impl Iterator<Item = Computed<'a>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

impl Former {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Former::Null => out.push(0),
            Former::Bool(b) => out.push(1 + u8::from(*b)),
            Former::Int(n) => {
                out.push(3);
                put_i128(out, *n);
            }
            Former::Double(x) => {
                out.push(4);
                put_f64(out, *x);
            }
            Former::Text(t) => {
                out.push(5);
                put_bytes(out, t);
            }
            Former::List(items) => {
                out.push(6);
                put_u64(out, items.len() as u64);
                items.iter().for_each(|item| put_datum(out, item));
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Former, Corrupt> {
        Ok(match reader.byte()? {
            0 => Former::Null,
            1 => Former::Bool(false),
            2 => Former::Bool(true),
            3 => Former::Int(reader.i128()?),
            4 => Former::Double(reader.f64()?),
            5 => Former::Text(reader.bytes()?.into()),
            6 => {
                let n = reader.count()?;
                Former::List((0..n).map(|_| reader.datum()).collect::<Result<_, _>>()?)
            }
            _ => return Err(Corrupt { what: "published value expected" }),
        })
    }

    fn computed(&self) -> Computed<'_> {
        match self {
            Former::Null => Computed::Null,
            Former::Bool(b) => Computed::Bool(*b),
            Former::Int(n) => Computed::Int(*n),
            Former::Double(x) => Computed::Double(*x),
            Former::Text(t) => Computed::Text(t),
            Former::List(items) => Computed::List(items.iter().map(Datum::value).collect()),
        }
    }

    /// Keeps a computed value.
    pub(crate) fn of(value: &Computed<'_>) -> Former {
        match value {
            Computed::Null => Former::Null,
            Computed::Bool(b) => Former::Bool(*b),
            Computed::Int(n) => Former::Int(*n),
            Computed::Double(x) => Former::Double(*x),
            Computed::Text(t) => Former::Text((*t).into()),
            Computed::List(items) => Former::List(items.iter().map(|v| v.keep()).collect()),
        }
    }
}

impl Value<'_> {
    /// Whether it is missing.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null) || matches!(self, Value::Double(x) if x.is_nan())
    }

    /// The value, kept; not-a-number is kept as missing.
    pub fn keep(&self) -> Datum {
        match *self {
            Value::Null => Datum::Null,
            Value::Bool(b) => Datum::Bool(b),
            Value::Int(n) => Datum::Int(n),
            Value::Double(x) if x.is_nan() => Datum::Null,
            Value::Double(x) => Datum::Double(x),
            Value::Text(t) => Datum::Text(t.into()),
        }
    }
}

/// The double as `i64`, when it is exactly one.
fn whole(x: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (x.trunc() == x && (-LIMIT..LIMIT).contains(&x)).then_some(x as i64)
}

impl Datum {
    /// The value, borrowed.
    pub fn value(&self) -> Value<'_> {
        match self {
            Datum::Null => Value::Null,
            Datum::Bool(b) => Value::Bool(*b),
            Datum::Int(n) => Value::Int(*n),
            Datum::Double(x) => Value::Double(*x),
            Datum::Text(t) => Value::Text(t),
        }
    }
}

impl PartialEq for Datum {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Datum {}

impl PartialOrd for Datum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datum {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.value(), other.value())
    }
}

fn rank(value: Value<'_>) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Double(_) => 2,
        Value::Text(_) => 3,
    }
}

/// The order of values: missing, truth values, numbers by value, text by bytes.
pub(crate) fn order(a: Value<'_>, b: Value<'_>) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(&b),
        (Value::Int(a), Value::Int(b)) => a.cmp(&b),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Value::Int(a), Value::Double(b)) => compare(a, b),
        (Value::Double(a), Value::Int(b)) => compare(b, a).reverse(),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Compares a whole number with a double exactly, without rounding the number.
fn compare(a: i64, b: f64) -> Ordering {
    if let Some(b) = whole(b) {
        return a.cmp(&b);
    }
    let floor = b.floor();
    match whole(floor) {
        Some(below) if a <= below => Ordering::Less,
        Some(_) => Ordering::Greater,
        None if b > 0.0 => Ordering::Less,
        None => Ordering::Greater,
    }
}

/// Equal values hash alike: a double that is a whole number as that number.
impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        rank(self.value()).hash(state);
        match self {
            Datum::Null => {}
            Datum::Bool(b) => b.hash(state),
            Datum::Int(n) => n.hash(state),
            Datum::Double(x) => match whole(*x) {
                Some(n) => n.hash(state),
                None => x.to_bits().hash(state),
            },
            Datum::Text(t) => t.hash(state),
        }
    }
}

/// The hash of a value in stored sketches, for ever: XXH3 of its bytes, seeded by its kind. Equal values hash alike here,
/// too. Half as many bits as ids have: of n values two hash alike with a chance of n² / 2^65.
pub(crate) fn stored_hash(value: Value<'_>) -> u64 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed;
    match value {
        Value::Null => hash(b"", 0),
        Value::Bool(b) => hash(&[u8::from(b)], 1),
        Value::Int(n) => hash(&n.to_le_bytes(), 2),
        Value::Double(x) => match whole(x) {
            Some(n) => hash(&n.to_le_bytes(), 2),
            None => hash(&x.to_bits().to_le_bytes(), 3),
        },
        Value::Text(t) => hash(t, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_by_value_without_rounding() {
        let big = (1i64 << 53) + 1;
        assert!(Datum::Int(big) > Datum::Double(9_007_199_254_740_992.0));
        assert_eq!(Datum::Int(7), Datum::Double(7.0));
        assert!(Datum::Int(7) < Datum::Double(7.5) && Datum::Int(-7) > Datum::Double(-7.5));
        assert!(Datum::Int(i64::MAX) < Datum::Double(9_223_372_036_854_775_808.0));
        assert!(Datum::Int(i64::MIN) > Datum::Double(f64::NEG_INFINITY));
        assert!(Datum::Null < Datum::Bool(false) && Datum::Double(1e300) < Datum::Text((*b"a").into()));
    }

    #[test]
    fn equal_values_have_one_stored_hash_that_never_changes() {
        let equal = [
            (Value::Int(7), Value::Double(7.0)),
            (Value::Int(0), Value::Double(-0.0)),
            (Value::Int(i64::MIN), Value::Double(i64::MIN as f64)),
        ];
        equal.iter().for_each(|(a, b)| assert_eq!(stored_hash(*a), stored_hash(*b)));
        let different = [
            Value::Bool(true),
            Value::Bool(false),
            Value::Int(1),
            Value::Double(1.5),
            Value::Int(1.5f64.to_bits() as i64),
            Value::Double(f64::INFINITY),
            Value::Text(b"1"),
            Value::Text(b""),
        ];
        let mut hashes = different.map(stored_hash).to_vec();
        assert_eq!(
            hashes[2..5],
            [4678170435044338961, 8136111345533819817, 15134207045020356982],
            "as versions before have stored them"
        );
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), different.len());
    }
}
