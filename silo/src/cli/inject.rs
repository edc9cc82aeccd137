//! The load generator: simulated device messages into a file or a topic, and the exact answer to them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use granary_cluster::{Batch, Log as _};
use granary_core::time::secs;
use granary_core::{Clock as _, Error, Result, Span, Timestamp, id};
use granary_kafka::KafkaLog;
use granary_streams::inject::{self, Injector, Layout};

use crate::clock::SystemClock;
use crate::run as runs;

use super::online::{At, ConfigArguments};
use super::screen::Meter;
use super::{YES, block_on};

/// Messages written to a topic in one go, and how often a rate is kept to.
const TOGETHER_MAX: usize = 10_000;
const PACE: Duration = Duration::from_millis(20);

/// Records in one request to a silo.
const REQUEST_RECORDS_MAX: usize = 1_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct InjectArguments {
    /// Write messages to this file; their truth goes to FILE.truth.csv
    #[arg(long, value_name = "FILE", required_unless_present = "topic")]
    out: Option<PathBuf>,
    /// Write messages to this topic: of Kafka if the configuration or --brokers names it, else of the silo at --silo
    #[arg(long, value_name = "TOPIC", conflicts_with = "out")]
    topic: Option<String>,
    /// The brokers of the topic, host:port; by default those of the configuration
    #[arg(long, requires = "topic")]
    brokers: Option<String>,
    /// Where the truth goes
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Messages a second; as fast as possible without it
    #[arg(long, requires = "topic")]
    rate: Option<u32>,
    /// Records without a key, in any partition
    #[arg(long, requires = "topic")]
    keyless: bool,
    /// When the first message is sent, ms since 1970; 1700000000000 into a file, now into a topic
    #[arg(long)]
    start_ms: Option<i64>,
    /// Decides everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many devices
    #[arg(long, default_value_t = 100)]
    devices: u32,
    /// Messages of each device, copies not counted
    #[arg(long, default_value_t = 300)]
    messages: u32,
    /// Time between two messages of a device, ms
    #[arg(long, default_value_t = 1_000)]
    period_ms: u64,
    /// How many of 1,000 messages are sent again
    #[arg(long, default_value_t = 50)]
    resent_per_mille: u16,
    /// Every message takes up to so long to arrive, ms
    #[arg(long, default_value_t = 2_000)]
    disorder_ms: u64,
    /// How many of 1,000 messages are late by 120 to 420 s
    #[arg(long, default_value_t = 10)]
    late_per_mille: u16,
    /// How many of 1,000 devices have a wrong clock
    #[arg(long, default_value_t = 100)]
    skewed_per_mille: u16,
    /// How many devices send ten times as much
    #[arg(long, default_value_t = 1)]
    hot_devices: u32,
    /// Messages as `id|device|dt|category|m1|m2` instead of JSON
    #[arg(long)]
    delimited: bool,
    /// The windows of the truth, ms
    #[arg(long, default_value_t = 5_000)]
    window_ms: u64,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    at: At,
}

impl InjectArguments {
    fn options(&self) -> inject::Options {
        let ours = inject::Options::default();
        let start = match self.start_ms {
            Some(start) => Timestamp(start),
            None if self.topic.is_some() => SystemClock::start().now(),
            None => ours.start,
        };
        inject::Options {
            seed: self.seed,
            devices: self.devices,
            messages: self.messages,
            period: Span(self.period_ms),
            start,
            resent_per_mille: self.resent_per_mille,
            disorder: Span(self.disorder_ms),
            late_per_mille: self.late_per_mille,
            skewed_per_mille: self.skewed_per_mille,
            hot_devices: self.hot_devices,
            has_key: !self.keyless,
            layout: if self.delimited { Layout::Delimited } else { Layout::Json },
            late_min: secs(120),
            late_max: secs(420),
        }
    }

    fn truth(&self) -> PathBuf {
        let beside = match (&self.out, &self.topic) {
            (Some(file), _) => file.display().to_string(),
            (None, topic) => topic.clone().unwrap_or_default(),
        };
        self.truth.clone().unwrap_or_else(|| PathBuf::from(format!("{beside}.truth.csv")))
    }
}

