//! Cells in the order of their keys: those in memory and those in the tables as one.

use std::ops::Bound;

use granary_core::Result;

use crate::disk::engine_error;
use crate::recent::Cell;
use crate::rows;
use crate::shared::Shared;

/// Calls `each` with the cells that start with `prefix` and are greater than `after`, until it returns false.
/// One view of the slot: a commit is seen whole or not at all.
pub fn scan(
    shared: &Shared,
    slot: u16,
    prefix: &[u8],
    after: Option<&[u8]>,
    each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<()> {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(rows::cell_key(slot, after)),
        _ => Bound::Included(rows::cell_key(slot, prefix)),
    };
    let end = rows::prefix_end(&rows::cell_key(slot, prefix)).map_or(Bound::Unbounded, Bound::Excluded);
    if matches!((&start, &end), (Bound::Excluded(from), Bound::Excluded(to)) if from >= to) {
        return Ok(());
    }
    // Both views are taken under the slot's lock: cells leave memory only under it, after the tables have them.
    let (recent, tables) = {
        let view = shared.recent.read(slot);
        (view.range(prefix, after), shared.engine.cells.range((start, end)))
    };
    let mut recent = recent.into_iter().peekable();
    let mut go_on = true;
    for item in tables {
        let (key, value) = item.into_inner().map_err(|e| engine_error("read cells", e))?;
        let cell = &key[2..];
        while go_on && let Some((earlier, kept)) = recent.next_if(|(recent, _): &Cell| **recent < *cell) {
            go_on = kept.is_none_or(|kept| each(&earlier, &kept));
        }
        if !go_on {
            return Ok(());
        }
        go_on = match recent.next_if(|(recent, _)| **recent == *cell) {
            Some((_, Some(newer))) => each(cell, &newer),
            Some((_, None)) => true,
            None => each(cell, &value),
        };
        if !go_on {
            return Ok(());
        }
    }
    for (cell, kept) in recent {
        if let Some(kept) = kept
            && !each(&cell, &kept)
        {
            return Ok(());
        }
    }
    Ok(())
}
