//! How often to commit, and how long to wait before a repetition. Lengths come in and go out; no clock is read here.

use std::time::Duration;

/// The shortest interval between commits that only the log drives.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest one.
pub const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// The interval is this many times what a commit takes: committing stays under a tenth of the time.
const SHARE: u32 = 10;

/// The commit interval of one slot or lane: so seldom that committing stays under a tenth of the time.
#[derive(Clone, Debug)]
pub struct Pace {
    min: Duration,
    max: Duration,
    /// What a commit takes, smoothed: a rise counts at once, a fall by an eighth, so that one quick commit after slow
    /// ones does not make them crowd.
    cost: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace::new(INTERVAL_MIN, INTERVAL_MAX)
    }
}

impl Pace {
    /// Between `min` and `max`; a `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration) -> Pace {
        Pace { min, max: max.max(min), cost: Duration::ZERO }
    }

    /// A commit took so long: sealing, encoding and the store's share of the lane's time.
    pub fn committed(&mut self, took: Duration) {
        let falling = self.cost - self.cost / 8 + took / 8;
        self.cost = took.max(falling.min(self.cost));
    }

    /// From the start of one commit to the start of the next.
    pub fn interval(&self) -> Duration {
        self.cost.saturating_mul(SHARE).clamp(self.min, self.max)
    }

    /// Whether the next commit is due. A waiting reply does not wait for the interval: its commit goes out as soon as the
    /// slot's previous one is acknowledged (`may_seal`), and so does a batch that is full.
    pub fn is_due(&self, since_last: Duration, reply_waits: bool, batch_full: bool) -> bool {
        reply_waits || batch_full || since_last >= self.interval()
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

    #[test]
    fn committing_stays_under_a_tenth_of_the_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.interval(), INTERVAL_MIN);
        for took in [ms(3), ms(20), ms(7)] {
            pace.committed(took);
            assert!(pace.interval() >= took * 10);
        }
        pace.committed(ms(500));
        assert_eq!(pace.interval(), INTERVAL_MAX);
    }

    #[test]
    fn it_returns_to_the_shortest_interval() {
        let mut pace = Pace::default();
        pace.committed(ms(90));
        for _ in 0..64 {
            pace.committed(Duration::from_micros(200));
        }
        assert_eq!(pace.interval(), INTERVAL_MIN);
    }

    #[test]
    fn a_waiting_reply_hurries_the_log_does_not() {
        let pace = Pace::default();
        assert!(pace.is_due(Duration::ZERO, true, false));
        assert!(pace.is_due(Duration::ZERO, false, true));
        assert!(!pace.is_due(ms(9), false, false));
        assert!(pace.is_due(ms(10), false, false));
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
