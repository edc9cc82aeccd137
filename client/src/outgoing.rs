//! Frames on their way out: whoever has one appends it, one task writes all there are in one go.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use granary_wire::{Frame, encode};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Who has this much waiting to be written is asked for no more until it is less.
pub(crate) const WAITING_BYTES_MAX: usize = 4 << 20;

/// A peer that takes nothing for so long is given up.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Frames taken from one read before others get their turn: so what they answer leaves while the rest is still being
/// read, and the two ends of a busy connection work at the same time rather than wait for each other.
pub(crate) const PORTION_FRAMES: usize = 64;

/// Buffers that grew beyond this are given back.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Locks; a panic elsewhere does not make what is behind the lock wrong: every change of it is one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the tasks that are ready go first. Unlike `yield_now` it does not ask the system for news in between.
pub(crate) async fn others_first() {
    let mut is_second = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_second, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Why a frame could not be sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The connection has ended.
    Closed,
    /// It is no frame that may be sent.
    Frame(granary_wire::Error),
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    waiting: Mutex<Waiting>,
    filled: Notify,
    drained: Notify,
}

impl Outgoing {
    /// Appends a frame. Never waits: see [`Outgoing::room`].
    pub(crate) fn push(&self, frame: &Frame<'_>) -> Result<(), Unsent> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(Unsent::Closed);
        }
        let first = waiting.bytes.is_empty();
        encode(frame, &mut waiting.bytes).map_err(Unsent::Frame)?;
        drop(waiting);
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits until less than [`WAITING_BYTES_MAX`] wait to be written, or the connection has ended.
    pub(crate) async fn room(&self) {
        let full = || {
            let waiting = lock(&self.waiting);
            waiting.bytes.len() >= WAITING_BYTES_MAX && !waiting.closed
        };
        while full() {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if full() {
                drained.await;
            }
        }
    }

    /// No more frames; what waits is still written.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Whether no more frames are taken.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Writes what is pushed until closed and empty.
    pub(crate) async fn write_to(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut batch = Vec::new();
        loop {
            let closed = self.take(&mut batch);
            if !batch.is_empty() {
                write_all(to, &batch).await?;
                batch.clear();
                batch.shrink_to(BUFFER_BYTES_KEPT);
            } else if closed {
                return to.shutdown().await;
            } else {
                self.filled.notified().await;
                // Who else is ready to send goes first, so that one write takes the frames of all.
                others_first().await;
            }
        }
    }

    /// Exchanges the frames that wait for the empty `batch`; whether the connection is closed.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut waiting = lock(&self.waiting);
        std::mem::swap(&mut waiting.bytes, batch);
        let closed = waiting.closed;
        drop(waiting);
        if batch.len() >= WAITING_BYTES_MAX {
            self.drained.notify_waiters();
        }
        closed
    }
}

async fn write_all(to: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = tokio::time::timeout(WRITE_STALL_MAX, to.write(bytes)).await;
        let count =
            written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))??;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
    }
    Ok(())
}
