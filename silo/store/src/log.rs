//! The log's port: topics of records in partitions, batches of them in the engine.

use std::sync::Arc;

use granary_cluster::{Batch, Log, SourceId};
use granary_core::{Error, ErrorKind, Result};

use crate::block::{self, Block, Builder, Chunk, Entry};
use crate::disk::engine_error;
use crate::embedded::Embedded;
use crate::rows;
use crate::shared::Request;

/// Watches a topic until dropped.
pub struct Subscription {
    store: std::sync::Weak<Embedded>,
    topic: String,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.shared.topics.unwatch(&self.topic, self.number);
        }
    }
}

impl Embedded {
    /// Calls `wake` after each durable append to `topic` (also one created later), until the subscription is dropped.
    /// It is called on the store's writing thread: it must only wake somebody. It says that there may be news, not how
    /// much: a reader subscribes first, then reads to the end, then waits.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, topic: &str, wake: Box<dyn Fn() + Send + Sync>) -> Subscription {
        let number = self.shared.topics.watch(topic, Arc::from(wake));
        Subscription { store: Arc::downgrade(self), topic: topic.to_owned(), number }
    }

    /// Calls `each` with offset and record from offset `from` on until it returns false or the partition ends. Returns
    /// the next offset to read. Unlike [`Log::read`] it shows identity (header `granary-id`) and event time.
    pub fn read_with_ids(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        mut each: impl FnMut(u64, Entry<'_>) -> bool,
    ) -> Result<u64> {
        let (id, bounds) = self.shared.topics.bounds(topic, partition)?;
        if from < bounds.first {
            return Err(gone(topic, partition, from, bounds.first));
        }
        if from > bounds.next {
            return Err(beyond(topic, partition, from, bounds.next));
        }
        let mut next = from;
        let mut go_on = true;
        while go_on && next < bounds.next {
            let (block, mark) = match self.shared.topics.cached(id, partition, next) {
                Some(found) => found,
                None => (self.block(topic, id, partition, next)?, block::Mark::default()),
            };
            let mark = block.walk(mark, next, |offset, entry| {
                go_on = each(offset, entry);
                go_on
            })?;
            next = mark.offset;
            self.shared.topics.keep(id, partition, &block, mark);
        }
        Ok(next)
    }

    /// Reads and decompresses the batch that holds `offset`.
    fn block(&self, topic: &str, id: u32, partition: u32, offset: u64) -> Result<Arc<Block>> {
        let failed = |e: fjall::Error| engine_error("read its log", e);
        let log = &self.shared.engine.log;
        let exact = rows::batch_key(id, partition, offset);
        if let Some(value) = log.get(exact).map_err(failed)? {
            return Ok(Arc::new(Block::open(offset, &value)?));
        }
        let first = rows::batch_key(id, partition, 0);
        if let Some(item) = log.range(first..=exact).next_back() {
            let (key, value) = item.into_inner().map_err(failed)?;
            let block = Block::open(rows::batch_base(&key)?, &value)?;
            if block.end() > offset {
                return Ok(Arc::new(block));
            }
        }
        // Retention may have passed between the look at the bounds and the read.
        let (_, bounds) = self.shared.topics.bounds(topic, partition)?;
        if offset < bounds.first {
            return Err(gone(topic, partition, offset, bounds.first));
        }
        Err(rows::damaged("log batch"))
    }
}

/// The offset a reader wants lies before the first kept one.
pub(crate) fn gone(topic: &str, partition: u32, from: u64, first: u64) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "offset {from} of `{topic}` partition {partition} is gone: the first kept offset is {first}, retention \
             removed what was before"
        ),
    )
}

/// The offset a reader wants was never written.
pub(crate) fn beyond(topic: &str, partition: u32, from: u64, next: u64) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("offset {from} of `{topic}` partition {partition} was never written: the next one is {next}"),
    )
}

impl Log for Embedded {
    fn create(&self, topic: &str, partitions: u32) -> Result<()> {
        let topic = topic.to_owned();
        self.ask(|done| Request::Create { topic, partitions, done })
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.shared.topics.read().get(topic).map(|topic| topic.partitions.len() as u32))
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        let start = batch.bytes();
        self.read_with_ids(topic, partition, from, |offset, entry| {
            batch.push(offset, entry.appended_at, entry.key, entry.value);
            batch.bytes() - start < bytes_max
        })?;
        Ok(())
    }

    fn bounds(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        let (_, bounds) = self.shared.topics.bounds(topic, partition)?;
        Ok((bounds.first, bounds.next))
    }

    fn append(&self, topic: &str, partition: u32, records: &Batch) -> Result<u64> {
        let chunks = chunks(records);
        let topic = topic.to_owned();
        self.ask(|done| Request::Append { topic, partition, chunks, done })
    }
}

fn chunks(records: &Batch) -> Vec<Chunk> {
    let mut builder = Builder::new();
    let mut chunks = Vec::new();
    for record in records.iter(SourceId(0), 0) {
        builder.push(Entry {
            appended_at: record.appended_at,
            key: record.key,
            id: None,
            time: None,
            value: record.value,
        });
        if builder.is_full() {
            chunks.extend(builder.finish());
        }
    }
    chunks.extend(builder.finish());
    chunks
}
