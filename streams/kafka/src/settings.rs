//! What the clients are started with: the user's settings, and those that the promises rest on.

use std::collections::BTreeMap;
use std::fmt;

use granary_core::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::errors::failed;

/// After this long the broker aborts a transaction whose producer says nothing more. Readers of committed records, and
/// stable reads of markers, wait at most about as long for a producer that died.
pub const TRANSACTION_TIMEOUT_MS: u32 = 10_000;

/// A broker that is still busy with the end of a lane's last transaction is asked again so soon.
const TRANSACTION_RETRY_MS: &str = "5";

/// Before a client connects a second time, to the broker under its real name; doubled each time, up to a second.
const RECONNECT_MS: &str = "10";

/// Prefetched records of all partitions of a consumer, about; then fetching pauses until some are read.
pub const PREFETCH_RECORDS_MAX: u32 = 400_000;

/// Prefetched bytes of all partitions of a consumer, about. Of one partition one fetch more may lie there.
pub const PREFETCH_BYTES_MAX: u32 = 64 << 20;

/// Settings that cannot be passed on, each with the reason.
const OURS: [(&str, &str); 16] = [
    ("acks", "an output is published when all in-sync replicas have it"),
    ("auto.offset.reset", "an offset that is gone is an error, never skipped silently"),
    ("bootstrap.servers", "it is log.brokers"),
    ("enable.auto.commit", "positions are part of a slot's commit"),
    ("enable.auto.offset.store", "positions are part of a slot's commit"),
    ("enable.gapless.guarantee", "transactions decide what is published"),
    ("enable.idempotence", "without it an output could be doubled"),
    ("enable.partition.eof", "closing silent keys needs to know the end of a partition"),
    ("group.id", "it is granary.<cluster>"),
    ("group.instance.id", "partitions follow slots, there is no group of consumers"),
    ("isolation.level", "only committed records are read"),
    ("metadata.broker.list", "it is log.brokers"),
    ("partition.assignment.strategy", "partitions follow slots, there is no group of consumers"),
    ("partitioner", "records are partitioned by murmur2, as slots are"),
    ("transaction.timeout.ms", "a take-over waits for it; it is 10 s"),
    ("transactional.id", "it is <cluster>/<silo's life>/<lane>"),
];

/// Words in the name of a setting whose value is never shown.
const SECRET: [&str; 4] = ["password", "secret", "key.pem", "token"];

/// How to reach the brokers, and as which cluster of silos.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's name: part of the names of internal topics, transactional ids and the group.
    pub cluster: String,
    /// Host and port of brokers, comma-separated.
    pub brokers: String,
    /// Settings passed on to librdkafka, by its names (`security.protocol`, ...): `[log.kafka]`.
    pub passed_on: BTreeMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            let is_secret = SECRET.iter().any(|word| name.contains(word));
            (name.clone(), if is_secret { "(hidden)".to_owned() } else { value.clone() })
        };
        f.debug_struct("Settings")
            .field("cluster", &self.cluster)
            .field("brokers", &self.brokers)
            .field("passed_on", &self.passed_on.iter().map(shown).collect::<BTreeMap<_, _>>())
            .finish()
    }
}

impl Settings {
    /// These brokers without further settings.
    pub fn new(cluster: impl Into<String>, brokers: impl Into<String>) -> Settings {
        Settings { cluster: cluster.into(), brokers: brokers.into(), passed_on: BTreeMap::new() }
    }

