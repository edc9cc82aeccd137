//! What clients ask of a silo: calls go to the lanes, streams come from the log.
//!
//! Reading and writing the log may wait for a disk: that happens on the runtime's threads for blocking work, never
//! on the task that reads a connection, and never on a lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_client::serve::{Feed, Gone, Identity, Reply, Service, serve};
use granary_cluster::{Batch, Log};
use granary_core::call::Options;
use granary_core::id::positive_murmur2;
use granary_core::{Clock, Error, ErrorKind, GrainId, Key, Ran, Result, codec};
use granary_engine::Handle;
use granary_store::Embedded;
use granary_streams::plan::SET_ASIDE;
use granary_wire::{Call, Produce, Start, Tail};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

use crate::assembly::{Assembly, Running};

/// How many bytes of a partition one read of a tail takes.
const TAIL_READ_BYTES: usize = 256 << 10;

/// Records that have no key go to this partition.
const KEYLESS_PARTITION: u32 = 0;

/// Serves clients until `stop` ends, then lets answers under way leave.
pub async fn listen(running: &Running, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<()> {
    let assembly = running.assembly();
    let identity = Identity { cluster: assembly.cluster.clone(), silo: assembly.silo.clone() };
    let service = Arc::new(Front::of(running));
    let served = serve(listener, service, identity, stop).await;
    served.map_err(|e| Error::new(ErrorKind::Unavailable, format!("calls cannot be served: {e}")))
}

/// The front of a silo.
struct Front {
    handle: Handle,
    store: Arc<Embedded>,
    clock: Arc<dyn Clock>,
    /// Topics by the names people use.
    names: BTreeMap<String, String>,
    cluster: String,
    silo: String,
    slots: u16,
}

impl Front {
    fn of(running: &Running) -> Front {
        let assembly = running.assembly();
        Front {
            handle: running.handle(),
            store: running.store().clone(),
            clock: assembly.clock.clone(),
            names: names(assembly),
            cluster: assembly.cluster.clone(),
            silo: assembly.silo.clone(),
            slots: assembly.slots,
        }
    }

    /// The topic meant by `stream`, and its partitions.
    fn topic(&self, stream: &str) -> Result<(String, u32)> {
        let topic = self.names.get(stream).map_or(stream, String::as_str);
        match self.store.partitions(topic)? {
            Some(partitions) => Ok((topic.to_owned(), partitions)),
            None => {
                let known: Vec<&str> = self.names.keys().map(String::as_str).collect();
                let message =
                    format!("no stream and no topic `{stream}`; streams here: {}", known.join(", "));
                Err(Error::new(ErrorKind::NotFound, message).ran(Ran::No))
            }
        }
    }
}

/// The streams of a silo, each with its topic.
fn names(assembly: &Assembly) -> BTreeMap<String, String> {
    let planned = assembly.plan.iter().flat_map(|plan| plan.streams().iter().map(String::as_str));
    let emitted = assembly.emits.iter().map(|(name, _)| name.as_str());
    let all = planned.chain(emitted).chain(SET_ASIDE).chain([crate::assembly::ALERTS]);
    all.filter_map(|name| Some((name.to_owned(), assembly.topic_of(name)?))).collect()
}

/// How a silo is.
#[derive(Serialize)]
struct Status<'a> {
    cluster: &'a str,
    silo: &'a str,
    slots: u16,
    streams: &'a BTreeMap<String, String>,
    counters: BTreeMap<&'static str, u64>,
}

impl Service for Front {
    fn call(&self, call: Call<'_>, reply: Reply) {
        if call.kind.is_empty() || call.key.is_empty() {
            let message = format!("`{}/{}` names no grain: Kind/key expected", call.kind, call.key);
            return reply.send(Err(Error::invalid(message).ran(Ran::No)));
        }
        let grain = GrainId { kind: call.kind.into(), key: Key::parse(call.key) };
        let options = Options {
            timeout: Some(call.timeout),
            idempotency_key: call.idempotency_key.map(Arc::from),
            one_way: call.one_way,
            ..Options::default()
        };
        reply.follow(self.handle.call(grain, call.method, call.arguments.to_vec(), options));
    }

    fn tail(&self, tail: Tail<'_>, feed: Feed) {
        let followed = self.topic(tail.stream).and_then(|(topic, partitions)| {
            let next = begin(&self.store, &topic, partitions, &tail.start)?;
            Ok(Follower { store: self.store.clone(), topic, next })
        });
        match followed {
            Ok(follower) => drop(tokio::spawn(follower.feed(feed))),
            Err(error) => feed.fail(error),
        }
    }

