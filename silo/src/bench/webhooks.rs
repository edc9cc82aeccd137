//! How long after an alert is on its topic the first attempt at an endpoint arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use granary_alerts::endpoint::EndpointRef;
use granary_alerts::queue::Manner;
use granary_alerts::settings::{Head, Settings as Wanted};
use granary_alerts::sign::Secret;
use granary_cluster::{Batch, SourceId};
use granary_core::{Error, ErrorKind, Result, Timestamp, id};
use granary_engine::Handle;
use granary_streams::file;
use granary_streams::plan::alerts_topic;

use crate::assembly::ALERTS;
use crate::config::Settings;
use crate::inbox::Inbox;
use crate::silo::{RunningSilo, Silo};

use super::{Figure, Scratch, latency};

/// Longest wait for what has to come.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The topic is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Alerts a second.
    pub rate: u32,
    /// How many.
    pub alerts: u32,
}

type Times = Arc<Mutex<HashMap<String, Instant>>>;

/// Measures, telling figures.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let scratch = Scratch::make("webhooks")?;
    let (at_server, on_topic) = (Times::default(), Times::default());
    let inbox = Inbox::open().await?;
    let silo = silo(&scratch, &inbox).await?;
    let manner = Manner { rate: 10_000, burst: 10_000, concurrency: 100, is_strict: false };
    let secret = Secret::of([7; 32]);
    let endpoint = inbox.add(&silo, "bench", &secret, |wanted| Wanted { manner, ..wanted }).await?;
    let server = tokio::spawn(note(inbox, at_server.clone()));
    until_verified(&endpoint).await?;
    let watching = tokio::task::spawn_blocking({
        let (log, seen) = (silo.backing()?.log, on_topic.clone());
        let (topic, alerts) = (alerts_topic(ALERTS, &silo.assembly().cluster), options.alerts as usize);
        move || watch(&*log, &topic, &seen, alerts)
    });
    send(&silo, options).await?;
    watching.await.map_err(super::callers::panicked)??;
    let began = Instant::now();
    let mut took = loop {
        let took = differences(&on_topic, &at_server);
        if took.len() >= options.alerts as usize {
            break took;
        }
        if began.elapsed() > WAIT_MAX {
            return Err(Error::new(ErrorKind::Timeout, "not all alerts have arrived"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    took.sort_unstable();
    let note =
        format!("{} alerts, {} a second, one endpoint, embedded store, fsync", took.len(), options.rate);
    for (name, share) in [("webhook, median", 0.5), ("webhook, 99 %", 0.99), ("webhook, longest", 1.0)] {
        let at = ((took.len() as f64 * share) as usize).min(took.len() - 1);
        tell(&Figure {
            name: name.into(),
            value: took[at].as_secs_f64() * 1e3,
            unit: "ms",
            note: note.clone(),
        });
    }
    server.abort();
    silo.stop().await;
    Ok(())
}

/// How long after the one the other was, of those that were in both places.
fn differences(from: &Times, to: &Times) -> Vec<Duration> {
    let (from, to) = (lock(from), lock(to));
    let of = |(id, at): (&String, &Instant)| Some(to.get(id)?.saturating_duration_since(*at));
    from.iter().filter_map(of).collect()
}

fn lock(times: &Times) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn silo(scratch: &Scratch, inbox: &Inbox) -> Result<RunningSilo> {
    let mut settings = Settings::default();
    (settings.silo.listen, settings.silo.gateway) = ("127.0.0.1:0".into(), "127.0.0.1:0".into());
    settings.store.path = scratch.0.join("data").to_string_lossy().into_owned();
    inbox.allow(&mut settings.alerts);
    let plan = file::parse_beside(&latency::rules_pipeline(), &|_| Ok(latency::RULES.to_owned()));
    let plan = plan.map_err(|mistakes| Error::invalid(mistakes.to_string()))?;
    Silo::from_settings(settings)?.pipeline(plan).start().await
}

/// Waits until its ping is answered.
async fn until_verified(endpoint: &EndpointRef<Handle>) -> Result<()> {
    let began = Instant::now();
    while !endpoint.about().await?.standing.is_verified {
        if began.elapsed() > WAIT_MAX {
            return Err(Error::new(ErrorKind::Timeout, "the endpoint is not told"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Sends messages each of which is an alert.
async fn send(silo: &RunningSilo, options: Options) -> Result<()> {
    let log = silo.backing()?.log;
    let partitions = log.partitions("measurements")?.unwrap_or(1);
    let began = Instant::now();
    for n in 0..options.alerts {
        tokio::time::sleep_until((began + Duration::from_secs(1) * n / options.rate).into()).await;
        let device = format!("device-{}", n % 1_000);
        let value = format!(r#"{{"id":"{n}","di":"{device}","dt":{},"m1":100}}"#, 1_000 + n);
        let mut batch = Batch::default();
        batch.push(0, Timestamp(1_700_000_000_000), Some(device.as_bytes()), value.as_bytes());
        let (log, partition) = (log.clone(), id::positive_murmur2(device.as_bytes()) % partitions);
        let appended =
            tokio::task::spawn_blocking(move || log.append("measurements", partition, &batch)).await;
        appended.map_err(super::callers::panicked)??;
    }
    Ok(())
}

/// Notes when each alert is on the topic, until so many are.
fn watch(log: &dyn granary_cluster::Log, topic: &str, seen: &Times, alerts: usize) -> Result<()> {
    let partitions = log.partitions(topic)?.unwrap_or(0);
    let (mut next, mut batch, began) = (vec![0; partitions as usize], Batch::default(), Instant::now());
    while lock(seen).len() < alerts && began.elapsed() < WAIT_MAX * 10 {
        for partition in 0..partitions {
            batch.clear();
            log.read(topic, partition, next[partition as usize], 1 << 20, &mut batch)?;
            let now = Instant::now();
            for record in batch.iter(SourceId(0), partition) {
                next[partition as usize] = record.offset + 1;
                if let Some(head) = Head::read(record.value) {
                    lock(seen).insert(head.id.into(), now);
                }
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Notes when each webhook has arrived.
async fn note(mut inbox: Inbox, seen: Times) {
    while let Some(webhook) = inbox.next().await {
        lock(&seen).entry(webhook.id).or_insert(webhook.at);
    }
}
