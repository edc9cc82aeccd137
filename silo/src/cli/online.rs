//! Commands that talk to a silo, and the one that is a silo.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use granary_client::{Client, Record, Start};
use granary_core::call::Options;
use granary_core::time::Span;
use granary_core::{Error, ErrorKind, GrainId, KindInfo, Result, codec};
use granary_store::Durability;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::assembly::Assembly;
use crate::config::{self, Settings, StoreDurability};
use crate::server;

use super::offline::read_plan;
use super::{YES, block_on};

/// Where a silo is.
#[derive(Args)]
pub(crate) struct Target {
    /// The silo's address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    silo: String,
    /// Refuse silos of other clusters
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

impl Target {
    async fn connect(&self) -> Result<Client> {
        let mut client = Client::builder(&self.silo).name("granary");
        if let Some(cluster) = &self.cluster {
            client = client.cluster(cluster);
        }
        client.connect().await
    }
}

#[derive(Args)]
pub(crate) struct CallArguments {
    /// The grain, KIND/KEY
    grain: String,
    /// The method
    method: String,
    /// Its arguments as JSON: an object by name, a list by place, or the only one as it is
    arguments: Option<String>,
    /// How long to wait for the answer, ms
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// Calls with the same key have one effect and one answer
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Wait for no answer
    #[arg(long)]
    one_way: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn call(arguments: &CallArguments) -> Result<u8> {
    let grain = GrainId::parse(&arguments.grain).ok_or_else(|| {
        Error::invalid(format!("`{}` names no grain: KIND/KEY expected, as in Sensor/d-7", arguments.grain))
    })?;
    let message = arguments.arguments.as_deref().map_or(Ok(Vec::new()), |text| {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("the arguments `{text}` are no JSON: {e}")))?;
        codec::to_bytes(&value)
    })?;
    let options = Options {
        timeout: Some(Span(arguments.timeout_ms)),
        idempotency_key: arguments.idempotency_key.as_deref().map(Arc::from),
        one_way: arguments.one_way,
        ..Options::default()
    };
    let answer = block_on(async {
        let client = arguments.target.connect().await?;
        client.call(&grain, &arguments.method, &message, options).await
    })?;
    if !arguments.one_way {
        println!("{}", codec::from_bytes::<Value>(&answer)?);
    }
    Ok(YES)
}

#[derive(Args)]
pub(crate) struct TailArguments {
    /// A sink, alerts, late, rejected, poisoned, or a topic
    stream: String,
    /// Where to begin: earliest or latest
    #[arg(long, default_value = "earliest", value_parser = ["earliest", "latest"])]
    from: String,
    /// End after so many records; without it, go on as they come
    #[arg(long)]
    count: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn tail(arguments: &TailArguments, json: bool) -> Result<u8> {
    let start = if arguments.from == "latest" { Start::Latest } else { Start::Earliest };
    block_on(async {
        let client = arguments.target.connect().await?;
        let mut tail = client.tail(&arguments.stream, start).await?;
        let mut left = arguments.count.unwrap_or(u64::MAX);
        while left > 0
            && let Some(record) = tail.next().await
        {
            if !print(&record?, json)? {
                break;
            }
            left -= 1;
        }
        Ok(YES)
    })
}

/// Prints a record; `false` when nobody reads any more.
fn print(record: &Record, json: bool) -> Result<bool> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = if json {
        let value =
            serde_json::from_slice(&record.value).unwrap_or_else(|_| Value::String(text(&record.value)));
        serde_json::json!({
            "partition": record.partition,
            "offset": record.offset,
            "key": record.key.as_deref().map(text),
            "id": record.id,
            "value": value,
        })
        .to_string()
    } else {
        text(&record.value)
    };
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new(ErrorKind::Unavailable, format!("nothing can be printed: {error}"))),
    }
}

#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    target: Target,
}

pub(crate) fn status(arguments: &StatusArguments, json: bool) -> Result<u8> {
    let status: serde_json::Map<String, Value> =
        block_on(async { arguments.target.connect().await?.status().await })?;
    if json {
        println!("{}", Value::Object(status));
        return Ok(YES);
    }
    for (name, value) in status {
        match value {
            Value::Object(inner) => {
                println!("{name}:");
                inner.iter().for_each(|(name, value)| println!("  {name}: {}", plain(value)));
            }
            value => println!("{name}: {}", plain(&value)),
        }
    }
    Ok(YES)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[derive(Args)]
pub(crate) struct SiloArguments {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key, over the file and the environment
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Print the configuration in effect, secrets hidden, and end
    #[arg(long)]
    show: bool,
}

pub(crate) fn silo(arguments: &SiloArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let settings = config::load(arguments.config.as_deref(), config::environment(), &arguments.set)?;
    if arguments.show {
        show(&settings, json)?;
        return Ok(YES);
    }
    let assembly = assemble(&settings, kinds)?;
    block_on(serve(&settings, assembly, json))?;
    Ok(YES)
}

fn show(settings: &Settings, json: bool) -> Result<()> {
    let effective = settings.effective();
    if json {
        let list =
            serde_json::to_string(&effective).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))?;
        println!("{list}");
    } else {
        effective.iter().for_each(|setting| println!("{setting}"));
    }
    Ok(())
}

/// The silo these settings describe.
pub(crate) fn assemble(settings: &Settings, kinds: Vec<&'static KindInfo>) -> Result<Assembly> {
    let plan = match &settings.pipelines[..] {
        [] => None,
        [one] => Some(Arc::new(read_plan(Path::new(one))?)),
        many => {
            let message =
                format!("pipelines: {} files; this version runs one pipeline in a silo", many.len());
            return Err(Error::invalid(message));
        }
    };
    let default = Assembly::default();
    let memory = settings.silo.memory_bytes_max.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(Assembly {
        cluster: settings.cluster.name.clone(),
        silo: settings.silo.name.clone().unwrap_or_else(|| default.silo.clone()),
        lanes: settings.silo.lanes.unwrap_or(default.lanes),
        slots: settings.cluster.slots,
        plan,
        kinds,
        durability: match settings.store.durability {
            StoreDurability::Fsync => Durability::Fsync,
            StoreDurability::Everysec => Durability::Everysec,
        },
        memory_bytes_max: memory.unwrap_or(default.memory_bytes_max),
        ..default
    })
}

/// Runs the silo until it is asked to stop: then it takes no more, answers what is under way and stores it.
async fn serve(settings: &Settings, assembly: Assembly, json: bool) -> Result<()> {
    let address = &settings.silo.listen;
    let unheard = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("silo.listen: {address} cannot be listened on: {e}"))
    };
    let listener = TcpListener::bind(address).await.map_err(unheard)?;
    let address = listener.local_addr().map_err(unheard)?;
    let stop = stop_signal()?;
    let (silo, cluster) = (assembly.silo.clone(), assembly.cluster.clone());
    let store = assembly.open_store(Path::new(&settings.store.path))?;
    let running = assembly.start(store)?;
    if json {
        let listening = serde_json::json!({"silo": silo, "cluster": cluster, "listen": address.to_string()});
        println!("{listening}");
    } else {
        println!("{silo} of cluster {cluster} listens on {address}");
    }
    let served = server::listen(&running, listener, stop).await;
    running.stop().await;
    served
}

/// Ends when the process is asked to stop.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|e| Error::new(ErrorKind::Unavailable, format!("signals cannot be heard: {e}")))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
