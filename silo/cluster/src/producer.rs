//! What the engine asks of an external log's transactional producer: one for each lane, with [`Outlet::Log`].
//!
//! Its calls may block for long (a coordinator that moves, a broker that is away), so an adapter carries them out on a
//! thread of its own and answers there. Answers may come on any thread, each exactly once.
//!
//! [`Outlet::Log`]: crate::slot::Outlet::Log

use std::ops::Range;

use granary_core::{Result, SlotId};

use crate::commit::{Marker, Outbox, TxIds};
use crate::slot::Publication;

/// Takes the answer to one request.
pub type Answer<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is committed: its outputs and markers are visible to readers of committed records.
    Done,
    /// It was aborted before its end was tried: nothing of it is visible, the producer is as good as before.
    Aborted,
    /// The producer is fenced, or it is not known whether the transaction was committed: only `init` finds out.
    Lost,
}

/// The transactional producer of one lane. Requests are carried out in the order in which they are made.
pub trait Producer: Send {
    /// Finishes `init_transactions` under the lane's own id: aborts what was left open under it and fences whoever else
    /// uses it. The id is registered anew, durably and outside of the store, after that and before anything is published
    /// under it, so that `fence` with `everyone` finds it.
    fn init(&mut self, done: Answer<()>);

    /// Finishes `init_transactions` on each of these ids, or on every id that is registered in the cluster; then it may let
    /// go of the registrations it had read before. Ids of the lane's own silo are left alone: other lanes never hold this
    /// one's slots, and it has no open transaction itself when its requests are carried out in order.
    fn fence(&mut self, ids: TxIds, done: Answer<()>);

    /// The slot's marker by a stable read: one that waits until open transactions holding it have ended. `None` when
    /// there has never been one.
    fn marker(&mut self, slot: SlotId, done: Answer<Option<Marker>>);

    /// The same, of a slot that has no part in any request before this one: it need not wait for them.
    fn marker_at_once(&mut self, slot: SlotId, done: Answer<Option<Marker>>) {
        self.marker(slot, done);
    }

    /// The slot's inputs of the clock, published with a number in `numbers`, in order: values of its journal, whose keys are
    /// their numbers.
    fn journal(&mut self, slot: SlotId, numbers: Range<u64>, done: Answer<Vec<Vec<u8>>>);

    /// Publishes outputs of a slot at once and outside of transactions, in order after those of earlier requests of this
    /// kind; other requests do not hold them up. Done when the log has taken all of them: while it cannot, they are sent
    /// again, and may come twice.
    fn publish_at_once(&mut self, slot: SlotId, outputs: Outbox, done: Box<dyn FnOnce() + Send>);

    /// Publishes in one transaction: all outputs in order, then the markers, then the end.
    fn publish(&mut self, publications: Vec<(SlotId, Publication)>, done: Box<dyn FnOnce(Ended) + Send>);
}
