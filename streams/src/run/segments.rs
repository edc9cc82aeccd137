//! The segments of a window's identity below the routing key: each an event's value, opaque and typed.
//!
//! A segment is its length and kind, then its text; two lists of values are equal exactly if their bytes are.

use granary_window::Value;

use super::text;

const TEXT: u64 = 0;
const INT: u64 = 1;
const BOOL: u64 = 2;
const NULL: u64 = 3;

/// One segment, read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    kind: u64,
    /// The value as text.
    pub text: &'a [u8],
}

/// Appends a value as a segment. Doubles are no keys; as text they are their shortest digits.
#[inline]
pub(crate) fn push(out: &mut Vec<u8>, value: &Value<'_>) {
    let mut digits = itoa::Buffer::new();
    let mut shortest = zmij::Buffer::new();
    let (kind, text): (u64, &[u8]) = match value {
        Value::Text(text) => (TEXT, text),
        Value::Int(value) => (INT, digits.format(*value).as_bytes()),
        Value::Bool(value) => (BOOL, if *value { b"true" } else { b"false" }),
        Value::Double(value) => (TEXT, shortest.format(*value).as_bytes()),
        Value::Null => (NULL, b""),
    };
    let mut head = (text.len() as u64) << 2 | kind;
    while head >= 0x80 {
        out.push(head as u8 | 0x80);
        head >>= 7;
    }
    out.push(head as u8);
    out.extend_from_slice(text);
}

/// The segments of `bytes`, as [`push`] wrote them.
pub(crate) fn iter(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (mut head, mut shift) = (0_u64, 0);
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            head |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if *byte < 0x80 || shift > 56 {
                break;
            }
        }
        let (text, after) = rest.split_at_checked(usize::try_from(head >> 2).ok()?)?;
        rest = after;
        Some(Segment { kind: head & 3, text })
    })
}

impl Segment<'_> {
    /// Appends it as a JSON value.
    #[inline]
    pub fn json(&self, out: &mut Vec<u8>) {
        match self.kind {
            TEXT => text::string(out, self.text),
            NULL => out.extend_from_slice(b"null"),
            _ => out.extend_from_slice(self.text),
        }
    }

    /// As a value of an event.
    pub fn value(&self) -> Value<'_> {
        match self.kind {
            TEXT => Value::Text(self.text),
            INT => std::str::from_utf8(self.text)
                .ok()
                .and_then(|t| t.parse().ok())
                .map_or(Value::Null, Value::Int),
            BOOL => Value::Bool(self.text == b"true"),
            _ => Value::Null,
        }
    }
}

/// Appends a segment of an identity, `/` and `%` percent-encoded.
#[inline]
pub(crate) fn escape(out: &mut Vec<u8>, segment: &[u8]) {
    if !segment.iter().any(|byte| matches!(byte, b'/' | b'%')) {
        return out.extend_from_slice(segment);
    }
    for byte in segment {
        match byte {
            b'/' => out.extend_from_slice(b"%2F"),
            b'%' => out.extend_from_slice(b"%25"),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_read_back(texts in prop::collection::vec(".{0,200}", 0..4), number: i64, truth: bool) {
            let mut values: Vec<Value<'_>> = texts.iter().map(|text| Value::Text(text.as_bytes())).collect();
            values.extend([Value::Int(number), Value::Bool(truth), Value::Null]);
            let mut bytes = Vec::new();
            values.iter().for_each(|value| push(&mut bytes, value));
            let segments: Vec<Segment<'_>> = iter(&bytes).collect();
            let back: Vec<Value<'_>> = segments.iter().map(Segment::value).collect();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn arbitrary_bytes_end(bytes: Vec<u8>) {
            prop_assert!(iter(&bytes).count() <= bytes.len());
        }

        #[test]
        fn escapes_as_identities_do(text: String) {
            let mut out = Vec::new();
            escape(&mut out, text.as_bytes());
            prop_assert_eq!(String::from_utf8(out).unwrap(), granary_core::id::escape(&text));
        }
    }
}
