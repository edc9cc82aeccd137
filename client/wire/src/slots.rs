//! Which silo owns which slot: the answer to [`Ask`](crate::Ask) `slots`.

use granary_core::{Error, ErrorKind, Result, SlotId, codec, id};
use serde::{Deserialize, Serialize};

/// How many silos a table may name.
pub const SILOS_MAX: usize = 1_024;

/// A silo of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloEntry {
    /// Which of its lives: a silo that comes back has another.
    pub incarnation: u64,
    /// Its name.
    pub name: String,
    /// Where it listens, host and port.
    pub address: String,
}

/// Which silo owns which slot. Of two tables that with the higher version is the later one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    /// Grows with every change.
    pub version: u64,
    /// Slots of the cluster.
    pub slots: u16,
    /// The silos.
    pub silos: Vec<SiloEntry>,
    /// For each slot the place of its owner in `silos`; `None` while it has none.
    pub owners: Vec<Option<u16>>,
}

impl SlotTable {
    /// The table as MessagePack with field names.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::to_bytes(self)
    }

    /// Reads a table and checks that it is one.
    pub fn from_bytes(bytes: &[u8]) -> Result<SlotTable> {
        let table: SlotTable = codec::from_bytes(bytes)?;
        table.check()?;
        Ok(table)
    }

    /// `Codec` unless there is a slot, there are not too many silos, each slot has an entry, and each owner is one of the silos.
    pub fn check(&self) -> Result<()> {
        let SlotTable { slots, silos, owners, .. } = self;
        let wrong = |why: String| Err(Error::new(ErrorKind::Codec, format!("a table of slots with {why}")));
        if *slots == 0 || owners.len() != usize::from(*slots) {
            return wrong(format!("{} owners for {slots} slots", owners.len()));
        }
        if silos.len() > SILOS_MAX {
            return wrong(format!("{} silos, at most {SILOS_MAX} are allowed", silos.len()));
        }
        match owners.iter().flatten().find(|owner| usize::from(**owner) >= silos.len()) {
            Some(owner) => wrong(format!("silo {owner} of {} silos as owner", silos.len())),
            None => Ok(()),
        }
    }

    /// The slot of an escaped key.
    pub fn slot_of(&self, key: &str) -> SlotId {
        id::slot_of(id::routing_key(key).as_bytes(), self.slots)
    }

    /// Who owns the slot, if anybody does.
    pub fn owner(&self, slot: SlotId) -> Option<&SiloEntry> {
        let place = (*self.owners.get(usize::from(slot.0))?)?;
        self.silos.get(usize::from(place))
    }
}
