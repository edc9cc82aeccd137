//! Memory of stored commits, used for the next ones: fresh memory for each would be pages that the system has to find
//! and clear, and that are gone from the processor's caches.

use std::sync::Arc;

use granary_cluster::{Cells, Commit, Outbox};

/// So much memory is kept: about that of one commit of each slot of a busy lane.
const KEPT_BYTES_MAX: usize = 64 * crate::slot::COMMIT_OUTBOX_BYTES_MAX;

/// Empty outboxes and lists of cells, with memory.
#[derive(Default)]
pub(crate) struct Spare {
    kept: Vec<(usize, Outbox, Cells)>,
    bytes: usize,
}

impl Spare {
    /// What the next commit is collected in.
    pub fn take(&mut self) -> (Outbox, Cells) {
        let Some((bytes, outbox, cells)) = self.kept.pop() else { return Default::default() };
        self.bytes -= bytes;
        (outbox, cells)
    }

    /// The commit is stored: its memory is kept if nobody else looks at it.
    pub fn keep(&mut self, stored: Arc<Commit>) {
        let Ok(Commit { mut outbox, mut cells, .. }) = Arc::try_unwrap(stored) else { return };
        let bytes = outbox.room() + cells.room();
        if self.bytes + bytes <= KEPT_BYTES_MAX {
            outbox.clear();
            cells.clear();
            self.bytes += bytes;
            self.kept.push((bytes, outbox, cells));
        }
    }
}
