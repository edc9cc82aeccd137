//! What probes and metrics see of a lane beside its counters, renewed with each tick.

use std::sync::PoisonError;

use crate::mailbox::Stand;
use crate::stats::LaneStats;

use super::Lane;

impl Lane {
    /// Renews the gauges and where the sources stand.
    pub(super) fn show(&self) {
        let (mut bytes, mut running) = (0, 0);
        for host in self.slots.iter().flatten() {
            bytes += host.inner.borrow().machine.outbox_bytes();
            running += u64::from(host.is_running.get());
        }
        let stats = &self.mailbox.stats;
        LaneStats::set(&stats.outbox_bytes, bytes as u64);
        LaneStats::set(&stats.slots_running, running);
        LaneStats::set(&stats.store_away, u64::from(self.is_store_away()));
        let now = self.now.get();
        let feeds = self.feeds.borrow();
        let delay = feeds.iter().filter_map(|feed| feed.reading_since()).map(|at| now.since(at).ms()).max();
        LaneStats::set(&stats.clock_delay_ms, delay.unwrap_or(0));
        let mut stands = self.mailbox.stands.lock().unwrap_or_else(PoisonError::into_inner);
        stands.clear();
        stands.extend(feeds.iter().filter_map(|feed| {
            let next = feed.next?;
            Some(Stand { source: feed.source.0, partition: feed.partition, next })
        }));
    }
}
