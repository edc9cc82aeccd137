//! A silo under calls and kill -9: what was acknowledged is there, and a call with a key has one effect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary::client::Client;
use granary_core::time::secs;
use granary_faults::kinds::Counter;
use tokio::sync::Mutex;

use crate::kit::{self, Draw, Silo};

/// Callers at the same time.
const CALLERS: u64 = 48;
/// Counters that are called.
const COUNTERS: u64 = 24;

/// What became of the calls of one counter.
#[derive(Clone, Debug, Default)]
struct Calls {
    sent: u64,
    acknowledged: u64,
    /// The greatest sum an answer told.
    told: u64,
}

#[derive(Default)]
struct Ledger {
    plain: BTreeMap<u64, Calls>,
    keyed: BTreeMap<u64, Calls>,
    /// Idempotency keys without an answer: counter and key.
    unanswered: BTreeMap<String, u64>,
    last_key: u64,
}

fn plain(counter: u64) -> String {
    format!("plain-{counter}")
}

fn keyed(counter: u64) -> String {
    format!("keyed-{counter}")
}

/// Adds 1 again and again, by turns with and without an idempotency key, until the silo is gone.
async fn call(client: Client, ledger: Arc<Mutex<Ledger>>, is_over: Arc<AtomicBool>, mut draw: Draw) {
    while !is_over.load(Ordering::Relaxed) {
        let counter = draw.below(COUNTERS);
        if draw.below(2) == 0 {
            ledger.lock().await.plain.entry(counter).or_default().sent += 1;
            let answer = client.grain::<Counter>(plain(counter)).add(1).timeout(secs(30)).await;
            let Ok(sum) = answer else { continue };
            let mut ledger = ledger.lock().await;
            let calls = ledger.plain.entry(counter).or_default();
            calls.acknowledged += 1;
            calls.told = calls.told.max(sum);
        } else {
            let key = {
                let mut ledger = ledger.lock().await;
                ledger.last_key += 1;
                let key = format!("call-{}", ledger.last_key);
                ledger.unanswered.insert(key.clone(), counter);
                ledger.keyed.entry(counter).or_default().sent += 1;
                key
            };
            add_keyed(&client, &ledger, counter, key).await;
        }
    }
}

async fn add_keyed(client: &Client, ledger: &Mutex<Ledger>, counter: u64, key: String) -> bool {
    let call = client.grain::<Counter>(keyed(counter)).add(1).timeout(secs(30));
    let Ok(sum) = call.idempotency_key(&*key).await else { return false };
    let mut ledger = ledger.lock().await;
    let known = ledger.unanswered.remove(&key);
    let calls = ledger.keyed.entry(counter).or_default();
    calls.acknowledged += u64::from(known.is_some());
    calls.told = calls.told.max(sum);
    true
}

/// Every acknowledged effect is there; a call without a key has at most one; one with a key, sent again, exactly one.
async fn assert_effects(client: &Client, ledger: &Mutex<Ledger>) {
    let plains = ledger.lock().await.plain.clone();
    for (counter, calls) in plains {
        let total = client.grain::<Counter>(plain(counter)).total().await.expect("an answer");
        assert!(calls.acknowledged <= total && total <= calls.sent, "{counter}: {total}, {calls:?}");
        assert!(calls.told <= total, "{counter}: {total}, but {calls:?}");
    }
    let unanswered = ledger.lock().await.unanswered.clone();
    for (key, counter) in unanswered {
        assert!(add_keyed(client, ledger, counter, key).await, "a quiet silo answers");
    }
    let keyeds = ledger.lock().await.keyed.clone();
    for (counter, calls) in keyeds {
        let total = client.grain::<Counter>(keyed(counter)).total().await.expect("an answer");
        assert_eq!((calls.sent, calls.acknowledged), (total, total), "{counter}: {calls:?}");
    }
}

/// Plain calls that were acknowledged.
fn acknowledged(ledger: &Ledger) -> u64 {
    ledger.plain.values().map(|calls| calls.acknowledged).sum()
}

/// Waits until so many were.
async fn until_acknowledged(ledger: &Mutex<Ledger>, least: u64) {
    let enough = async {
        while acknowledged(&*ledger.lock().await) < least {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(kit::PATIENCE, enough).await.expect("the silo answers");
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills() {
    what_was_acknowledged_survives(5).await;
}

#[tokio::test]
#[ignore = "takes many minutes"]
async fn what_was_acknowledged_survives_two_hundred_kills() {
    what_was_acknowledged_survives(kit::setting("GRANARY_ROUNDS", 200)).await;
}

async fn what_was_acknowledged_survives(rounds: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = kit::configuration(directory.path(), None);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut draw = Draw::new();
    let mut retried = 0;
    for _ in 0..rounds {
        let silo = Silo::start(&configuration);
        let client = Client::connect(&silo.address).await.expect("a connection");
        assert_effects(&client, &ledger).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let seed = Draw::seeded(draw.below(u64::MAX));
                tokio::spawn(call(client.clone(), ledger.clone(), is_over.clone(), seed))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50 + draw.below(450))).await;
        let so_far = acknowledged(&*ledger.lock().await); // the lock is given back before it is waited for
        until_acknowledged(&ledger, so_far + 20).await;
        silo.kill();
        is_over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.abort(); // nobody answers any more: it would ask again until its deadline
            assert!(!caller.await.is_err_and(|error| error.is_panic()), "no caller fails");
        }
        retried += ledger.lock().await.unanswered.len();
    }
    let silo = Silo::start(&configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    assert_effects(&client, &ledger).await;
    let ledger = ledger.lock().await;
    let of = |calls: &BTreeMap<u64, Calls>, each: fn(&Calls) -> u64| calls.values().map(each).sum::<u64>();
    let (sent, acknowledged) = (of(&ledger.plain, |c| c.sent), of(&ledger.plain, |c| c.acknowledged));
    let with_key = of(&ledger.keyed, |c| c.acknowledged);
    println!(
        "{rounds} kills: {acknowledged} of {sent} acknowledged, {with_key} with a key, {retried} retried"
    );
    assert!(acknowledged > 10 * rounds, "the silo was under load");
    assert!(sent > acknowledged && retried > 0, "kills fell among calls");
}
