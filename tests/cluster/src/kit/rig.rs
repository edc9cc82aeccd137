//! A cluster of its own on Kafka and Redis: topics, a pipeline, a configuration.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _};
use granary_core::{Clock as _, Span, id};
use granary_harness::{Kafka, Redis, free_port, unique};
use granary_kafka::{KafkaLog, Settings};
use granary_streams::compare::Report;
use granary_streams::inject::{self, Injector};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

use super::proxy::Proxy;
use super::published::Published;
use super::silo::Silo;
use super::until;

/// Slots of the tests' clusters.
pub const SLOTS: u16 = 96;

/// How records get to their partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// As slots do: Kafka's default.
    Murmur2,
    /// As librdkafka does by default.
    Crc32,
    /// No key, any partition.
    Keyless,
    /// As `Murmur2`, but what goes to this partition is held back until everything else was written.
    Murmur2Holding(u32),
}

/// A cluster and its input.
pub struct Rig {
    pub kafka: Broker,
    pub redis: Redis,
    pub log: Arc<KafkaLog>,
    pub cluster: String,
    pub input: String,
    pub output: String,
    pub directory: tempfile::TempDir,
    pub listen: String,
    pub gateway: String,
    proxy: Option<Proxy>,
}

/// The broker all tests share, or one that may be killed.
pub enum Broker {
    Shared(&'static Kafka),
    Own(Kafka),
}

impl std::ops::Deref for Broker {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        match self {
            Broker::Shared(kafka) => kafka,
            Broker::Own(kafka) => kafka,
        }
    }
}

/// How a cluster is made.
pub struct Setup {
    pub partitions: u32,
    pub own_broker: bool,
    /// Other ways to the broker, which is an own one then: ports, and the addresses that lead there.
    pub log_ways: Vec<(u16, String)>,
    /// Texts of the pipeline file to be replaced.
    pub pipeline: Vec<(&'static str, String)>,
    /// Lines of the configuration, each with its section.
    pub configuration: Vec<(&'static str, String)>,
    pub redis: Vec<(&'static str, &'static str)>,
    /// The silo reaches Redis by a way that can be cut.
    pub is_proxied: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            partitions: 12,
            own_broker: false,
            log_ways: Vec::new(),
            pipeline: vec![("idle_after: 10s", "idle_after: 1s".into())],
            configuration: Vec::new(),
            redis: Vec::new(),
            is_proxied: false,
        }
    }
}

impl Default for Rig {
    fn default() -> Rig {
        Rig::with(Setup::default())
    }
}

/// The shared broker keeps a file open for every partition, and a process may have so many: what no test needs any more goes.
impl Drop for Rig {
    fn drop(&mut self) {
        if let Broker::Shared(kafka) = self.kafka {
            // A test that has failed says so; that its topics stay is of no account then.
            let _ = delete_topics(kafka.brokers(), |topic| {
                topic.contains(&self.cluster) || topic == self.input || topic == self.output
            });
        }
    }
}

/// Deletes the topics whose names are so.
fn delete_topics(brokers: &str, goes: impl Fn(&str) -> bool) -> Result<(), KafkaError> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let metadata = admin.inner().fetch_metadata(None, DELETE_WITHIN)?;
    let topics: Vec<&str> =
        metadata.topics().iter().map(|topic| topic.name()).filter(|name| goes(name)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = AdminOptions::new().request_timeout(Some(DELETE_WITHIN));
    runtime.block_on(admin.delete_topics(&topics, &options)).map(drop)
}

/// How long deleting topics may take.
const DELETE_WITHIN: Duration = Duration::from_secs(10);

impl Rig {
    pub fn new() -> Rig {
        Rig::default()
    }

    pub fn with(setup: Setup) -> Rig {
        let kafka = match (setup.own_broker, &*setup.log_ways) {
            (false, []) => Broker::Shared(Kafka::shared()),
            (true, []) => Broker::Own(Kafka::start()),
            (_, ways) => Broker::Own(Kafka::start_reached_by(ways)),
        };
        let redis = Redis::start_with(&setup.redis);
        let cluster = unique("test");
        let (input, output) = (unique("input"), unique("output"));
        let log = KafkaLog::new(Settings::new(&cluster, kafka.brokers())).expect("settings without mistakes");
        let log = Arc::new(log);
        log.create(&input, setup.partitions).expect("an input topic");
        let directory = tempfile::tempdir().expect("a directory");
        let (listen, gateway) = (free_address(), free_address());
        let proxy = setup.is_proxied.then(|| Proxy::to(redis.address()));
        let rig = Rig { kafka, redis, log, cluster, input, output, directory, listen, gateway, proxy };
        rig.write(&setup);
        rig
    }

