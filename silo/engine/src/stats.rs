//! What a lane counts, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one lane.
        #[derive(Debug, Default)]
        pub struct LaneStats { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The counters of one lane, or of all, at one time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        impl LaneStats {
            /// The values now.
            pub fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Stats {
            /// The names and values.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl std::ops::Add for Stats {
            type Output = Stats;
            fn add(self, other: Stats) -> Stats {
                Stats { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

counters! {
    /// Turns ended.
    turns,
    /// Records applied to slots of this lane.
    records,
    /// Records skipped: applied before, or another lane's.
    skipped,
    /// Commits acknowledged.
    commits,
    /// Cells written by them.
    cells,
    /// Outbox entries of them.
    outputs,
    /// Activations made.
    activated,
    /// Activations that left memory.
    deactivated,
    /// Activations in memory.
    active,
    /// Calls refused because a queue was full.
    overloaded,
    /// Calls that ran out of time.
    timed_out,
    /// Slots rolled back after a failure.
    rollbacks,
    /// Records set aside as poisoned.
    poisoned,
    /// Slots parked: they fail whatever is tried.
    parked,
    /// Reminders fired.
    reminders,
    /// Nanoseconds of sealing commits.
    seal_ns,
    /// Cells looked up in the store.
    loads,
    /// Round trips of them.
    load_trips,
    /// Transactions of the log that are committed.
    transactions,
    /// Transactions that were aborted before their end was tried.
    transactions_aborted,
    /// Transactions whose outcome was not known: the producer was initialised again.
    transactions_lost,
    /// Output bytes that wait for the log.
    outbox_bytes,
    /// Bytes that activations and panes take, about: what the memory limit bounds.
    memory_bytes,
    /// Lanes that the store has not answered for a while.
    store_away,
    /// Milliseconds since the log took the next record to be applied: how far behind the worst source is.
    clock_delay_ms,
    /// Lanes for which the log takes no transactions at present.
    log_away,
    /// Lanes whose producer was initialised.
    log_ready,
    /// Slots that run.
    slots_running,
    /// Slots that this silo has, or is about to have.
    slots_held,
    /// Slots that belong to this silo and do not run.
    slots_waiting,
    /// Those of them that a silo of a later generation has owned.
    slots_outdated,
    /// Invariants of the protocol that were found broken: 0, always.
    invariants_broken,
}

impl LaneStats {
    pub(crate) fn set(gauge: &AtomicU64, n: u64) {
        gauge.store(n, Ordering::Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        // only the lane writes its counters
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
}
