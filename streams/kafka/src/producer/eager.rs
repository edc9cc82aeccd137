//! Outputs that leave before their commit: outside of transactions, on a thread that waits for no transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use granary_cluster::Outbox;
use granary_cluster::pace::Backoff;
use granary_core::Result;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::Lane;
use super::entries::{Counts, send_entry};
use crate::context::Deliveries;
use crate::errors::failed;
use crate::log::{KafkaLog, wait_delivered};

/// Batches sent together. How many wait is bounded by the outbox of a commit: each slot has one that is open and one that
/// waits for these.
const TOGETHER_MAX: usize = 256;
/// So long the brokers may take before everything is sent again.
const SEND_WAIT: Duration = Duration::from_secs(10);

type Batch = (Outbox, Box<dyn FnOnce() + Send>);

/// The lane's thread for what leaves at once.
pub(super) struct Eager {
    batches: Sender<Batch>,
    is_over: Arc<AtomicBool>,
}

impl Eager {
    /// Starts the thread; it ends soon after this is dropped.
    pub(super) fn start(log: &Arc<KafkaLog>, lane: &Lane) -> Eager {
        let (batches, received) = channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let publisher = Publisher {
            counts: Counts::new(lane),
            producer: None,
            log: log.clone(),
            lane: lane.clone(),
            is_over: is_over.clone(),
        };
        let thread = thread::Builder::new().name(format!("eager-{}", lane.txid.lane));
        thread.spawn(move || publisher.serve(&received)).expect("a thread, as for the publisher before");
        Eager { batches, is_over }
    }

    pub(super) fn send(&self, outputs: Outbox, done: Box<dyn FnOnce() + Send>) {
        drop(self.batches.send((outputs, done))); // the thread ends after this only
    }
}

impl Drop for Eager {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

struct Publisher {
    log: Arc<KafkaLog>,
    lane: Lane,
    counts: Counts,
    producer: Option<BaseProducer<Deliveries>>,
    is_over: Arc<AtomicBool>,
}

impl Publisher {
    fn serve(mut self, batches: &Receiver<Batch>) {
        let mut backoff = Backoff::default();
        while let Ok(first) = batches.recv() {
            let mut together = vec![first];
            together.extend(batches.try_iter().take(TOGETHER_MAX - 1));
            while let Err(error) = self.send(&together) {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let wait = backoff.failed();
                tracing::warn!(%error, "outputs were not taken; sending them again in {wait:?}");
                thread::sleep(wait);
            }
            backoff.succeeded();
            together.into_iter().for_each(|(_, done)| done());
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
        BaseProducer::from_config_and_context(&self.log.settings().prompt(), Deliveries::default())
            .map_err(|error| failed("cannot start a producer", &error))
    }
}
