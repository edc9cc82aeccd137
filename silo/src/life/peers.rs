//! The way to grains of other silos: a client of the cluster that is told of its members instead of asking.

use std::sync::{Arc, PoisonError, RwLock};

use granary_cluster::members::View;
use granary_core::envelope::Answered;
use granary_core::{Error, ErrorKind, Ran};
use granary_engine::{Passed, Peers};

/// The way to other silos.
pub struct Ways {
    silo: String,
    view: RwLock<Option<Arc<View>>>,
}

impl Ways {
    /// Of this silo of this cluster.
    pub fn new(_cluster: &str, silo: &str) -> Arc<Ways> {
        Arc::new(Ways { silo: silo.to_owned(), view: RwLock::default() })
    }

    /// The cluster has changed.
    pub fn see(&self, view: &Arc<View>) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
    }
}

impl Peers for Ways {
    fn call(&self, call: Passed, answer: Answered) {
        let message = format!("{} is not on silo {}", call.grain, self.silo);
        answer(Err(Error::new(ErrorKind::Moved, message).ran(Ran::No)));
    }
}
