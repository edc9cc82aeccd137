//! How often to commit, and how long to wait before a repetition. Lengths come in and go out; no clock is read here.

use std::time::Duration;

/// The shortest interval between commits that only the log drives.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest one.
pub const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Of a lane that is behind the interval is so many times what sealing takes: it stays under a tenth of the time.
const SEAL_SHARE: u32 = 10;
/// The interval is so many times what the store takes: a lane has a commit on its way half of the time at most, for others
/// wait for the store, too, and each commit has a sync of its own.
const STORE_SHARE: u32 = 2;

/// The commit interval of a lane: the shortest unless the store is slow, or the lane is behind its sources. Sealing takes the
/// time of the lane, which nothing waits for while it keeps up.
#[derive(Clone, Debug)]
pub struct Pace {
    min: Duration,
    max: Duration,
    sealing: Mean,
    storing: Mean,
}

impl Default for Pace {
    fn default() -> Self {
        Pace::new(INTERVAL_MIN, INTERVAL_MAX)
    }
}

impl Pace {
    /// Between `min` and `max`; a `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration) -> Pace {
        Pace { min, max: max.max(min), sealing: Mean::default(), storing: Mean::default() }
    }

    /// Sealing took so long.
    pub fn sealed(&mut self, took: Duration) {
        self.sealing.add(took);
    }

    /// The store took so long to answer.
    pub fn stored(&mut self, took: Duration) {
        self.storing.add(took);
    }

    /// From the start of one commit to the start of the next, for a lane that is behind its sources or is not. Who waits for
    /// a reply does not wait for this: such a commit goes out as soon as the slot's previous one is acknowledged, and so does a
    /// batch that is full.
    pub fn interval(&self, is_behind: bool) -> Duration {
        let sealing = if is_behind { self.sealing.0.saturating_mul(SEAL_SHARE) } else { Duration::ZERO };
        sealing.max(self.storing.0.saturating_mul(STORE_SHARE)).clamp(self.min, self.max)
    }
}

/// A length, smoothed: each counts an eighth, and none as more than twice the mean. One that was long for another reason,
/// because the processor or the disk was busy with something else, must not hold up all that come after it.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Duration);

impl Mean {
    const WEIGHT: u32 = 8;
    /// It rises by an eighth of this at least.
    const RISE_MIN: Duration = Duration::from_millis(1);

    fn add(&mut self, length: Duration) {
        let length = length.min(self.0.saturating_mul(2) + Mean::RISE_MIN);
        self.0 = self.0 - self.0 / Mean::WEIGHT + length / Mean::WEIGHT;
    }
}

/// Waiting before a repetition: doubles from 10 ms to 1 s. The caller adds jitter if many wait for one thing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The first wait.
    pub const FIRST: Duration = Duration::from_millis(10);
    /// No wait is longer.
    pub const LONGEST: Duration = Duration::from_secs(1);

    /// It failed once more: how long to wait before the repetition.
    pub fn failed(&mut self) -> Duration {
        let wait = Backoff::FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(Backoff::LONGEST)
    }

    /// It succeeded.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const US_500: Duration = Duration::from_micros(500);

    #[test]
    fn sealing_stays_under_a_tenth_of_the_time_of_a_lane_that_is_behind() {
        let mut pace = Pace::default();
        assert_eq!(pace.interval(true), INTERVAL_MIN);
        for took in [ms(3), ms(20), ms(7)] {
            (0..64).for_each(|_| pace.sealed(took));
            let interval = pace.interval(true);
            assert!(interval > took * 99 / 10 && interval < took * 101 / 10, "{took:?}: {interval:?}");
        }
        (0..64).for_each(|_| pace.sealed(ms(500)));
        assert_eq!(pace.interval(true), INTERVAL_MAX);
    }

    #[test]
    fn a_lane_that_keeps_up_commits_at_the_shortest_interval() {
        let mut pace = Pace::default();
        (0..64).for_each(|_| pace.sealed(ms(90)));
        (0..64).for_each(|_| pace.stored(ms(4)));
        assert_eq!(pace.interval(false), INTERVAL_MIN);
        assert!(pace.interval(true) > ms(800));
    }

    #[test]
    fn a_slow_store_is_left_alone_for_as_long_as_it_took() {
        let mut pace = Pace::default();
        for took in [ms(30), ms(200), ms(60)] {
            (0..64).for_each(|_| pace.stored(took));
            for interval in [pace.interval(false), pace.interval(true)] {
                assert!(interval > took * 19 / 10 && interval < took * 21 / 10, "{took:?}: {interval:?}");
            }
        }
    }

    #[test]
    fn one_slow_commit_among_quick_ones_does_not_hold_up_the_next() {
        let mut pace = Pace::default();
        for _ in 0..64 {
            pace.sealed(US_500);
            pace.stored(ms(4));
        }
        pace.sealed(ms(40));
        pace.stored(ms(400));
        assert!(pace.interval(true) <= ms(11), "{:?}", pace.interval(true));
        assert_eq!(pace.interval(false), INTERVAL_MIN);
    }

    #[test]
    fn waits_double_up_to_a_second() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(), Backoff::FIRST);
    }
}
