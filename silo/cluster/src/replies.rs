//! Replies held until the commit that holds all they changed or saw.
//!
//! Invariant: replies leave in the order of their turns, and none before its commit is stored.

use std::collections::VecDeque;

use granary_core::error::Ran;

use crate::commit::CommitNo;
use crate::slot::Dropped;

/// How many replies one slot holds at most, unless [`Held::bounded`] says otherwise; a full queue means `Overloaded`.
pub const REPLIES_HELD_MAX: usize = 16_384;

/// The replies of one slot that wait for a commit.
#[derive(Debug)]
pub struct Held<T> {
    queue: VecDeque<Waiting<T>>,
    max: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    n: CommitNo,
    called_out: bool,
    reply: T,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held::bounded(REPLIES_HELD_MAX)
    }
}

impl<T> Held<T> {
    /// Holds at most `max` replies.
    pub fn bounded(max: usize) -> Held<T> {
        Held { queue: VecDeque::new(), max }
    }

    /// Whether there is no room: calls are refused before they run.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.max
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits: the next commit need not hurry.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Holds a reply for commit `n`; it waits for every commit an earlier reply waits for, too. `called_out`: the turn
    /// called another slot, so if it is undone it has perhaps not been without effect. Gives the reply back when full.
    pub fn hold(&mut self, n: CommitNo, called_out: bool, reply: T) -> Result<(), T> {
        if self.is_full() {
            return Err(reply);
        }
        let n = self.queue.back().map_or(n, |last| last.n.max(n));
        self.queue.push_back(Waiting { n, called_out, reply });
        Ok(())
    }

    /// Commit `n` is stored: hands out, in order, the replies that may leave.
    pub fn release(&mut self, n: CommitNo) -> impl Iterator<Item = T> {
        let leaving = self.queue.partition_point(|waiting| waiting.n <= n);
        self.queue.drain(..leaving).map(|waiting| waiting.reply)
    }

    /// The slot's memory is dropped: hands out, in order, the replies whose commit will not come, each with whether its
    /// call ran. Replies for a commit whose outcome is awaited stay.
    pub fn dropped(&mut self, dropped: &Dropped) -> impl Iterator<Item = (T, Ran)> {
        let staying = match dropped.awaited {
            Some(n) => self.queue.partition_point(|waiting| waiting.n <= n),
            None => 0,
        };
        let unsure = dropped.unsure;
        self.queue.drain(staying..).map(move |waiting| {
            let unknown = waiting.called_out || unsure.is_some_and(|n| waiting.n <= n);
            (waiting.reply, if unknown { Ran::Unknown } else { Ran::No })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Why;

    fn drop_of(awaited: Option<u64>, unsure: Option<u64>) -> Dropped {
        Dropped { why: Why::Rollback, awaited: awaited.map(CommitNo), unsure: unsure.map(CommitNo) }
    }

    #[test]
    fn replies_leave_in_order_with_their_commit() {
        let mut held = Held::default();
        for (n, reply) in [(1, 'a'), (2, 'b'), (1, 'c'), (3, 'd')] {
            held.hold(CommitNo(n), false, reply).unwrap();
        }
        assert_eq!(held.release(CommitNo(1)).collect::<String>(), "a");
        assert_eq!(held.release(CommitNo(2)).collect::<String>(), "bc", "c was queued behind b");
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn a_rollback_keeps_what_is_on_its_way() {
        let mut held = Held::default();
        for (n, called_out, reply) in [(4, false, 'a'), (5, false, 'b'), (5, true, 'c')] {
            held.hold(CommitNo(n), called_out, reply).unwrap();
        }
        let answered: Vec<_> = held.dropped(&drop_of(Some(4), None)).collect();
        assert_eq!(answered, [('b', Ran::No), ('c', Ran::Unknown)]);
        assert_eq!(held.release(CommitNo(4)).collect::<String>(), "a");
    }

    #[test]
    fn a_drop_says_unknown_only_where_it_is() {
        let mut held = Held::default();
        for (n, reply) in [(4, 'a'), (5, 'b')] {
            held.hold(CommitNo(n), false, reply).unwrap();
        }
        let answered: Vec<_> = held.dropped(&drop_of(None, Some(4))).collect();
        assert_eq!(answered, [('a', Ran::Unknown), ('b', Ran::No)]);
        assert!(held.is_empty());
    }

    #[test]
    fn a_full_queue_gives_the_reply_back() {
        let mut held = Held::bounded(1);
        assert_eq!(held.hold(CommitNo(1), false, 'a'), Ok(()));
        assert_eq!(held.hold(CommitNo(1), false, 'b'), Err('b'));
    }
}
