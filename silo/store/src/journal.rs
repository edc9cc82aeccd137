//! Cuts the torn tail off the engine's journal before the engine reads it.
//!
//! A power cut may leave a batch of which some pages reached the disk and others did not, in any order. The engine
//! copes with a batch that ends too early, but refuses to open when a hole lies inside one. No such batch was
//! acknowledged: this walks the newest journal and cuts at the first batch that is not whole. What is cut is kept in a
//! file beside it.
//!
//! Invariant: under `fsync` every batch is synced before the next is written. If a whole batch follows the broken one,
//! the disk has damaged what was acknowledged: this refuses to guess.
//!
//! ```text
//! 1 count u32 seqno u64 | items | 3 checksum u64 "FJL\3"            (little endian)
//! item: 2 type u8 compression u8 keyspace u64 key u16 value u32 stored u32 key.. value..   or   4 keyspace u64
//! ```

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use granary_core::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";

/// Cuts the newest journal in `engine` at its first broken batch. `synced`: every acknowledged batch was synced.
pub fn cut_torn_tail(engine: &Path, synced: bool) -> Result<()> {
    let Some(path) = newest(engine)? else { return Ok(()) };
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("cannot read the journal {}: {e}", path.display()))
    };
    let bytes = fs::read(&path).map_err(failed)?;
    let at = whole_batches_end(&bytes);
    let used = used_bytes(&bytes);
    if used <= at {
        return Ok(());
    }
    if synced && let Some(whole) = whole_batch_after(&bytes[..used], at) {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the journal {} is damaged at byte {at} and goes on whole at byte {whole}: the disk lost what was \
                 acknowledged; restore the directory from a copy",
                path.display()
            ),
        ));
    }
    tracing::warn!(journal = %path.display(), at, bytes = used - at, "cutting a torn tail that was never acknowledged");
    fs::write(path.with_extension("torn"), &bytes[at..used]).map_err(failed)?;
    let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
    file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(failed)
}

pub(crate) fn newest(engine: &Path) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir(engine) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(Error::new(ErrorKind::Unavailable, format!("cannot list {}: {e}", engine.display())));
        }
    };
    let number = |path: &Path| -> Option<u64> { path.file_stem()?.to_str()?.parse().ok() };
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .filter_map(|path| Some((number(&path)?, path)))
        .max()
        .map(|(_, path)| path))
}

/// The bytes before the zeros the engine sets aside in advance. Compares whole pages: most of a new journal is empty.
pub(crate) fn used_bytes(bytes: &[u8]) -> usize {
    const EMPTY: [u8; 4096] = [0; 4096];
    let pages = bytes.rchunks(EMPTY.len()).take_while(|page| **page == EMPTY[..page.len()]).count();
    let rest = bytes.len() - (pages * EMPTY.len()).min(bytes.len());
    bytes[..rest].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The end of the last whole batch that has only whole ones before it.
pub(crate) fn whole_batches_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = batch_end(bytes, at) {
        at = next;
    }
    at
}

/// Where a whole batch begins after the broken one at `broken`.
fn whole_batch_after(bytes: &[u8], broken: usize) -> Option<usize> {
    (broken + 1..bytes.len()).find(|at| batch_end(bytes, *at).is_some())
}

/// The end of the whole batch that begins at `at`, if there is one.
fn batch_end(bytes: &[u8], at: usize) -> Option<usize> {
    let field = |from: usize, len: usize| bytes.get(from..from.checked_add(len)?);
    if *bytes.get(at)? != START {
        return None;
    }
    let items = u32::from_le_bytes(field(at + 1, 4)?.try_into().ok()?);
    let first = at + 13;
    let mut next = first;
    for _ in 0..items {
        match *bytes.get(next)? {
            ITEM => {
                let key = u16::from_le_bytes(field(next + 11, 2)?.try_into().ok()?);
                let stored = u32::from_le_bytes(field(next + 17, 4)?.try_into().ok()?);
                next = next.checked_add(21 + usize::from(key) + stored as usize)?;
            }
            CLEAR => next += 9,
            _ => return None,
        }
    }
    let checksum = u64::from_le_bytes(field(next + 1, 8)?.try_into().ok()?);
    let whole =
        *bytes.get(next)? == END && field(next + 9, 4)? == MAGIC && xxh3_64(&bytes[first..next]) == checksum;
    whole.then_some(next + 13)
}
