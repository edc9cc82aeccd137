//! The rows of `meta` and the keys of the other key spaces, as bytes. Numbers in keys are big endian: order is theirs.

use granary_cluster::SlotRecord;
use granary_core::{Error, ErrorKind, Result, codec};

/// What is kept of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The first kept offset.
    pub first: u64,
    /// The next offset to be written.
    pub next: u64,
    /// Stored bytes of the kept batches.
    pub bytes: u64,
}

impl Bounds {
    /// As stored.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut out = [0; 24];
        for (place, n) in out.chunks_exact_mut(8).zip([self.first, self.next, self.bytes]) {
            place.copy_from_slice(&n.to_be_bytes());
        }
        out
    }

    /// From its stored form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bounds> {
        let number = |i: usize| read_u64(bytes.get(8 * i..8 * i + 8).unwrap_or_default());
        Ok(Bounds { first: number(0)?, next: number(1)?, bytes: number(2)? })
    }
}

/// A number as stored.
pub fn read_u64(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| damaged("number"))?))
}

/// A number as stored.
pub fn read_u32(bytes: &[u8]) -> Result<u32> {
    Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| damaged("number"))?))
}

/// A number as stored.
pub fn read_u16(bytes: &[u8]) -> Result<u16> {
    Ok(u16::from_be_bytes(bytes.try_into().map_err(|_| damaged("number"))?))
}

/// A stored row that is not what it should be.
pub fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Codec, format!("a stored {what} cannot be read: the store is damaged"))
}

/// The row of a slot.
pub fn slot_row(row: &SlotRecord) -> Result<Vec<u8>> {
    codec::to_bytes(row)
}

/// The key of a slot's row.
pub fn slot_key(slot: u16) -> Vec<u8> {
    [b"s".as_slice(), &slot.to_be_bytes()].concat()
}

/// The key of a topic's row; the row is its id and its partitions, each `u32`.
pub fn topic_key(name: &str) -> Vec<u8> {
    [b"t", name.as_bytes()].concat()
}

/// The key of a bookmark.
pub fn bookmark_key(name: &str) -> Vec<u8> {
    [b"b", name.as_bytes()].concat()
}

/// The key of a partition's row.
pub fn partition_key(topic: u32, partition: u32) -> Vec<u8> {
    [b"p".as_slice(), &topic.to_be_bytes(), &partition.to_be_bytes()].concat()
}

/// The key of the row that says below which sequence number `recent` is in the tables.
pub const FOLDED_KEY: &[u8] = b"f";

/// The key of a cell in the tables.
pub fn cell_key(slot: u16, cell: &[u8]) -> Vec<u8> {
    [&slot.to_be_bytes(), cell].concat()
}

/// The key of a batch of records.
pub fn batch_key(topic: u32, partition: u32, base: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&topic.to_be_bytes());
    key[4..8].copy_from_slice(&partition.to_be_bytes());
    key[8..].copy_from_slice(&base.to_be_bytes());
    key
}

/// The base offset in the key of a batch.
pub fn batch_base(key: &[u8]) -> Result<u64> {
    read_u64(key.get(8..).unwrap_or_default())
}

/// The first key after all that start with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
