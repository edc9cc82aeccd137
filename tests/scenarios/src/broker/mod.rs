//! A log in memory that behaves like Kafka: transactions by transactional id, fencing by generation, records that readers
//! see when their transaction is committed, markers that are read stably.
//!
//! Records lie in a partition from their sending on. A reader of committed records sees none at or behind the first that
//! belongs to an open transaction; aborted records and the control records of transactions leave gaps in the offsets.

mod producer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use granary_cluster::slot::Publication;
use granary_cluster::slots::SLOTS_DEFAULT;
use granary_cluster::{Batch, Entry, Log, Marker, Outbox, SourceId, TxId};
use granary_core::id::positive_murmur2;
use granary_core::{Error, ErrorKind, Result, SlotId, Timestamp};

pub use producer::MemoryProducer;

/// The broker aborts a transaction that has been open for so long, and fences its producer.
const TRANSACTION_MAX: Duration = Duration::from_secs(5);

/// The stream of the slots' journals: a partition for each.
pub const JOURNAL: &str = "journal";

/// Another producer of the same id was initialised since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFenced;

/// A record that readers of committed records see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Visible {
    /// Where it lies.
    pub offset: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The identity of an output.
    pub id: Option<Vec<u8>>,
    /// Its bytes.
    pub value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Of the open transaction of this id.
    Open(TxId),
    Committed,
    Aborted,
    /// The end of a transaction.
    Control,
}

#[derive(Debug)]
struct Kept {
    state: State,
    appended_at: Timestamp,
    key: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Transaction {
    began: Instant,
    /// Partitions with records of it.
    touched: BTreeSet<(String, u32)>,
    staged: Vec<(SlotId, Marker)>,
}

#[derive(Debug, Default)]
struct Id {
    generation: u64,
    open: Option<Transaction>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: BTreeMap<String, Vec<Vec<Kept>>>,
    ids: BTreeMap<TxId, Id>,
    markers: BTreeMap<SlotId, Marker>,
    is_away: bool,
}

/// The log.
#[derive(Debug)]
pub struct Broker {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The topics of output streams, by the number of the stream.
    streams: Vec<String>,
}

impl Broker {
    /// An empty log; each output stream goes to a topic of its own with so many partitions.
    pub fn new(streams: &[&str], partitions: u32) -> Arc<Broker> {
        let streams: Vec<String> = streams.iter().map(|name| (*name).to_string()).collect();
        let broker = Broker { inner: Mutex::default(), changed: Condvar::new(), streams: streams.clone() };
        for topic in streams {
            let partitions = if topic == JOURNAL { u32::from(SLOTS_DEFAULT) } else { partitions };
            broker.create(&topic, partitions).expect("the topics of streams are new");
        }
        Arc::new(broker)
    }

    /// The log cannot be reached, or can again.
    pub fn set_away(&self, is_away: bool) {
        self.inner().is_away = is_away;
        self.changed.notify_all();
    }

    /// What a reader of committed records sees of a partition.
    pub fn visible(&self, topic: &str, partition: u32) -> Vec<Visible> {
        let inner = self.inner();
        let kept = &inner.topics[topic][partition as usize];
        let stable = stable(kept);
        let seen = kept[..stable].iter().zip(0..).filter(|(kept, _)| kept.state == State::Committed);
        seen.map(|(kept, offset)| Visible {
            offset,
            key: kept.key.clone(),
            id: kept.id.clone(),
            value: kept.value.clone(),
        })
        .collect()
    }

    /// What a slot's journal holds of these numbers.
    fn journal(&self, slot: SlotId, numbers: &Range<u64>) -> Vec<Vec<u8>> {
        let number = |seen: &Visible| {
            let key = seen.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
            key.and_then(|key| key.parse().ok()).expect("keys of a journal are numbers")
        };
        let seen = self.visible(JOURNAL, u32::from(slot.0));
        seen.into_iter().filter(|seen| numbers.contains(&number(seen))).map(|seen| seen.value).collect()
    }

    /// The marker of a slot, as committed.
    pub fn committed_marker(&self, slot: SlotId) -> Option<Marker> {
        self.inner().markers.get(&slot).cloned()
    }

