//! Records that were set aside, again: the originals are appended to the topics they came from, each with its key and in
//! its partition, so that they are processed anew.
//!
//! What was set aside before the beginning is replayed and nothing else: a record that is set aside once more does not
//! come round in a ring. Nothing is remembered from one replay to the next: the report says where to go on.

mod originals;

use std::collections::BTreeMap;

use granary_cluster::{Batch, Log, SourceId};
use granary_core::{Clock, Error, ErrorKind, Result, Timestamp};
use serde::Deserialize;

use crate::clock::SystemClock;
use originals::{Original, Originals};

/// Bytes of rows that are read, and whose originals are written, in one go.
const READ_BYTES: usize = 1 << 20;

/// What to replay.
#[derive(Clone, Debug)]
pub struct Options {
    /// The topic of the set-aside stream.
    pub topic: String,
    /// Only rows with this reason.
    pub reason: Option<String>,
    /// Only rows that were set aside then or later.
    pub since: Option<Timestamp>,
    /// By partition, the offset of the last row that is not wanted any more.
    pub after: BTreeMap<u32, u64>,
    /// At most so many.
    pub most: u64,
    /// Only finds out what there is to do.
    pub is_dry_run: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Originals that were appended again, or would have been.
    pub replayed: u64,
    /// How many of them the topic did not have any more: their rows had them.
    pub of_rows: u64,
    /// Originals that are nowhere any more.
    pub gone: u64,
    /// Rows of another reason or time, and those that are no records: rows of windows that a further step could not take.
    pub passed_over: u64,
    /// By partition, the offset of the last row that was looked at.
    pub after: BTreeMap<u32, u64>,
}

/// Where a record was first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
}

/// What a set-aside row says about its original.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(flatten)]
    place: Place,
    reason: Option<String>,
    raw: Option<String>,
    /// The key of the row's record.
    #[serde(skip)]
    key: Vec<u8>,
}

/// A line of a set-aside stream.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Record(Row),
    /// A row of a window that a step could not take: no topic has an original of it.
    OfStep {
        #[serde(rename = "step")]
        _step: String,
    },
}

/// Replays; `report` says how far it came, after an error too, and `gone` is told each record that is nowhere any more.
pub fn replay(
    log: &dyn Log,
    options: &Options,
    report: &mut Report,
    gone: &mut dyn FnMut(&Place),
) -> Result<()> {
    let Some(partitions) = log.partitions(&options.topic)? else {
        let message = format!("there is no topic `{}`: no silo has run that sets aside there", options.topic);
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    report.after.clone_from(&options.after);
    let ends: Vec<(u64, u64)> =
        (0..partitions).map(|partition| log.bounds(&options.topic, partition)).collect::<Result<_>>()?;
    let mut replaying =
        Replaying { log, options, report, gone, originals: Originals::new(log), clock: SystemClock::start() };
    for (partition, (first, end)) in (0..).zip(ends) {
        replaying.partition(partition, first, end)?;
    }
    Ok(())
}

struct Replaying<'a> {
    log: &'a dyn Log,
    options: &'a Options,
    report: &'a mut Report,
    gone: &'a mut dyn FnMut(&Place),
    originals: Originals<'a>,
    clock: SystemClock,
}

impl Replaying<'_> {
    /// The rows of a partition, from the first kept one to those before `end`.
    fn partition(&mut self, partition: u32, first: u64, end: u64) -> Result<()> {
        let mut from = self.options.after.get(&partition).map_or(first, |after| (after + 1).max(first));
        let mut batch = Batch::default();
        while from < end && self.left() > 0 {
            batch.clear();
            self.log.read(&self.options.topic, partition, from, READ_BYTES, &mut batch)?;
            let before = from;
            let mut rows = Vec::new();
            for record in batch.iter(SourceId(0), partition).take_while(|record| record.offset < end) {
                if rows.len() as u64 == self.left() {
                    break;
                }
                from = record.offset + 1;
                let line: Line = serde_json::from_slice(record.value).map_err(|e| {
                    let Options { topic, .. } = self.options;
                    let message =
                        format!("offset {} of topic `{topic}` partition {partition}", record.offset);
                    Error::new(ErrorKind::Codec, format!("{message} is no row of a set-aside stream: {e}"))
                })?;
                let Line::Record(mut row) = line else {
                    self.report.passed_over += 1;
                    continue;
                };
                if self.options.since.is_some_and(|since| record.appended_at < since)
                    || self.options.reason.is_some() && self.options.reason != row.reason
                {
                    self.report.passed_over += 1;
                    continue;
                }
                row.key.extend_from_slice(record.key.unwrap_or_default());
                rows.push(row);
            }
            if from == before {
                return Ok(()); // what is left up to the end are no records
            }
            self.rows(rows)?;
            self.report.after.insert(partition, from - 1);
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.options.most.saturating_sub(self.report.replayed + self.report.gone)
    }

    /// The originals of these rows, in the order they had.
    fn rows(&mut self, mut rows: Vec<Row>) -> Result<()> {
        rows.sort_by(|a, b| a.place.cmp(&b.place));
        let mut batches: BTreeMap<(&str, u32), Batch> = BTreeMap::new();
        let (mut replayed, mut of_rows, mut gone) = (0, 0, Vec::new());
        for row in &rows {
            let Place { topic, partition, .. } = &row.place;
            let mut append = |key: Option<&[u8]>, value: &[u8]| {
                let batch = batches.entry((topic, *partition)).or_default();
                batch.push(0, self.clock.now(), key, value);
                replayed += 1;
            };
            match self.originals.find(row)? {
                Original::Kept(record) => append(record.key, record.value),
                Original::OfRow(raw) => {
                    append(Some(&*row.key).filter(|key| !key.is_empty()), &raw);
                    of_rows += 1;
                }
                Original::Gone => gone.push(&row.place),
            }
        }
        if !self.options.is_dry_run {
            for ((topic, partition), batch) in &batches {
                self.log.append(topic, *partition, batch)?;
            }
        }
        self.report.replayed += replayed;
        self.report.of_rows += of_rows;
        self.report.gone += gone.len() as u64;
        gone.iter().for_each(|place| (self.gone)(place));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
