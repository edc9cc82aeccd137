//! One transaction: outputs in order, then the markers, then the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_cluster::slot::Publication;
use granary_cluster::{Ended, SourceId, fail};
use granary_core::{Error, Result, SlotId};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::topic_partition_list::Offset;

use super::Lane;
use super::entries::{Counts, send_entry};
use super::fence::{init, is_fenced, register};
use super::offsets::Offsets;
use crate::context::Deliveries;
use crate::errors::failed;
use crate::log::{KafkaLog, wait_delivered};
use crate::marker;
use crate::settings::TRANSACTION_TIMEOUT_MS;

/// How long sending may take; the broker aborts what takes longer than its transaction timeout.
const SEND_WAIT: Duration = Duration::from_millis(TRANSACTION_TIMEOUT_MS as u64 * 8 / 10);

/// How long the end of a transaction is tried before its outcome counts as unknown.
const END_WAIT: Duration = Duration::from_millis(TRANSACTION_TIMEOUT_MS as u64);

/// How long one attempt takes.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);

/// After the end of a transaction. The brokers still write it into every partition, and a client that begins the next one
/// meanwhile is refused and tries again only after 20 ms; what comes during the rest joins the next one.
const REST: Duration = Duration::from_millis(5);

/// What a lane's publisher thread works with.
pub(super) struct Publisher {
    log: Arc<KafkaLog>,
    lane: Lane,
    offsets: Arc<Offsets>,
    /// Transactions go through it from `init` until it is lost.
    producer: Option<BaseProducer<Deliveries>>,
    /// How often the lane's own id was initialised.
    inits: u64,
    counts: Counts,
    /// How far each source's partition was committed, for lag tools.
    lag: BTreeMap<(SourceId, u32), u64>,
}

/// How a transaction failed.
enum Failure {
    /// Before it began.
    Unbegun(Error),
    /// Before its end was tried.
    Before(Error),
    /// It is not known whether it ended, or another producer has taken the id.
    Lost(Error),
}

impl Publisher {
    pub(super) fn new(log: Arc<KafkaLog>, lane: Lane, offsets: Arc<Offsets>) -> Publisher {
        let counts = Counts::new(&lane);
        Publisher { log, lane, offsets, producer: None, inits: 0, counts, lag: BTreeMap::new() }
    }

