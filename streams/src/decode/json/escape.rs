//! Escapes of JSON strings. Their shape has been checked when the string was read.

/// Appends the text with its escapes replaced; false when a `\u` escape is a lone surrogate. Its shape is valid.
pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte != b'\\' {
            out.push(*byte);
            at += 1;
            continue;
        }
        let plain = match text[at + 1] {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => match scalar(&text[at..]) {
                Some((scalar, len)) => {
                    out.extend_from_slice(scalar.encode_utf8(&mut [0; 4]).as_bytes());
                    at += len;
                    continue;
                }
                None => return false,
            },
            itself => itself,
        };
        out.push(plain);
        at += 2;
    }
    true
}

/// The scalar value of the one or two `\u` escapes at the start, and how many bytes they take.
fn scalar(text: &[u8]) -> Option<(char, usize)> {
    let first = unit(text)?;
    if let Some(scalar) = char::from_u32(first) {
        return Some((scalar, 6));
    }
    if first >= 0xdc00 {
        return None;
    }
    let second = unit(text.get(6..)?).filter(|unit| (0xdc00..0xe000).contains(unit))?;
    let scalar = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(scalar).map(|scalar| (scalar, 12))
}

fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
