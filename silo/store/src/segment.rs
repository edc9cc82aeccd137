//! The cells of one commit as `recent` stores them: written once, read only when the store is opened.
//!
//! ```text
//! slot u16 | flags u8 (1: lz4) | raw bytes u32 | stored bytes u32 | payload
//! payload, per write: key length | key | value length + 1, or 0 for a deletion | value
//! ```

use fjall::UserValue;
use granary_cluster::Cells;
use granary_core::Result;

use crate::block;
use crate::varint::{self, Reader};

const HEAD_BYTES: usize = 11;

/// The cells of a commit; nothing when there are none.
pub fn of(slot: u16, cells: &Cells) -> UserValue {
    if cells.is_empty() {
        return UserValue::empty();
    }
    let mut raw = block::take_spare();
    raw.clear();
    raw.reserve(cells.bytes() + 4 * cells.len());
    for (key, value) in cells.iter() {
        varint::put_bytes(&mut raw, key);
        varint::put(&mut raw, value.map_or(0, |value| value.len() as u64 + 1));
        raw.extend_from_slice(value.unwrap_or_default());
    }
    let segment = block::packed(&raw, HEAD_BYTES, |flags, segment| {
        let stored = length(segment.len() - HEAD_BYTES);
        segment[..2].copy_from_slice(&slot.to_be_bytes());
        segment[2] = flags;
        segment[3..7].copy_from_slice(&length(raw.len()));
        segment[7..HEAD_BYTES].copy_from_slice(&stored);
        UserValue::from(&*segment)
    });
    block::keep_spare(raw);
    segment
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("the cells of a commit stay below 4 GiB: commits are bounded").to_be_bytes()
}

/// Calls `each` with slot, key and value (`None` deletes) of every write in `segments`, in order.
pub fn walk(segments: &[u8], mut each: impl FnMut(u16, &[u8], Option<&[u8]>)) -> Result<()> {
    let mut reader = Reader::new(segments, 0);
    while !reader.is_at_end() {
        let slot = u16::from_be_bytes(reader.array()?);
        let flags = reader.byte()?;
        let raw_len = u32::from_be_bytes(reader.array()?) as usize;
        let stored = u32::from_be_bytes(reader.array()?) as usize;
        let raw = block::unpack(reader.take(stored)?, flags, raw_len)?;
        let mut writes = Reader::new(&raw, 0);
        while !writes.is_at_end() {
            let key = writes.bytes()?;
            let value = match writes.number()? {
                0 => None,
                len => Some(writes.take(len as usize - 1)?),
            };
            each(slot, key, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_come_back_in_order() {
        let mut cells = Cells::default();
        for i in 0..300u32 {
            let key = |out: &mut Vec<u8>| out.extend_from_slice(format!("Window/d-{i}").as_bytes());
            match i % 3 {
                0 => cells.delete(key),
                1 => cells.put(key, |_| {}),
                _ => cells.put(key, |out| out.extend_from_slice(b"value")),
            }
        }
        let mut out = of(7, &cells).to_vec();
        out.extend_from_slice(&of(8, &Cells::default()));
        let mut seen = Cells::default();
        walk(&out, |slot, key, value| {
            assert_eq!(slot, 7);
            match value {
                Some(value) => {
                    seen.put(|out| out.extend_from_slice(key), |out| out.extend_from_slice(value));
                }
                None => seen.delete(|out| out.extend_from_slice(key)),
            }
        })
        .unwrap();
        assert_eq!(seen, cells);
        assert!((0..out.len()).filter(|cut| *cut > 0).all(|cut| walk(&out[..cut], |_, _, _| {}).is_err()));
    }
}
