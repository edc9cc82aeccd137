//! What a silo does for those who connect to it: calls, tails, writes, questions about the silo itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_client::serve::{Feed, Gone, Reply, Service};
use granary_cluster::members::Member;
use granary_cluster::{Batch, Log, Program};
use granary_core::{Clock, Error, ErrorKind, GrainId, Key, Ran, Result, codec, id};
use granary_kafka::KafkaLog;
use granary_store::Embedded;
use granary_streams::Plan;
use granary_wire as wire;
use tokio::sync::Notify;

use crate::gateway::Gateway;
use crate::life::{Current, Leaver, table_of};
use crate::placing::{self, Moves};
use crate::rulebook::{self, Ask};

/// Records handed to one tail before others get their turn.
const TAIL_RECORDS: usize = 1_024;

/// The same in bytes, and how often another log is looked at.
const TAIL_BYTES: usize = 1 << 20;
const TAIL_EVERY: Duration = Duration::from_millis(100);

/// The service of one silo.
pub struct SiloService {
    /// Its present life.
    pub current: Arc<Current>,
    /// What its probes say.
    pub gateway: Arc<Gateway>,
    /// Has it give its slots away.
    pub leaver: Leaver,
    /// The clock, for records it writes.
    pub clock: Arc<dyn Clock>,
    /// The topics of its output streams, by the name people use.
    pub topics: BTreeMap<String, String>,
    /// What becomes of records, if anything.
    pub plan: Option<Arc<Plan>>,
    /// Its name.
    pub silo: String,
}

impl SiloService {
    fn topic(&self, stream: &str) -> Result<(String, u32)> {
        let topic = self.topics.get(stream).cloned().unwrap_or_else(|| stream.to_string());
        match self.current.backing()?.log.partitions(&topic)? {
            Some(partitions) => Ok((topic, partitions)),
            None => {
                let known: Vec<&str> = self.topics.keys().map(String::as_str).collect();
                let message = format!("there is no stream `{stream}`; there are: {}", known.join(", "));
                Err(Error::new(ErrorKind::NotFound, message).ran(Ran::No))
            }
        }
    }

    /// The records by partition, as batches.
    fn batches(&self, records: &[wire::NewRecord<'_>], partitions: u32) -> BTreeMap<u32, Batch> {
        let now = self.clock.now();
        let mut batches: BTreeMap<u32, Batch> = BTreeMap::new();
        for record in records {
            let partition = record.key.map_or(0, |key| id::positive_murmur2(key) % partitions);
            batches.entry(partition).or_default().push(0, now, record.key, record.value);
        }
        batches
    }
}

impl Service for SiloService {
    fn call(&self, call: wire::Call<'_>, reply: Reply) {
        let options = match call.options() {
            Ok(options) => options,
            Err(error) => return reply.send(Err(error)),
        };
        let lanes = match self.current.lanes() {
            Ok(lanes) => lanes,
            Err(error) => return reply.send(Err(error)),
        };
        let grain = GrainId { kind: call.kind.into(), key: Key::parse(call.key) };
        reply.follow(lanes.call(grain, call.method, call.arguments.to_vec(), options));
    }

    fn tail(&self, tail: wire::Tail<'_>, feed: Feed) {
        let found = self.topic(tail.stream).and_then(|found| Ok((found, self.current.backing()?)));
        let ((topic, partitions), backing) = match found {
            Ok(found) => found,
            Err(error) => return feed.fail(error),
        };
        if let Some(store) = backing.as_embedded() {
            drop(tokio::spawn(follow(store.clone(), topic, partitions, tail.start, feed)));
        } else if let Some(external) = backing.as_external() {
            let log = external.kafka.clone();
            drop(tokio::spawn(follow_kafka(log, topic, partitions, tail.start, feed)));
        }
    }

    fn produce(&self, produce: wire::Produce<'_>, reply: Reply) {
        let found = self.topic(produce.topic).and_then(|found| Ok((found, self.current.backing()?.log)));
        let ((topic, partitions), log) = match found {
            Ok(found) => found,
            Err(error) => return reply.send(Err(error)),
        };
        let batches = self.batches(&produce.records, partitions);
        drop(tokio::task::spawn_blocking(move || {
            let written = batches
                .iter()
                .try_for_each(|(partition, batch)| log.append(&topic, *partition, batch).map(|_| ()));
            reply.send(written.map(|()| Vec::new()));
        }));
    }

