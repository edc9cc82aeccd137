//! The same windows from Kafka to Kafka with state in Redis, exactly once, beside reading the topic alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _, SourceId};
use granary_core::{Error, ErrorKind, Result};
use granary_engine::Stats;
use granary_kafka::{KafkaLog, Sources};
use granary_streams::file;

use crate::assembly::{Assembly, Running};
use crate::backing::Backing;
use crate::config::{LogKind, Settings, StoreKind};

use super::load::{Load, Sums};
use super::streams::PIPELINE;
use super::{Figure, Watch};

/// Where to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Servers {
    /// Lanes of each silo; one per core when not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub lanes: u16,
    /// Kafka's brokers, host:port
    #[arg(long)]
    pub brokers: String,
    /// The address of Redis
    #[arg(long)]
    pub redis: String,
}

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages, copies not counted.
    pub events: u64,
    /// Devices; the messages are spread evenly.
    pub devices: u64,
    /// Categories of a device: 1 or 4.
    pub categories: u64,
    /// Partitions of the input.
    pub partitions: u32,
    /// Where.
    pub servers: Servers,
}

/// Nothing takes longer, or something is wrong.
const RUN_MAX: Duration = Duration::from_secs(600);

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A cluster of its own on the servers, named after this process; its topics are deleted at the end.
pub(crate) struct Site {
    pub kafka: Arc<KafkaLog>,
    pub settings: Settings,
    pub input: String,
    pub output: String,
}

impl Site {
    pub fn new(servers: &Servers) -> Result<Site> {
        let Servers { lanes, brokers, redis } = servers;
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let cluster = format!("bench-{}-{since}", std::process::id());
        let mut settings = Settings::default();
        settings.cluster.name.clone_from(&cluster);
        (settings.store.kind, settings.log.kind) = (StoreKind::Redis, LogKind::Kafka);
        settings.store.url = Some(redis.as_str().into());
        settings.log.brokers = Some(brokers.clone());
        settings.silo.lanes = Some(if *lanes > 0 { *lanes } else { crate::assembly::cores() });
        let kafka = Arc::new(KafkaLog::new(granary_kafka::Settings::new(&cluster, brokers))?);
        let (input, output) = (format!("{cluster}-in"), format!("{cluster}-out"));
        Ok(Site { kafka, settings, input, output })
    }

    /// The pipeline with the topics of the site.
    pub fn pipeline(&self, text: &str) -> String {
        text.replace("topic: measurements", &format!("topic: {}", self.input))
            .replace("topic: results", &format!("topic: {}", self.output))
    }

