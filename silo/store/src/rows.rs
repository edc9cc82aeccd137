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

#[cfg(test)]
mod tests {
    use granary_cluster::{
        CommitId, CommitNo, Epoch, Generation, Incarnation, Noted, Position, Program, RevisionNo, RunId,
        SourceId, TxId, TxIds,
    };

    use super::*;

    fn row() -> SlotRecord {
        let at = Position { source: SourceId(1), partition: 2, offset: 1 << 40 };
        let (me, epoch, n) = (Incarnation(7), Epoch(9), CommitNo(300));
        SlotRecord {
            owner: me,
            epoch,
            n,
            commit_id: Some(CommitId { incarnation: me, epoch, n }),
            positions: vec![at],
            txids: TxIds { everyone: true, ids: vec![TxId { incarnation: me, lane: 1 }] },
            run: RunId(u64::MAX),
            tries: 2,
            noted: Some(Noted { at, by: me, times: 1 }),
            program: Program { generation: Generation(3), revision: RevisionNo(5) },
        }
    }

    /// Rows as they were stored: a field that is missing has its default, one that is not known is passed over. What is
    /// stored otherwise from now on is added here, never changed.
    #[test]
    fn rows_of_every_version_are_read() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let read = |hex: &str| granary_core::codec::from_bytes::<SlotRecord>(&bytes(hex)).ok();
        let written = hex(&slot_row(&row()).unwrap());
        assert_eq!(read(WITH_REVISIONS), Some(row()), "now written as {written}");
        let before_revisions = SlotRecord { program: Program::default(), ..row() };
        assert_eq!(read(BEFORE_REVISIONS), Some(before_revisions), "now written as {written}");
        let mut more = bytes(WITH_REVISIONS);
        more[0] += 1; // one more field
        more.extend_from_slice(b"\xa5later\x93\x01\x02\x03");
        assert_eq!(read(&hex(&more)), Some(row()), "of a later version");
    }
    const BEFORE_REVISIONS: &str = "89a56f776e657207a565706f636809a16ecd012ca9636f6d6d69745f696483ab696e6361726e6174696f6e07a565706f6368\
        09a16ecd012ca9706f736974696f6e739183a6736f7572636501a9706172746974696f6e02a66f6666736574cf0000010000\
        000000a5747869647382a865766572796f6e65c3a36964739182ab696e6361726e6174696f6e07a46c616e6501a372756ecf\
        ffffffffffffffffa5747269657302a56e6f74656483a2617483a6736f7572636501a9706172746974696f6e02a66f666673\
        6574cf0000010000000000a2627907a574696d657301";
    const WITH_REVISIONS: &str = "8aa56f776e657207a565706f636809a16ecd012ca9636f6d6d69745f696483ab696e6361726e6174696f6e07a565706f6368\
        09a16ecd012ca9706f736974696f6e739183a6736f7572636501a9706172746974696f6e02a66f6666736574cf0000010000\
        000000a5747869647382a865766572796f6e65c3a36964739182ab696e6361726e6174696f6e07a46c616e6501a372756ecf\
        ffffffffffffffffa5747269657302a56e6f74656483a2617483a6736f7572636501a9706172746974696f6e02a66f666673\
        6574cf0000010000000000a2627907a574696d657301a770726f6772616d82aa67656e65726174696f6e03a8726576697369\
        6f6e05";
}
