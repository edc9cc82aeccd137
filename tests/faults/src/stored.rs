//! A run's store, looked at from outside while no process has it open.

use std::path::Path;
use std::sync::Arc;

use granary::assembly::Assembly;
use granary::core::{SlotId, codec};
use granary_cluster::Store;
use granary_store::Embedded;

use crate::kinds::Tally;

/// Where the slots of a run stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Commits of all slots together.
    pub commits: u64,
    /// Slots without a commit.
    pub uncommitted: u64,
    /// The lowest position of a slot in the first partition.
    pub lowest: u64,
}

/// Opens the store of a run of this pipeline.
///
/// # Panics
/// When it cannot be opened.
pub fn open(out: &Path, pipeline: &Path) -> (Arc<Embedded>, u16) {
    let plan = granary::silo::read_plan(pipeline).expect("a pipeline file without mistakes");
    let assembly = Assembly {
        cluster: "run".into(),
        plan: Some(Arc::new(plan)),
        sink_partitions: 1,
        ..Assembly::default()
    };
    let store = assembly.open_store(&out.join(granary::run::STORE_DIR)).expect("the store opens");
    (store, assembly.slots)
}

/// Where the slots stand.
///
/// # Panics
/// When the store cannot be read.
pub fn standing(out: &Path, pipeline: &Path) -> Standing {
    let (store, slots) = open(out, pipeline);
    let mut standing = Standing { commits: 0, uncommitted: 0, lowest: u64::MAX };
    for slot in 0..slots {
        let record = store.record(SlotId(slot)).expect("a slot's row");
        standing.commits += record.n.0;
        standing.uncommitted += u64::from(record.n.0 == 0);
        let at = record.positions.iter().map(|p| p.offset).min().unwrap_or(0);
        standing.lowest = standing.lowest.min(at);
    }
    standing
}

/// How many records the [`Tally`] grains have seen, all together.
///
/// # Panics
/// When the store cannot be read.
pub fn tallied(out: &Path, pipeline: &Path) -> u64 {
    let (store, slots) = open(out, pipeline);
    let mut seen = 0;
    for slot in 0..slots {
        let mut add = |_: &[u8], cell: &[u8]| {
            // the version of the state, then its fields
            seen += codec::from_bytes::<(u32, Tally)>(cell).expect("the state of a grain").1.seen;
            true
        };
        store.scan(SlotId(slot), b"g/Tally/", None, &mut add).expect("the slot's cells");
    }
    seen
}
