//! Who waits for what on one connection. A request's id is its place in a table and how often that place was given
//! before, so an answer finds its waiter without a search, and a late answer finds nobody.

use std::task::{Poll, Waker};

use granary_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::tail::Record;

/// How many requests may wait for their answers on one connection; the next waits until there is room.
pub const IN_FLIGHT_MAX: usize = 1_024;

/// The id of requests nobody waits for; never given to one that is waited for.
pub(crate) const NOBODY: u64 = 0;

/// Where the records of a tail go.
pub(crate) type Records = mpsc::UnboundedSender<Result<Record>>;

/// Why a request has no answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Missed {
    /// It was not sent: as many as may be are under way.
    Full,
    /// Its deadline passed.
    Expired,
    /// This is the answer, or the connection's end.
    Failed(Error),
}

enum State {
    Free,
    Waiting(Option<Waker>),
    Answered(Result<Vec<u8>>),
    Expired,
    Tail { records: Records, credit_bytes: i64 },
}

struct Place {
    /// Odd while given: an id is never [`NOBODY`].
    generation: u32,
    deadline: Instant,
    state: State,
}

#[derive(Default)]
pub(crate) struct Pending {
    places: Vec<Place>,
    free: Vec<u32>,
    in_flight: usize,
    /// Who waits until a request may be begun.
    pub(crate) queued: usize,
    /// When deadlines are looked at next.
    alarm: Option<Instant>,
    ended: Option<Error>,
}

impl Pending {
    /// A place for a request that waits until `deadline`, and whether the alarm has to be set to an earlier time. Who
    /// comes new stands behind those that queue for room.
    pub(crate) fn begin(&mut self, deadline: Instant, is_new: bool) -> Result<(u64, bool), Missed> {
        if let Some(error) = &self.ended {
            return Err(Missed::Failed(error.clone()));
        }
        if self.in_flight >= IN_FLIGHT_MAX || (is_new && self.queued > 0) {
            return Err(Missed::Full);
        }
        self.in_flight += 1;
        let is_earlier = self.alarm.is_none_or(|alarm| deadline < alarm);
        if is_earlier {
            self.alarm = Some(deadline);
        }
        Ok((self.give(deadline, State::Waiting(None)), is_earlier))
    }

    /// A place for a tail.
    pub(crate) fn begin_tail(&mut self, records: Records, credit_bytes: u64) -> Result<u64> {
        match &self.ended {
            Some(error) => Err(error.clone()),
            None => {
                let credit_bytes = i64::try_from(credit_bytes).unwrap_or(i64::MAX);
                Ok(self.give(Instant::now(), State::Tail { records, credit_bytes }))
            }
        }
    }

