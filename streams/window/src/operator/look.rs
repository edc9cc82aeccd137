//! Reading ahead of an event, so that what it needs is in the processor's caches when it comes. Nothing changes.

use super::Operator;
use crate::aggregate::Accumulator;

/// So many panes of a slice are looked at: more than most have.
const PANES_MAX: usize = 4;

/// How many links there are from a key to the accumulators of its newest slice.
pub const LINKS: usize = 4;

impl Operator {
    /// Where the key probably is, judged by its hash alone.
    pub fn likely_place(&self, key: &[u8]) -> Option<u32> {
        self.keys.likely(key)
    }

    /// Reads one link of the chain that an event of the key there follows; what it answers has no meaning.
    pub fn look_at(&self, place: u32, link: usize) -> usize {
        let key = self.keys.get(place);
        if link == 0 {
            return usize::from(key.flags.loaded) ^ key.clock as usize ^ key.name.bytes().len();
        }
        let Some(slice) = key.slices.back() else { return 0 };
        let panes = slice.panes.iter().take(PANES_MAX);
        match link {
            1 => slice.panes.len() ^ slice.next as usize,
            2 => panes.fold(0, |seen, pane| seen ^ pane.end as usize ^ usize::from(pane.fired)),
            _ => {
                panes.filter(|pane| matches!(pane.accumulators.first(), Some(Accumulator::Count(0)))).count()
            }
        }
    }
}