    pub(super) fn log(&self) -> &KafkaLog {
        &self.log
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// A new producer under the lane's own id; an earlier one, and what it had open, ends with that.
    pub(super) fn init(&mut self) -> Result<()> {
        self.producer = None;
        let producer = init(self.log.settings(), self.lane.txid)?;
        self.inits += 1;
        register(&self.log, self.lane.txid, self.inits)?;
        self.producer = Some(producer);
        Ok(())
    }

    /// Publishes in one transaction.
    pub(super) fn publish(&mut self, publications: &[(SlotId, Publication)]) -> Ended {
        let Some(producer) = self.producer.take() else {
            tracing::warn!("nothing can be published before the producer was initialised");
            return Ended::Lost;
        };
        let (ended, keep) = match self.transact(&producer, publications) {
            Ok(()) => {
                std::thread::sleep(REST);
                (Ended::Done, true)
            }
            Err(Failure::Lost(error)) => {
                tracing::warn!(%error, "the outcome of a transaction is not known, or the producer is fenced");
                (Ended::Lost, false)
            }
            Err(Failure::Unbegun(error)) => {
                tracing::warn!(%error, "nothing was published; trying again");
                (Ended::Aborted, true)
            }
            Err(Failure::Before(error)) => {
                // the client aborts only when nothing is on its way, and sees that only while it is polled
                let _ = wait_delivered(&producer, Instant::now() + ATTEMPT_WAIT);
                let aborted = producer.abort_transaction(ATTEMPT_WAIT);
                tracing::warn!(%error, aborted = aborted.is_ok(), "nothing was published; trying again");
                if aborted.is_ok() { (Ended::Aborted, true) } else { (Ended::Lost, false) }
            }
        };
        if keep {
            self.producer = Some(producer);
        }
        ended
    }

    fn transact(
        &mut self,
        producer: &BaseProducer<Deliveries>,
        publications: &[(SlotId, Publication)],
    ) -> Result<(), Failure> {
        // Everything that can be refused without a transaction is looked at before there is one.
        let offsets = self.offsets_of(publications).map_err(Failure::Unbegun)?;
        self.count_partitions(publications).map_err(Failure::Unbegun)?;
        let group = self.offsets.group().map_err(Failure::Unbegun)?;
        drop(producer.context().take());

        fail::point("begin.before").map_err(|injected| Failure::Unbegun(injected.into()))?;
        producer.begin_transaction().map_err(|error| before("cannot begin a transaction", error))?;
        pass("begin.after")?;

        pass("send.before")?;
        let deadline = Instant::now() + SEND_WAIT;
        self.send_all(producer, publications, deadline)?;
        pass("send.after")?;

        // While the outputs are on their way: nothing of either is visible before the end.
        pass("markers.before")?;
        commit_offsets(producer, &offsets, &group, deadline)?;
        let undelivered = |error| before("outputs were not taken", error);
        wait_delivered(producer, deadline).map_err(undelivered)?;
        if let Some(error) = producer.context().take().failure {
            return Err(undelivered(error));
        }
        pass("markers.after")?;

        pass("end.before")?;
        end(producer)?;
        self.note_lag(publications);
        fail::point("end.after").map_err(|injected| Failure::Lost(injected.into()))
    }

    fn send_all(
        &self,
        producer: &BaseProducer<Deliveries>,
        publications: &[(SlotId, Publication)],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let journal = self.log.settings().slots_topic();
        let is_journal: Vec<bool> = self.lane.streams.iter().map(|topic| *topic == journal).collect();
        for (slot, publication) in publications {
            for outbox in publication.commits.iter().map(|pending| pending.outbox()) {
                for entry in outbox.entries() {
                    let stream = usize::from(entry.stream.0);
                    let partition = match is_journal[stream] {
                        true => i32::from(slot.0),
                        false => self.counts.partition(entry.stream, outbox.key(entry)),
                    };
                    let topic = &self.lane.streams[stream];
                    send_entry(producer, (topic, partition), outbox, entry, deadline)
                        .map_err(|error| before(format!("cannot send to `{topic}`"), error))?;
                }
            }
        }
        Ok(())
    }

    /// The markers, and how far sources were read.
    fn offsets_of(&self, publications: &[(SlotId, Publication)]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(publications.len() + 16);
        let slots = self.log.settings().slots_topic();
        let add = |list: &mut TopicPartitionList, topic: &str, partition: i32, offset: u64, text: &str| {
            let mut element = list.add_partition(topic, partition);
            element.set_metadata(text);
            element.set_offset(Offset::Offset(offset as i64)).map_err(|error| failed("no offset", &error))
        };
        for (slot, publication) in publications {
            let marker = &publication.marker;
            add(&mut list, &slots, i32::from(slot.0), marker.n.0, &marker::encode(marker)?)?;
        }
        for ((source, partition), offset) in furthest(publications) {
            let Some(topic) = self.lane.sources.get(usize::from(source.0)).filter(|t| !t.is_empty()) else {
                continue;
            };
            if self.lag.get(&(source, partition)).is_none_or(|before| *before < offset) {
                add(&mut list, topic, partition as i32, offset, "")?;
            }
        }
        Ok(list)
    }

    fn note_lag(&mut self, publications: &[(SlotId, Publication)]) {
        for (name, offset) in furthest(publications) {
            let noted = self.lag.entry(name).or_default();
            *noted = offset.max(*noted);
        }
    }

    fn count_partitions(&mut self, publications: &[(SlotId, Publication)]) -> Result<()> {
        let pending = publications.iter().flat_map(|(_, publication)| &publication.commits);
        pending.into_iter().try_for_each(|pending| self.counts.ask(&self.log, &self.lane, pending.outbox()))
    }
}

/// How far these publications have read each source's partition: the slot that is furthest counts.
fn furthest(publications: &[(SlotId, Publication)]) -> BTreeMap<(SourceId, u32), u64> {
    let mut furthest = BTreeMap::new();
    for position in publications.iter().flat_map(|(_, publication)| &publication.marker.positions) {
        let offset = furthest.entry((position.source, position.partition)).or_default();
        *offset = position.offset.max(*offset);
    }
    furthest
}

fn commit_offsets(
    producer: &BaseProducer<Deliveries>,
    offsets: &TopicPartitionList,
    group: &ConsumerGroupMetadata,
    deadline: Instant,
) -> Result<(), Failure> {
    loop {
        match producer.send_offsets_to_transaction(offsets, group, ATTEMPT_WAIT) {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            Err(error) => return Err(before("cannot commit the markers", error)),
        }
    }
}

/// Ends the transaction. What fails from here on leaves it open whether it ended.
fn end(producer: &BaseProducer<Deliveries>) -> Result<(), Failure> {
    let deadline = Instant::now() + END_WAIT;
    loop {
        match producer.commit_transaction(ATTEMPT_WAIT) {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            Err(error) => return Err(Failure::Lost(failed("the end of a transaction", &error))),
        }
    }
}

fn before(what: impl std::fmt::Display, error: KafkaError) -> Failure {
    let fatal = matches!(&error, KafkaError::Transaction(error) if error.is_fatal());
    let lost = fatal || is_fenced(&error);
    let error = failed(what, &error);
    if lost { Failure::Lost(error) } else { Failure::Before(error) }
}

fn pass(point: &'static str) -> Result<(), Failure> {
    fail::point(point).map_err(|injected| Failure::Before(injected.into()))
}
