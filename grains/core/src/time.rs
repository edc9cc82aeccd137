//! Timestamps and lengths in whole milliseconds. Arithmetic saturates: an absurd clock never overflows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z; negative before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A length of time in milliseconds, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub u64);

impl Timestamp {
    /// Earlier than every time.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// Later than every time.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// Milliseconds since the epoch.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not later.
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As text by RFC 3339: `2018-07-25T10:29:59Z`, with milliseconds where there are any.
    ///
    /// ```
    /// use granary_core::Timestamp;
    /// assert_eq!(Timestamp(1_532_514_599_250).to_rfc3339(), "2018-07-25T10:29:59.250Z");
    /// ```
    pub fn to_rfc3339(self) -> String {
        let (days, ms) = (self.ms().div_euclid(86_400_000), self.ms().rem_euclid(86_400_000));
        // The proleptic Gregorian calendar, years beginning in March, in eras of 400 years.
        let z = days + 719_468;
        let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (year, month) = (year_of_era + era * 400 + i64::from(month >= 10), (month + 2) % 12 + 1);
        let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
        let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}") };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// The length in milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }
}

/// A length of `n` milliseconds.
pub const fn millis(n: u64) -> Span {
    Span(n)
}

/// A length of `n` seconds.
pub const fn secs(n: u64) -> Span {
    Span(n.saturating_mul(1_000))
}

/// A length of `n` minutes.
pub const fn mins(n: u64) -> Span {
    Span(n.saturating_mul(60_000))
}

/// A length of `n` hours.
pub const fn hours(n: u64) -> Span {
    Span(n.saturating_mul(3_600_000))
}

/// A length of `n` days of 24 hours.
pub const fn days(n: u64) -> Span {
    Span(n.saturating_mul(86_400_000))
}

impl std::ops::Add<Span> for Timestamp {
    type Output = Timestamp;
    fn add(self, length: Span) -> Timestamp {
        Timestamp(self.0.saturating_add_unsigned(length.0))
    }
}

impl std::ops::Sub<Span> for Timestamp {
    type Output = Timestamp;
    fn sub(self, length: Span) -> Timestamp {
        Timestamp(self.0.saturating_sub_unsigned(length.0))
    }
}

impl From<Span> for std::time::Duration {
    fn from(length: Span) -> Self {
        Self::from_millis(length.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// As people write lengths: `5s`, `1.5s`, `15m`, `250ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        match ms {
            0 => f.write_str("0s"),
            _ if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            _ if ms.is_multiple_of(1_000) => write!(f, "{}s", ms / 1_000),
            _ if ms > 1_000 => write!(f, "{:.1}s", ms as f64 / 1_000.0),
            _ => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX + secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::MIN - secs(1), Timestamp::MIN);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Span::ZERO);
    }

    #[test]
    fn lengths_read_as_people_write_them() {
        let shown: Vec<String> =
            [secs(5), mins(15), days(1), millis(250), millis(1_500)].iter().map(Span::to_string).collect();
        assert_eq!(shown, ["5s", "15m", "1d", "250ms", "1.5s"]);
    }
}