    fn produce(&self, produce: Produce<'_>, reply: Reply) {
        let (topic, partitions) = match self.topic(produce.topic) {
            Ok(found) => found,
            Err(error) => return reply.send(Err(error)),
        };
        let now = self.clock.now();
        let mut batches: BTreeMap<u32, Batch> = BTreeMap::new();
        for record in &produce.records {
            let partition = record.key.map_or(KEYLESS_PARTITION, |key| positive_murmur2(key) % partitions);
            batches.entry(partition).or_default().push(0, now, record.key, record.value);
        }
        let store = self.store.clone();
        let (to, answer) = oneshot::channel();
        reply.follow(answer);
        tokio::task::spawn_blocking(move || {
            // Once a partition has its records, an error of another leaves them there.
            let written = batches
                .iter()
                .try_for_each(|(partition, batch)| store.append(&topic, *partition, batch).map(drop))
                .map_err(|error| if batches.len() > 1 { error.ran(Ran::Unknown) } else { error });
            drop(to.send(written.map(|()| Vec::new()))); // a client that has gone misses it
        });
    }

    fn status(&self, reply: Reply) {
        let status = Status {
            cluster: &self.cluster,
            silo: &self.silo,
            slots: self.slots,
            streams: &self.names,
            counters: self.handle.stats().named().into_iter().collect(),
        };
        reply.send(codec::to_bytes(&status));
    }
}

/// The next offset of each partition.
fn begin(store: &Embedded, topic: &str, partitions: u32, start: &Start) -> Result<Vec<u64>> {
    let mut next = Vec::new();
    for partition in 0..partitions {
        let (first, end) = store.bounds(topic, partition)?;
        next.push(if *start == Start::Latest { end } else { first });
    }
    if let Start::Offsets(offsets) = start {
        for (partition, offset) in offsets {
            match next.get_mut(*partition as usize) {
                Some(place) => *place = *offset,
                None => {
                    let message =
                        format!("`{topic}` has {partitions} partitions, there is no number {partition}");
                    return Err(Error::invalid(message));
                }
            }
        }
    }
    Ok(next)
}

/// A record taken from the log.
struct Taken {
    offset: u64,
    key: Option<Vec<u8>>,
    id: Option<String>,
    value: Vec<u8>,
}

/// Reads a topic for one tail.
struct Follower {
    store: Arc<Embedded>,
    topic: String,
    next: Vec<u64>,
}

impl Follower {
    /// Feeds records until the client wants no more. An error of the log ends the tail with that error.
    async fn feed(mut self, mut feed: Feed) {
        let news = Arc::new(Notify::new());
        let wake = news.clone();
        let subscription = self.store.subscribe(&self.topic, Box::new(move || wake.notify_one()));
        loop {
            match self.round(&mut feed).await {
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    biased;
                    () = feed.gone() => break,
                    () = news.notified() => {}
                },
                Err(Stop::Gone) => break,
                Err(Stop::Failed(error)) => {
                    feed.fail(error);
                    break;
                }
            }
        }
        drop(subscription);
    }

    /// Feeds what there is of each partition, a read of each; whether there was anything.
    async fn round(&mut self, feed: &mut Feed) -> Result<bool, Stop> {
        let mut any = false;
        for partition in 0..self.next.len() {
            feed.ready().await?;
            let number = u32::try_from(partition).expect("partitions are counted in 32 bits");
            let (store, topic, from) = (self.store.clone(), self.topic.clone(), self.next[partition]);
            let read = tokio::task::spawn_blocking(move || take(&store, &topic, number, from)).await;
            let records = read.map_err(|e| Stop::Failed(Error::new(ErrorKind::Closed, e.to_string())))??;
            for record in &records {
                let (key, id) = (record.key.as_deref(), record.id.as_deref());
                let offset = record.offset;
                let record =
                    granary_wire::Record { partition: number, offset, key, id, value: &record.value };
                feed.send(&record).await?;
                self.next[partition] = offset + 1;
                any = true;
            }
        }
        Ok(any)
    }
}

/// Why a tail ends.
enum Stop {
    Gone,
    Failed(Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

fn take(store: &Embedded, topic: &str, partition: u32, from: u64) -> Result<Vec<Taken>> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    store.read_with_ids(topic, partition, from, |offset, entry| {
        bytes += entry.value.len();
        records.push(Taken {
            offset,
            key: entry.key.map(<[u8]>::to_vec),
            id: entry.id.map(|id| String::from_utf8_lossy(id).into_owned()),
            value: entry.value.to_vec(),
        });
        bytes < TAIL_READ_BYTES
    })?;
    Ok(records)
}
