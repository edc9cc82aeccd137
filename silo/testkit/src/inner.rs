//! What everything in a test cluster shares: silos by name, the member table, the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use granary_cluster::Incarnation;
use granary_cluster::members::{Out, Table, View};
use granary_core::call::Options;
use granary_core::{Clock, Error, ErrorKind, GrainId, Ran, Result, SlotId, Timestamp};
use granary_engine::{Handle, Peers};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::calls::Ways;
use crate::life::{Life, Mold};

/// The silos that run, and who they are to one another.
#[derive(Default)]
pub(crate) struct Roster {
    pub lives: BTreeMap<String, Life>,
    /// The member table, as the store has it.
    pub members: Table,
    /// Who each slot belongs to by it.
    view: View,
    newest: u64,
}

/// What everything in a test cluster shares.
pub(crate) struct Inner {
    pub mold: Mold,
    roster: Mutex<Roster>,
    /// Held by whoever moves time.
    pub driving: tokio::sync::Mutex<()>,
    /// Runs calls between silos, and whatever may block.
    runtime: Option<Runtime>,
    me: Weak<Inner>,
}

/// A call on its way to one life of a silo.
pub(crate) struct Sent {
    pub answer: oneshot::Receiver<Result<Vec<u8>>>,
    pub over: watch::Receiver<bool>,
}

impl Roster {
    fn view(&mut self, slots: u16) -> &View {
        if self.view.table.version != self.members.version || self.view == View::default() {
            self.view = View::new(self.members.clone(), slots);
        }
        &self.view
    }

    /// The silo that has a slot, by the member table.
    pub fn owner(&mut self, slot: SlotId, slots: u16) -> Option<(&str, &Life)> {
        let owner = self.view(slots).placement.owner(slot);
        self.lives.iter().find(|(_, life)| life.me == owner).map(|(name, life)| (&**name, life))
    }

    /// The silo with this name.
    pub fn life(&mut self, name: &str) -> Result<&mut Life> {
        let names: Vec<String> = self.lives.keys().cloned().collect();
        self.lives.get_mut(name).ok_or_else(|| {
            let message = format!("no silo `{name}` runs; these do: {}", names.join(", "));
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Whether silos and member table agree, so that time need not move for them: why not, if not.
    pub fn disagreement(&self) -> Option<String> {
        let well = |me| self.lives.values().any(|life| life.me == me && life.is_well());
        if let Some(gone) = self.members.members.iter().find(|member| !well(member.incarnation)) {
            return Some(format!("{} has not been declared dead", gone.name));
        }
        let lags = |life: &Life| {
            life.is_well()
                && (life.table().version != self.members.version || self.members.member(life.me).is_none())
        };
        let lagging = self.lives.iter().find(|(_, life)| lags(life));
        lagging.map(|(name, _)| format!("{name} does not know all members"))
    }
}

impl Inner {
    pub fn new(mold: Mold) -> Result<Arc<Inner>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("testkit")
            .enable_time()
            .build()
            .map_err(|e| {
                Error::new(ErrorKind::Unavailable, format!("no thread for the test cluster: {e}"))
            })?;
        Ok(Arc::new_cyclic(|me| Inner {
            mold,
            roster: Mutex::default(),
            driving: tokio::sync::Mutex::default(),
            runtime: Some(runtime),
            me: me.clone(),
        }))
    }

    pub fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Timestamp {
        self.mold.clock.now()
    }

    /// The cluster's own threads.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.as_ref().expect("there until the cluster is dropped").handle()
    }

    /// Begins a life of this silo.
    pub fn begin(&self, name: &str, roster: &mut Roster) -> Result<()> {
        roster.newest += 1;
        let ways: Arc<dyn Peers> = Arc::new(Ways::new(self.me.clone()));
        let life = self.mold.live(name, Incarnation(roster.newest), ways)?;
        if let Some(before) = roster.lives.insert(name.to_owned(), life) {
            self.bury(before);
        }
        Ok(())
    }

    /// Ends a life as a kill does. Its threads are waited for elsewhere.
    pub fn bury(&self, life: Life) {
        life.end();
        self.runtime().spawn_blocking(move || drop(life));
    }

    /// All memberships go on as far as they do at this time. Who is told that it was declared dead comes back as a new life.
    pub fn tick(&self) -> Result<()> {
        let now = self.now();
        let mut roster = self.roster();
        let roster = &mut *roster;
        let names: Vec<String> = roster.lives.keys().cloned().collect();
        for name in names {
            let Some(life) = roster.lives.get_mut(&name) else { continue };
            match life.tick(now, &mut roster.members) {
                None => {}
                Some(Out::DeclaredDead) => {
                    self.begin(&name, roster)?;
                    if let Some(life) = roster.lives.get_mut(&name) {
                        life.tick(now, &mut roster.members);
                    }
                }
                Some(Out::Gone | Out::NameTaken(_)) => {
                    if let Some(life) = roster.lives.remove(&name) {
                        self.bury(life);
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands a call to the silo that has the grain's slot; `None` while there is none that takes calls.
    pub fn send(&self, grain: &GrainId, method: &str, arguments: &[u8], options: &Options) -> Option<Sent> {
        let slots = self.mold.parts.slots;
        let slot = granary_core::id::slot_of(grain.key.routing_key().as_bytes(), slots);
        let mut roster = self.roster();
        let (_, life) = roster.owner(slot, slots).filter(|(_, life)| !life.is_paused)?;
        // under the lock: nobody shuts the silo's gate meanwhile
        let answer = life.handle.call(grain.clone(), method, arguments.to_vec(), options.clone());
        Some(Sent { answer, over: life.over() })
    }

    /// The lanes that can be asked for their rest.
    pub fn running(&self) -> Vec<(Handle, bool)> {
        let roster = self.roster();
        let awake = roster.lives.values().filter(|life| !life.is_paused);
        awake.map(|life| (life.handle.clone(), life.is_cut_off)).collect()
    }

    /// Whether there is any silo that could do anything.
    pub fn has_silos(&self) -> bool {
        !self.roster().lives.is_empty()
    }
}

/// An error for a call that found no silo.
pub(crate) fn no_silo() -> Error {
    Error::new(ErrorKind::Unavailable, "no silo of the test cluster runs").ran(Ran::No)
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lives = std::mem::take(&mut self.roster.get_mut().unwrap_or_else(PoisonError::into_inner).lives);
        lives.values().for_each(Life::end);
        drop(lives);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
