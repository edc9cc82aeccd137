//! Whether answers agree with the order of time: each call sees every call that was answered before it was made.
//!
//! The calls of a slot are a list that only grows, and each answer shows the list as its turn saw it. So two numbers are
//! enough: how long the longest list was that had been told when a call was made, and how long the list is that it tells.
//! Reads after reads, and reads after writes, are judged alike.

use crate::silo::Answer;

/// What a call has to see: it was made when so much had been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    length: usize,
    /// How often the store had lost writes by then.
    losses: usize,
}

/// What was told of the calls of one slot.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    longest: usize,
    /// How long the stored list was after each loss of the store.
    kept: Vec<usize>,
    /// Reads answered so far.
    pub reads: u64,
    /// Writes answered so far.
    pub writes: u64,
}

impl Reads {
    /// A call is made now.
    pub fn invoke(&self) -> Floor {
        Floor { length: self.longest, losses: self.kept.len() }
    }

    /// The store lost writes; so many calls are left.
    pub fn rolled_back(&mut self, kept: usize) {
        self.longest = self.longest.min(kept);
        self.kept.push(kept);
    }

    /// A call is answered. `knows_run`: its silo has heard of the last loss of the store.
    pub fn answered(&mut self, answer: &Answer, stored: &[u64], knows_run: bool) -> Result<(), String> {
        let Answer { call, seen, floor } = answer;
        let lowest = self.kept[floor.losses..].iter().copied().min();
        let must = floor.length.min(lowest.unwrap_or(usize::MAX));
        let sees = seen.iter().zip(stored).take_while(|(a, b)| a == b).count();
        if sees < must {
            let kind = if call.is_some() { "write" } else { "read" };
            return Err(format!("a {kind} sees {sees} calls, it must see {must}: {seen:?} of {stored:?}"));
        }
        if sees < seen.len() {
            // calls that a loss of the store has undone since: its silo could not know
            let may_be_undone = !knows_run || self.kept.len() > floor.losses;
            return if may_be_undone {
                Ok(())
            } else {
                Err(format!("an answer shows what is not stored: {seen:?} of {stored:?}"))
            };
        }
        self.longest = self.longest.max(sees);
        *(if call.is_some() { &mut self.writes } else { &mut self.reads }) += 1;
        Ok(())
    }
}
