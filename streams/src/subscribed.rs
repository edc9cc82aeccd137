//! Streams that grains listen to: each record is a turn of the grain with its key, part of the slot's next commit.

use std::sync::Arc;

use granary_cluster::{
    Applied, Cause, Cells, CommitNo, Effects, Failure, Foreseen, Pipeline, Record, SourceId, StreamId,
};
use granary_core::{Error, ErrorKind, GrainId, Key, KindInfo, Ran, Result, SlotId, Timestamp, codec, id};
use serde::Serialize;

/// Who listens to what.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions(Arc<Vec<(String, Vec<Listener>)>>);

#[derive(Clone, Debug)]
struct Listener {
    kind: &'static str,
    method: &'static str,
}

impl Subscriptions {
    /// Of these kinds, by topic.
    pub fn of(kinds: &[&'static KindInfo]) -> Subscriptions {
        let mut topics: Vec<(String, Vec<Listener>)> = Vec::new();
        for kind in kinds {
            for subscription in &kind.subscriptions {
                let listener = Listener { kind: kind.name, method: subscription.method };
                match topics.iter_mut().find(|(topic, _)| topic == subscription.stream) {
                    Some((_, listeners)) => listeners.push(listener),
                    None => topics.push((subscription.stream.to_string(), vec![listener])),
                }
            }
        }
        Subscriptions(Arc::new(topics))
    }

    /// The topics, in the order of their sources.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(topic, _)| topic.as_str())
    }
}

/// A record that made a handler fail three times, as a row.
#[derive(Serialize)]
struct PoisonedRow<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    message: &'a str,
    raw: String,
}

/// A plan's pipeline, if there is one, and the subscriptions behind its sources.
pub struct Subscribed {
    inner: Option<Box<dyn Pipeline>>,
    /// The first source that is a subscription.
    first: u16,
    subscriptions: Subscriptions,
    slots: u16,
    poisoned: StreamId,
}

impl Subscribed {
    /// Sources from `first` on are the topics of `subscriptions`.
    pub fn new(
        inner: Option<Box<dyn Pipeline>>,
        first: u16,
        subscriptions: Subscriptions,
        slots: u16,
        poisoned: StreamId,
    ) -> Subscribed {
        Subscribed { inner, first, subscriptions, slots, poisoned }
    }

    fn topic(&self, source: SourceId) -> Option<&(String, Vec<Listener>)> {
        source.0.checked_sub(self.first).and_then(|i| self.subscriptions.0.get(usize::from(i)))
    }

    fn planned(&mut self, what: &str) -> &mut dyn Pipeline {
        self.inner.as_deref_mut().unwrap_or_else(|| panic!("{what} without a plan"))
    }
}

/// The argument of a listening method: JSON becomes MessagePack, anything else is taken to be MessagePack already.
fn argument(value: &[u8]) -> Vec<u8> {
    let json: Option<serde_json::Value> = serde_json::from_slice(value).ok();
    json.and_then(|json| codec::to_bytes(&json).ok()).unwrap_or_else(|| value.to_vec())
}

impl Pipeline for Subscribed {
    fn fed_by(&mut self, source: SourceId, partitions: u32, in_place: bool) {
        let is_planned = self.topic(source).is_none();
        if let Some(inner) = self.inner.as_deref_mut().filter(|_| is_planned) {
            inner.fed_by(source, partitions, in_place);
        }
    }

    fn route(&mut self, record: &Record<'_>) -> SlotId {
        if self.topic(record.source).is_none() {
            return self.planned("a record").route(record);
        }
        id::slot_of(record.key.unwrap_or_default(), self.slots)
    }

    fn route_at(&mut self, place: usize, record: &Record<'_>) -> SlotId {
        if self.topic(record.source).is_none() {
            return self.planned("a record").route_at(place, record);
        }
        self.route(record)
    }

    fn recall(&mut self, place: usize, record: &Record<'_>) {
        if self.topic(record.source).is_none() {
            self.planned("a record").recall(place, record);
        }
    }