    fn give(&mut self, deadline: Instant, state: State) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, deadline, state: State::Free });
            u32::try_from(self.places.len() - 1).expect("requests in flight are bounded far below 2^32")
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        (place.deadline, place.state) = (deadline, state);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    fn place(&mut self, id: u64) -> Option<&mut Place> {
        let place = self.places.get_mut((id & 0xffff_ffff) as usize)?;
        (u64::from(place.generation) == id >> 32).then_some(place)
    }

    /// Takes what is at `id`, and the place is free.
    fn take(&mut self, id: u64) -> State {
        let Some(place) = self.place(id) else { return State::Free };
        let state = std::mem::replace(&mut place.state, State::Free);
        if !matches!(state, State::Free) {
            place.generation = place.generation.wrapping_add(1);
            self.free.push((id & 0xffff_ffff) as u32);
            self.in_flight -= usize::from(!matches!(state, State::Tail { .. }));
        }
        state
    }

    /// The answer to `id`, or who is to be woken when it is there.
    pub(crate) fn poll(&mut self, id: u64, waker: &Waker) -> Poll<Result<Vec<u8>, Missed>> {
        if let Some(State::Waiting(waiting)) = self.place(id).map(|place| &mut place.state) {
            if !waiting.as_ref().is_some_and(|other| other.will_wake(waker)) {
                *waiting = Some(waker.clone());
            }
            return Poll::Pending;
        }
        Poll::Ready(match self.take(id) {
            State::Answered(result) => result.map_err(Missed::Failed),
            _ => Err(Missed::Expired),
        })
    }

    /// Nobody waits for `id` any more; whether its answer was still to come.
    pub(crate) fn leave(&mut self, id: u64) -> bool {
        matches!(self.take(id), State::Waiting(_))
    }

    /// Nobody reads this tail any more; whether it was still open.
    pub(crate) fn leave_tail(&mut self, id: u64) -> bool {
        self.ended.is_none() && matches!(self.take(id), State::Tail { .. })
    }

    /// Whether another request may be begun and somebody queues for that.
    pub(crate) fn has_room(&self) -> bool {
        self.queued > 0 && self.in_flight < IN_FLIGHT_MAX
    }

    /// The answer to `id`, or the end of that tail. Who is to be told is appended to `wakers`.
    pub(crate) fn answer(&mut self, id: u64, result: Result<Vec<u8>>, wakers: &mut Vec<Waker>) {
        let Some(place) = self.place(id) else { return };
        match &mut place.state {
            State::Waiting(waiting) => {
                wakers.extend(waiting.take());
                place.state = State::Answered(result);
            }
            State::Tail { .. } => {
                if let (State::Tail { records, .. }, Err(error)) = (self.take(id), result) {
                    drop(records.send(Err(error))); // a tail being dropped wants nothing
                }
            }
            State::Free | State::Answered(_) | State::Expired => {} // who gave up misses it
        }
    }

    /// Hands a record to its tail. A record beyond the credit is an error: the silo must not send it.
    pub(crate) fn record(&mut self, id: u64, record: &granary_wire::Record<'_>) -> Result<()> {
        let Some(State::Tail { records, credit_bytes }) = self.place(id).map(|place| &mut place.state) else {
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
        if let Some(State::Tail { credit_bytes, .. }) = self.place(id).map(|place| &mut place.state) {
            *credit_bytes = credit_bytes.saturating_add_unsigned(bytes);
        }
    }

    /// When deadlines are to be looked at.
    pub(crate) fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    /// Ends the requests whose deadline has passed, and sets the alarm anew.
    pub(crate) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        self.alarm = None;
        for place in &mut self.places {
            let State::Waiting(waiting) = &mut place.state else { continue };
            if place.deadline <= now {
                wakers.extend(waiting.take());
                place.state = State::Expired;
            } else {
                self.alarm = Some(self.alarm.map_or(place.deadline, |alarm| alarm.min(place.deadline)));
            }
        }
    }

    /// The connection has ended: who waits gets `error`, and nobody else may wait.
    pub(crate) fn end(&mut self, error: &Error, wakers: &mut Vec<Waker>) {
        self.ended = Some(error.clone());
        for place in &mut self.places {
            match &mut place.state {
                State::Waiting(waiting) => {
                    wakers.extend(waiting.take());
                    place.state = State::Answered(Err(error.clone()));
                }
                State::Tail { records, .. } => drop(records.send(Err(error.clone()))),
                State::Free | State::Answered(_) | State::Expired => {}
            }
        }
    }

    /// How many requests are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn later(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_late_answer_finds_nobody() {
        let mut pending = Pending::default();
        let (first, _) = pending.begin(later(10), true).unwrap();
        assert!(pending.leave(first), "its answer was still to come");
        let (second, _) = pending.begin(later(10), true).unwrap();
        assert_eq!(first & 0xffff_ffff, second & 0xffff_ffff, "the place is given again");
        pending.answer(first, Ok(vec![1]), &mut Vec::new());
        assert!(pending.poll(second, Waker::noop()).is_pending(), "the late answer is not for this one");
        pending.answer(second, Ok(vec![2]), &mut Vec::new());
        assert_eq!(pending.poll(second, Waker::noop()), Poll::Ready(Ok(vec![2])));
        assert!(!pending.leave(second) && !pending.leave(NOBODY) && !pending.leave(u64::MAX));
        assert_eq!(pending.in_flight(), 0);
    }

    #[test]
    fn the_end_answers_all_and_takes_no_more() {
        let mut pending = Pending::default();
        let (id, _) = pending.begin(later(10), true).unwrap();
        assert!(pending.poll(id, Waker::noop()).is_pending());
        let closed = Error::new(ErrorKind::Closed, "gone");
        let mut wakers = Vec::new();
        pending.end(&closed, &mut wakers);
        assert_eq!(wakers.len(), 1);
        assert_eq!(pending.poll(id, Waker::noop()), Poll::Ready(Err(Missed::Failed(closed.clone()))));
        assert_eq!(pending.begin(later(10), true), Err(Missed::Failed(closed)));
    }

    #[test]
    fn deadlines_end_those_whose_time_has_come() {
        let mut pending = Pending::default();
        let (late, near) = (later(60_000), later(5));
        let (first, is_earlier) = pending.begin(late, true).unwrap();
        assert!(is_earlier, "the first sets the alarm");
        let (second, is_earlier) = pending.begin(near, true).unwrap();
        assert!(is_earlier && pending.alarm() == Some(near));
        assert!(!pending.begin(late, true).unwrap().1);
        pending.expire(near, &mut Vec::new());
        assert_eq!(pending.poll(second, Waker::noop()), Poll::Ready(Err(Missed::Expired)));
        assert!(pending.poll(first, Waker::noop()).is_pending() && pending.alarm() == Some(late));
    }

    #[test]
    fn who_comes_new_stands_behind_those_that_queue() {
        let mut pending = Pending::default();
        let ids: Vec<u64> = (0..IN_FLIGHT_MAX).map(|_| pending.begin(later(10), true).unwrap().0).collect();
        assert_eq!(pending.begin(later(10), false), Err(Missed::Full));
        pending.queued = 1;
        pending.leave(ids[0]);
        assert!(pending.has_room());
        assert_eq!(pending.begin(later(10), true), Err(Missed::Full));
        assert!(pending.begin(later(10), false).is_ok() && !pending.has_room());
    }
}
