//! Cells of the keys.
//!
//! | cell | key after the step's prefix | holds |
//! |---|---|---|
//! | root | `R` | how far the partitions have come, whether the input has ended |
//! | agenda | `A`... | see [`crate::agenda`] |
//! | key | `K`, key | clocks, remembered ids, the machine, its newest events |
//! | chunk | `C`, key, number (8 bytes) | older events |

use granary_core::Timestamp;

use super::{Machine, Track, Tracks};
use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_i64};
use crate::ids::Remembered;
use crate::operator::Put;
use crate::shelf::Shelf;

const ROOT: u8 = b'R';
const AGENDA: u8 = b'A';
const KEY: u8 = b'K';
const CHUNK: u8 = b'C';

fn cell(prefix: &[u8], kind: u8, key: &[u8], number: Option<u64>) -> Vec<u8> {
    let number = number.map(u64::to_be_bytes);
    [prefix, &[kind], key, number.as_ref().map_or(&[][..], |number| number)].concat()
}

impl<M: Machine> Tracks<M> {
    /// The keys of its cells begin with this.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Appends the cells that must be supplied before anything is done.
    pub fn missing_root(&self, cells: &mut Vec<Vec<u8>>) {
        if !self.has_root {
            cells.push(cell(&self.prefix, ROOT, b"", None));
        }
        self.agenda.missing(cells);
    }

    /// Appends the cells that must be supplied before an event of this key. Ask again after supplying: what one cell says may call
    /// for others.
    pub fn missing(&self, key: &[u8], cells: &mut Vec<Vec<u8>>) {
        self.missing_root(cells);
        if self.keys.contains_key(key) {
            return;
        }
        match self.loading.get(key) {
            None => cells.push(cell(&self.prefix, KEY, key, None)),
            Some(track) => {
                let absent = track.machine.shelf().absent();
                cells.extend(absent.map(|base| cell(&self.prefix, CHUNK, key, Some(base))));
            }
        }
    }

    /// Appends the cells that must be supplied before the next portion of what is due.
    pub fn missing_due(&mut self, cells: &mut Vec<Vec<u8>>) {
        let before = cells.len();
        self.missing_root(cells);
        if cells.len() > before {
            return;
        }
        let keys = self.agenda.page(cells).map(<[_]>::to_vec);
        keys.iter().flatten().for_each(|key| self.missing(key, cells));
    }

