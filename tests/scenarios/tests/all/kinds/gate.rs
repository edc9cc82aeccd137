//! The gate that turns wait at.

use granary_core::{Error, Result, Shared};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

/// A grain that lets calls pass once it is opened: what a turn waits for in a test.
#[derive(Default, Serialize, Deserialize)]
pub struct Gate {
    #[serde(skip)]
    opened: tokio_gate::Opened,
    #[serde(skip)]
    waiting: u64,
}

/// A flag that turns can wait for.
mod tokio_gate {
    use std::rc::Rc;
    use tokio::sync::Semaphore;

    #[derive(Clone)]
    pub struct Opened(pub Rc<Semaphore>);

    impl Default for Opened {
        fn default() -> Opened {
            Opened(Rc::new(Semaphore::new(0)))
        }
    }
}

#[grain(volatile, turn_max = "2h", crate = granary_core)]
impl Gate {
    /// Waits until the gate is opened.
    #[interleave]
    pub async fn pass(this: &Shared<Self>) -> Result<()> {
        let gate = this.update(|me| {
            me.waiting += 1;
            me.opened.clone()
        });
        let passed = gate.0.acquire().await.is_ok();
        this.update(|me| me.waiting -= 1);
        if passed { Ok(()) } else { Err(Error::rejected("the gate was closed for good")) }
    }

    /// How many wait.
    #[interleave]
    pub fn waiting(this: &Shared<Self>) -> u64 {
        this.read(|me| me.waiting)
    }

    /// Lets all pass, now and later.
    #[interleave]
    pub fn open(this: &Shared<Self>) {
        this.read(|me| me.opened.0.add_permits(1_000_000));
    }
}
