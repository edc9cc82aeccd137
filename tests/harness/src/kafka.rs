//! One Kafka broker that is its own controller (KRaft), of the jars that `deploy/dev/setup` puts aside.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::process::{Server, free_port, new_dir};

/// The version that `deploy/dev/kafka.xml` names.
const VERSION: &str = "3.9.1";

/// Brokers to use instead of an own one: host and port, comma-separated.
const GIVEN: &str = "GRANARY_TEST_KAFKA";

/// Where the jars are, unless in the cache directory.
const JARS: &str = "GRANARY_TEST_KAFKA_JARS";

/// What the broker says when it serves requests.
const STARTED: &str = "Kafka Server started";

/// For a test: soon up, and small at first.
const JVM_BRIEF: [&str; 4] = ["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// As Kafka's own scripts start it.
const JVM_LASTING: [&str; 6] = [
    "-server",
    "-Xms1g",
    "-Xmx1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
];

/// A broker, or brokers that were given.
pub struct Kafka {
    brokers: String,
    own: Option<Mutex<Own>>,
}

struct Own {
    server: Server,
    starts: usize,
}

impl Kafka {
    /// The broker that all tests of this process share: topics and clusters need names of their own ([`unique`]).
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(GIVEN) {
            Ok(brokers) => Kafka { brokers, own: None },
            Err(_) => Kafka::start(),
        })
    }

    /// A broker of one's own, to be killed and paused.
    pub fn start() -> Kafka {
        Kafka::start_with(&[])
    }

    /// A broker of one's own with these settings besides.
    pub fn start_with(settings: &[(&str, &str)]) -> Kafka {
        Kafka::start_in(&JVM_BRIEF, settings)
    }

    /// A broker of one's own that can be reached by other ways, too: it listens at the first port of each and tells who comes
    /// there to come to the address that follows.
    pub fn start_reached_by(ways: &[(u16, String)]) -> Kafka {
        Kafka::start_by(&JVM_BRIEF, &[], ways)
    }

    /// A broker of one's own as people run it: slower to start, and several times cheaper once it is warm.
    pub fn start_lasting() -> Kafka {
        Kafka::start_in(&JVM_LASTING, &[])
    }

    fn start_in(jvm: &[&str], settings: &[(&str, &str)]) -> Kafka {
        Kafka::start_by(jvm, settings, &[])
    }

    fn start_by(jvm: &[&str], settings: &[(&str, &str)], ways: &[(u16, String)]) -> Kafka {
        let dir = new_dir("kafka");
        let (port, controller) = (free_port(), free_port());
        prepare(&dir, port, controller, settings, ways).expect("the broker's directory can be written");
        let classes = format!("{}/*", jars().display());
        let rest = [
            "-Dlog4j.configuration=file:log4j.properties",
            "-cp",
            &classes,
            "kafka.Kafka",
            "server.properties",
        ];
        let command = ["java"].iter().chain(jvm).chain(&rest).map(|word| (*word).to_owned()).collect();
        let server = Server::new("Kafka", dir, command);
        let kafka =
            Kafka { brokers: format!("127.0.0.1:{port}"), own: Some(Mutex::new(Own { server, starts: 0 })) };
        kafka.restart();
        kafka
    }

    /// Host and port, as clients name it.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Ends it at once (SIGKILL); its data stays.
    pub fn kill(&self) {
        self.own().server.kill();
    }

    /// Stops it without ending it (SIGSTOP).
    pub fn pause(&self) {
        self.own().server.pause();
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.own().server.resume();
    }

    /// Starts it again on the same port and data, and waits until it serves requests.
    pub fn restart(&self) {
        let mut own = self.own();
        own.starts += 1;
        let starts = own.starts;
        own.server.start(|dir| {
            let printed = fs::read_to_string(dir.join("out.log")).unwrap_or_default();
            printed.matches(STARTED).count() >= starts
        });
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        let own =
            self.own.as_ref().unwrap_or_else(|| panic!("brokers given by {GIVEN} are not ours to stop"));
        own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name nobody else has, also not another run of the same test against given brokers.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    format!(
        "{name}-{:x}-{:x}-{}",
        now & 0xff_ffff_ffff,
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

fn jars() -> PathBuf {
    let dir = std::env::var_os(JARS).map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_default();
            PathBuf::from(home).join(".cache/granary").join(format!("kafka-{VERSION}"))
        },
        PathBuf::from,
    );
    assert!(
        dir.join(format!("kafka_2.13-{VERSION}.jar")).exists(),
        "Kafka's jars are not in {}: deploy/dev/setup tests puts them there, {GIVEN} names brokers to use instead",
        dir.display()
    );
    dir
}

/// Retention goes by the records' own times, and those of tests lie years back: nothing is removed unless a topic says so.
///
/// Writes the broker's settings and what formatting its storage would write.
fn prepare(
    dir: &Path,
    port: u16,
    controller: u16,
    settings: &[(&str, &str)],
    ways: &[(u16, String)],
) -> std::io::Result<()> {
    let data = dir.join("data");
    fs::create_dir(&data)?;
    fs::write(
        data.join("meta.properties"),
        "version=1\ncluster.id=AAAAAAAAQ0aAAAAAAAAAAQ\nnode.id=1\ndirectory.id=AAAAAAAAQ0aAAAAAAAAAAg\n",
    )?;
    let each = |way: &dyn Fn(usize, &(u16, String)) -> String| -> String {
        ways.iter().enumerate().map(|(no, of)| way(no, of)).collect()
    };
    let listens = each(&|no, (at, _)| format!(",WAY{no}://127.0.0.1:{at}"));
    let advertises = each(&|no, (_, address)| format!(",WAY{no}://{address}"));
    let kinds = each(&|no, _| format!(",WAY{no}:PLAINTEXT"));
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listens}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertises}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{kinds}
controller.listener.names=CONTROLLER
log.dirs={}
num.network.threads=2
num.io.threads=2
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
log.retention.check.interval.ms=5000
log.retention.ms=-1
log.segment.delete.delay.ms=1000
",
        data.display()
    );
    for (name, value) in settings {
        text += &format!("{name}={value}\n");
    }
    fs::write(dir.join("server.properties"), text)?;
    fs::write(
        dir.join("log4j.properties"),
        "log4j.rootLogger=WARN, out
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
",
    )
}
