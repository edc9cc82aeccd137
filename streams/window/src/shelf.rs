//! The events that a step keeps of one key, in the order of their arrival, in chunks that are stored by themselves.
//!
//! The newest chunk is stored with its key: most keys have no other. Once it is full it gets a cell of its own and never changes
//! again. What becomes of its events later, taken note of or gone, is a bit of each, and these stand with the key: so an event
//! of a key that has many writes few bytes.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_bytes, put_i64, put_u64};
use crate::ids::Id;

/// Events of a chunk: a bit of a word for each.
const CHUNK_EVENTS_MAX: usize = 64;
/// A chunk with so many bytes takes no further event.
const CHUNK_BYTES_MAX: usize = 16 << 10;
/// Memory of an event beside its own bytes, about.
const ENTRY_BYTES: usize = 64;

/// An event that can be kept in a cell.
pub trait Stored: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads what [`Stored::put`] wrote: all of `bytes`.
    fn read(bytes: &[u8]) -> Result<Self, Corrupt>;
    /// How many bytes of memory it takes, about.
    fn bytes(&self) -> usize;
}

impl<E: Stored> Stored for Option<E> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(event) = self {
            event.put(out);
        }
    }

    fn read(bytes: &[u8]) -> Result<Option<E>, Corrupt> {
        match bytes.split_first() {
            Some((0, [])) => Ok(None),
            Some((1, event)) => E::read(event).map(Some),
            _ => Err(Corrupt { what: "an event or none expected" }),
        }
    }

    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, E::bytes)
    }
}

/// A kept event.
#[derive(Debug)]
pub(crate) struct Entry<E> {
    pub ms: i64,
    /// What its step says of it, for ever.
    pub tag: u8,
    /// What its step says of it since some time.
    pub is_marked: bool,
    /// By which copies of it are known.
    pub id: Option<Id>,
    pub event: E,
}

#[derive(Debug)]
struct Chunk<E> {
    entries: Vec<Option<Entry<E>>>,
    live: u64,
    marked: u64,
    bytes: usize,
    /// It has a cell of its own.
    is_stored: bool,
    /// Its cell was not supplied yet.
    is_absent: bool,
}

/// The events of one key.
#[derive(Debug)]
pub struct Shelf<E> {
    /// The number of the next event.
    next: u64,
    /// By the number of their first event.
    chunks: BTreeMap<u64, Chunk<E>>,
    /// The chunk that takes the next event.
    open: Option<u64>,
    /// Chunks that are gone and still stored.
    dropped: Vec<u64>,
    len: usize,
    bytes: usize,
    /// The ids of the events.
    ids: HashSet<Id, FixedState>,
    /// The id of the next event.
    next_id: Option<Id>,
    /// Ids of events that are gone since somebody asked, and their times.
    gone: Vec<(Id, i64)>,
}

impl<E: Stored> Shelf<E> {
    pub(crate) fn new() -> Shelf<E> {
        Shelf {
            next: 0,
            chunks: BTreeMap::new(),
            open: None,
            dropped: Vec::new(),
            len: 0,
            bytes: 0,
            ids: HashSet::default(),
            next_id: None,
            gone: Vec::new(),
        }
    }

    /// How many events there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes of memory they take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next event has this id.
    pub(crate) fn name_next(&mut self, id: Option<Id>) {
        self.next_id = id;
    }

    /// Whether an event with this id is here.
    pub(crate) fn has(&self, id: &Id) -> bool {
        self.ids.contains(id)
    }

    /// The ids of events that are gone since this was asked last, and their times.
    pub(crate) fn take_gone(&mut self) -> Vec<(Id, i64)> {
        std::mem::take(&mut self.gone)
    }

