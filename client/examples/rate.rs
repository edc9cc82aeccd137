//! Calls per second over loopback: a client with some calls in flight, a service that echoes.
//!
//! `cargo run --release -p granary-client --example rate -- [in flight] [seconds] [channel] [typed] [slots]`
//! With `channel` the answers go through a channel, as those of a lane do; with `typed` the calls are typed ones; with
//! `slots` the silo tells a table of slots, as one of several would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_client::serve::{Feed, Identity, Reply, Service, serve};
use granary_client::{Client, SiloEntry, SlotTable};
use granary_core::call::Options;
use granary_core::{Error, ErrorKind, GrainId, Result};
use granary_macros::grain;
use granary_wire::{Call, Produce, Tail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn bursts(&self) -> u64 {
        self.bursts
    }
}

struct Echo {
    channel: bool,
    table: Option<SlotTable>,
}

impl Service for Echo {
    fn call(&self, _: Call<'_>, reply: Reply) {
        let answer = Ok(vec![7]);
        if self.channel {
            let (to, from) = tokio::sync::oneshot::channel();
            reply.follow(from);
            drop(to.send(answer));
        } else {
            reply.send(answer);
        }
    }

    fn tail(&self, _: Tail<'_>, feed: Feed) {
        feed.fail(Error::invalid("only calls here"));
    }

    fn produce(&self, _: Produce<'_>, reply: Reply) {
        reply.send(Err(Error::invalid("only calls here")));
    }

    fn ask(&self, what: &str, _: &[u8], reply: Reply) {
        match &self.table {
            Some(table) if what == "slots" => reply.send(table.to_bytes()),
            _ => reply.send(Err(Error::new(ErrorKind::NotFound, format!("no {what} here")))),
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (in_flight, seconds) = (number(0, 64), number(1, 3));
    let says = |word: &str| arguments.iter().any(|a| a == word);
    let (channel, slots, typed) = (says("channel"), says("slots"), says("typed"));

    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
            let address = listener.local_addr().expect("it is bound").to_string();
            tell.send(address.clone()).expect("main waits for it");
            let silo = SiloEntry { incarnation: 1, name: "silo-1".into(), address };
            let owners = vec![Some(0); 96];
            let table = slots.then(|| SlotTable { version: 1, slots: 96, silos: vec![silo], owners });
            let identity = Identity { cluster: "dev".into(), silo: "silo-1".into() };
            let echo = Arc::new(Echo { channel, table });
            serve(listener, echo, identity, std::future::pending()).await.expect("serving loopback");
        });
    });
    let address = told.recv().expect("the service started");
    run(load(address, in_flight, Duration::from_secs(seconds), typed))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

async fn load(address: String, in_flight: u64, time: Duration, typed: bool) -> Result<()> {
    let client = Client::connect(address).await?;
    let (calls, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (begun, used) = (Instant::now(), cpu_seconds());
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (client, calls, over) = (client.clone(), calls.clone(), over.clone());
            tokio::spawn(async move {
                let (grain, sensor) = (GrainId::new("Sensor", worker), client.grain::<Sensor>(worker));
                while !over.load(Ordering::Relaxed) {
                    if typed {
                        assert_eq!(sensor.bursts().await?, 7);
                    } else {
                        let answer = client.call(&grain, "bursts", b"\x90", Options::default()).await?;
                        assert_eq!(answer, [7]);
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("a worker does not panic")?;
    }
    let calls = calls.load(Ordering::Relaxed) as f64;
    let (rate, took) = (calls / begun.elapsed().as_secs_f64(), (cpu_seconds() - used) / calls * 1e6);
    println!(
        "{in_flight} in flight: {rate:.0} calls/s, {took:.2} us of processor for a call, both ends together"
    );
    Ok(())
}

/// What this process has used, where the system tells.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}
