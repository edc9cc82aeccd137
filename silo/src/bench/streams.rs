//! Windows from a log to a log: 5-second sums per device and category, exactly once, results checked.

use std::sync::Arc;

use granary_cluster::{Batch, Log, Record, SourceId};
use granary_core::{Error, ErrorKind, Result};
use granary_engine::{LogSource, Source, SourceSpec};
use granary_store::{Durability, Embedded, Options as StoreOptions};
use granary_streams::decode::{Decoded, decode};
use granary_streams::plan::Decoder;
use granary_streams::{Plan, file};

use crate::assembly::{Assembly, Running};
use crate::backing::Backing;

use super::load::{Load, Sums};
use super::{Figure, Scratch, Watch};

/// Partitions of the input.
pub(super) const PARTITIONS: u32 = 12;
pub(super) const PIPELINE: &str = "
pipeline: bench
sources:
  measurements:
    topic: measurements
    read: in_place
    decode:
      format: json
      record_bytes_max: 65536
      fields:
        id:       {type: text, chars: 1..128}
        device:   {from: di, type: text, chars: 1..128}
        category: {from: c, type: text, chars: 1..128}
        at:       {from: dt, type: time_ms, digits: 1..15, quoted: allowed}
        m1:       {type: integer, range: -9007199254740991..9007199254740991}
        m2:       {type: double, range: -1e12..1e12}
    id: id
    key: device
    event_time: at
    watermark: {per: key, out_of_orderness: 0s, idle_after: none, future_guard: none}
steps:
  totals:
    from: measurements
    by: [category]
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    allowed_lateness: 60s
    emit: watermark
    aggregates:
      count:  count()
      m1_sum: sum(m1)
      m2_avg: avg(m2)
sinks:
  aggregates: {from: totals, topic: results, delivery: exactly_once}
";

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Messages, copies not counted.
    pub events: u64,
    /// Devices; the messages are spread evenly.
    pub devices: u64,
    /// Lanes; one per core when 0.
    pub lanes: u16,
}

/// Measures, telling figures; an error when the results are not right.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let scratch = Scratch::make("streams")?;
    let plan = Arc::new(file::parse(PIPELINE).map_err(|m| Error::invalid(m.to_string()))?);
    let lanes = if options.lanes > 0 { options.lanes } else { crate::assembly::cores() };
    let assembly = Assembly {
        cluster: "bench".into(),
        lanes,
        plan: Some(plan.clone()),
        sink_partitions: PARTITIONS,
        durability: Durability::Fsync,
        ..Assembly::default()
    };
    let (input, expected) = write_input(&scratch, options)?;
    let total = messages(&input)?;
    tell(&read_alone(&input, total, lanes)?);
    tell(&decode_alone(&plan, &input, total, lanes)?);

    let store = assembly.open_store(&scratch.0.join("store"))?;
    let backing = Backing::embedded(store.clone(), assembly.slots)?;
    let mut config = assembly.config(&backing)?;
    config.finite = true;
    config.sources = vec![source(&input)];
    let watch = Watch::start();
    let running = Running::start(assembly, config, backing)?;
    running.handle().finished().await;
    let stats = running.handle().stats();
    let note = format!(
        "{total} records ({} copies) of {} devices, {} results, {} commits, fsync, {lanes} lanes",
        total - options.events,
        options.devices,
        stats.outputs,
        stats.commits
    );
    tell(&watch.rate("windows, log to log", total, note));
    let counts = running.counts()?;
    let topic = running.assembly().topic_of("aggregates").unwrap_or_default();
    running.stop().await;
    let got = read_results(&store, &topic)?;
    if got != expected || counts.records != total || !counts.is_balanced() {
        let message = format!("the results are wrong: {got:?} where {expected:?} is right; {counts:?}");
        return Err(Error::new(ErrorKind::Codec, message));
    }
    Ok(())
}

