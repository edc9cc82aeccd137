//! What a silo tells of itself with each renewal.
//!
//! None of it is part of what the table's version counts, and nobody's slots are placed by it: that a silo reaches the log
//! lets another one stand aside, which is a change of its own; the load is advice to whoever moves slots by hand.

use std::fmt;
use std::str::FromStr;

use granary_core::SlotId;
use serde::{Deserialize, Serialize};

/// Slots that a silo names as its busiest, at most.
pub const BUSIEST_MAX: usize = 4;

/// What a silo tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether it reaches the log, and can publish there.
    pub reaches_log: bool,
    /// How much it has to do.
    pub load: Load,
}

/// How much a silo has to do: advice only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Slots that run there.
    pub slots: u32,
    /// Turns and records of the last seconds, by the second.
    pub turns_per_s: u64,
    /// The slots with most of them, the busiest first; [`BUSIEST_MAX`] at most.
    pub busiest: Vec<(SlotId, u64)>,
}

/// As stores keep it: slots, turns by the second, the busiest slots: `32 1200 17:800 3:90`.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.slots, self.turns_per_s)?;
        self.busiest.iter().try_for_each(|(slot, turns)| write!(f, " {}:{turns}", slot.0))
    }
}

/// A load that is not written as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLoad;

impl FromStr for Load {
    type Err = NoLoad;

    fn from_str(text: &str) -> Result<Load, NoLoad> {
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or(NoLoad);
        let (slots, turns_per_s) = (number()?, number()?);
        let slots = u32::try_from(slots).map_err(|_| NoLoad)?;
        let of_slot = |word: &str| {
            let (slot, turns) = word.split_once(':').ok_or(NoLoad)?;
            Ok((SlotId(slot.parse().map_err(|_| NoLoad)?), turns.parse().map_err(|_| NoLoad)?))
        };
        let busiest = words.take(BUSIEST_MAX).map(of_slot).collect::<Result<_, NoLoad>>()?;
        Ok(Load { slots, turns_per_s, busiest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_read_as_it_was_written() {
        let busy = Load { slots: 32, turns_per_s: 1_200, busiest: vec![(SlotId(17), 800), (SlotId(3), 90)] };
        for load in [Load::default(), busy] {
            assert_eq!(load.to_string().parse(), Ok(load));
        }
        for text in ["", "3", "3 x", "3 4 5", "3 4 5:x", "-1 4"] {
            assert_eq!(text.parse::<Load>(), Err(NoLoad), "{text}");
        }
    }
}
