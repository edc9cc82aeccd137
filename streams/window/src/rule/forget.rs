//! What of a key is kept no longer.

use super::KEPT_MAX;
use super::judge::Key;
use super::kept::Place;
use super::set::Set;
use crate::ids::id_of;

impl Key {
    /// Drops what no verdict can need any more.
    pub(super) fn forget(&mut self, set: &Set) {
        while self.kept.chunks.len() > 1 && (self.kept.count > KEPT_MAX || self.may_drop_first(set)) {
            if self.kept.first == self.judged.chunk {
                return; // not judged yet
            }
            if !self.may_drop_first(set) {
                self.overflows += self.kept.chunks[0].len() as u64;
            }
            for (sliding, window) in self.slidings.iter_mut().zip(&set.windows) {
                sliding.forget_first(window, &self.kept);
            }
            let first = self.kept.first;
            for at in 0..self.kept.chunks[0].len() as u32 {
                self.ids.remove(&id_of(self.kept.id(Place { chunk: first, at })));
            }
            self.dropped.push(first);
            self.kept.drop_first();
        }
    }

    fn may_drop_first(&self, set: &Set) -> bool {
        if self.filling.is_open {
            return false;
        }
        let newest = self.kept.chunks[0].times.last().copied().unwrap_or(i64::MIN);
        if newest > self.clock.saturating_sub(set.retention_ms) {
            return false;
        }
        // Events of these chunks stand for ever before all that may still be judged.
        let settled = self.clock.saturating_sub(set.lateness_ms);
        let next = Place { chunk: self.kept.first + 1, at: 0 };
        set.at_least.iter().all(|(track, least)| {
            let places = self.kept.between(next, self.kept.end());
            let settled = places.take_while(|place| self.kept.time(*place) < settled);
            settled.filter(|place| track.has(&self.kept, *place)).take(*least as usize).count()
                == *least as usize
        })
    }
}
