//! Strict JSON (RFC 8259) in one pass: the whole record is validated, ignored values included, and only the declared
//! fields are kept. Nesting costs a bit per level in a reused list, never the stack.

mod escape;

use super::{DEPTH_MAX, Decoded, Found, Reject, Rule, Schema, none_missing, number};
use escape::unescape;

/// Reads one object into `decoded.found`. The record is valid UTF-8.
pub(super) fn read(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> Result<(), Box<Reject>> {
    decoded.found.clear();
    decoded.found.resize(schema.fields.len(), Found::Missing);
    let mut twice = None;
    let mut reader = Reader { raw, at: 0 };
    reader.object(schema, decoded, &mut twice)?;
    reader.blanks();
    if reader.at != raw.len() {
        return Err(reader.broken("nothing but white space expected after the object"));
    }
    if let Some(i) = twice {
        let field = &schema.fields[usize::from(i)];
        return Err(Reject::of(Rule::Fields, field, format_args!("`{}` stands more than once", field.from)));
    }
    none_missing(schema, decoded)
}

struct Reader<'a> {
    raw: &'a [u8],
    at: usize,
}

/// A string as it stands: where its content is, and whether it has escapes.
struct Text {
    from: usize,
    to: usize,
    has_escapes: bool,
}

impl<'a> Reader<'a> {
    #[cold]
    #[inline(never)]
    fn broken(&self, what: &str) -> Box<Reject> {
        Reject::whole(Rule::Json, format!("not one JSON object: {what} (byte {})", self.at))
    }

