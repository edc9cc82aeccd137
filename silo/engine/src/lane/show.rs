//! What probes and metrics see of a lane beside its counters, renewed with each tick.

use std::sync::PoisonError;

use granary_cluster::slot::Phase;

use crate::mailbox::Stand;
use crate::stats::LaneStats;

use super::Lane;
use super::moving::Here;

impl Lane {
    /// Renews the gauges and where the sources stand.
    pub(super) fn show(&self) {
        let (mut bytes, mut running, mut held, mut waiting, mut outdated) = (0, 0, 0, 0, 0);
        // before the cluster was seen any of them may belong here
        let is_unplaced = self.config.cluster.is_some() && self.view.borrow().is_none();
        for host in self.slots.iter().flatten() {
            let inner = host.inner.borrow();
            let machine = &inner.machine;
            outdated += u64::from(inner.is_outdated && host.here.get() == Here::Yes);
            bytes += machine.outbox_bytes();
            let runs = host.is_running.get();
            running += u64::from(runs);
            held += u64::from(machine.phase() != Phase::Off);
            waiting += u64::from(!runs && (is_unplaced || host.here.get() == Here::Yes));
        }
        let stats = &self.mailbox.stats;
        LaneStats::set(&stats.slots_held, held);
        LaneStats::set(&stats.outbox_bytes, bytes as u64);
        LaneStats::set(&stats.slots_running, running);
        LaneStats::set(&stats.slots_outdated, outdated);
        LaneStats::set(&stats.slots_waiting, waiting); // last: who sees that none waits sees the rest, too
        LaneStats::set(&stats.store_away, u64::from(self.is_store_away()));
        self.show_work();
        let now = self.now.get();
        let feeds = self.feeds.borrow();
        let first = feeds.iter().filter(|feed| feed.again_of.is_none());
        let delay = first.filter_map(|feed| feed.reading_since()).map(|at| now.since(at).ms()).max();
        LaneStats::set(&stats.clock_delay_ms, delay.unwrap_or(0));
        let mut stands = self.mailbox.stands.lock().unwrap_or_else(PoisonError::into_inner);
        stands.clear();
        let keeping: Vec<_> = self.slots_keeping().into_iter().filter_map(|slot| self.slot(slot)).collect();
        // Second readings have offsets of their own, which say nothing of a topic.
        let first = feeds.iter().filter(|feed| feed.again_of.is_none());
        stands.extend(first.filter_map(|feed| {
            let kept = keeping.iter().filter_map(|host| self.passed(host, feed));
            let next = kept.chain(feed.next).min()?;
            Some(Stand { source: feed.source.0, partition: feed.partition, next })
        }));
    }

    fn show_work(&self) {
        if self.config.cluster.is_none() {
            return; // nobody moves slots
        }
        let running = self.slots.iter().flatten().filter(|host| host.is_running.get());
        let mut work = self.mailbox.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.clear();
        work.extend(running.map(|host| (host.id, host.work.get())));
    }
}
