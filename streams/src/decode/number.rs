//! JSON's number grammar, exact integers and correctly rounded doubles.

/// A number as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes it takes.
    pub len: usize,
    /// Whether it has neither fraction nor exponent.
    pub is_integer: bool,
}

/// Reads the number at the start of `bytes` by RFC 8259's grammar; `None` when there is none. What follows the number
/// is for the caller to judge.
#[inline]
pub fn scan(bytes: &[u8]) -> Option<Written> {
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at = digits(bytes, at),
        _ => return None,
    }
    let mut is_integer = true;
    if bytes.get(at) == Some(&b'.') {
        let end = digits(bytes, at + 1);
        if end == at + 1 {
            return None;
        }
        (at, is_integer) = (end, false);
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let end = digits(bytes, at + 1 + sign);
        if end == at + 1 + sign {
            return None;
        }
        (at, is_integer) = (end, false);
    }
    Some(Written { len: at, is_integer })
}

#[inline]
fn digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The value of an integer written without fraction or exponent; `None` when it does not fit.
#[inline]
pub fn integer(written: &[u8]) -> Option<i64> {
    let (negative, digits) = match written.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, written),
    };
    if digits.len() > 18 {
        return std::str::from_utf8(written).ok()?.parse().ok();
    }
    let mut value: i64 = 0;
    for digit in digits {
        value = value * 10 + i64::from(digit.wrapping_sub(b'0'));
    }
    Some(if negative { -value } else { value })
}

/// Powers of ten that a double holds exactly.
pub(super) const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// A number of so many bytes, its sign left out, has a power of ten within [`EXACT`] and does not overflow.
pub(super) const PLAIN_BYTES_MAX: usize = 16;

/// The double nearest to a number written by JSON's grammar; infinite when it is too large.
///
/// Up to 15 significant digits and a power of ten up to 22 both sides of one multiplication or division are exact
/// doubles, so the one rounding is the right one (Clinger 1990). Everything else goes to the standard library.
#[inline]
pub fn double(written: &[u8]) -> f64 {
    let (negative, unsigned) = match written.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, written),
    };
    if unsigned.len() <= PLAIN_BYTES_MAX {
        let (mut mantissa, mut fraction, mut in_fraction) = (0_u64, 0_usize, false);
        for byte in unsigned {
            match byte {
                b'0'..=b'9' => {
                    mantissa = mantissa * 10 + u64::from(byte - b'0');
                    fraction += usize::from(in_fraction);
                }
                b'.' => in_fraction = true,
                _ => return slow(written),
            }
        }
        if mantissa <= 1 << 53 {
            let value = mantissa as f64 / EXACT[fraction];
            return if negative { -value } else { value };
        }
    }
    slow(written)
}

#[cold]
fn slow(written: &[u8]) -> f64 {
    std::str::from_utf8(written)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("whatever JSON's grammar calls a number, the standard library parses")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_grammar_is_rfc_8259s() {
        for good in ["0", "-0", "7", "10", "-1.5", "2.5e2", "1E+2", "0e0", "1e-7"] {
            assert_eq!(scan(good.as_bytes()).map(|w| w.len), Some(good.len()), "{good}");
        }
        for bad in ["", "-", "+5", ".5", "1.", "1e", "1e+", "NaN", "x"] {
            assert_eq!(scan(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(scan(b"007").map(|w| w.len), Some(1), "the zero ends the number");
    }

    proptest! {
        #[test]
        fn doubles_are_the_nearest(whole in 0_u64..10_000_000_000, fraction in "[0-9]{1,12}", negative: bool) {
            let text = format!("{}{whole}.{fraction}", if negative { "-" } else { "" });
            let nearest: f64 = text.parse().unwrap();
            prop_assert_eq!(double(text.as_bytes()).to_bits(), nearest.to_bits());
        }

        #[test]
        fn doubles_with_exponents_are_the_nearest(value: f64) {
            prop_assume!(value.is_finite());
            let text = format!("{value:e}");
            prop_assert_eq!(double(text.as_bytes()).to_bits(), value.to_bits());
            let plain = format!("{value}");
            prop_assert_eq!(double(plain.as_bytes()).to_bits(), value.to_bits());
        }

        #[test]
        fn integers_are_exact(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(value));
        }
    }
}
