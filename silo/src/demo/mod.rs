//! `granary demo`: the first minute. One embedded silo, simulated devices, windows against their truth, calls; then card payments,
//! rules and a webhook (`payments`).
//!
//! The truth comes from the simulator's own arithmetic and uses no window code.

mod payments;

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster::Batch;
use granary_core::call::Options as CallOptions;
use granary_core::{Error, ErrorKind, GrainId, Key, Result, Span, Timestamp, codec, id, time::secs};
use granary_macros::grain;
use granary_streams::compare::{self, Report};
use granary_streams::inject::{self, Injector};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::results;
use crate::silo::{RunningSilo, Silo, read_plan};

/// The demo's pipeline.
pub const PIPELINE: &str = include_str!("../../../deploy/examples/demo/pipeline.yaml");

/// The windows of the truth.
const WINDOW: Span = secs(5);
/// Messages written to the log in one step.
const BATCH_MESSAGES: usize = 5_000;
/// How long the demo waits for results at most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Results that do not change for so long, longer than silence closes a device's windows, are the last ones.
const SETTLED_AFTER: Duration = Duration::from_millis(3_500);
/// Partitions of the input topic.
const PARTITIONS: u32 = 12;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides the simulated devices.
    pub seed: u64,
    /// How many devices.
    pub devices: u32,
    /// Keeps the silo listening until it is stopped.
    pub serve: bool,
    /// Another pipeline in place of the demo's.
    pub pipeline: Option<PathBuf>,
}

/// A grain of the demo's own: counts who came by, durably.
#[derive(Default, Serialize, Deserialize)]
struct Visitors {
    count: u64,
}

#[grain(crate = granary_core)]
impl Visitors {
    fn come(&mut self, guests: u64) -> u64 {
        self.count += guests;
        self.count
    }

    fn count(&self) -> u64 {
        self.count
    }
}

/// Runs the demo, telling what happens; true when every window equals the truth.
pub async fn demo(options: &Options, mut tell: impl FnMut(&str)) -> Result<bool> {
    let began = Instant::now();
    let dir = TempDir::make()?;
    let listen = if options.serve { "127.0.0.1:7400" } else { "127.0.0.1:0" };
    let silo = start(options, &dir.0.join("data"), listen).await?;
    tell(&format!("one silo, embedded store and log, no other service: listening on {}", silo.address()));

    let simulated =
        inject::Options { seed: options.seed, devices: options.devices, ..inject::Options::default() };
    let topic = silo.assembly().plan.as_ref().map_or_else(String::new, |p| p.sources[0].topic.to_string());
    let sent = send(&silo, &topic, simulated.clone())?;
    let messages = sent.messages;
    tell(&format!(
        "sent {messages} messages of {} devices: {} of them copies, some late by minutes, some clocks wrong",
        options.devices, sent.copies
    ));
    settle(&silo, messages).await?;
    let report = judge(&silo, &simulated, &dir.0)?;
    let counts = silo.counts()?;
    tell(&format!(
        "records {}: accepted {}, duplicates {}, late {}, rejected {}, poisoned {}",
        counts.records, counts.accepted, counts.duplicates, counts.late, counts.rejected, counts.poisoned
    ));
    show_calls(&silo, &simulated, &mut tell).await?;
    let found = payments::show(options.seed, &dir.0.join("payments"), &mut tell).await?;
    tell(&format!("took {:.1} s", began.elapsed().as_secs_f64()));
    tell(&format!("exceptions {} of {} windows", report.exceptions, report.of));
    report.first.iter().for_each(|line| tell(line));
    let right = report.exceptions == 0
        && counts.records == messages
        && counts.is_balanced()
        && report.of > 0
        && found;
    if options.serve {
        tell(&format!("serving on {} until stopped: try `granary call Visitors/door count`", silo.address()));
        crate::silo::signalled().await;
    }
    silo.stop().await;
    Ok(right)
}

async fn start(options: &Options, data: &Path, listen: &str) -> Result<RunningSilo> {
    let mut settings = config::Settings::default();
    settings.cluster.name = "demo".into();
    settings.silo.name = Some("demo-silo".into());
    settings.silo.listen = listen.into();
    settings.silo.gateway = "127.0.0.1:0".into();
    settings.store.path = data.display().to_string();
    let plan = match &options.pipeline {
        Some(file) => read_plan(file)?,
        None => granary_streams::file::parse(PIPELINE).map_err(|m| Error::invalid(m.to_string()))?,
    };
    Silo::from_settings(settings)?.pipeline(plan).host::<Visitors>().start().await
}

