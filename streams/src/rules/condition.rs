//! Conditions: a tree over the fields of an event, and what it says of one.
//!
//! Rules speak a part of CEL: comparisons, `&&`, `||`, `!` (also as `and`, `or`, `not`), `in`, `+ - *`, and the methods
//! `startsWith`, `endsWith`, `contains`. There are no loops. Numbers are decimals and compared exactly; what a missing field
//! decides is unknown, as in CEL.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use granary_window::rule::Truth;

use super::decimal::{Decimal, power};
use super::event::{Cell, Event};

/// Lists of texts by name.
pub(crate) type Lists = BTreeMap<String, Arc<HashSet<Box<[u8]>>>>;

/// A compiled condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    Const(bool),
    Field(usize),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Numbers(Comparison, Amount, Amount),
    Texts(Comparison, Text, Text),
    Method(Method, Text, Text),
    Listed(Text, Arc<HashSet<Box<[u8]>>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    StartsWith,
    EndsWith,
    Contains,
}

/// A number of an event, or made of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Amount {
    /// A field in units of a place; `None`: a double.
    Field(usize, Option<u32>),
    Literal(Decimal),
    Sum(Box<Amount>, Box<Amount>),
    Difference(Box<Amount>, Box<Amount>),
    Product(Box<Amount>, Box<Amount>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    Field(usize),
    Literal(Box<[u8]>),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Exact(Decimal),
    Double(f64),
}

impl Condition {
    /// What it says of an event.
    pub fn holds(&self, event: &Event) -> Truth {
        let truth = |holds: bool| if holds { Truth::Yes } else { Truth::No };
        match self {
            Condition::Const(value) => truth(*value),
            Condition::Field(field) => match event.cells[*field] {
                Cell::Boolean(value) => truth(value),
                _ => Truth::Unknown,
            },
            Condition::Not(inner) => match inner.holds(event) {
                Truth::Yes => Truth::No,
                Truth::No => Truth::Yes,
                Truth::Unknown => Truth::Unknown,
            },
            Condition::All(parts) => first(parts, event, Truth::No, Truth::Yes),
            Condition::Any(parts) => first(parts, event, Truth::Yes, Truth::No),
            Condition::Numbers(comparison, a, b) => {
                let (Some(a), Some(b)) = (a.value(event), b.value(event)) else { return Truth::Unknown };
                compare(a, b).map_or(Truth::Unknown, |ordering| truth(comparison.is(ordering)))
            }
            Condition::Texts(comparison, a, b) => {
                let (Some(a), Some(b)) = (a.value(event), b.value(event)) else { return Truth::Unknown };
                truth(comparison.is(a.cmp(b)))
            }
            Condition::Method(method, a, b) => {
                let (Some(a), Some(b)) = (a.value(event), b.value(event)) else { return Truth::Unknown };
                truth(match method {
                    Method::StartsWith => a.starts_with(b),
                    Method::EndsWith => a.ends_with(b),
                    Method::Contains => b.is_empty() || a.windows(b.len()).any(|part| part == b),
                })
            }
            Condition::Listed(text, list) => match text.value(event) {
                Some(text) => truth(list.contains(text)),
                None => Truth::Unknown,
            },
        }
    }
}

/// `deciding` if any part is that, else unknown if any is, else `otherwise`.
fn first(parts: &[Condition], event: &Event, deciding: Truth, otherwise: Truth) -> Truth {
    let mut truth = otherwise;
    for part in parts {
        match part.holds(event) {
            Truth::Unknown => truth = Truth::Unknown,
            found if found == deciding => return deciding,
            _ => {}
        }
    }
    truth
}

impl Text {
    fn value<'a>(&'a self, event: &'a Event) -> Option<&'a [u8]> {
        match self {
            Text::Field(field) => event.text(*field),
            Text::Literal(text) => Some(text),
        }
    }
}

impl Comparison {
    fn is(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Comparison::Eq => ordering.is_eq(),
            Comparison::Ne => ordering.is_ne(),
            Comparison::Lt => ordering.is_lt(),
            Comparison::Le => ordering.is_le(),
            Comparison::Gt => ordering.is_gt(),
            Comparison::Ge => ordering.is_ge(),
        }
    }
}

impl Number {
    fn to_f64(self) -> f64 {
        match self {
            Number::Exact(decimal) => decimal.to_f64(),
            Number::Double(double) => double,
        }
    }
}

/// Two decimals in units of the finer place.
fn align(a: Decimal, b: Decimal) -> Option<(i128, i128, u32)> {
    let scale = a.scale.max(b.scale);
    let at = |decimal: Decimal| decimal.units.checked_mul(power(scale - decimal.scale)?);
    Some((at(a)?, at(b)?, scale))
}

fn compare(a: Number, b: Number) -> Option<std::cmp::Ordering> {
    if let (Number::Exact(a), Number::Exact(b)) = (a, b) {
        let (a, b, _) = align(a, b)?;
        return Some(a.cmp(&b));
    }
    a.to_f64().partial_cmp(&b.to_f64())
}

impl Amount {
    fn value(&self, event: &Event) -> Option<Number> {
        let both = |a: &Amount, b: &Amount| Some((a.value(event)?, b.value(event)?));
        match self {
            Amount::Literal(decimal) => Some(Number::Exact(*decimal)),
            Amount::Field(field, scale) => match (event.cells[*field], scale) {
                (Cell::Number(units), Some(scale)) => {
                    Some(Number::Exact(Decimal { units: i128::from(units), scale: *scale }))
                }
                (Cell::Double(double), _) => Some(Number::Double(double)),
                _ => None,
            },
            Amount::Sum(a, b) => match both(a, b)? {
                (Number::Exact(a), Number::Exact(b)) => {
                    let (a, b, scale) = align(a, b)?;
                    Some(Number::Exact(Decimal { units: a.checked_add(b)?, scale }))
                }
                (a, b) => Some(Number::Double(a.to_f64() + b.to_f64())),
            },
            Amount::Difference(a, b) => match both(a, b)? {
                (Number::Exact(a), Number::Exact(b)) => {
                    let (a, b, scale) = align(a, b)?;
                    Some(Number::Exact(Decimal { units: a.checked_sub(b)?, scale }))
                }
                (a, b) => Some(Number::Double(a.to_f64() - b.to_f64())),
            },
            Amount::Product(a, b) => match both(a, b)? {
                (Number::Exact(a), Number::Exact(b)) => Some(Number::Exact(Decimal {
                    units: a.units.checked_mul(b.units)?,
                    scale: a.scale + b.scale,
                })),
                (a, b) => Some(Number::Double(a.to_f64() * b.to_f64())),
            },
        }
    }
}
