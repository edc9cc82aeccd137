//! Waiting with a limit that says what was expected.

use std::future::Future;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a slow, busy machine.
pub const SOON: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Awaits `what` for [`SOON`] at most.
///
/// # Panics
/// When it takes longer; the message names `expected`.
pub async fn soon<F: Future>(expected: &str, what: F) -> F::Output {
    within(SOON, expected, what).await
}

/// Awaits `what` for `limit` at most.
///
/// # Panics
/// When it takes longer; the message names `expected`.
pub async fn within<F: Future>(limit: Duration, expected: &str, what: F) -> F::Output {
    match tokio::time::timeout(limit, what).await {
        Ok(output) => output,
        Err(_) => panic!("expected within {limit:?}: {expected}"),
    }
}

/// Looks until `holds` says yes, for [`SOON`] at most.
///
/// # Panics
/// When it never does; the message names `expected`.
pub async fn eventually(expected: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "expected within {SOON:?}: {expected}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
