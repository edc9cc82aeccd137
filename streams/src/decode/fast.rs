//! The common case of JSON: members in the order of the record before, values written plainly. One look at each byte,
//! no detour over what was found.
//!
//! Invariant: what is accepted here the strict reader accepts with the same values; whatever is unusual in any way is
//! left to it, which also finds the words for what is wrong.

use super::number::{self, EXACT};
use super::{Decoded, Item, Kind, Schema};

/// Reads the record into `decoded`; false when it is not of the plain kind, and `decoded` then holds nothing of use.
/// The record is valid UTF-8.
pub(super) fn read(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> bool {
    object(schema, raw, decoded).is_some()
}

fn object(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> Option<()> {
    let fields = schema.fields.len();
    if decoded.order.len() < fields || fields == 0 {
        return None;
    }
    let mut at = blanks(raw, 0);
    if *raw.get(at)? != b'{' {
        return None;
    }
    at += 1;
    let mut seen = 0_u64;
    for member in 0..fields {
        at = blanks(raw, at);
        let i = usize::from(decoded.order[member]);
        let field = schema.fields.get(i)?;
        let name = field.from.as_bytes();
        let end = at + 1 + name.len();
        if *raw.get(at)? != b'"' || *raw.get(end)? != b'"' || !same(&raw[at + 1..end], name) {
            return None;
        }
        at = blanks(raw, end + 1);
        if *raw.get(at)? != b':' {
            return None;
        }
        at = blanks(raw, at + 1);
        let (item, end) = value(&field.kind, raw, at)?;
        decoded.items[i] = item;
        seen |= 1 << i;
        at = blanks(raw, end);
        let expected = if member + 1 < fields { b',' } else { b'}' };
        if *raw.get(at)? != expected {
            return None;
        }
        at += 1;
    }
    (blanks(raw, at) == raw.len() && seen.count_ones() as usize == fields).then_some(())
}

#[inline]
fn blanks(raw: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = raw.get(at) {
        at += 1;
    }
    at
}

#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

/// A value of this kind, and where it ends.
#[inline]
fn value(kind: &Kind, raw: &[u8], at: usize) -> Option<(Item, usize)> {
    match kind {
        Kind::Text { chars } => {
            if *raw.get(at)? != b'"' {
                return None;
            }
            let len = plain_len(&raw[at + 1..]);
            let end = at + 1 + len;
            // A character takes 1 to 4 bytes, so the number of bytes decides: unless more than one character is the
            // least, or there are more bytes than characters may be.
            let fits = *chars.start() <= 1 && chars.contains(&(len as u64));
            (fits && *raw.get(end)? == b'"').then_some((Item::Raw(at as u32 + 1, end as u32), end + 1))
        }
        Kind::TimeMs { digits, quoted } => {
            let has_quotes = *raw.get(at)? == b'"';
            let from = at + usize::from(has_quotes);
            let (number, end) = self::digits(raw, from)?;
            let len = end - from;
            // A bare number with a leading zero is no JSON.
            let is_written_well = if has_quotes {
                *quoted && *raw.get(end)? == b'"'
            } else {
                (len == 1 || raw[from] != b'0') && ends_number(raw, end)
            };
            (is_written_well && digits.contains(&(len as u64)))
                .then_some((Item::Int(number), end + usize::from(has_quotes)))
        }
        Kind::Integer { range } => {
            let is_negative = *raw.get(at)? == b'-';
            let from = at + usize::from(is_negative);
            let (number, end) = digits(raw, from)?;
            let number = if is_negative { -number } else { number };
            let is_written_well = (end - from == 1 || raw[from] != b'0') && ends_number(raw, end);
            (is_written_well && range.contains(&number)).then_some((Item::Int(number), end))
        }
        Kind::Double { range } => {
            let (number, end) = double(raw, at)?;
            range.contains(&number).then_some((Item::Double(number), end))
        }
        Kind::Boolean => None,
    }
}

/// Whether a number that ends at `end` does not go on.
#[inline]
fn ends_number(raw: &[u8], end: usize) -> bool {
    !matches!(raw.get(end), Some(b'.' | b'e' | b'E'))
}

/// 1 to 18 digits and where they end.
#[inline]
fn digits(raw: &[u8], from: usize) -> Option<(i64, usize)> {
    let (mut number, mut at) = (0_i64, from);
    while let Some(digit @ b'0'..=b'9') = raw.get(at) {
        if at - from == 18 {
            return None;
        }
        number = number * 10 + i64::from(digit - b'0');
        at += 1;
    }
    (at > from).then_some((number, at))
}

/// A number without exponent whose digits a double holds exactly: see [`number::double`].
#[inline]
fn double(raw: &[u8], at: usize) -> Option<(f64, usize)> {
    let is_negative = *raw.get(at)? == b'-';
    let from = at + usize::from(is_negative);
    let (whole, point) = digits(raw, from)?;
    if point - from > 1 && raw[from] == b'0' {
        return None;
    }
    let (mantissa, fraction, end) = match raw.get(point) {
        Some(b'.') => {
            let mut mantissa = whole;
            let mut end = point + 1;
            while let Some(digit @ b'0'..=b'9') = raw.get(end) {
                if end - from > number::PLAIN_BYTES_MAX {
                    return None;
                }
                mantissa = mantissa * 10 + i64::from(digit - b'0');
                end += 1;
            }
            if end == point + 1 {
                return None;
            }
            (mantissa, end - point - 1, end)
        }
        _ => (whole, 0, point),
    };
    if matches!(raw.get(end), Some(b'e' | b'E')) || mantissa > 1 << 53 {
        return None;
    }
    let value = mantissa as f64 / EXACT[fraction];
    Some((if is_negative { -value } else { value }, end))
}

/// How many bytes from the start on are plain: no quote, no backslash, no control character. Eight at a time.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut len = 0;
    while let Some(chunk) = bytes.get(len..len + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        let stop = zeros(word ^ (ONES * u64::from(b'"')))
            | zeros(word ^ (ONES * u64::from(b'\\')))
            | zeros(word ^ (ONES * 0x7f))
            | (word.wrapping_sub(ONES * 0x20) & !word & HIGH);
        if stop != 0 {
            // The lowest marked byte is exact; borrows can only mark bytes above it.
            return len + stop.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    let is_plain = |byte: &&u8| !matches!(**byte, b'"' | b'\\' | 0..=0x1f | 0x7f);
    len + bytes[len..].iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{self, Field, Rule};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// How many of the records below were of the plain kind.
    static PLAIN: AtomicU32 = AtomicU32::new(0);

    fn schema() -> Schema {
        Schema::json(vec![
            Field::new("id", "id", Kind::text(1, 12)),
            Field::new("name", "n", Kind::text(0, 5)),
            Field::new("at", "dt", Kind::time_ms()),
            Field::new("bare", "b", Kind::TimeMs { digits: 2..=6, quoted: false }),
            Field::new("m1", "m1", Kind::Integer { range: -1_000_000..=9_007_199_254_740_991 }),
            Field::new("m2", "m2", Kind::Double { range: -1e12..=1e12 }),
        ])
    }

    /// Values that are mostly fine, and sometimes of another shape.
    fn record() -> impl Strategy<Value = String> {
        let text = || prop_oneof![6 => "[a-z]{1,5}", 1 => "[a-z]{0,14}", 1 => "\\PC{0,6}", 1 => Just("a\\u0041".to_owned()), 1 => Just("\u{7f}".to_owned())];
        let number = || {
            prop_oneof![
                6 => "-?[1-9][0-9]{1,5}",
                1 => "-?[0-9]{1,20}",
                2 => "-?[0-9]{1,9}\\.[0-9]{1,12}",
                1 => "-?[0-9]{1,3}(\\.[0-9]{0,3})?[eE][+-]?[0-9]{1,2}",
                1 => Just("null".to_owned()),
                1 => Just("007".to_owned())
            ]
        };
        let time = prop_oneof![8 => "\"[0-9]{1,15}\"", 1 => "[0-9]{1,16}", 1 => "\"[0-9]{0,3}x\"", 1 => "\"[0-9]{16}\""];
        let bare = prop_oneof![8 => "[1-9][0-9]{1,5}", 1 => number()];
        let blank = "[ \t]{0,2}";
        (text(), text(), time, bare, number(), number(), blank).prop_map(|(id, name, at, bare, m1, m2, blank)| {
            format!(
                "{blank}{{\"id\":{blank}\"{id}\",\"n\"{blank}:\"{name}\", \"dt\":{at},\"b\":{bare}{blank},\"m1\":{m1},\"m2\":{m2}}}{blank}"
            )
        })
    }

    fn ready() -> Decoded {
        let mut decoded = Decoded::default();
        let first = br#"{"id":"a","n":"bcde","dt":"1","b":12,"m1":1,"m2":1.5}"#;
        decode::decode(&schema(), first, &mut decoded).expect("a plain record");
        decoded
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        fn agrees_with_the_strict_reader(record in record(), cut in 0_usize..200, byte in 0_u8..128, is_cut: bool) {
            let mut raw = record.into_bytes();
            if is_cut && !raw.is_empty() {
                let at = cut % raw.len();
                raw[at] = byte;
            }
            if std::str::from_utf8(&raw).is_err() {
                return Ok(());
            }
            let (schema, mut fast, mut strict) = (schema(), ready(), Decoded::default());
            fast.reset(schema.fields.len());
            strict.reset(schema.fields.len());
            let is_plain = read(&schema, &raw, &mut fast);
            PLAIN.fetch_add(u32::from(is_plain), Ordering::Relaxed);
            let verdict = decode::json::read(&schema, &raw, &mut strict)
                .and_then(|()| decode::check(&schema, &raw, &mut strict));
            if is_plain {
                prop_assert_eq!(verdict, Ok(()), "{}", String::from_utf8_lossy(&raw));
                prop_assert_eq!(fast.items, strict.items);
            }
        }
    }

    #[test]
    fn what_it_takes_the_strict_reader_takes_alike() {
        agrees_with_the_strict_reader();
        let plain = PLAIN.load(Ordering::Relaxed);
        assert!((1_000..19_000).contains(&plain), "{plain} of 20,000 records were plain");
    }

    #[test]
    fn the_plain_kind_is_taken_and_nothing_else() {
        let of = |raw: &str| {
            let mut decoded = ready();
            decoded.reset(6);
            read(&schema(), raw.as_bytes(), &mut decoded)
        };
        assert!(of(r#"{"id":"a","n":"bcde","dt":"1","b":12,"m1":1,"m2":1.5}"#));
        assert!(!of(r#"{"id":"a","n":"bcde","dt":"1","b":12,"m1":1.0,"m2":1.5}"#));
        let one = Schema {
            fields: schema().fields.into_iter().filter(|f| &*f.name != "name").collect(),
            ..schema()
        };
        let plain = br#"{"id":"a","dt":"1","b":12,"m1":-0,"m2":-1.5}"#;
        let mut decoded = Decoded::default();
        decode::decode(&one, plain, &mut decoded).unwrap();
        decoded.reset(5);
        assert!(read(&one, plain, &mut decoded));
        let other = br#"{"dt":"1","id":"a","b":12,"m1":1,"m2":1}"#;
        assert!(!read(&one, other, &mut decoded), "another order");
        decode::decode(&one, other, &mut decoded).unwrap();
        decoded.reset(5);
        assert!(read(&one, other, &mut decoded), "the order is learnt");
        let refused =
            decode::decode(&one, br#"{"dt":"1","id":"a","b":1,"m1":1,"m2":1}"#, &mut decoded).unwrap_err();
        assert_eq!(refused.rule, Rule::Limit);
    }
}
