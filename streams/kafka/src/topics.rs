//! Topics: creating them, counting their partitions, telling one from another of the same name.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use granary_core::{Error, ErrorKind, Result};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::Offset;

use crate::context::{self, Logs};
use crate::errors::{failed, refused};
use crate::settings::Settings;

/// How long a question about topics may take.
pub const ASK_WAIT: Duration = Duration::from_secs(10);

/// Wall-clock inputs of slots are kept this long in the internal slots topic: as long as the store may go back.
const SLOTS_RETENTION_MS: &str = "604800000";

/// For a topic whose retention must not go by the event times of its records: re-keyed records, set-aside streams.
pub const BY_APPEND_TIME: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// How long to wait between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Tells a topic from another of the same name: one that was deleted and created again, or lives on other brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicIdentity {
    /// The id of the brokers' cluster.
    pub brokers: Option<String>,
    /// The id the brokers gave the topic when it was created. `None` with brokers older than 2.8.
    pub topic: Option<String>,
    /// How many partitions it has.
    pub partitions: u32,
}

impl TopicIdentity {
    /// In one line of text, to be kept.
    pub fn to_text(&self) -> String {
        let known = |id: &Option<String>| id.clone().unwrap_or_else(|| "?".to_owned());
        format!("{} {} {}", known(&self.brokers), known(&self.topic), self.partitions)
    }

    /// What [`TopicIdentity::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<TopicIdentity> {
        let known = |id: &str| (id != "?").then(|| id.to_owned());
        let mut words = text.split(' ');
        let (brokers, topic, partitions) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        words.next().is_none().then(|| TopicIdentity {
            brokers: known(brokers),
            topic: known(topic),
            partitions,
        })
    }

    /// In which way a topic is not the one it was, for a person; `None` when it is.
    pub fn differs(&self, now: &TopicIdentity) -> Option<String> {
        let other = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        let text = |id: &Option<String>| id.clone().unwrap_or_default();
        if other(&self.brokers, &now.brokers) {
            return Some(format!(
                "it is on brokers {}, before on {}",
                text(&now.brokers),
                text(&self.brokers)
            ));
        }
        if other(&self.topic, &now.topic) {
            return Some(format!(
                "it was deleted and created again (its id is {}, was {})",
                text(&now.topic),
                text(&self.topic)
            ));
        }
        (self.partitions != now.partitions)
            .then(|| format!("it has {} partitions, had {}", now.partitions, self.partitions))
    }
}

/// How many partitions a topic has; `None` when there is no such topic.
pub(crate) fn partitions(client: &BaseConsumer<Logs>, topic: &str) -> Result<Option<u32>> {
    Ok(look(client, topic)?.map(|seen| seen.partitions))
}

/// A topic as the brokers tell of it.
struct Seen {
    partitions: u32,
    /// Every partition has a broker that takes records.
    is_led: bool,
}

