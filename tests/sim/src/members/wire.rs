//! Messages to the store and the log: they take time, get lost, and do not pass where a silo is cut off.

use granary_cluster::slot::Heard;
use granary_cluster::{Reply, RunId, Script};
use granary_core::SlotId;

use crate::check::Check;
use crate::silo::{Asked, Life, What};
use crate::world::Message;

use super::Cluster;
use super::event::Event;
use super::time::{MS, Micros};

/// A script that was not answered for so long is sent again.
const SILENT_AFTER: Micros = 300 * MS;
/// A question that failed is asked again after this.
const ASK_AGAIN_AFTER: Micros = 100 * MS;

impl Cluster {
    /// How long a message takes: a few milliseconds, seldom longer, and now and then very long.
    pub(super) fn delay(&mut self) -> Micros {
        let random = &mut self.world.random;
        let may_be_late = !self.is_calm && self.plan.lost_once_in > 0;
        (match () {
            _ if may_be_late && random.once_in(150) => random.between(200_000, 3_000_000),
            _ if random.once_in(15) => random.between(4_000, 60_000),
            _ => random.between(200, 4_000),
        }) as Micros
    }

    /// Whether this message is lost.
    pub(super) fn is_lost(&mut self) -> bool {
        let once_in = self.plan.lost_once_in;
        !self.is_calm && once_in > 0 && self.world.random.once_in(once_in)
    }

    pub(super) fn reaches_store(&self, silo: usize) -> bool {
        self.now >= self.store_away_until && self.now >= self.shells[silo].cut_store_until
    }

    pub(super) fn reaches_log(&self, silo: usize) -> bool {
        self.now >= self.shells[silo].cut_log_until
    }

    /// Whether cells of the slot can be loaded now.
    pub(super) fn can_load(&self, silo: usize, slot: usize) -> bool {
        let run = self.world.store.run;
        self.reaches_store(silo)
            && self.shells[silo].run == run
            && self.world.silos[silo].seats[slot].slot.run() == run
    }

    /// Takes what the world has sent and asked, and gives it a time.
    pub(super) fn collect(&mut self) -> Check {
        for Message { silo, script, .. } in std::mem::take(&mut self.world.network) {
            self.send(silo, script);
        }
        for silo in 0..self.shells.len() {
            if self.world.silos[silo].asked.is_empty() {
                continue;
            }
            for asked in std::mem::take(&mut self.world.silos[silo].asked) {
                let at = self.now + self.delay();
                self.queue.put(at, Event::CarryOn { silo, asked });
            }
        }
        for (silo, slot, why) in std::mem::take(&mut self.world.dropped) {
            if self.runs(silo) {
                self.was_dropped(silo, slot, why);
            }
        }
        let opened = std::mem::take(&mut self.world.opened);
        opened.into_iter().try_for_each(|(silo, slot)| self.check_alone(silo, slot))
    }

    fn send(&mut self, silo: usize, script: Script) {
        self.sent += 1;
        let (no, slot, run) = (self.sent, usize::from(script.slot().0), self.shells[silo].run);
        self.shells[silo].flights.insert(slot, no);
        self.queue.put(self.now + SILENT_AFTER, Event::ScriptSilent { silo, no, slot });
        if !self.is_lost() {
            let at = self.now + self.delay();
            self.queue.put(at, Event::Arrive { silo, no, run, script });
        }
    }

    /// A script arrives. A connection does not outlive the server it was opened to.
    pub(super) fn arrive(&mut self, silo: usize, no: u64, run: RunId, script: Script) -> Check {
        if !self.reaches_store(silo) {
            return Ok(());
        }
        if run != self.world.store.run {
            self.look_for_server(silo);
            return Ok(());
        }
        self.world.network.push(Message { silo, script, awaited: true });
        self.world.arrive(self.world.network.len() - 1)?;
        let reply = self.world.replies.pop();
        if let Some((_, reply)) = reply.filter(|_| !self.is_lost()) {
            let at = self.now + self.delay();
            self.queue.put(at, Event::Answer { silo, no, reply });
        }
        Ok(())
    }

