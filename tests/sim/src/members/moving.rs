//! Slots come and go as the view says, by the engine's rules (`lane::moving`): taken by `step`, given by `successor`.

use granary_core::SlotId;

use granary_cluster::members::{Step, step, successor};
use granary_cluster::slot::{Phase, Why};
use granary_cluster::{RunId, SlotRecord};

use crate::check::Check;
use crate::scenario::Mistake;

use super::Cluster;
use super::event::Event;
use super::plan::{GIVE_AFTER, WAIT_FOR_GIVE_MAX};
use super::shell::Here;
use super::time::MS;

/// The row of a slot that is waited for is read so often.
const LOOK_AGAIN_AFTER: i64 = 60 * MS;
/// A slot that was lost is taken again after this.
const TAKE_AGAIN_AFTER: i64 = 50 * MS;
/// After a row could not be read.
const READ_AGAIN_AFTER: i64 = 150 * MS;

impl Cluster {
    fn phase(&self, silo: usize, slot: usize) -> Phase {
        self.world.silos[silo].seats[slot].slot.phase()
    }

    /// Takes the slot, gives it, or leaves it to others.
    pub(super) fn place(&mut self, silo: usize, slot: usize) {
        let Some(view) = self.shells[silo].view.clone() else { return };
        let (me, id) = (self.world.silos[silo].me, SlotId(slot as u16));
        let holds = self.phase(silo, slot) != Phase::Off;
        if view.is_unfit(me) {
            return self.is_gone(silo, slot);
        }
        if view.placement.owner(id) == me {
            return self.comes(silo, slot, holds);
        }
        if !holds {
            return self.is_gone(silo, slot);
        }
        let Some(to) = successor(me, id, &view) else { return };
        let now = self.clock(silo);
        let place = &mut self.shells[silo].places[slot];
        let at = *place.gives_at.get_or_insert(now + GIVE_AFTER);
        if now >= at {
            place.here = Here::Leaving(to);
            self.wake(silo);
        } else {
            let at = self.shells[silo].clock.when(at);
            self.queue.put(at, Event::Place { silo, slot });
        }
    }

    fn comes(&mut self, silo: usize, slot: usize, holds: bool) {
        let now = self.clock(silo);
        let place = &mut self.shells[silo].places[slot];
        place.gives_at = None;
        match (place.here, holds) {
            (Here::Yes, _) => {}
            (Here::Leaving(_), true) => place.here = Here::Yes,
            (Here::Leaving(_) | Here::No, _) => {
                place.here = Here::Yes;
                place.waits_since = Some(now);
                self.ask_row(silo, slot);
            }
        }
    }

    fn is_gone(&mut self, silo: usize, slot: usize) {
        let place = &mut self.shells[silo].places[slot];
        (place.here, place.gives_at, place.waits_since) = (Here::No, None, None);
        place.unfit_owner = None;
    }

    /// Reads the row of a slot that is to be taken.
    pub(super) fn ask_row(&mut self, silo: usize, slot: usize) {
        let place = &mut self.shells[silo].places[slot];
        if place.here == Here::No || place.is_reading || self.phase(silo, slot) != Phase::Off {
            return;
        }
        self.shells[silo].places[slot].is_reading = true;
        let run = self.shells[silo].run;
        let at = self.now + self.delay();
        if self.is_lost() {
            self.queue.put(at, Event::HearRow { silo, slot, row: None });
        } else {
            self.queue.put(at, Event::AskRow { silo, slot, run });
        }
    }

