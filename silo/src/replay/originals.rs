//! The originals of set-aside rows: in their topics, or in the rows themselves.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_cluster::{Batch, Log, Record, SourceId};
use granary_core::{ErrorKind, Result};

use super::{Place, Row};

/// Bytes of a topic that are read in one go: rows near each other need one read.
const READ_BYTES: usize = 256 << 10;

/// Where a row's original is.
pub enum Original<'a> {
    /// In its topic.
    Kept(Record<'a>),
    /// Only in the row, without its key: that is the key of the row.
    OfRow(Vec<u8>),
    /// Nowhere any more.
    Gone,
}

/// Looks them up, best in the order of their places.
pub struct Originals<'l> {
    log: &'l dyn Log,
    partitions: BTreeMap<String, u32>,
    /// The topic and partition of `batch`.
    of: Option<(String, u32)>,
    batch: Batch,
}

impl<'l> Originals<'l> {
    pub fn new(log: &'l dyn Log) -> Originals<'l> {
        Originals { log, partitions: BTreeMap::new(), of: None, batch: Batch::default() }
    }

    pub fn find(&mut self, row: &Row) -> Result<Original<'_>> {
        let Place { topic, partition, offset } = &row.place;
        if *partition >= self.partitions(topic)? {
            return Ok(Original::Gone); // there is no way back to where it came from
        }
        let raw = row.raw.as_ref().and_then(|raw| STANDARD.decode(raw).ok());
        if self.at(*offset, topic, *partition).is_none() {
            self.read(&row.place)?;
        }
        Ok(match (self.at(*offset, topic, *partition), raw) {
            // A topic that was created anew has other records at the same offsets.
            (Some(record), Some(raw)) if record.value != raw => Original::OfRow(raw),
            (Some(record), _) => Original::Kept(record),
            (None, Some(raw)) => Original::OfRow(raw),
            (None, None) => Original::Gone,
        })
    }

    fn partitions(&mut self, topic: &str) -> Result<u32> {
        if let Some(partitions) = self.partitions.get(topic) {
            return Ok(*partitions);
        }
        let partitions = self.log.partitions(topic)?.unwrap_or(0);
        self.partitions.insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    /// The record, if it is among those read last.
    fn at(&self, offset: u64, topic: &str, partition: u32) -> Option<Record<'_>> {
        if self.of.as_ref().is_none_or(|(of, at)| (&**of, *at) != (topic, partition)) {
            return None;
        }
        let record = |i| self.batch.get(i, SourceId(0), partition);
        let (mut low, mut high) = (0, self.batch.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if record(middle).offset < offset { low = middle + 1 } else { high = middle }
        }
        (low < self.batch.len()).then(|| record(low)).filter(|record| record.offset == offset)
    }

    /// Reads from there on; nothing is found where retention has been.
    fn read(&mut self, place: &Place) -> Result<()> {
        let Place { topic, partition, offset } = place;
        self.batch.clear();
        self.of = Some((topic.clone(), *partition));
        let (first, end) = self.log.bounds(topic, *partition)?;
        if !(first..end).contains(offset) {
            return Ok(());
        }
        match self.log.read(topic, *partition, *offset, READ_BYTES, &mut self.batch) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()), // removed just now
            done => done,
        }
    }
}
