//! What can happen next in a run.

use granary_cluster::{Incarnation, TxId};

use crate::lane::End;
use crate::world::World;

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A script arrives at the store.
    Arrive(usize),
    /// An answer arrives at its silo.
    Answer(usize),
    /// A message is lost, or late.
    Lose { message: usize, how: Loss },
    /// A question of a slot is carried out, or a part of it.
    CarryOn { silo: usize, asked: usize },
    /// It fails.
    NoAnswer { silo: usize, asked: usize },
    /// The log ends a transaction that is open for too long.
    TimeOut(TxId),
    /// A silo takes a slot that is free.
    Take { silo: usize, slot: usize },
    /// The next record.
    Apply { silo: usize, slot: usize },
    /// The next record is noted.
    Note { silo: usize, slot: usize },
    /// What is not sealed goes into a commit.
    Seal { silo: usize, slot: usize },
    /// Published outputs are let go of.
    Trim { silo: usize, slot: usize },
    /// A silo learns that the server is another.
    Connected { silo: usize, slot: usize },
    /// Somebody calls.
    Call { silo: usize, slot: usize, writes: bool },
    /// A slot is given to another silo.
    Give { silo: usize, slot: usize, to: Incarnation },
    /// A lane begins a transaction and sends.
    Begin(usize),
    /// It sends the markers.
    Stage(usize),
    /// It ends the transaction.
    End(usize, End),
    /// It initialises its producer.
    Init(usize),
    /// It writes down that it did.
    Register(usize),
    /// An idle marker is written once more.
    RenewMarker { silo: usize, slot: usize },
    /// A handler fails.
    HandlerFails { silo: usize, slot: usize },
    /// Clean cells leave memory.
    Evict { silo: usize, slot: usize },
    /// A silo ends.
    Crash(usize),
    /// A silo is declared dead and runs on.
    Declare(usize),
    /// It notices.
    FencesItself(usize),
    /// A new incarnation starts.
    Start,
    /// The store loses so many writes.
    StoreLoses(usize),
}

/// A part of the world that may stand still for a while, as a busy machine or a slow wire makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A silo's lane: its slots, and what they ask.
    Lane(usize),
    /// Its producer.
    Producer(usize),
    /// What it sends to the store, and the answers.
    Wire(usize),
}

impl Step {
    /// Whose step it is, if it is one that may be put off.
    pub fn part(&self, world: &World) -> Option<Part> {
        Some(match *self {
            Step::Arrive(i) => Part::Wire(world.network[i].silo),
            Step::Answer(i) => Part::Wire(world.replies[i].0),
            Step::CarryOn { silo, .. }
            | Step::Take { silo, .. }
            | Step::Apply { silo, .. }
            | Step::Note { silo, .. }
            | Step::Seal { silo, .. }
            | Step::Trim { silo, .. }
            | Step::Connected { silo, .. }
            | Step::Call { silo, .. }
            | Step::Give { silo, .. } => Part::Lane(silo),
            Step::Begin(silo)
            | Step::Stage(silo)
            | Step::End(silo, _)
            | Step::Init(silo)
            | Step::Register(silo) => Part::Producer(silo),
            _ => return None,
        })
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The script never arrives.
    Request,
    /// It arrives, the answer does not.
    Reply,
    /// It arrives after nobody waits for it any more.
    Late,
}
