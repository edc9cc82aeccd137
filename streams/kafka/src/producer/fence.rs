//! Ending what other producers may still have open: `init_transactions` under their ids.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _, TxId, TxIds, fail};
use granary_core::{Error, ErrorKind, Result, Timestamp};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _};

use super::publish::Publisher;
use crate::context::Deliveries;
use crate::errors::failed;
use crate::log::KafkaLog;
use crate::marker;
use crate::settings::Settings;

/// How long `init_transactions` may take before the request fails and is made again.
const INIT_WAIT: Duration = Duration::from_secs(30);

/// How long one attempt takes.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);

/// Asked before the init. A client that has no connection looks for its coordinator only every half a second, and it has
/// none when it starts, and once more when the first answer has told it the broker's real name.
const QUESTIONS: usize = 2;

/// Ids fenced at the same time.
const TOGETHER_MAX: usize = 8;

impl Publisher {
    /// Finishes `init_transactions` on these ids, or on all that are registered, but for those of this silo.
    pub(super) fn fence(&self, ids: &TxIds) -> Result<()> {
        fail::point("fence.before")?;
        // As long as a silo lives, a slot is always on the same lane of it: no other one ever held the slot.
        let me = self.lane().txid.incarnation;
        let mut registered = if ids.everyone { registered(self.log())? } else { Vec::new() };
        registered.retain(|registration| registration.id.incarnation != me);
        let mut others: Vec<TxId> = ids.ids.iter().copied().filter(|id| id.incarnation != me).collect();
        others.extend(registered.iter().map(|registration| registration.id));
        others.sort_unstable();
        others.dedup();
        let settings = self.log().settings();
        for together in others.chunks(TOGETHER_MAX) {
            thread::scope(|scope| {
                let running: Vec<_> =
                    together.iter().map(|id| scope.spawn(move || init(settings, *id).map(drop))).collect();
                running.into_iter().try_for_each(|each| {
                    each.join()
                        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "fencing panicked")))
                })
            })?;
        }
        // Not before all are fenced: should this silo end on the way, the next one has to find them.
        if let Err(error) = forget(self.log(), &registered) {
            tracing::warn!(%error, "ids that are fenced stay registered, and are fenced again next time");
        }
        fail::point("fence.after")?;
        Ok(())
    }
}

/// An id as it was written down.
struct Registration {
    id: TxId,
    key: String,
}

/// A producer under this id whose `init_transactions` has finished: nothing is open under the id, and every earlier
/// producer of it is fenced.
pub(super) fn init(settings: &Settings, id: TxId) -> Result<BaseProducer<Deliveries>> {
    let name = format!("{}/{}", settings.cluster, marker::id(id));
    let what = || format!("cannot initialise transactions of `{name}`");
    let producer: BaseProducer<Deliveries> =
        BaseProducer::from_config_and_context(&settings.transactional(&name), Deliveries::default())
            .map_err(|error| failed(what(), &error))?;
    for _ in 0..QUESTIONS {
        let answer = producer.client().fetch_metadata(Some(&settings.ids_topic()), ATTEMPT_WAIT);
        answer.map_err(|error| failed(what(), &error))?;
    }
    let deadline = Instant::now() + INIT_WAIT;
    loop {
        match producer.init_transactions(ATTEMPT_WAIT) {
            Ok(()) => return Ok(producer),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                producer.poll(Duration::ZERO);
                tracing::debug!(id = %name, error = %error.string(), "transactions are not initialised yet");
            }
            Err(error) => return Err(failed(what(), &error)),
        }
    }
}

/// Writes the id down, durably and outside of the store, after the `nr`-th init and before anything is published.
///
/// Each time under another name: who fences an id lets go of the names it has read before, so an id that is initialised
/// again is either fenced, too, or written down under a name that stays.
pub(super) fn register(log: &KafkaLog, id: TxId, nr: u64) -> Result<()> {
    let mut record = Batch::default();
    record.push(0, Timestamp(0), Some(format!("{}/{nr}", marker::id(id)).as_bytes()), b"1");
    log.append(&log.settings().ids_topic(), 0, &record).map(drop)
}

/// Lets go of what was written down, of ids that are fenced.
fn forget(log: &KafkaLog, registered: &[Registration]) -> Result<()> {
    log.delete_keys(
        &log.settings().ids_topic(),
        0,
        registered.iter().map(|registration| registration.key.as_bytes()),
    )
}

/// What is written down.
fn registered(log: &KafkaLog) -> Result<Vec<Registration>> {
    let topic = log.settings().ids_topic();
    let (mut next, end) = log.bounds(&topic, 0)?;
    let (mut found, mut batch) = (BTreeMap::new(), Batch::default());
    while next < end {
        batch.clear();
        log.read(&topic, 0, next, 1 << 20, &mut batch)?;
        for record in batch.iter(granary_cluster::SourceId(0), 0) {
            let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            let id = key.rsplit_once('/').and_then(|(id, _)| marker::parse_id(id)).ok_or_else(|| {
                Error::new(ErrorKind::Codec, format!("`{key}` in topic `{topic}` is no transactional id"))
            })?;
            if record.value.is_empty() {
                found.remove(key);
            } else {
                found.insert(key.to_owned(), id);
            }
            next = record.offset + 1;
        }
        if batch.is_empty() {
            break; // compaction has left a gap at the end
        }
    }
    Ok(found.into_iter().map(|(key, id)| Registration { id, key }).collect())
}

/// Whether an error means that another producer has taken the id.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
    )
}
