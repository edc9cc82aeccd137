//! The two embedded engines on the store's load, as single keys: `cargo run --release -p granary-store --example engines
//! fjall|redb [cells]`. What it printed is in `tests/bench/RESULTS.md` and decided for fjall and for the layer above it.

use std::path::Path;
use std::time::Instant;

use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PinningPolicy,
};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch,
    PersistMode,
};
use redb::{Durability, ReadableDatabase, TableDefinition};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const VALUE: [u8; 90] = [7; 90];
const CELLS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("cells");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// What is asked of an engine.
trait Engine: Send + Sync {
    /// One atomic batch of cell writes, cell deletions and log values from number `at` on.
    fn batch(&self, puts: &[u64], deletes: &[u64], log: &[Vec<u8>], at: u64, sync: bool) -> Outcome;
    /// Looks cells up; returns how many were found.
    fn find(&self, cells: &mut dyn Iterator<Item = u64>) -> Outcome<u64>;
    /// Reads up to 100,000 cells of a slot in order.
    fn scan(&self, slot: u8) -> Outcome<u64>;
}

struct Fjall {
    db: Database,
    cells: Keyspace,
    log: Keyspace,
}

impl Fjall {
    fn open(path: &Path) -> Outcome<Fjall> {
        let db = Database::builder(path)
            .manual_journal_persist(true)
            .cache_size(1 << 30)
            .worker_threads(2)
            .open()?;
        let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
        let cells = db.keyspace("cells", || {
            KeyspaceCreateOptions::default()
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_pinning_policy(PinningPolicy::all(true))
                .filter_block_partitioning_policy(PinningPolicy::all(false))
                .index_block_partitioning_policy(PinningPolicy::all(false))
                .data_block_compression_policy(CompressionPolicy::disabled())
                .filter_policy(FilterPolicy::all(bloom))
        })?;
        let separate =
            KvSeparationOptions::default().compression(CompressionType::None).separation_threshold(4096);
        let log = db.keyspace("log", || {
            KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::disabled())
                .with_kv_separation(Some(separate))
        })?;
        Ok(Fjall { db, cells, log })
    }
}

impl Engine for Fjall {
    fn batch(&self, puts: &[u64], deletes: &[u64], log: &[Vec<u8>], at: u64, sync: bool) -> Outcome {
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), puts.len() + deletes.len());
        for cell in puts {
            batch.insert(&self.cells, key(*cell), VALUE);
        }
        for cell in deletes {
            batch.remove(&self.cells, key(*cell));
        }
        for (number, value) in (at..).zip(log) {
            batch.insert(&self.log, number.to_be_bytes(), value.as_slice());
        }
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        Ok(batch.durability(Some(mode)).commit()?)
    }

    fn find(&self, cells: &mut dyn Iterator<Item = u64>) -> Outcome<u64> {
        let mut found = 0;
        for cell in cells {
            found += u64::from(self.cells.get(key(cell))?.is_some());
        }
        Ok(found)
    }

    fn scan(&self, slot: u8) -> Outcome<u64> {
        let mut seen = 0;
        for item in self.cells.prefix([0, slot]).take(100_000) {
            seen += u64::from(!item.into_inner()?.1.is_empty());
        }
        Ok(seen)
    }
}

struct Redb {
    db: redb::Database,
}

