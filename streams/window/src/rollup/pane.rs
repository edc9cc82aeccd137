//! One window of a roll-up: the newest version of each row in it.
//!
//! Rows are numbered in the order in which they were first seen and lie in chunks of [`CHUNK_ROWS`], a cell each: a row that is
//! corrected has its chunk written again, not the pane.

use std::collections::BTreeSet;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::Corrupt;
use crate::agenda::NOT_LISTED;
use crate::encode::{Reader, VERSION, put_bytes, put_datum, put_i64, put_u64};
use crate::value::{Datum, Value};

/// Rows of one pane: what comes beyond is set aside.
pub const ROWS_MAX: usize = 65_536;
/// Rows of a chunk.
const CHUNK_ROWS: usize = 64;
/// Memory of a row beside its own bytes, about.
const ROW_BYTES: usize = 96;

/// A row of the step before.
#[derive(Debug)]
pub(super) struct Held {
    pub id: Box<[u8]>,
    pub time_ms: i64,
    /// `None`: it was withdrawn.
    pub values: Option<Box<[Datum]>>,
}

impl Held {
    fn bytes(&self) -> usize {
        let of =
            |datum: &Datum| size_of::<Datum>() + if let Datum::Text(text) = datum { text.len() } else { 0 };
        ROW_BYTES + 2 * self.id.len() + self.values.iter().flatten().map(of).sum::<usize>()
    }
}

/// A window of a key.
#[derive(Debug)]
pub(super) struct Pane {
    rows: Vec<Held>,
    places: HashMap<Box<[u8]>, u32, FixedState>,
    /// How many rows are not withdrawn.
    live: usize,
    /// Bytes of all rows, about.
    row_bytes: usize,
    /// The next revision.
    pub revision: u32,
    /// Its window was due.
    pub is_due: bool,
    /// A row of it stands with whoever reads them.
    pub stands: bool,
    /// Under which date the agenda has it.
    pub listed: i64,
    /// How many rows its cells hold; those that were not supplied yet are missing in `rows`.
    stored: usize,
    chunks: BTreeSet<u32>,
    pub is_dirty: bool,
    pub is_touched: bool,
    pub sealed: u64,
    /// It has a cell.
    pub is_stored: bool,
    pub bytes: usize,
}

impl Pane {
    pub fn new() -> Pane {
        Pane {
            rows: Vec::new(),
            places: HashMap::default(),
            live: 0,
            row_bytes: 0,
            revision: 0,
            is_due: false,
            stands: false,
            listed: NOT_LISTED,
            stored: 0,
            chunks: BTreeSet::new(),
            is_dirty: false,
            is_touched: true,
            sealed: 0,
            is_stored: false,
            bytes: 0,
        }
    }

    /// Whether all rows were withdrawn, or none came.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Puts a row in, or its new version, or takes it out; false when there is no room.
    pub fn put(&mut self, id: &[u8], time_ms: i64, values: Option<&[Value<'_>]>) -> bool {
        let place = match self.places.get(id) {
            Some(place) => *place as usize,
            None if values.is_none() => return true, // what was never there need not go
            None if self.rows.len() >= ROWS_MAX => return false,
            None => {
                self.places.insert(id.into(), self.rows.len() as u32);
                let row = Held { id: id.into(), time_ms, values: None };
                self.row_bytes += row.bytes();
                self.rows.push(row);
                self.rows.len() - 1
            }
        };
        let row = &mut self.rows[place];
        self.row_bytes -= row.bytes();
        self.live -= usize::from(row.values.is_some());
        self.live += usize::from(values.is_some());
        row.time_ms = time_ms;
        row.values = values.map(|values| values.iter().map(|value| value.keep()).collect());
        self.row_bytes += row.bytes();
        self.chunks.insert((place / CHUNK_ROWS) as u32);
        true
    }

    /// The rows that count, by their ids: an order that does not depend on when they came.
    pub fn live(&self) -> Vec<(&Held, &[Datum])> {
        let live = self.rows.iter().filter_map(|row| Some((row, row.values.as_deref()?)));
        let mut live: Vec<_> = live.collect();
        live.sort_unstable_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        live
    }

    /// Bytes of memory, about.
    pub fn memory_bytes(&self, name: &[u8]) -> usize {
        size_of::<Pane>() + 2 * name.len() + self.row_bytes
    }

    /// The chunks that have to be supplied.
    pub fn absent(&self) -> impl Iterator<Item = u32> + use<> {
        let supplied = self.rows.len().div_ceil(CHUNK_ROWS) as u32;
        supplied..self.stored.div_ceil(CHUNK_ROWS) as u32
    }

    /// All chunks that the store has.
    pub fn stored_chunks(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.stored.div_ceil(CHUNK_ROWS) as u32
    }

    /// Writes what has changed: chunks by their numbers, then the rest of it.
    pub fn seal(&mut self, out: &mut Vec<u8>, mut put: impl FnMut(Option<u32>, &[u8])) {
        for chunk in std::mem::take(&mut self.chunks) {
            out.clear();
            out.push(VERSION);
            let from = chunk as usize * CHUNK_ROWS;
            let rows = &self.rows[from..self.rows.len().min(from + CHUNK_ROWS)];
            put_u64(out, rows.len() as u64);
            for row in rows {
                put_bytes(out, &row.id);
                put_i64(out, row.time_ms);
                put_u64(out, row.values.as_ref().map_or(0, |values| values.len() as u64 + 1));
                row.values.iter().flatten().for_each(|datum| put_datum(out, datum));
            }
            put(Some(chunk), out);
        }
        self.stored = self.rows.len();
        out.clear();
        out.push(VERSION);
        put_i64(out, self.listed);
        put_u64(out, u64::from(self.revision));
        out.push(u8::from(self.is_due) | u8::from(self.stands) << 1);
        put_u64(out, self.stored as u64);
        put(None, out);
        self.is_stored = true;
    }

    /// Reads its cell; the chunks follow, in their order.
    pub fn read(value: &[u8]) -> Result<Pane, Corrupt> {
        let mut reader = Reader::cell(value)?;
        let (listed, revision, flags) = (reader.i64()?, reader.u32()?, reader.byte()?);
        let stored = usize::try_from(reader.u64()?).ok().filter(|rows| *rows <= ROWS_MAX);
        let stored = stored.ok_or(Corrupt { what: "the number of a pane's rows expected" })?;
        reader.finish()?;
        let (is_due, stands) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Pane { listed, revision, is_due, stands, stored, is_stored: true, ..Pane::new() })
    }

    /// Takes a chunk; one that is there already, or comes before its turn, is passed over.
    pub fn supply(&mut self, chunk: u32, value: &[u8]) -> Result<(), Corrupt> {
        if self.absent().next() != Some(chunk) {
            return Ok(());
        }
        let wrong = Corrupt { what: "the rows of a pane expected" };
        let mut reader = Reader::cell(value)?;
        let count = reader.count()?;
        if count != (self.stored - self.rows.len()).min(CHUNK_ROWS) {
            return Err(wrong);
        }
        for _ in 0..count {
            let (id, time_ms): (Box<[u8]>, i64) = (reader.bytes()?.into(), reader.i64()?);
            let values = match reader.count()? {
                0 => None,
                n => Some((1..n).map(|_| reader.datum()).collect::<Result<Box<[Datum]>, _>>()?),
            };
            self.live += usize::from(values.is_some());
            if self.places.insert(id.clone(), self.rows.len() as u32).is_some() {
                return Err(wrong);
            }
            let row = Held { id, time_ms, values };
            self.row_bytes += row.bytes();
            self.rows.push(row);
        }
        reader.finish()
    }
}
