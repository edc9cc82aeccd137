//! How far the partitions have come that a step has heard of.
//!
//! A slot reads its partitions one after the other, and often far apart when it has something to catch up with. So its clock follows
//! the one that is behind, and a join hears of both its sides first: else what is still unread would be late. Once the slot stands
//! at the end of all of them nothing is unread, and the one that is ahead counts.

use std::collections::BTreeMap;

use granary_core::Timestamp;

use crate::Corrupt;
use crate::encode::{Reader, put_i64, put_u64};

/// Partitions that are told apart; of more the others do not count.
pub const PARTITIONS_MAX: usize = 1_024;

/// The greatest event time of each partition, by sides.
#[derive(Debug)]
pub(crate) struct Heard(Vec<BTreeMap<u64, i64>>);

impl Heard {
    pub fn new(sides: usize) -> Heard {
        Heard(vec![BTreeMap::new(); sides])
    }

    /// An event of this time; whether that changes anything.
    pub fn see(&mut self, side: usize, partition: u64, ms: i64) -> bool {
        let partitions = &mut self.0[side];
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
        let least = |side: &BTreeMap<u64, i64>| side.values().copied().min().unwrap_or(i64::MIN);
        Timestamp(self.0.iter().map(least).min().unwrap_or(i64::MIN))
    }

    /// Where the one is that is ahead.
    pub fn newest(&self) -> Option<Timestamp> {
        self.0.iter().flat_map(BTreeMap::values).copied().max().map(Timestamp)
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        for side in &self.0 {
            put_u64(out, side.len() as u64);
            for (partition, ms) in side {
                put_u64(out, *partition);
                put_i64(out, *ms);
            }
        }
    }

    pub fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Corrupt> {
        for side in &mut self.0 {
            for _ in 0..reader.count()? {
                side.insert(reader.u64()?, reader.i64()?);
            }
        }
        Ok(())
    }
}
