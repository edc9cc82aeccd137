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
}

impl LaneStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        // only the lane writes its counters
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
}
