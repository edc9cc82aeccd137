//! Files made of a topic when a run has ended.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use granary_cluster::Log;
use granary_core::Result;
use granary_store::{Embedded, LogEntry};
use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::run::unwritable;

type ByIdentity = HashMap<u128, u64, foldhash::fast::FixedState>;

/// The identity of a result without its revision, if it has one: `Window/d-7/totals/0#3` is a revision of
/// `Window/d-7/totals/0`. Other rows than those of windows have none, though a key of theirs may have a `#`.
fn without_revision(id: &[u8]) -> Option<&[u8]> {
    let at = memchr::memrchr(b'#', id)?;
    let revision = &id[at + 1..];
    (!revision.is_empty() && revision.iter().all(u8::is_ascii_digit)).then(|| &id[..at])
}

fn result_hash(entry: &LogEntry<'_>) -> u128 {
    let id = entry.id.unwrap_or_default();
    xxh3_128(without_revision(id).unwrap_or(id))
}

/// Whether the row says that there is no such result any more.
fn is_withdrawn(entry: &LogEntry<'_>) -> bool {
    let has_revision = entry.id.is_some_and(|id| without_revision(id).is_some());
    has_revision && entry.value.ends_with(br#""reason":"delete"}"#)
}

/// Hands out the last revision of each result, in the order in which those were decided. Withdrawn results are left
/// out.
///
/// Identities are told apart by 128 bits of their hash: among 10^9 of them two coincide with probability 10^-21.
pub fn each_last(store: &Embedded, topic: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut last = ByIdentity::default();
    let mut results = 0_u64;
    each(store, topic, &mut |_, entry| {
        last.insert(result_hash(entry), results);
        results += 1;
        Ok(())
    })?;
    let mut result = 0_u64;
    each(store, topic, &mut |_, entry| {
        let stands = last.get(&result_hash(entry)) == Some(&result);
        result += 1;
        if stands && !is_withdrawn(entry) {
            take(entry.value)?;
        }
        Ok(())
    })
}

/// Writes the last revision of each result.
pub fn write_last(store: &Embedded, topic: &str, path: &Path) -> Result<u64> {
    write(path, &mut |out| each_last(store, topic, &mut |row| line(out, path, row)))
}

/// Writes every record, in order.
pub fn write_all(store: &Embedded, topic: &str, path: &Path) -> Result<u64> {
    write(path, &mut |out| each(store, topic, &mut |_, entry| line(out, path, entry.value)))
}

/// Writes verdicts by line number.
pub fn write_verdicts(store: &Embedded, topic: &str, path: &Path) -> Result<u64> {
    let mut rows: Vec<(u64, Vec<u8>)> = Vec::new();
    each(store, topic, &mut |_, entry| {
        let number = entry.value.split(|b| *b == b',').next().unwrap_or_default();
        let number = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        rows.push((number, entry.value.to_vec()));
        Ok(())
    })?;
    rows.sort();
    write(path, &mut |out| {
        line(out, path, b"line,verdict,rule,field")?;
        rows.iter().try_for_each(|(_, row)| line(out, path, row))
    })
}

fn line(out: &mut impl Write, path: &Path, value: &[u8]) -> Result<()> {
    out.write_all(value).and_then(|()| out.write_all(b"\n")).map_err(|e| unwritable(path, &e))
}

/// Writes a file under another name first: a reader sees it whole or not at all.
fn write(path: &Path, fill: &mut dyn FnMut(&mut BufWriter<File>) -> Result<()>) -> Result<u64> {
    let draft = path.with_extension("draft");
    let file = File::create(&draft).map_err(|e| unwritable(&draft, &e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| unwritable(&draft, e.error()))?;
    file.sync_all().map_err(|e| unwritable(&draft, &e))?;
    let bytes = file.metadata().map_or(0, |m| m.len());
    std::fs::rename(&draft, path).map_err(|e| unwritable(path, &e))?;
    Ok(bytes)
}

type Take<'t> = &'t mut dyn FnMut(u64, &LogEntry<'_>) -> Result<()>;

fn each(store: &Embedded, topic: &str, take: Take<'_>) -> Result<()> {
    let partitions = store.partitions(topic)?.unwrap_or(0);
    for partition in 0..partitions {
        let (first, _) = store.bounds(topic, partition)?;
        let mut failed = None;
        store.read_with_ids(topic, partition, first, |offset, entry| {
            failed = take(offset, &entry).err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}