pub(super) fn source(input: &Arc<Embedded>) -> SourceSpec {
    let (log, end) = (input.clone(), input.clone());
    let open = LogSource::opener(log, "measurements".into());
    SourceSpec {
        topic: "measurements".into(),
        partitions: PARTITIONS,
        in_place: true,
        starts: Vec::new(),
        rewound: Vec::new(),
        again_of: None,
        strays: None,
        open: Arc::new(move |partition| {
            let (_, end) = end.bounds("measurements", partition)?;
            Ok(Box::new(ToTheEnd { source: open(partition)?, end }))
        }),
    }
}

/// A partition of a log that is complete.
struct ToTheEnd {
    source: Box<dyn Source>,
    end: u64,
}

impl Source for ToTheEnd {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.source.read(from, bytes_max, batch)
    }

    fn has_ended(&mut self, at: u64) -> Result<bool> {
        Ok(at >= self.end)
    }
}

/// Writes the messages, in the order of their times, to a log of its own; returns what the results must add up to.
fn write_input(scratch: &Scratch, options: Options) -> Result<(Arc<Embedded>, Sums)> {
    let store = Embedded::open(scratch.0.join("input"), StoreOptions::new(96).durability(Durability::None))?;
    store.create("measurements", PARTITIONS)?;
    let load = Load { events: options.events, devices: options.devices, categories: 4 };
    let expected = load.write(PARTITIONS, &mut |batches| {
        for (partition, batch) in batches.iter_mut().enumerate().filter(|(_, b)| !b.is_empty()) {
            store.append("measurements", partition as u32, batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    Ok((store, expected))
}

fn messages(input: &Embedded) -> Result<u64> {
    (0..PARTITIONS).map(|p| input.bounds("measurements", p).map(|(_, next)| next)).sum()
}

/// Reads the partitions on as many threads as there are lanes.
fn read_alone(input: &Arc<Embedded>, total: u64, lanes: u16) -> Result<Figure> {
    let watch = Watch::start();
    on_threads(input, lanes, |_| Ok(()))?;
    Ok(watch.rate("log reading alone", total, format!("{lanes} threads")))
}

fn decode_alone(plan: &Arc<Plan>, input: &Arc<Embedded>, total: u64, lanes: u16) -> Result<Figure> {
    let watch = Watch::start();
    let Decoder::Schema(schema) = &plan.sources[0].decoder else {
        return Err(Error::invalid("the bench's source has a schema"));
    };
    let rejected = |_: Box<_>| Error::new(ErrorKind::Codec, "a message of the bench was rejected");
    on_threads(input, lanes, |record| {
        thread_local! {
            static DECODED: std::cell::RefCell<Decoded> = std::cell::RefCell::default();
        }
        DECODED.with_borrow_mut(|decoded| decode(schema, record.value, decoded).map_err(rejected))
    })?;
    Ok(watch.rate("reading and strict decoding alone", total, format!("{lanes} threads")))
}

fn on_threads(
    input: &Arc<Embedded>,
    lanes: u16,
    take: impl Fn(&Record<'_>) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..u32::from(lanes))
            .map(|lane| {
                let take = &take;
                scope.spawn(move || -> Result<()> {
                    for partition in (lane..PARTITIONS).step_by(usize::from(lanes)) {
                        let (mut next, end) = input.bounds("measurements", partition)?;
                        let mut batch = Batch::default();
                        while next < end {
                            batch.clear();
                            input.read("measurements", partition, next, 1 << 20, &mut batch)?;
                            for record in batch.iter(SourceId(0), partition) {
                                take(&record)?;
                                next = record.offset + 1;
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| {
            t.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "a reading thread panicked")))
        })
    })
}

/// Adds up the last revision of every result.
fn read_results(store: &Arc<Embedded>, topic: &str) -> Result<Sums> {
    let mut sums = Sums::default();
    crate::results::each_last(store, topic, &mut |row| sums.add(row))?;
    Ok(sums)
}
