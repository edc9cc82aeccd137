//! How the events of a key are written, and read again.

use std::sync::Arc;

use granary_core::Timestamp;

use super::{Join, Joiner, Over, PAIRS_MAX, Side, lateness_ms, length, window_of};
use crate::Corrupt;
use crate::encode::{Reader, put_i64};
use crate::shelf::{Shelf, Stored};
use crate::track::{BYTES_MAX, EVENTS_MAX, Machine};

impl<E: Stored> Machine for Joiner<E> {
    type Of = Join;
    type Kept = Option<E>;

    fn new(of: &Arc<Join>) -> Joiner<E> {
        Joiner::new(**of)
    }

    fn shelf(&self) -> &Shelf<Option<E>> {
        &self.shelf
    }

    fn shelf_mut(&mut self) -> &mut Shelf<Option<E>> {
        &mut self.shelf
    }

    fn is_late(&self, time: Timestamp) -> bool {
        self.is_late(time.ms())
    }

    fn has_room(&mut self, time: Timestamp) -> bool {
        if let Over::Window(size) = self.join.over {
            let (start, end) = window_of(time.ms(), size);
            let [left, right] = &self.sides;
            let count = |events: &super::Events| events.range((start, 0)..(end, 0)).count() + 1;
            if count(left) * count(right) > PAIRS_MAX {
                return false;
            }
        }
        self.shelf.len() < EVENTS_MAX && self.shelf.bytes() < BYTES_MAX
    }

    fn next_change(&self) -> Option<Timestamp> {
        let first = |side: Side| self.sides[side as usize].first().map(|(ms, _)| *ms);
        let at = match self.join.over {
            Over::Interval { .. } => {
                let over = |side| first(side).map(|ms| self.over_at(side, ms).unwrap_or(i64::MAX));
                over(Side::Left).into_iter().chain(over(Side::Right)).min()
            }
            Over::Window(size) => self.first_ms().map(|ms| window_of(ms, size).1.saturating_sub(1)),
            Over::Version => first(Side::Left),
        };
        at.map(Timestamp)
    }

    fn dropped(&self) -> u64 {
        0
    }

    fn horizon(of: &Join) -> i64 {
        match of.over {
            Over::Window(size) => length(size), // no window of an event ends later
            _ => lateness_ms(of.allowed_lateness).unwrap_or(i64::MAX),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_i64(out, self.watermark);
    }

    fn read(of: &Arc<Join>, reader: &mut Reader<'_>) -> Result<Joiner<E>, Corrupt> {
        let mut joiner = Joiner::new(**of);
        joiner.watermark = reader.i64()?;
        Ok(joiner)
    }

    fn settle(&mut self) -> Result<(), Corrupt> {
        self.sides = Default::default();
        for (arrival, entry) in self.shelf.iter() {
            let side = self.sides.get_mut(usize::from(entry.tag));
            side.ok_or(Corrupt { what: "a side of the join expected" })?.insert((entry.ms, arrival));
        }
        Ok(())
    }
}