    fn write(&self, setup: &Setup) {
        let example = root().join("deploy/examples/boontadata/pipeline.yaml");
        let mut pipeline = fs::read_to_string(example).expect("the example is there");
        let topics = [
            ("topic: boontadata\n", format!("topic: {}\n", self.input)),
            ("topic: boontadata-results", format!("topic: {}", self.output)),
        ];
        for (from, to) in
            topics.iter().map(|(from, to)| (*from, to)).chain(setup.pipeline.iter().map(|(f, t)| (*f, t)))
        {
            assert!(pipeline.contains(from), "the example has no `{from}`");
            pipeline = pipeline.replace(from, to);
        }
        fs::write(self.directory.path().join("pipeline.yaml"), pipeline).expect("it can be written");
        let section = |name: &str| -> String {
            setup
                .configuration
                .iter()
                .filter(|(of, _)| *of == name)
                .map(|(_, line)| format!("{line}\n"))
                .collect()
        };
        let text = format!(
            "pipelines = [\"pipeline.yaml\"]\n[cluster]\nname = \"{}\"\nslots = {SLOTS}\n{}[silo]\nlisten = \"{}\"\n\
             gateway = \"{}\"\nlanes = 2\n{}[store]\nkind = \"redis\"\nurl = \"{}\"\n{}[log]\nkind = \"kafka\"\n\
             brokers = \"{}\"\n{}[commit]\n{}",
            self.cluster,
            section("cluster"),
            self.listen,
            self.gateway,
            section("silo"),
            self.proxy
                .as_ref()
                .map_or_else(|| self.redis.url(), |proxy| format!("redis://{}/0", proxy.address())),
            section("store"),
            self.kafka.brokers(),
            section("log"),
            section("commit"),
        );
        fs::write(self.configuration(), text).expect("it can be written");
    }

    /// Another version of the pipeline, as the variable that has a silo run it.
    pub fn changed_pipeline(&self, name: &str, changes: &[(&str, &str)]) -> (&'static str, String) {
        let directory = self.directory.path();
        let mut text = fs::read_to_string(directory.join("pipeline.yaml")).expect("it was written");
        for (from, to) in changes {
            assert!(text.contains(from), "the pipeline has no `{from}`");
            text = text.replace(from, to);
        }
        let path = directory.join(name);
        fs::write(&path, text).expect("it can be written");
        ("GRANARY__PIPELINES", path.to_string_lossy().into_owned())
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("granary.toml")
    }

    /// A silo without faults, ready.
    pub fn silo(&self) -> Silo {
        let mut silo = Silo::start(self, "");
        silo.until_ready();
        silo
    }

    /// Messages of so many devices, to be written to the input.
    pub fn load(&self, devices: u32, messages: u32) -> inject::Options {
        inject::Options { devices, messages, period: Span(5_000), ..inject::Options::default() }
    }

    /// Writes all messages.
    pub fn inject(&self, options: &inject::Options) {
        self.inject_as(options, Partitioning::Murmur2, |_| {});
    }

    /// Writes all messages in steps, and is called between them with how many steps there have been.
    pub fn inject_as(&self, options: &inject::Options, partitioning: Partitioning, between: impl FnMut(u64)) {
        inject_to(&self.log, &self.input, options, partitioning, between);
    }

    /// A command to Redis itself.
    #[track_caller]
    pub fn redis_says(&self, command: &[&str]) {
        self.redis.says(command);
    }