    #[inline]
    fn peek(&self) -> u8 {
        // No JSON token begins with a zero byte, so the end needs no case of its own.
        self.raw.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn blanks(&mut self) {
        while let b' ' | b'\t' | b'\n' | b'\r' = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, what: &str) -> Result<(), Box<Reject>> {
        if self.peek() != byte {
            return Err(self.broken(what));
        }
        self.at += 1;
        Ok(())
    }

    fn object(
        &mut self,
        schema: &Schema,
        decoded: &mut Decoded,
        twice: &mut Option<u8>,
    ) -> Result<(), Box<Reject>> {
        self.blanks();
        self.expect(b'{', "`{` expected")?;
        self.blanks();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        let mut member = 0;
        loop {
            self.member(schema, decoded, member, twice)?;
            member += 1;
            self.blanks();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.broken("`,` or `}` expected")),
            }
            self.blanks();
        }
    }

    #[inline]
    fn member(
        &mut self,
        schema: &Schema,
        decoded: &mut Decoded,
        member: usize,
        twice: &mut Option<u8>,
    ) -> Result<(), Box<Reject>> {
        let name = self.string()?;
        let field = if name.has_escapes {
            let start = decoded.scratch.len();
            // A name with a lone surrogate is no declared name; escapes are valid as `string` has checked.
            let is_text = unescape(&self.raw[name.from..name.to], &mut decoded.scratch);
            let field = if is_text { find(schema, &decoded.scratch[start..]) } else { None };
            decoded.scratch.truncate(start);
            field
        } else {
            self.find_as_last_time(schema, decoded, member, &name)
        };
        self.blanks();
        self.expect(b':', "`:` expected after a name")?;
        self.blanks();
        let Some(i) = field else {
            return self.skip(&mut decoded.open);
        };
        let found = self.value(schema, i, decoded)?;
        let place = &mut decoded.found[usize::from(i)];
        if !matches!(place, Found::Missing) {
            twice.get_or_insert(i);
        } else {
            *place = found;
        }
        Ok(())
    }

    /// Members mostly stand in the order of the record before: look there first.
    #[inline]
    fn find_as_last_time(
        &self,
        schema: &Schema,
        decoded: &mut Decoded,
        member: usize,
        name: &Text,
    ) -> Option<u8> {
        let name = &self.raw[name.from..name.to];
        if let Some(i) = decoded.order.get(member)
            && let Some(field) = schema.fields.get(usize::from(*i))
            && same(field.from.as_bytes(), name)
        {
            return Some(*i);
        }
        let i = find(schema, name)?;
        if member < super::FIELDS_MAX {
            if decoded.order.len() <= member {
                decoded.order.resize(member + 1, u8::MAX);
            }
            decoded.order[member] = i;
        }
        Some(i)
    }

    /// The value of a declared field.
    #[inline]
    fn value(&mut self, schema: &Schema, i: u8, decoded: &mut Decoded) -> Result<Found, Box<Reject>> {
        match self.peek() {
            b'"' => {
                let text = self.string()?;
                if !text.has_escapes {
                    return Ok(Found::Text(text.from as u32..text.to as u32));
                }
                let start = decoded.scratch.len();
                let is_text = unescape(&self.raw[text.from..text.to], &mut decoded.scratch);
                if !is_text && matches!(schema.fields[usize::from(i)].kind, super::Kind::Text { .. }) {
                    let name = &schema.fields[usize::from(i)].name;
                    return Err(self.broken(&format!("lone surrogate in `{name}`")));
                }
                Ok(Found::Unescaped(start as u32..decoded.scratch.len() as u32))
            }
            b'-' | b'0'..=b'9' => {
                let from = self.at;
                let shape = self.number()?;
                let range = from as u32..self.at as u32;
                Ok(if shape.is_integer { Found::Integer(range) } else { Found::Decimal(range) })
            }
            first => {
                self.skip(&mut decoded.open)?;
                Ok(match first {
                    b'{' => Found::Map,
                    b'[' => Found::List,
                    b'n' => Found::Null,
                    b't' => Found::Bool(true),
                    _ => Found::Bool(false),
                })
            }
        }
    }

    #[inline]
    fn number(&mut self) -> Result<number::Written, Box<Reject>> {
        match number::scan(&self.raw[self.at..]) {
            Some(shape) => {
                self.at += shape.len;
                Ok(shape)
            }
            None => Err(self.broken("not a JSON number")),
        }
    }

    /// A string, its escapes checked but not replaced.
    #[inline]
    fn string(&mut self) -> Result<Text, Box<Reject>> {
        self.expect(b'"', "`\"` expected")?;
        let from = self.at;
        let mut has_escapes = false;
        loop {
            self.at += plain_len(&self.raw[self.at..]);
            match self.raw.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text { from, to: self.at - 1, has_escapes });
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.broken("control character inside a string")),
                None => return Err(self.broken("string without an end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Box<Reject>> {
        match self.raw.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.raw.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(self.broken("four hexadecimal digits expected after `\\u`"));
                }
                self.at += 6;
            }
            _ => return Err(self.broken("unknown escape")),
        }
        Ok(())
    }

    /// Validates one value of any shape and forgets it.
    fn skip(&mut self, open: &mut Vec<u64>) -> Result<(), Box<Reject>> {
        let mut depth = 0;
        loop {
            match self.peek() {
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    if depth == DEPTH_MAX {
                        return Err(self.broken("nested too deeply"));
                    }
                    push(open, depth, bracket == b'{');
                    depth += 1;
                    if !self.first_of(bracket == b'{')? {
                        depth -= 1;
                    } else {
                        continue;
                    }
                }
                _ => return Err(self.broken("a value expected")),
            }
            if self.after_value(open, &mut depth)? {
                return Ok(());
            }
        }
    }

    /// After an opening bracket: whether a value follows (its name read, in an object); false when it closes at once.
    fn first_of(&mut self, is_object: bool) -> Result<bool, Box<Reject>> {
        self.blanks();
        if self.peek() == if is_object { b'}' } else { b']' } {
            self.at += 1;
            return Ok(false);
        }
        if is_object {
            self.name()?;
        }
        Ok(true)
    }

    fn name(&mut self) -> Result<(), Box<Reject>> {
        self.string()?;
        self.blanks();
        self.expect(b':', "`:` expected after a name")?;
        self.blanks();
        Ok(())
    }

    /// After a value: closes what closes and stands before the next value, or says that the outermost has ended.
    fn after_value(&mut self, open: &[u64], depth: &mut usize) -> Result<bool, Box<Reject>> {
        while *depth > 0 {
            let is_object = top(open, *depth - 1);
            self.blanks();
            match self.peek() {
                b',' => {
                    self.at += 1;
                    self.blanks();
                    if is_object {
                        self.name()?;
                    }
                    return Ok(false);
                }
                b'}' if is_object => self.at += 1,
                b']' if !is_object => self.at += 1,
                _ => return Err(self.broken("`,` or a closing bracket expected")),
            }
            *depth -= 1;
        }
        Ok(true)
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Box<Reject>> {
        if !self.raw[self.at..].starts_with(word) {
            return Err(self.broken("a value expected"));
        }
        self.at += word.len();
        Ok(())
    }
}

fn push(open: &mut Vec<u64>, depth: usize, is_object: bool) {
    let (word, bit) = (depth / 64, depth % 64);
    if open.len() <= word {
        open.push(0);
    }
    open[word] = open[word] & !(1 << bit) | u64::from(is_object) << bit;
}

fn top(open: &[u64], depth: usize) -> bool {
    open[depth / 64] >> (depth % 64) & 1 == 1
}

/// How many bytes from the start on are neither `"` nor `\` nor below blank: eight at a time.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut len = 0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("a chunk has eight bytes"));
        let stop = has_zero(word ^ (ONES * u64::from(b'"')))
            | has_zero(word ^ (ONES * u64::from(b'\\')))
            | (word.wrapping_sub(ONES * 0x20) & !word & HIGH);
        if stop != 0 {
            // The lowest marked byte is exact; borrows can only mark bytes above it.
            return len + stop.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + chunks.remainder().iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count()
}

#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    // Names are short: a loop beats a call.
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

#[inline]
fn find(schema: &Schema, name: &[u8]) -> Option<u8> {
    schema.fields.iter().position(|field| same(field.from.as_bytes(), name)).map(|i| i as u8)
}

#[cfg(test)]
mod tests;
