//! How much a silo has to do, by the second: advice for whoever moves slots by hand.

use std::collections::BTreeMap;

use granary_cluster::members::{BUSIEST_MAX, Load};
use granary_core::{SlotId, Span, Timestamp};

/// The figures are of so long.
const MEASURED_EVERY: Span = Span(2_000);

/// Measures the load.
#[derive(Default)]
pub struct Gauge {
    since: Option<Timestamp>,
    /// Turns and records of each slot by then.
    before: BTreeMap<SlotId, u64>,
    load: Load,
}

impl Gauge {
    /// The load of late. `work` tells turns and records of each slot that runs, since the silo's start.
    pub fn load(&mut self, now: Timestamp, work: impl FnOnce() -> Vec<(SlotId, u64)>) -> Load {
        let since = self.since.unwrap_or(Timestamp::MIN);
        if self.since.is_none() || now.since(since) >= MEASURED_EVERY {
            let work = work();
            if self.since.is_some() {
                self.load = self.measured(&work, now.since(since));
            }
            self.load.slots = u32::try_from(work.len()).unwrap_or(u32::MAX);
            self.before = work.into_iter().collect();
            self.since = Some(now);
        }
        self.load.clone()
    }

    fn measured(&self, work: &[(SlotId, u64)], passed: Span) -> Load {
        // of a slot that has come meanwhile nothing is known yet
        let of = |(slot, count): &(SlotId, u64)| {
            let before = self.before.get(slot).copied().unwrap_or(*count);
            (*slot, count.saturating_sub(before) * 1_000 / passed.ms().max(1))
        };
        let mut each: Vec<(SlotId, u64)> = work.iter().map(of).filter(|(_, turns)| *turns > 0).collect();
        let turns_per_s = each.iter().map(|(_, turns)| turns).sum();
        each.sort_unstable_by_key(|(slot, turns)| (std::cmp::Reverse(*turns), *slot));
        each.truncate(BUSIEST_MAX);
        Load { slots: 0, turns_per_s, busiest: each }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_slots_come_first_and_new_ones_count_later() {
        let mut gauge = Gauge::default();
        let work = |counts: &[(u16, u64)]| -> Vec<(SlotId, u64)> {
            counts.iter().map(|(slot, count)| (SlotId(*slot), *count)).collect()
        };
        let first = gauge.load(Timestamp(1_000), || work(&[(1, 500), (2, 0)]));
        assert_eq!(first, Load { slots: 2, ..Load::default() });
        let same = gauge.load(Timestamp(1_500), || unreachable!("asked too often"));
        assert_eq!(same, first);
        let next = gauge.load(Timestamp(3_000), || work(&[(1, 520), (2, 4_000), (3, 9_000)]));
        let busiest = vec![(SlotId(2), 2_000), (SlotId(1), 10)];
        assert_eq!(next, Load { slots: 3, turns_per_s: 2_010, busiest });
    }
}
