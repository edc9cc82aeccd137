//! Decimal numbers as they are written, exactly.

/// Digits of a number at most: more are not a number anybody means.
const DIGITS_MAX: usize = 30;
/// Powers of ten that an exponent may move the point by.
const EXPONENT_MAX: i32 = 30;

/// A decimal number: so many units of the `scale`-th place after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub units: i128,
    pub scale: u32,
}

/// What becomes of digits after the last place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// They must be zeros.
    Refused,
    /// They round to the nearest, half to even.
    Rounded,
}

impl Decimal {
    /// Reads `-12.50` or `1.5e3`; nothing else is a number: no `NaN`, no blanks, no `+`, no separators.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (is_negative, digits) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
        if !is_digits(whole) || !fraction.is_none_or(is_digits) || exponent.abs() > EXPONENT_MAX {
            return None;
        }
        let fraction = fraction.unwrap_or_default().trim_end_matches('0');
        let whole = whole.trim_start_matches('0');
        if whole.len() + fraction.len() > DIGITS_MAX {
            return None;
        }
        let digits = || whole.bytes().chain(fraction.bytes());
        let units = digits().fold(0i128, |units, digit| units * 10 + i128::from(digit - b'0'));
        let units = if is_negative { -units } else { units };
        let scale = fraction.len() as i32 - exponent;
        match u32::try_from(scale) {
            Ok(scale) => Some(Decimal { units, scale }),
            Err(_) => Some(Decimal { units: units.checked_mul(power(scale.unsigned_abs())?)?, scale: 0 }),
        }
    }

    /// The nearest double, about.
    pub fn to_f64(self) -> f64 {
        self.units as f64 / 10f64.powi(self.scale.cast_signed())
    }

    /// The number in units of this place; `None` when digits are in excess or it has no room in an `i64`.
    pub fn at(self, scale: u32, excess: Excess) -> Option<i64> {
        let units = if scale >= self.scale {
            self.units.checked_mul(power(scale - self.scale)?)?
        } else {
            // So far below the last place that nothing but zero is left.
            let Some(divisor) = power(self.scale - scale) else {
                return (excess == Excess::Rounded || self.units == 0).then_some(0);
            };
            let (quotient, rest) = (self.units.div_euclid(divisor), self.units.rem_euclid(divisor));
            match excess {
                _ if rest == 0 => quotient,
                Excess::Refused => return None,
                Excess::Rounded => {
                    let is_up = rest * 2 > divisor || (rest * 2 == divisor && quotient % 2 != 0);
                    quotient + i128::from(is_up)
                }
            }
        };
        i64::try_from(units).ok()
    }
}

/// Ten to this power, if it has room.
pub(crate) fn power(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

/// Writes units of a place: `-1234` at 2 is `-12.34`.
pub(crate) fn write(units: i128, scale: u32) -> String {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let sign = if units < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_numbers() {
        let at = |text: &str, scale| Decimal::parse(text).and_then(|d| d.at(scale, Excess::Refused));
        assert_eq!(at("12.34", 2), Some(1_234));
        assert_eq!(at("-0.5", 2), Some(-50));
        assert_eq!(at("1.5e3", 0), Some(1_500));
        assert_eq!(at("12.340", 2), Some(1_234));
        assert_eq!(at("12.345", 2), None);
        assert_eq!(at("25e-1", 1), Some(25));
        assert_eq!(at("99999999999999999999", 2), None);
        for wrong in
            ["", "NaN", "inf", "1,5", " 1", "+1", "1.", ".5", "0x10", "--1", "1e999", "1e", "1_0", "١"]
        {
            assert_eq!(Decimal::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rounds_half_to_even() {
        let rounded = |text: &str| Decimal::parse(text).unwrap().at(1, Excess::Rounded).unwrap();
        assert_eq!([rounded("0.25"), rounded("0.35"), rounded("-0.25"), rounded("0.251")], [2, 4, -2, 3]);
        assert_eq!(rounded("1e-30"), 0);
    }

    #[test]
    fn writes_what_it_read() {
        for (units, scale, text) in [(1_234, 2, "12.34"), (-5, 2, "-0.05"), (7, 0, "7"), (0, 3, "0.000")] {
            assert_eq!(write(units, scale), text);
        }
    }
}
