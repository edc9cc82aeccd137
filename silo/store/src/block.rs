//! Records of one partition as the log stores them: one compressed value per batch, independent of its base offset
//! (which is its key), so it can be encoded before the log has given the offsets.
//!
//! ```text
//! format u8 | flags u8 (1: lz4) | count u32 | base time i64 | latest time i64 | raw bytes u32 | payload
//! payload, per record: time - base time | flags (1 key, 2 id, 4 event time) | [key] [id] [event time - base] | value
//! ```

use std::cell::RefCell;

use fjall::UserValue;
use granary_core::{Error, ErrorKind, Result, Timestamp};

use crate::varint::{self, Reader};

/// A batch is closed when its raw records reach this size.
pub const RAW_BYTES_MAX: usize = 1 << 20;
/// Smaller payloads are stored as they are: compressing them saves nothing.
const COMPRESS_BYTES_MIN: usize = 512;
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 26;
const LZ4: u8 = 1;
const KEY: u8 = 1;
const ID: u8 = 2;
const TIME: u8 = 4;

/// So many buffers a thread keeps to use again, none longer than [`SPARE_BYTES_MAX`].
const SPARE_BUFFERS_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 4 * RAW_BYTES_MAX;

thread_local! {
    /// Buffers of a mebibyte, fresh for each batch, are pages that the system has to find and clear: that costs more
    /// than the compression.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn take_spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

pub(crate) fn keep_spare(buffer: Vec<u8>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            spare.push(buffer);
        }
    });
}

/// One record with its identity and event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When the log took it.
    pub appended_at: Timestamp,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// Its identity, if it came out of a slot's outbox.
    pub id: Option<&'a [u8]>,
    /// The event time it carries, if it came out of a slot's outbox.
    pub time: Option<Timestamp>,
    /// Its bytes.
    pub value: &'a [u8],
}

/// Collects records and gives them as one stored value.
#[derive(Debug)]
pub struct Builder {
    raw: Vec<u8>,
    count: u32,
    base_time: Timestamp,
    latest: Timestamp,
}

impl Builder {
    /// An empty batch.
    pub fn new() -> Builder {
        let mut raw = take_spare();
        raw.clear();
        Builder { raw, count: 0, base_time: Timestamp(0), latest: Timestamp::MIN }
    }

    /// Whether it should be closed.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= RAW_BYTES_MAX
    }

    /// Appends one record.
    pub fn push(&mut self, entry: Entry<'_>) {
        if self.count == 0 {
            self.base_time = entry.appended_at;
        }
        self.count += 1;
        self.latest = self.latest.max(entry.appended_at);
        let out = &mut self.raw;
        let since_base = |time: Timestamp| time.0.wrapping_sub(self.base_time.0);
        varint::put_signed(out, since_base(entry.appended_at));
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(
            flag(entry.key.is_some(), KEY) | flag(entry.id.is_some(), ID) | flag(entry.time.is_some(), TIME),
        );
        if let Some(key) = entry.key {
            varint::put_bytes(out, key);
        }
        if let Some(id) = entry.id {
            varint::put_bytes(out, id);
        }
        if let Some(time) = entry.time {
            varint::put_signed(out, since_base(time));
        }
        varint::put_bytes(out, entry.value);
    }

    /// The stored value; `None` when there is no record. The builder is empty again.
    pub fn finish(&mut self) -> Option<Chunk> {
        if self.count == 0 {
            return None;
        }
        let raw_len =
            u32::try_from(self.raw.len()).expect("a batch stays below 4 GiB: it closes at RAW_BYTES_MAX");
        let count = self.count;
        let (base_time, latest) = (self.base_time.0, self.latest.0);
        let value = packed(&self.raw, HEADER_BYTES, |flags, value| {
            let mut head = [0; HEADER_BYTES];
            head[..2].copy_from_slice(&[FORMAT, flags]);
            head[2..6].copy_from_slice(&count.to_be_bytes());
            head[6..14].copy_from_slice(&base_time.to_be_bytes());
            head[14..22].copy_from_slice(&latest.to_be_bytes());
            head[22..].copy_from_slice(&raw_len.to_be_bytes());
            value[..HEADER_BYTES].copy_from_slice(&head);
            UserValue::from(&*value)
        });
        self.raw.clear();
        self.count = 0;
        self.latest = Timestamp::MIN;
        Some(Chunk { count, value })
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        keep_spare(std::mem::take(&mut self.raw));
    }
}

/// A stored value and how many records it holds.
#[derive(Debug)]
pub struct Chunk {
    /// How many records.
    pub count: u32,
    /// The stored bytes.
    pub value: UserValue,
}

/// Hands `raw` to `take`, after `room` bytes of room and compressed if that pays; the flag says which.
pub fn packed<T>(raw: &[u8], room: usize, take: impl FnOnce(u8, &mut [u8]) -> T) -> T {
    let mut buffer = take_spare();
    let bytes_max = room + lz4_flex::block::get_maximum_output_size(raw.len());
    if buffer.len() < bytes_max {
        buffer.resize(bytes_max, 0); // a buffer used before keeps its length: only the first use clears it
    }
    let compressed = match raw.len() {
        COMPRESS_BYTES_MIN.. => lz4_flex::block::compress_into(raw, &mut buffer[room..]).ok(),
        _ => None,
    };
    let (flags, len) = match compressed.filter(|len| *len < raw.len()) {
        Some(len) => (LZ4, len),
        None => {
            buffer[room..room + raw.len()].copy_from_slice(raw);
            (0, raw.len())
        }
    };
    let taken = take(flags, &mut buffer[..room + len]);
    keep_spare(buffer);
    taken
}

