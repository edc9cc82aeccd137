//! A silo's clock: the cluster's, which a stopped process does not see moving.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use granary_core::{Clock, HandClock, Timestamp};

/// Holds a silo's lanes up, as a stopped process is: whoever asks it for the time waits until it is opened.
///
/// A lane asks for the time before it does anything, so none of its rounds begins meanwhile. Calls must not be handed to
/// a silo that is held up: that asks for the time, too.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn shut(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub fn open(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The cluster's clock as one silo sees it.
pub(crate) struct SiloClock {
    pub hand: HandClock,
    pub gate: Arc<Gate>,
}

impl Clock for SiloClock {
    fn now(&self) -> Timestamp {
        self.gate.pass();
        self.hand.now()
    }
}
