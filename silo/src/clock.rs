//! The silo's clock: the wall clock as it stood at the start, carried on by one that only goes forward, so a jump of the wall
//! clock moves no timer. It goes on while the machine is suspended: a lease does not wait for a silo that sleeps.

use std::time::{SystemTime, UNIX_EPOCH};

use granary_core::{Clock, Span, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Real time that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    /// What is to be added to the time since the machine was started.
    began_at: Timestamp,
    began: Span,
}

impl SystemClock {
    /// Reads the wall clock, once.
    pub fn start() -> SystemClock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_at = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        SystemClock { began_at, began: since_boot() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.began_at + Span(since_boot().ms().saturating_sub(self.began.ms()))
    }
}

/// How long the machine has run, suspended or not.
fn since_boot() -> Span {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Span(seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000)
}
