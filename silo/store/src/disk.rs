//! The directory of an embedded store and the engine in it.
//!
//! ```text
//! DIR/format    "granary-store 1"
//! DIR/lock      held by the process that has the store open; names it
//! DIR/engine    the engine's files: keyspaces meta, recent, cells, log
//! ```
//! Keys: `meta` holds one row for each slot (`s`), topic (`t`), partition (`p`), bookmark (`b`) and the fold (`f`);
//! `recent` the cells of recent commits by sequence number; `cells` slot and cell key; `log` topic, partition, offset.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fjall::compaction::Leveled;
use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PinningPolicy,
};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch,
    PersistMode,
};
use granary_core::{Error, ErrorKind, Result};

use crate::journal;
use crate::options::{Durability, Options};

const FORMAT: &str = "granary-store 1\n";
/// The engine keeps so many times what the log gets for `recent` before it writes a table: more than is recent at any
/// time, so that most of it is deleted before it would be written.
const RECENT_SHARE: u64 = 4;
/// Read again when the store is opened after a crash, so this bounds how long that takes.
const JOURNALS_BYTES_MAX: u64 = 512 << 20;
/// Log batches above this size lie in value files of their own and are not moved by compaction.
const SEPARATE_BYTES_MIN: u32 = 4096;
/// Of several, the first would take no compaction but hand it back to the queue, over and over, while another is at one.
const WORKERS: usize = 1;
/// So many folds' tables are merged into the next level at once. They live shortly, so they are not compressed.
const FOLDS_TOGETHER: u8 = 8;
/// How often and how long apart a taken lock is tried.
const LOCK_TRIES_MAX: usize = 10;
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// Holds the directory for this process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The engine's four key spaces.
pub struct Engine {
    /// The database.
    pub db: Database,
    /// Rows.
    pub meta: Keyspace,
    /// Cells of recent commits.
    pub recent: Keyspace,
    /// Sorted tables of cells.
    pub cells: Keyspace,
    /// Batches of records.
    pub log: Keyspace,
}

/// An error of the engine while doing something.
pub fn engine_error(doing: &str, e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the embedded store cannot {doing}: {e}"))
}

/// Takes the directory, checks its format and opens the engine.
pub fn open(dir: &Path, options: &Options) -> Result<(Lock, Engine)> {
    let named = |e: std::io::Error| engine_error(&format!("open {}", dir.display()), e);
    fs::create_dir_all(dir).map_err(named)?;
    let lock = lock(dir)?;
    check_format(dir)?;
    let engine = dir.join("engine");
    if engine.try_exists().map_err(named)? {
        journal::cut_torn_tail(&engine, options.durability == Durability::Fsync)?;
    } else {
        create(dir, options)?;
    }
    Ok((lock, keyspaces(&engine, options)?))
}

fn lock(dir: &Path) -> Result<Lock> {
    let path = dir.join("lock");
    let named = |e: std::io::Error| engine_error(&format!("lock {}", path.display()), e);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(named)?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            // A process that was just started by the former holder has the lock until it runs its own program.
            Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES_MAX => std::thread::sleep(LOCK_WAIT),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(named)?;
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "the store {} is open in another process (pid {}): stop it, or give another directory",
                        dir.display(),
                        holder.trim()
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(named(e)),
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(named)?;
    Ok(Lock { _file: file })
}

fn check_format(dir: &Path) -> Result<()> {
    let path = dir.join("format");
    let named = |e: std::io::Error| engine_error(&format!("read {}", path.display()), e);
    match fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(Error::invalid(format!(
            "the store {} has the layout `{}`; this version reads `{}`: open it with the version that wrote it, or \
             give an empty directory",
            dir.display(),
            found.trim(),
            FORMAT.trim()
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("engine").try_exists().map_err(named)? {
                return Err(Error::invalid(format!(
                    "the store {} has no `format` file: it is not a store of this program, or was copied in part",
                    dir.display()
                )));
            }
            write_durably(dir, "format", FORMAT.as_bytes()).map_err(named)
        }
        Err(e) => Err(named(e)),
    }
}

/// Writes a small file so that after a crash it is there whole or not at all.
pub fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Builds an empty engine aside and moves it into place, so that a crash meanwhile leaves none.
fn create(dir: &Path, options: &Options) -> Result<()> {
    let building = dir.join("engine.new");
    let named = |e: std::io::Error| engine_error(&format!("create {}", dir.display()), e);
    if building.try_exists().map_err(named)? {
        fs::remove_dir_all(&building).map_err(named)?;
    }
    let engine = keyspaces(&building, options)?;
    let mut batch = batch(&engine, 1, Some(PersistMode::SyncAll));
    batch.insert(&engine.meta, b"slots".as_slice(), options.slots.to_be_bytes());
    batch.commit().map_err(|e| engine_error("write its first row", e))?;
    drop(engine);
    fs::rename(&building, dir.join("engine")).map_err(named)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(named)
}

/// An empty batch of the engine.
pub fn batch(engine: &Engine, items: usize, persist: Option<PersistMode>) -> OwnedWriteBatch {
    OwnedWriteBatch::with_capacity(engine.db.clone(), items).durability(persist)
}

fn keyspaces(path: &Path, options: &Options) -> Result<Engine> {
    let failed = |e: fjall::Error| engine_error(&format!("open its engine at {}", path.display()), e);
    let db = Database::builder(path)
        .manual_journal_persist(true)
        // Batches are compressed before they get here, and `journal` reads them back.
        .journal_compression(CompressionType::None)
        .cache_size(options.cache_bytes_max)
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .worker_threads(WORKERS)
        .open()
        .map_err(failed)?;
    let plain =
        || KeyspaceCreateOptions::default().data_block_compression_policy(CompressionPolicy::disabled());
    let meta = db.keyspace("meta", plain).map_err(failed)?;
    let recent = db
        .keyspace("recent", || plain().max_memtable_size(RECENT_SHARE * options.log_bytes_max))
        .map_err(failed)?;
    let cells = db.keyspace("cells", cells_options).map_err(failed)?;
    let separate = KvSeparationOptions::default()
        .compression(CompressionType::None)
        .separation_threshold(SEPARATE_BYTES_MIN);
    let log = db
        .keyspace("log", || {
            plain().max_memtable_size(options.log_bytes_max).with_kv_separation(Some(separate))
        })
        .map_err(failed)?;
    Ok(Engine { db, meta, recent, cells, log })
}

/// Tables of cells: filters and indexes stay in memory, so that a cell costs at most one block read.
fn cells_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(PinningPolicy::all(false))
        .index_block_partitioning_policy(PinningPolicy::all(false))
        .data_block_compression_policy(CompressionPolicy::new([CompressionType::None, CompressionType::Lz4]))
        .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(FOLDS_TOGETHER)))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
}
