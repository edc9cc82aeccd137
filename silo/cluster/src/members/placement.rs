//! Which member each slot belongs to, and what a silo does about a slot.
//!
//! Placement is a function of one version of the member table: no leader decides, and who sees the same table places the
//! same way. Silos that see different ones for a while disagree about where slots ought to be, never about who may write.

use granary_core::SlotId;
use granary_core::id::murmur2;

use super::{Member, Standing, Table};
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
    /// A slot that a person has placed is where it was sent, while that silo takes slots, and beside its share: no other
    /// slot moves for it.
    ///
    /// Sources: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); Mirrokni, Thorup and
    /// Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
    pub fn new(table: &Table, slots: u16) -> Placement {
        let takers: Vec<_> = eligible(table).collect();
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
        for (slot, name) in &table.moves {
            let sent_to = takers.iter().find(|taker| taker.name == *name);
            if let (Some(owner), Some(taker)) = (owners.get_mut(usize::from(slot.0)), sent_to) {
                *owner = taker.incarnation;
            }
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

/// The members that slots are placed on: those that take slots, of the latest generation among them. Who is of an earlier one
/// gives what it has, as one that leaves does.
pub fn eligible(table: &Table) -> impl Iterator<Item = &Member> {
    let takers = || table.members.iter().filter(|member| member.standing == Standing::Up);
    let latest = takers().map(|member| member.generation).max();
    takers().filter(move |member| Some(member.generation) == latest)
}

/// What a silo knows of its cluster: one version of the member table, and where it puts the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The members.
    pub table: Table,
    /// Who each slot belongs to.
    pub placement: Placement,
}

impl View {
    /// Of a cluster of so many slots.
    pub fn new(table: Table, slots: u16) -> View {
        let placement = Placement::new(&table, slots);
        View { table, placement }
    }

    /// The member that a slot belongs to.
    pub fn owner(&self, slot: SlotId) -> Option<&Member> {
        self.table.member(self.placement.owner(slot))
    }

    /// Whether this silo stands aside.
    pub fn is_unfit(&self, silo: Incarnation) -> bool {
        self.table.member(silo).is_some_and(|member| member.standing == Standing::Unfit)
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
    /// It is another's business.
    Stay,
    /// It takes it: the slot is its own, nobody's, a dead silo's, or was given to a silo that did not take it.
    Take,
    /// It waits until the slot's owner gives it.
    Wait,
    /// Its owner stands aside and cannot give it: it takes it, and fences the owner, once a table that was read after the
    /// slot's row says so still. Then that owner, at that epoch, answers nothing more for the slot; one that has come back
    /// since has another epoch.
    TakeFromUnfit,
}

/// What `me` does about a slot that it does not hold. `row` is the slot's row, read before the view.
///
/// Whoever holds a slot has its transactional id in the slot's list. So a row without ids is held by nobody: it was given,
/// and by now the placement may be another one.
pub fn step(me: Incarnation, slot: SlotId, row: &SlotRecord, view: &View) -> Step {
    if view.placement.owner(slot) != me {
        return Step::Stay;
    }
    let is_free = row.owner == me || row.owner == Incarnation(0) || row.txids.ids.is_empty();
    if is_free || view.table.is_dead(row.owner) {
        return Step::Take;
    }
    if view.is_unfit(row.owner) { Step::TakeFromUnfit } else { Step::Wait }
}

/// To whom `me` gives a slot that it holds, if to anybody.
pub fn successor(me: Incarnation, slot: SlotId, view: &View) -> Option<Incarnation> {
    let owner = view.placement.owner(slot);
    (owner != me && owner != Incarnation(0)).then_some(owner) // 0: nobody takes slots
}
