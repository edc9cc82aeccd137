//! Slots, partitions and lanes: plain arithmetic.
//!
//! A topic whose partition count P divides S and whose records are keyed by Kafka's default partitioner is read in
//! place: `h mod P = (h mod S) mod P`, so partition p feeds exactly the slots congruent to p modulo P. Any other topic is
//! re-keyed whole; its partition p is hosted by slot p mod S.

use granary_core::SlotId;
use granary_core::id::slot_of;

/// How many slots a cluster has unless it is created with another number.
pub const SLOTS_DEFAULT: u16 = 96;

/// The slots of a cluster: `0..count`, fixed when the cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    count: u16,
}

/// How a topic with so many partitions is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// In place: each partition feeds the slots congruent to it.
    InPlace,
    /// Its partition count does not divide S: every record goes through the internal re-keyed topic.
    Rekeyed,
}

impl Slots {
    /// `count` slots; `None` when there would be none.
    pub const fn new(count: u16) -> Option<Slots> {
        if count == 0 { None } else { Some(Slots { count }) }
    }

    /// How many.
    pub const fn count(self) -> u16 {
        self.count
    }

    /// All of them, in order.
    pub fn all(self) -> impl DoubleEndedIterator<Item = SlotId> + ExactSizeIterator {
        (0..self.count).map(SlotId)
    }

    /// The slot of a routing key.
    pub fn of(self, routing_key: &[u8]) -> SlotId {
        slot_of(routing_key, self.count)
    }

    /// How a topic of so many partitions can be read, if its records are keyed by the default partitioner.
    pub fn reading(self, partitions: u32) -> Reading {
        if partitions > 0 && u32::from(self.count).is_multiple_of(partitions) {
            Reading::InPlace
        } else {
            Reading::Rekeyed
        }
    }

    /// The slots that partition `partition` of a topic with so many partitions feeds: those congruent to it.
    pub fn fed_by(self, partition: u32, partitions: u32) -> impl Iterator<Item = SlotId> {
        self.all().filter(move |slot| partitions > 0 && partition_of(*slot, partitions) == partition)
    }

    /// The slot that reads partition `partition` and answers for its records that have no key to go by: records that
    /// cannot be decoded, strays, and whole topics that are re-keyed.
    pub fn host(self, partition: u32) -> SlotId {
        SlotId((partition % u32::from(self.count)) as u16)
    }

    /// Whether a record with this routing key, found in this partition of a topic read in place, lies where the default
    /// partitioner would have put it. If not it is a stray.
    pub fn is_at_home(self, routing_key: &[u8], partition: u32, partitions: u32) -> bool {
        partitions > 0 && partition_of(self.of(routing_key), partitions) == partition
    }
}

/// The partition that feeds a slot, of a topic read in place.
pub fn partition_of(slot: SlotId, partitions: u32) -> u32 {
    u32::from(slot.0) % partitions
}

/// How many slots side by side may go to different lanes, for [`lane_of`]: slots that are congruent modulo the answer share
/// a lane. `partitions` are the counts of the topics read in place. All of them are read once when their greatest
/// common divisor still feeds every lane; else the smallest count that does is; else every slot goes its own way and
/// partitions are read by several lanes.
pub fn group(slots: Slots, lanes: u16, partitions: &[u32]) -> u16 {
    let feeds = |count: &u32| *count >= u32::from(lanes) && slots.reading(*count) == Reading::InPlace;
    let in_place = || partitions.iter().copied().filter(|count| slots.reading(*count) == Reading::InPlace);
    let common = in_place().reduce(common_divisor).filter(feeds);
    let chosen = common.or_else(|| in_place().filter(feeds).min());
    chosen.and_then(|count| u16::try_from(count).ok()).unwrap_or(slots.count())
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The lane of a slot among `lanes` of one silo; `group` as [`group`] says.
pub fn lane_of(slot: SlotId, lanes: u16, group: u16) -> u16 {
    debug_assert!(lanes > 0 && group > 0, "a silo has a lane, and slots a group");
    (slot.0 % group) % lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_core::id::positive_murmur2;

    fn slots() -> Slots {
        Slots::new(SLOTS_DEFAULT).unwrap()
    }

    #[test]
    fn a_divisor_of_s_is_read_in_place() {
        for partitions in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96] {
            assert_eq!(slots().reading(partitions), Reading::InPlace, "{partitions}");
        }
        for partitions in [0, 5, 7, 9, 10, 64, 192] {
            assert_eq!(slots().reading(partitions), Reading::Rekeyed, "{partitions}");
        }
        assert_eq!(Slots::new(0), None);
    }

    #[test]
    fn a_keyed_record_is_in_a_partition_that_feeds_its_slot() {
        for partitions in [1u32, 3, 12, 96] {
            for i in 0..500 {
                let key = format!("d-{i}");
                let partition = positive_murmur2(key.as_bytes()) % partitions; // as Kafka's producer
                let slot = slots().of(key.as_bytes());
                assert_eq!(partition_of(slot, partitions), partition);
                assert!(slots().fed_by(partition, partitions).any(|fed| fed == slot));
                assert!(slots().is_at_home(key.as_bytes(), partition, partitions));
                assert!(
                    partitions == 1
                        || !slots().is_at_home(key.as_bytes(), (partition + 1) % partitions, partitions)
                );
            }
        }
    }

    #[test]
    fn each_slot_is_fed_by_one_partition() {
        for partitions in [1u32, 4, 96] {
            let mut fed: Vec<SlotId> = (0..partitions).flat_map(|p| slots().fed_by(p, partitions)).collect();
            fed.sort_unstable();
            assert_eq!(fed, slots().all().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_host_of_a_partition_is_fed_by_it() {
        for partitions in [1u32, 4, 48, 96] {
            for partition in 0..partitions {
                let host = slots().host(partition);
                assert!(slots().fed_by(partition, partitions).any(|slot| slot == host));
            }
        }
        assert_eq!(slots().host(100), SlotId(4));
    }

    #[test]
    fn partitions_are_read_once_where_every_lane_still_has_work() {
        let group = |lanes, partitions: &[u32]| group(slots(), lanes, partitions);
        assert_eq!(group(4, &[12]), 12);
        assert_eq!(group(4, &[12, 8]), 4, "both topics are read once");
        assert_eq!(group(8, &[12, 8]), 8, "one of them is");
        assert_eq!(group(2, &[1]), 96, "one partition would feed one lane");
        assert_eq!(group(4, &[7]), 96, "not read in place");
        assert_eq!(group(4, &[]), 96);
    }

    #[test]
    fn slots_of_one_partition_share_a_lane() {
        for partition in 0..12 {
            let lanes: std::collections::BTreeSet<u16> =
                slots().fed_by(partition, 12).map(|slot| lane_of(slot, 4, 12)).collect();
            assert_eq!(lanes.len(), 1, "partition {partition}");
        }
        let used: std::collections::BTreeSet<u16> = slots().all().map(|slot| lane_of(slot, 4, 12)).collect();
        assert_eq!(used.len(), 4);
    }
}
