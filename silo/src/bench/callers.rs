//! A program that calls, as a measurement plays it: one thread for its connections, tasks for its callers.

use std::ops::Range;
use std::time::{Duration, Instant};

use granary_core::{Error, ErrorKind, Result};
use tokio::task::{JoinError, JoinSet};

/// Runs this on a thread of its own, as a client process of one thread would.
pub(super) async fn on_a_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::new(ErrorKind::Unavailable, e.to_string()))?;
        runtime.block_on(work)
    });
    done.await.map_err(panicked)?
}

/// What all callers have to say, or the first error.
pub(super) async fn all_of<T: 'static>(mut callers: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(called) = callers.join_next().await {
        all.push(called.map_err(panicked)??);
    }
    Ok(all)
}

/// A task that did not end by itself.
pub(super) fn panicked(error: JoinError) -> Error {
    Error::new(ErrorKind::Poisoned, error.to_string())
}

/// When something was wanted, and how long it took, both since the load began. A call that waits for its turn is late from the
/// time on at which it was wanted.
#[derive(Clone, Copy)]
pub(super) struct Took {
    pub at: Duration,
    pub took: Duration,
}

/// How long those took that were wanted in this time, in milliseconds, ascending.
pub(super) fn between(all: &[Took], time: Range<Duration>) -> Vec<f64> {
    let mut took: Vec<f64> =
        all.iter().filter(|one| time.contains(&one.at)).map(|one| one.took.as_secs_f64() * 1e3).collect();
    took.sort_unstable_by(f64::total_cmp);
    took
}

/// Waits for this time to come.
pub(super) async fn sleep_until(time: Instant) {
    tokio::time::sleep_until(time.into()).await;
}
