//! What an engine needs to be one silo of several: which slots are its own, until when, and the way to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use granary_cluster::RunId;
use granary_core::call::Options;
use granary_core::envelope::Answered;
use granary_core::{GrainId, Span, Timestamp};

/// Until when a silo may answer reads of what is stored: another silo may own its slots after that.
///
/// Writes need none of it: the store checks owner and epoch of each.
#[derive(Debug)]
pub struct Lease {
    until: AtomicI64,
    run: AtomicU64,
    /// How often the silo stood aside.
    asides: AtomicU64,
    read_after: AtomicI64,
    version: AtomicU64,
}

impl Lease {
    /// One that has not begun.
    pub fn none() -> Arc<Lease> {
        Arc::new(Lease {
            until: AtomicI64::new(i64::MIN),
            run: AtomicU64::new(0),
            asides: AtomicU64::new(0),
            read_after: AtomicI64::new(i64::MIN),
            version: AtomicU64::new(0),
        })
    }

    /// From now on it ends then, by the engine's clock; this run of the store's server has said so.
    pub fn set(&self, until: Timestamp, run: RunId) {
        self.run.store(run.0, Ordering::Release);
        self.until.store(until.0, Ordering::Release);
    }

    /// It is over now, until it is set again.
    pub fn end(&self) {
        self.until.store(i64::MIN, Ordering::Release);
    }

    /// The silo stands aside, and its lease is over: of slots taken before this it answers no reads even when it has a lease
    /// again.
    pub fn stand_aside(&self) {
        self.asides.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it did.
    pub fn asides(&self) -> u64 {
        self.asides.load(Ordering::Acquire)
    }

    /// The members were read after this time, in this version.
    pub fn read(&self, after: Timestamp, version: u64) {
        self.version.store(version, Ordering::Release);
        self.read_after.store(after.0, Ordering::Release);
    }

    /// Whether the members were read after this time, and this is the latest version of them: it still said then what it
    /// says.
    pub fn confirms(&self, version: u64, at: Timestamp) -> bool {
        at.0 < self.read_after.load(Ordering::Acquire) && self.version.load(Ordering::Acquire) == version
    }

    /// Whether it holds at this time.
    pub fn holds(&self, now: Timestamp) -> bool {
        now.0 < self.until.load(Ordering::Acquire)
    }

    /// Whether this run of the store's server has confirmed it: another one may have lost the very join of this silo, and
    /// nothing is taken there before it has.
    pub fn is_of(&self, run: RunId) -> bool {
        self.run.load(Ordering::Acquire) == run.0
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
    /// A slot that its living owner has not given for so long is taken all the same, and the owner fenced. Several leases:
    /// who has to be fenced is not to have a lease any more.
    pub take_after: Span,
}
