//! The values as types. `Debug` and [`Settings::effective`] show no secret.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use granary_alerts::guard::Net;
use granary_core::time::{Span, millis};
use serde::{Deserialize, Serialize, Serializer};

use super::from_directory;
use super::mistakes::Mistakes;

/// What stands where a secret is.
const HIDDEN: &str = "***";

/// The configuration of a silo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The pipeline files it runs.
    pub pipelines: Vec<String>,
    /// What all silos of the cluster share.
    pub cluster: Cluster,
    /// This silo.
    pub silo: Silo,
    /// Where state lives.
    pub store: Store,
    /// Where streams live.
    pub log: Log,
    /// How often log-driven commits are made.
    pub commit: Commit,
    /// To whom webhooks may go.
    pub alerts: Alerts,
    /// Where each key was set; keys with their default are not among them.
    #[serde(skip)]
    pub(super) origins: BTreeMap<String, String>,
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Its name: part of topics and keys.
    pub name: String,
    /// How many slots it has, for ever.
    pub slots: u16,
    /// Steps and kinds of earlier revisions that this one goes on without on purpose.
    pub left_out: Vec<String>,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { name: "dev".into(), slots: 96, left_out: Vec::new() }
    }
}

/// `[silo]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Silo {
    /// Where it listens for calls.
    pub listen: String,
    /// Where it listens for probes and metrics.
    pub gateway: String,
    /// Its name; by default one made from the host's.
    pub name: Option<String>,
    /// The address others reach it at; by default where it listens.
    pub advertise: Option<String>,
    /// A silo that has not renewed its lease for so long is taken for dead, and its slots go to others.
    pub lease_ms: u64,
    /// A silo that has not reached Kafka for so long, while another one reaches it, gives way: its slots go to others until
    /// it reaches Kafka again.
    pub kafka_away_max_ms: u64,
    /// How many lanes; by default one for each core.
    pub lanes: Option<u16>,
    /// The most memory activations may take; by default a share of the machine's.
    pub memory_bytes_max: Option<u64>,
}

impl Default for Silo {
    fn default() -> Self {
        Silo {
            listen: "127.0.0.1:7400".into(),
            gateway: "127.0.0.1:7480".into(),
            name: None,
            advertise: None,
            lease_ms: 2_000,
            kafka_away_max_ms: 30_000,
            lanes: None,
            memory_bytes_max: None,
        }
    }
}

impl Silo {
    /// A silo that has not renewed its lease for so long is taken for dead.
    pub fn lease(&self) -> Span {
        millis(self.lease_ms)
    }

    /// A silo may be so long without Kafka, if others are not.
    pub fn kafka_away_max(&self) -> Span {
        millis(self.kafka_away_max_ms)
    }
}

/// What keeps state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A store inside the silo, in a directory.
    #[default]
    Embedded,
    /// Redis.
    Redis,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreDurability {
    /// It is on disk.
    #[default]
    Fsync,
    /// It is on disk within a second or two: may lose up to 2 s of acknowledged calls.
    Everysec,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// What keeps state.
    pub kind: StoreKind,
    /// The directory of the embedded store.
    pub path: String,
    /// The address of Redis.
    pub url: Option<Secret>,
    /// What an acknowledgement promises.
    pub durability: StoreDurability,
    /// How many replicas must have a commit before replies leave.
    pub wait_replicas: u8,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            kind: StoreKind::default(),
            path: "data".into(),
            url: None,
            durability: StoreDurability::default(),
            wait_replicas: 0,
        }
    }
}

/// What keeps streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// A log inside the silo, beside its store.
    #[default]
    Embedded,
    /// Apache Kafka.
    Kafka,
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What keeps streams.
    pub kind: LogKind,
    /// The brokers of Kafka.
    pub brokers: Option<String>,
    /// Settings of librdkafka, by its names. Their values may be secrets.
    pub kafka: BTreeMap<String, Secret>,
}

/// `[commit]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// Log-driven commits are no closer than this.
    pub interval_min_ms: u64,
    /// And no further apart.
    pub interval_max_ms: u64,
}

impl Default for Commit {
    fn default() -> Self {
        Commit { interval_min_ms: 10, interval_max_ms: 1_000 }
    }
}

impl Commit {
    /// Log-driven commits are no closer than this.
    pub fn interval_min(&self) -> Span {
        millis(self.interval_min_ms)
    }

    /// And no further apart.
    pub fn interval_max(&self) -> Span {
        millis(self.interval_max_ms)
    }
}

/// Whether webhooks may go without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Http {
    /// An endpoint's URL begins with `https`.
    #[default]
    Refused,
    /// Or with `http`.
    Allowed,
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// Whether webhooks may go without TLS.
    pub http: Http,
    /// Ports that webhooks may go to: `443`, `8000-8999`.
    pub ports: Vec<String>,
    /// Addresses that webhooks may go to though they are not public: `10.1.2.0/24`.
    pub allowed: Vec<String>,
    /// Certificates (PEM) that are trusted beside those of the public internet.
    pub ca_file: Option<String>,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts { http: Http::Refused, ports: vec!["443".into()], allowed: Vec::new(), ca_file: None }
    }
}

/// Reads `443` or `8000-8999`.
pub fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// A text that may be, or hold, a secret: shown without it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, to be used and never shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

