//! What happens in a cluster, each at its time.

use granary_cluster::members::{Change, Table};
use granary_cluster::slot::Heard;
use granary_cluster::{Incarnation, Reply, RunId, Script, SlotRecord};

use crate::lane::End;
use crate::reads::Floor;
use crate::silo::{Answer, Asked};

use super::plan::Fault;

/// A read that has looked and is about to answer.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Where.
    pub slot: usize,
    /// Which opening of the slot it belongs to.
    pub opening: u64,
    /// The commit it has to wait for.
    pub needs: granary_cluster::CommitNo,
    /// What it has seen.
    pub answer: Answer,
}

/// What the member table's answer says.
#[derive(Clone, Debug)]
pub struct Told {
    /// Whether the change was made.
    pub done: bool,
    /// The table after it.
    pub table: Table,
    /// The server that says so.
    pub run: RunId,
    /// Planted: whose lease is over by the store's clock.
    pub expired: Option<(Incarnation, u64)>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A membership's clock has come to where it wants to be called.
    Tick(usize),
    /// A change arrives at the member table.
    AskTable {
        silo: usize,
        no: u64,
        change: Change,
    },
    /// Its answer arrives.
    HearTable {
        silo: usize,
        no: u64,
        told: Told,
    },
    /// There was none in time.
    TableSilent {
        silo: usize,
        no: u64,
    },
    /// A script arrives at the store.
    Arrive {
        silo: usize,
        no: u64,
        run: RunId,
        script: Script,
    },
    /// Its answer arrives.
    Answer {
        silo: usize,
        no: u64,
        reply: Reply,
    },
    /// There was none in time.
    ScriptSilent {
        silo: usize,
        no: u64,
        slot: usize,
    },
    /// The time to look at a slot's row has come.
    Take {
        silo: usize,
        slot: usize,
    },
    /// That question arrives at the store.
    AskRow {
        silo: usize,
        slot: usize,
        run: RunId,
    },
    /// Its answer arrives; `None` when it never will.
    HearRow {
        silo: usize,
        slot: usize,
        row: Option<(SlotRecord, RunId)>,
    },
    /// A question of a slot arrives where it is answered, or a part of it does.
    CarryOn {
        silo: usize,
        asked: Asked,
    },
    /// A slot hears the answer.
    Tell {
        silo: usize,
        slot: usize,
        heard: Heard,
    },
    /// A silo's connection finds out which server is there now.
    Reconnect(usize),
    /// A silo looks again where a slot belongs.
    Place {
        silo: usize,
        slot: usize,
    },
    /// A lane does what there is to do.
    Round(usize),
    /// The producer's next steps.
    Stage {
        silo: usize,
        no: u64,
    },
    End {
        silo: usize,
        no: u64,
        how: End,
    },
    Init(usize),
    Register(usize),
    /// The log ends a transaction that is open for too long.
    LogEnds {
        silo: usize,
        no: u64,
    },
    /// More input is there.
    Record,
    /// A client makes a call.
    Client,
    /// It arrives at a silo.
    Call {
        silo: usize,
        slot: usize,
        writes: bool,
        floor: Floor,
    },
    /// A turn ends that has read.
    TurnEnds {
        silo: usize,
        turn: Turn,
    },
    /// A new life of this name, at this address.
    Start {
        name: usize,
        address: u64,
    },
    /// A silo that leaves looks whether it has given everything.
    LeaveLook(usize),
    /// A silo that is no member any more drops what it has.
    DropAll {
        silo: usize,
        comes_back: bool,
    },
    /// Something goes wrong.
    Fault(Fault),
    /// The server that has fallen behind takes over.
    Failover {
        away: i64,
    },
    /// The time of faults is over.
    Calm,
}

impl Event {
    /// In whose process it happens. It waits while that is stopped, and never comes when that has ended.
    pub fn silo(&self) -> Option<usize> {
        match *self {
            Event::Tick(silo)
            | Event::HearTable { silo, .. }
            | Event::TableSilent { silo, .. }
            | Event::Answer { silo, .. }
            | Event::ScriptSilent { silo, .. }
            | Event::Take { silo, .. }
            | Event::HearRow { silo, .. }
            | Event::CarryOn { silo, .. }
            | Event::Tell { silo, .. }
            | Event::Reconnect(silo)
            | Event::Place { silo, .. }
            | Event::Round(silo)
            | Event::Stage { silo, .. }
            | Event::End { silo, .. }
            | Event::Init(silo)
            | Event::Register(silo)
            | Event::Call { silo, .. }
            | Event::TurnEnds { silo, .. }
            | Event::LeaveLook(silo)
            | Event::DropAll { silo, .. } => Some(silo),
            _ => None,
        }
    }

    /// Whether it concerns the membership alone, which lives a little longer than the lanes.
    pub fn is_of_membership(&self) -> bool {
        matches!(
            self,
            Event::Tick(_)
                | Event::HearTable { .. }
                | Event::TableSilent { .. }
                | Event::LeaveLook(_)
                | Event::DropAll { .. }
        )
    }
}