    /// Puts another marker in the place of the committed one, as a log that lost records has it.
    pub fn forge_marker(&self, slot: SlotId, marker: Marker) {
        self.inner().markers.insert(slot, marker);
    }

    /// Ids with an open transaction.
    pub fn open_transactions(&self) -> Vec<TxId> {
        let inner = self.inner();
        inner.ids.iter().filter(|(_, id)| id.open.is_some()).map(|(id, _)| *id).collect()
    }

    /// Every id that was ever initialised.
    pub fn ids(&self) -> Vec<TxId> {
        self.inner().ids.keys().copied().collect()
    }

    /// `init_transactions`: aborts what is open under the id and fences whoever used it; the new generation.
    pub fn init(&self, id: TxId) -> Result<u64> {
        let mut inner = self.inner();
        if inner.is_away {
            return Err(Error::new(ErrorKind::Unavailable, "injected: the log cannot be reached"));
        }
        let producer = inner.ids.entry(id).or_default();
        producer.generation += 1;
        let (generation, open) = (producer.generation, producer.open.take());
        if let Some(open) = open {
            inner.end(id, &open.touched, State::Aborted);
        }
        self.changed.notify_all();
        Ok(generation)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, id: TxId, generation: u64) -> Result<(), ProducerFenced> {
        let mut inner = self.inner();
        let open = Transaction { began: Instant::now(), touched: BTreeSet::new(), staged: Vec::new() };
        inner.of(id, generation)?.open = Some(open);
        Ok(())
    }

    fn send(
        &self,
        id: TxId,
        generation: u64,
        slot: SlotId,
        publication: &Publication,
    ) -> Result<(), ProducerFenced> {
        let mut inner = self.inner();
        for outbox in publication.commits.iter().map(|pending| pending.outbox()) {
            for entry in outbox.entries() {
                let at = self.place(&inner, slot, outbox, entry);
                let open = inner.of(id, generation)?.open.as_mut().ok_or(ProducerFenced)?;
                open.touched.insert(at.clone());
                inner.push(&at.0, at.1, kept(State::Open(id), outbox, entry));
            }
        }
        Ok(())
    }

    /// Outside of transactions.
    fn send_at_once(&self, slot: SlotId, outputs: &Outbox) -> Result<()> {
        let mut inner = self.inner();
        if inner.is_away {
            return Err(Error::new(ErrorKind::Unavailable, "injected: the log cannot be reached"));
        }
        for entry in outputs.entries() {
            let (topic, partition) = self.place(&inner, slot, outputs, entry);
            inner.push(&topic, partition, kept(State::Committed, outputs, entry));
        }
        Ok(())
    }

    /// The topic and partition of an output.
    fn place(&self, inner: &Inner, slot: SlotId, outbox: &Outbox, entry: &Entry) -> (String, u32) {
        let topic = &self.streams[usize::from(entry.stream.0)];
        let partition = match topic == JOURNAL {
            true => u32::from(slot.0),
            false => positive_murmur2(outbox.key(entry)) % inner.topics[topic].len() as u32,
        };
        (topic.clone(), partition)
    }

    fn stage(&self, id: TxId, generation: u64, slot: SlotId, marker: &Marker) -> Result<(), ProducerFenced> {
        let mut inner = self.inner();
        let open = inner.of(id, generation)?.open.as_mut().ok_or(ProducerFenced)?;
        open.staged.push((slot, marker.clone()));
        Ok(())
    }

    fn finish(&self, id: TxId, generation: u64, as_what: State) -> Result<(), ProducerFenced> {
        let mut inner = self.inner();
        let open = inner.of(id, generation)?.open.take().ok_or(ProducerFenced)?;
        if as_what == State::Committed {
            inner.markers.extend(open.staged.iter().cloned());
        }
        inner.end(id, &open.touched, as_what);
        self.changed.notify_all();
        Ok(())
    }

