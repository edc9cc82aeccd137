//! Three silos under records and calls: how long outputs and calls pause when one is killed, and when one gives its slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster::Log as _;
use granary_core::{Error, ErrorKind, Result, time::secs};
use granary_kafka::KafkaLog;
use tokio::task::JoinSet;

use super::Figure;
use super::callers::{Took, all_of, between, on_a_thread, panicked, sleep_until};
use super::latency::{self, PARTITIONS, PIPELINE, Sent};
use super::servers::{Servers, Site};
use super::silos::{Note, Silos};

/// Callers; each has grains of its own, and one call under way.
const CALLERS: u64 = 1_000;
/// Grains of a caller.
const GRAINS: u64 = 2;
/// When things happen, in seconds since the load began.
const STEADY_S: std::ops::Range<u64> = 12..18;
const KILLED_AT_S: u64 = 20;
const STARTED_AT_S: u64 = 27;
const DRAINED_AT_S: u64 = 36;
const ENDS_AT_S: u64 = 42;

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages a second.
    pub events: u32,
    /// Calls a second.
    pub calls: u32,
    /// Where.
    pub servers: Servers,
}

/// Measures, telling figures; an error when something was lost or done twice.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = Site::new(&options.servers)?;
    for topic in [&site.input, &site.output] {
        site.kafka.create(topic, PARTITIONS)?;
    }
    let mut silos = Silos::start(&site.settings, Some(&site.pipeline(PIPELINE)), 3).await?;
    let began = Instant::now();
    let (log, topics, rate) = (site.kafka.clone(), (site.input.clone(), site.output.clone()), options.events);
    let streams = tokio::task::spawn_blocking(move || stream(&log, &topics.0, &topics.1, began, rate));
    let calls = tokio::spawn(on_a_thread(call_all(silos.addresses(), began, options.calls)));

    sleep_until(began + Duration::from_secs(KILLED_AT_S)).await;
    silos.kill(0);
    sleep_until(began + Duration::from_secs(STARTED_AT_S)).await;
    silos.begin(0)?;
    sleep_until(began + Duration::from_secs(DRAINED_AT_S)).await;
    let drained = Client::builder(silos.address(1)).send_once().connect().await?;
    drained.ask("drain", &[]).await?;

    let outputs = streams.await.map_err(panicked)??;
    let calls = calls.await.map_err(panicked)??;
    let note = format!("three silos, {} messages/s, {} calls/s, fsync", options.events, options.calls);
    for (what, all) in [("outputs", &outputs), ("durable calls", &calls)] {
        figures(what, all, &note, &mut tell);
    }
    Ok(())
}

fn figures(what: &str, all: &[Took], note: &str, tell: &mut impl FnMut(&Figure)) {
    let within = |from, to| between(all, Duration::from_secs(from)..Duration::from_secs(to));
    let mut say = |name: &str, value: Option<&f64>| {
        let (name, value) = (format!("{what}, {name}"), value.copied().unwrap_or(0.0));
        tell(&Figure { name, value, unit: "ms", note: note.to_owned() });
    };
    let steady = within(STEADY_S.start, STEADY_S.end);
    say("steady, 99 %", steady.get(steady.len() * 99 / 100));
    say("steady, longest", steady.last());
    say("a silo is killed, longest", within(KILLED_AT_S - 1, STARTED_AT_S - 1).last());
    say("it comes back, longest", within(STARTED_AT_S - 1, DRAINED_AT_S - 2).last());
    say("another gives its slots, longest", within(DRAINED_AT_S - 1, ENDS_AT_S).last());
}

/// Sends messages and reads outputs; every one of them, once.
fn stream(log: &Arc<KafkaLog>, input: &str, output: &str, began: Instant, rate: u32) -> Result<Vec<Took>> {
    let is_over = AtomicBool::new(false);
    let of = latency::Sending { rate, total: Duration::from_secs(ENDS_AT_S) };
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| latency::read(log, output, began, &is_over));
        let sent = latency::send(log, input, began, &of);
        is_over.store(true, Ordering::SeqCst);
        let read =
            reader.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "the reader panicked")));
        sent.and(read)
    })?;
    let mut ids: Vec<u64> = seen.iter().map(|sent| sent.id).collect();
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    let wanted = of.alerts();
    if all != ids.len() || ids.len() as u64 != wanted {
        let message = format!("{wanted} outputs are right, there are {all}, {} of them different", ids.len());
        return Err(Error::new(ErrorKind::Codec, message));
    }
    Ok(seen.iter().map(|Sent { at, took, .. }| Took { at: *at, took: *took }).collect())
}

/// Calls at a steady rate; at the end each grain is as its last answered call left it.
async fn call_all(addresses: String, began: Instant, rate: u32) -> Result<Vec<Took>> {
    let client = Client::connect(addresses).await?;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(client.clone(), caller, began, f64::from(rate) / CALLERS as f64));
    }
    Ok(all_of(callers).await?.concat())
}

async fn call(client: Client, caller: u64, began: Instant, rate: f64) -> Result<Vec<Took>> {
    let mut took = Vec::new();
    let mut last = vec![String::new(); GRAINS as usize];
    let ends = Duration::from_secs(ENDS_AT_S);
    for n in 0.. {
        let at = Duration::from_secs_f64((n as f64 + caller as f64 / CALLERS as f64) / rate);
        if at >= ends {
            break;
        }
        sleep_until(began + at).await;
        let (which, text) = (n % GRAINS, format!("{caller}-{n}"));
        let grain = client.grain::<Note>(format!("f-{caller}-{which}"));
        grain.write(text.clone()).timeout(secs(30)).idempotency_key(text.as_str()).await?;
        took.push(Took { at, took: began.elapsed().saturating_sub(at) });
        last[which as usize] = text;
    }
    for (which, text) in last.iter().enumerate() {
        let found = client.grain::<Note>(format!("f-{caller}-{which}")).read().await?;
        if found != *text {
            let message =
                format!("Note/f-{caller}-{which} is `{found}`, and the last answered call wrote `{text}`");
            return Err(Error::new(ErrorKind::Codec, message));
        }
    }
    Ok(took)
}