    /// Adds an event; its number.
    pub(crate) fn push(&mut self, ms: i64, tag: u8, event: E) -> u64 {
        let no = self.next;
        self.next += 1;
        let is_full =
            |chunk: &Chunk<E>| chunk.entries.len() >= CHUNK_EVENTS_MAX || chunk.bytes >= CHUNK_BYTES_MAX;
        let open = self.open.filter(|base| !is_full(&self.chunks[base])).unwrap_or(no);
        self.open = Some(open);
        let bytes = ENTRY_BYTES + event.bytes();
        let chunk = self.chunks.entry(open).or_insert_with(Chunk::new);
        chunk.live |= 1 << chunk.entries.len();
        let id = self.next_id.take();
        self.ids.extend(id);
        chunk.entries.push(Some(Entry { ms, tag, is_marked: false, id, event }));
        chunk.bytes += bytes;
        self.bytes += bytes;
        self.len += 1;
        no
    }

    fn place(&self, no: u64) -> Option<(u64, usize)> {
        let base = *self.chunks.range(..=no).next_back()?.0;
        Some((base, usize::try_from(no - base).ok()?))
    }

    pub(crate) fn get(&self, no: u64) -> Option<&Entry<E>> {
        let (base, at) = self.place(no)?;
        self.chunks[&base].entries.get(at)?.as_ref()
    }

    /// Marks an event.
    pub(crate) fn mark(&mut self, no: u64) {
        let Some((base, at)) = self.place(no) else { return };
        let Some(chunk) = self.chunks.get_mut(&base) else { return };
        if let Some(Some(entry)) = chunk.entries.get_mut(at) {
            entry.is_marked = true;
            chunk.marked |= 1 << at;
        }
    }

    /// Takes an event away.
    pub(crate) fn remove(&mut self, no: u64) -> Option<Entry<E>> {
        let (base, at) = self.place(no)?;
        let chunk = self.chunks.get_mut(&base)?;
        let entry = chunk.entries.get_mut(at)?.take()?;
        chunk.live &= !(1 << at);
        if let Some(id) = entry.id {
            self.ids.remove(&id);
            self.gone.push((id, entry.ms));
        }
        self.len -= 1;
        self.bytes -= ENTRY_BYTES + entry.event.bytes();
        if chunk.live == 0 {
            if chunk.is_stored {
                self.dropped.push(base);
            }
            self.chunks.remove(&base);
            self.open = self.open.filter(|open| *open != base);
        }
        Some(entry)
    }

