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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use granary_core::Error;
    use granary_streams::plan::{Bundle, Fill};

    use super::*;

    const PIPELINE: &str = "pipeline: cards
sources:
  payments:
    topic: payments
    decode: {format: json, fields: {id: {type: text}, card: {type: text}, ts: {type: time_ms}}}
    id: id
    key: card
    event_time: ts
    watermark: {per: key, out_of_orderness: 60s}
steps:
  cards: {from: payments, rules: rules.yaml}
";
    const RULES: &str = "schema: fraud-rules/v1
stream: payments
event: {id: id, time: ts, fields: {card: text}}
rules:
  - {id: many, kind: velocity, per: card, window: 1h, measure: count, limit: '> 3'}
";

    /// A topic of so many records, some at a time; those before the first are gone.
    struct Topic {
        first: u64,
        end: u64,
    }

    impl Source for Topic {
        fn read(&mut self, from: u64, _: usize, batch: &mut Batch) -> Result<()> {
            if from < self.first {
                return Err(Error::new(ErrorKind::NotFound, "retention removed it"));
            }
            for offset in from..self.end.min(from + 3) {
                batch.push(offset, Timestamp(offset as i64), None, b"a record");
            }
            Ok(())
        }
    }

    /// Partition 1 of 2, that feeds the slots 1 and 3 of 4, in a topic with these records.
    fn again(first: u64, end: u64) -> (Box<dyn Source>, Arc<Plan>) {
        let plan = granary_streams::file::parse_beside(PIPELINE, &|_| Ok(RULES.to_owned()));
        let plan = Arc::new(plan.unwrap_or_else(|mistakes| panic!("{mistakes}")));
        let open: OpenSource = Arc::new(move |_| Ok(Box::new(Topic { first, end })));
        (Again::opener(plan.clone(), 0, open, 2, 4)(1).unwrap(), plan)
    }

    fn announce(plan: &Plan, number: u64, from: u64) {
        let from = BTreeMap::from([("cards".to_owned(), vec![0, from])]);
        let fill = Fill { number, from, ..Fill::default() };
        let bundle = Bundle { text: RULES.to_owned(), fill: Some(fill), ..Bundle::default() };
        plan.announce(&plan.revise("payments", number, &bundle).unwrap());
    }

    /// Reads on from a place until nothing comes any more, while the slots go on.
    fn read_on(source: &mut dyn Source, mut at: u64, stood: &mut u64) -> Vec<Mark> {
        let mut marks = Vec::new();
        loop {
            let mut batch = Batch::default();
            source.stands(*stood);
            source.read(at, 1_000, &mut batch).unwrap();
            if batch.is_empty() {
                assert!(source.is_at_end());
                return marks;
            }
            for record in batch.iter(SourceId(0), 1) {
                let mark = Mark::of(record.offset);
                if mark.round == Round::End {
                    assert_eq!(record.value, 12u64.to_be_bytes(), "where it ended");
                }
                at = record.offset + 1;
                marks.push(mark);
            }
            *stood += 1;
        }
    }

    fn marks(number: u64, from: u64, end: u64) -> Vec<Mark> {
        let of = |round, places: Vec<u64>| places.into_iter().map(move |at| Mark { number, round, at });
        let records = |round| of(round, (from..end).collect());
        let words = |round| of(round, vec![1, 3]);
        let begins = words(Round::Begin).chain(records(Round::Remember));
        begins.chain(records(Round::Settle)).chain(words(Round::End)).collect()
    }

    #[test]
    fn it_ends_where_the_slots_stood_when_all_had_begun() {
        let (mut source, plan) = again(0, 100);
        assert_eq!(read_on(&mut *source, 0, &mut 10), [], "nothing is to be read again");
        announce(&plan, 2, 5);
        let mut stood = 11; // 12 when the words were taken
        let all = marks(2, 5, 12);
        assert_eq!(read_on(&mut *source, 0, &mut stood), all);
        let last = all[all.len() - 1].offset() + 1;
        assert_eq!(read_on(&mut *source, last, &mut stood), [], "it is over");
        // Another silo goes on in the middle, and ends where its slots stand.
        let middle = all[4].offset();
        let (mut other, plan) = again(0, 100);
        announce(&plan, 2, 5);
        assert_eq!(read_on(&mut *other, middle, &mut 12), all[4..]);
        // The next one begins further back, and yet behind it.
        announce(&plan, 3, 1);
        assert_eq!(read_on(&mut *other, last, &mut 11), marks(3, 1, 12));
    }

    #[test]
    fn what_retention_has_removed_ends_it_without_success() {
        let (mut source, plan) = again(50, 100);
        announce(&plan, 1, 5);
        let mut batch = Batch::default();
        let words: Vec<u64> = [1, 3].map(|at| Mark { number: 1, round: Round::Begin, at }.offset()).to_vec();
        source.stands(80);
        source.read(0, 1_000, &mut batch).unwrap();
        assert_eq!(batch.iter(SourceId(0), 1).map(|record| record.offset).collect::<Vec<_>>(), words);
        batch.clear();
        source.read(words[1] + 1, 1_000, &mut batch).unwrap();
        let ends: Vec<(Round, &[u8])> =
            batch.iter(SourceId(0), 1).map(|record| (Mark::of(record.offset).round, record.value)).collect();
        assert_eq!(ends, [(Round::End, &[0u8; 8][..]); 2], "nothing was read: the rules are not filled");
    }
}
