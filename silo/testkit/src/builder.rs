//! What a test cluster is made of.

use std::sync::Arc;

use granary_core::{Clock, Error, Grain, HandClock, KindInfo, Result, Span, Timestamp, time::secs};
use granary_store::Memory;
use granary_streams::{Plan, file};

use crate::cluster::TestCluster;
use crate::inner::Inner;
use crate::life::Mold;
use crate::outputs::Parts;

/// Slots, when nothing is said.
pub const SLOTS: u16 = 24;
/// Partitions of the topics that are read, when nothing is said. They divide the slots.
pub const PARTITIONS: u32 = 4;
/// A silo's lease, when nothing is said.
pub const LEASE: Span = secs(5);
/// The time at which a test begins, when nothing is said: 14 November 2023, 22:13:20 UTC.
pub const START: Timestamp = Timestamp(1_700_000_000_000);

/// A test cluster before it starts.
pub struct Builder {
    silos: usize,
    start_at: Timestamp,
    lease: Span,
    parts: Parts,
    mistake: Option<Error>,
}

impl Default for Builder {
    fn default() -> Builder {
        let parts = Parts {
            slots: SLOTS,
            lanes: 1,
            kinds: Vec::new(),
            plan: None,
            partitions: PARTITIONS,
            emits: Vec::new(),
        };
        Builder { silos: 1, start_at: START, lease: LEASE, parts, mistake: None }
    }
}

impl Builder {
    /// So many silos, named `silo-1`, `silo-2` and so on; one when nothing is said.
    #[must_use]
    pub fn silos(mut self, silos: usize) -> Builder {
        self.silos = silos;
        self
    }

    /// Every silo hosts this kind.
    #[must_use]
    pub fn host<G: Grain>(self) -> Builder {
        self.host_kind(G::info())
    }

    /// The same, by the kind's table.
    #[must_use]
    pub fn host_kind(mut self, kind: &'static KindInfo) -> Builder {
        self.parts.kinds.push(kind);
        self
    }

    /// A stream that grains emit to, by name. `alerts`, and streams that hosted kinds listen to, are there anyway.
    #[must_use]
    pub fn stream(mut self, name: &str) -> Builder {
        self.parts.emits.push(name.to_owned());
        self
    }

    /// Every silo runs this plan, as the builder of pipelines makes it. `M` is what that says is wrong with it.
    #[must_use]
    pub fn pipeline<M: std::fmt::Display>(mut self, plan: std::result::Result<Plan, M>) -> Builder {
        match plan {
            Ok(plan) => self.parts.plan = Some(Arc::new(plan)),
            Err(mistakes) => {
                self.mistake.get_or_insert_with(|| Error::invalid(mistakes.to_string()));
            }
        }
        self
    }

    /// Every silo runs the plan of this pipeline file, given as its text.
    #[must_use]
    pub fn pipeline_file(self, text: &str) -> Builder {
        self.pipeline(file::parse(text))
    }

    /// Slots of the cluster; [`SLOTS`] when nothing is said.
    #[must_use]
    pub fn slots(mut self, slots: u16) -> Builder {
        self.parts.slots = slots;
        self
    }

    /// Lanes of each silo; one when nothing is said.
    #[must_use]
    pub fn lanes(mut self, lanes: u16) -> Builder {
        self.parts.lanes = lanes;
        self
    }

    /// Partitions of the topics that are read; [`PARTITIONS`] when nothing is said.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Builder {
        self.parts.partitions = partitions;
        self
    }

    /// How long a silo may be silent before it is declared dead; [`LEASE`] when nothing is said.
    #[must_use]
    pub fn lease(mut self, lease: Span) -> Builder {
        self.lease = lease;
        self
    }

    /// The time at which the test begins; [`START`] when nothing is said.
    #[must_use]
    pub fn start_at(mut self, start_at: Timestamp) -> Builder {
        self.start_at = start_at;
        self
    }

    /// Starts the silos. When this comes back they know one another, and every slot has a silo.
    pub async fn start(self) -> Result<TestCluster> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        self.parts.check()?;
        let clock = HandClock::at(self.start_at);
        let outputs = self.parts.outputs();
        let told: Arc<dyn Clock> = Arc::new(clock.clone());
        let memory = Memory::with_clock(self.parts.slots, outputs.streams, told);
        let mold = Mold { parts: self.parts, memory, clock, lease: self.lease };
        TestCluster::start(Inner::new(mold)?, self.silos).await
    }
}
