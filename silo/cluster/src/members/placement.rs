//! Which member each slot belongs to, and what a silo does about a slot.
//!
//! Placement is a function of one version of the member table: no leader decides, and who sees the same table places the
//! same way. Silos that see different ones for a while disagree about where slots ought to be, never about who may write.

use granary_core::SlotId;
use granary_core::id::murmur2;

use super::{Standing, Table};
use crate::commit::{Incarnation, SlotRecord};

/// Who each slot belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    owners: Vec<Incarnation>,
}

impl Placement {
    /// Of so many slots over the members that take slots; nobody's, where there is none.
    ///
    /// Rendezvous hashing with a bound: a slot goes to the member that scores highest for it among those that have less
    /// than their share, so shares differ by one slot at most. A member that comes or goes moves its own share, and the few
    /// slots that had to go elsewhere for the bound. Scores depend on a member's name: a silo that comes back gets what it
    /// had.
    ///
    /// Sources: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); Mirrokni, Thorup and
    /// Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
    pub fn new(table: &Table, slots: u16) -> Placement {
        let takers: Vec<_> = table.members.iter().filter(|member| member.standing == Standing::Up).collect();
        if takers.is_empty() {
            return Placement { owners: vec![Incarnation(0); usize::from(slots)] };
        }
        let (share, larger) = (usize::from(slots) / takers.len(), usize::from(slots) % takers.len());
        let mut loads = vec![0usize; takers.len()];
        let mut owners = Vec::with_capacity(usize::from(slots));
        for slot in 0..slots {
            // Only so many members may have one more than the others.
            let full = loads.iter().filter(|load| **load > share).count();
            let most = share + usize::from(full < larger);
            let free = (0..takers.len()).filter(|i| loads[*i] < most);
            let best = free.max_by_key(|i| (score(&takers[*i].name, slot), takers[*i].incarnation));
            let best = best.expect("shares add up to all slots");
            loads[best] += 1;
            owners.push(takers[best].incarnation);
        }
        Placement { owners }
    }

    /// Who the slot belongs to; `Incarnation(0)` when nobody takes slots.
    pub fn owner(&self, slot: SlotId) -> Incarnation {
        self.owners.get(usize::from(slot.0)).copied().unwrap_or(Incarnation(0))
    }

    /// The slots of a member.
    pub fn slots_of(&self, incarnation: Incarnation) -> impl Iterator<Item = SlotId> {
        (0..).zip(&self.owners).filter(move |(_, owner)| **owner == incarnation).map(|(slot, _)| SlotId(slot))
    }
}

/// How well a member suits a slot: an even mix of both, the same on every machine.
fn score(name: &str, slot: u16) -> u64 {
    // the finalizer of splitmix64 (Steele, Lea and Flood 2014), over the name's hash and the slot
    let mut mixed =
        (u64::from(murmur2(name.as_bytes())) << 16 | u64::from(slot)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// What a silo does about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It holds it and keeps it, or it is another's business.
    Stay,
    /// It takes it: the slot is its own, nobody's, or a dead silo's.
    Take,
    /// It waits until the slot's owner gives it.
    Wait,
    /// It gives it to this member.
    Give(Incarnation),
}

/// What `me` does about a slot that belongs to `owner` by the placement, and that `me` holds or does not. `row` is the
/// slot's row, read before the table; a slot that is held needs none.
pub fn step(me: Incarnation, owner: Incarnation, holds: bool, row: &SlotRecord, table: &Table) -> Step {
    match (owner == me, holds) {
        (true, true) | (false, false) => Step::Stay,
        (false, true) if owner == Incarnation(0) => Step::Stay, // nobody takes slots
        (false, true) => Step::Give(owner),
        (true, false) if row.owner == me || row.owner == Incarnation(0) || table.is_dead(row.owner) => {
            Step::Take
        }
        (true, false) => Step::Wait,
    }
}
