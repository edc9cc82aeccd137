//! The way to grains of other silos: a client of the cluster that is told who has which slot, and need not ask.

use std::sync::Arc;

use granary_client::Client;
use granary_cluster::members::View;
use granary_core::call::Options;
use granary_core::envelope::Answered;
use granary_core::{Clock, Error, ErrorKind, Ran, Span, time};
use granary_engine::{Passed, Peers};
use granary_wire::{SiloEntry, SlotTable};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Calls of this silo's grains that may be under way to others; one more is `Overloaded`.
const PASSED_CALLS_MAX: usize = 16_384;
/// How long a caller is told to wait then.
const RETRY_AFTER: Span = time::millis(50);

/// The way to other silos.
pub struct Ways {
    client: Client,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    room: Arc<Semaphore>,
}

impl Ways {
    /// Of this silo of this cluster. Calls go out on the runtime it is made on.
    pub fn new(cluster: &str, silo: &str, clock: Arc<dyn Clock>) -> Arc<Ways> {
        let client = Client::builder("").cluster(cluster).as_silo(silo).build();
        let room = Arc::new(Semaphore::new(PASSED_CALLS_MAX));
        Arc::new(Ways { client, clock, runtime: Handle::current(), room })
    }

    /// The cluster has changed.
    pub fn see(&self, view: &View, slots: u16) {
        if let Err(error) = self.client.learn(table_of(view, slots)) {
            tracing::error!(%error, "the other silos cannot be called");
        }
    }

    /// What travels with a call from here on: it has as long as its deadline leaves.
    fn options(&self, options: &Options) -> Options {
        let left = options.deadline.map_or_else(|| options.timeout(), |at| at.since(self.clock.now()));
        Options { timeout: Some(left), deadline: None, ..options.clone() }
    }
}

impl Peers for Ways {
    fn call(&self, call: Passed, answer: Answered) {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            let message = format!("{PASSED_CALLS_MAX} calls of this silo wait for other silos");
            return answer(Err(Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER)));
        };
        let Passed { grain, method, arguments, options } = call;
        let (client, options) = (self.client.clone(), self.options(&options));
        drop(self.runtime.spawn(async move {
            answer(client.call(&grain, method, &arguments, options).await);
            drop(room);
        }));
    }
}

/// A view as clients are told of it.
pub fn table_of(view: &View, slots: u16) -> SlotTable {
    let members = &view.table.members;
    let silos = members.iter().map(|member| SiloEntry {
        incarnation: member.incarnation.0,
        name: member.name.clone(),
        address: member.address.clone(),
    });
    let place = |slot| {
        let owner = view.placement.owner(granary_core::SlotId(slot));
        let at = members.iter().position(|member| member.incarnation == owner)?;
        u16::try_from(at).ok()
    };
    SlotTable {
        version: view.table.version,
        slots,
        silos: silos.collect(),
        owners: (0..slots).map(place).collect(),
    }
}