pub(crate) fn inject(arguments: InjectArguments, json: bool) -> Result<u8> {
    let options = arguments.options();
    let mut meter = Meter::begin("messages", json);
    let (place, totals) = match (&arguments.out, &arguments.topic) {
        (Some(file), _) => (file.display().to_string(), into_file(file, &options, &mut meter)?),
        (None, topic) => {
            let topic = topic.clone().unwrap_or_default();
            let totals = into_topic(&arguments, &topic, &options, &mut meter)?;
            (format!("topic {topic}"), totals)
        }
    };
    let truth = arguments.truth();
    let mut rows = BufWriter::with_capacity(1 << 20, create(&truth)?);
    let windows = inject::write_truth(inject::truth(&options, Span(arguments.window_ms)), &mut rows)
        .and_then(|n| rows.flush().map(|()| n))
        .map_err(|e| runs::unwritable(&truth, &e))?;
    meter.end();
    if json {
        let (messages, copies) = (totals.messages, totals.copies);
        say!("{}", serde_json::json!({"messages": messages, "copies": copies, "windows": windows}));
    } else {
        say!("{place}: {} messages, {} of them copies", totals.messages, totals.copies);
        say!("{}: {windows} windows", truth.display());
    }
    Ok(YES)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| runs::unwritable(path, &e))
}

fn into_file(file: &Path, options: &inject::Options, meter: &mut Meter) -> Result<inject::Totals> {
    let failed = |e: std::io::Error| runs::unwritable(file, &e);
    let mut out = BufWriter::with_capacity(1 << 20, create(file)?);
    let mut injector = Injector::new(options.clone());
    let mut lines = 0_u64;
    while let Some(message) = injector.next() {
        out.write_all(message.value).and_then(|()| out.write_all(b"\n")).map_err(failed)?;
        lines += 1;
        if lines.is_multiple_of(65_536) {
            meter.at(lines);
        }
    }
    out.flush().map_err(failed)?;
    Ok(injector.totals())
}

/// Where messages go: a topic of Kafka, or of a silo's own log.
enum Topic {
    Kafka(Box<KafkaLog>, u32),
    Silo(At),
}

fn into_topic(
    arguments: &InjectArguments,
    topic: &str,
    options: &inject::Options,
    meter: &mut Meter,
) -> Result<inject::Totals> {
    let to = match arguments.config.kafka(arguments.brokers.as_deref())? {
        Some(settings) => {
            let log = KafkaLog::new(settings)?;
            let partitions = log.partitions(topic)?.ok_or_else(|| {
                Error::invalid(format!(
                    "there is no topic `{topic}`: `granary topics` creates what a silo needs"
                ))
            })?;
            Topic::Kafka(Box::new(log), partitions)
        }
        None => Topic::Silo(arguments.at.clone()),
    };
    let partitions = if let Topic::Kafka(_, partitions) = &to { *partitions } else { 1 };
    let mut batches = vec![Batch::default(); partitions as usize];
    let together = arguments.rate.map_or(TOGETHER_MAX, |rate| {
        (f64::from(rate) * PACE.as_secs_f64()).clamp(1.0, TOGETHER_MAX as f64) as usize
    });
    let (clock, began) = (SystemClock::start(), Instant::now());
    let mut injector = Injector::new(options.clone());
    let (mut sent, mut waiting) = (0_u64, 0);
    loop {
        let is_last = match injector.next() {
            Some(message) => {
                let partition = match message.key {
                    Some(key) => id::positive_murmur2(key) % partitions,
                    None => (sent % u64::from(partitions)) as u32,
                };
                batches[partition as usize].push(0, clock.now(), message.key, message.value);
                (sent, waiting) = (sent + 1, waiting + 1);
                false
            }
            None => true,
        };
        if waiting >= together || is_last {
            write(&to, topic, &mut batches)?;
            waiting = 0;
            meter.at(sent);
            if let Some(rate) = arguments.rate {
                let due = Duration::from_secs_f64(sent as f64 / f64::from(rate.max(1)));
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        if is_last {
            return Ok(injector.totals());
        }
    }
}

fn write(to: &Topic, topic: &str, batches: &mut [Batch]) -> Result<()> {
    match to {
        Topic::Kafka(log, _) => log.append_all(topic, batches)?,
        Topic::Silo(at) => block_on(async {
            let client = at.connect().await?;
            for batch in batches.iter() {
                let records: Vec<_> = batch
                    .iter(granary_cluster::SourceId(0), 0)
                    .map(|record| granary_client::NewRecord { key: record.key, value: record.value })
                    .collect();
                for some in records.chunks(REQUEST_RECORDS_MAX) {
                    client.produce(topic, some).await?;
                }
            }
            Ok(())
        })?,
    }
    batches.iter_mut().for_each(Batch::clear);
    Ok(())
}