    /// The row is known, or could not be read.
    pub(super) fn hear_row(&mut self, silo: usize, slot: usize, row: Option<(SlotRecord, RunId)>) -> Check {
        self.shells[silo].places[slot].is_reading = false;
        if self.shells[silo].places[slot].here == Here::No {
            return Ok(());
        }
        let Some((row, run)) = row else {
            self.queue.put(self.now + READ_AGAIN_AFTER, Event::Take { silo, slot });
            return Ok(());
        };
        if !self.may_take(silo, slot, &row, run) {
            return Ok(());
        }
        self.shells[silo].places[slot].waits_since = None;
        self.shells[silo].places[slot].unfit_owner = None;
        let mut out = Vec::new();
        let seat = &mut self.world.silos[silo].seats[slot];
        let taken = seat.slot.take(&row, run, &mut out);
        if !taken && seat.slot.phase() == Phase::Off {
            self.take_again(silo, slot); // a script of an earlier time is on its way
        }
        self.world.carry_out(silo, slot, out)
    }

    fn take_again(&mut self, silo: usize, slot: usize) {
        self.queue.put(self.now + TAKE_AGAIN_AFTER, Event::Take { silo, slot });
    }

    fn may_take(&mut self, silo: usize, slot: usize, row: &SlotRecord, run: RunId) -> bool {
        let Some(view) = self.shells[silo].view.clone() else { return false };
        let now = self.clock(silo);
        let is_confirmed = self.shells[silo].member_run == run || self.has(Mistake::TakeUnconfirmed);
        if !is_confirmed {
            // this server may have lost the very join of this silo: the table has the first word
            self.queue.put(self.now + LOOK_AGAIN_AFTER, Event::Take { silo, slot });
            return false;
        }
        match step(self.world.silos[silo].me, SlotId(slot as u16), row, &view) {
            Step::Take => true,
            Step::Stay => {
                self.place(silo, slot);
                false
            }
            Step::TakeFromUnfit => {
                let place = &mut self.shells[silo].places[slot];
                let seen =
                    place.unfit_owner.filter(|(owner, epoch, _)| (*owner, *epoch) == (row.owner, row.epoch));
                let (.., read_at) = *place.unfit_owner.insert(seen.unwrap_or((row.owner, row.epoch, now)));
                let confirmed =
                    self.shells[silo].membership.read_after().is_some_and(|after| after > read_at);
                if confirmed || self.has(Mistake::TakeFromUnfitUnconfirmed) {
                    self.walked("taken from one that stands aside");
                    return true;
                }
                self.queue.put(self.now + LOOK_AGAIN_AFTER, Event::Take { silo, slot });
                false
            }
            Step::Wait if self.has(Mistake::TakeByPlacement) => true,
            Step::Wait => {
                let since = *self.shells[silo].places[slot].waits_since.get_or_insert(now);
                // who has no lease has an old view, too: by now the slot may belong to its owner
                let may_force = self.lease_holds(silo) || self.has(Mistake::ForceWithoutLease);
                if now.since(since) >= WAIT_FOR_GIVE_MAX && may_force {
                    self.walked("taken by force");
                    return true;
                }
                self.queue.put(self.now + LOOK_AGAIN_AFTER, Event::Take { silo, slot });
                false
            }
        }
    }

    /// The slot has left memory.
    pub(super) fn was_dropped(&mut self, silo: usize, slot: usize, why: Why) {
        match why {
            Why::Fenced | Why::Behind | Why::MarkerAhead | Why::GivenUp => self.take_again(silo, slot),
            Why::Outdated => self.walked("outdated"), // until the placement changes
            Why::Given(_) => {
                self.walked("given");
                self.is_gone(silo, slot);
                self.place(silo, slot); // by now it may belong here again
            }
            Why::Rollback => {}
        }
    }

    /// Gives the slot if it is to leave and has come to rest. True: it is on its way.
    pub(super) fn give(&mut self, silo: usize, slot: usize) -> Result<bool, String> {
        let Here::Leaving(to) = self.shells[silo].places[slot].here else { return Ok(false) };
        let seat = &mut self.world.silos[silo].seats[slot];
        let is_quiet = !seat.memory.is_dirty() && seat.held.is_empty() && self.shells[silo].turns[slot] == 0;
        let mut out = Vec::new();
        let given = is_quiet && seat.slot.give(to, &mut out);
        self.world.carry_out(silo, slot, out)?;
        Ok(given)
    }
}
