//! What closures may give: keys and ids, times, numbers; and what results are shown as.

use granary_core::Timestamp;
use granary_window::{Computed, Value};

use crate::plan::ColumnKind;

/// A key, an id, or a part of one.
pub trait Segment {
    /// What is known of its values: keys of two streams that are joined have to be alike in that.
    const KIND: ColumnKind = ColumnKind::Any;

    /// As a value of an event.
    fn value(&self) -> Value<'_>;
}

/// A point in time.
pub trait Time {
    /// In ms since 1970.
    fn timestamp(self) -> Timestamp;
}

/// A number that is summed and compared.
pub trait Number: Shown {
    /// As a value of an event.
    fn number(self) -> Value<'static>;
}

/// What conditions of patterns and joins look at, and rows show. Unsigned 64-bit numbers are none: conditions compare signed ones.
pub trait Field {
    /// What its values are: conditions are tried with it before anything runs.
    const KIND: ColumnKind;

    /// As a value of an event.
    fn value(&self) -> Value<'_>;
}

/// What an aggregate's value is shown as.
pub trait Shown: Sized {
    /// The value, or what stands for none: zero, empty.
    fn shown(computed: &Computed<'_>) -> Self;
}

impl Segment for str {
    const KIND: ColumnKind = ColumnKind::Text;

    fn value(&self) -> Value<'_> {
        Value::Text(self.as_bytes())
    }
}

impl Segment for String {
    const KIND: ColumnKind = ColumnKind::Text;

    fn value(&self) -> Value<'_> {
        Value::Text(self.as_bytes())
    }
}

impl Segment for bool {
    fn value(&self) -> Value<'_> {
        Value::Bool(*self)
    }
}

impl<S: Segment + ?Sized> Segment for &S {
    const KIND: ColumnKind = S::KIND;

    fn value(&self) -> Value<'_> {
        (**self).value()
    }
}

macro_rules! small_integers {
    ($($integer:ty),*) => {$(
        impl Segment for $integer {
            fn value(&self) -> Value<'_> {
                Value::Int(i64::from(*self))
            }
        }

        impl Field for $integer {
            const KIND: ColumnKind = ColumnKind::Int;

            fn value(&self) -> Value<'_> {
                Value::Int(i64::from(*self))
            }
        }

        impl Number for $integer {
            fn number(self) -> Value<'static> {
                Value::Int(i64::from(self))
            }
        }

        impl Shown for $integer {
            fn shown(computed: &Computed<'_>) -> Self {
                let value = whole(computed);
                <$integer>::try_from(value).unwrap_or(if value < 0 { <$integer>::MIN } else { <$integer>::MAX })
            }
        }
    )*};
}

small_integers!(i64, i32, i16, i8, u32, u16, u8);

/// As a key or id, every `u64` keeps its own value: the upper half becomes negative.
impl Segment for u64 {
    fn value(&self) -> Value<'_> {
        Value::Int(self.cast_signed())
    }
}

impl Shown for u64 {
    fn shown(computed: &Computed<'_>) -> Self {
        u64::try_from(whole(computed).max(0)).unwrap_or(u64::MAX)
    }
}

impl Field for f64 {
    const KIND: ColumnKind = ColumnKind::Double;

    fn value(&self) -> Value<'_> {
        Value::Double(*self)
    }
}

impl Field for bool {
    const KIND: ColumnKind = ColumnKind::Bool;

    fn value(&self) -> Value<'_> {
        Value::Bool(*self)
    }
}

impl Field for str {
    const KIND: ColumnKind = ColumnKind::Text;

    fn value(&self) -> Value<'_> {
        Value::Text(self.as_bytes())
    }
}

impl Field for String {
    const KIND: ColumnKind = ColumnKind::Text;

    fn value(&self) -> Value<'_> {
        Value::Text(self.as_bytes())
    }
}

/// In ms since 1970.
impl Field for Timestamp {
    const KIND: ColumnKind = ColumnKind::Int;

    fn value(&self) -> Value<'_> {
        Value::Int(self.ms())
    }
}

/// What is not there is null: a condition that compares it does not hold.
impl<F: Field> Field for Option<F> {
    const KIND: ColumnKind = F::KIND;

    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, F::value)
    }
}

impl Number for f64 {
    fn number(self) -> Value<'static> {
        Value::Double(self)
    }
}

impl Shown for f64 {
    fn shown(computed: &Computed<'_>) -> Self {
        match computed {
            Computed::Double(value) => *value,
            Computed::Int(value) => *value as f64,
            _ => 0.0,
        }
    }
}

impl Time for i64 {
    fn timestamp(self) -> Timestamp {
        Timestamp(self)
    }
}

impl Time for u64 {
    fn timestamp(self) -> Timestamp {
        Timestamp(i64::try_from(self).unwrap_or(i64::MAX))
    }
}

fn whole(computed: &Computed<'_>) -> i128 {
    match computed {
        Computed::Int(value) => *value,
        Computed::Double(value) => *value as i128,
        _ => 0,
    }
}
