//! Calls on three silos, by the numbers of the scenarios they hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster_tests::kit::rig::Rig;
use granary_cluster_tests::kit::several::Several;
use granary_core::call::Options;
use granary_core::{Error, ErrorKind, GrainId, Ran, Result, Span, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const SILOS: usize = 3;
/// The arguments of a method that takes none.
pub const NOTHING: [u64; 0] = [];

/// A call by names, typed where it is made.
pub async fn call<R: DeserializeOwned>(
    client: &Client,
    grain: &str,
    method: &str,
    arguments: impl Serialize,
    options: Options,
) -> Result<R> {
    let grain = GrainId::parse(grain).unwrap();
    let answer = client.call(&grain, method, &codec::to_bytes(&arguments)?, options).await?;
    codec::from_bytes(&answer)
}

pub fn within(timeout_ms: u64) -> Options {
    Options { timeout: Some(Span(timeout_ms)), ..Options::default() }
}

/// The silo that has the grain, by its number.
pub fn silo_of(client: &Client, silos: &Several<'_>, grain: &str) -> usize {
    let table = client.slots().expect("a cluster of several silos has a table");
    let key = grain.split_once('/').unwrap().1;
    let name = &table.owner(table.slot_of(key)).expect("every slot has an owner").name;
    (0..silos.count()).find(|no| silos.place(*no).name == *name).expect("one of these silos")
}

/// A grain of this kind on that silo.
pub fn grain_on(client: &Client, silos: &Several<'_>, kind: &str, no: usize) -> String {
    let mut names = (0..).map(|n| format!("{kind}/on-{no}-{n}"));
    names.find(|name| silo_of(client, silos, name) == no).unwrap()
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A client whose calls go on while the test does something else.
pub fn client_of(silos: &Several<'_>) -> (Runtime, Client) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(Client::connect(silos.addresses())).unwrap();
    (runtime, client)
}

/// Scenario 1: 100 callers race for 10 cold grains, and each grain has one activation.
async fn one_activation_each(silos: &Several<'_>) {
    let barrier = Arc::new(Barrier::new(100));
    let mut callers = JoinSet::new();
    for caller in 0..100 {
        let (barrier, addresses) = (barrier.clone(), silos.addresses());
        callers.spawn(async move {
            let client = Client::connect(addresses).await.unwrap();
            barrier.wait().await;
            let mut seen = Vec::new();
            for n in 0..10 {
                let grain = format!("Cold/c-{}", (n + caller) % 10);
                let id: u64 = call(&client, &grain, "activation", NOTHING, within(10_000)).await.unwrap();
                seen.push((grain, id));
            }
            seen
        });
    }
    let mut ids = std::collections::BTreeMap::new();
    while let Some(seen) = callers.join_next().await {
        for (grain, id) in seen.unwrap() {
            assert_eq!(*ids.entry(grain.clone()).or_insert(id), id, "{grain} was there twice");
        }
    }
    assert_eq!(ids.len(), 10);
}

/// Scenario 22: a ring of calls over three silos is refused at once, and the error names the path.
async fn a_ring_over_silos_is_refused(silos: &Several<'_>, client: &Client) {
    let [a, b, c] = [0, 1, 2].map(|no| grain_on(client, silos, "Slow", no));
    let key = |grain: &str| grain.split_once('/').unwrap().1.to_owned();
    let through: u64 =
        call(client, &a, "relay", [vec![key(&b), key(&c)]], within(5_000)).await.expect("a path of three");
    assert_eq!(through, 2);
    let began = Instant::now();
    let ring = call::<u64>(client, &a, "relay", [vec![key(&b), key(&c), key(&a)]], within(5_000)).await;
    let error = ring.expect_err("a ring");
    assert_eq!(error.kind(), ErrorKind::CallCycle, "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for part in [&a, &b, &c] {
        assert!(error.message().contains(part.as_str()), "{error} names {part}");
    }
}

/// Scenario 25: a queued call whose time is over never runs.
async fn an_expired_call_never_runs(client: &Client) {
    let slow = "Slow/expires";
    let holds = {
        let client = client.clone();
        tokio::spawn(async move { call::<u64>(&client, slow, "add", (1, 800), within(10_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let late = call::<u64>(client, slow, "add", (10, 0), within(200)).await.expect_err("it waits too long");
    assert_eq!((late.kind(), late.did_run()), (ErrorKind::Timeout, Some(Ran::No)), "{late}");
    assert_eq!(holds.await.unwrap(), Ok(1));
    assert_eq!(call::<u64>(client, slow, "total", NOTHING, within(5_000)).await, Ok(1));
}

/// Scenario 31: a call that was given up while it waited never runs; one that had begun goes on.
async fn a_cancelled_call_never_runs(client: &Client) {
    let slow = "Slow/cancelled";
    let begun = {
        let client = client.clone();
        tokio::spawn(async move { call::<u64>(&client, slow, "add", (1, 500), within(10_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = {
        let client = client.clone();
        tokio::spawn(async move { call::<u64>(&client, slow, "add", (10, 0), within(10_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    waits.abort();
    begun.abort();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(call::<u64>(client, slow, "total", NOTHING, within(5_000)).await, Ok(1));
}

/// Scenario 30: a grain's queue is bounded; who comes too late is told to come back, and nothing of it has run.
async fn a_full_queue_refuses(silos: &Several<'_>) {
    let slow = "Slow/full";
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let client = Client::connect(silos.addresses()).await.unwrap();
        for _ in 0..750 {
            let client = client.clone();
            callers.spawn(async move { call::<u64>(&client, slow, "add", (1, 2), within(30_000)).await });
        }
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(answer) = callers.join_next().await {
        match answer.unwrap() {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.did_run()),
                    (ErrorKind::Overloaded, Some(Ran::No)),
                    "{error}"
                );
                assert!(error.retry_after().is_some(), "{error}");
                refused += 1;
            }
        }
    }
    assert!(done >= 1_000 && refused > 0, "{done} done, {refused} refused");
    let client = Client::connect(silos.addresses()).await.unwrap();
    assert_eq!(call::<u64>(&client, slow, "total", NOTHING, within(5_000)).await, Ok(done));
}

/// Scenario 24: reads of a grain overlap, and none overlaps with a writer.
async fn reads_overlap_and_keep_writers_out(silos: &Several<'_>) {
    let slow = "Slow/read";
    let mut clients = Vec::new();
    for no in 0..SILOS {
        clients.push(Client::connect(silos.place(no).listen.as_str()).await.unwrap());
    }
    let look = |n: usize| {
        let client = clients[n % SILOS].clone();
        async move { call::<u64>(&client, slow, "look", 400u64, within(10_000)).await }
    };
    assert_eq!(look(0).await, Ok(0));
    let began = Instant::now();
    let mut looks: JoinSet<_> = (0..10).map(look).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let writes = {
        let client = clients[0].clone();
        tokio::spawn(async move { call::<u64>(&client, slow, "add", (1, 400), within(10_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut later: JoinSet<_> = (0..10).map(look).collect();
    while let Some(seen) = looks.join_next().await {
        assert_eq!(seen.unwrap(), Ok(0), "before the writer");
    }
    assert!(began.elapsed() < Duration::from_millis(1_500), "ten reads at once: {:?}", began.elapsed());
    assert_eq!(writes.await.unwrap(), Ok(1));
    assert!(began.elapsed() >= Duration::from_millis(800), "the writer waits for the reads");
    while let Some(seen) = later.join_next().await {
        assert_eq!(seen.unwrap(), Ok(1), "after the writer, or not at all before its end");
    }
}

/// Scenario 26: a turn that never ends is ended after its kind's `turn_max`; who waited behind it is answered by a fresh
/// activation, which has nothing of that turn.
async fn a_stuck_turn_is_ended(client: &Client) {
    let brief = "Brief/stuck";
    assert_eq!(call(client, brief, "add", 1u64, within(5_000)).await, Ok(1));
    let began = Instant::now();
    let stuck = {
        let client = client.clone();
        tokio::spawn(async move { call::<()>(&client, brief, "hang", NOTHING, within(30_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut queued = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        queued.spawn(async move { call::<u64>(&client, brief, "add", 1u64, within(30_000)).await });
    }
    let mut totals = Vec::new();
    while let Some(total) = queued.join_next().await {
        totals.push(total.unwrap().unwrap());
    }
    totals.sort_unstable();
    assert_eq!(totals, (2..=21).collect::<Vec<_>>(), "each once, and nothing of the stuck turn");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    let error = stuck.await.unwrap().expect_err("it was ended");
    assert_eq!(error.did_run(), Some(Ran::No), "{error}");
}

#[test]
fn calls_on_three_silos() {
    let rig = Rig::new();
    let silos = Several::start(&rig, SILOS);
    block_on(async {
        let client = Client::connect(silos.addresses()).await.unwrap();
        one_activation_each(&silos).await;
        a_ring_over_silos_is_refused(&silos, &client).await;
        an_expired_call_never_runs(&client).await;
        a_cancelled_call_never_runs(&client).await;
        reads_overlap_and_keep_writers_out(&silos).await;
        a_stuck_turn_is_ended(&client).await;
        a_full_queue_refuses(&silos).await;
    });
    silos.stop_all();
}

/// Scenarios 8, 16, 27 and 29: a silo is killed with calls under way, then all of them.
#[test]
fn calls_while_silos_die() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, SILOS);
    let (runtime, client) = client_of(&silos);
    let slow = grain_on(&client, &silos, "Slow", 1);
    assert_eq!(runtime.block_on(call(&client, &slow, "add", (5, 0), within(5_000))), Ok(5));

    // 27: who waits for an answer from it hears at once that the outcome is not known.
    let (waiting, on) = (client.clone(), slow.clone());
    let waits =
        runtime.spawn(async move { call::<u64>(&waiting, &on, "add", (1, 20_000), within(30_000)).await });
    // 29: with a key the same call goes on elsewhere, and has one effect.
    let (keyed, on) = (client.clone(), slow.clone());
    let repeats = runtime.spawn(async move {
        let options = Options { idempotency_key: Some("once".into()), ..within(60_000) };
        call::<u64>(&keyed, &on, "add", (10, 0), options).await
    });
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    silos.kill(1);
    let error = runtime.block_on(waits).unwrap().expect_err("its silo is gone");
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    // 8: its grains are elsewhere as soon as its lease is over; what was acknowledged is there.
    assert_eq!(runtime.block_on(repeats).unwrap(), Ok(15));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let again = || {
        let options = Options { idempotency_key: Some("once".into()), ..within(20_000) };
        runtime.block_on(call::<u64>(&client, &slow, "add", (10, 0), options))
    };
    assert_eq!((again(), again()), (Ok(15), Ok(15)), "one effect and one answer");

    // 16: all of them are killed and started again.
    silos.kill(0);
    silos.kill(2);
    (0..SILOS).for_each(|no| silos.begin(no));
    let began = Instant::now();
    let total: Result<u64, Error> = runtime.block_on(call(&client, &slow, "total", NOTHING, within(60_000)));
    assert_eq!(total, Ok(15));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    silos.until_settled();
    silos.stop_all();
}

/// Scenarios 28 and 9: a silo stops in order with 100 calls in a grain's queue: each is answered, and done once. A one-way
/// call finds the grain after it has moved.
#[test]
fn queued_calls_survive_a_silo_that_stops() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, SILOS);
    let (runtime, client) = client_of(&silos);
    let slow = grain_on(&client, &silos, "Slow", 0);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (client, slow) = (client.clone(), slow.clone());
            runtime.spawn(async move { call::<u64>(&client, &slow, "add", (1, 30), within(60_000)).await })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    silos.stop(0);
    let mut totals: Vec<u64> =
        calls.into_iter().map(|call| runtime.block_on(call).unwrap().unwrap()).collect();
    totals.sort_unstable();
    assert_eq!(totals, (1..=100).collect::<Vec<_>>(), "each once");
    runtime.block_on(async {
        let one_way = Options { one_way: true, ..within(5_000) };
        let grain = GrainId::parse(&slow).unwrap();
        client.call(&grain, "add", &codec::to_bytes(&(1, 0)).unwrap(), one_way).await.unwrap();
        let began = Instant::now();
        while call::<u64>(&client, &slow, "total", NOTHING, within(5_000)).await != Ok(101) {
            assert!(began.elapsed() < Duration::from_secs(10), "the one-way call did not arrive");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    silos.begin(0);
    silos.until_settled();
    silos.stop_all();
}
