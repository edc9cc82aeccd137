//! A partition of a topic, read from any offset on.

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::Batch;
use granary_core::{Error, ErrorKind, Result, Timestamp};
use granary_engine::Source;
use granary_engine::config::OpenSource;
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use crate::consumers::{Assigned, Consumers};
use crate::errors::failed;
use crate::settings::Settings;
use crate::topics::ASK_WAIT;

/// Wakes whoever waits for records; called on a thread of the client, so it must only wake.
pub type WakeUp = Arc<dyn Fn() + Send + Sync>;

/// Opens partitions of topics as an engine's sources.
#[derive(Clone)]
pub struct Sources {
    consumers: Arc<Consumers>,
    wake: Option<WakeUp>,
}

impl Sources {
    /// Sources of these brokers. `wake` is called when a partition that had nothing more has something again, or has
    /// come to its end.
    pub fn new(settings: Settings, wake: Option<WakeUp>) -> Sources {
        Sources { consumers: Consumers::new(settings), wake }
    }

    /// Opens partitions of a topic that has so many. Each is assigned when it is read for the first time, to a consumer
    /// of the thread that reads it.
    pub fn opener(&self, topic: String, partitions: u32) -> OpenSource {
        self.consumers.expect(partitions);
        let sources = self.clone();
        Arc::new(move |partition| Ok(Box::new(sources.open(&topic, partition)) as Box<dyn Source>))
    }

    /// One partition.
    pub fn open(&self, topic: &str, partition: u32) -> Partition {
        Partition {
            consumers: self.consumers.clone(),
            wake: self.wake.clone(),
            topic: topic.to_owned(),
            partition,
            reading: None,
            is_at_end: false,
            outages: 0,
        }
    }
}

/// A partition of a topic.
///
/// Records come by [`Partition::read`] in order, only those that are committed. What is not asked for stays with the
/// client, which stops fetching when its share of [`crate::PREFETCH_RECORDS_MAX`] and [`crate::PREFETCH_BYTES_MAX`] is
/// full, and goes on when it is read.
pub struct Partition {
    consumers: Arc<Consumers>,
    wake: Option<WakeUp>,
    topic: String,
    partition: u32,
    reading: Option<Reading>,
    is_at_end: bool,
    /// How often the brokers had been lost when the end was asked for.
    outages: u64,
}

struct Reading {
    assigned: Assigned,
    next: u64,
    /// What went wrong after the records that the last read has handed out.
    failure: Option<Error>,
}

/// How long a seek may take: it asks no broker. Where it fails the partition is assigned anew.
const SEEK_WAIT: Duration = Duration::from_secs(1);

/// No record has this offset: going to any other one seeks.
const SOUGHT: u64 = u64::MAX;

/// One thing a queue gave.
enum Got {
    /// A record of so many bytes, 1 at least.
    Record(usize),
    End,
    Nothing,
}

