//! Calls from another process: reads, durable writes, grains met cold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_core::{Error, ErrorKind, Result};
use tokio::task::JoinSet;

use crate::config::{Settings, StoreDurability};

use super::Figure;
use super::callers::{all_of, on_a_thread};
use super::servers::{Servers, Site};
use super::silos::{Note, Silos};

/// Grains that are called.
const GRAINS: u64 = 10_000;
/// Bytes of a note.
const PAYLOAD_BYTES: usize = 100;
/// Nothing is measured before.
const WARM_UP: Duration = Duration::from_secs(2);
/// Callers that meet cold grains.
const COLD_CALLERS: u64 = 100;

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Silos.
    pub silos: usize,
    /// Lanes of each; one per core when 0.
    pub lanes: u16,
    /// How long each figure is measured.
    pub measured: Duration,
    /// When a write counts as kept.
    pub durability: StoreDurability,
    /// Grains that are met cold; none when 0.
    pub cold: u64,
    /// Kafka and Redis; the embedded store without.
    pub servers: Option<Servers>,
}

/// Measures, telling figures.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = options.servers.as_ref().map(Site::new).transpose()?;
    let mut settings = site.as_ref().map_or_else(Settings::default, |site| site.settings.clone());
    settings.silo.lanes = (options.lanes > 0).then_some(options.lanes);
    settings.store.durability = options.durability;
    if options.servers.is_none() && options.silos > 1 {
        return Err(Error::invalid("--silos: several silos need --brokers and --redis"));
    }
    let mut silos = Silos::start(&settings, None, options.silos).await?;
    let kept = match options.durability {
        StoreDurability::Fsync => "fsync",
        StoreDurability::Everysec => "everysec",
    };
    let place = if site.is_some() { "Redis" } else { "embedded" };
    let note = |in_flight: u64| {
        format!("{} silos, {place}, {kept}, {PAYLOAD_BYTES} bytes, {in_flight} in flight", options.silos)
    };
    for (name, in_flight, writes) in [("writes", 256, true), ("reads", 64, false)] {
        let load = Load { in_flight, writes, measured: options.measured };
        let addresses = silos.addresses();
        let measured = on_a_thread(async move { load.run(&addresses).await }).await?;
        measured.figures(name, &note(in_flight), &mut tell);
    }
    if options.cold > 0 {
        tell(&cold(&mut silos, options.cold, &note(COLD_CALLERS)).await?);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Load {
    in_flight: u64,
    writes: bool,
    measured: Duration,
}

struct Measured {
    done: u64,
    took: Duration,
    /// Microseconds, sorted.
    latencies: Vec<u32>,
}

impl Load {
    async fn run(self, addresses: &str) -> Result<Measured> {
        let client = Client::connect(addresses).await?;
        let begins = Instant::now() + WARM_UP;
        let ends = begins + self.measured;
        let mut callers = JoinSet::new();
        for caller in 0..self.in_flight {
            callers.spawn(self.call(client.clone(), caller, begins, ends));
        }
        let mut latencies = all_of(callers).await?.concat();
        latencies.sort_unstable();
        Ok(Measured { done: latencies.len() as u64, took: self.measured, latencies })
    }

    async fn call(self, client: Client, caller: u64, begins: Instant, ends: Instant) -> Result<Vec<u32>> {
        let text = "n".repeat(PAYLOAD_BYTES);
        let mut latencies = Vec::with_capacity(1 << 16);
        let mut n = caller;
        loop {
            let sent = Instant::now();
            if sent >= ends {
                return Ok(latencies);
            }
            let grain = client.grain::<Note>(format!("n-{}", n % GRAINS));
            if self.writes {
                grain.write(text.clone()).await?;
            } else {
                grain.read().await?;
            }
            n += self.in_flight;
            if sent >= begins {
                latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        }
    }
}

impl Measured {
    fn figures(&self, name: &str, note: &str, tell: &mut impl FnMut(&Figure)) {
        let rate = self.done as f64 / self.took.as_secs_f64();
        tell(&Figure { name: name.to_owned(), value: rate, unit: "/s", note: note.to_owned() });
        for (share, what) in [(0.5, "median"), (0.99, "99 %")] {
            let at =
                ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
            let value = self.latencies.get(at).copied().map_or(0.0, f64::from);
            tell(&Figure { name: format!("{name}, {what}"), value, unit: "us", note: note.to_owned() });
        }
    }
}

/// Writes so many grains, has the silos start anew, and reads each once.
async fn cold(silos: &mut Silos, grains: u64, note: &str) -> Result<Figure> {
    each(&silos.addresses(), grains, 256, true).await?;
    for no in 0..silos.count() {
        silos.kill(no);
    }
    for no in 0..silos.count() {
        silos.begin(no)?;
    }
    silos.settled().await?;
    let took = each(&silos.addresses(), grains, COLD_CALLERS, false).await?;
    let value = grains as f64 / took.as_secs_f64();
    Ok(Figure { name: format!("{grains} grains met cold"), value, unit: "/s", note: note.to_owned() })
}

/// Calls each grain once; how long that took.
async fn each(addresses: &str, grains: u64, callers: u64, writes: bool) -> Result<Duration> {
    let addresses = addresses.to_owned();
    on_a_thread(async move {
        let client = Client::connect(addresses).await?;
        let next = Arc::new(AtomicU64::new(0));
        let (began, mut tasks) = (Instant::now(), JoinSet::new());
        for _ in 0..callers {
            tasks.spawn(call_each(client.clone(), next.clone(), grains, writes));
        }
        all_of(tasks).await?;
        Ok(began.elapsed())
    })
    .await
}

async fn call_each(client: Client, next: Arc<AtomicU64>, grains: u64, writes: bool) -> Result<()> {
    let text = "c".repeat(PAYLOAD_BYTES);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= grains {
            return Ok(());
        }
        let grain = client.grain::<Note>(format!("cold-{n}"));
        if writes {
            grain.write(text.clone()).await?;
        } else if grain.read().await? != text {
            return Err(Error::new(ErrorKind::Codec, format!("Note/cold-{n} is not as it was written")));
        }
    }
}
