//! The log's port on Kafka, for tools and for what is put together once: topics, bounds, single appends and reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log, SourceId};
use granary_core::{Error, ErrorKind, Result, Timestamp};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{TopicPartitionList, error::KafkaError, error::RDKafkaErrorCode as Code};

use crate::context::{Deliveries, Logs};
use crate::errors::failed;
use crate::producer::ID_HEADER;
use crate::settings::Settings;
use crate::source::{Partition, Sources, out_of_range, time};
use crate::topics::{self, ASK_WAIT, TopicIdentity};

/// Partitions that stay assigned after they were read by [`Log::read`], so that reading on is quick.
const READERS_MAX: usize = 64;

/// How long an append or a read waits for the brokers.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Topics of a Kafka cluster.
pub struct KafkaLog {
    settings: Settings,
    client: BaseConsumer<Logs>,
    sources: Sources,
    readers: Mutex<BTreeMap<(String, u32), Partition>>,
    appender: Mutex<Option<BaseProducer<Deliveries>>>,
}

impl KafkaLog {
    /// A log on these brokers; they are asked when something is needed of them.
    pub fn new(settings: Settings) -> Result<KafkaLog> {
        settings.check()?;
        let client = BaseConsumer::from_config_and_context(&settings.consumer(1), Logs)
            .map_err(|error| failed("cannot start a client", &error))?;
        let sources = Sources::new(settings.clone(), None);
        Ok(KafkaLog { settings, client, sources, readers: Mutex::default(), appender: Mutex::default() })
    }

    /// How it reaches its brokers.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The brokers answer.
    pub fn is_reachable(&self, wait: Duration) -> Result<()> {
        let _ = self.client.poll(Duration::ZERO);
        self.client
            .fetch_metadata(Some(&self.settings.ids_topic()), wait)
            .map(drop)
            .map_err(|error| failed(format!("Kafka cannot be reached at {}", self.settings.brokers), &error))
    }

    /// Creates the internal topics of this cluster, or checks that they fit `slots`.
    pub fn create_internal(&self, slots: u16) -> Result<()> {
        topics::create_internal(&self.settings, &self.client, slots)
    }

    /// Creates a topic with settings of its own; fine when it exists with as many partitions.
    pub fn create_with(&self, topic: &str, partitions: u32, config: &[(&str, &str)]) -> Result<()> {
        topics::create(&self.settings, &self.client, topic, partitions, config)
    }

    /// Deletes a topic; fine when there is none.
    pub fn delete(&self, topic: &str) -> Result<()> {
        topics::delete(&self.settings, &self.client, topic)
    }

    /// Tells a topic from others of its name: to be kept, and compared at the next start.
    pub fn identity(&self, topic: &str) -> Result<TopicIdentity> {
        topics::identity(&self.settings, topic)
    }

    /// The first offset whose record is from `time` or later; the end when there is none.
    pub fn offset_at(&self, topic: &str, partition: u32, time: Timestamp) -> Result<u64> {
        let what = || format!("cannot look for a time in topic `{topic}` partition {partition}");
        let mut wanted = TopicPartitionList::new();
        let found = wanted
            .add_partition_offset(topic, partition as i32, Offset::Offset(time.0))
            .and_then(|()| self.client.offsets_for_times(wanted, ASK_WAIT))
            .map_err(|error| failed(what(), &error))?;
        match found.elements().first().map(|element| (element.error(), element.offset())) {
            Some((Err(error), _)) => Err(failed(what(), &error)),
            Some((Ok(()), Offset::Offset(offset))) => Ok(offset as u64),
            _ => Ok(self.bounds(topic, partition)?.1),
        }
    }

    fn readers(&self) -> MutexGuard<'_, BTreeMap<(String, u32), Partition>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for KafkaLog {
    fn create(&self, topic: &str, partitions: u32) -> Result<()> {
        self.create_with(topic, partitions, &[])
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        topics::partitions(&self.client, topic)
    }

