//! One noted record at a time in the whole process: should it end, no other record is suspected.
//!
//! Lanes run at the same pace from one start to the next. With a note on each, a record that kills the process would
//! take the same innocent one with it every time.

use std::sync::atomic::{AtomicU32, Ordering};

use granary_core::SlotId;

/// The slot whose noted record is being applied, for all lanes; 0 is none.
#[derive(Debug, Default)]
pub(crate) struct Suspect(AtomicU32);

impl Suspect {
    /// Whose it is.
    pub fn holder(&self) -> Option<SlotId> {
        let holder = self.0.load(Ordering::Acquire);
        (holder > 0).then(|| SlotId((holder - 1) as u16))
    }

    /// From one to another, or to and from none; false when it is not `from`'s.
    pub fn pass(&self, from: Option<SlotId>, to: Option<SlotId>) -> bool {
        let number = |slot: Option<SlotId>| slot.map_or(0, |slot| u32::from(slot.0) + 1);
        self.0.compare_exchange(number(from), number(to), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
