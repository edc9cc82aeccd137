//! How long each stage of a commit's way takes, as distributions that any thread may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::stats::LaneStats;

/// Up to so many milliseconds a length counts into each bucket; what is longer is in the last.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 30, 50, 100, 200, 500, 1_000, 5_000];

/// How long something took, each time it was done.
#[derive(Debug, Default)]
pub struct Lengths {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    ns: AtomicU64,
}

/// The same at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How often it took at most the bound of this place, and more than the one before; longer than all of them the last.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
    /// Nanoseconds of all together.
    pub ns: u64,
}

impl Lengths {
    /// One more. Only the lane calls this.
    pub(crate) fn add(&self, length: Duration) {
        let at = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < length);
        LaneStats::add(&self.buckets[at], 1);
        LaneStats::add(&self.ns, u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
    }

    fn read(&self) -> Distribution {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Distribution { buckets, ns: self.ns.load(Ordering::Relaxed) }
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The stages of one lane.
        #[derive(Debug, Default)]
        pub struct Stages { $($(#[$doc])* pub $name: Lengths,)* }

        impl Stages {
            /// Names and distributions, in the order of a commit's way.
            pub fn named(&self) -> Vec<(&'static str, Distribution)> {
                vec![$((stringify!($name), self.$name.read()),)*]
            }
        }
    };
}

stages! {
    /// From the first change of a slot since its last commit until the next one is sealed.
    commit_wait,
    /// From the sending of a batch of commits until the store's answer.
    commit,
    /// From a commit with outputs being stored until the log's transaction that takes them begins.
    publish_wait,
    /// From the begin of a transaction until its end.
    transaction,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_counts_into_the_bucket_whose_bound_it_does_not_exceed() {
        let lengths = Lengths::default();
        for (length, bucket) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(1), 0),
            (Duration::from_nanos(1_000_001), 1),
            (Duration::from_millis(50), 6),
            (Duration::from_millis(51), 7),
            (Duration::from_millis(5_000), 11),
            (Duration::from_secs(3_600), 12),
        ] {
            let before = lengths.read();
            lengths.add(length);
            let after = lengths.read();
            let counted: Vec<usize> =
                (0..after.buckets.len()).filter(|at| after.buckets[*at] > before.buckets[*at]).collect();
            assert_eq!(counted, [bucket], "{length:?}");
            assert_eq!(u128::from(after.ns - before.ns), length.as_nanos());
        }
    }
}
