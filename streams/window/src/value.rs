//! The values events carry and results show.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

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
    /// A number that is not a whole number within `i64`.
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
            ValuesOf::Kept(values) => values.get(i).map_or(Computed::Null, Former::computed),
        }
    }

    /// All values, in the order of the spec.
    pub fn iter(&self) -> impl Iterator<Item = Computed<'a>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

impl Former {
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

    /// The value, kept. A double that is a whole number within `i64` becomes that number, so that equal values are
    /// equal in every set.
    pub fn keep(&self) -> Datum {
        match *self {
            Value::Null => Datum::Null,
            Value::Bool(b) => Datum::Bool(b),
            Value::Int(n) => Datum::Int(n),
            Value::Double(x) if x.is_nan() => Datum::Null,
            Value::Double(x) => whole(x).map_or(Datum::Double(x), Datum::Int),
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

    fn rank(&self) -> u8 {
        match self {
            Datum::Null => 0,
            Datum::Bool(_) => 1,
            Datum::Int(_) | Datum::Double(_) => 2,
            Datum::Text(_) => 3,
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
        match (self, other) {
            (Datum::Bool(a), Datum::Bool(b)) => a.cmp(b),
            (Datum::Int(a), Datum::Int(b)) => a.cmp(b),
            (Datum::Double(a), Datum::Double(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Datum::Int(a), Datum::Double(b)) => compare(*a, *b),
            (Datum::Double(a), Datum::Int(b)) => compare(*b, *a).reverse(),
            (Datum::Text(a), Datum::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
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

impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Datum::Null => {}
            Datum::Bool(b) => b.hash(state),
            Datum::Int(n) => n.hash(state),
            Datum::Double(x) => x.to_bits().hash(state),
            Datum::Text(t) => t.hash(state),
        }
    }
}
