//! How far the partitions have come that a step has heard of.
//!
//! A slot reads its partitions one after the other, and often far apart when it has something to catch up with. So its clock follows
//! the one that is behind, and a join hears of both its sides first: else what is still unread would be late. A partition that
//! nothing was heard of yet is behind all others. Once the slot stands at the end of all of them nothing is unread, and the one that
//! is ahead counts.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::Timestamp;

use crate::Corrupt;
use crate::encode::{Reader, put_i64, put_u64};

/// Partitions that are told apart; of more the others do not count.
pub const PARTITIONS_MAX: usize = 1_024;

/// What was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The greatest event time of each partition, by sides.
    newest: Vec<BTreeMap<u64, i64>>,
    /// The partitions that are read and that nothing was heard of, by sides, as far as it is known what is read.
    silent: Vec<BTreeSet<u64>>,
}

impl Heard {
    pub fn new(sides: usize) -> Heard {
        Heard { newest: vec![BTreeMap::new(); sides], silent: vec![BTreeSet::new(); sides] }
    }

    /// These partitions are read for a side, others may be, too.
    pub fn reads(&mut self, side: usize, partitions: impl IntoIterator<Item = u64>) {
        let newest = &self.newest[side];
        self.silent[side] = partitions.into_iter().filter(|p| !newest.contains_key(p)).collect();
    }

    /// An event of this time; whether that changes anything.
    pub fn see(&mut self, side: usize, partition: u64, ms: i64) -> bool {
        self.silent[side].remove(&partition);
        let partitions = &mut self.newest[side];
        if partitions.len() >= PARTITIONS_MAX && !partitions.contains_key(&partition) {
            return false;
        }
        let newest = partitions.entry(partition).or_insert(i64::MIN);
        let is_newer = ms > *newest;
        *newest = ms.max(*newest);
        is_newer
    }

    /// Where the one is that is behind.
    pub fn level(&self) -> Timestamp {
        if self.silent.iter().any(|side| !side.is_empty()) {
            return Timestamp::MIN;
        }
        let least = |side: &BTreeMap<u64, i64>| side.values().copied().min().unwrap_or(i64::MIN);
        Timestamp(self.newest.iter().map(least).min().unwrap_or(i64::MIN))
    }

    /// Where the one is that is ahead.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest.iter().flat_map(BTreeMap::values).copied().max().map(Timestamp)
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        for side in &self.newest {
            put_u64(out, side.len() as u64);
            for (partition, ms) in side {
                put_u64(out, *partition);
                put_i64(out, *ms);
            }
        }
    }

    pub fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Corrupt> {
        for (side, silent) in self.newest.iter_mut().zip(&mut self.silent) {
            for _ in 0..reader.count()? {
                let partition = reader.u64()?;
                side.insert(partition, reader.i64()?);
                silent.remove(&partition);
            }
        }
        Ok(())
    }
}
