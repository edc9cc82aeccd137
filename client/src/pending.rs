//! Who waits for what on one connection. A request's id is its place in a table and how often that place was given
//! before, so an answer finds its waiter without a search, and a late answer finds nobody.

use granary_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

use crate::tail::Record;

/// The id of requests nobody waits for; never given to one that is waited for.
pub(crate) const NOBODY: u64 = 0;

pub(crate) enum Waiter {
    /// Of one answer.
    Answer(oneshot::Sender<Result<Vec<u8>>>),
    /// Of records, as many as it gave credit for.
    Tail { records: mpsc::UnboundedSender<Result<Record>>, credit_bytes: i64 },
}

#[derive(Default)]
struct Place {
    /// Odd while given: an id is never [`NOBODY`].
    generation: u32,
    waiter: Option<Waiter>,
}

#[derive(Default)]
pub(crate) struct Pending {
    places: Vec<Place>,
    free: Vec<u32>,
    ended: Option<Error>,
}

impl Pending {
    /// Gives `waiter` an id; the error of the connection's end when it has ended.
    pub(crate) fn insert(&mut self, waiter: Waiter) -> Result<u64> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("requests in flight are bounded far below 2^32")
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.waiter = Some(waiter);
        Ok(u64::from(place.generation) << 32 | u64::from(index))
    }

    fn place(&mut self, id: u64) -> Option<&mut Place> {
        let place = self.places.get_mut((id & 0xffff_ffff) as usize)?;
        (u64::from(place.generation) == id >> 32).then_some(place)
    }

    /// Takes the waiter of `id`, if it still waits.
    pub(crate) fn take(&mut self, id: u64) -> Option<Waiter> {
        let place = self.place(id)?;
        let waiter = place.waiter.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push((id & 0xffff_ffff) as u32);
        Some(waiter)
    }

    /// Hands a record to its tail. A record beyond the credit is an error: the silo must not send it.
    pub(crate) fn record(&mut self, id: u64, record: &granary_wire::Record<'_>) -> Result<()> {
        let Some(Waiter::Tail { records, credit_bytes }) = self.place(id).and_then(|p| p.waiter.as_mut())
        else {
            return Ok(()); // records under way when the tail was dropped
        };
        if *credit_bytes <= 0 {
            return Err(Error::new(ErrorKind::Codec, "the silo sent more records than it had credit for"));
        }
        *credit_bytes = credit_bytes.saturating_sub_unsigned(record.credit_bytes());
        drop(records.send(Ok(Record::of(record)))); // a tail being dropped wants no more
        Ok(())
    }

    /// The tail may be sent so much more.
    pub(crate) fn credit(&mut self, id: u64, bytes: u64) {
        if let Some(Waiter::Tail { credit_bytes, .. }) = self.place(id).and_then(|p| p.waiter.as_mut()) {
            *credit_bytes = credit_bytes.saturating_add_unsigned(bytes);
        }
    }

    /// The connection has ended: nobody waits any more, and nobody will.
    pub(crate) fn end(&mut self, error: &Error) {
        self.ended = Some(error.clone());
        self.free.clear();
        for place in self.places.drain(..) {
            match place.waiter {
                Some(Waiter::Answer(to)) => drop(to.send(Err(error.clone()))),
                Some(Waiter::Tail { records, .. }) => drop(records.send(Err(error.clone()))),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter() -> (Waiter, oneshot::Receiver<Result<Vec<u8>>>) {
        let (to, answer) = oneshot::channel();
        (Waiter::Answer(to), answer)
    }

    #[test]
    fn a_late_answer_finds_nobody() {
        let mut pending = Pending::default();
        let first = pending.insert(waiter().0).unwrap();
        assert!(pending.take(first).is_some());
        let second = pending.insert(waiter().0).unwrap();
        assert_eq!(first & 0xffff_ffff, second & 0xffff_ffff, "the place is given again");
        assert!(pending.take(first).is_none(), "but not under the old id");
        assert!(pending.take(second).is_some());
        assert!(pending.take(NOBODY).is_none() && pending.take(u64::MAX).is_none());
    }

    #[test]
    fn the_end_answers_all_and_takes_no_more() {
        let mut pending = Pending::default();
        let (one, mut answer) = waiter();
        pending.insert(one).unwrap();
        let closed = Error::new(ErrorKind::Closed, "gone");
        pending.end(&closed);
        assert_eq!(answer.try_recv().unwrap(), Err(closed.clone()));
        assert_eq!(pending.insert(waiter().0).err(), Some(closed));
    }
}