    fn ask(&self, what: &str, arguments: &[u8], reply: Reply) {
        match what {
            "status" => reply.send(self.status()),
            "slots" => reply.send(self.slots()),
            "members" => reply.send(self.members()),
            "move" => self.place(arguments, reply),
            "drain" => self.drain(reply),
            "ends" => self.ends(arguments, reply),
            "rules" => self.rules(arguments, reply),
            _ => {
                let message = format!(
                    "a silo does not know the question `{what}`; it knows: status, slots, members, move, drain, ends, \
                     rules"
                );
                reply.send(Err(Error::new(ErrorKind::NotFound, message).ran(Ran::No)));
            }
        }
    }
}

impl SiloService {
    /// The next offset of each partition of a stream: where a tail that begins at the latest record begins.
    fn ends(&self, stream: &[u8], reply: Reply) {
        let topic = codec::from_bytes::<String>(stream).and_then(|stream| self.topic(&stream));
        let found = topic.and_then(|found| Ok((found, self.current.backing()?.log)));
        let ((topic, partitions), log) = match found {
            Ok(found) => found,
            Err(error) => return reply.send(Err(error)),
        };
        drop(tokio::task::spawn_blocking(move || {
            let end = |partition| log.bounds(&topic, partition).map(|(_, next)| (partition, next));
            let ends = (0..partitions).map(end).collect::<Result<BTreeMap<u32, u64>>>();
            reply.send(ends.and_then(|ends| codec::to_bytes(&ends)));
        }));
    }

    /// What it judges by, and by what it is to judge.
    fn rules(&self, ask: &[u8], reply: Reply) {
        let ask = match codec::from_bytes::<Ask>(ask) {
            Ok(ask) => ask,
            Err(error) => return reply.send(Err(error)),
        };
        let (plan, current, now) = (self.plan.clone(), self.current.clone(), self.clock.now());
        drop(tokio::spawn(async move {
            let answer = rulebook::answer(ask, plan, &current, now).await;
            reply.send(answer.and_then(|answer| codec::to_bytes(&answer)));
        }));
    }

    fn status(&self) -> Result<Vec<u8>> {
        let mut status: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        let reasons = self.gateway.reasons();
        status.insert("silo".into(), self.silo.clone().into());
        status.insert("ready".into(), reasons.is_empty().into());
        status.insert("reasons".into(), reasons.into());
        if let Ok(Some(view)) = self.current.view() {
            let names = view.table.members.iter().map(|member| member.name.clone());
            status.insert("members".into(), names.collect::<Vec<_>>().into());
            let of = |member: &Member| (member.name.clone(), member.generation.0.into());
            let generations = view.table.members.iter().map(of).collect::<serde_json::Map<_, _>>();
            status.insert("generations".into(), generations.into());
        }
        if let Some(Program { revision, generation }) = self.gateway.program() {
            status.insert("revision".into(), revision.0.into());
            status.insert("generation".into(), generation.0.into());
        }
        for (name, value) in self.current.lanes().map(|lanes| lanes.stats().named()).unwrap_or_default() {
            status.insert(name.into(), value.into());
        }
        codec::to_bytes(&status)
    }

    /// Which silo has which slot, as this one sees it.
    fn slots(&self) -> Result<Vec<u8>> {
        let slots = self.current.lanes()?.slots();
        match self.current.view()? {
            Some(view) => table_of(&view, slots).to_bytes(),
            None => Err(self.is_alone()),
        }
    }

    fn is_alone(&self) -> Error {
        let message = format!("silo {} has all slots: it is a cluster of one", self.silo);
        Error::new(ErrorKind::NotFound, message).ran(Ran::No)
    }

    /// What each member tells of itself.
    fn members(&self) -> Result<Vec<u8>> {
        let table = self.current.table()?.ok_or_else(|| self.is_alone())?;
        codec::to_bytes(&placing::members(&table))
    }

    /// Places slots on a silo, or leaves them to the rule again.
    fn place(&self, arguments: &[u8], reply: Reply) {
        let found = || {
            let moves: Moves = codec::from_bytes(arguments)?;
            let table = self.current.table()?.ok_or_else(|| self.is_alone())?;
            let backing = self.current.backing()?;
            let redis = backing.as_external().ok_or_else(|| self.is_alone())?.redis.clone();
            Ok((moves, self.current.lanes()?.slots(), table, redis))
        };
        let (moves, slots, table, redis) = match found() {
            Ok(found) => found,
            Err(error) => return reply.send(Err(error)),
        };
        drop(tokio::task::spawn_blocking(move || {
            let after = placing::carry_out(&moves, slots, &table, &redis);
            reply.send(after.and_then(|table| codec::to_bytes(&placing::members(&table))));
        }));
    }