    /// All events with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Entry<E>)> {
        self.chunks.iter().flat_map(|(base, chunk)| {
            (*base..).zip(&chunk.entries).filter_map(|(no, entry)| Some((no, entry.as_ref()?)))
        })
    }

    /// Appends what stands with the key.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.next);
        put_u64(out, self.chunks.len() as u64);
        for (base, chunk) in &self.chunks {
            let is_open = self.open == Some(*base);
            put_u64(out, *base);
            put_u64(out, (chunk.entries.len() as u64) << 1 | u64::from(is_open));
            out.extend_from_slice(&chunk.live.to_le_bytes());
            out.extend_from_slice(&chunk.marked.to_le_bytes());
            if is_open {
                chunk.put(out);
            }
        }
    }

    /// Reads what stands with the key; [`Shelf::absent`] says what is still to be supplied.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Shelf<E>, Corrupt> {
        let mut shelf = Shelf { next: reader.u64()?, ..Shelf::new() };
        for _ in 0..reader.count()? {
            let (base, count) = (reader.u64()?, reader.u64()?);
            let (is_open, count) = (count & 1 == 1, (count >> 1) as usize);
            let (live, marked) = (u64::from_le_bytes(reader.array()?), u64::from_le_bytes(reader.array()?));
            let is_sound = (1..=CHUNK_EVENTS_MAX).contains(&count)
                && live != 0
                && (u64::BITS - live.leading_zeros()) as usize <= count
                && base.checked_add(count as u64).is_some_and(|end| end <= shelf.next);
            if !is_sound || shelf.open.is_some() {
                return Err(Corrupt { what: "a chunk of events expected" });
            }
            let entries = (0..count).map(|_| None).collect();
            let mut chunk =
                Chunk { entries, live, marked, bytes: 0, is_stored: !is_open, is_absent: !is_open };
            shelf.len += live.count_ones() as usize;
            if is_open {
                chunk.read(reader)?;
                shelf.bytes += chunk.bytes_live();
                shelf.ids.extend(chunk.ids());
                shelf.open = Some(base);
            }
            shelf.chunks.insert(base, chunk);
        }
        Ok(shelf)
    }

    /// The chunks that are to be supplied.
    pub(crate) fn absent(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().filter(|(_, chunk)| chunk.is_absent).map(|(base, _)| *base)
    }

    /// Takes a chunk's cell.
    pub(crate) fn supply(&mut self, base: u64, value: &[u8]) -> Result<(), Corrupt> {
        let chunk = self.chunks.get_mut(&base).ok_or(Corrupt { what: "a chunk of the key expected" })?;
        if std::mem::take(&mut chunk.is_absent) {
            let mut reader = Reader::cell(value)?;
            chunk.read(&mut reader)?;
            reader.finish()?;
            self.bytes += chunk.bytes_live();
            self.ids.extend(chunk.ids());
        }
        Ok(())
    }

    /// Hands the chunks whose cells changed to `put`, `None` for a deletion.
    pub(crate) fn seal(&mut self, mut put: impl FnMut(u64, Option<&[u8]>)) {
        for base in std::mem::take(&mut self.dropped) {
            put(base, None);
        }
        let open = self.open;
        let mut out = Vec::new();
        let unstored =
            self.chunks.iter_mut().filter(|(base, chunk)| !chunk.is_stored && open != Some(**base));
        for (base, chunk) in unstored {
            out.clear();
            out.push(VERSION);
            chunk.put(&mut out);
            chunk.is_stored = true;
            put(*base, Some(&out));
        }
    }
}

impl<E: Stored> Chunk<E> {
    fn new() -> Chunk<E> {
        Chunk { entries: Vec::new(), live: 0, marked: 0, bytes: 0, is_stored: false, is_absent: false }
    }

    fn bytes_live(&self) -> usize {
        self.entries.iter().flatten().map(|entry| ENTRY_BYTES + entry.event.bytes()).sum()
    }

    fn ids(&self) -> impl Iterator<Item = Id> {
        self.entries.iter().flatten().filter_map(|entry| entry.id)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.bytes as u64);
        put_u64(out, u64::from(self.live.count_ones()));
        let mut event = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            out.push(at as u8);
            put_i64(out, entry.ms);
            out.push(entry.tag << 1 | u8::from(entry.id.is_some()));
            for half in entry.id.iter().flatten() {
                out.extend_from_slice(&half.to_le_bytes());
            }
            event.clear();
            entry.event.put(&mut event);
            put_bytes(out, &event);
        }
    }

    /// Takes those of the stored events that still live.
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Corrupt> {
        let wrong = Corrupt { what: "an event of the chunk expected" };
        self.bytes = usize::try_from(reader.u64()?).map_err(|_| wrong.clone())?;
        for _ in 0..reader.count()? {
            let at = usize::from(reader.byte()?);
            let (ms, tag) = (reader.i64()?, reader.byte()?);
            let id = match tag & 1 {
                0 => None,
                _ => Some([u64::from_le_bytes(reader.array()?), u64::from_le_bytes(reader.array()?)]),
            };
            let event = reader.bytes()?;
            let place = self.entries.get_mut(at).ok_or_else(|| wrong.clone())?;
            if self.live >> at & 1 == 1 {
                let is_marked = self.marked >> at & 1 == 1;
                *place = Some(Entry { ms, tag: tag >> 1, is_marked, id, event: E::read(event)? });
            }
        }
        if self.entries.iter().flatten().count() != self.live.count_ones() as usize {
            return Err(wrong);
        }
        Ok(())
    }
}
