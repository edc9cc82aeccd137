//! Tells endpoints: a silo has a courier for each endpoint that lives in one of its slots.
//!
//! | module | holds |
//! |---|---|
//! | `topic` | the topic of alerts, read once for all endpoints of the silo |
//! | `courier` | what does for one endpoint what its grain says |
//! | `totals` | what there is to count |
//!
//! What an endpoint has been told is its grain's to know (`granary_alerts::endpoint`). A courier that dies, or that finds itself
//! beside another one while a slot moves, costs at most a webhook that is sent twice, under the same id.

mod courier;
mod topic;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_alerts::endpoints::{ALL, Endpoints};
use granary_alerts::guard::{Net, Policy};
use granary_alerts::send::Sender;
use granary_alerts::sign::Secret;
use granary_core::{Clock, Error, ErrorKind, Key, Result, id};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::life::Current;
use courier::Courier;
pub use topic::Topic;
pub use totals::Totals;

/// How often a silo looks which endpoints are its own.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long couriers get to hear the answers that are under way, when the silo stops.
const END_MAX: Duration = Duration::from_secs(2);

/// What all couriers of a silo share.
#[derive(Clone)]
struct Shared {
    current: Arc<Current>,
    sender: Sender,
    clock: Arc<dyn Clock>,
    totals: Arc<Totals>,
    /// Where alerts go.
    topic: Arc<str>,
    slots: u16,
}

/// The couriers of a silo.
pub struct Webhooks {
    stop: watch::Sender<bool>,
    looking: JoinHandle<()>,
}

struct Going {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Webhooks {
    /// Begins to look for endpoints.
    pub fn start(
        settings: &config::Alerts,
        current: Arc<Current>,
        clock: Arc<dyn Clock>,
        totals: Arc<Totals>,
        topic: &str,
        slots: u16,
    ) -> Result<Webhooks> {
        let sender = sender(settings)?;
        let shared = Shared { current, sender, clock, totals, topic: topic.into(), slots };
        let (stop, stopped) = watch::channel(false);
        Ok(Webhooks { stop, looking: tokio::spawn(look(shared, stopped)) })
    }

    /// Hears what is under way and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        drop(tokio::time::timeout(END_MAX, self.looking).await);
    }
}

/// What sends, as the settings say.
fn sender(settings: &config::Alerts) -> Result<Sender> {
    let roots = match &settings.ca_file {
        Some(file) => {
            let read = std::fs::read(file);
            Some(read.map_err(|error| Error::invalid(format!("alerts.ca_file: {file}: {error}")))?)
        }
        None => None,
    };
    let bad = |error| Error::invalid(format!("alerts.ca_file: {error}"));
    Sender::new(policy(settings), roots.as_deref()).map_err(bad)
}

/// To whom webhooks may go, as the settings say; they have been checked.
fn policy(settings: &config::Alerts) -> Policy {
    Policy {
        allows_http: settings.http == config::Http::Allowed,
        ports: settings.ports.iter().filter_map(|ports| config::port_range(ports)).collect(),
        allowed: settings.allowed.iter().filter_map(|net| Net::parse(net)).collect(),
    }
}

/// Has a courier for each endpoint of this silo's slots, until it is stopped.
async fn look(shared: Shared, mut stopped: watch::Receiver<bool>) {
    let mut topic = None;
    let mut going: BTreeMap<String, Going> = BTreeMap::new();
    loop {
        if let Some(mine) = mine(&shared).await {
            for name in going.keys().filter(|name| !mine.contains(name)).cloned().collect::<Vec<_>>() {
                if let Some(gone) = going.remove(&name) {
                    gone.stop.send_replace(true);
                    shared.totals.forget(&name);
                }
            }
            for name in mine {
                if going.get(&name).is_some_and(|courier| !courier.task.is_finished()) {
                    continue;
                }
                match open(&shared, &mut topic) {
                    Ok(topic) => drop(going.insert(name.clone(), begin(&shared, &name, topic))),
                    Err(error) => tracing::warn!(%error, "the topic of alerts cannot be read yet"),
                }
            }
        }
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for courier in going.values() {
        courier.stop.send_replace(true);
    }
    for courier in going.into_values() {
        drop(courier.task.await);
    }
}

/// The topic of alerts, opened when the first endpoint needs it.
fn open(shared: &Shared, topic: &mut Option<Arc<Topic>>) -> Result<Arc<Topic>> {
    if let Some(topic) = topic {
        return Ok(topic.clone());
    }
    let opened = Topic::open(&shared.current.backing()?, &shared.topic, shared.totals.clone())?;
    Ok(topic.insert(opened).clone())
}

fn begin(shared: &Shared, name: &str, topic: Arc<Topic>) -> Going {
    let (stop, stopped) = watch::channel(false);
    let courier = Courier::new(name, shared.clone(), topic, stopped);
    Going { stop, task: tokio::spawn(courier.run()) }
}

/// The endpoints that live in this silo's slots; `None` when that cannot be told at present.
async fn mine(shared: &Shared) -> Option<Vec<String>> {
    let lanes = shared.current.lanes().ok()?;
    let names = lanes.grain::<Endpoints>(ALL).names().await.ok()?;
    let view = shared.current.view().ok()?;
    let me = shared.current.backing().ok()?.me;
    let is_mine = |name: &String| {
        let slot = id::slot_of(Key::parse(name).routing_key().as_bytes(), shared.slots);
        view.as_ref().is_none_or(|view| view.placement.owner(slot) == me)
    };
    Some(names.into_iter().filter(is_mine).collect())
}

/// A secret that nobody knows yet: a symmetric key, or a key pair.
pub(crate) fn new_secret(is_pair: bool) -> Result<Secret> {
    let random = random()?;
    Ok(if is_pair { Secret::pair_of(random) } else { Secret::of(random) })
}

/// Random bytes that nobody can guess.
pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Unavailable, format!("no random numbers: {error}")))?;
    Ok(bytes)
}
