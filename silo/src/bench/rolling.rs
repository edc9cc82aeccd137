//! A rolling restart under calls: each of three silos is stopped in order and started again. No call may fail, and callers
//! should hardly notice.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_core::{Error, ErrorKind, Result};
use tokio::task::JoinSet;

use super::Figure;
use super::callers::{Took, all_of, between, on_a_thread, panicked, sleep_until};
use super::servers::{Servers, Site};
use super::silos::{Note, Silos};

/// Silos, all of which are restarted.
const SILOS: usize = 3;
/// Callers; each has a grain of its own, and one call under way.
const CALLERS: u32 = 1_000;
/// The callers and the silos' caches warm up for so long, then all stands still for as long.
const WARM_UP: Duration = Duration::from_secs(8);
const STEADY: Duration = Duration::from_secs(10);
/// Between the end of one restart and the next: deploys wait, too.
const PAUSE: Duration = Duration::from_secs(3);

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls a second: a durable write and a read in turn.
    pub calls: u32,
    /// Where.
    pub servers: Servers,
}

/// Measures, telling figures; an error when a call failed or a grain is not as its last answered write left it.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = Site::new(&options.servers)?;
    let mut silos = Silos::start(&site.settings, None, SILOS).await?;
    let began = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let rate = f64::from(options.calls) / f64::from(CALLERS);
    let calls = tokio::spawn(on_a_thread(call_all(silos.addresses(), began, rate, is_over.clone())));

    let steady = WARM_UP..WARM_UP + STEADY;
    sleep_until(began + steady.end).await;
    let mut rolled = Vec::new();
    for no in 0..SILOS {
        let from = began.elapsed();
        silos.stop(no).await?;
        silos.begin(no)?;
        silos.settled().await?;
        rolled.push(from..began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let calls = calls.await.map_err(panicked)??;
    let note = format!("{SILOS} silos, {} calls/s, half of them writes, fsync", options.calls);
    figures(&calls, steady, &rolled, &note, &mut tell);
    Ok(())
}

fn figures(
    calls: &[Took],
    steady: Range<Duration>,
    rolled: &[Range<Duration>],
    note: &str,
    tell: &mut impl FnMut(&Figure),
) {
    let mut say = |name: &str, value: f64, unit| {
        tell(&Figure { name: name.to_owned(), value, unit, note: note.to_owned() });
    };
    let at = |took: &[f64], share: usize| took.get(took.len() * share / 1_000).copied().unwrap_or(0.0);
    let before = between(calls, steady);
    say("calls that failed, of all", 0.0, "calls"); // else there are no figures
    say("calls", calls.len() as f64, "calls");
    say("steady, 99 %", at(&before, 990), "ms");
    say("steady, longest", before.last().copied().unwrap_or(0.0), "ms");
    let all =
        rolled.first().zip(rolled.last()).map_or(Duration::ZERO..Duration::ZERO, |(a, b)| a.start..b.end);
    let during = between(calls, all);
    say("rolling restart, 99 %", at(&during, 990), "ms");
    say("rolling restart, 99.9 %", at(&during, 999), "ms");
    say("rolling restart, longest", during.last().copied().unwrap_or(0.0), "ms");
    for one in rolled {
        say("a restart of one", (one.end - one.start).as_secs_f64() * 1e3, "ms");
    }
}

async fn call_all(
    addresses: String,
    began: Instant,
    rate: f64,
    is_over: Arc<AtomicBool>,
) -> Result<Vec<Took>> {
    let client = Client::connect(addresses).await?;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(client.clone(), caller, began, rate, is_over.clone()));
    }
    Ok(all_of(callers).await?.concat())
}

/// Writes and reads in turn, at a steady rate; what is read is what was written last.
async fn call(
    client: Client,
    caller: u32,
    began: Instant,
    rate: f64,
    is_over: Arc<AtomicBool>,
) -> Result<Vec<Took>> {
    let grain = client.grain::<Note>(format!("r-{caller}"));
    let mut took = Vec::new();
    let mut last = String::new();
    for n in 0_u64.. {
        let at = Duration::from_secs_f64((n as f64 + f64::from(caller) / f64::from(CALLERS)) / rate);
        sleep_until(began + at).await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        if n % 2 == 0 {
            last = format!("{caller}-{n}");
            grain.write(last.clone()).await?;
        } else {
            let found = grain.read().await?;
            if found != last {
                let message =
                    format!("Note/r-{caller} is `{found}`, and the last answered call wrote `{last}`");
                return Err(Error::new(ErrorKind::Codec, message));
            }
        }
        took.push(Took { at, took: began.elapsed().saturating_sub(at) });
    }
    Ok(took)
}
