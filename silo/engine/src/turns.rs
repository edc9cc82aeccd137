//! The async turns of a lane that are under way.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use granary_cluster::StreamId;
use granary_core::call::{Chain, Options};
use granary_core::host::Emitted;
use granary_core::shared::AnyGrain;
use granary_core::turn::Turn;
use granary_core::{Key, MethodInfo, SlotId, Timestamp};

use crate::mailbox::{Mailbox, TurnWaker};
use crate::reminders::Reminder;
use crate::slot::SlotHost;

/// One turn under way.
pub(crate) struct Row {
    /// Out while it is being polled.
    pub turn: Option<Turn>,
    pub slot: Rc<SlotHost>,
    pub activation: u32,
    /// Tells whether the activation's row still holds this grain.
    pub grain: Rc<dyn AnyGrain>,
    pub key: Key,
    pub info: &'static MethodInfo,
    pub began: Timestamp,
    pub options: Options,
    /// The chain with this turn in it, made when it first calls.
    pub link: Option<Arc<Chain>>,
    /// The commit its answer has to wait for: what it, or a call of it inside the slot, changed or saw.
    pub needs: u64,
    /// It is a turn of a record of a stream, or of a call that such a turn made.
    pub is_of_record: bool,
    /// What it decided beside its state.
    pub decided: Vec<Decided>,
    /// When answers it waits for have their deadlines.
    pub wakes: Vec<(Timestamp, Waker)>,
    /// It called another slot: undone, it has perhaps not been without effect.
    pub called_out: bool,
    /// The grain from before the turn, where that is not what the store holds.
    pub image: Option<Vec<u8>>,
    /// Its deadline passed and its caller was told.
    pub is_expired: bool,
}

impl Row {
    /// The chain of a call this turn makes.
    pub fn chain(&mut self) -> Arc<Chain> {
        let (key, info, caller) = (&self.key, self.info, &self.options.chain);
        let link = self.link.get_or_insert_with(|| {
            let grain = granary_core::GrainId { kind: info.kind.into(), key: key.clone() };
            Chain::link(grain, info.name, caller.clone())
        });
        link.clone()
    }

    /// Wakes the turn at this time at the latest: it waits for an answer with a deadline.
    pub fn wake_at(&mut self, at: Timestamp, waker: Waker) {
        if !self.wakes.iter().any(|(set, other)| *set == at && other.will_wake(&waker)) {
            self.wakes.push((at, waker));
        }
    }

    /// Wakes what is due, and tells when to look again.
    pub fn wake_due(&mut self, now: Timestamp) -> Option<Timestamp> {
        for (_, waker) in self.wakes.extract_if(.., |(at, _)| *at <= now) {
            waker.wake();
        }
        self.wakes.iter().map(|(at, _)| *at).min()
    }
}

/// What an async turn has decided beside its state: it joins the commit in which the turn ends.
pub(crate) enum Decided {
    Emit(StreamId, Emitted),
    Remind(Reminder),
    Forget(Box<str>),
}

struct Seat {
    generation: u32,
    waker: Waker,
    row: Option<Row>,
}

/// The table of turns.
pub(crate) struct Turns {
    mailbox: Arc<Mailbox>,
    seats: Vec<Seat>,
    free: Vec<u32>,
}

impl Turns {
    pub fn new(mailbox: Arc<Mailbox>) -> Turns {
        Turns { mailbox, seats: Vec::new(), free: Vec::new() }
    }

    /// A seat for a turn that is about to begin: its number and generation.
    pub fn reserve(&mut self) -> (u32, u32) {
        let no = self.free.pop().unwrap_or_else(|| {
            let no = u32::try_from(self.seats.len()).expect("fewer than 2^32 turns at a time");
            let waker = Waker::from(Arc::new(TurnWaker { mailbox: self.mailbox.clone(), row: no }));
            self.seats.push(Seat { generation: 0, waker, row: None });
            no
        });
        (no, self.seats[no as usize].generation)
    }

    pub fn fill(&mut self, no: u32, row: Row) {
        self.seats[no as usize].row = Some(row);
    }

    pub fn get(&mut self, no: u32) -> Option<&mut Row> {
        self.seats.get_mut(no as usize)?.row.as_mut()
    }

    /// The row of this turn, unless it has ended.
    pub fn live(&mut self, no: u32, generation: u32) -> Option<&mut Row> {
        let seat = self.seats.get_mut(no as usize)?;
        if seat.generation != generation {
            return None;
        }
        seat.row.as_mut()
    }

    /// The turn, to be polled, with its waker.
    pub fn lend(&mut self, no: u32) -> Option<(Turn, Waker)> {
        let seat = self.seats.get_mut(no as usize)?;
        let turn = seat.row.as_mut()?.turn.take()?;
        Some((turn, seat.waker.clone()))
    }

    /// The turn waits: back to its row. Hands it back if the row is gone.
    pub fn put_back(&mut self, no: u32, turn: Turn) -> Option<Turn> {
        match self.get(no) {
            Some(row) => {
                row.turn = Some(turn);
                None
            }
            None => Some(turn),
        }
    }

    /// The turn has ended: its seat is free.
    pub fn leave(&mut self, no: u32) -> Option<Row> {
        let seat = self.seats.get_mut(no as usize)?;
        let row = seat.row.take()?;
        seat.generation = seat.generation.wrapping_add(1);
        self.free.push(no);
        Some(row)
    }

    /// The numbers of all turns under way.
    pub fn numbers(&self) -> Vec<u32> {
        (0..self.seats.len() as u32).filter(|no| self.seats[*no as usize].row.is_some()).collect()
    }

    /// Whether any of them is a turn of this slot.
    pub fn has_of(&self, slot: SlotId) -> bool {
        self.seats.iter().filter_map(|seat| seat.row.as_ref()).any(|row| row.slot.id == slot)
    }

    /// Takes all of them out.
    pub fn clear(&mut self) -> Vec<Row> {
        self.seats.iter_mut().filter_map(|seat| seat.row.take()).collect()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.seats.len()
    }
}
