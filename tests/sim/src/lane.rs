//! The lane's work at the log: fencing, stable reads, one transaction for all its slots.

use granary_cluster::TxId;
use granary_cluster::slot::Heard;

use crate::check::Check;
use crate::log::{Part, outputs};
use crate::silo::{Asked, Transaction, What};
use crate::world::World;

/// How the end of a transaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It commits, and the lane knows.
    Done,
    /// It commits, and the lane does not know.
    ReplyLost,
    /// It never arrives.
    RequestLost,
    /// The lane aborts before trying.
    Aborted,
}

impl World {
    /// Carries out a question of a slot, or a part of it.
    pub fn carry_on(&mut self, silo: usize, i: usize) -> Check {
        let Asked { slot, ask, what } = self.silos[silo].asked.remove(i);
        match what {
            What::Record => {
                let stored = self.store.read(granary_core::SlotId(slot as u16));
                self.tell(silo, slot, Heard::Record(ask, stored))
            }
            What::Marker => {
                let marker = self.log.markers[slot].clone();
                self.tell(silo, slot, Heard::Marker(ask, marker))
            }
            What::Fence(mut ids, registered) => {
                let next = ids.pop();
                if !ids.is_empty() {
                    self.silos[silo].asked.push(Asked { slot, ask, what: What::Fence(ids, registered) });
                    return next.map_or(Ok(()), |id| self.fence(silo, slot, id));
                }
                next.map_or(Ok(()), |id| self.fence(silo, slot, id))?;
                let own = self.silos[silo].txid;
                let others: Vec<_> = registered.into_iter().filter(|(id, _)| *id != own).collect();
                self.log.forget(&others);
                self.tell(silo, slot, Heard::Fenced(ask))
            }
        }
    }

    fn fence(&mut self, silo: usize, slot: usize, id: TxId) -> Check {
        let own = &self.silos[silo];
        if id != own.txid {
            self.log.init(id);
            return Ok(());
        }
        // no open transaction of ours holds the slot: nothing to end
        if !own.must_init && !own.transacts(slot) && self.random.once_in(2) {
            return Ok(());
        }
        self.init_producer(silo);
        self.register_producer(silo)
    }

    /// The lane's own producer, anew: what it had open is aborted. Before it sends it is written down.
    pub fn init_producer(&mut self, silo: usize) {
        let generation = self.log.init(self.silos[silo].txid);
        let own = &mut self.silos[silo];
        (own.must_init, own.unregistered, own.transaction) = (true, Some(generation), None);
    }

    /// Writes down the init of the lane's own producer.
    pub fn register_producer(&mut self, silo: usize) -> Check {
        let own = &mut self.silos[silo];
        let Some(generation) = own.unregistered.take() else { return Ok(()) };
        (own.generation, own.must_init) = (generation, false);
        self.log.register(own.txid, generation);
        self.tell_all(silo, &Heard::ProducerReady)
    }

    fn producer_lost(&mut self, silo: usize) -> Check {
        self.silos[silo].must_init = true;
        self.silos[silo].transaction = None;
        self.tell_all(silo, &Heard::ProducerLost)
    }

    /// Begins a transaction with everything that waits, and sends it.
    pub fn begin(&mut self, silo: usize) -> Check {
        let own = &mut self.silos[silo];
        let mut held = Vec::new();
        let mut parts = Vec::new();
        for (slot, seat) in own.seats.iter_mut().enumerate() {
            let Some(publication) = seat.slot.publication() else { continue };
            held.push((slot, publication.marker.epoch, publication.marker.n));
            parts.push(Part {
                slot: granary_core::SlotId(slot as u16),
                outputs: publication.commits.iter().flat_map(|pending| outputs(pending.outbox())).collect(),
                marker: publication.marker,
            });
        }
        let (id, generation) = (own.txid, own.generation);
        own.transaction = Some(Transaction { parts: held, staged: false });
        match self.log.begin(id, generation, parts) {
            Ok(()) => Ok(()),
            Err(_) => self.producer_lost(silo),
        }
    }

    /// Sends the markers.
    pub fn stage(&mut self, silo: usize) -> Check {
        let own = &mut self.silos[silo];
        if let Some(transaction) = &mut own.transaction {
            transaction.staged = true;
        }
        let (id, generation) = (own.txid, own.generation);
        match self.log.stage(id, generation) {
            Ok(()) => Ok(()),
            Err(_) => self.producer_lost(silo),
        }
    }

    /// Ends the transaction.
    pub fn end_transaction(&mut self, silo: usize, how: End) -> Check {
        let (id, generation) = (self.silos[silo].txid, self.silos[silo].generation);
        let known = match how {
            End::RequestLost => false,
            End::Aborted => self.log.abort(id, generation).is_ok(),
            End::Done | End::ReplyLost => match self.log.end(id, generation) {
                Ok(parts) => {
                    for part in parts {
                        let slot = usize::from(part.slot.0);
                        self.checks[slot].see(&self.log.visible[slot])?;
                        self.checks[slot].mark(&part.marker)?;
                    }
                    how == End::Done
                }
                Err(_) => false,
            },
        };
        if !known {
            return self.producer_lost(silo);
        }
        let parts = self.silos[silo].transaction.take().map(|t| t.parts).unwrap_or_default();
        parts.into_iter().try_for_each(|(slot, epoch, n)| {
            let heard =
                if how == End::Aborted { Heard::Aborted(epoch, n) } else { Heard::Published(epoch, n) };
            self.tell(silo, slot, heard)
        })
    }
}
