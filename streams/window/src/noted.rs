//! An event as steps keep it that compare it with others: what names it, and the values they need of it.

use granary_core::Timestamp;

use crate::Corrupt;
use crate::encode::{Reader, put_datum, put_i64, put_u64};
use crate::shelf::Stored;
use crate::value::{Datum, Value};

/// A kept event.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// What names it.
    pub id: Datum,
    /// When it happened.
    pub time: Timestamp,
    /// What conditions on it alone have said when it came, a bit for each.
    pub truths: u64,
    /// The values that are needed of it.
    pub values: Box<[Datum]>,
}

impl Noted {
    /// A value; null beyond the last.
    pub fn value(&self, at: usize) -> Value<'_> {
        self.values.get(at).map_or(Value::Null, Datum::value)
    }
}

fn heap_bytes(datum: &Datum) -> usize {
    if let Datum::Text(text) = datum { text.len() } else { 0 }
}

impl Stored for Noted {
    fn put(&self, out: &mut Vec<u8>) {
        put_datum(out, &self.id);
        put_i64(out, self.time.ms());
        put_u64(out, self.truths);
        put_u64(out, self.values.len() as u64);
        self.values.iter().for_each(|value| put_datum(out, value));
    }

    fn read(bytes: &[u8]) -> Result<Noted, Corrupt> {
        let mut reader = Reader::new(bytes);
        let (id, time, truths) = (reader.datum()?, Timestamp(reader.i64()?), reader.u64()?);
        let values = (0..reader.count()?).map(|_| reader.datum()).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Noted { id, time, truths, values })
    }

    fn bytes(&self) -> usize {
        let values = self.values.len() * size_of::<Datum>();
        size_of::<Noted>() + heap_bytes(&self.id) + values + self.values.iter().map(heap_bytes).sum::<usize>()
    }
}