    /// Every setting that cannot be passed on, with the reason: names that are ours, names and values that librdkafka
    /// does not know. Empty when all is well.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        for (name, value) in &self.passed_on {
            if let Some((_, why)) = OURS.iter().find(|(ours, _)| ours == name) {
                mistakes.push((name.clone(), format!("cannot be set: {why}")));
                continue;
            }
            let mut alone = ClientConfig::new();
            alone.set(name, value);
            if let Err(error) = alone.create_native_config() {
                mistakes.push((name.clone(), explain(&error)));
            }
        }
        mistakes
    }

    /// An error with all [`Settings::mistakes`], if there are any.
    pub fn check(&self) -> Result<()> {
        let mistakes = self.mistakes();
        if mistakes.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            mistakes.iter().map(|(name, why)| format!("log.kafka.\"{name}\" {why}")).collect();
        Err(Error::invalid(lines.join("\n")))
    }

    /// The group under which markers and, for lag tools, source positions are committed. Nobody ever subscribes in it.
    pub fn group(&self) -> String {
        format!("granary.{}", self.cluster)
    }

    /// The internal topic with a partition for each slot: its committed offsets are the markers.
    pub fn slots_topic(&self) -> String {
        format!("granary.{}.slots", self.cluster)
    }

    /// The internal topic that lists the transactional ids that are not known to be fenced.
    pub fn ids_topic(&self) -> String {
        format!("granary.{}.ids", self.cluster)
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        config
            .set("client.id", format!("granary.{}", self.cluster))
            .set("reconnect.backoff.ms", RECONNECT_MS)
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set("retry.backoff.ms", "50");
        for (name, value) in &self.passed_on {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// For questions about topics.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.client()
    }

    /// For committed offsets and records: manual assignment only. `partitions` are how many it may be given.
    pub(crate) fn consumer(&self, partitions: u32) -> ClientConfig {
        let share = |all: u32, least: u32, most: u32| (all / partitions.max(1)).clamp(least, most);
        let records = share(PREFETCH_RECORDS_MAX, 2_000, 100_000);
        let kilobytes = share(PREFETCH_BYTES_MAX / 1024, 256, 8 << 10);
        let mut config = self.client();
        config
            .set("group.id", self.group())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("queued.min.messages", records.to_string())
            .set("queued.max.messages.kbytes", kilobytes.to_string())
            // A partition that was full is fetched again this soon after it was read.
            .set("fetch.queue.backoff.ms", "5")
            // A fetch that waits for news holds up a new position of another partition of the broker.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100");
        config
    }

    /// For records outside of transactions: each once and in order as long as this producer lives.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "262144");
        if !self.passed_on.contains_key("linger.ms") {
            config.set("linger.ms", "1");
        }
        if !self.passed_on.contains_key("compression.type")
            && !self.passed_on.contains_key("compression.codec")
        {
            config.set("compression.type", "lz4");
        }
        config
    }

    /// For records that are sent many at a time and then waited for: a linger would only be waited for, too, and one below
    /// some milliseconds makes the client's thread spin.
    pub(crate) fn prompt(&self) -> ClientConfig {
        let mut config = self.producer();
        if !self.passed_on.contains_key("linger.ms") {
            config.set("linger.ms", "0");
        }
        config.set("delivery.report.only.error", "true");
        config
    }

    /// For transactions under this id.
    pub(crate) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.prompt();
        config
            .set("retry.backoff.ms", TRANSACTION_RETRY_MS)
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string());
        config
    }
}

fn explain(error: &rdkafka::error::KafkaError) -> String {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, why, ..) => why.clone(),
        other => failed("is not accepted", other).message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_come_at_once() {
        let mut settings = Settings::new("c", "127.0.0.1:1");
        for (name, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("isolation.level", "read_uncommitted"),
            ("no.such.setting", "1"),
            ("socket.timeout.ms", "soon"),
        ] {
            settings.passed_on.insert(name.into(), value.into());
        }
        let names: Vec<String> = settings.mistakes().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["isolation.level", "no.such.setting", "socket.timeout.ms"]);
        let message = settings.check().unwrap_err().message().to_owned();
        assert!(message.contains("log.kafka.\"isolation.level\" cannot be set: only committed"), "{message}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut settings = Settings::new("c", "127.0.0.1:1");
        settings.passed_on.insert("sasl.password".into(), "hunter2".into());
        settings.passed_on.insert("sasl.username".into(), "ann".into());
        let shown = format!("{settings:?}");
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
