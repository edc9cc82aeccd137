//! The outputs of a commit as bytes: short, because every output passes through the server once.

use granary_cluster::{Cause, Outbox, SourceId, StreamId};
use granary_core::{Result, Timestamp};

use crate::rows::damaged;
use crate::varint::{Reader, put, put_bytes, put_signed};

/// The first byte: the outputs as they are.
const PLAIN: u8 = 1;
/// The first byte: the length of the outputs, then the outputs by LZ4.
const COMPRESSED: u8 = 2;

/// Fewer bytes are stored as they are: compressing them saves nothing.
const COMPRESS_BYTES_MIN: usize = 512;

/// Appends the outputs, in order.
pub fn encode(outbox: &Outbox, out: &mut Vec<u8>) {
    let mut plain = Vec::with_capacity(1 + outbox.bytes() + 16 * outbox.len());
    plain.push(PLAIN);
    for entry in outbox.entries() {
        put(&mut plain, u64::from(entry.stream.0));
        put(&mut plain, u64::from(entry.cause.source.0));
        put(&mut plain, u64::from(entry.cause.partition));
        put(&mut plain, entry.cause.offset);
        put(&mut plain, u64::from(entry.cause.index));
        put_signed(&mut plain, entry.time.0);
        put_bytes(&mut plain, outbox.key(entry));
        put_bytes(&mut plain, outbox.id(entry));
        put_bytes(&mut plain, outbox.value(entry));
    }
    if plain.len() < COMPRESS_BYTES_MIN {
        return out.append(&mut plain);
    }
    // Rows are text, one much like the other: the server gets, syncs and keeps a fraction of it.
    out.push(COMPRESSED);
    put(out, plain.len() as u64);
    let start = out.len();
    out.resize(start + lz4_flex::block::get_maximum_output_size(plain.len()), 0);
    let length =
        lz4_flex::block::compress_into(&plain, &mut out[start..]).expect("there is room for the worst case");
    out.truncate(start + length);
}

/// Reads what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Outbox> {
    if bytes.first() != Some(&COMPRESSED) {
        return decode_plain(bytes);
    }
    let mut reader = Reader::new(bytes, 1);
    let length = usize::try_from(reader.number()?).map_err(|_| damaged("outbox"))?;
    if length > OUTBOX_BYTES_MAX {
        return Err(damaged("outbox"));
    }
    let plain = lz4_flex::block::decompress(&bytes[reader.at()..], length).map_err(|_| damaged("outbox"))?;
    decode_plain(&plain)
}

/// The outputs of one commit are never so long: what says so is damaged.
const OUTBOX_BYTES_MAX: usize = 1 << 28;

fn decode_plain(bytes: &[u8]) -> Result<Outbox> {
    let mut reader = Reader::new(bytes, 0);
    if reader.byte()? != PLAIN {
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

    /// Outboxes as version 1 stored them. They are read for ever: a new form gets a first byte of its own.
    #[test]
    fn outboxes_of_version_1_are_read() {
        let outbox = |values: u64| {
            let mut outbox = Outbox::default();
            for i in 0..values {
                let cause = Cause { source: SourceId(3), partition: 11, offset: 1 << 40, index: i as u32 };
                let value = format!("{{\"count\":{i}}}");
                let (stream, time) = (StreamId(i as u16), Timestamp(1_690_000_000_000 - i as i64));
                let id = |out: &mut Vec<u8>| out.extend_from_slice(b"Window/d-7/totals/0#1");
                outbox.push(stream, cause, time, b"d-7", id, |out| out.extend_from_slice(value.as_bytes()));
            }
            outbox
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (values, stored) in [(1, SHORT), (16, LONG)] {
            let bytes: Vec<u8> = (0..stored.len() / 2)
                .map(|i| u8::from_str_radix(&stored[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let mut written = Vec::new();
            encode(&outbox(values), &mut written);
            assert_eq!(decode(&bytes).ok(), Some(outbox(values)), "now written as {}", hex(&written));
        }
    }
    const SHORT: &str = "0100030b808080808020008090ccbdaf6203642d371557696e646f772f642d372f746f74616c732f3023310b7b22636f756e\
        74223a307d";
    const LONG: &str = "02e706500100030b800100f42020008090ccbdaf6203642d371557696e646f772f642d372f746f74616c732f3023310b7b22\
        636f756e74223a307d0136003f01fe8f36001534317d026c002f02fc36001634327d0336002f03fa36001634337d0436002f\
        04f836001634347d0536002f05f636001634357d0636002f06f436001634367d0736002f07f236001634377d0836002f08f0\
        36001634387d0936002f09ee36001634397d0a36002f0aec36000c150c1c024431307d0b37002f0bea37001734317d0c3700\
        2f0ce837001734327d0d37002f0de637001734337d0e37002f0ee437001734347d0f37002f0fe23700136074223a31357d";

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
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
                if let Ok(part) = decode(&bytes[..end]) {
                    prop_assert!(part.len() < outbox.len());
                }
            }
        }
    }
}