/// An address is shown without what stands before its `@`; anything else is hidden whole.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            None => f.write_str(HIDDEN),
            Some((scheme, rest)) => match rest.rsplit_once('@') {
                Some((_, host)) => write!(f, "{scheme}://{HIDDEN}@{host}"),
                None => write!(f, "{scheme}://{rest}"),
            },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A setting as it is in effect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// The value; null when it has none.
    pub value: serde_json::Value,
    /// Where it was set, or `default`.
    pub place: String,
}

/// A line of a `granary.toml` that would have the same effect.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { key, value, place } = self;
        if value.is_null() {
            return write!(f, "# {key} is not set");
        }
        write!(f, "{key} = {value}  # {place}")
    }
}

impl Settings {
    /// Every setting in effect, with where it was set. Secrets are hidden.
    pub fn effective(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let whole = serde_json::to_value(self).expect("settings are texts, numbers, lists and maps of them");
        self.flatten(String::new(), whole, &mut settings);
        settings.sort_by(|a, b| (a.key.contains('.'), &a.key).cmp(&(b.key.contains('.'), &b.key)));
        settings
    }

    fn flatten(&self, key: String, value: serde_json::Value, into: &mut Vec<Setting>) {
        if let serde_json::Value::Object(map) = value {
            for (name, value) in map {
                let whole = if key.is_empty() { name } else { format!("{key}.{name}") };
                self.flatten(whole, value, into);
            }
            return;
        }
        let place = self.origins.get(&key).cloned().unwrap_or_else(|| "default".to_owned());
        into.push(Setting { key, value, place });
    }

    /// Whether somebody set the key; else it has its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    fn place(&self, key: &str) -> &str {
        self.origins.get(key).map_or("", String::as_str)
    }

    /// Paths that stand in the file are meant from its directory.
    pub(super) fn resolve(&mut self, directory: &Path) {
        let in_file = |place: Option<&String>| {
            place.is_some_and(|place| !place.starts_with("--set ") && !place.starts_with("the variable "))
        };
        if in_file(self.origins.get("pipelines")) {
            for path in &mut self.pipelines {
                *path = from_directory(directory, path);
            }
        }
        if let (true, Some(path)) = (in_file(self.origins.get("alerts.ca_file")), &self.alerts.ca_file) {
            self.alerts.ca_file = Some(from_directory(directory, path));
        }
        if in_file(self.origins.get("store.path")) {
            self.store.path = from_directory(directory, &self.store.path);
        }
    }

    fn check_store(&self, mistakes: &mut Mistakes) {
        match self.store.kind {
            StoreKind::Embedded if self.store.wait_replicas > 0 => {
                let problem = "the embedded store has no replicas; 0 is the only number allowed with it";
                mistakes.note("store.wait_replicas", self.place("store.wait_replicas"), problem);
            }
            StoreKind::Redis if self.store.url.is_none() => {
                let problem = "it is not set; Redis is at an address such as redis://127.0.0.1:6379/0";
                mistakes.note("store.url", "", problem);
            }
            _ => {}
        }
        let wanted = match (self.store.kind, self.log.kind) {
            (StoreKind::Embedded, LogKind::Kafka) => {
                "`embedded` goes with log.kind = \"embedded\": choose `redis`"
            }
            (StoreKind::Redis, LogKind::Embedded) => {
                "`redis` goes with log.kind = \"kafka\": choose that, or `embedded`"
            }
            _ => return,
        };
        mistakes.note("store.kind", self.place("store.kind"), wanted);
    }

    fn check_alerts(&self, mistakes: &mut Mistakes) {
        for ports in self.alerts.ports.iter().filter(|ports| port_range(ports).is_none()) {
            let problem = format!("`{ports}` is no port and no range of ports, such as 443 or 8000-8999");
            mistakes.note("alerts.ports", self.place("alerts.ports"), problem);
        }
        for net in self.alerts.allowed.iter().filter(|net| Net::parse(net).is_none()) {
            let problem = format!("`{net}` is no address and no range of addresses, such as 10.1.2.0/24");
            mistakes.note("alerts.allowed", self.place("alerts.allowed"), problem);
        }
    }

    fn check_log(&self, mistakes: &mut Mistakes) {
        if self.log.kind != LogKind::Kafka {
            return;
        }
        if self.log.brokers.is_none() {
            let problem = "it is not set; brokers are given as \"host:port,host:port\"";
            mistakes.note("log.brokers", "", problem);
        }
        let mut kafka = granary_kafka::Settings::new(&self.cluster.name, "");
        kafka.passed_on =
            self.log.kafka.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
        for (name, problem) in kafka.mistakes() {
            let key = format!("log.kafka.{name}");
            mistakes.note(&key, self.place(&key), problem);
        }
    }

    /// What no single key can be wrong about, and what this version cannot do.
    pub(super) fn check(&self, mistakes: &mut Mistakes) {
        self.check_store(mistakes);
        self.check_log(mistakes);
        self.check_alerts(mistakes);
        let Commit { interval_min_ms: min, interval_max_ms: max } = self.commit;
        if min > max {
            let key = "commit.interval_min_ms";
            mistakes.note(
                key,
                self.place(key),
                format!("{min} is more than interval_max_ms, which is {max}"),
            );
        }
        if self.silo.listen == self.silo.gateway && !self.silo.listen.ends_with(":0") {
            let key = "silo.gateway";
            mistakes.note(key, self.place(key), format!("{} is `silo.listen` already", self.silo.gateway));
        }
    }
}