    fn look_ahead(&self, next: &[(SlotId, usize, Record<'_>)]) {
        if let (Some(inner), Some((_, _, record))) = (&self.inner, next.first())
            && self.topic(record.source).is_none()
        {
            inner.look_ahead(next);
        }
    }

    fn routed_key(&self, record: &Record<'_>) -> Vec<u8> {
        match &self.inner {
            Some(inner) if self.topic(record.source).is_none() => inner.routed_key(record),
            _ => record.key.unwrap_or_default().to_vec(),
        }
    }

    fn apply(
        &mut self,
        slot: SlotId,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let Some((topic, listeners)) = self.topic(record.source) else {
            return self.planned("a record").apply(slot, record, effects);
        };
        let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).ok_or_else(|| Failure {
            message: format!("{topic}: the record has no key that is text, so no grain can take it"),
        })?;
        for Listener { kind, method } in listeners {
            let grain = GrainId::new(kind, Key::from(key));
            effects.tells.push((grain, (*method).into(), argument(record.value)));
        }
        Ok(Applied::Done)
    }

    fn stands(&mut self, slot: SlotId, at: u64) {
        if let Some(inner) = &mut self.inner {
            inner.stands(slot, at);
        }
    }

    fn foresee(&mut self, place: usize, slot: SlotId, record: &Record<'_>, foreseen: &mut Foreseen) {
        let Some((_, listeners)) = self.topic(record.source) else {
            return self.planned("a record").foresee(place, slot, record, foreseen);
        };
        let Some(key) = record.key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
        foreseen.grains.extend(listeners.iter().map(|l| (slot, GrainId::new(l.kind, Key::from(key)))));
    }

    fn tells_grains(&self) -> bool {
        !self.subscriptions.0.is_empty()
    }

    fn supply(&mut self, slot: SlotId, cell: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.planned("a cell").supply(slot, cell, value)
    }

    fn poison(&mut self, slot: SlotId, record: &Record<'_>, reason: &str, effects: &mut Effects) {
        let Some((topic, _)) = self.topic(record.source) else {
            return self.planned("a record").poison(slot, record, reason, effects);
        };
        let row = PoisonedRow {
            topic,
            partition: record.partition,
            offset: record.offset,
            message: reason,
            raw: base64::Engine::encode(&base64::engine::general_purpose::STANDARD, record.value),
        };
        let value = serde_json::to_vec(&row).unwrap_or_default();
        let id = format!("poisoned/{topic}/{}/{}", record.partition, record.offset);
        let cause =
            Cause { source: record.source, partition: record.partition, offset: record.offset, index: 0 };
        effects.outbox.push(
            self.poisoned,
            cause,
            record.appended_at,
            record.key.unwrap_or_default(),
            |out| out.extend_from_slice(id.as_bytes()),
            |out| out.extend_from_slice(&value),
        );
    }

    fn tick(
        &mut self,
        slot: SlotId,
        now: Timestamp,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        self.inner.as_mut().map_or(Ok(Applied::Done), |inner| inner.tick(slot, now, cause, effects))
    }

    fn end(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        self.inner.as_mut().map_or(Ok(Applied::Done), |inner| inner.end(slot, cause, effects))
    }

    fn replay(
        &mut self,
        slot: SlotId,
        input: &[u8],
        cause: Cause,
        effects: &mut Effects,
    ) -> std::result::Result<Applied, Failure> {
        self.inner.as_mut().map_or(Ok(Applied::Done), |inner| inner.replay(slot, input, cause, effects))
    }

    fn go_on(&mut self, slot: SlotId, cause: Cause, effects: &mut Effects) -> Result<Applied, Failure> {
        self.inner.as_mut().map_or(Ok(Applied::Done), |inner| inner.go_on(slot, cause, effects))
    }

    fn open_cells(&self, slot: SlotId) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.open_cells(slot))
    }

    fn seal(&mut self, slot: SlotId, n: CommitNo, cells: &mut Cells) {
        if let Some(inner) = &mut self.inner {
            inner.seal(slot, n, cells);
        }
    }

    fn acknowledged(&mut self, slot: SlotId, n: CommitNo) {
        if let Some(inner) = &mut self.inner {
            inner.acknowledged(slot, n);
        }
    }

    fn close(&mut self, slot: SlotId) {
        if let Some(inner) = &mut self.inner {
            inner.close(slot);
        }
    }

    fn ask(
        &mut self,
        slot: SlotId,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
        missing: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let Some(inner) = &mut self.inner else {
            let message = format!("this silo hosts no kind `{}` and runs no pipeline", grain.kind);
            return Err(Error::new(ErrorKind::NotFound, message).ran(Ran::No));
        };
        inner.ask(slot, grain, method, arguments, missing)
    }

    fn memory_bytes(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.memory_bytes())
    }

    fn evict(&mut self, target_bytes: usize) {
        if let Some(inner) = &mut self.inner {
            inner.evict(target_bytes);
        }
    }

    fn streams(&self) -> &[String] {
        self.inner.as_ref().map_or(&[], |inner| inner.streams())
    }
}
