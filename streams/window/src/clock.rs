//! The watermark of a stream in partitions.

use crate::Corrupt;
use crate::encode::{Reader, put_i64, put_u64};

/// Combines the watermarks of partitions: the minimum over those that are not idle; if all are idle, the maximum over
/// all. A partition that has said nothing holds it back. The combined watermark never moves back.
#[derive(Clone, Debug)]
pub struct Partitions {
    watermarks: Vec<i64>,
    idle: Vec<bool>,
    combined: i64,
}

/// So many partitions at most.
pub const PARTITIONS_MAX: u32 = 65_536;

impl Partitions {
    /// So many partitions, from 0, of which none has said anything.
    pub fn new(partitions: u32) -> Partitions {
        let n = partitions.clamp(1, PARTITIONS_MAX) as usize;
        Partitions { watermarks: vec![i64::MIN; n], idle: vec![false; n], combined: i64::MIN }
    }

    /// The combined watermark, ms.
    pub fn watermark(&self) -> i64 {
        self.combined
    }

    /// A partition's watermark is at least this, and the partition is active. One beyond the last is passed over.
    pub fn observe(&mut self, partition: u32, watermark: i64) {
        let p = partition as usize;
        let Some(held) = self.watermarks.get_mut(p) else { return };
        let was_lowest = self.idle[p] || *held <= self.combined;
        *held = watermark.max(*held);
        self.idle[p] = false;
        if was_lowest {
            self.combine();
        }
    }

    /// A partition is idle, or active again.
    pub fn set_idle(&mut self, partition: u32, idle: bool) {
        if let Some(held) = self.idle.get_mut(partition as usize) {
            *held = idle;
            self.combine();
        }
    }

    /// The stream is silent: every watermark is at least this. Which partitions are idle stays as it is.
    pub fn observe_all(&mut self, watermark: i64) {
        self.watermarks.iter_mut().for_each(|held| *held = watermark.max(*held));
        self.combine();
    }

    /// The input has ended: every watermark becomes the largest time.
    pub fn end(&mut self) {
        self.watermarks.fill(i64::MAX);
        self.combine();
    }

    fn combine(&mut self) {
        let active = self.watermarks.iter().zip(&self.idle).filter(|(_, idle)| !**idle);
        let lowest = active.map(|(watermark, _)| *watermark).min();
        let value = lowest.or_else(|| self.watermarks.iter().copied().max()).unwrap_or(i64::MIN);
        self.combined = self.combined.max(value);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_i64(out, self.combined);
        put_u64(out, self.watermarks.len() as u64);
        for (watermark, idle) in self.watermarks.iter().zip(&self.idle) {
            put_i64(out, *watermark);
            out.push(u8::from(*idle));
        }
    }

    /// Reads the watermarks of as many partitions as there are now: a stream may have gained some since.
    pub(crate) fn decode(&mut self, reader: &mut Reader<'_>) -> Result<(), Corrupt> {
        self.combined = reader.i64()?;
        for p in 0..reader.count()? {
            let (watermark, idle) = (reader.i64()?, reader.byte()? != 0);
            if let Some(held) = self.watermarks.get_mut(p) {
                *held = watermark;
                self.idle[p] = idle;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_active_partition_decides_and_nothing_moves_back() {
        let mut partitions = Partitions::new(3);
        partitions.observe(0, 10);
        partitions.observe(1, 20);
        assert_eq!(partitions.watermark(), i64::MIN);
        partitions.set_idle(2, true);
        assert_eq!(partitions.watermark(), 10);
        partitions.observe(2, 5);
        partitions.observe(0, 30);
        assert_eq!(partitions.watermark(), 10);
        partitions.observe(2, 15);
        assert_eq!(partitions.watermark(), 15);
    }

    #[test]
    fn when_all_are_idle_the_furthest_decides() {
        let mut partitions = Partitions::new(2);
        partitions.observe(0, 10);
        partitions.set_idle(0, true);
        assert_eq!(partitions.watermark(), i64::MIN);
        partitions.set_idle(1, true);
        assert_eq!(partitions.watermark(), 10);
        partitions.end();
        assert_eq!(partitions.watermark(), i64::MAX);
    }
}
