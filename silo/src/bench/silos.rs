//! Silos as processes of their own, for measurements from outside.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use granary_core::{Error, ErrorKind, Result};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::config::{LogKind, Settings, StoreDurability, StoreKind, layers};
use crate::silo::Silo;

use super::Scratch;
use super::callers::panicked;

/// Silos are there within this, or something is wrong.
const START_MAX: Duration = Duration::from_secs(60);
/// What a silo's variable for settings begins with.
const VARIABLE: &str = "GRANARY__";

/// The grain that measurements call.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Note {
    text: String,
}

#[grain(crate = granary_core)]
impl Note {
    fn read(&self) -> String {
        self.text.clone()
    }

    fn write(&mut self, text: String) -> u64 {
        self.text = text;
        self.text.len() as u64
    }
}

/// Runs one of these silos: what the process does that [`Silos`] starts. Its settings are its variables.
pub async fn serve() -> Result<()> {
    let settings = crate::config::load(None, layers::environment(), &[]);
    let settings = settings.map_err(|mistakes| Error::invalid(mistakes.to_string()))?;
    let silo = Silo::from_settings(settings)?.host::<Note>().start().await?;
    cli::say_listening(silo.address(), silo.gateway());
    crate::silo::signalled().await;
    silo.stop().await;
    Ok(())
}

/// Silos that end with this.
pub struct Silos {
    settings: Settings,
    pipeline: Option<std::path::PathBuf>,
    silos: Vec<Option<One>>,
    _scratch: Scratch,
}

struct One {
    child: Child,
    _said: BufReader<ChildStdout>,
    address: String,
}

impl Drop for One {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Silos {
    /// So many silos with these settings, each under a name of its own. An embedded store is in a directory that goes
    /// with them.
    pub async fn start(settings: &Settings, pipeline: Option<&str>, count: usize) -> Result<Silos> {
        let scratch = Scratch::make("silos")?;
        let mut settings = settings.clone();
        settings.store.path = scratch.0.join("data").to_string_lossy().into_owned();
        let pipeline = match pipeline {
            Some(text) => {
                let path = scratch.0.join("pipeline.yaml");
                std::fs::write(&path, text).map_err(|e| crate::run::unwritable(&path, &e))?;
                Some(path)
            }
            None => None,
        };
        let mut silos = Silos { settings, pipeline, silos: Vec::new(), _scratch: scratch };
        for no in 0..count {
            silos.silos.push(None);
            silos.begin(no)?;
        }
        silos.settled().await?;
        Ok(silos)
    }

    /// Starts the silo with this number, and waits until it listens.
    pub fn begin(&mut self, no: usize) -> Result<()> {
        let cannot =
            |e: std::io::Error| Error::new(ErrorKind::Unavailable, format!("a silo cannot be started: {e}"));
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["--json", "bench", "serve"]).stdin(Stdio::null()).stdout(Stdio::piped());
        command.envs(self.variables(no));
        let mut child = command.spawn().map_err(cannot)?;
        let mut said = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut line = String::new();
        let address = said.read_line(&mut line).ok().and_then(|_| {
            let said: serde_json::Value = serde_json::from_str(&line).ok()?;
            Some(said["listening"].as_str()?.to_owned())
        });
        match address {
            Some(address) => self.silos[no] = Some(One { child, _said: said, address }),
            None => {
                let _ = child.kill();
                let status = child.wait();
                let message = format!("a silo did not come up ({status:?}): it said `{}`", line.trim());
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(())
    }

    fn variables(&self, no: usize) -> Vec<(String, String)> {
        let Settings { cluster, silo, store, log, .. } = &self.settings;
        let kind = if store.kind == StoreKind::Redis { "redis" } else { "embedded" };
        let durability = if store.durability == StoreDurability::Fsync { "fsync" } else { "everysec" };
        let mut all = vec![
            ("CLUSTER__NAME", cluster.name.clone()),
            ("SILO__NAME", format!("silo-{no}")),
            ("SILO__LISTEN", "127.0.0.1:0".into()),
            ("SILO__GATEWAY", "127.0.0.1:0".into()),
            ("SILO__LANES", silo.lanes.unwrap_or_else(crate::assembly::cores).to_string()),
            ("STORE__KIND", kind.into()),
            ("STORE__PATH", store.path.clone()),
            ("STORE__DURABILITY", durability.into()),
        ];
        if log.kind == LogKind::Kafka {
            all.push(("LOG__KIND", "kafka".into()));
            all.extend(log.brokers.clone().map(|brokers| ("LOG__BROKERS", brokers)));
            all.extend(store.url.as_ref().map(|url| ("STORE__URL", url.reveal().to_owned())));
        }
        if let Some(pipeline) = &self.pipeline {
            all.push(("PIPELINES", pipeline.to_string_lossy().into_owned()));
        }
        all.into_iter().map(|(name, value)| (format!("{VARIABLE}{name}"), value)).collect()
    }

    /// Where they listen.
    pub fn addresses(&self) -> String {
        let all: Vec<&str> = self.silos.iter().flatten().map(|silo| silo.address.as_str()).collect();
        all.join(",")
    }

    /// Where one listens.
    pub fn address(&self, no: usize) -> &str {
        self.silos[no].as_ref().map_or("", |silo| &silo.address)
    }

    /// How many there are, those that were killed too.
    pub fn count(&self) -> usize {
        self.silos.len()
    }

    /// Ends one as `kill -9` does.
    pub fn kill(&mut self, no: usize) {
        self.silos[no] = None;
    }

    /// Stops one in order, as a deploy does, and waits until it has ended.
    pub async fn stop(&mut self, no: usize) -> Result<()> {
        let Some(mut silo) = self.silos[no].take() else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || {
            Command::new("kill").arg(silo.child.id().to_string()).status()?;
            silo.child.wait()
        });
        let cannot = |message: String| Error::new(ErrorKind::Unavailable, message);
        let status = ended.await.map_err(panicked)?;
        let status = status.map_err(|e| cannot(format!("a silo cannot be stopped: {e}")))?;
        if status.success() {
            Ok(())
        } else {
            Err(cannot(format!("a silo that was to stop ended with {status}")))
        }
    }

    /// Waits until every silo is ready, and all slots run.
    pub async fn settled(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let (mut running, mut all_ready) = (0, true);
            for silo in self.silos.iter().flatten() {
                let client = granary_client::Client::builder(&silo.address).send_once().connect().await?;
                let status: serde_json::Value = client.status().await?;
                running += status["slots_running"].as_u64().unwrap_or(0);
                all_ready &= status["ready"] == true;
            }
            if all_ready && running == u64::from(self.settings.cluster.slots) {
                return Ok(());
            }
            if began.elapsed() > START_MAX {
                let message = format!("the silos are not ready within {START_MAX:?}: {running} slots run");
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
