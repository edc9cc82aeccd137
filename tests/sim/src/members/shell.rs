//! One silo's process, beside its lanes: clock, membership, and where its slots belong.

use std::collections::BTreeMap;
use std::rc::Rc;

use granary_cluster::members::{Membership, View};
use granary_cluster::{Epoch, Incarnation, RunId};
use granary_core::Timestamp;

use super::time::{Clock, Micros};

/// How a slot stands to its silo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// It belongs here.
    Yes,
    /// It is being given to that silo.
    Leaving(Incarnation),
    /// It is another silo's business.
    No,
}

/// A slot's place on a silo, as the engine keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Whether it belongs here.
    pub here: Here,
    /// It belongs to another silo by now and is given then.
    pub gives_at: Option<Timestamp>,
    /// Its owner is waited for since then.
    pub waits_since: Option<Timestamp>,
    /// Its owner stands aside: who, its epoch, and by when the row had said so.
    pub unfit_owner: Option<(Incarnation, Epoch, Timestamp)>,
    /// Its row is being read.
    pub is_reading: bool,
}

/// A silo's process.
#[derive(Debug)]
pub struct Shell {
    /// Its name, by number.
    pub name: usize,
    /// Where it listens.
    pub address: u64,
    /// Its clock.
    pub clock: Clock,
    /// The machine under test.
    pub membership: Membership,
    /// Whether the membership's thread runs.
    pub is_member: bool,
    /// It has heard that it is no member any more.
    pub is_out: bool,
    /// The question that waits for the table's answer.
    pub asks: Option<u64>,
    /// When the membership wants to be called.
    pub tick_at: Micros,
    /// Until when its lanes answer reads.
    pub lease_until: Timestamp,
    /// Who there is, as it last heard.
    pub view: Option<Rc<View>>,
    /// The slots.
    pub places: Vec<Place>,
    /// The store's run that its connection knows.
    pub run: RunId,
    /// The one that its membership heard last.
    pub member_run: RunId,
    /// It looks for the server anew.
    pub is_reconnecting: bool,
    /// Its process is stopped until then.
    pub paused_until: Micros,
    /// It does not reach the store before.
    pub cut_store_until: Micros,
    /// It does not reach the log before.
    pub cut_log_until: Micros,
    /// A round of the lane is due.
    pub is_awake: bool,
    /// The scripts that wait for an answer, by slot.
    pub flights: BTreeMap<usize, u64>,
    /// Reads that have looked and not answered, by slot.
    pub turns: Vec<u32>,
    /// The producer is at work.
    pub is_publishing: bool,
    /// How many transactions it has begun.
    pub transactions: u64,
    /// It is leaving since then.
    pub leaves_since: Option<Micros>,
}

impl Shell {
    /// A process that has just started.
    pub fn new(
        name: usize,
        address: u64,
        clock: Clock,
        membership: Membership,
        slots: u16,
        run: RunId,
    ) -> Shell {
        let place =
            Place { here: Here::No, gives_at: None, waits_since: None, unfit_owner: None, is_reading: false };
        Shell {
            name,
            address,
            clock,
            membership,
            is_member: true,
            is_out: false,
            asks: None,
            tick_at: 0,
            lease_until: Timestamp::MIN,
            view: None,
            places: vec![place; usize::from(slots)],
            run,
            member_run: run,
            is_reconnecting: false,
            paused_until: 0,
            cut_store_until: 0,
            cut_log_until: 0,
            is_awake: false,
            flights: BTreeMap::new(),
            turns: vec![0; usize::from(slots)],
            is_publishing: false,
            transactions: 0,
            leaves_since: None,
        }
    }
}
