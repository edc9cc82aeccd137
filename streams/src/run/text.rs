//! Writing JSON: numbers, strings and base64 straight into an arena.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_window::{Computed, Value};

/// Appends a whole number.
#[inline]
pub(crate) fn int(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a double by its shortest digits that read back as the same double; JSON has no infinities.
#[inline]
pub(crate) fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends a string in quotes. Text of a record is UTF-8 as it was checked.
#[inline]
pub(crate) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().any(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\') {
        escaped(out, text);
    } else {
        out.extend_from_slice(text);
    }
    out.push(b'"');
}

#[cold]
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
}

/// Appends a value of an event.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Int(value) => int(out, *value),
        Value::Double(value) => double(out, *value),
        Value::Text(text) => string(out, text),
    }
}

/// Appends a value of a result.
#[inline]
pub(crate) fn computed(out: &mut Vec<u8>, computed: &Computed<'_>) {
    match computed {
        Computed::Null => out.extend_from_slice(b"null"),
        Computed::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Computed::Int(value) => match i64::try_from(*value) {
            Ok(value) => int(out, value),
            Err(_) => int(out, *value),
        },
        Computed::Double(value) => double(out, *value),
        Computed::Text(text) => string(out, text),
        Computed::List(values) => {
            out.push(b'[');
            for (i, item) in values.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(out, item);
            }
            out.push(b']');
        }
    }
}

/// Appends bytes as base64 in quotes.
pub(crate) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// The bytes of a member's start: `,"name":` with the name escaped.
pub(crate) fn member(name: &str) -> Box<[u8]> {
    let mut out = vec![b','];
    string(&mut out, name.as_bytes());
    out.push(b':');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back(text: String) {
            let mut out = Vec::new();
            string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn doubles_read_back(value: f64) {
            prop_assume!(value.is_finite());
            let mut out = Vec::new();
            double(&mut out, value);
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        }
    }

    #[test]
    fn whole_doubles_keep_their_point() {
        let mut out = Vec::new();
        double(&mut out, 363.0);
        out.push(b' ');
        computed(&mut out, &Computed::Int(i128::from(i64::MAX) * 4));
        assert_eq!(out, b"363.0 36893488147419103228");
    }
}