fn look(client: &BaseConsumer<Logs>, topic: &str) -> Result<Option<Seen>> {
    let what = || format!("cannot ask about topic `{topic}`");
    let deadline = Instant::now() + ASK_WAIT;
    loop {
        let metadata =
            client.fetch_metadata(Some(topic), ASK_WAIT).map_err(|error| failed(what(), &error))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        match found.map(|t| (t.error().map(Code::from), t.partitions())) {
            None | Some((Some(Code::UnknownTopicOrPartition | Code::UnknownTopic), _)) => return Ok(None),
            Some((None, all)) => {
                let is_led = all.iter().all(|p| p.error().is_none() && p.leader() >= 0);
                return Ok(Some(Seen { partitions: all.len() as u32, is_led }));
            }
            Some((Some(code), _)) if code != Code::LeaderNotAvailable || Instant::now() > deadline => {
                return Err(refused(what(), code));
            }
            Some(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Creates a topic and waits until it can be used; fine when it exists with as many partitions.
pub(crate) fn create(
    settings: &Settings,
    client: &BaseConsumer<Logs>,
    topic: &str,
    count: u32,
    config: &[(&str, &str)],
) -> Result<()> {
    let what = || format!("cannot create topic `{topic}`");
    let admin: AdminClient<Logs> = AdminClient::from_config_and_context(&settings.admin(), Logs)
        .map_err(|error| failed(what(), &error))?;
    let mut new = NewTopic::new(topic, count as i32, TopicReplication::Fixed(-1));
    for (name, value) in config {
        new = new.set(name, value);
    }
    let options = AdminOptions::new().request_timeout(Some(ASK_WAIT)).operation_timeout(Some(ASK_WAIT));
    let answers = block_on(admin.create_topics([&new], &options)).map_err(|error| failed(what(), &error))?;
    match answers.into_iter().next() {
        Some(Err((_, code))) if code != Code::TopicAlreadyExists => return Err(refused(what(), code)),
        _ => {}
    }
    let deadline = Instant::now() + ASK_WAIT;
    loop {
        match look(client, topic)? {
            Some(seen) if seen.partitions != count => return Err(other_count(topic, seen.partitions, count)),
            // A client that sees a partition without a leader looks again much later.
            Some(Seen { is_led: true, .. }) => return Ok(()),
            Some(_) if Instant::now() > deadline => return Ok(()), // whoever writes to it will hear why
            None if Instant::now() > deadline => {
                return Err(Error::new(ErrorKind::Unavailable, format!("{}: it does not appear", what())));
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Deletes a topic; fine when there is none.
pub(crate) fn delete(settings: &Settings, client: &BaseConsumer<Logs>, topic: &str) -> Result<()> {
    let what = || format!("cannot delete topic `{topic}`");
    let admin: AdminClient<Logs> = AdminClient::from_config_and_context(&settings.admin(), Logs)
        .map_err(|error| failed(what(), &error))?;
    let options = AdminOptions::new().request_timeout(Some(ASK_WAIT)).operation_timeout(Some(ASK_WAIT));
    let answers =
        block_on(admin.delete_topics(&[topic], &options)).map_err(|error| failed(what(), &error))?;
    match answers.into_iter().next() {
        Some(Err((_, code))) if code != Code::UnknownTopicOrPartition => return Err(refused(what(), code)),
        _ => {}
    }
    let deadline = Instant::now() + ASK_WAIT;
    while partitions(client, topic)?.is_some() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn other_count(topic: &str, found: u32, wanted: u32) -> Error {
    Error::invalid(format!(
        "topic `{topic}` exists with {found} partitions, {wanted} are needed: use another name, or delete it"
    ))
}

/// Creates the internal topics of a cluster with so many slots, or checks that they are as they must be.
pub(crate) fn create_internal(settings: &Settings, client: &BaseConsumer<Logs>, slots: u16) -> Result<()> {
    let keep = [("cleanup.policy", "delete"), ("retention.ms", SLOTS_RETENTION_MS), BY_APPEND_TIME];
    create(settings, client, &settings.slots_topic(), u32::from(slots), &keep).map_err(|error| {
        if error.kind() != ErrorKind::Invalid {
            return error;
        }
        Error::invalid(format!(
            "{}; a cluster's slots are counted when it is created: set cluster.slots as it was then, or cluster.name to \
             another name",
            error.message()
        ))
    })?;
    create(settings, client, &settings.ids_topic(), 1, &[("cleanup.policy", "compact")])
}

/// Tells a topic from others of its name.
pub(crate) fn identity(settings: &Settings, topic: &str) -> Result<TopicIdentity> {
    let what = || format!("cannot ask about topic `{topic}`");
    let mut config = settings.consumer(1);
    // The client knows the topic's id, but tells it only in this log.
    config.set("debug", "topic").set_log_level(RDKafkaLogLevel::Debug);
    let seen = IdSeen { topic: topic.to_owned(), id: Mutex::default() };
    let consumer =
        BaseConsumer::from_config_and_context(&config, seen).map_err(|error| failed(what(), &error))?;
    let metadata = consumer.fetch_metadata(Some(topic), ASK_WAIT).map_err(|error| failed(what(), &error))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let partitions = match found.map(|t| (t.error().map(Code::from), t.partitions().len())) {
        Some((None, count)) => count as u32,
        Some((Some(code), _)) => return Err(refused(what(), code)),
        None => return Err(refused(what(), Code::UnknownTopicOrPartition)),
    };
    let brokers = consumer.client().fetch_cluster_id(ASK_WAIT);
    // Assigning a partition makes the client look at the topic, at its end nothing is fetched.
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::End)
        .and_then(|()| consumer.assign(&assignment))
        .map_err(|error| failed(what(), &error))?;
    let deadline = Instant::now() + ID_WAIT;
    loop {
        drop(consumer.poll(LOOK_EVERY));
        let topic = consumer.context().id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if topic.is_some() || Instant::now() > deadline {
            return Ok(TopicIdentity { brokers, topic, partitions });
        }
    }
}

/// How long to wait for the topic's id to be told.
const ID_WAIT: Duration = Duration::from_secs(3);

/// Takes a topic's id from the client's log: `Topic NAME changed id from OLD to NEW`.
struct IdSeen {
    topic: String,
    id: Mutex<Option<String>>,
}

impl ClientContext for IdSeen {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match id_in(&self.topic, message) {
            Some(id) => *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned()),
            None => context::log(level, facility, message),
        }
    }
}

impl ConsumerContext for IdSeen {}

fn id_in<'m>(topic: &str, message: &'m str) -> Option<&'m str> {
    let (_, rest) = message.split_once("Topic ")?;
    let ids = rest.strip_prefix(topic)?.strip_prefix(" changed id from ")?;
    let (_, id) = ids.split_once(" to ")?;
    (!id.is_empty()).then_some(id)
}

/// Runs a future of the client, which wakes from a thread of its own.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_read_from_the_log() {
        let line = "[thrd:main]: Topic a b changed id from AAAAAAAAAAAAAAAAAAAAAA to 5cDc7OG1R5aPcWmFHLqLKg";
        assert_eq!(id_in("a b", line), Some("5cDc7OG1R5aPcWmFHLqLKg"));
        assert_eq!(id_in("a", line), None);
        assert_eq!(id_in("a b", "Topic a b partition 3 Leader 1"), None);
    }

    #[test]
    fn an_identity_is_kept_as_text_and_compared() {
        let known = TopicIdentity { brokers: Some("b".into()), topic: Some("t".into()), partitions: 4 };
        let unknown = TopicIdentity { topic: None, ..known.clone() };
        for identity in [&known, &unknown] {
            assert_eq!(TopicIdentity::from_text(&identity.to_text()).as_ref(), Some(identity));
        }
        assert_eq!(known.differs(&unknown), None, "what is not known does not differ");
        let again = TopicIdentity { topic: Some("u".into()), ..known.clone() };
        assert!(known.differs(&again).is_some_and(|why| why.contains("deleted and created again")));
        let more = TopicIdentity { partitions: 8, ..known.clone() };
        assert!(known.differs(&more).is_some_and(|why| why.contains("has 8 partitions, had 4")));
    }
}