    /// The slot's marker by a stable read: waits for open transactions that hold it, until they end or time out.
    fn stable_marker(&self, slot: SlotId) -> Result<Option<Marker>> {
        let mut inner = self.inner();
        loop {
            if inner.is_away {
                return Err(Error::new(ErrorKind::Unavailable, "injected: the log cannot be reached"));
            }
            let holds = |id: &Id| {
                id.open
                    .as_ref()
                    .filter(|open| open.staged.iter().any(|(s, _)| *s == slot))
                    .map(|open| open.began)
            };
            let Some((id, began)) = inner.ids.iter().find_map(|(no, id)| Some((*no, holds(id)?))) else {
                return Ok(inner.markers.get(&slot).cloned());
            };
            if began.elapsed() >= TRANSACTION_MAX {
                let producer = inner.ids.entry(id).or_default();
                producer.generation += 1;
                if let Some(open) = producer.open.take() {
                    inner.end(id, &open.touched, State::Aborted);
                }
                continue;
            }
            let wait =
                self.changed.wait_timeout(inner, TRANSACTION_MAX - began.elapsed().min(TRANSACTION_MAX));
            inner = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn kept(state: State, outbox: &Outbox, entry: &Entry) -> Kept {
    Kept {
        state,
        appended_at: entry.time,
        key: Some(outbox.key(entry).to_vec()),
        id: Some(outbox.id(entry).to_vec()),
        value: outbox.value(entry).to_vec(),
    }
}

/// The first offset that belongs to an open transaction.
fn stable(kept: &[Kept]) -> usize {
    kept.iter().position(|kept| matches!(kept.state, State::Open(_))).unwrap_or(kept.len())
}

fn nowhere(topic: &str, partition: u32) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no partition {partition} of a topic `{topic}`"))
}

impl Inner {
    fn of(&mut self, id: TxId, generation: u64) -> Result<&mut Id, ProducerFenced> {
        self.ids.get_mut(&id).filter(|id| id.generation == generation).ok_or(ProducerFenced)
    }

    fn push(&mut self, topic: &str, partition: u32, kept: Kept) -> u64 {
        let partition = &mut self.topics.get_mut(topic).expect("the topic was looked up")[partition as usize];
        partition.push(kept);
        partition.len() as u64 - 1
    }

    fn end(&mut self, id: TxId, touched: &BTreeSet<(String, u32)>, as_what: State) {
        for (topic, partition) in touched {
            let kept = &mut self.topics.get_mut(topic).expect("records lie in it")[*partition as usize];
            kept.iter_mut()
                .filter(|kept| kept.state == State::Open(id))
                .for_each(|kept| kept.state = as_what);
            let control = Kept {
                state: State::Control,
                appended_at: Timestamp(0),
                key: None,
                id: None,
                value: Vec::new(),
            };
            kept.push(control);
        }
    }

    fn partition(&self, topic: &str, partition: u32) -> Result<&Vec<Kept>> {
        let found = self.topics.get(topic).and_then(|partitions| partitions.get(partition as usize));
        found.ok_or_else(|| nowhere(topic, partition))
    }
}

impl Log for Broker {
    fn create(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut inner = self.inner();
        let make = || (0..partitions).map(|_| Vec::new()).collect();
        let existing = inner.topics.entry(topic.to_string()).or_insert_with(make).len() as u32;
        if existing == partitions {
            return Ok(());
        }
        Err(Error::invalid(format!("topic `{topic}` has {existing} partitions")))
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.inner().topics.get(topic).map(|partitions| partitions.len() as u32))
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        let inner = self.inner();
        let kept = inner.partition(topic, partition)?;
        let before = batch.bytes();
        for (offset, kept) in (0..).zip(&kept[..stable(kept)]).skip(from as usize) {
            if kept.state == State::Committed {
                batch.push(offset, kept.appended_at, kept.key.as_deref(), &kept.value);
            }
            if batch.bytes() - before >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn bounds(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        let inner = self.inner();
        Ok((0, stable(inner.partition(topic, partition)?) as u64))
    }

    fn append(&self, topic: &str, partition: u32, records: &Batch) -> Result<u64> {
        let mut inner = self.inner();
        let first = inner.partition(topic, partition)?.len() as u64;
        for record in records.iter(SourceId(0), partition) {
            let kept = Kept {
                state: State::Committed,
                appended_at: record.appended_at,
                key: record.key.map(<[u8]>::to_vec),
                id: None,
                value: record.value.to_vec(),
            };
            inner.push(topic, partition, kept);
        }
        Ok(first)
    }
}
