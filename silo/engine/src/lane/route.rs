//! Which lane holds which slot.

use granary_cluster::slots::Slots;
use granary_core::{Key, SlotId, id};

use crate::config::Config;

/// Which lane holds which slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    slots: u16,
    lanes: u16,
    group: u16,
}

impl Route {
    /// Slots fed by one partition share a lane where the sources allow it.
    pub fn new(config: &Config) -> Route {
        let slots = Slots::new(config.slots).expect("a cluster has at least one slot");
        let counts: Vec<u32> = config.sources.iter().filter(|s| s.in_place).map(|s| s.partitions).collect();
        let group = granary_cluster::slots::group(slots, config.lanes, &counts);
        Route { slots: config.slots, lanes: config.lanes, group }
    }

    /// The slot of a grain.
    pub fn slot(self, key: &Key) -> SlotId {
        id::slot_of(key.routing_key().as_bytes(), self.slots)
    }

    /// The lane of a slot.
    pub fn lane(self, slot: SlotId) -> u16 {
        granary_cluster::slots::lane_of(slot, self.lanes, self.group)
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
