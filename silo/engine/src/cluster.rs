//! What an engine needs to be one silo of several: which slots are its own, until when, and the way to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use granary_core::call::Options;
use granary_core::envelope::Answered;
use granary_core::{GrainId, Span, Timestamp};

/// Until when a silo may answer reads of what is stored: another silo may own its slots after that.
///
/// Writes need none of it: the store checks owner and epoch of each.
#[derive(Debug)]
pub struct Lease(AtomicI64);

impl Lease {
    /// One that has not begun.
    pub fn none() -> Arc<Lease> {
        Arc::new(Lease(AtomicI64::new(i64::MIN)))
    }

    /// From now on it ends then, by the engine's clock.
    pub fn set(&self, until: Timestamp) {
        self.0.store(until.0, Ordering::Release);
    }

    /// Whether it holds at this time.
    pub fn holds(&self, now: Timestamp) -> bool {
        now.0 < self.0.load(Ordering::Acquire)
    }
}

/// A call of a grain that another silo has.
#[derive(Debug)]
pub struct Passed {
    /// The grain.
    pub grain: GrainId,
    /// Its method.
    pub method: &'static str,
    /// The arguments, encoded.
    pub arguments: Vec<u8>,
    /// Deadline, chain, idempotency key and the like.
    pub options: Options,
}

/// The way to grains of other silos.
pub trait Peers: Send + Sync {
    /// Has the grain called wherever it is by now, and tells the answer.
    fn call(&self, call: Passed, answer: Answered);
}

/// A silo of several.
#[derive(Clone)]
pub struct Cluster {
    /// Its lease.
    pub lease: Arc<Lease>,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
    /// A slot that belongs to another silo by now goes on for so long before it is given: until that silo knows, too, and
    /// waits for it.
    pub give_after: Span,
}
