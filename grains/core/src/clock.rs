//! The clock port: whoever runs grains hands one in, so a test or a simulation moves time by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::time::{Span, Timestamp};

/// Tells the time. Wall-clock time never decides who owns a slot; it feeds timers, deadlines and idleness.
pub trait Clock: Send + Sync + 'static {
    /// Now, in milliseconds since the epoch.
    fn now(&self) -> Timestamp;
}

/// A clock that stands still until it is moved.
///
/// ```
/// use granary_core::{Clock, HandClock, Timestamp, time::secs};
/// let clock = HandClock::at(Timestamp(1_000));
/// clock.advance(secs(5));
/// assert_eq!(clock.now(), Timestamp(6_000));
/// ```
#[derive(Clone, Debug, Default)]
pub struct HandClock(Arc<AtomicI64>);

impl HandClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> HandClock {
        HandClock(Arc::new(AtomicI64::new(now.ms())))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Span) {
        self.0.fetch_add(i64::try_from(by.ms()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
