//! The records of a stream as they come. The silo sends what it has credit for; reading gives it more.

use std::sync::Arc;

use granary_core::Result;
use granary_wire::{Frame, Start};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::link::Link;
use crate::outgoing::lock;
use crate::pending::Waiter;

/// How many bytes of records may be under way or unread, besides the last record sent.
pub const TAIL_CREDIT_BYTES: u64 = 1 << 20;

/// A record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its identity: copies have the same.
    pub id: Option<String>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Record {
    pub(crate) fn of(record: &granary_wire::Record<'_>) -> Record {
        Record {
            partition: record.partition,
            offset: record.offset,
            key: record.key.map(<[u8]>::to_vec),
            id: record.id.map(str::to_owned),
            value: record.value.to_vec(),
        }
    }

    fn credit_bytes(&self) -> u64 {
        let Record { partition, offset, key, id, value } = self;
        granary_wire::Record {
            partition: *partition,
            offset: *offset,
            key: key.as_deref(),
            id: id.as_deref(),
            value,
        }
        .credit_bytes()
    }
}

/// The records of a stream: [`Client::tail`]. It ends with its connection; who reads on begins a new one at the
/// offsets after the last records read.
pub struct Tail {
    link: Arc<Link>,
    id: u64,
    records: mpsc::UnboundedReceiver<Result<Record>>,
    read_bytes: u64,
    /// Keeps the connection open.
    _client: Client,
}

impl Tail {
    pub(crate) fn open(client: Client, link: Arc<Link>, stream: &str, start: Start) -> Result<Tail> {
        let (to, records) = mpsc::unbounded_channel(); // bounded by the credit
        let credit_bytes = TAIL_CREDIT_BYTES;
        let waiter = Waiter::Tail { records: to, credit_bytes: credit_bytes.cast_signed() };
        let id = lock(&link.pending).insert(waiter)?;
        let tail = Tail { link, id, records, read_bytes: 0, _client: client };
        tail.link.send(&Frame::Tail(granary_wire::Tail { id, stream, start, credit_bytes }))?;
        Ok(tail)
    }

    /// The next record, in order within its partition; `None` when the stream has ended. After an error there is no
    /// more.
    pub async fn next(&mut self) -> Option<Result<Record>> {
        let record = self.records.recv().await?;
        if let Ok(record) = &record {
            self.read_bytes += record.credit_bytes();
            self.give_credit();
        }
        Some(record)
    }

    fn give_credit(&mut self) {
        if self.read_bytes < TAIL_CREDIT_BYTES / 2 {
            return;
        }
        let bytes = std::mem::take(&mut self.read_bytes);
        lock(&self.link.pending).credit(self.id, bytes);
        // A connection that has ended says so through the records.
        drop(self.link.send(&Frame::Credit { id: self.id, bytes }));
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if lock(&self.link.pending).take(self.id).is_some() {
            drop(self.link.send(&Frame::Stop { id: self.id })); // an ended connection needs no stop
        }
    }
}
