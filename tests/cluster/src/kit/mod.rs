//! What the tests share: servers, silos, load, and what must hold at the end.

pub mod callers;
pub mod clock;
pub mod load;
pub mod proxy;
pub mod published;
pub mod rig;
pub mod several;
pub mod silo;
pub mod topics;

use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