/// The inverse of [`packed`].
pub fn unpack(packed: &[u8], flags: u8, raw_len: usize) -> Result<Vec<u8>> {
    let mut raw = take_spare();
    if flags & LZ4 == 0 {
        raw.clear();
        raw.extend_from_slice(packed);
        return Ok(raw);
    }
    raw.resize(raw_len, 0);
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Codec, format!("a stored batch cannot be decompressed: {e}"))
    };
    match lz4_flex::block::decompress_into(packed, &mut raw) {
        Ok(len) if len == raw_len => Ok(raw),
        Ok(len) => Err(failed(&format_args!("{len} bytes where {raw_len} were packed"))),
        Err(e) => Err(failed(&e)),
    }
}

/// What a stored value says of itself, without decompressing it.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// How many records.
    pub count: u32,
    /// The latest `appended_at` in it.
    pub latest: Timestamp,
    flags: u8,
    base_time: i64,
    raw_len: u32,
}

/// Reads the head of a stored value.
pub fn header(value: &[u8]) -> Result<Header> {
    let mut reader = Reader::new(value, 0);
    let format = reader.byte()?;
    if format != FORMAT {
        return Err(Error::new(
            ErrorKind::Codec,
            format!("log batch format {format} is not known to this version, which reads {FORMAT}"),
        ));
    }
    Ok(Header {
        flags: reader.byte()?,
        count: u32::from_be_bytes(reader.array()?),
        base_time: i64::from_be_bytes(reader.array()?),
        latest: Timestamp(i64::from_be_bytes(reader.array()?)),
        raw_len: u32::from_be_bytes(reader.array()?),
    })
}

/// A decompressed batch.
#[derive(Debug)]
pub struct Block {
    base: u64,
    count: u32,
    base_time: i64,
    raw: Vec<u8>,
}

impl Drop for Block {
    fn drop(&mut self) {
        keep_spare(std::mem::take(&mut self.raw));
    }
}

impl Block {
    /// Decompresses the value stored at offset `base`.
    pub fn open(base: u64, value: &[u8]) -> Result<Block> {
        let header = header(value)?;
        let raw = unpack(&value[HEADER_BYTES..], header.flags, header.raw_len as usize)?;
        Ok(Block { base, count: header.count, base_time: header.base_time, raw })
    }

    /// The offset of its first record.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The offset after its last record.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Calls `each` with the records from `from` on until it returns false. `mark` is where an earlier walk stopped;
    /// the answer is where this one did.
    pub fn walk(&self, mark: Mark, from: u64, mut each: impl FnMut(u64, Entry<'_>) -> bool) -> Result<Mark> {
        let usable = mark.offset >= self.base && mark.offset <= from;
        let Mark { mut offset, at } = if usable { mark } else { Mark { offset: self.base, at: 0 } };
        let mut reader = Reader::new(&self.raw, at as usize);
        while offset < self.end() {
            let entry = self.entry(&mut reader)?;
            if offset >= from && !each(offset, entry) {
                offset += 1;
                break;
            }
            offset += 1;
        }
        Ok(Mark { offset, at: reader.at() as u32 })
    }

    #[inline]
    fn entry<'a>(&self, reader: &mut Reader<'a>) -> Result<Entry<'a>> {
        let at = |delta: i64| Timestamp(self.base_time.wrapping_add(delta));
        let appended_at = at(reader.signed()?);
        let flags = reader.byte()?;
        let key = if flags & KEY != 0 { Some(reader.bytes()?) } else { None };
        let id = if flags & ID != 0 { Some(reader.bytes()?) } else { None };
        let time = if flags & TIME != 0 { Some(at(reader.signed()?)) } else { None };
        Ok(Entry { appended_at, key, id, time, value: reader.bytes()? })
    }
}

/// A place inside a block: the offset of a record and the byte it starts at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The record's offset.
    pub offset: u64,
    at: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_any_offset() {
        let mut builder = Builder::new();
        let entry = |i: i64, value: &'static [u8]| Entry {
            appended_at: Timestamp(1_000 - i),
            key: (i % 2 == 0).then_some(b"k".as_slice()),
            id: (i % 3 == 0).then_some(b"id".as_slice()),
            time: (i % 3 == 0).then_some(Timestamp(i64::MIN + i)),
            value,
        };
        for i in 0..500 {
            builder.push(entry(i, b"a value that repeats"));
        }
        let chunk = builder.finish().unwrap();
        assert!(builder.finish().is_none());
        assert!(chunk.value.len() < 500 * 10, "it is compressed");
        assert_eq!(header(&chunk.value).unwrap().latest, Timestamp(1_000));
        let block = Block::open(70, &chunk.value).unwrap();
        assert_eq!((block.base(), block.end()), (70, 570));
        let mut mark = Mark::default();
        for from in [70, 71, 300, 569, 100] {
            let mut seen = Vec::new();
            mark = block
                .walk(mark, from, |offset, got| {
                    assert_eq!(got, entry(offset as i64 - 70, b"a value that repeats"));
                    seen.push(offset);
                    seen.len() < 3
                })
                .unwrap();
            assert_eq!(seen, (from..570).take(3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn damaged_values_are_errors_and_no_panics() {
        let mut builder = Builder::new();
        for _ in 0..100 {
            builder.push(Entry {
                appended_at: Timestamp(1),
                key: None,
                id: None,
                time: None,
                value: b"abcdefgh",
            });
        }
        let value = builder.finish().unwrap().value;
        for cut in 0..value.len() {
            let whole =
                Block::open(0, &value[..cut]).and_then(|block| block.walk(Mark::default(), 0, |_, _| true));
            assert!(whole.is_err(), "cut at {cut}");
        }
        assert!(header(&[9; 30]).unwrap_err().message().contains("format 9"));
    }
}