    /// The silo's way to Redis.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a rig made with a proxy")
    }

    /// Waits until the published results equal the truth.
    #[track_caller]
    pub fn until_right(&self, options: &inject::Options) {
        let report = self.settle(options, super::PATIENCE);
        assert!(
            report.exceptions == 0,
            "results do not become right: {} exceptions of {}: {:?}; set aside: {:?}",
            report.exceptions,
            report.of,
            report.first,
            SET_ASIDE.map(|name| (name, self.rows_set_aside(name)))
        );
    }

    /// Waits until the published results equal the truth, or so long; how they compare then.
    pub fn settle(&self, options: &inject::Options, within: Duration) -> Report {
        let began = Instant::now();
        loop {
            let report = self.compare(options, &self.published());
            if report.exceptions == 0 || began.elapsed() > within {
                return report;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// The silo has stopped: results equal the truth, no output is there twice, no revision is missing, nothing was set
    /// aside.
    #[track_caller]
    pub fn must_be_right(&self, options: &inject::Options) {
        self.must_equal_truth(options, &self.published());
        for name in SET_ASIDE {
            assert_eq!(self.rows_set_aside(name), 0, "{name}");
        }
    }

    fn rows_set_aside(&self, name: &str) -> usize {
        Published::read(self.kafka.brokers(), &self.set_aside(name)).rows.len()
    }

    /// These rows are each there once, and equal the truth.
    #[track_caller]
    pub fn must_equal_truth(&self, options: &inject::Options, published: &Published) {
        published.must_be_once();
        let report = self.compare(options, published);
        assert_eq!(report.exceptions, 0, "of {}: {:?}", report.of, report.first);
    }

    /// The input gets more partitions.
    pub fn add_partitions(&self, count: usize) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.kafka.brokers()).create().expect("a client");
        let more = NewPartitions::new(&self.input, count);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let added = runtime.block_on(admin.create_partitions([&more], &AdminOptions::new()));
        assert!(added.is_ok_and(|each| each.iter().all(Result::is_ok)), "partitions can be added");
    }

    /// The topic of a set-aside stream.
    pub fn set_aside(&self, name: &str) -> String {
        format!("granary.{}.boontadata.{name}", self.cluster)
    }

    pub fn published(&self) -> Published {
        Published::read(self.kafka.brokers(), &self.output)
    }

    fn compare(&self, options: &inject::Options, published: &Published) -> Report {
        let mut truth = Vec::new();
        inject::write_truth(inject::truth(options, Span(5_000)), &mut truth)
            .expect("memory takes everything");
        let key = granary_streams::compare::KEY_DEFAULT;
        granary_streams::compare::compare(Cursor::new(truth), Cursor::new(published.last_rows()), &key)
            .expect("rows in JSON")
    }

    /// Waits until all records of the input were read. (In topics that silos write the ends of transactions have offsets, too:
    /// there a reader at the end still seems to lag.)
    pub fn until_read(&self, silo: &Silo) {
        let lag = || silo.metric_of("granary_source_lag_records", &format!("topic=\"{}\"", self.input));
        until("all records are read", || lag() == Some(0.0));
    }
}

/// Writes all messages to a topic in steps, and is called between them with how many steps there have been.
pub fn inject_to(
    log: &KafkaLog,
    topic: &str,
    options: &inject::Options,
    partitioning: Partitioning,
    mut between: impl FnMut(u64),
) {
    let partitions = log.partitions(topic).expect("brokers").expect("an input topic");
    let mut injector = Injector::new(options.clone());
    let clock = granary::clock::SystemClock::start();
    let (mut sent, mut steps) = (0u64, 0);
    let mut batches = vec![Batch::default(); partitions as usize];
    let mut held = Batch::default();
    let held_of =
        if let Partitioning::Murmur2Holding(partition) = partitioning { Some(partition) } else { None };
    let write = |batches: &mut [Batch]| {
        // The topic's own writer is no part of what is tested: it tries until the brokers are back. What it tries again
        // after an unknown outcome may be there twice, which is what resends are for.
        until("the brokers take messages", || log.append_all(topic, batches).is_ok());
        batches.iter_mut().for_each(Batch::clear);
    };
    while let Some(message) = injector.next() {
        let device = message.key.expect("messages have their device as the key");
        let (partition, key) = match partitioning {
            Partitioning::Murmur2 | Partitioning::Murmur2Holding(_) => {
                (id::positive_murmur2(device) % partitions, Some(device))
            }
            Partitioning::Crc32 => (crc32(device) % partitions, Some(device)),
            Partitioning::Keyless => ((sent % u64::from(partitions)) as u32, None),
        };
        let batch = if held_of == Some(partition) { &mut held } else { &mut batches[partition as usize] };
        batch.push(0, clock.now(), key, message.value);
        sent += 1;
        if sent.is_multiple_of(STEP_MESSAGES) {
            write(&mut batches);
            steps += 1;
            between(steps);
        }
    }
    write(&mut batches);
    if let Some(partition) = held_of {
        batches[partition as usize] = held;
        write(&mut batches);
    }
}

/// Streams of what has no place in the results.
const SET_ASIDE: [&str; 3] = ["rejected", "late", "poisoned"];

/// Messages written in one step.
const STEP_MESSAGES: u64 = 250;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// An address that nobody listens at, and that this process was not given before.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// CRC-32 as librdkafka's partitioner takes it (the polynomial of zlib).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn crc32_is_that_of_zlib() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