    /// Waits until there are records, or the end was reached.
    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        self.read_each(topic, partition, from, bytes_max, &mut |message| {
            let (offset, value) = (message.offset() as u64, message.payload().unwrap_or_default());
            batch.push(offset, time(message), message.key(), value);
        })
    }

    /// The first kept offset, and the one after the last committed record.
    fn bounds(&self, topic: &str, partition: u32) -> Result<(u64, u64)> {
        let (first, end) =
            self.client.fetch_watermarks(topic, partition as i32, ASK_WAIT).map_err(|error| {
                failed(format!("cannot ask about topic `{topic}` partition {partition}"), &error)
            })?;
        Ok((first.max(0) as u64, end.max(0) as u64))
    }

    /// Kafka takes records in batches of about 1 MB: what is larger is several steps, and a failure between them leaves
    /// the first ones behind.
    fn append(&self, topic: &str, partition: u32, records: &Batch) -> Result<u64> {
        if records.is_empty() {
            return Ok(self.bounds(topic, partition)?.1);
        }
        let first = self.append_records(topic, in_partition(partition, records))?;
        first.ok_or_else(|| {
            let what = format!("cannot append to topic `{topic}` partition {partition}: no offset was told");
            Error::new(ErrorKind::Unavailable, what)
        })
    }
}

impl KafkaLog {
    /// As [`Log::read`], with the identities of outputs: hands over offset, key, identity and value.
    pub fn read_with_ids(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        mut each: impl FnMut(u64, Option<&[u8]>, Option<&[u8]>, &[u8]),
    ) -> Result<()> {
        self.read_each(topic, partition, from, bytes_max, &mut |message| {
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            let id = headers.filter(|header| header.key == ID_HEADER).find_map(|header| header.value);
            each(message.offset() as u64, message.key(), id, message.payload().unwrap_or_default());
        })
    }

    fn read_each(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: usize,
        take: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<()> {
        let name = (topic.to_owned(), partition);
        let mut readers = self.readers();
        let known = readers.remove(&name);
        if known.is_none() && readers.len() >= READERS_MAX {
            readers.pop_first();
        }
        drop(readers);
        let mut reader = known.unwrap_or_else(|| self.sources.open(topic, partition));
        reader.doubt_end();
        let (mut any, deadline) = (false, Instant::now() + ANSWER_WAIT);
        loop {
            reader.read_each(Duration::from_millis(100), from, bytes_max, &mut |message| {
                any = true;
                take(message);
            })?;
            if any || reader.is_at_end() {
                self.readers().insert(name, reader);
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("no answer about topic `{topic}` partition {partition} for {ANSWER_WAIT:?}"),
                ));
            }
        }
    }

    /// Appends records to partitions by their places in the list, all at the same time, and waits until the brokers have
    /// them.
    pub fn append_all(&self, topic: &str, batches: &[Batch]) -> Result<()> {
        let records = (0..).zip(batches).flat_map(|(partition, batch)| in_partition(partition, batch));
        self.append_records(topic, records).map(drop)
    }

    /// Tells a compacted topic that what it has under these keys may go.
    pub(crate) fn delete_keys<'k>(
        &self,
        topic: &str,
        partition: u32,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<()> {
        let record = |key| Appended { partition, at: Timestamp(0), key: Some(key), value: None };
        self.append_records(topic, keys.map(record)).map(drop)
    }

    /// Sends records one by one and at once, without waiting for each.
    pub fn sender(&self, topic: &str) -> Result<Sender> {
        let mut config = self.settings.producer();
        // One request at a time, and what comes meanwhile goes with the next. A linger below some milliseconds, or more
        // requests than may be under way, makes the client's thread spin.
        config.set("linger.ms", "0").set("max.in.flight", "1");
        let producer = BaseProducer::from_config_and_context(&config, Deliveries::default())
            .map_err(|error| failed(format!("cannot append to topic `{topic}`"), &error))?;
        Ok(Sender { producer, topic: topic.to_owned() })
    }

    /// The offset of the first record.
    fn append_records<'r>(
        &self,
        topic: &str,
        records: impl Iterator<Item = Appended<'r>>,
    ) -> Result<Option<u64>> {
        let what = || format!("cannot append to topic `{topic}`");
        let mut appender = self.appender.lock().unwrap_or_else(PoisonError::into_inner);
        let producer = match appender.take() {
            Some(producer) => producer,
            None => BaseProducer::from_config_and_context(&self.settings.producer(), Deliveries::default())
                .map_err(|error| failed(what(), &error))?,
        };
        let deadline = Instant::now() + ANSWER_WAIT;
        for (place, record) in records.enumerate() {
            let mut wanted = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, place)
                .partition(record.partition as i32)
                .timestamp(record.at.0);
            (wanted.key, wanted.payload) = (record.key, record.value);
            send(&producer, wanted, deadline).map_err(|error| failed(what(), &error))?;
        }
        wait_delivered(&producer, deadline).map_err(|error| failed(what(), &error))?;
        let delivered = producer.context().take();
        // Kept only after a success: after a failure the next append begins with a new one.
        match delivered.failure {
            None => {
                *appender = Some(producer);
                Ok(delivered.first)
            }
            Some(error) => Err(failed(what(), &error)),
        }
    }

    /// Fails, naming the range and the repair command, unless reading `topic` from this offset on is possible.
    pub fn check_offset(&self, topic: &str, partition: u32, from: u64) -> Result<()> {
        let (first, end) = self.bounds(topic, partition)?;
        if (first..=end).contains(&from) {
            return Ok(());
        }
        Err(out_of_range(topic, partition, from, first as i64, end as i64))
    }
}

