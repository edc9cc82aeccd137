//! What a world loses: silos with all they have in memory, and the last writes of the store.

use granary_cluster::slot::Phase;

use crate::check::Check;
use crate::silo::Life;
use crate::store::Row;
use crate::world::World;

impl World {
    /// A silo ends. What it sent may still arrive, or not.
    pub fn crash(&mut self, silo: usize) -> Check {
        for slot in 0..usize::from(self.scenario.slots) {
            if self.silos[silo].seats[slot].slot.phase() != Phase::Off {
                // its callers do not know
                let mut out = Vec::new();
                self.silos[silo].seats[slot].slot.give_up(&mut out);
            }
        }
        self.silos[silo].life = Life::Dead;
        self.silos[silo].asked.clear();
        self.silos[silo].transaction = None;
        self.replies.retain(|(of, _)| *of != silo);
        let mut random = self.random.clone();
        self.network.retain_mut(|message| {
            message.awaited &= message.silo != silo;
            message.silo != silo || random.once_in(2)
        });
        self.random = random;
        Ok(())
    }

    /// The store loses writes. The embedded engine ends with its process.
    pub fn roll_back(&mut self, writes: usize) -> Check {
        let embedded = self.store.publishes();
        if embedded {
            (0..self.silos.len()).try_for_each(|silo| self.crash(silo))?;
            self.network.clear();
        }
        let before = self.store.rows.clone();
        self.store.roll_back(writes);
        self.rolled_back(&before)
    }

    /// The store has gone back; this is how it stood before.
    pub fn rolled_back(&mut self, before: &[Row]) -> Check {
        let embedded = self.store.publishes();
        self.rollbacks += 1;
        for (slot, before) in before.iter().enumerate() {
            self.checks[slot].roll_back(before, &self.store.rows[slot], embedded)?;
        }
        Ok(())
    }
}
