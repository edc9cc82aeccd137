//! What the clients tell besides answers: their logs, and the delivery of records.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};

/// Hands the client's logs to `tracing`.
pub(crate) struct Logs;

impl ClientContext for Logs {
    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        global_error(&error, reason);
    }
}

impl ConsumerContext for Logs {}

/// Hands the client's logs to `tracing`, and counts how often the brokers were lost: who stood at the end of a partition
/// does not know then whether it still does.
#[derive(Clone, Default)]
pub(crate) struct Readers {
    outages: Arc<AtomicU64>,
}

impl Readers {
    /// How often the brokers were lost so far.
    pub(crate) fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }
}

impl ClientContext for Readers {
    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition comes this way, too.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            self.outages.fetch_add(1, Ordering::Relaxed);
            global_error(&error, reason);
        }
    }
}

impl ConsumerContext for Readers {}

pub(crate) fn log(level: Level, facility: &str, message: &str) {
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        Level::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        Level::Notice | Level::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        Level::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// The client goes on by itself after these: a broker that is away, mostly.
fn global_error(error: &KafkaError, reason: &str) {
    tracing::warn!(target: "librdkafka", %error, "{reason}");
}

/// Hands the client's logs to `tracing`, and remembers what became of the records sent.
#[derive(Default)]
pub(crate) struct Deliveries {
    noted: Mutex<Delivered>,
}

/// What became of the records sent since the last look.
#[derive(Default)]
pub(crate) struct Delivered {
    /// The offset of the record that was sent with 0 as its opaque.
    pub(crate) first: Option<u64>,
    /// The first failure.
    pub(crate) failure: Option<KafkaError>,
}

impl Deliveries {
    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Delivered {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        global_error(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) if place == 0 => noted.first = u64::try_from(message.offset()).ok(),
            Ok(_) => {}
            Err((error, _)) => {
                noted.failure.get_or_insert_with(|| error.clone());
            }
        }
    }
}
