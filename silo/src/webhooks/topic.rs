//! The topic of alerts. Its end is read once for all endpoints of a silo and kept for a while; who is further behind reads what
//! it missed from the log.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use granary_alerts::queue::Place;
use granary_alerts::settings::Head;
use granary_cluster::{Batch, Log, SourceId};
use granary_core::{Error, ErrorKind, Result};
use granary_engine::Source;
use tokio::sync::watch;

use super::Totals;
use crate::backing::Backing;

/// Bytes of alerts that are kept of each partition for those who read at its end.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// How long the reader waits for the bell at most.
const BELL_WAIT: Duration = Duration::from_millis(500);

/// An alert as it stands on its topic.
#[derive(Debug)]
pub struct Alert {
    /// Where.
    pub at: Place,
    /// To whom it goes.
    pub head: Head,
    /// The whole.
    pub body: Bytes,
}

/// The end of a partition.
struct End {
    /// Everything from this offset on is here.
    first: u64,
    /// Up to this one.
    next: u64,
    bytes: usize,
    alerts: VecDeque<Arc<Alert>>,
}

/// The topic of alerts, as a silo reads it.
pub struct Topic {
    name: String,
    log: Arc<dyn Log>,
    ends: Vec<Mutex<End>>,
    news: watch::Sender<u64>,
    totals: Arc<Totals>,
}

/// Alerts, and the offset to go on at.
pub type Portion = (Vec<Arc<Alert>>, u64);

impl Topic {
    /// Reads it from its present end on, in a thread of its own, for as long as somebody holds it.
    pub fn open(backing: &Backing, name: &str, totals: Arc<Totals>) -> Result<Arc<Topic>> {
        let log = backing.log.clone();
        let partitions = log
            .partitions(name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no topic `{name}`")))?;
        let ends = (0..partitions).map(|partition| {
            let next = log.bounds(name, partition)?.1;
            Ok(Mutex::new(End { first: next, next, bytes: 0, alerts: VecDeque::new() }))
        });
        let ends = ends.collect::<Result<Vec<_>>>()?;
        let topic = Topic { name: name.to_owned(), log, ends, news: watch::channel(0).0, totals };
        let topic = Arc::new(topic);
        let bell = Arc::new(Bell::default());
        let rung = bell.clone();
        let (open, kept) = backing.reader(name, partitions, move || rung.ring());
        let weak = Arc::downgrade(&topic);
        let named = std::thread::Builder::new().name("granary-alerts".to_owned());
        let read = move || {
            let sources = (0..partitions).map(|partition| open(partition)).collect::<Result<Vec<_>>>();
            match sources {
                Ok(sources) => follow(&weak, sources, &bell, kept),
                Err(error) => tracing::error!(%error, "the topic of alerts cannot be read"),
            }
        };
        named.spawn(read).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        Ok(topic)
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Changes whenever there are more alerts.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Alerts of a partition from an offset on, some of them, and the offset to go on at.
    pub async fn read(self: &Arc<Self>, partition: u32, from: u64) -> Result<Portion> {
        {
            let end = self.end(partition);
            if from >= end.next {
                return Ok((Vec::new(), from));
            }
            if from >= end.first {
                let alerts = end.alerts.iter().filter(|alert| alert.at.offset >= from).cloned();
                return Ok((alerts.collect(), end.next));
            }
        }
        let topic = self.clone();
        in_background(move || topic.read_behind(partition, from)).await
    }

    /// The alert at a place; `None` when it is not there any more.
    pub async fn fetch(self: &Arc<Self>, at: Place) -> Result<Option<Arc<Alert>>> {
        let topic = self.clone();
        let read = move || {
            if at.offset < topic.log.bounds(&topic.name, at.partition)?.0 {
                return Ok(None);
            }
            let mut batch = Batch::default();
            topic.log.read(&topic.name, at.partition, at.offset, 1, &mut batch)?;
            let alerts = topic.alerts(at.partition, &batch).0;
            Ok(alerts.into_iter().next().filter(|alert| alert.at == at))
        };
        in_background(read).await
    }

    /// Reads from the log. What has left it is passed over, and that is said.
    fn read_behind(&self, partition: u32, from: u64) -> Result<Portion> {
        let first = self.log.bounds(&self.name, partition)?.0;
        if from < first {
            tracing::error!(
                topic = self.name,
                partition,
                from,
                first,
                "alerts have left their topic before an endpoint was told: keep the topic longer (retention.ms)"
            );
        }
        let mut batch = Batch::default();
        self.log.read(&self.name, partition, from.max(first), READ_BYTES, &mut batch)?;
        let (alerts, next) = self.alerts(partition, &batch);
        // where there is nothing up to the kept end, go on there
        Ok((alerts, next.unwrap_or_else(|| self.end(partition).first.max(first))))
    }

    /// The alerts of a batch, and the offset after its last record.
    fn alerts(&self, partition: u32, batch: &Batch) -> (Vec<Arc<Alert>>, Option<u64>) {
        let (mut alerts, mut next) = (Vec::new(), None);
        for record in batch.iter(SourceId(0), partition) {
            let at = Place { partition, offset: record.offset };
            next = Some(record.offset + 1);
            match Head::read(record.value) {
                Some(head) => {
                    alerts.push(Arc::new(Alert { at, head, body: Bytes::copy_from_slice(record.value) }));
                }
                None if self.totals.note_unreadable() == 1 => tracing::warn!(
                    topic = self.name,
                    partition,
                    offset = at.offset,
                    "a record is no CloudEvent in JSON: no endpoint is told of it (granary_webhook_unreadable_total counts on)"
                ),
                None => {}
            }
        }
        (alerts, next)
    }

    /// Adds what has come at the end of a partition.
    fn add(&self, partition: u32, batch: &Batch) {
        let (alerts, next) = self.alerts(partition, batch);
        let Some(next) = next else { return };
        let mut end = self.end(partition);
        end.next = next;
        for alert in alerts {
            end.bytes += alert.body.len();
            end.alerts.push_back(alert);
        }
        while end.bytes > KEPT_BYTES_MAX {
            let Some(alert) = end.alerts.pop_front() else { break };
            end.bytes -= alert.body.len();
            end.first = alert.at.offset + 1;
        }
    }

    fn end(&self, partition: u32) -> MutexGuard<'_, End> {
        self.ends[partition as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Closed, error.to_string())))
}

/// Reads all partitions for as long as somebody holds the topic.
fn follow(
    topic: &Weak<Topic>,
    mut sources: Vec<Box<dyn Source>>,
    bell: &Bell,
    kept: Vec<Box<dyn Any + Send + Sync>>,
) {
    let mut batch = Batch::default();
    while let Some(topic) = topic.upgrade() {
        let mut any = false;
        for (partition, source) in sources.iter_mut().enumerate() {
            let partition = partition as u32;
            let next = topic.end(partition).next;
            batch.clear();
            match source.read(next, READ_BYTES, &mut batch) {
                Ok(()) if batch.is_empty() => {}
                Ok(()) => {
                    topic.add(partition, &batch);
                    any = true;
                }
                Err(error) => {
                    tracing::warn!(%error, partition, "the topic of alerts cannot be read; trying again")
                }
            }
        }
        if any {
            topic.news.send_modify(|n| *n += 1);
            continue;
        }
        drop(topic);
        bell.wait(BELL_WAIT);
    }
    drop(kept);
}

/// What wakes the reader.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn wait(&self, most: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rung, most, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
