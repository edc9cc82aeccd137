//! The answer to one request, from whichever thread has it.

use std::sync::Arc;

use granary_core::{Error, ErrorKind, Ran, Result};
use granary_wire::{Failure, Frame};
use tokio::sync::oneshot;

use super::connection::Connection;
use crate::outgoing::Unsent;
use crate::pending::NOBODY;

/// Answers one request, once. Dropped unanswered, it answers `Closed`, whether it ran unknown.
pub struct Reply {
    connection: Arc<Connection>,
    /// `None` when nobody waits: a one-way call, or answered.
    id: Option<u64>,
}

impl Reply {
    pub(super) fn new(connection: Arc<Connection>, id: Option<u64>) -> Reply {
        Reply { connection, id }
    }

    /// Answers. A peer that has gone misses it. Who sent a one-way call hears one thing only: that it went to the wrong
    /// silo, so that the next one does not.
    pub fn send(mut self, result: Result<Vec<u8>>) {
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Moved) {
            self.id.get_or_insert(NOBODY);
        }
        self.answer(result.as_deref().map_err(Failure::of));
    }

    /// Whether somebody waits for the answer.
    pub fn is_awaited(&self) -> bool {
        self.id.is_some() && !self.connection.outgoing.is_closed()
    }

    /// Answers with what comes through a channel. When the caller cancels the call or its connection ends, the channel
    /// is closed from this side: whoever would send can see that nobody waits (`Sender::is_closed`, `closed`).
    pub fn follow(self, answer: oneshot::Receiver<Result<Vec<u8>>>) {
        let connection = self.connection.clone();
        connection.following.add(self, answer); // of a one-way call, too: it counts as in flight until it has begun
    }

    /// Whether it is the answer to this request.
    pub(super) fn is_for(&self, id: u64) -> bool {
        self.id == Some(id)
    }

    /// Answers nothing: nobody waits.
    pub(super) fn forget(mut self) {
        self.id = None;
    }

    fn answer(&mut self, result: Result<&[u8], Failure<'_>>) {
        let Some(id) = self.id.take() else { return };
        let answer_bytes = result.as_ref().map_or(0, |answer| answer.len());
        let reply = Frame::Reply(granary_wire::Reply { id, result });
        if let Err(Unsent::Frame(error)) = self.connection.outgoing.push(&reply) {
            let message = format!("the answer of {answer_bytes} bytes cannot be sent: {error}");
            let error = Error::invalid(message).ran(Ran::Yes);
            let reply = granary_wire::Reply { id, result: Err(Failure::of(&error)) };
            drop(self.connection.outgoing.push(&Frame::Reply(reply)));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.id.is_some() {
            let error = Error::new(ErrorKind::Closed, "the call was dropped without an answer");
            self.answer(Err(Failure::of(&error.ran(Ran::Unknown))));
        }
        self.connection.in_flight.leave();
    }
}
