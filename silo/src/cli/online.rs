//! Commands that run a silo, or talk to one.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use granary_client::{Builder, Client, Start};
use granary_core::call::Options;
use granary_core::{Error, GrainId, KindInfo, Result, Span, codec};

use crate::backing::kafka_settings;
use crate::config::{self, LogKind, Settings, layers};
use crate::silo::Silo;

use super::{NO, YES, block_on};

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArguments {
    /// The configuration
    #[arg(short, long, default_value = "granary.toml")]
    config: PathBuf,
    /// Overrides a setting: section.key=value
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArguments {
    /// Reads and checks it.
    pub(crate) fn load(&self) -> Result<Settings> {
        if !self.config.exists() {
            let message = format!(
                "{}: there is no such file; an empty one is enough for one silo with an embedded store in `data`",
                self.config.display()
            );
            return Err(Error::invalid(message));
        }
        let settings = config::load(Some(&self.config), layers::environment(), &self.set);
        settings.map_err(|mistakes| Error::invalid(mistakes.to_string()))
    }

    /// How to reach Kafka: these brokers, or those of the configuration; `None` when it names none.
    pub(crate) fn kafka(&self, brokers: Option<&str>) -> Result<Option<granary_kafka::Settings>> {
        let settings = if self.config.exists() { Some(self.load()?) } else { None };
        let configured = settings.as_ref().filter(|settings| settings.log.kind == LogKind::Kafka);
        Ok(match (configured.map(kafka_settings).transpose()?, brokers) {
            (Some(kafka), Some(brokers)) => {
                Some(granary_kafka::Settings { brokers: brokers.into(), ..kafka })
            }
            (None, Some(brokers)) => Some(granary_kafka::Settings::new("dev", brokers)),
            (configured, None) => configured,
        })
    }
}

#[derive(Args)]
pub(crate) struct SiloArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print the effective configuration and where each value was set, then end
    #[arg(long)]
    print_config: bool,
}

pub(crate) fn silo(arguments: SiloArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let settings = arguments.config.load()?;
    if arguments.print_config {
        for setting in settings.effective() {
            if json {
                say!("{}", serde_json::json!(setting));
            } else {
                say!("{setting}");
            }
        }
        return Ok(YES);
    }
    let silo = kinds.into_iter().fold(Silo::from_settings(settings)?, Silo::host_kind);
    block_on(async {
        let running = tokio::select! {
            biased;
            () = crate::silo::signalled() => return Ok(YES), // told to end before Redis and Kafka could be reached
            running = silo.start() => running?,
        };
        if json {
            super::say_listening(running.address(), running.gateway());
        } else {
            say!("silo listens on {}", running.address());
        }
        let _ = std::io::stdout().flush();
        crate::silo::signalled().await;
        running.stop().await;
        Ok(YES)
    })
}

#[derive(Args, Clone, Debug)]
pub(crate) struct At {
    /// The silo, host:port; several of them separated by commas
    #[arg(long, default_value = "127.0.0.1:7400", env = "GRANARY_SILO")]
    silo: String,
    /// The cluster it must belong to; any, when not given
    #[arg(long)]
    cluster: Option<String>,
}

impl At {
    pub(crate) async fn connect(&self) -> Result<Client> {
        if !self.silo.contains(':') {
            return Err(Error::invalid(format!("--silo {}: host:port expected", self.silo)));
        }
        self.connect_with(Client::builder(&self.silo)).await
    }

    /// The very silo that was named, whoever else there is.
    pub(crate) async fn connect_to_one(&self) -> Result<Client> {
        self.connect_with(Client::builder(&self.silo).send_once()).await
    }

    async fn connect_with(&self, builder: Builder) -> Result<Client> {
        match &self.cluster {
            Some(cluster) => builder.cluster(cluster).connect().await,
            None => builder.connect().await,
        }
    }
}

#[derive(Args)]
pub(crate) struct CallArguments {
    /// The grain, such as Counter/apples
    #[arg(value_name = "KIND/KEY")]
    grain: String,
    /// The method
    method: String,
    /// Its arguments: an object by name, a list in order, or the only one as it is
    #[arg(value_name = "JSON")]
    arguments: Option<String>,
    /// Give up waiting after so many milliseconds
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// All calls with the same key have one effect and one answer
    #[arg(long)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    at: At,
}

pub(crate) fn call(arguments: CallArguments, _json: bool) -> Result<u8> {
    let grain = GrainId::parse(&arguments.grain).ok_or_else(|| {
        Error::invalid(format!("`{}` is no grain: write KIND/KEY, such as Counter/c-1", arguments.grain))
    })?;
    let encoded = match &arguments.arguments {
        Some(text) => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(|e| {
                Error::invalid(format!("the arguments are no JSON: {e}: write text in quotes, '\"a\"'"))
            })?;
            codec::to_bytes(&value)?
        }
        None => Vec::new(),
    };
    let options = Options {
        timeout: Some(Span(arguments.timeout_ms)),
        idempotency_key: arguments.idempotency_key.as_deref().map(Into::into),
        ..Options::default()
    };
    let answer = block_on(async {
        let client = arguments.at.connect().await?;
        client.call(&grain, &arguments.method, &encoded, options).await
    })?;
    let value: serde_json::Value = codec::from_bytes(&answer)?;
    say!("{value}");
    Ok(YES)
}

#[derive(Args)]
pub(crate) struct TailArguments {
    /// A sink, a topic, or alerts, late, rejected, poisoned
    stream: String,
    /// Begin with the first record that is kept, not with the next one
    #[arg(long)]
    from_start: bool,
    /// End after so many records
    #[arg(long)]
    most: Option<u64>,
    #[command(flatten)]
    at: At,
}

pub(crate) fn tail(arguments: TailArguments, json: bool) -> Result<u8> {
    let start = if arguments.from_start { Start::Earliest } else { Start::Latest };
    block_on(async {
        let client = arguments.at.connect().await?;
        let mut tail = client.tail(&arguments.stream, start).await?;
        let mut out = std::io::stdout();
        for _ in 0..arguments.most.unwrap_or(u64::MAX) {
            let Some(record) = tail.next().await else { break };
            let record = record?;
            let value = text_of(&record.value);
            let line = if json {
                serde_json::json!({
                    "partition": record.partition,
                    "offset": record.offset,
                    "id": record.id,
                    "value": value,
                })
                .to_string()
            } else {
                value
            };
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                return Ok(NO); // whoever read us has gone
            }
        }
        Ok(YES)
    })
}

/// A record's value as text: rows are JSON already, what grains emit is MessagePack.
fn text_of(value: &[u8]) -> String {
    if let Some(text) = std::str::from_utf8(value).ok().filter(|text| text.starts_with(['{', '['])) {
        return text.to_string();
    }
    codec::from_bytes::<serde_json::Value>(value)
        .map_or_else(|_| String::from_utf8_lossy(value).into_owned(), |value| value.to_string())
}
