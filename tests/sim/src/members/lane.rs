//! A lane's rounds: records, commits, gives, and one transaction after the other.

use crate::check::Check;
use crate::lane::End;

use super::Cluster;
use super::event::Event;
use super::shell::Here;
use super::time::{MS, Micros, SECOND};

/// The log ends a transaction that is open for so long.
const TRANSACTION_MAX: Micros = 5 * SECOND;
/// What failed at the log is tried again after this.
const TRY_AGAIN_AFTER: Micros = 150 * MS;

impl Cluster {
    /// The lane has something to do.
    pub(super) fn wake(&mut self, silo: usize) {
        if !std::mem::replace(&mut self.shells[silo].is_awake, true) {
            let at = self.now + self.world.random.between(100, 4_000) as Micros;
            self.queue.put(at, Event::Round(silo));
        }
    }

    /// More input is there, for all slots.
    pub(super) fn record(&mut self) {
        self.records += 1;
        let alive: Vec<usize> = self.alive().collect();
        alive.into_iter().for_each(|silo| self.wake(silo));
    }

    pub(super) fn round(&mut self, silo: usize) -> Check {
        self.shells[silo].is_awake = false;
        let mut has_worked = false;
        for slot in 0..usize::from(self.plan.scenario.slots) {
            has_worked |= self.work(silo, slot)?;
        }
        has_worked |= self.publish(silo)?;
        if has_worked {
            self.wake(silo);
        }
        Ok(())
    }

    /// One thing for a slot; whether there was one.
    fn work(&mut self, silo: usize, slot: usize) -> Result<bool, String> {
        let seat = &self.world.silos[silo].seats[slot];
        if !seat.slot.may_apply() {
            return Ok(false);
        }
        let at = seat.memory.at(seat.memory.next);
        let has_record = self.shells[silo].places[slot].here == Here::Yes
            && at.offset < self.records
            && (seat.memory.has_for_record() || self.can_load(silo, slot));
        if has_record && self.world.can_apply(silo, slot) {
            self.world.apply(silo, slot)?;
            return Ok(true);
        }
        if !seat.slot.may_seal() {
            return Ok(false);
        }
        let must_note = has_record
            && seat.memory.mode(&seat.culprit).must_note()
            && seat.memory.noted != Some(at)
            && at.offset < self.world.checks[slot].truth().records
            && seat.memory.unsealed == 0;
        let (is_dirty, wants_trim) = (seat.memory.is_dirty(), seat.slot.wants_trim());
        if is_dirty {
            self.world.seal(silo, slot)?;
            return Ok(true);
        }
        let mut out = Vec::new();
        let machine = &mut self.world.silos[silo].seats[slot].slot;
        match () {
            _ if must_note => machine.note(at, &mut out),
            _ if wants_trim => machine.idle(&mut out),
            _ => return self.give(silo, slot),
        }
        self.world.carry_out(silo, slot, out)?;
        Ok(true)
    }

    /// The producer's next step, unless one is under way; whether there was one.
    fn publish(&mut self, silo: usize) -> Result<bool, String> {
        let own = &self.world.silos[silo];
        if self.shells[silo].is_publishing {
            return Ok(false);
        }
        if own.must_init {
            self.shells[silo].is_publishing = true;
            let at = self.now + self.producer_delay();
            self.queue.put(at, Event::Init(silo));
            return Ok(true);
        }
        let wanted = own.seats.iter().any(|seat| seat.slot.wants_to_publish());
        if own.transaction.is_some() || !wanted || !self.reaches_log(silo) {
            return Ok(false);
        }
        self.shells[silo].is_publishing = true;
        self.shells[silo].transactions += 1;
        let no = self.shells[silo].transactions;
        self.world.begin(silo)?;
        let at = self.now + self.producer_delay();
        self.queue.put(at, Event::Stage { silo, no });
        self.queue.put(self.now + TRANSACTION_MAX, Event::LogEnds { silo, no });
        Ok(true)
    }

    /// A step at the log takes longer than one at the store, and seldom very long.
    fn producer_delay(&mut self) -> Micros {
        let random = &mut self.world.random;
        let is_slow = !self.is_calm && random.once_in(12);
        (if is_slow { random.between(50_000, 1_500_000) } else { random.between(1_000, 15_000) }) as Micros
    }

    fn transacts(&self, silo: usize, no: u64) -> bool {
        self.shells[silo].transactions == no && self.world.silos[silo].transaction.is_some()
    }

    /// Sends the markers.
    pub(super) fn stage(&mut self, silo: usize, no: u64) -> Check {
        if !self.transacts(silo, no) {
            self.shells[silo].is_publishing = false;
            return Ok(());
        }
        let how = if !self.reaches_log(silo) { End::RequestLost } else { self.any_end() };
        if self.reaches_log(silo) {
            self.world.stage(silo)?;
        }
        let at = self.now + self.producer_delay();
        self.queue.put(at, Event::End { silo, no, how });
        Ok(())
    }

    fn any_end(&mut self) -> End {
        let once_in = if self.plan.lost_once_in > 0 { self.plan.lost_once_in / 4 + 2 } else { 0 };
        let random = &mut self.world.random;
        if self.is_calm || once_in == 0 || !random.once_in(once_in) {
            return End::Done;
        }
        [End::ReplyLost, End::RequestLost, End::Aborted][random.below(3) as usize]
    }

    /// Ends the transaction.
    pub(super) fn end_transaction(&mut self, silo: usize, no: u64, how: End) -> Check {
        self.shells[silo].is_publishing = false;
        if !self.transacts(silo, no) {
            return Ok(());
        }
        let how = if self.reaches_log(silo) { how } else { End::RequestLost };
        self.world.end_transaction(silo, how)
    }

    /// Initialises the producer.
    pub(super) fn init(&mut self, silo: usize) {
        if !self.reaches_log(silo) {
            self.queue.put(self.now + TRY_AGAIN_AFTER, Event::Init(silo));
            return;
        }
        self.world.init_producer(silo);
        let at = self.now + self.producer_delay();
        self.queue.put(at, Event::Register(silo));
    }

    /// Writes down that it did.
    pub(super) fn register(&mut self, silo: usize) -> Check {
        self.shells[silo].is_publishing = false;
        self.world.register_producer(silo)
    }

    /// The log's own limit for transactions.
    pub(super) fn log_ends(&mut self, silo: usize, no: u64) {
        let (shell, id) = (&self.shells[silo], self.world.silos[silo].txid);
        if shell.transactions == no && self.world.log.is_open(id) {
            self.walked("the log ends a transaction");
            self.world.log.init(id);
        }
    }
}
