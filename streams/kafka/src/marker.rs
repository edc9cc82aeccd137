//! A marker as the metadata of a committed offset: a line of text that ordinary tools can show.
//!
//! `1 <epoch> <silo's life>/<lane> <positions>`; the commit's number is the offset itself. Positions are written as
//! numbers of seven bits a byte (source, partitions, then for each partition its distance from the one before and its
//! offset), in base64, because a broker takes 4,096 bytes of metadata by default.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use granary_cluster::{CommitNo, Epoch, Incarnation, Marker, Position, SourceId, TxId};
use granary_core::{Error, ErrorKind, Result};

/// What a broker takes unless `offset.metadata.max.bytes` says otherwise.
pub const METADATA_BYTES_MAX: usize = 4096;

/// So many positions fit into a marker with offsets below 2^42. A slot that reads more partitions cannot publish; whoever
/// puts a silo together refuses such a plan at the start.
pub const POSITIONS_MAX: usize = 400;

const VERSION: &str = "1";

/// The metadata of a marker.
pub(crate) fn encode(marker: &Marker) -> Result<String> {
    let text = format!(
        "{VERSION} {} {} {}",
        marker.epoch,
        id(marker.txid),
        BASE64.encode(positions(&marker.positions))
    );
    if text.len() > METADATA_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a slot reads {} partitions; their positions take {} bytes, a marker has room for {METADATA_BYTES_MAX}: read \
             topics in place, or give them fewer partitions",
            marker.positions.len(),
            text.len()
        )));
    }
    Ok(text)
}

/// The marker whose number is `n`.
pub(crate) fn decode(n: u64, text: &str) -> Result<Marker> {
    parse(n, text).ok_or_else(|| {
        Error::new(
            ErrorKind::Codec,
            format!("`{text}` is no marker: another program commits offsets in this group"),
        )
    })
}

/// A transactional id without its cluster.
pub(crate) fn id(txid: TxId) -> String {
    format!("{}/{}", txid.incarnation, txid.lane)
}

/// What [`id`] wrote.
pub(crate) fn parse_id(text: &str) -> Option<TxId> {
    let (incarnation, lane) = text.split_once('/')?;
    Some(TxId { incarnation: Incarnation(incarnation.parse().ok()?), lane: lane.parse().ok()? })
}

fn parse(n: u64, text: &str) -> Option<Marker> {
    let mut words = text.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let epoch = Epoch(words.next()?.parse().ok()?);
    let txid = parse_id(words.next()?)?;
    let positions = parse_positions(&BASE64.decode(words.next()?).ok()?)?;
    if words.next().is_some() {
        return None;
    }
    Some(Marker { n: CommitNo(n), epoch, txid, positions })
}

fn positions(positions: &[Position]) -> Vec<u8> {
    let mut sorted = positions.to_vec();
    sorted.sort_unstable();
    let mut bytes = Vec::new();
    for group in sorted.chunk_by(|a, b| a.source == b.source) {
        put(&mut bytes, u64::from(group[0].source.0));
        put(&mut bytes, group.len() as u64);
        let mut next = 0;
        for position in group {
            put(&mut bytes, u64::from(position.partition) - next);
            put(&mut bytes, position.offset);
            next = u64::from(position.partition) + 1;
        }
    }
    bytes
}

fn parse_positions(mut bytes: &[u8]) -> Option<Vec<Position>> {
    let mut positions = Vec::new();
    while !bytes.is_empty() {
        let source = SourceId(u16::try_from(take(&mut bytes)?).ok()?);
        let mut next: u64 = 0;
        for _ in 0..take(&mut bytes)? {
            let partition = next.checked_add(take(&mut bytes)?)?;
            let offset = take(&mut bytes)?;
            positions.push(Position { source, partition: u32::try_from(partition).ok()?, offset });
            next = partition + 1;
        }
    }
    Some(positions)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(positions: Vec<Position>) -> Marker {
        let txid = TxId { incarnation: Incarnation(12), lane: 1 };
        Marker { n: CommitNo(7), epoch: Epoch(3), txid, positions }
    }

    fn at(source: u16, partition: u32, offset: u64) -> Position {
        Position { source: SourceId(source), partition, offset }
    }

    #[test]
    fn a_marker_reads_back() {
        for positions in [
            vec![],
            vec![at(0, 0, 0)],
            vec![at(0, 3, 1_000_000), at(0, 4, 5), at(2, 0, u64::MAX), at(65535, u32::MAX, 127)],
        ] {
            let marker = marker(positions);
            let text = encode(&marker).unwrap();
            assert!(text.starts_with("1 3 12/1 "), "{text}");
            assert_eq!(decode(7, &text).unwrap(), marker);
        }
    }

    /// Markers as version 1 wrote them: read for ever, since an idle slot's marker may be old. A new form gets another number
    /// in front, and is added here.
    #[test]
    fn markers_of_version_1_are_read() {
        let positions = vec![at(0, 3, 1_000_000), at(0, 4, 5), at(2, 0, u64::MAX), at(65535, u32::MAX, 127)];
        let marker = marker(positions);
        let now = encode(&marker).unwrap();
        assert_eq!(decode(7, MARKER).ok(), Some(marker), "now written as {now}");
    }
    const MARKER: &str = "1 3 12/1 AAIDwIQ9AAUCAQD///////////8B//8DAf////8Pfw";

    #[test]
    fn as_many_positions_fit_as_promised_and_more_are_refused() {
        let many = |n: usize| marker((0..n as u32).map(|p| at(0, p, (1 << 42) - 1)).collect());
        assert!(encode(&many(POSITIONS_MAX)).is_ok());
        let refused = encode(&many(POSITIONS_MAX + 100)).unwrap_err();
        assert!(refused.message().contains("500 partitions"), "{refused}");
    }

    #[test]
    fn what_is_no_marker_is_refused() {
        for text in ["", "1", "2 3 12/1 AA", "1 3 12/1 AA x", "1 3 12 AA", "1 3 12/1 *", "1 3 12/1 gICA"] {
            assert!(decode(0, text).is_err(), "{text}");
        }
    }
}
