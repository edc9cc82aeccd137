//! The consumers behind sources: one for each thread that reads, each partition assigned by hand, with a queue of its own.
//!
//! There is no thread between the client and the reader: a partition's queue is read where its records are wanted, the
//! client itself bounds what it prefetches, and says when a queue is no longer empty. Nobody subscribes, so there is no
//! group to be thrown out of.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use granary_core::{Error, Result};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;

use crate::context::Readers;
use crate::errors::failed;
use crate::settings::Settings;

/// How often the clients' logs and errors are looked at.
const SERVE_EVERY: Duration = Duration::from_millis(200);

/// A consumer, who reads it, and the partitions it has.
struct Member {
    reader: ThreadId,
    consumer: Arc<BaseConsumer<Readers>>,
    assigned: BTreeSet<(String, u32)>,
}

/// The consumers of a process.
pub(crate) struct Consumers {
    settings: Settings,
    members: Mutex<Vec<Member>>,
    /// How many partitions may be read: each gets its share of what may be prefetched.
    partitions: AtomicU32,
    context: Readers,
}

/// A partition that is assigned until this is dropped.
pub(crate) struct Assigned {
    pub(crate) queue: PartitionQueue<Readers>,
    pub(crate) consumer: Arc<BaseConsumer<Readers>>,
    consumers: Arc<Consumers>,
    topic: String,
    partition: u32,
}

impl Consumers {
    pub(crate) fn new(settings: Settings) -> Arc<Consumers> {
        let consumers = Arc::new(Consumers {
            settings,
            members: Mutex::default(),
            partitions: AtomicU32::new(0),
            context: Readers::default(),
        });
        let served = Arc::downgrade(&consumers);
        thread::Builder::new()
            .name("kafka-serve".into())
            .spawn(move || serve(&served))
            .expect("a thread can be started");
        consumers
    }

    /// So many more partitions may be read.
    pub(crate) fn expect(&self, partitions: u32) {
        self.partitions.fetch_add(partitions, Ordering::Relaxed);
    }

    /// How often the brokers were lost so far.
    pub(crate) fn outages(&self) -> u64 {
        self.context.outages()
    }

    /// Assigns a partition to a consumer of this thread. `wake` is called on one of the client's threads whenever its
    /// empty queue gets something; it must only wake somebody.
    pub(crate) fn assign(
        self: &Arc<Self>,
        topic: &str,
        partition: u32,
        from: u64,
        wake: Option<Arc<dyn Fn() + Send + Sync>>,
    ) -> Result<Assigned> {
        let what = || format!("cannot read topic `{topic}` partition {partition}");
        let consumer = self.consumer(topic, partition)?;
        // Its queue is split off first, else the first records would come by the consumer's own.
        let queue = consumer
            .split_partition_queue(topic, partition as i32)
            .ok_or_else(|| Error::invalid(format!("{}: there is no such partition", what())))?;
        let mut assigned =
            Assigned { queue, consumer, consumers: self.clone(), topic: topic.to_owned(), partition };
        if let Some(wake) = wake {
            assigned.queue.set_nonempty_callback(move || wake());
        }
        let offset = i64::try_from(from).map_err(|_| Error::invalid(format!("{}: offset {from}", what())))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, Offset::Offset(offset))
            .and_then(|()| assigned.consumer.incremental_assign(&list))
            .map_err(|error| failed(what(), &error))?;
        Ok(assigned)
    }

    /// A consumer of this thread that does not have this partition yet.
    fn consumer(&self, topic: &str, partition: u32) -> Result<Arc<BaseConsumer<Readers>>> {
        let reader = thread::current().id();
        let name = (topic.to_owned(), partition);
        let mut members = self.members();
        let free = members.iter_mut().find(|m| m.reader == reader && !m.assigned.contains(&name));
        if let Some(member) = free {
            member.assigned.insert(name);
            return Ok(member.consumer.clone());
        }
        let config = self.settings.consumer(self.partitions.load(Ordering::Relaxed));
        let consumer = BaseConsumer::from_config_and_context(&config, self.context.clone())
            .map_err(|error| failed("cannot start a consumer", &error))?;
        let consumer = Arc::new(consumer);
        let assigned = BTreeSet::from([name]);
        members.push(Member { reader, consumer: consumer.clone(), assigned });
        Ok(consumer)
    }

    fn release(&self, consumer: &Arc<BaseConsumer<Readers>>, topic: &str, partition: u32) {
        let mut members = self.members();
        let Some(at) = members.iter().position(|member| Arc::ptr_eq(&member.consumer, consumer)) else {
            return;
        };
        members[at].assigned.remove(&(topic.to_owned(), partition));
        if members[at].assigned.is_empty() {
            let unused = members.swap_remove(at);
            drop(members);
            drop(unused);
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition as i32);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(topic = %self.topic, partition = self.partition, %error, "cannot be unassigned");
        }
        self.consumers.release(&self.consumer, &self.topic, self.partition);
    }
}

/// Takes the clients' logs and errors from the queue they come by. Records never come there.
fn serve(consumers: &Weak<Consumers>) {
    loop {
        thread::sleep(SERVE_EVERY);
        let Some(consumers) = consumers.upgrade() else { return };
        let clients: Vec<_> = consumers.members().iter().map(|member| member.consumer.clone()).collect();
        for client in clients {
            if let Some(Err(error)) = client.poll(Duration::ZERO) {
                tracing::warn!(%error, "a consumer says");
            }
        }
    }
}
