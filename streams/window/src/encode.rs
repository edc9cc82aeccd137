//! Numbers and bytes as cells hold them: variable-length integers, lengths before bytes. Reading damaged bytes gives
//! [`Corrupt`], never a panic, and never allocates more than the bytes at hand justify.

use crate::Corrupt;
use crate::value::Datum;

/// The version every cell begins with.
pub(crate) const VERSION: u8 = 2;

/// Appends an unsigned number, seven bits a byte.
#[inline]
pub(crate) fn put_u64(out: &mut Vec<u8>, n: u64) {
    if n < 0x80 {
        out.push(n as u8);
    } else {
        put_long(out, n);
    }
}

fn put_long(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number; small ones, of either sign, are short.
pub(crate) fn put_i64(out: &mut Vec<u8>, n: i64) {
    put_u64(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a wide number.
pub(crate) fn put_i128(out: &mut Vec<u8>, n: i128) {
    if let Ok(small) = i64::try_from(n) {
        out.push(0);
        put_i64(out, small);
    } else {
        out.push(1);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

/// Appends a double, bit by bit.
pub(crate) fn put_f64(out: &mut Vec<u8>, x: f64) {
    out.extend_from_slice(&x.to_bits().to_le_bytes());
}

/// Appends a length and bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a kept value.
pub(crate) fn put_datum(out: &mut Vec<u8>, datum: &Datum) {
    match datum {
        Datum::Null => out.push(0),
        Datum::Bool(b) => out.push(1 + u8::from(*b)),
        Datum::Int(n) => {
            out.push(3);
            put_i64(out, *n);
        }
        Datum::Double(x) => {
            out.push(4);
            put_f64(out, *x);
        }
        Datum::Text(t) => {
            out.push(5);
            put_bytes(out, t);
        }
    }
}

/// Reads what the functions above wrote.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a part of a cell.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Reads a cell: checks its version.
    pub(crate) fn cell(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader { rest: bytes };
        if reader.byte()? != VERSION {
            return Err(Corrupt { what: "cell version 2 expected" });
        }
        Ok(reader)
    }

    /// Everything was read.
    pub(crate) fn finish(self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(Corrupt { what: "bytes after the end" }) }
    }

    /// The bytes that are left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Corrupt> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Corrupt { what: "more bytes expected" })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Corrupt> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Corrupt { what: "number too long" })
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Corrupt> {
        u32::try_from(self.u64()?).map_err(|_| Corrupt { what: "number too large" })
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Corrupt> {
        let n = self.u64()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub(crate) fn i128(&mut self) -> Result<i128, Corrupt> {
        match self.byte()? {
            0 => Ok(i128::from(self.i64()?)),
            1 => Ok(i128::from_le_bytes(self.array()?)),
            _ => Err(Corrupt { what: "wide number expected" }),
        }
    }

    pub(crate) fn f64(&mut self) -> Result<f64, Corrupt> {
        Ok(f64::from_bits(u64::from_le_bytes(self.array()?)))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        self.take(N)?.try_into().map_err(|_| Corrupt { what: "more bytes expected" })
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let n = self.u64()?;
        self.take(usize::try_from(n).map_err(|_| Corrupt { what: "length too large" })?)
    }

    /// How many items follow, each of at least one byte: never more than bytes are left.
    pub(crate) fn count(&mut self) -> Result<usize, Corrupt> {
        let n = self.u64()?;
        if n > self.rest.len() as u64 {
            return Err(Corrupt { what: "count larger than the cell" });
        }
        Ok(n as usize)
    }

    pub(crate) fn datum(&mut self) -> Result<Datum, Corrupt> {
        Ok(match self.byte()? {
            0 => Datum::Null,
            1 => Datum::Bool(false),
            2 => Datum::Bool(true),
            3 => Datum::Int(self.i64()?),
            4 => Datum::Double(self.f64()?),
            5 => Datum::Text(self.bytes()?.into()),
            _ => return Err(Corrupt { what: "value expected" }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_writing_and_reading() {
        let mut out = vec![VERSION];
        let signed = [0, -1, 1, 63, -64, 64, i64::MIN, i64::MAX];
        let wide = [0, i128::from(i64::MAX) + 1, i128::MIN, i128::MAX];
        signed.iter().for_each(|n| put_i64(&mut out, *n));
        wide.iter().for_each(|n| put_i128(&mut out, *n));
        put_u64(&mut out, u64::MAX);
        let mut reader = Reader::cell(&out).unwrap();
        for n in signed {
            assert_eq!(reader.i64().unwrap(), n);
        }
        for n in wide {
            assert_eq!(reader.i128().unwrap(), n);
        }
        assert_eq!(reader.u64().unwrap(), u64::MAX);
        reader.finish().unwrap();
    }

    #[test]
    fn damage_is_an_error() {
        assert!(Reader::cell(&[]).is_err());
        assert!(Reader::cell(&[9]).is_err());
        assert!(Reader { rest: &[0xff; 12] }.u64().is_err());
        assert!(Reader { rest: &[5, 1, 2] }.bytes().is_err());
        assert!(Reader { rest: &[100] }.count().is_err());
        assert!(Reader { rest: &[9] }.datum().is_err());
    }
}
