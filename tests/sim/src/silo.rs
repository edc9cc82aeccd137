//! One silo: a lane with its slots and its producer, as an engine would drive them.

use granary_core::SlotId;

use granary_cluster::replies::Held;
use granary_cluster::retry::Culprit;
use granary_cluster::slot::{Ask, Outlet, Seat, Slot};
use granary_cluster::{CommitNo, Epoch, Incarnation, Program, TxId};

use crate::log::Registration;
use crate::memory::Memory;
use crate::reads::Floor;

/// Whether a silo runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A member.
    Up,
    /// Declared dead by the others, but it may still run.
    Zombie,
    /// It runs no more.
    Dead,
}

/// The answer to a call, waiting for its commit.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The call, if it changed something.
    pub call: Option<u64>,
    /// The calls it saw.
    pub seen: Vec<u64>,
    /// What it has to see at least.
    pub floor: Floor,
}

/// A slot's place on a silo.
#[derive(Debug)]
pub struct Seated {
    /// The machine under test.
    pub slot: Slot,
    /// Its memory.
    pub memory: Memory,
    /// Its replies.
    pub held: Held<Answer>,
    /// Its failing records.
    pub culprit: Culprit,
    /// The last commit this silo saw acknowledged.
    pub acknowledged: CommitNo,
    /// The end of the last range named as lost.
    pub named: CommitNo,
    /// How often it was opened: a turn that began before the last time is undone.
    pub openings: u64,
}

/// A question a slot asked, not yet carried out.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which slot asks.
    pub slot: usize,
    /// Its number.
    pub ask: Ask,
    /// What it asks.
    pub what: What,
}

/// What a slot asks.
#[derive(Clone, Debug)]
pub enum What {
    /// These ids are still to be fenced; then what was written down of them may go.
    Fence(Vec<TxId>, Vec<Registration>),
    /// Its row.
    Record,
    /// Its marker.
    Marker,
}

/// The lane's open transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// What it holds: slot, epoch, commit.
    pub parts: Vec<(usize, Epoch, CommitNo)>,
    /// Whether the markers are sent.
    pub staged: bool,
}

/// One incarnation with one lane.
#[derive(Debug)]
pub struct Silo {
    /// Which.
    pub me: Incarnation,
    /// Its lane's transactional id.
    pub txid: TxId,
    /// Whether it runs.
    pub life: Life,
    /// Its slots, all of the cluster, held or not.
    pub seats: Vec<Seated>,
    /// Questions in the order they were asked.
    pub asked: Vec<Asked>,
    /// The generation of its producer.
    pub generation: u64,
    /// The producer must be initialised before it sends again.
    pub must_init: bool,
    /// Initialised as this generation, which is not written down yet.
    pub unregistered: Option<u64>,
    /// The open transaction.
    pub transaction: Option<Transaction>,
}

impl Silo {
    /// A new life that holds nothing.
    pub fn new(me: Incarnation, slots: u16, outlet: Outlet, generation: u64, program: Program) -> Silo {
        let txid = TxId { incarnation: me, lane: 0 };
        let seat = |slot| Seated {
            slot: Slot::new(Seat { slot: SlotId(slot), me, txid, outlet, program }),
            memory: Memory::new(u32::from(slot)),
            held: Held::default(),
            culprit: Culprit::default(),
            acknowledged: CommitNo(0),
            named: CommitNo(0),
            openings: 0,
        };
        Silo {
            me,
            txid,
            life: Life::Up,
            seats: (0..slots).map(seat).collect(),
            asked: Vec::new(),
            generation,
            must_init: false,
            unregistered: None,
            transaction: None,
        }
    }

    /// Whether it still does anything.
    pub fn runs(&self) -> bool {
        self.life != Life::Dead
    }

    /// Whether its open transaction holds something of the slot.
    pub fn transacts(&self, slot: usize) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.parts.iter().any(|(each, _, _)| *each == slot))
    }
}
