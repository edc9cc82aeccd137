//! How long an alert on a record takes, from the record's sending to a reader of committed records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _, SourceId};
use granary_core::{Error, ErrorKind, Result, Timestamp, id};
use granary_kafka::{KafkaLog, Sources};
use granary_streams::file;
use granary_streams::plan::alerts_topic;

use crate::assembly::{ALERTS, Running};
use crate::backing::Backing;

use super::callers::panicked;
use super::servers::{Servers, Site};
use super::{Figure, Watch, tell_lengths};

/// One message in eleven is an alert.
pub(super) const PIPELINE: &str = "
pipeline: latency
sources:
  measurements:
    topic: measurements
    decode:
      format: json
      fields:
        id:     {type: text, chars: 1..128}
        device: {from: di, type: text, chars: 1..128}
        at:     {from: dt, type: time_ms, digits: 1..15}
        m1:     {type: integer, range: 0..1000}
    key: device
    event_time: at
    watermark: {per: key, out_of_orderness: 0s, idle_after: none, future_guard: none}
steps:
  high: {from: measurements, filter: m1 > 99}
sinks:
  found: {from: high, topic: results, delivery: exactly_once}
";

/// The same alerts by a rule.
const RULES_STEP: &str = "  high: {from: measurements, rules: rules.yaml}\n";
pub(super) const RULES: &str = "
schema: fraud-rules/v1
stream: measurements
event: {id: id, time: dt, fields: {di: text, m1: integer}}
defaults: {mode: live, cooldown: 0s, lateness: 60s, judge: on_arrival}
rules:
  - {id: high, kind: threshold, per: di, when: m1 > 99}
";

/// Values of `m1`: those above 99 are alerts.
const VALUES: u64 = 110;

/// Devices that send.
const DEVICES: u64 = 10_000;

/// Partitions of both topics.
pub(super) const PARTITIONS: u32 = 4;

/// Messages that fall due within so long are sent together.
const PACE: Duration = Duration::from_millis(1);

/// When nothing has come for so long after the last message, nothing will.
const QUIET_AT_END: Duration = Duration::from_secs(10);

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages a second.
    pub rate: u32,
    /// Nothing is measured before.
    pub warm_up: Duration,
    /// Then so long.
    pub measured: Duration,
    /// Alerts leave before their commit.
    pub eager: bool,
    /// Alerts are those of a rule.
    pub by_rule: bool,
    /// Where.
    pub servers: Servers,
}

/// Measures, telling figures.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = Site::new(&options.servers)?;
    for topic in [&site.input, &site.output] {
        site.kafka.create(topic, PARTITIONS)?;
    }
    let delivery = if options.eager { "delivery: eager" } else { "delivery: exactly_once" };
    let pipeline = PIPELINE.replace("delivery: exactly_once", delivery);
    let mut assembly = site.assembly(&pipeline, PARTITIONS)?;
    let mut output = site.output.clone();
    if options.by_rule {
        let pipeline = site.pipeline(&rules_pipeline());
        let plan = file::parse_beside(&pipeline, &|_| Ok(RULES.to_owned()));
        assembly.plan = Some(Arc::new(plan.map_err(|m| Error::invalid(m.to_string()))?));
        output = alerts_topic(ALERTS, &assembly.cluster);
    }
    let backing = Backing::open(&site.settings, &assembly)?;
    let (config, _) = assembly.prepare(&backing)?;
    let running = Running::start(assembly, config, backing)?;
    while running.handle().stats().slots_running < u64::from(running.handle().slots()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let watch = Watch::start();
    let (log, topics) = (site.kafka.clone(), (site.input.clone(), output));
    let of = options.clone();
    let measured = tokio::task::spawn_blocking(move || measure(&log, &topics.0, &topics.1, &of)).await;
    let measured = measured.map_err(panicked)??;
    let seen = measured.len();
    if seen == 0 {
        return Err(Error::new(ErrorKind::Timeout, "no alert has come"));
    }
    let sent = (options.warm_up + options.measured).as_secs() * u64::from(options.rate);
    let how = if options.by_rule { "of a rule, exactly once" } else { delivery };
    let note = format!("{seen} alerts at {} messages/s, {PARTITIONS} partitions, fsync, {how}", options.rate);
    tell_lengths("alert", measured, &note, &mut tell);
    tell(&watch.rate("messages", sent, "with the generator and the reader in the same process"));
    running.stop().await;
    Ok(())
}

