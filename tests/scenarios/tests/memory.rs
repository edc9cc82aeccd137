//! Memory: a flood of calls to one grain, and crowds of activations that come and go. One process, one test at a time.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

use granary_core::time::{hours, mins};
use granary_core::{ErrorKind, Grain, Key, Ran, Result};
use granary_macros::grain;
use granary_scenarios::{Rig, eventually, soon, within};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Held for as long as the test needs.
static HOLD: std::sync::Mutex<Option<oneshot::Receiver<()>>> = std::sync::Mutex::new(None);

/// A grain that is only there.
#[derive(Default, Serialize, Deserialize)]
struct Crowd {
    n: u64,
}

#[grain(crate = granary_core)]
impl Crowd {
    fn n(&self) -> u64 {
        self.n
    }

    fn add(&mut self) -> u64 {
        self.n += 1;
        self.n
    }

    async fn hold(&mut self) -> Result<()> {
        let hold = HOLD.lock().expect("no test panics with it").take();
        if let Some(hold) = hold {
            let _ = hold.await;
        }
        Ok(())
    }
}

/// Counts the bytes in use. What the kernel counts holds pages that an allocator keeps for the next crowd, too, and how
/// many those are differs from run to run.
#[global_allocator]
static HEAP: cap::Cap<mimalloc::MiMalloc> = cap::Cap::new(mimalloc::MiMalloc, usize::MAX);

const MIB: usize = 1 << 20;

/// Scenario 30.
async fn a_flood_on_one_grain_is_refused_at_its_limit() {
    let rig = Rig::new();
    let silo = rig.start(vec![Crowd::info()]);
    let (release, hold) = oneshot::channel();
    *HOLD.lock().unwrap() = Some(hold);
    let held = silo.handle.grain::<Crowd>("one").hold().timeout(hours(1)).into_future();
    eventually("the grain is held", || HOLD.lock().unwrap().is_none()).await;
    let before = HEAP.allocated();
    let calls: Vec<_> = (0..10_000)
        .map(|_| silo.handle.grain::<Crowd>("one").add().timeout(hours(1)).into_future())
        .collect();
    eventually("9,000 are refused", || silo.stats().overloaded == 9_000).await;
    let grown = HEAP.allocated().saturating_sub(before);
    assert!(grown < 16 * MIB, "memory grew by {} KiB", grown >> 10);
    release.send(()).unwrap();
    soon("the holder ends", held).await.unwrap();
    let (mut answered, mut refused) = (0, 0);
    for call in calls {
        match soon("an answer", call).await {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.did_run()), (ErrorKind::Overloaded, Some(Ran::No)));
                assert!(error.retry_after().is_some(), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((answered, refused), (1_000, 9_000));
    silo.stop().await;
}

/// Scenario 32: `GRANARY_ACTIVATIONS` of them, a million unless it says otherwise.
async fn a_crowd_that_has_left_leaves_no_memory() {
    let crowd: u64 =
        std::env::var("GRANARY_ACTIVATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let rig = Rig::new();
    let silo = rig.start(vec![Crowd::info()]);
    let base = HEAP.allocated();
    let mut after = Vec::new();
    let mut peak = 0;
    for wave in 0..3 {
        for from in (0..crowd).step_by(8_192) {
            let calls: Vec<_> = (from..crowd.min(from + 8_192))
                .map(|i| silo.handle.grain::<Crowd>(Key::from(i)).n().timeout(hours(1)).into_future())
                .collect();
            for call in calls {
                assert_eq!(soon("an answer", call).await, Ok(0));
            }
        }
        assert_eq!(silo.stats().active, crowd);
        peak = peak.max(HEAP.allocated());
        silo.advance(mins(16));
        silo.advance(mins(1));
        let left = async {
            while silo.stats().active > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within(std::time::Duration::from_secs(60), "the crowd has left", left).await;
        after.push(HEAP.allocated());
        assert_eq!(silo.stats().deactivated, crowd * (wave + 1));
    }
    let each = (peak - base) as f64 / crowd as f64;
    println!(
        "base {} KiB, peak {} KiB, after the waves {:?} KiB, {each:.0} bytes each",
        base >> 10,
        peak >> 10,
        after.iter().map(|bytes| bytes >> 10).collect::<Vec<_>>()
    );
    for later in after {
        assert!(
            base.abs_diff(later) <= base / 20,
            "{base} bytes in use before the crowds, {later} after one"
        );
    }
    assert!(peak <= base + crowd as usize * 512, "an idle activation takes {each:.0} bytes");
    silo.stop().await;
}

#[tokio::test]
async fn memory_is_bounded_and_comes_back() {
    a_flood_on_one_grain_is_refused_at_its_limit().await;
    a_crowd_that_has_left_leaves_no_memory().await;
}
