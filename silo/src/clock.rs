//! The silo's clock: the wall clock as it stood at the start, carried on by the monotonic one, so a jump of the wall
//! clock moves no timer.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use granary_core::{Clock, Span, Timestamp};

/// Real time that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: Instant,
    began_at: Timestamp,
}

impl SystemClock {
    /// Reads the wall clock, once.
    pub fn start() -> SystemClock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_at = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        SystemClock { began: Instant::now(), began_at }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.began_at + Span(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