    /// Gives the silo's slots to the others and answers how many it still has.
    fn drain(&self, reply: Reply) {
        let (leaver, current) = (self.leaver.clone(), self.current.clone());
        drop(tokio::spawn(async move {
            leaver.leave().await;
            let held = current.lanes().map(|lanes| lanes.stats().slots_held);
            reply.send(held.and_then(|held| codec::to_bytes(&held)));
        }));
    }
}

/// Feeds the records of a topic as they come, until the client has enough or goes.
async fn follow(store: Arc<Embedded>, topic: String, partitions: u32, start: wire::Start, mut feed: Feed) {
    let news = Arc::new(Notify::new());
    let bell = news.clone();
    let _subscription = store.subscribe(&topic, Box::new(move || bell.notify_one()));
    let mut next = match first_offsets(&*store, &topic, partitions, &start) {
        Ok(next) => next,
        Err(error) => return feed.fail(error),
    };
    loop {
        let mut any = false;
        for partition in 0..partitions {
            match feed_some(&store, &topic, partition, &mut next[partition as usize], &mut feed) {
                Ok(Ok(fed)) => any |= fed,
                Ok(Err(Gone)) => return,
                Err(error) => return feed.fail(error),
            }
        }
        if any {
            if feed.ready().await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            biased;
            () = feed.gone() => return,
            () = news.notified() => {}
        }
    }
}

/// A record of a topic of Kafka, on its way to a tail.
struct Seen {
    offset: u64,
    key: Option<Vec<u8>>,
    id: Option<String>,
    value: Vec<u8>,
}

/// Feeds the records of a topic of Kafka, which is looked at now and then.
async fn follow_kafka(
    log: Arc<KafkaLog>,
    topic: String,
    partitions: u32,
    start: wire::Start,
    mut feed: Feed,
) {
    let ended = || Error::new(ErrorKind::Closed, "the silo ends");
    let (asked, of) = (log.clone(), topic.clone());
    let first = tokio::task::spawn_blocking(move || first_offsets(&*asked, &of, partitions, &start)).await;
    let mut next = match first.unwrap_or_else(|_| Err(ended())) {
        Ok(next) => next,
        Err(error) => return feed.fail(error),
    };
    loop {
        let mut any = false;
        for partition in 0..partitions {
            let (asked, of, from) = (log.clone(), topic.clone(), next[partition as usize]);
            let read = tokio::task::spawn_blocking(move || read_some(&asked, &of, partition, from)).await;
            let seen = match read.unwrap_or_else(|_| Err(ended())) {
                Ok(seen) => seen,
                Err(error) => return feed.fail(error),
            };
            for Seen { offset, key, id, value } in seen {
                let (key, id) = (key.as_deref(), id.as_deref());
                let record = wire::Record { partition, offset, key, id, value: &value };
                loop {
                    match feed.try_send(&record) {
                        Ok(true) => break,
                        Ok(false) if feed.ready().await.is_ok() => {}
                        Ok(false) | Err(Gone) => return,
                    }
                }
                next[partition as usize] = offset + 1;
                any = true;
            }
        }
        if !any {
            tokio::select! {
                biased;
                () = feed.gone() => return,
                () = tokio::time::sleep(TAIL_EVERY) => {}
            }
        }
    }
}

fn read_some(log: &KafkaLog, topic: &str, partition: u32, from: u64) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    log.read_with_ids(topic, partition, from, TAIL_BYTES, |offset, key, id, value| {
        let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
        seen.push(Seen { offset, key: key.map(<[u8]>::to_vec), id, value: value.to_vec() });
    })?;
    Ok(seen)
}

fn first_offsets(store: &dyn Log, topic: &str, partitions: u32, start: &wire::Start) -> Result<Vec<u64>> {
    (0..partitions)
        .map(|partition| {
            let (first, next) = store.bounds(topic, partition)?;
            Ok(match start {
                wire::Start::Earliest => first,
                wire::Start::Latest => next,
                wire::Start::Offsets(offsets) => {
                    offsets.iter().find(|(p, _)| *p == partition).map_or(first, |(_, offset)| *offset)
                }
            })
        })
        .collect()
}

fn feed_some(
    store: &Embedded,
    topic: &str,
    partition: u32,
    next: &mut u64,
    feed: &mut Feed,
) -> Result<std::result::Result<bool, Gone>> {
    let mut gone = false;
    let mut waits = false;
    let mut fed = 0;
    let read_to = store.read_with_ids(topic, partition, *next, |offset, entry| {
        let id = entry.id.and_then(|id| std::str::from_utf8(id).ok());
        let record = wire::Record { partition, offset, key: entry.key, id, value: entry.value };
        match feed.try_send(&record) {
            Ok(true) => {
                *next = offset + 1;
                fed += 1;
                fed < TAIL_RECORDS
            }
            Ok(false) => {
                waits = true;
                false
            }
            Err(Gone) => {
                gone = true;
                false
            }
        }
    })?;
    if fed == 0 && !waits {
        *next = (*next).max(read_to);
    }
    Ok(if gone { Err(Gone) } else { Ok(fed > 0 || waits) })
}