/// The pipeline with the rule in place of the filter and its sink.
pub(super) fn rules_pipeline() -> String {
    let until = |text: &str, mark: &str| text.split(mark).next().unwrap_or_default().to_owned();
    let head = until(PIPELINE, "    key: device").replace("device: {from: di,", "di: {");
    format!(
        "{head}    id: id\n    key: di\n    event_time: dt\n    watermark: {{per: key, out_of_orderness: 60s, idle_after: none, \
         future_guard: none}}\nsteps:\n{RULES_STEP}"
    )
    .replace("at:     {from: dt,", "dt:     {")
}

/// Sends at a steady rate and reads alerts; milliseconds of each.
fn measure(log: &Arc<KafkaLog>, input: &str, output: &str, options: &Options) -> Result<Vec<f64>> {
    let began = Instant::now();
    let is_over = AtomicBool::new(false);
    let sending = Sending { rate: options.rate, total: options.warm_up + options.measured };
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(log, output, began, &is_over));
        let sent = send(log, input, began, &sending);
        is_over.store(true, Ordering::SeqCst);
        let read =
            reader.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "the reader panicked")));
        sent.and(read)
    })?;
    let expected = Sending { rate: options.rate, total: options.warm_up + options.measured }.alerts();
    if seen.len() as u64 != expected {
        let message = format!("{} of {expected} alerts have come", seen.len());
        return Err(Error::new(ErrorKind::Timeout, message));
    }
    let measured = seen.iter().filter(|sent| sent.at >= options.warm_up);
    Ok(measured.map(|sent| sent.took.as_secs_f64() * 1e3).collect())
}

/// What is sent.
pub(super) struct Sending {
    /// Messages a second.
    pub rate: u32,
    /// For how long.
    pub total: Duration,
}

impl Sending {
    fn messages(&self) -> u64 {
        (self.total.as_secs_f64() * f64::from(self.rate)) as u64
    }

    /// How many of the messages are alerts.
    pub fn alerts(&self) -> u64 {
        (0..self.messages()).filter(|n| n * 7 % VALUES > 99).count() as u64
    }
}

/// An alert that was seen.
pub(super) struct Sent {
    /// The number of its message.
    pub id: u64,
    /// When the message was handed to the client, since the beginning.
    pub at: Duration,
    /// How long after that the alert was read.
    pub took: Duration,
}

/// The time of a message is when it was handed to the client, in microseconds since the beginning.
pub(super) fn send(log: &KafkaLog, topic: &str, began: Instant, sending: &Sending) -> Result<()> {
    let sender = log.sender(topic)?;
    for n in 0..sending.messages() {
        let due = Duration::from_secs_f64(n as f64 / f64::from(sending.rate));
        if let Some(early) = due.checked_sub(began.elapsed()).filter(|early| *early > PACE) {
            std::thread::sleep(early);
        }
        let device = format!("device-{}", n % DEVICES);
        let (at, m1) = (began.elapsed().as_micros(), n * 7 % VALUES);
        let value = format!(r#"{{"id":"{n}","di":"{device}","dt":{at},"m1":{m1}}}"#);
        let partition = id::positive_murmur2(device.as_bytes()) % PARTITIONS;
        sender.send(partition, Timestamp(1_700_000_000_000), device.as_bytes(), value.as_bytes())?;
    }
    sender.finish()
}

/// Reads committed alerts until nothing has come for a while after the end.
pub(super) fn read(log: &KafkaLog, topic: &str, began: Instant, is_over: &AtomicBool) -> Result<Vec<Sent>> {
    let sources = Sources::new(log.settings().clone(), None);
    let mut readers: Vec<_> = (0..PARTITIONS).map(|partition| (sources.open(topic, partition), 0)).collect();
    let (mut seen, mut batch, mut quiet_since) = (Vec::new(), Batch::default(), Instant::now());
    while !is_over.load(Ordering::SeqCst) || quiet_since.elapsed() < QUIET_AT_END {
        let mut any = false;
        for (reader, next) in &mut readers {
            batch.clear();
            reader.read(*next, 1 << 20, &mut batch)?;
            let now = began.elapsed();
            for record in batch.iter(SourceId(0), 0) {
                let row: serde_json::Value = serde_json::from_slice(record.value)
                    .map_err(|e| Error::new(ErrorKind::Codec, format!("a row is no JSON: {e}")))?;
                // an alert of a rule says the same as a CloudEvent
                let time = || file::rfc3339(row["time"].as_str()?)?.ms().try_into().ok();
                let at = Duration::from_micros(row["at"].as_u64().or_else(time).unwrap_or(0));
                let id = if row["causationid"].is_null() { &row["id"] } else { &row["causationid"] };
                let id = id.as_str().and_then(|id| id.parse().ok()).unwrap_or(u64::MAX);
                seen.push(Sent { id, at, took: now.saturating_sub(at) });
                *next = record.offset + 1;
                any = true;
            }
        }
        match any {
            true => quiet_since = Instant::now(),
            false => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(seen)
}
