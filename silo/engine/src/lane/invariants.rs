//! What must hold of every slot, checked while the lane runs by the code that the simulation checks with. What is found
//! broken is said loudly and counted; nothing else depends on it.

use granary_cluster::invariants::{Broken, Watch};
use granary_cluster::slot::Publication;

use crate::slot::SlotHost;

use super::Lane;
use super::host::NO_SOURCE;

impl Lane {
    pub(super) fn must_hold_that(
        &self,
        host: &SlotHost,
        check: impl FnOnce(&mut Watch) -> Result<(), Broken>,
    ) {
        if let Err(broken) = check(&mut host.watch.borrow_mut()) {
            self.count(|s| &s.invariants_broken);
            tracing::error!(%broken, "this must never happen; please report it");
        }
    }

    /// A transaction is committed: its outputs are visible, and so is its marker.
    pub(super) fn check_published(&self, host: &SlotHost, publication: &Publication) {
        self.must_hold_that(host, |watch| {
            let entries = publication.commits.iter().flat_map(|pending| pending.outbox().entries());
            // what calls emit has no place among the records
            let of_inputs = entries.filter(|entry| entry.cause.source != NO_SOURCE);
            of_inputs.map(|entry| entry.cause).try_for_each(|cause| watch.visible(cause))?;
            watch.marked(&publication.marker)
        });
    }
}
