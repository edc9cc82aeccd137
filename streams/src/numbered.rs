//! A pipeline whose sources and streams have other numbers in the cluster than in the plan: what was there before keeps its
//! number for ever, while a plan numbers from the top.

use std::sync::Arc;

use granary_cluster::{
    Applied, Cause, Cells, CommitNo, Effects, Failure, Foreseen, Pipeline, Record, SourceId, StreamId,
};
use granary_core::{GrainId, Result, SlotId, Timestamp};

/// The numbers of a plan's sources and streams in the cluster, by their places in the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of each source.
    pub sources: Vec<SourceId>,
    /// Of each stream.
    pub streams: Vec<StreamId>,
}

impl Numbers {
    /// Whether they are the places themselves.
    pub fn are_places(&self) -> bool {
        let sources = self.sources.iter().map(|source| source.0);
        let streams = self.streams.iter().map(|stream| stream.0);
        sources.zip(0..).all(|(number, place)| number == place)
            && streams.zip(0..).all(|(number, place)| number == place)
    }

    /// The number of the stream at a place.
    pub fn stream(&self, place: StreamId) -> StreamId {
        self.streams.get(usize::from(place.0)).copied().unwrap_or(place)
    }
}

/// A pipeline by the numbers of the cluster.
pub struct Numbered {
    inner: Box<dyn Pipeline>,
    numbers: Arc<Numbers>,
    /// The place of each source, by its number.
    places: Vec<SourceId>,
    /// The names of the streams, by their numbers.
    streams: Vec<String>,
}

impl Numbered {
    /// This pipeline, whose places have these numbers.
    pub fn new(inner: Box<dyn Pipeline>, numbers: Arc<Numbers>) -> Numbered {
        let end =
            |numbers: &mut dyn Iterator<Item = u16>| numbers.max().map_or(0, |last| usize::from(last) + 1);
        let mut places = vec![SourceId(u16::MAX); end(&mut numbers.sources.iter().map(|s| s.0))];
        for (place, number) in (0..).zip(&numbers.sources) {
            places[usize::from(number.0)] = SourceId(place);
        }
        let mut streams = vec![String::new(); end(&mut numbers.streams.iter().map(|s| s.0))];
        for (name, number) in inner.streams().iter().zip(&numbers.streams) {
            streams[usize::from(number.0)].clone_from(name);
        }
        Numbered { inner, numbers, places, streams }
    }

    fn to_plan<'r>(&self, record: &Record<'r>) -> Record<'r> {
        Record { source: self.places[usize::from(record.source.0)], ..*record }
    }

    /// Has `inner` decide something, and numbers the outputs. Causes name the plan's source where `inner` was handed a record.
    fn decide<R>(
        &mut self,
        has_record: bool,
        effects: &mut Effects,
        decide: impl FnOnce(&mut dyn Pipeline, &mut Effects) -> R,
    ) -> R {
        let from = effects.outbox.len();
        let decided = decide(&mut *self.inner, effects);
        effects.outbox.renumber(from, |stream, cause| {
            *stream = self.numbers.stream(*stream);
            if has_record && let Some(number) = self.numbers.sources.get(usize::from(cause.source.0)) {
                cause.source = *number;
            }
        });
        decided
    }
}

impl Pipeline for Numbered {
    fn fed_by(&mut self, source: SourceId, partitions: u32, in_place: bool) {
        // a source of another revision has no place here
        if let Some(place) = self.places.get(usize::from(source.0)).filter(|place| place.0 != u16::MAX) {
            self.inner.fed_by(*place, partitions, in_place);
        }
    }

    fn route(&mut self, record: &Record<'_>) -> SlotId {
        let record = self.to_plan(record);
        self.inner.route(&record)
    }

    fn route_at(&mut self, place: usize, record: &Record<'_>) -> SlotId {
        let record = self.to_plan(record);
        self.inner.route_at(place, &record)
    }

    fn recall(&mut self, place: usize, record: &Record<'_>) {
        let record = self.to_plan(record);
        self.inner.recall(place, &record);
    }

