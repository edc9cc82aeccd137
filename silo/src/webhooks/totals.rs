//! What there is to count of webhooks, for the gateway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use granary_alerts::endpoint::Standing;
use granary_alerts::retry::Answer;

/// Sorts of answers, as metrics call them.
pub const RESULTS: [&str; 9] = ["1xx", "2xx", "3xx", "4xx", "5xx", "timeout", "broken", "refused", "lost"];

/// Counted since the silo started.
#[derive(Debug, Default)]
pub struct Totals {
    attempts: [AtomicU64; RESULTS.len()],
    unreadable: AtomicU64,
    standings: Mutex<BTreeMap<String, Standing>>,
}

impl Totals {
    /// An attempt was answered.
    pub fn note(&self, answer: Answer) {
        let sort = match answer {
            Answer::Status(status, _) => usize::from((status / 100).clamp(1, 5)) - 1,
            Answer::Timeout => 5,
            Answer::Broken => 6,
            Answer::Refused => 7,
            Answer::Lost => 8,
        };
        self.attempts[sort].fetch_add(1, Ordering::Relaxed);
    }

    /// A record of the topic of alerts is no alert that can be sent; how many there were.
    pub fn note_unreadable(&self) -> u64 {
        self.unreadable.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How an endpoint of this silo stands.
    pub fn stands(&self, endpoint: &str, standing: Standing) {
        self.lock().insert(endpoint.to_owned(), standing);
    }

    /// An endpoint is not this silo's any more.
    pub fn forget(&self, endpoint: &str) {
        self.lock().remove(endpoint);
    }

    /// Attempts by the sort of their answers.
    pub fn attempts(&self) -> [(&'static str, u64); RESULTS.len()] {
        std::array::from_fn(|i| (RESULTS[i], self.attempts[i].load(Ordering::Relaxed)))
    }

    /// Records of the topic that were no alerts.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// How each endpoint of this silo stands.
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