/// A record on its way to a partition; one without value deletes its key from a compacted topic.
struct Appended<'r> {
    partition: u32,
    at: Timestamp,
    key: Option<&'r [u8]>,
    value: Option<&'r [u8]>,
}

fn in_partition(partition: u32, batch: &Batch) -> impl Iterator<Item = Appended<'_>> {
    batch.iter(SourceId(0), partition).map(move |record| {
        let (key, value) = (record.key, Some(record.value));
        Appended { partition, at: record.appended_at, key, value }
    })
}

/// Sends records to a topic, outside of transactions: each once and in order as long as this lives.
pub struct Sender {
    producer: BaseProducer<Deliveries>,
    topic: String,
}

impl Sender {
    /// Hands a record to the client, which sends it soon.
    pub fn send(&self, partition: u32, time: Timestamp, key: &[u8], value: &[u8]) -> Result<()> {
        let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, 0)
            .partition(partition as i32)
            .timestamp(time.0)
            .key(key)
            .payload(value);
        self.producer.poll(Duration::ZERO);
        send(&self.producer, record, Instant::now() + ANSWER_WAIT).map_err(|error| self.cannot(&error))
    }

    /// Waits until the brokers have all of them.
    pub fn finish(&self) -> Result<()> {
        let delivered = wait_delivered(&self.producer, Instant::now() + ANSWER_WAIT);
        delivered.map_err(|error| self.cannot(&error))?;
        self.producer.context().take().failure.map_or(Ok(()), |error| Err(self.cannot(&error)))
    }

    fn cannot(&self, error: &KafkaError) -> Error {
        failed(format!("cannot append to topic `{}`", self.topic), error)
    }
}

/// Sends a record, waiting while the client's queue is full.
pub(crate) fn send(
    producer: &BaseProducer<Deliveries>,
    record: BaseRecord<'_, [u8], [u8], usize>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => {
                record = back;
                wait_a_little(producer, LOOK_MAX);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Waits until everything sent was delivered, or was given up.
pub(crate) fn wait_delivered(
    producer: &BaseProducer<Deliveries>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let mut wait = LOOK_MIN;
    while producer.in_flight_count() > 0 {
        if Instant::now() > deadline {
            return Err(KafkaError::Flush(Code::OperationTimedOut));
        }
        wait_a_little(producer, wait);
        wait = (wait * 2).min(LOOK_MAX);
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

/// Between two looks at deliveries, at first and after some. The client's own flush looks every 100 ms, and its poll with
/// less than a millisecond left does not wait at all but spins.
const LOOK_MIN: Duration = Duration::from_micros(100);
const LOOK_MAX: Duration = Duration::from_millis(2);

fn wait_a_little(producer: &BaseProducer<Deliveries>, wait: Duration) {
    producer.poll(Duration::ZERO);
    if producer.in_flight_count() > 0 {
        std::thread::sleep(wait);
    }
}