    fn look_ahead(&self, next: &[(SlotId, usize, Record<'_>)]) {
        let next: Vec<_> =
            next.iter().map(|(slot, place, record)| (*slot, *place, self.to_plan(record))).collect();
        self.inner.look_ahead(&next);
    }

    fn routed_key(&self, record: &Record<'_>) -> Vec<u8> {
        self.inner.routed_key(&self.to_plan(record))
    }

    fn apply(
        &mut self,
        slot: SlotId,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let record = self.to_plan(record);
        self.decide(true, effects, |inner, effects| inner.apply(slot, &record, effects))
    }

    fn stands(&mut self, slot: SlotId, at: u64) {
        self.inner.stands(slot, at);
    }

    fn foresee(&mut self, place: usize, slot: SlotId, record: &Record<'_>, foreseen: &mut Foreseen) {
        let record = self.to_plan(record);
        self.inner.foresee(place, slot, &record, foreseen);
    }

    fn tells_grains(&self) -> bool {
        self.inner.tells_grains()
    }

    fn supply(&mut self, slot: SlotId, cell: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.inner.supply(slot, cell, value)
    }

    fn poison(&mut self, slot: SlotId, record: &Record<'_>, reason: &str, effects: &mut Effects) {
        let record = self.to_plan(record);
        self.decide(true, effects, |inner, effects| inner.poison(slot, &record, reason, effects));
    }

    fn tick(
        &mut self,
        slot: SlotId,
        now: Timestamp,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        self.decide(false, effects, |inner, effects| inner.tick(slot, now, cause, effects))
    }

    fn end(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        self.decide(false, effects, |inner, effects| inner.end(slot, cause, effects))
    }

    fn go_on(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        self.decide(false, effects, |inner, effects| inner.go_on(slot, cause, effects))
    }

    fn replay(
        &mut self,
        slot: SlotId,
        input: &[u8],
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        self.decide(false, effects, |inner, effects| inner.replay(slot, input, cause, effects))
    }

    fn open_cells(&self, slot: SlotId) -> usize {
        self.inner.open_cells(slot)
    }

    fn seal(&mut self, slot: SlotId, n: CommitNo, cells: &mut Cells) {
        self.inner.seal(slot, n, cells);
    }

    fn acknowledged(&mut self, slot: SlotId, n: CommitNo) {
        self.inner.acknowledged(slot, n);
    }

    fn close(&mut self, slot: SlotId) {
        self.inner.close(slot);
    }

    fn ask(
        &mut self,
        slot: SlotId,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
        missing: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        self.inner.ask(slot, grain, method, arguments, missing)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }

    fn evict(&mut self, target_bytes: usize) {
        self.inner.evict(target_bytes);
    }

    fn streams(&self) -> &[String] {
        &self.streams
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slots;

    const PIPELINE: &str = "
pipeline: p
sources:
  a: {topic: a, decode: {format: json, fields: {k: {type: text}, at: {type: time_ms}}}, key: k, event_time: at, watermark: {per: key, out_of_orderness: 1s}}
  b: {topic: b, decode: {format: json, fields: {k: {type: text}, at: {type: time_ms}}}, key: k, event_time: at, watermark: {per: key, out_of_orderness: 1s}}
sinks:
  first: {from: a, topic: t1}
  second: {from: b, topic: t2}
";

    #[test]
    fn records_come_and_outputs_leave_by_the_numbers_of_the_cluster() {
        let plan = Arc::new(crate::file::parse(PIPELINE).unwrap_or_else(|mistakes| panic!("{mistakes}")));
        // sources a, b and their strays; streams first, second, rejected, late, poisoned
        let numbers = Numbers {
            sources: [4, 1, 5, 3].map(SourceId).to_vec(),
            streams: [7, 0, 2, 3, 9].map(StreamId).to_vec(),
        };
        assert!(!numbers.are_places() && Numbers::default().are_places());
        let mut pipeline = Numbered::new(Box::new(Slots::new(plan, 4)), Arc::new(numbers));
        let mut effects = Effects::default();
        let cause = Cause { source: SourceId(60), partition: 0, offset: 0, index: 0 };
        effects.outbox.push(StreamId(1), cause, Timestamp(0), b"", |_| {}, |_| {}); // from before: untouched
        let mut apply = |source: u16, value: &[u8]| {
            let record = Record {
                source: SourceId(source),
                partition: 2,
                offset: 5,
                appended_at: Timestamp(0),
                key: None,
                value,
            };
            let slot = pipeline.route(&record);
            assert_eq!(pipeline.apply(slot, &record, &mut effects), Ok(Applied::Done));
        };
        apply(4, br#"{"k":"x","at":1}"#);
        apply(1, br#"{"k":"x","at":1}"#);
        apply(3, br#"{"k":"x","at":1}"#); // a stray of b
        apply(1, b"no json");
        let outputs: Vec<(u16, u16)> =
            effects.outbox.entries().iter().map(|entry| (entry.stream.0, entry.cause.source.0)).collect();
        assert_eq!(outputs, [(1, 60), (7, 4), (0, 1), (0, 3), (2, 1)]);
        assert_eq!(pipeline.stream("late"), Some(StreamId(3)));
        assert_eq!(pipeline.stream("first"), Some(StreamId(7)));
    }
}
