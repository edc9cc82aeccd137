//! Answers of one slot that wait for a commit, with the time at which their callers give up.

use granary_cluster::CommitNo;
use granary_cluster::replies::Held;
use granary_cluster::slot::Dropped;
use granary_core::envelope::Answer;
use granary_core::{Key, MethodInfo, Ran, Timestamp};

/// An answer that waits.
pub(crate) struct HeldAnswer {
    pub answer: Box<dyn Answer>,
    pub deadline: Option<Timestamp>,
    pub since: Timestamp,
    /// The call, for messages; `None` for a built-in grain.
    pub call: Option<(&'static MethodInfo, Key)>,
}

/// The answers of one slot, in order. Those that were given up leave an empty place until their commit.
#[derive(Default)]
pub(crate) struct Answers {
    held: Held<u32>,
    places: Vec<Option<HeldAnswer>>,
    free: Vec<u32>,
}

impl Answers {
    /// Whether there is no room: calls are refused before they run.
    pub fn is_full(&self) -> bool {
        self.held.is_full()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds an answer for commit `n`, or gives it back when there is no room.
    pub fn hold(&mut self, n: CommitNo, called_out: bool, answer: HeldAnswer) -> Result<(), HeldAnswer> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("fewer answers are held than REPLIES_HELD_MAX")
        });
        match self.held.hold(n, called_out, place) {
            Ok(()) => {
                self.places[place as usize] = Some(answer);
                Ok(())
            }
            Err(place) => {
                self.free.push(place);
                Err(answer)
            }
        }
    }

    /// Commit `n` is stored: lets go of the answers that waited for it, in order.
    pub fn release(&mut self, n: CommitNo) {
        for place in self.held.release(n) {
            self.free.push(place);
            if let Some(held) = self.places[place as usize].take() {
                held.answer.send();
            }
        }
    }

    /// The slot's memory is dropped: the answers whose commit will not come, each with whether its call ran.
    pub fn dropped(&mut self, dropped: &Dropped) -> Vec<(HeldAnswer, Ran)> {
        let mut undone = Vec::new();
        for (place, ran) in self.held.dropped(dropped) {
            self.free.push(place);
            undone.extend(self.places[place as usize].take().map(|held| (held, ran)));
        }
        undone
    }

    /// Takes out the answers whose callers wait no longer than `now`.
    pub fn expired(&mut self, now: Timestamp) -> Vec<HeldAnswer> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let is_over = |held: &mut HeldAnswer| held.deadline.is_some_and(|deadline| now >= deadline);
        self.places.iter_mut().filter_map(|place| place.take_if(is_over)).collect()
    }
}