    /// Its answer arrives.
    pub(super) fn answer(&mut self, silo: usize, no: u64, reply: Reply) -> Check {
        let slot = usize::from(reply.slot.0);
        if self.shells[silo].flights.get(&slot) != Some(&no) {
            return Ok(()); // nobody waits for it any more
        }
        self.shells[silo].flights.remove(&slot);
        self.world.replies.push((silo, reply));
        self.world.answer(self.world.replies.len() - 1)
    }

    /// There was none in time.
    pub(super) fn script_silent(&mut self, silo: usize, no: u64, slot: usize) -> Check {
        if self.shells[silo].flights.get(&slot) != Some(&no) {
            return Ok(());
        }
        self.shells[silo].flights.remove(&slot);
        self.look_for_server(silo);
        self.world.unknown(silo, SlotId(slot as u16))
    }

    /// The row of a slot is read for a silo that may take it.
    pub(super) fn row_asked(&mut self, silo: usize, slot: usize, run: RunId) {
        let reached = self.reaches_store(silo) && !self.is_lost();
        let is_same = run == self.world.store.run;
        if reached && !is_same {
            self.look_for_server(silo);
        }
        let row = (reached && is_same).then(|| (self.world.row(slot).record.clone(), run));
        let at = self.now + if row.is_some() { self.delay() } else { SILENT_AFTER };
        self.queue.put(at, Event::HearRow { silo, slot, row });
    }

    /// The connection is broken, perhaps: it finds out which server is there.
    pub(super) fn look_for_server(&mut self, silo: usize) {
        if self.world.silos[silo].life == Life::Up && !self.shells[silo].is_reconnecting {
            self.shells[silo].is_reconnecting = true;
            let at = self.now + self.delay();
            self.queue.put(at, Event::Reconnect(silo));
        }
    }

    pub(super) fn reconnect(&mut self, silo: usize) -> Check {
        if !self.reaches_store(silo) {
            self.queue.put(self.now + ASK_AGAIN_AFTER, Event::Reconnect(silo));
            return Ok(());
        }
        self.shells[silo].is_reconnecting = false;
        let run = self.world.store.run;
        if std::mem::replace(&mut self.shells[silo].run, run) == run {
            return Ok(());
        }
        self.walked("another server");
        (0..usize::from(self.plan.scenario.slots)).try_for_each(|slot| {
            let mut out = Vec::new();
            self.world.silos[silo].seats[slot].slot.connected(run, &mut out);
            self.world.carry_out(silo, slot, out)
        })
    }

    /// A question of a slot is answered, or a part of it is.
    pub(super) fn carry_on(&mut self, silo: usize, asked: Asked) -> Check {
        let (slot, ask) = (asked.slot, asked.ask);
        let is_of_store = matches!(asked.what, What::Record);
        let reached = if is_of_store {
            self.reaches_store(silo) && self.shells[silo].run == self.world.store.run
        } else {
            self.reaches_log(silo)
        };
        if !reached || self.is_lost() {
            if is_of_store {
                self.look_for_server(silo);
            }
            let at = self.now + ASK_AGAIN_AFTER;
            self.queue.put(at, Event::Tell { silo, slot, heard: Heard::NoAnswer(ask) });
            return Ok(());
        }
        let heard = match &asked.what {
            What::Fence(..) => {
                self.world.silos[silo].asked.push(asked);
                return self.world.carry_on(silo, self.world.silos[silo].asked.len() - 1);
            }
            What::Marker if !self.world.log.blocks(SlotId(slot as u16)).is_empty() => {
                self.walked("a stable read waits");
                self.queue.put(self.now + ASK_AGAIN_AFTER, Event::CarryOn { silo, asked });
                return Ok(());
            }
            What::Marker => Heard::Marker(ask, self.world.log.markers[slot].clone()),
            What::Record => Heard::Record(ask, self.world.store.read(SlotId(slot as u16))),
        };
        let at = self.now + self.delay();
        self.queue.put(at, Event::Tell { silo, slot, heard });
        Ok(())
    }
}
