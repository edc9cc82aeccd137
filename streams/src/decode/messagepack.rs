//! One MessagePack map whose names are text. The whole record is validated, ignored values included.

use super::{DEPTH_MAX, Decoded, Found, Reject, Rule, Schema, none_missing};

/// Reads one map into `decoded.found`.
pub(super) fn read(schema: &Schema, raw: &[u8], decoded: &mut Decoded) -> Result<(), Box<Reject>> {
    decoded.found.clear();
    decoded.found.resize(schema.fields.len(), Found::Missing);
    let mut reader = Reader { raw, at: 0 };
    let members = match reader.token()? {
        Token::Map(members) => members,
        _ => return Err(reader.broken("a map expected")),
    };
    let mut twice = None;
    for _ in 0..members {
        let Token::Text(from, to) = reader.token()? else {
            return Err(reader.broken("names are text"));
        };
        let name = &raw[from..to];
        let i = schema.fields.iter().position(|field| field.from.as_bytes() == name);
        let found = reader.value(&mut decoded.open)?;
        if let Some(i) = i {
            if !matches!(decoded.found[i], Found::Missing) {
                twice.get_or_insert(i);
            } else {
                decoded.found[i] = found;
            }
        }
    }
    if reader.at != raw.len() {
        return Err(reader.broken("nothing expected after the map"));
    }
    if let Some(i) = twice {
        let field = &schema.fields[i];
        return Err(Reject::of(Rule::Fields, field, format_args!("`{}` stands more than once", field.from)));
    }
    none_missing(schema, decoded)
}

enum Token {
    Plain(Found),
    Text(usize, usize),
    List(u64),
    Map(u64),
}

struct Reader<'a> {
    raw: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    #[cold]
    fn broken(&self, what: &str) -> Box<Reject> {
        Reject::whole(Rule::MessagePack, format!("not one MessagePack map: {what} (byte {})", self.at))
    }

    fn take(&mut self, len: u64) -> Result<(usize, usize), Box<Reject>> {
        let left = (self.raw.len() - self.at) as u64;
        if len > left {
            return Err(self.broken("the record ends too early"));
        }
        let from = self.at;
        self.at += len as usize;
        Ok((from, self.at))
    }

    /// The next `len` bytes as an unsigned number.
    fn number(&mut self, len: u64) -> Result<u64, Box<Reject>> {
        let (from, to) = self.take(len)?;
        Ok(self.raw[from..to].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self, len: u64) -> Result<Token, Box<Reject>> {
        let (from, to) = self.take(len)?;
        match std::str::from_utf8(&self.raw[from..to]) {
            Ok(_) => Ok(Token::Text(from, to)),
            Err(error) => {
                let at = from + error.valid_up_to();
                Err(Reject::whole(Rule::Utf8, format!("invalid UTF-8 after byte {at}")))
            }
        }
    }

    fn binary(&mut self, len: u64) -> Result<Token, Box<Reject>> {
        self.take(len)?;
        Ok(Token::Plain(Found::Binary))
    }

    fn token(&mut self) -> Result<Token, Box<Reject>> {
        let tag = self.number(1)? as u8;
        Ok(match tag {
            0x00..=0x7f => Token::Plain(Found::Int(i64::from(tag))),
            0xe0..=0xff => Token::Plain(Found::Int(i64::from(tag as i8))),
            0x80..=0x8f => Token::Map(u64::from(tag & 0x0f)),
            0x90..=0x9f => Token::List(u64::from(tag & 0x0f)),
            0xa0..=0xbf => return self.text(u64::from(tag & 0x1f)),
            0xc0 => Token::Plain(Found::Null),
            0xc2 => Token::Plain(Found::Bool(false)),
            0xc3 => Token::Plain(Found::Bool(true)),
            0xca => Token::Plain(Found::Double(f64::from(f32::from_bits(self.number(4)? as u32)))),
            0xcb => Token::Plain(Found::Double(f64::from_bits(self.number(8)?))),
            0xcc..=0xcf => {
                let value = self.number(1 << (tag - 0xcc))?;
                Token::Plain(i64::try_from(value).map_or(Found::Huge(value), Found::Int))
            }
            0xd0..=0xd3 => {
                let bytes = 1_u32 << (tag - 0xd0);
                let unused = 64 - 8 * bytes;
                let value = (self.number(u64::from(bytes))? << unused) as i64 >> unused;
                Token::Plain(Found::Int(value))
            }
            0xd9..=0xdb => {
                let len = self.number(1 << (tag - 0xd9))?;
                return self.text(len);
            }
            0xdc | 0xdd => Token::List(self.number(2 << (tag - 0xdc))?),
            0xde | 0xdf => Token::Map(self.number(2 << (tag - 0xde))?),
            0xc4..=0xc6 => {
                let len = self.number(1 << (tag - 0xc4))?;
                return self.binary(len);
            }
            // An extension: its type takes one byte more.
            0xc7..=0xc9 => {
                let len = self.number(1 << (tag - 0xc7))?;
                return self.binary(len + 1);
            }
            0xd4..=0xd8 => return self.binary((1 << (tag - 0xd4)) + 1),
            0xc1 => return Err(self.broken("the byte c1 means nothing")),
        })
    }

    /// One whole value, what is inside it validated. `open` counts the values still to come on each level.
    fn value(&mut self, open: &mut Vec<u64>) -> Result<Found, Box<Reject>> {
        open.clear();
        let mut outermost = None;
        loop {
            let (found, inside) = match self.token()? {
                Token::Plain(found) => (found, 0),
                Token::Text(from, to) => (Found::Text(from as u32..to as u32), 0),
                Token::List(len) => (Found::List, len),
                Token::Map(len) => (Found::Map, 2 * len),
            };
            outermost.get_or_insert(found);
            if inside > 0 {
                if open.len() == DEPTH_MAX {
                    return Err(self.broken("nested too deeply"));
                }
                open.push(inside);
            }
            while open.last() == Some(&0) {
                open.pop();
            }
            match open.last_mut() {
                Some(left) => *left -= 1,
                None => return Ok(outermost.unwrap_or_default()),
            }
        }
    }
}
