//! A slot's row as the fields of a hash. Numbers are decimal text, so that `redis-cli HGETALL` shows them.

use std::str::FromStr;

use granary_cluster::{
    CommitId, CommitNo, Epoch, Generation, Incarnation, Noted, Position, RevisionNo, RunId, SlotRecord,
    SourceId, TxId,
};
use granary_core::{Error, Result, codec};
use redis::Value;

use super::encode::unreadable;
use crate::rows::damaged;

/// A row from names and values, as `HGETALL` answers.
pub fn from_pairs(answer: Value) -> Result<SlotRecord> {
    let Value::Array(pairs) = answer else { return Err(unreadable()) };
    let mut row = SlotRecord::new();
    let mut parts = pairs.into_iter();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else {
            return Err(unreadable());
        };
        set(&mut row, &name, &value)?;
    }
    Ok(row)
}

fn set(row: &mut SlotRecord, name: &[u8], value: &[u8]) -> Result<()> {
    match name {
        b"owner" => row.owner = Incarnation(number(value)?),
        b"epoch" => row.epoch = Epoch(number(value)?),
        b"n" => row.n = CommitNo(number(value)?),
        b"id" => row.commit_id = commit_id(value)?,
        b"positions" => row.positions = codec::from_bytes(value)?,
        b"everyone" => row.txids.everyone = value == b"1",
        b"ids" => row.txids.ids = text(value)?.split_whitespace().map(txid).collect::<Result<_>>()?,
        b"run" => row.run = run(value)?,
        b"tries" => row.tries = number(value)?,
        b"noted" => row.noted = noted(value)?,
        b"generation" => row.program.generation = Generation(number(value)?),
        b"revision" => row.program.revision = RevisionNo(number(value)?),
        // A later version may add fields; the schema's number says when they matter.
        _ => {}
    }
    Ok(())
}

/// The run a row names.
pub fn run(value: &[u8]) -> Result<RunId> {
    Ok(RunId(number(value)?))
}

fn commit_id(value: &[u8]) -> Result<Option<CommitId>> {
    if value.is_empty() {
        return Ok(None);
    }
    let mut parts = text(value)?.split('.').map(|part| number(part.as_bytes()));
    let mut next = || parts.next().unwrap_or_else(|| Err(unreadable_row()));
    let (incarnation, epoch, n) = (next()?, next()?, next()?);
    Ok(Some(CommitId { incarnation: Incarnation(incarnation), epoch: Epoch(epoch), n: CommitNo(n) }))
}

/// `source.partition.offset silo times`
fn noted(value: &[u8]) -> Result<Option<Noted>> {
    if value.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = text(value)?.split([' ', '.']).collect();
    let [source, partition, offset, by, times] = parts[..] else { return Err(unreadable_row()) };
    let at = Position {
        source: SourceId(number(source.as_bytes())?),
        partition: number(partition.as_bytes())?,
        offset: number(offset.as_bytes())?,
    };
    Ok(Some(Noted { at, by: Incarnation(number(by.as_bytes())?), times: number(times.as_bytes())? }))
}

fn txid(id: &str) -> Result<TxId> {
    let (incarnation, lane) = id.split_once('.').ok_or_else(unreadable_row)?;
    Ok(TxId { incarnation: Incarnation(number(incarnation.as_bytes())?), lane: number(lane.as_bytes())? })
}

fn text(value: &[u8]) -> Result<&str> {
    std::str::from_utf8(value).map_err(|_| unreadable_row())
}

/// A number of a row.
pub fn number<T: FromStr>(value: &[u8]) -> Result<T> {
    text(value)?.parse().map_err(|_| unreadable_row())
}

fn unreadable_row() -> Error {
    damaged("row of a slot")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields as version 1 stored them, and with those that came later: read for ever.
    #[test]
    fn rows_of_every_version_are_read() {
        let at = b"\x91\x83\xa6source\x01\xa9partition\x02\xa6offset\xcd\x01\x2c";
        let first: [(&str, &[u8]); 10] = [
            ("owner", b"7"),
            ("epoch", b"18446744073709551615"),
            ("n", b"300"),
            ("id", b"7.9.300"),
            ("positions", at),
            ("everyone", b"1"),
            ("ids", b"7.1 8.0"),
            ("run", b"12"),
            ("tries", b"2"),
            ("noted", b"1.2.300 7 1"),
        ];
        let later: [(&str, &[u8]); 3] = [("generation", b"3"), ("revision", b"5"), ("unknown", b"x")];
        let read = |fields: &[(&str, &[u8])]| {
            let texts = fields.iter().flat_map(|(name, value)| [name.as_bytes(), *value]);
            from_pairs(Value::Array(texts.map(|text| Value::BulkString(text.to_vec())).collect())).ok()
        };
        let position = Position { source: SourceId(1), partition: 2, offset: 300 };
        let (me, epoch) = (Incarnation(7), Epoch(9));
        let txid = |incarnation, lane| TxId { incarnation: Incarnation(incarnation), lane };
        let mut row = SlotRecord {
            owner: me,
            epoch: Epoch(u64::MAX),
            n: CommitNo(300),
            commit_id: Some(CommitId { incarnation: me, epoch, n: CommitNo(300) }),
            positions: vec![position],
            run: RunId(12),
            tries: 2,
            noted: Some(Noted { at: position, by: me, times: 1 }),
            ..SlotRecord::new()
        };
        (row.txids.everyone, row.txids.ids) = (true, vec![txid(7, 1), txid(8, 0)]);
        assert_eq!(read(&first), Some(row.clone()));
        row.program.generation = Generation(3);
        row.program.revision = RevisionNo(5);
        assert_eq!(read(&[&first[..], &later[..]].concat()), Some(row));
    }
}
