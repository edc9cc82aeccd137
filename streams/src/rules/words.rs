//! The small words of rules: limits, measures, speeds, how often.

use granary_core::Span;
use granary_window::rule::{Comparison, Limit, Ratio, TIMES_MAX};

use super::decimal::{Decimal, power};

/// A limit as it is written: a comparison, a number and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenLimit {
    pub comparison: Comparison,
    pub number: Decimal,
    pub unit: String,
}

/// Reads `> 300.00`, `>= 3`, `> 3x`, `> 900 km/h`.
pub(crate) fn limit(text: &str) -> Option<WrittenLimit> {
    let text = text.trim();
    let signs =
        [(">=", Comparison::Ge), ("<=", Comparison::Le), (">", Comparison::Gt), ("<", Comparison::Lt)];
    let (rest, comparison) =
        signs.iter().find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, *comparison)))?;
    let rest = rest.trim();
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(rest.len());
    let number = Decimal::parse(&rest[..end])?;
    Some(WrittenLimit { comparison, number, unit: rest[end..].trim().to_owned() })
}

impl WrittenLimit {
    /// In units of a place of the measure.
    pub fn at(&self, scale: u32) -> Option<Limit> {
        Some(Limit { comparison: self.comparison, value: ratio(self.number, scale)? })
    }
}

/// A decimal as a fraction of units of this place.
pub(crate) fn ratio(number: Decimal, scale: u32) -> Option<Ratio> {
    let fits = |n: i128| i64::try_from(n).ok();
    if number.scale <= scale {
        let num = number.units.checked_mul(power(scale - number.scale)?)?;
        return Some(Ratio { num: fits(num)?, den: 1 });
    }
    Some(Ratio { num: fits(number.units)?, den: fits(power(number.scale - scale)?)? })
}

/// Reads `count`, `sum(amount)`, `distinct(vendor_id)`: the function and its argument.
pub(crate) fn measure(text: &str) -> Option<(&str, Option<&str>)> {
    let text = text.trim();
    match text.split_once('(') {
        None => Some((text, None)),
        Some((function, rest)) => {
            let argument = rest.strip_suffix(')')?.trim();
            Some((function.trim(), (!argument.is_empty()).then_some(argument)))
        }
    }
}

/// Reads `150km`, in km.
pub(crate) fn kilometres(text: &str) -> Option<f64> {
    let number = text.trim().strip_suffix("km")?.trim();
    Decimal::parse(number)?;
    number.parse().ok().filter(|km: &f64| *km >= 0.0)
}

/// Reads `3`, `1..`, `2..5`.
pub(crate) fn times(text: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| text.parse().ok().filter(|n| (1..=TIMES_MAX).contains(n));
    let (least, most) = match text.split_once("..") {
        None => (number(text)?, Some(number(text)?)),
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    most.is_none_or(|most| most >= least).then_some((least, most))
}

/// A length of time for a sentence: `30 minutes`, `1 hour`, `90 seconds`.
pub(crate) fn in_words(span: Span) -> String {
    let units = [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second")];
    let ms = span.ms();
    let unit = units.iter().find(|(length, _)| ms > 0 && ms.is_multiple_of(*length));
    let (count, name) = unit.map_or((ms, "millisecond"), |(length, name)| (ms / length, *name));
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_exact_fractions() {
        let limit = |text, scale| limit(text).and_then(|limit| limit.at(scale));
        let gt = |num, den| Some(Limit { comparison: Comparison::Gt, value: Ratio { num, den } });
        assert_eq!(limit("> 300.00", 2), gt(30_000, 1));
        assert_eq!(limit(">3x", 0), gt(3, 1));
        assert_eq!(limit("> 2.5", 0), gt(25, 10));
        assert_eq!(limit("= 5", 0), None);
        assert_eq!(limit("> much", 0), None);
        assert_eq!(super::limit("> 900 km/h").unwrap().unit, "km/h");
    }

    #[test]
    fn words_are_read() {
        assert_eq!(measure("sum( amount )"), Some(("sum", Some("amount"))));
        assert_eq!(measure("count"), Some(("count", None)));
        assert_eq!(measure("sum(amount"), None);
        assert_eq!(kilometres("150km"), Some(150.0));
        assert_eq!(kilometres("-1km"), None);
        assert_eq!(times("1.."), Some((1, None)));
        assert_eq!(times("2..5"), Some((2, Some(5))));
        assert_eq!(times("5..2"), None);
        assert_eq!(in_words(Span(1_800_000)), "30 minutes");
        assert_eq!(in_words(Span(90_000)), "90 seconds");
    }
}