impl Partition {
    /// Appends records from offset `from` on to `batch`, about `bytes_max` bytes, without waiting. None may mean that
    /// they are still on their way: [`Partition::is_at_end`] tells.
    pub fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.read_within(Duration::ZERO, from, bytes_max, batch)
    }

    /// As [`Partition::read`], but waits up to `wait` for the first record or the end of the partition.
    pub fn read_within(
        &mut self,
        wait: Duration,
        from: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        self.read_each(wait, from, bytes_max, &mut |message| {
            let offset = message.offset() as u64;
            batch.push(offset, time(message), message.key(), message.payload().unwrap_or_default());
        })
    }

    /// Hands each record over as the client has it.
    pub(crate) fn read_each(
        &mut self,
        wait: Duration,
        from: u64,
        bytes_max: usize,
        take: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<()> {
        if self.outages != self.consumers.outages() {
            self.doubt_end();
        }
        self.go_to(from)?;
        let reading = self.reading.as_mut().expect("going to an offset assigns the partition");
        if let Some(error) = reading.failure.take() {
            return Err(self.fail(from, error));
        }
        let (mut bytes, mut wait) = (0, wait);
        while bytes < bytes_max {
            match reading.take(wait, take) {
                Ok(Got::Record(of_record)) => {
                    self.is_at_end = false;
                    bytes += of_record;
                }
                Ok(Got::End) => self.is_at_end = true,
                Ok(Got::Nothing) => break,
                Err(error) => {
                    let error = explain(&reading.assigned, &self.topic, self.partition, reading.next, &error);
                    if bytes == 0 {
                        return Err(self.fail(from, error));
                    }
                    reading.failure = Some(error);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Whether the last read found that nothing more is there at present, rather than that it is still on its way. While
    /// the brokers are away nobody knows.
    pub fn is_at_end(&self) -> bool {
        self.is_at_end && self.outages == self.consumers.outages()
    }

    /// The next read asks the brokers anew whether there is more, rather than believe that it stands at the end.
    pub(crate) fn doubt_end(&mut self) {
        if self.is_at_end
            && let Some(reading) = &mut self.reading
        {
            // The end is told once for each position, and again after a seek.
            reading.next = SOUGHT;
        }
    }

    /// Assigns the partition, or seeks, where the next record would be another one.
    fn go_to(&mut self, from: u64) -> Result<()> {
        match &mut self.reading {
            Some(reading) if reading.next == from => return Ok(()),
            Some(reading) => {
                let to = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
                let sought = reading.assigned.consumer.seek(
                    &self.topic,
                    self.partition as i32,
                    to,
                    SEEK_WAIT, // for the client's own thread; what was fetched before is dropped from now on
                );
                match sought {
                    Ok(()) => (reading.next, reading.failure) = (from, None),
                    Err(error) => {
                        tracing::debug!(topic = %self.topic, partition = self.partition, %error, "cannot seek");
                        self.reading = None;
                    }
                }
            }
            None => {}
        }
        (self.is_at_end, self.outages) = (false, self.consumers.outages());
        if self.reading.is_none() {
            let assigned = self.consumers.assign(&self.topic, self.partition, from, self.wake.clone())?;
            self.reading = Some(Reading { assigned, next: from, failure: None });
        }
        Ok(())
    }

    /// After a failure the next read begins anew.
    fn fail(&mut self, from: u64, error: Error) -> Error {
        tracing::debug!(topic = %self.topic, partition = self.partition, from, %error, "reading ends");
        (self.reading, self.is_at_end) = (None, false);
        error
    }
}

impl Source for Partition {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        Partition::read(self, from, bytes_max, batch)
    }

    fn is_at_end(&self) -> bool {
        Partition::is_at_end(self)
    }

    fn rest(&mut self) {
        (self.reading, self.is_at_end) = (None, false);
    }
}

impl Reading {
    fn take(
        &mut self,
        wait: Duration,
        take: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<Got, KafkaError> {
        match self.assigned.queue.poll(wait) {
            None => Ok(Got::Nothing),
            Some(Ok(message)) => {
                let offset = message.offset() as u64;
                if offset >= self.next {
                    take(&message);
                    self.next = offset + 1;
                }
                Ok(Got::Record(1 + message.key_len() + message.payload_len()))
            }
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Got::End),
            Some(Err(error)) => Err(error),
        }
    }
}

pub(crate) fn time(message: &BorrowedMessage<'_>) -> Timestamp {
    Timestamp(message.timestamp().to_millis().unwrap_or(0))
}

/// An error of a partition's queue, for a person.
fn explain(assigned: &Assigned, topic: &str, partition: u32, next: u64, error: &KafkaError) -> Error {
    let what = format!("cannot read topic `{topic}` partition {partition} from offset {next}");
    match error.rdkafka_error_code() {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
            match assigned.consumer.fetch_watermarks(topic, partition as i32, ASK_WAIT) {
                Ok((first, end)) => out_of_range(topic, partition, next, first, end),
                Err(_) => failed(what, error),
            }
        }
        _ => failed(what, error),
    }
}

/// The offset wanted is not there: never passed over silently, a person decides.
pub(crate) fn out_of_range(topic: &str, partition: u32, from: u64, first: i64, end: i64) -> Error {
    let why = if from as i64 > end {
        "it was never written: the topic was created anew, or lost records"
    } else {
        "retention removed it"
    };
    Error::new(
        ErrorKind::NotFound,
        format!(
            "offset {from} of topic `{topic}` partition {partition} is out of range: the first kept offset is {first}, \
             the next one to be written {end}; {why}. `granary rewind --topic {topic} --partition {partition} --to \
             {first}` goes on from there, without the records between"
        ),
    )
}
