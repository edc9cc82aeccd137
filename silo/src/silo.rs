//! A silo as a process: configuration, lanes, a listening socket, and an orderly end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use granary_client::serve::{self, Identity};
use granary_core::{Error, ErrorKind, Grain, KindInfo, Result};
use granary_engine::Handle;
use granary_store::Durability;
use granary_streams::Plan;
use granary_streams::plan::{Target, alerts_topic};
use granary_streams::run::counts::Counts;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::assembly::Assembly;
use crate::backing::Backing;
use crate::config::{self, Settings, StoreDurability, StoreKind};
use crate::gateway::{Gateway, Serving};
use crate::life::{Current, Keeper, Kept, Mold};
use crate::rulebook::Follower;
use crate::service::SiloService;
use crate::webhooks::Webhooks;

/// Stopping in order takes no longer: whoever sent SIGTERM waits ten seconds.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(8);
/// How much of that is for peers to hang up after the goodbye.
const PEERS_MAX: Duration = Duration::from_secs(2);

/// A silo to be started.
///
/// ```no_run
/// use granary::prelude::*;
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter { total: u64 }
///
/// #[grain]
/// impl Counter {
///     fn add(&mut self, n: u64) -> u64 {
///         self.total += n;
///         self.total
///     }
/// }
///
/// # async fn example() -> granary::Result<()> {
/// granary::Silo::from_config("granary.toml")?.host::<Counter>().run().await
/// # }
/// ```
pub struct Silo {
    settings: Settings,
    plan: Option<Arc<Plan>>,
    kinds: Vec<&'static KindInfo>,
    emits: Vec<(String, u32)>,
}

impl Silo {
    /// A silo as `granary.toml` and the environment say.
    pub fn from_config(file: impl AsRef<Path>) -> Result<Silo> {
        let settings = config::load(Some(file.as_ref()), config::layers::environment(), &[])
            .map_err(|mistakes| Error::invalid(mistakes.to_string()))?;
        Silo::from_settings(settings)
    }

    /// A silo with these settings: its pipeline file is read and checked now.
    pub fn from_settings(settings: Settings) -> Result<Silo> {
        let plan = match settings.pipelines.as_slice() {
            [] => None,
            [file] => Some(Arc::new(read_plan(Path::new(file))?)),
            more => {
                let message = format!(
                    "pipelines names {} files: this version runs one pipeline in a silo; start a silo with its own \
                     cluster name for each",
                    more.len()
                );
                return Err(Error::invalid(message));
            }
        };
        Ok(Silo { settings, plan, kinds: Vec::new(), emits: Vec::new() })
    }

    /// Hosts a kind.
    #[must_use]
    pub fn host<G: Grain>(self) -> Silo {
        self.host_kind(G::info())
    }

    /// Hosts a kind by its table.
    #[must_use]
    pub fn host_kind(mut self, kind: &'static KindInfo) -> Silo {
        self.kinds.push(kind);
        self
    }

    /// Runs a pipeline made by the builder, in place of a pipeline file.
    #[must_use]
    pub fn pipeline(mut self, plan: Plan) -> Silo {
        self.plan = Some(Arc::new(plan));
        self
    }

    /// Declares a stream that grains emit to.
    #[must_use]
    pub fn stream(mut self, topic: impl Into<String>, partitions: u32) -> Silo {
        self.emits.push((topic.into(), partitions));
        self
    }

