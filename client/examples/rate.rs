//! Calls per second over loopback: a client with some calls in flight, a service that echoes.
//!
//! `cargo run --release -p granary-client --example echo_load -- [in flight] [seconds] [channel]`
//! With `channel` the answers go through a channel, as those of a lane do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_client::serve::{Feed, Identity, Reply, Service, serve};
use granary_core::call::Options;
use granary_core::{Error, ErrorKind, GrainId, Result};
use granary_wire::{Call, Produce, Tail};
use tokio::net::TcpListener;

struct Echo {
    channel: bool,
}

impl Service for Echo {
    fn call(&self, call: Call<'_>, reply: Reply) {
        let answer = Ok(call.arguments.to_vec());
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
        reply.send(Err(Error::new(ErrorKind::NotFound, format!("no {what} here"))));
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (in_flight, seconds) = (number(0, 64), number(1, 3));
    let channel = arguments.iter().any(|a| a == "channel");

    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
            tell.send(listener.local_addr().expect("it is bound")).expect("main waits for it");
            let identity = Identity { cluster: "dev".into(), silo: "silo-1".into() };
            let served = serve(listener, Arc::new(Echo { channel }), identity, std::future::pending()).await;
            served.expect("serving loopback");
        });
    });
    let address = told.recv().expect("the service started");
    run(load(address.to_string(), in_flight, Duration::from_secs(seconds)))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

async fn load(address: String, in_flight: u64, time: Duration) -> Result<()> {
    let client = Client::connect(address).await?;
    let (calls, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (client, calls, over) = (client.clone(), calls.clone(), over.clone());
            tokio::spawn(async move {
                let grain = GrainId::new("Sensor", worker);
                while !over.load(Ordering::Relaxed) {
                    let answer = client.call(&grain, "bursts", b"\x80", Options::default()).await?;
                    assert_eq!(answer, b"\x80");
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
    let rate = calls.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!("{in_flight} in flight: {rate:.0} calls/s");
    Ok(())
}