    /// Hands over a cell that was missing: `None` when the store has none. One that is in memory already is passed over.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let wrong = Corrupt { what: "a cell of the step expected" };
        let (kind, rest) =
            cell.strip_prefix(&*self.prefix).and_then(<[u8]>::split_first).ok_or_else(|| wrong.clone())?;
        match (*kind, value) {
            (AGENDA, value) => self.agenda.supply(cell, value),
            (ROOT, value) => self.supply_root(value),
            (KEY, _) if self.keys.contains_key(rest) || self.loading.contains_key(rest) => Ok(()),
            (KEY, None) => {
                self.settle_in(rest, Track::new(M::new(&self.of)));
                Ok(())
            }
            (KEY, Some(value)) => {
                let track = self.read(value)?;
                self.loading.insert(rest.into(), track);
                self.settle(rest)
            }
            (CHUNK, Some(value)) => {
                let (key, base) = rest.split_last_chunk::<8>().ok_or(wrong)?;
                let Some(track) = self.loading.get_mut(key) else { return Ok(()) };
                track.machine.shelf_mut().supply(u64::from_be_bytes(*base), value)?;
                self.settle(key)
            }
            _ => Err(wrong),
        }
    }

    fn supply_root(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        if std::mem::replace(&mut self.has_root, true) {
            return Ok(());
        }
        let Some(value) = value else { return Ok(()) };
        let mut reader = Reader::cell(value)?;
        self.has_ended = reader.byte()? != 0;
        self.heard.read(&mut reader)?;
        reader.finish()
    }

    fn read(&self, value: &[u8]) -> Result<Track<M>, Corrupt> {
        let mut reader = Reader::cell(value)?;
        let clocks = [reader.i64()?, reader.i64()?];
        let heard = [reader.i64()?, reader.i64()?];
        let listed = reader.i64()?;
        let ids = Remembered::decode(&mut reader)?;
        let mut machine = M::read(&self.of, &mut reader)?;
        *machine.shelf_mut() = Shelf::read(&mut reader)?;
        reader.finish()?;
        Ok(Track { clocks, heard, listed, ids, ..Track::new(machine) })
    }

    /// A key of which all is there takes its place.
    fn settle(&mut self, key: &[u8]) -> Result<(), Corrupt> {
        let is_whole = |track: &Track<M>| track.machine.shelf().absent().next().is_none();
        if !self.loading.get(key).is_some_and(is_whole) {
            return Ok(());
        }
        let Some(mut track) = self.loading.remove(key) else { return Ok(()) };
        track.machine.settle()?;
        self.settle_in(key, track);
        Ok(())
    }

    fn settle_in(&mut self, key: &[u8], mut track: Track<M>) {
        track.bytes = track.memory_bytes(key);
        self.bytes += track.bytes;
        self.keys.insert(key.into(), track);
    }

    /// Hands the cells that changed to `put`, `None` for a deletion: they are part of commit `n`.
    pub fn seal(&mut self, n: u64, put: &mut Put<'_>) {
        let Tracks { prefix, keys, dirty, .. } = self;
        let mut out = Vec::new();
        for key in std::mem::take(dirty) {
            let Some(track) = keys.get_mut(&key) else { continue };
            (track.is_dirty, track.sealed) = (false, n);
            track.machine.shelf_mut().seal(|base, value| put(&cell(prefix, CHUNK, &key, Some(base)), value));
            out.clear();
            track.put(&mut out);
            put(&cell(prefix, KEY, &key, None), Some(&out));
        }
        if std::mem::take(&mut self.is_root_dirty) {
            out.clear();
            out.extend([VERSION, u8::from(self.has_ended)]);
            self.heard.put(&mut out);
            put(&cell(prefix, ROOT, b"", None), Some(&out));
        }
        self.agenda.seal(n, &mut |cell: &[u8], value: Option<&[u8]>| put(cell, value));
    }

    /// The store has commit `n`: what did not change since may leave memory.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = self.acknowledged.max(n);
        self.agenda.acknowledged(n);
    }

    /// Lets keys go that the store has and nobody used lately, until memory is about this; looks at so many at most.
    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        let Tracks { keys, bytes, acknowledged, .. } = self;
        let mut looks = 0;
        keys.retain(|_, track| {
            looks += 1;
            let is_held = track.is_dirty || track.sealed > *acknowledged;
            if *bytes <= target_bytes || looks > looks_max || is_held || std::mem::take(&mut track.is_touched)
            {
                return true;
            }
            *bytes -= track.bytes;
            false
        });
        self.agenda.evict();
    }

    /// How many cells a seal would write now, about.
    pub fn open_cells(&self) -> usize {
        self.dirty.len() + self.dirty.len() / 8 + self.agenda.open_cells() + 1
    }

    /// Bytes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.agenda.memory_bytes()
    }

    /// The watermark of a key, if it is in memory and has one.
    pub fn watermark(&self, key: &[u8]) -> Option<Timestamp> {
        let w = self.keys.get(key)?.watermark(self.paces.len());
        (w != i64::MIN).then_some(Timestamp(w))
    }
}

impl<M: Machine> Track<M> {
    pub(super) fn memory_bytes(&self, key: &[u8]) -> usize {
        size_of::<Track<M>>() + key.len() + self.machine.shelf().bytes() + self.ids.len() * 64
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.clocks.iter().chain(&self.heard).for_each(|ms| put_i64(out, *ms));
        put_i64(out, self.listed);
        self.ids.encode(out);
        self.machine.put(out);
        self.machine.shelf().put(out);
    }
}