    /// Starts it; it runs until it is stopped. While Redis or Kafka cannot be reached it waits for them, and says so in
    /// its log and by `/readyz`.
    pub async fn start(self) -> Result<RunningSilo> {
        let (settings, assembly) = self.assemble()?;
        let name = assembly.silo.clone();
        let topics = assembly.named_topics();
        let clock = assembly.clock.clone();
        let listener = listen(&settings.silo.listen).await?;
        let address = listener.local_addr().map_err(|e| unreachable(&settings.silo.listen, &e))?.to_string();
        let gateway = Gateway::new(name.clone());
        let serving = start_gateway(gateway.clone(), &settings).await?;
        let identity = Identity { cluster: settings.cluster.name.clone(), silo: name.clone() };
        let advertised = advertised(&settings, &address);
        let (keeper, current) = (Keeper::default(), Arc::<Current>::default());
        let service = SiloService {
            current: current.clone(),
            gateway: gateway.clone(),
            leaver: keeper.leaver(),
            clock,
            topics,
            plan: assembly.plan.clone(),
            silo: name.clone(),
        };
        let (alerts, totals) = (settings.alerts.clone(), gateway.webhooks.clone());
        let mold = Mold {
            settings: Arc::new(settings),
            assembly: assembly.clone(),
            advertised,
            gateway,
            current: current.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let served = tokio::spawn(serve::serve(listener, Arc::new(service), identity, stopped));
        let kept = keeper.start(mold).await?;
        let follower = Follower::start(assembly.plan.clone(), current.clone());
        let webhooks = Webhooks::start(
            &alerts,
            current.clone(),
            assembly.clock.clone(),
            totals,
            &alerts_topic(crate::assembly::ALERTS, &assembly.cluster),
            assembly.slots,
        )?;
        let probes = serving.as_ref().map_or("none", |gateway| gateway.address());
        tracing::info!(silo = %name, %address, gateway = probes, "silo runs");
        Ok(RunningSilo {
            kept,
            webhooks,
            _follower: follower,
            current,
            assembly,
            stop,
            served,
            address,
            gateway: serving,
        })
    }

    /// Everything it is made of, checked as far as that is possible without its store and log.
    pub fn assemble(self) -> Result<(Settings, Arc<Assembly>)> {
        let Silo { settings, plan, kinds, emits } = self;
        if let Some(sink) = plan.iter().flat_map(|plan| &plan.sinks).find(|s| matches!(s.to, Target::File(_)))
        {
            let message = format!(
                "sink `{}` goes to a file: files are written by `granary run`; give it a topic, and tail that",
                sink.name
            );
            return Err(Error::invalid(message));
        }
        let durability = match settings.store.durability {
            StoreDurability::Fsync => Durability::Fsync,
            StoreDurability::Everysec => Durability::Everysec,
        };
        let memory = settings.silo.memory_bytes_max;
        let assembly = Assembly {
            cluster: settings.cluster.name.clone(),
            silo: settings.silo.name.clone().unwrap_or_else(|| default_name(&settings)),
            lanes: settings.silo.lanes.unwrap_or(0),
            slots: settings.cluster.slots,
            left_out: settings.cluster.left_out.iter().cloned().collect(),
            plan,
            kinds,
            endpoints: true,
            emits,
            durability,
            memory_bytes_max: memory.map_or(Assembly::default().memory_bytes_max, |bytes| {
                usize::try_from(bytes).unwrap_or(usize::MAX)
            }),
            commit_interval: Some((settings.commit.interval_min(), settings.commit.interval_max())),
            ..Assembly::default()
        };
        Ok((settings, Arc::new(assembly)))
    }

    /// Starts it and runs until SIGTERM or SIGINT, then ends in order: what was taken is finished and stored.
    pub async fn run(self) -> Result<()> {
        let silo = self.start().await?;
        signalled().await;
        silo.stop().await;
        Ok(())
    }
}

/// A silo that runs and listens.
pub struct RunningSilo {
    kept: Kept,
    webhooks: Webhooks,
    _follower: Option<Follower>,
    current: Arc<Current>,
    assembly: Arc<Assembly>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
    address: String,
    gateway: Option<Serving>,
}

impl RunningSilo {
    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its probes and metrics are, if anywhere.
    pub fn gateway(&self) -> Option<&str> {
        self.gateway.as_ref().map(Serving::address)
    }