impl Engine for Redb {
    fn batch(&self, puts: &[u64], deletes: &[u64], log: &[Vec<u8>], at: u64, sync: bool) -> Outcome {
        let mut transaction = self.db.begin_write()?;
        if !sync {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut cells = transaction.open_table(CELLS)?;
            let put = puts.iter().map(|cell| (key(*cell), true));
            let mut changes: Vec<_> = put.chain(deletes.iter().map(|cell| (key(*cell), false))).collect();
            changes.sort_unstable();
            for (key, put) in &changes {
                if *put {
                    cells.insert(&key[..], &VALUE[..])?;
                } else {
                    cells.remove(&key[..])?;
                }
            }
            let mut table = transaction.open_table(LOG)?;
            for (number, value) in (at..).zip(log) {
                table.insert(number, value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn find(&self, cells: &mut dyn Iterator<Item = u64>) -> Outcome<u64> {
        let table = self.db.begin_read()?.open_table(CELLS)?;
        let mut found = 0;
        for cell in cells {
            found += u64::from(table.get(&key(cell)[..])?.is_some());
        }
        Ok(found)
    }

    fn scan(&self, slot: u8) -> Outcome<u64> {
        let table = self.db.begin_read()?.open_table(CELLS)?;
        let mut seen = 0;
        for item in table.range(&[0, slot][..]..&[0, slot + 1][..])?.take(100_000) {
            seen += u64::from(!item?.1.value().is_empty());
        }
        Ok(seen)
    }
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A cell's key: slot, then a window of one of 100 million devices, in no order.
fn key(cell: u64) -> [u8; 34] {
    let mut key = *b"..Window/d-00000000/cat-1/totals/0";
    let mut device = mix(cell) % 100_000_000;
    key[0] = 0;
    key[1] = (mix(device) % 96) as u8;
    for digit in key[11..19].iter_mut().rev() {
        *digit = b'0' + (device % 10) as u8;
        device /= 10;
    }
    key
}

fn timed(name: &str, done: u64, unit: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    let since = Instant::now();
    work()?;
    let seconds = since.elapsed().as_secs_f64();
    println!("{name:<48} {:>10.0} {unit}/s  {seconds:.2} s", done as f64 / seconds);
    Ok(())
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.get(1).map_or("fjall", String::as_str);
    let cells = arguments.get(2).map_or(Ok(10_000_000), |n| n.parse())?;
    let dir = std::env::temp_dir().join(format!("granary-engines-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let engine: Box<dyn Engine> = match name {
        "fjall" => Box::new(Fjall::open(&dir)?),
        "redb" => {
            Box::new(Redb { db: redb::Builder::new().set_cache_size(2 << 30).create(dir.join("redb"))? })
        }
        other => return Err(format!("`{other}` is no engine: fjall or redb").into()),
    };
    let outcome = measure(&*engine, cells);
    drop(engine);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn measure(engine: &dyn Engine, cells: u64) -> Outcome {
    timed("cells loaded, 100,000 a batch", cells, "cells", || {
        for part in 0..cells / 100_000 {
            let puts: Vec<u64> = (part * 100_000..(part + 1) * 100_000).collect();
            engine.batch(&puts, &[], &[], 0, false)?;
        }
        engine.batch(&[], &[], &[vec![1]], 0, true)
    })?;
    timed("absent cells looked up, two threads", 4_000_000, "lookups", || {
        std::thread::scope(|scope| {
            let lookup =
                |thread: u64| move || engine.find(&mut (0..2_000_000).map(|i| 1 << (40 + thread) | i));
            let threads = [scope.spawn(lookup(0)), scope.spawn(lookup(1))];
            threads.into_iter().try_for_each(|t| t.join().expect("no panic").map(drop))
        })
    })?;
    timed("present cells looked up", 500_000, "lookups", || {
        let found = engine.find(&mut (0..500_000).map(|i| mix(i) % cells))?;
        if found == 500_000 { Ok(()) } else { Err(format!("{found} of 500000 cells were found").into()) }
    })?;
    timed("cells scanned by slot", 1_000_000, "cells", || {
        (0..10).try_for_each(|slot| engine.scan(slot).map(drop))
    })?;
    timed("200,000 writes and as many deletions a commit", 4_000_000, "changes", || {
        (0..10u64).try_for_each(|round| {
            let puts: Vec<u64> = (0..200_000).map(|i| (1 << 50) + round * 200_000 + i).collect();
            let deletes: Vec<u64> = puts.iter().map(|cell| cell - 200_000).collect();
            engine.batch(&puts, &deletes, &[], 0, true)
        })
    })?;
    let mut noise = 1;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        noise = mix(noise);
        noise as u8
    })
    .take(160_000)
    .collect();
    let values = vec![value; 12];
    timed("log values of 160 kB, 12 a commit", 111, "MB", || {
        (0..58u64).try_for_each(|round| engine.batch(&[], &[], &values, 100 + round * 12, true))
    })?;
    timed("durable commits of one cell", 300, "commits", || {
        (0..300u64).try_for_each(|i| engine.batch(&[(1 << 55) + i], &[], &[], 0, true))
    })
}
