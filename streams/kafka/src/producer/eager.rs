//! Outputs that leave before their commit: outside of transactions, on a thread that waits for no transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use granary_cluster::Outbox;
use granary_cluster::producer::Answer;
use granary_core::{Error, ErrorKind, Result, Span};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::Lane;
use super::entries::{Counts, send_entry};
use crate::context::Deliveries;
use crate::errors::failed;
use crate::log::{KafkaLog, wait_delivered};

/// Batches of a lane that wait to be sent; what does not fit is refused, and published again.
const BATCHES_MAX: usize = 4096;
/// Batches sent together.
const TOGETHER_MAX: usize = 256;
/// So long the brokers may take.
const SEND_WAIT: Duration = Duration::from_secs(10);

type Batch = (Outbox, Answer<()>);

/// The lane's thread for what leaves at once.
pub(super) struct Eager {
    batches: SyncSender<Batch>,
}

impl Eager {
    /// Starts the thread; it ends when this is dropped and what was asked before has been carried out.
    pub(super) fn start(log: Arc<KafkaLog>, lane: Lane) -> Result<Eager> {
        let (batches, received) = sync_channel(BATCHES_MAX);
        let name = format!("eager-{}", lane.txid.lane);
        let sender = Sender { counts: Counts::new(&lane), producer: None, log, lane };
        thread::Builder::new().name(name).spawn(move || sender.serve(&received)).map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("no thread to publish on: {error}"))
        })?;
        Ok(Eager { batches })
    }

    pub(super) fn send(&self, outputs: Outbox, done: Answer<()>) {
        let (batch, error) = match self.batches.try_send((outputs, done)) {
            Ok(()) => return,
            Err(TrySendError::Full(batch)) => {
                let error = Error::new(ErrorKind::Overloaded, "too many outputs wait for the log");
                (batch, error.after(Span(100)))
            }
            Err(TrySendError::Disconnected(batch)) => {
                (batch, Error::new(ErrorKind::Closed, "the publisher thread has ended"))
            }
        };
        batch.1(Err(error));
    }
}

struct Sender {
    log: Arc<KafkaLog>,
    lane: Lane,
    counts: Counts,
    producer: Option<BaseProducer<Deliveries>>,
}

impl Sender {
    fn serve(mut self, batches: &Receiver<Batch>) {
        while let Ok(first) = batches.recv() {
            let mut together = vec![first];
            together.extend(batches.try_iter().take(TOGETHER_MAX - 1));
            let sent = self.send(&together);
            if let Err(error) = &sent {
                tracing::warn!(%error, "outputs were not taken; they are published again");
            }
            for (_, done) in together {
                done(sent.clone());
            }
        }
    }

    /// A producer that failed is not used again: what it may still hold would come after what is sent next.
    fn send(&mut self, batches: &[Batch]) -> Result<()> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.connect()?,
        };
        let deadline = Instant::now() + SEND_WAIT;
        for (outputs, _) in batches {
            self.counts.ask(&self.log, &self.lane, outputs)?;
            for entry in outputs.entries() {
                let topic = &self.lane.streams[usize::from(entry.stream.0)];
                let partition = self.counts.partition(entry.stream, outputs.key(entry));
                send_entry(&producer, (topic, partition), outputs, entry, deadline)
                    .map_err(|error| failed(format!("cannot send to `{topic}`"), &error))?;
            }
        }
        let undelivered = |error| failed("outputs were not taken", &error);
        wait_delivered(&producer, deadline).map_err(undelivered)?;
        match producer.context().take().failure {
            Some(error) => Err(undelivered(error)),
            None => {
                self.producer = Some(producer);
                Ok(())
            }
        }
    }

    fn connect(&self) -> Result<BaseProducer<Deliveries>> {
        BaseProducer::from_config_and_context(&self.log.settings().eager(), Deliveries::default())
            .map_err(|error| failed("cannot start a producer", &error))
    }
}