/// Writes the simulated messages to the log, in the order of their arrival.
fn send(silo: &RunningSilo, topic: &str, simulated: inject::Options) -> Result<inject::Totals> {
    let partitions = silo.backing()?.log.partitions(topic)?.unwrap_or(PARTITIONS);
    let mut batches = vec![Batch::default(); partitions as usize];
    let mut injector = Injector::new(simulated);
    let mut waiting = 0;
    while let Some(message) = injector.next() {
        let partition = message.key.map_or(0, |key| id::positive_murmur2(key) % partitions);
        batches[partition as usize].push(0, message.at, message.key, message.value);
        waiting += 1;
        if waiting == BATCH_MESSAGES {
            write(silo, topic, &mut batches)?;
            waiting = 0;
        }
    }
    write(silo, topic, &mut batches)?;
    Ok(injector.totals())
}

fn write(silo: &RunningSilo, topic: &str, batches: &mut [Batch]) -> Result<()> {
    for (partition, batch) in batches.iter_mut().enumerate().filter(|(_, batch)| !batch.is_empty()) {
        silo.backing()?.log.append(topic, partition as u32, batch)?;
        batch.clear();
    }
    Ok(())
}

/// Waits until every message is accounted for and silence has closed the last windows.
async fn settle(silo: &RunningSilo, messages: u64) -> Result<()> {
    let began = Instant::now();
    let mut last = (silo.counts()?, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let counts = silo.counts()?;
        if counts != last.0 {
            last = (counts, Instant::now());
        } else if last.0.records >= messages && last.1.elapsed() >= SETTLED_AFTER {
            return Ok(());
        }
        if began.elapsed() > WAIT_MAX {
            let message = format!(
                "after {} s {} of {messages} records are accounted for: this machine is too slow, or the silo is stuck",
                WAIT_MAX.as_secs(),
                last.0.records
            );
            return Err(Error::new(ErrorKind::Timeout, message));
        }
    }
}

/// Compares the sink's topic with the simulator's own answer.
fn judge(silo: &RunningSilo, simulated: &inject::Options, dir: &Path) -> Result<Report> {
    let sink =
        silo.assembly().plan.as_ref().and_then(|plan| plan.sinks.first()).map(|sink| sink.name.to_string());
    let topic = sink.and_then(|sink| silo.assembly().topic_of(&sink));
    let topic = topic.ok_or_else(|| Error::invalid("the demo's pipeline has no sink"))?;
    let result = dir.join("result.jsonl");
    let backing = silo.backing()?;
    let store = backing.as_embedded().ok_or_else(|| Error::invalid("the demo runs on the embedded store"))?;
    results::write_last(store, &topic, &result)?;
    let mut truth = Vec::new();
    let unwritable =
        |e: std::io::Error| Error::new(ErrorKind::Codec, format!("the truth cannot be written: {e}"));
    inject::write_truth(inject::truth(simulated, WINDOW), &mut truth).map_err(unwritable)?;
    let file = std::fs::File::open(&result).map_err(|e| crate::run::unwritable(&result, &e))?;
    compare::compare(truth.as_slice(), BufReader::new(file), &compare::KEY_DEFAULT)
}

/// Calls the built-in grains of one window and its device, and a grain of the demo's own, over the network.
async fn show_calls(
    silo: &RunningSilo,
    simulated: &inject::Options,
    tell: &mut impl FnMut(&str),
) -> Result<()> {
    let client = Client::connect(silo.address()).await?;
    if let Some(row) = inject::truth(simulated, WINDOW).next() {
        let start = Timestamp(row.window_start).to_string();
        let key = Key::from_segments([row.device.as_str(), row.category.as_str(), "totals", start.as_str()]);
        for grain in [GrainId::new("Window", key), GrainId::new("Device", row.device.as_str())] {
            let answer = client.call(&grain, "get", &[], CallOptions::default()).await;
            let shown = match answer {
                Ok(bytes) => codec::from_bytes::<serde_json::Value>(&bytes)?.to_string(),
                Err(error) => error.to_string(),
            };
            tell(&format!("granary call {grain} get\n  {shown}"));
        }
    }
    client.grain::<Visitors>("door").come(2).await?;
    let visitors = client.grain::<Visitors>("door").come(1).await?;
    tell(&format!("granary call Visitors/door come 1\n  {visitors}"));
    Ok(())
}

/// A directory that goes with the demo.
struct TempDir(PathBuf);

impl TempDir {
    fn make() -> Result<TempDir> {
        let path = std::env::temp_dir().join(format!("granary-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| crate::run::unwritable(&path, &e))?;
        Ok(TempDir(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