    /// A pipeline whose topics are those of the site, put together.
    pub fn assembly(&self, pipeline: &str, partitions: u32) -> Result<Assembly> {
        let pipeline = self.pipeline(pipeline);
        Ok(Assembly {
            cluster: self.settings.cluster.name.clone(),
            lanes: self.settings.silo.lanes.unwrap_or(0),
            plan: Some(Arc::new(file::parse(&pipeline).map_err(|m| Error::invalid(m.to_string()))?)),
            sink_partitions: partitions,
            ..Assembly::default()
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let settings = self.kafka.settings();
        for topic in [&self.input, &self.output, &settings.slots_topic(), &settings.ids_topic()] {
            let _ = self.kafka.delete(topic);
        }
    }
}

/// Measures, telling figures; an error when the results are not right.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = Site::new(&options.servers)?;
    site.kafka.create(&site.input, options.partitions)?;
    let load = Load { events: options.events, devices: options.devices, categories: options.categories };
    let mut append = |batches: &mut [Batch]| {
        site.kafka.append_all(&site.input, batches)?;
        batches.iter_mut().for_each(Batch::clear);
        Ok(())
    };
    let expected = load.write(options.partitions, &mut append)?;
    load.write_end(options.partitions, &mut append)?;
    let total = (0..options.partitions)
        .map(|p| site.kafka.bounds(&site.input, p).map(|(_, end)| end))
        .sum::<Result<u64>>()?;
    let lanes = site.settings.silo.lanes.unwrap_or(1);
    tell(&read_alone(&site, options.partitions, total, lanes)?);

    let late = if options.categories == 1 { "allowed_lateness: 0s" } else { "allowed_lateness: 60s" };
    let assembly = site.assembly(&PIPELINE.replace("allowed_lateness: 60s", late), options.partitions)?;
    let backing = Backing::open(&site.settings, &assembly)?;
    let (config, _) = assembly.prepare(&backing)?;
    let watch = Watch::start();
    let running = Running::start(assembly, config, backing)?;
    // as peers are measured: the clock runs from the first record on, the processor is counted from the start on
    until(&running, LOOK_EVERY / 5, |stats| stats.records > 0).await?;
    let began = Instant::now();
    let is_published =
        |stats: &Stats| stats.records >= total && stats.outputs >= expected.rows && stats.outbox_bytes == 0;
    until(&running, LOOK_EVERY, is_published).await?;
    let watch = watch.from(began);
    let stats = running.handle().stats();
    let note = format!(
        "{total} records of {} devices, {} results, {} commits, {} transactions, {} partitions, fsync, {lanes} lanes",
        options.devices, stats.outputs, stats.commits, stats.transactions, options.partitions
    );
    tell(&watch.rate("windows, Kafka to Kafka with Redis", total, note));
    running.stop().await;
    let got = read_results(&site)?;
    if got != expected {
        let message = format!("the results are wrong: {got:?} where {expected:?} is right");
        return Err(Error::new(ErrorKind::Codec, message));
    }
    Ok(())
}

/// Waits until the silo stands there.
async fn until(running: &Running, look_every: Duration, is_there: impl Fn(&Stats) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let stats = running.handle().stats();
        if is_there(&stats) {
            return Ok(());
        }
        if began.elapsed() > RUN_MAX {
            let message = format!("not done within {RUN_MAX:?}: {} records were applied", stats.records);
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        tokio::time::sleep(look_every).await;
    }
}

/// Reads the partitions on as many threads as there are lanes, as a silo's sources do.
fn read_alone(site: &Site, partitions: u32, total: u64, lanes: u16) -> Result<Figure> {
    let watch = Watch::start();
    let sources = Sources::new(site.kafka.settings().clone(), None);
    let read = |lane: u32| -> Result<()> {
        let own = (lane..partitions).step_by(usize::from(lanes));
        let mut readers: Vec<_> = own.map(|partition| (sources.open(&site.input, partition), 0)).collect();
        let mut batch = Batch::default();
        while !readers.is_empty() {
            for (reader, next) in &mut readers {
                batch.clear();
                reader.read_within(Duration::from_millis(1), *next, 1 << 20, &mut batch)?;
                if let Some(last) = batch.iter(SourceId(0), 0).last() {
                    *next = last.offset + 1;
                }
            }
            readers.retain(|(reader, _)| !reader.is_at_end());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..u32::from(lanes)).map(|lane| scope.spawn(move || read(lane))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "a reading thread panicked")))
        })
    })?;
    Ok(watch.rate("reading the topic alone", total, format!("{lanes} threads")))
}

fn read_results(site: &Site) -> Result<Sums> {
    let partitions = site.kafka.partitions(&site.output)?.unwrap_or(0);
    let (mut sums, mut batch) = (Sums::default(), Batch::default());
    for partition in 0..partitions {
        let mut next = 0;
        loop {
            batch.clear();
            site.kafka.read(&site.output, partition, next, 1 << 20, &mut batch)?;
            let Some(last) = batch.iter(SourceId(0), 0).last() else { break };
            next = last.offset + 1;
            batch.iter(SourceId(0), 0).try_for_each(|record| sums.add(record.value))?;
        }
    }
    Ok(sums)
}
