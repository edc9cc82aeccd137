//! The records of one tail, on their way to a client that gives credit for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use granary_core::Result;
use granary_wire::{Failure, Frame, Record};
use tokio::sync::Notify;

use super::connection::Connection;
use crate::outgoing::{Unsent, lock};

/// Why a tail gets nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client asked for it.
    Asked,
    /// The silo shuts down, or the connection has ended: the stream goes on elsewhere.
    Leaving,
}

/// How much a client still takes.
pub(super) struct Credit {
    /// Below zero by less than one record: one is sent as long as it is above zero.
    bytes: AtomicI64,
    stopped: AtomicBool,
    /// It was stopped by this side.
    leaving: AtomicBool,
    changed: Notify,
}

impl Credit {
    pub(super) fn of(bytes: u64) -> Credit {
        let bytes = AtomicI64::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let (stopped, leaving) = (AtomicBool::new(false), AtomicBool::new(false));
        Credit { bytes, stopped, leaving, changed: Notify::new() }
    }

    pub(super) fn give(&self, bytes: u64) {
        let more = |have: i64| Some(have.saturating_add_unsigned(bytes));
        let updated = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        updated.expect("the update never declines");
        self.changed.notify_waiters();
    }

    pub(super) fn stop(&self, why: Stop) {
        self.leaving.fetch_or(why == Stop::Leaving, Ordering::AcqRel);
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn is_spent(&self) -> bool {
        self.bytes.load(Ordering::Acquire) <= 0
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// The client wants no more records, or has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Feeds the records of one tail. Dropped, it tells the client that the stream has ended.
pub struct Feed {
    connection: Arc<Connection>,
    id: u64,
    credit: Arc<Credit>,
    /// What the client is told at the end.
    end: Result<()>,
}

impl Feed {
    pub(super) fn new(connection: Arc<Connection>, id: u64, credit: Arc<Credit>) -> Feed {
        Feed { connection, id, credit, end: Ok(()) }
    }

    /// Sends a record, waiting for credit and for room.
    pub async fn send(&mut self, record: &Record<'_>) -> Result<(), Gone> {
        self.ready().await?;
        self.push(record)
    }

    /// Sends a record if there is credit for it: `false` when there is none.
    pub fn try_send(&mut self, record: &Record<'_>) -> Result<bool, Gone> {
        if self.credit.is_stopped() {
            return Err(Gone);
        }
        if self.credit.is_spent() {
            return Ok(false);
        }
        self.push(record).map(|()| true)
    }

    /// Waits until a record may be sent.
    pub async fn ready(&self) -> Result<(), Gone> {
        loop {
            let changed = self.credit.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.credit.is_stopped() {
                return Err(Gone);
            }
            if !self.credit.is_spent() {
                break;
            }
            changed.await;
        }
        self.connection.outgoing.room().await;
        Ok(())
    }

    /// Waits until the client wants no more or has gone.
    pub async fn gone(&self) {
        loop {
            let changed = self.credit.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.credit.is_stopped() {
                return;
            }
            changed.await;
        }
    }

    /// Ends the tail with this error.
    pub fn fail(mut self, error: granary_core::Error) {
        self.end = Err(error);
    }

    fn push(&mut self, record: &Record<'_>) -> Result<(), Gone> {
        match self.connection.outgoing.push(&Frame::Record { id: self.id, record: *record }) {
            Ok(()) => {
                let bytes = i64::try_from(record.credit_bytes()).unwrap_or(i64::MAX);
                self.credit.bytes.fetch_sub(bytes, Ordering::AcqRel);
                Ok(())
            }
            Err(Unsent::Closed) => Err(Gone),
            Err(Unsent::Frame(error)) => {
                // Leaving it out would be a gap the client cannot see.
                let place = format!("the record at partition {}, offset {}", record.partition, record.offset);
                self.end = Err(granary_core::Error::invalid(format!("{place} cannot be sent: {error}")));
                Err(Gone)
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        lock(&self.connection.tails).retain(|(id, _)| *id != self.id);
        if self.end.is_ok() && self.credit.leaving.load(Ordering::Acquire) {
            // Not the end of the stream: who reads on finds it at another silo, or here later.
            self.end = Err(super::connection::shutting_down());
        }
        let result = match &self.end {
            Ok(()) => Ok(&[][..]),
            Err(error) => Err(Failure::of(error)),
        };
        let end = Frame::Reply(granary_wire::Reply { id: self.id, result });
        drop(self.connection.outgoing.push(&end)); // a client that has gone knows
    }
}
