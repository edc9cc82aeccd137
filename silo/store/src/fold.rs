//! Folds recent cells into the sorted tables, on a thread of its own.
//!
//! One fold: what is recent is set aside for every slot at once, written as sorted tables past the engine's journal,
//! then struck from `recent`. Stopping anywhere between is harmless: the same cells are then found recent again and
//! folded again, with the same result.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};

use fjall::PersistMode;
use granary_core::Result;

use crate::disk::{self, engine_error};
use crate::filter::{Filter, hash_of};
use crate::hashed::Cells;
use crate::options::Durability;
use crate::rows;
use crate::shared::Shared;

/// A rebuilt filter has room for so many times the keys there are.
const ROOM: usize = 3;

/// What one fold takes.
pub struct Job {
    /// What was set aside, by slot.
    pub frozen: Vec<(u16, Arc<Cells>)>,
    /// The sequence numbers of `recent` it covers.
    pub covers: std::ops::Range<u64>,
}

/// Folds until the writer hangs up.
pub fn run(shared: &Shared, jobs: &Receiver<Job>) {
    let mut filter = match known_empty(shared) {
        Ok(Some(filter)) => Some(filter),
        Ok(None) => None,
        Err(e) => {
            shared.fail(&e);
            return;
        }
    };
    let mut keys = 0;
    loop {
        if filter.as_ref().is_none_or(|filter| keys > filter.keys_max()) {
            match build(shared) {
                Ok((built, counted)) => {
                    keys = counted;
                    for slot in 0..shared.recent.slots() {
                        shared.recent.write(slot).set_filter(Arc::clone(&built));
                    }
                    filter = Some(built);
                }
                Err(e) => {
                    shared.fail(&e);
                }
            }
        }
        let Ok(job) = jobs.recv() else { return };
        match fold(shared, &job, filter.as_deref()) {
            Ok(added) => {
                keys += added;
                for slot in 0..shared.recent.slots() {
                    shared.recent.write(slot).folded(filter.clone());
                }
            }
            // What was set aside stays readable; the writer is told.
            Err(e) => {
                shared.fail(&e);
            }
        }
        *shared.folding.lock().unwrap_or_else(PoisonError::into_inner) = false;
        shared.folded.notify_all();
    }
}

/// An empty filter when there is no table yet: set by the opening before anything was read.
fn known_empty(shared: &Shared) -> Result<Option<Arc<Filter>>> {
    let empty = shared.engine.cells.is_empty().map_err(|e| engine_error("look at its tables", e))?;
    Ok(empty.then(|| {
        let filter = Arc::new(Filter::new(0));
        for slot in 0..shared.recent.slots() {
            shared.recent.write(slot).set_filter(Arc::clone(&filter));
        }
        filter
    }))
}

/// Reads every key of the tables. Only this thread adds to them, so nothing is missed.
fn build(shared: &Shared) -> Result<(Arc<Filter>, usize)> {
    let failed = |e: fjall::Error| engine_error("read its tables", e);
    let filter = Filter::new(shared.engine.cells.approximate_len().saturating_mul(ROOM));
    let mut keys = 0;
    for item in shared.engine.cells.iter() {
        let key = item.key().map_err(failed)?;
        let (slot, cell) = key.split_at_checked(2).ok_or_else(|| rows::damaged("cell key"))?;
        filter.add(hash_of(rows::read_u16(slot)?, cell));
        keys += 1;
    }
    Ok((Arc::new(filter), keys))
}

/// Returns how many cells the tables have now that they had not, about.
fn fold(shared: &Shared, job: &Job, filter: Option<&Filter>) -> Result<usize> {
    let failed = |e: fjall::Error| engine_error("fold recent cells into its tables", e);
    let engine = &shared.engine;
    let mut added = 0;
    let mut ingestion = engine.cells.start_ingestion().map_err(failed)?;
    for (slot, cells) in &job.frozen {
        for kept in cells.sorted() {
            let key = rows::cell_key(*slot, kept.key());
            match kept.value() {
                Some(value) => {
                    if filter.is_none_or(|filter| !filter.may_hold(kept.hash)) {
                        added += 1; // not a key that the tables have already
                    }
                    if let Some(filter) = filter {
                        filter.add(kept.hash);
                    }
                    ingestion.write(key, value).map_err(failed)?;
                }
                None => ingestion.write_tombstone(key).map_err(failed)?,
            }
        }
    }
    ingestion.finish().map_err(failed)?;
    let persist = match shared.options.durability {
        // Never leave an unsynced batch before one the writer syncs: see `journal`.
        Durability::Fsync => PersistMode::SyncData,
        Durability::Everysec | Durability::None => PersistMode::Buffer,
    };
    let mut batch = disk::batch(engine, job.covers.clone().count() + 1, Some(persist));
    for seq in job.covers.clone() {
        batch.remove(&engine.recent, seq.to_be_bytes());
    }
    batch.insert(&engine.meta, rows::FOLDED_KEY, job.covers.end.to_be_bytes());
    batch.commit().map_err(failed)?;
    Ok(added)
}