    /// A way to its grains from this process. `unavailable` while it was declared dead and comes back.
    pub fn handle(&self) -> Result<Handle> {
        self.current.lanes()
    }

    /// Its store and log.
    pub fn backing(&self) -> Result<Backing> {
        self.current.backing()
    }

    /// What it was made of.
    pub fn assembly(&self) -> &Assembly {
        &self.assembly
    }

    /// What became of the records so far, as stored.
    pub fn counts(&self) -> Result<Counts> {
        crate::assembly::counts(&*self.backing()?.store, self.assembly.slots)
    }

    /// Gives its slots to the other silos, stops taking, finishes turns, stores what they changed.
    pub async fn stop(self) {
        let in_order = async {
            self.webhooks.stop().await;
            self.kept.leave().await;
            let _ = self.stop.send(());
            // answers under way still leave; a peer that does not hang up holds nobody up
            let _ = tokio::time::timeout(PEERS_MAX, self.served).await;
            self.kept.stop().await;
        };
        if tokio::time::timeout(STOP_MAX, in_order).await.is_err() {
            tracing::warn!(
                "the silo did not come to rest in {STOP_MAX:?}: what is not stored is as after a kill"
            );
        }
        if let Some(gateway) = self.gateway {
            gateway.stop().await;
        }
    }
}

/// Where others reach a silo that listens at `address`: as the settings say, else there. Where it listens on every address
/// of its host, the host's name stands for it.
fn advertised(settings: &Settings, address: &str) -> String {
    if let Some(advertised) = &settings.silo.advertise {
        return advertised.clone();
    }
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{}:{port}", host_name()),
        _ => address.to_owned(),
    }
}

/// The name of this machine.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of a silo that was given none: one of several has the name of its host and its port, which it has again when it
/// is started anew.
fn default_name(settings: &Settings) -> String {
    if settings.store.kind == StoreKind::Embedded {
        return "silo-1".into();
    }
    let listen = settings.silo.advertise.as_deref().unwrap_or(&settings.silo.listen);
    let port = listen.rsplit_once(':').map_or("0", |(_, port)| port);
    format!("{}-{port}", host_name())
}

/// Probes and metrics. An address that nobody asked for may be taken: several silos on one machine are no mistake.
async fn start_gateway(gateway: Arc<Gateway>, settings: &Settings) -> Result<Option<Serving>> {
    match gateway.start(&settings.silo.gateway).await {
        Ok(serving) => Ok(Some(serving)),
        Err(error) if settings.is_set("silo.gateway") => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no probes and metrics: set silo.gateway to an address of its own");
            Ok(None)
        }
    }
}

/// Comes true at SIGTERM or SIGINT.
pub async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Reads and checks a pipeline file.
pub fn read_plan(path: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::invalid(format!("{}: cannot be read: {e}", path.display())))?;
    granary_streams::file::parse_beside(&text, &crate::files::beside(path))
        .map_err(|mistakes| Error::invalid(format!("{}:\n{mistakes}", path.display())))
}

/// Listens there: nobody else on this machine does.
pub(crate) async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| unreachable(address, &e))
}

fn unreachable(address: &str, e: &std::io::Error) -> Error {
    let message = format!("silo.listen {address}: cannot listen there: {e}; is another silo running?");
    Error::new(ErrorKind::Unavailable, message)
}

/// The streams of an assembly, by the names people use.
impl Assembly {
    /// Sinks, set-aside streams and what grains emit to, each with its topic.
    pub fn named_topics(&self) -> BTreeMap<String, String> {
        let planned = self.plan.iter().flat_map(|plan| plan.shown_streams().map(str::to_owned));
        let own = [crate::assembly::ALERTS, "poisoned", granary_alerts::endpoint::DEAD].map(String::from);
        let emitted = self.emits.iter().map(|(name, _)| name.clone());
        planned
            .chain(own)
            .chain(emitted)
            .filter_map(|name| Some((name.clone(), self.topic_of(&name)?)))
            .collect()
    }
}
