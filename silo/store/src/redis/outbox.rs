//! The outputs of a commit as bytes: short, because every output passes through the server once.

use granary_cluster::{Cause, Outbox, SourceId, StreamId};
use granary_core::{Result, Timestamp};

use crate::rows::damaged;
use crate::varint::{Reader, put, put_bytes, put_signed};

/// The first byte: another layout takes another.
const LAYOUT: u8 = 1;

/// Appends the outputs, in order.
pub fn encode(outbox: &Outbox, out: &mut Vec<u8>) {
    out.reserve(outbox.bytes() + 16 * outbox.len());
    out.push(LAYOUT);
    for entry in outbox.entries() {
        put(out, u64::from(entry.stream.0));
        put(out, u64::from(entry.cause.source.0));
        put(out, u64::from(entry.cause.partition));
        put(out, entry.cause.offset);
        put(out, u64::from(entry.cause.index));
        put_signed(out, entry.time.0);
        put_bytes(out, outbox.key(entry));
        put_bytes(out, outbox.id(entry));
        put_bytes(out, outbox.value(entry));
    }
}

/// Reads what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Outbox> {
    let mut reader = Reader::new(bytes, 0);
    if reader.byte()? != LAYOUT {
        return Err(damaged("outbox"));
    }
    let mut outbox = Outbox::default();
    while !reader.is_at_end() {
        let stream = StreamId(small(reader.number()?)?);
        let cause = Cause {
            source: SourceId(small(reader.number()?)?),
            partition: small(reader.number()?)?,
            offset: reader.number()?,
            index: small(reader.number()?)?,
        };
        let time = Timestamp(reader.signed()?);
        let (key, id, value) = (reader.bytes()?, reader.bytes()?, reader.bytes()?);
        let id = |out: &mut Vec<u8>| out.extend_from_slice(id);
        outbox.push(stream, cause, time, key, id, |out| out.extend_from_slice(value));
    }
    Ok(outbox)
}

fn small<T: TryFrom<u64>>(number: u64) -> Result<T> {
    T::try_from(number).map_err(|_| damaged("outbox"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Raw = (u16, (u16, u32, u64, u32), i64, [Vec<u8>; 3]);

    proptest! {
        #[test]
        fn every_outbox_comes_back_and_no_part_of_one_is_taken_for_another(
            entries in prop::collection::vec(any::<Raw>(), 0..20)
        ) {
            let mut outbox = Outbox::default();
            for (stream, (source, partition, offset, index), time, [key, id, value]) in &entries {
                let cause =
                    Cause { source: SourceId(*source), partition: *partition, offset: *offset, index: *index };
                let id = |out: &mut Vec<u8>| out.extend_from_slice(id);
                let value = |out: &mut Vec<u8>| out.extend_from_slice(value);
                outbox.push(StreamId(*stream), cause, Timestamp(*time), key, id, value);
            }
            let mut bytes = Vec::new();
            encode(&outbox, &mut bytes);
            prop_assert_eq!(&decode(&bytes).unwrap(), &outbox);
            for end in 0..bytes.len() {
                if let Ok(part) = decode(&bytes[..end]) {
                    prop_assert!(part.len() < outbox.len());
                }
            }
        }
    }
}
