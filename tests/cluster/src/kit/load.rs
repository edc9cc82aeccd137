//! Calls that go on whatever happens to the silo: each is repeated with its key until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use granary_client::Client;
use granary_core::call::Options;
use granary_core::{GrainId, Span, codec};

use super::rig::Rig;

/// Grains that are called.
const GRAINS: u64 = 16;

/// Callers at the same time.
const CALLERS: u64 = 4;

/// Callers at work.
pub struct Calls {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Calls {
    /// Begins to call.
    pub fn begin(rig: &Rig) -> Calls {
        let (stop, acknowledged): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let callers = (0..CALLERS).map(|caller| {
            let (listen, stop, acknowledged) = (rig.listen.clone(), stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(call(caller, &listen, &stop, &acknowledged));
            })
        });
        let callers = callers.collect();
        Calls { stop, acknowledged, callers }
    }

    /// How many were answered.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends when every call that was begun is answered, and returns how many there were. The silo has to run.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.join().expect("callers do not panic");
        }
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn call(caller: u64, listen: &str, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let mut client = None;
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let grain = GrainId::parse(&format!("Counter/c-{}", n % GRAINS)).expect("a grain");
        loop {
            let options = Options {
                timeout: Some(Span(2_000)),
                idempotency_key: Some(format!("{caller}-{n}").into()),
                ..Options::default()
            };
            if client.is_none() {
                client = Client::connect(listen).await.ok();
            }
            let argument = codec::to_bytes(&1u64).expect("a number");
            let answer = match &client {
                Some(client) => client.call(&grain, "add", &argument, options).await.ok(),
                None => None,
            };
            if answer.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
        n += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The sum over all grains, as the silo has it now.
pub fn total(rig: &Rig) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&rig.listen).await.expect("the silo listens");
        let mut total = 0;
        for n in 0..GRAINS {
            let grain = GrainId::parse(&format!("Counter/c-{n}")).expect("a grain");
            let answer = client.call(&grain, "total", &[], Options::default()).await.expect("an answer");
            total += codec::from_bytes::<u64>(&answer).expect("a number");
        }
        total
    })
}
