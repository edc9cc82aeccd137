//! A partition that is read a second time for rules that are new.
//!
//! What it hands out looks like a log of its own, in four rounds: a word to each slot that it begins, the records from where the
//! revision says to where the slots stood in the first reading, the same again, and a word to each slot that it is over. Offsets
//! are [`Mark`]s. *Why they are not those of the topic: positions never fall, and the next back-fill may begin further back.*
//!
//! Invariant: the words that it begins are applied before the end of the records is looked for. So a slot has taken the revision
//! over by then, and what it read before lies before that end.

use std::sync::Arc;

use granary_cluster::{Batch, SourceId};
use granary_core::{ErrorKind, Result, Timestamp};
use granary_engine::{OpenSource, Source};
use granary_streams::Plan;
use granary_streams::plan::{Mark, Round};

/// What is read a second time for a step of rules: one partition of it.
pub(crate) struct Again {
    plan: Arc<Plan>,
    /// The step, by its place among those that may read again.
    step: usize,
    partition: u32,
    /// The slots that the partition feeds.
    fed: Vec<u16>,
    first: Box<dyn Source>,
    /// Where the furthest of the slots stands in the first reading.
    stood: u64,
    /// Up to where records are read again, and for which back-fill.
    end: Option<(u64, u64)>,
    /// What was asked for last.
    asked: u64,
    waits_for_records: bool,
}

impl Again {
    /// Opens partitions of a step's topic, which feed these many slots in place.
    pub fn opener(plan: Arc<Plan>, step: usize, open: OpenSource, partitions: u32, slots: u16) -> OpenSource {
        Arc::new(move |partition| {
            Ok(Box::new(Again {
                plan: plan.clone(),
                step,
                partition,
                fed: (0..slots).filter(|slot| u32::from(*slot) % partitions == partition).collect(),
                first: open(partition)?,
                stood: 0,
                end: None,
                asked: 0,
                waits_for_records: false,
            }))
        })
    }

    /// The newest back-fill of the step, and where it begins in this partition.
    fn fill(&self) -> Option<(u64, u64)> {
        let (number, from) = self.plan.fill_of(self.plan.again().nth(self.step)?)?;
        Some((number, *from.get(self.partition as usize)?))
    }

    /// Appends the words of a round, from this slot on; false when there are none left.
    fn words(&self, mark: Mark, value: u64, batch: &mut Batch) -> bool {
        for slot in self.fed.iter().map(|slot| u64::from(*slot)).filter(|slot| *slot >= mark.at) {
            batch.push(Mark { at: slot, ..mark }.offset(), Timestamp(0), None, &value.to_be_bytes());
        }
        !batch.is_empty()
    }

    /// Appends the records of a round, or waits for them; false when there are none left.
    fn records(&mut self, mark: Mark, end: u64, bytes_max: usize, batch: &mut Batch) -> Result<bool> {
        if mark.at >= end {
            return Ok(false);
        }
        let mut read = Batch::default();
        match self.first.read(mark.at, bytes_max, &mut read) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::error!(%error, partition = self.partition, "what new rules look back on cannot be read again: they \
                    warn that they have not seen all of it until they have");
                self.end = Some((mark.number, 0));
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        for record in read.iter(SourceId(0), self.partition).filter(|record| record.offset < end) {
            let at = record.offset.max(mark.at); // the log hands out whole batches
            if record.offset == at {
                batch.push(Mark { at, ..mark }.offset(), record.appended_at, record.key, record.value);
            }
        }
        self.waits_for_records = read.is_empty() && !self.first.is_at_end();
        Ok(self.waits_for_records || !batch.is_empty())
    }

    fn end(&mut self, number: u64) -> u64 {
        match self.end {
            Some((of, end)) if of == number => end,
            _ => {
                self.end = Some((number, self.stood));
                self.stood
            }
        }
    }
}

impl Source for Again {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.waits_for_records = false;
        let Some((number, begin)) = self.fill() else { return Ok(()) };
        let mut mark = Mark::of(from);
        if mark.number > number {
            return Ok(()); // this silo has not heard of it yet
        }
        if mark.number < number {
            mark = Mark { number, round: Round::Begin, at: 0 };
        }
        if std::mem::replace(&mut self.asked, from) > from
            && let Some((of, end)) = self.end
        {
            self.end = Some((of, end.max(self.stood))); // it goes back for another slot, which may stand further
        }
        loop {
            let (is_there, next) = match mark.round {
                Round::Begin => (self.words(mark, 0, batch), Round::Remember),
                Round::Remember | Round::Settle => {
                    let end = self.end(number);
                    mark.at = mark.at.max(begin);
                    let is_last = mark.round == Round::Settle;
                    let next = if is_last { Round::End } else { Round::Settle };
                    (self.records(mark, end, bytes_max, batch)?, next)
                }
                Round::End => {
                    let end = self.end(number);
                    if !self.words(mark, end, batch) {
                        self.first.rest();
                    }
                    return Ok(());
                }
            };
            if is_there {
                return Ok(());
            }
            mark = Mark { number, round: next, at: 0 };
        }
    }

    fn is_at_end(&self) -> bool {
        !self.waits_for_records
    }

    fn stands(&mut self, at: u64) {
        self.stood = at;
    }

    fn rest(&mut self) {
        self.first.rest();
    }
}
