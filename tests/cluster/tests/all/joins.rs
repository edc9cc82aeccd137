//! Silos that come and go one after the other: what callers notice of it, and that all silos agree afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster_tests::kit::callers::{Callers, Manner};
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::until;
use granary_core::call::Options;
use granary_core::{ErrorKind, GrainId, Ran, codec};

use crate::calls::{NOTHING, call, client_of, silo_of, within};

/// Grains that are looked for on every silo.
const LOOKED_FOR: u64 = 24;

/// Whichever silo is asked, the same activation answers, and it is in the process that has the grain's slot.
fn activations_must_agree(silos: &Several<'_>) {
    silos.until_agreed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for asked in (0..silos.count()).filter(|no| silos.runs(*no)) {
            let client = Client::connect(silos.place(asked).listen.as_str()).await.unwrap();
            for n in 0..LOOKED_FOR {
                let grain = format!("Cold/looked-for-{n}");
                let id = call::<u64>(&client, &grain, "activation", NOTHING, within(20_000)).await.unwrap();
                let owner = silos.silo(silo_of(&client, silos, &grain)).id();
                assert_eq!(id >> 32, u64::from(owner), "{grain} is where its slot is");
                assert_eq!(*seen.entry(grain.clone()).or_insert(id), id, "{grain} was there twice");
            }
        }
    });
}

/// Scenario 2: under calls silos join, stop, are killed, two at once; after each change directory and activations agree.
#[test]
fn silos_join_stop_and_die_and_agree_after_each_change() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, 3);
    let manner = Manner { is_keyed: true, ..Manner::default() };
    let callers = Callers::begin(&silos.addresses(), manner);
    let fourth = silos.add();
    type Change<'a> = &'a dyn Fn(&mut Several<'_>);
    let changes: [(&str, Change); 6] = [
        ("a fourth joins", &|silos| silos.begin(fourth)),
        ("one stops", &|silos| silos.stop(0)),
        ("one is killed", &|silos| silos.kill(1)),
        ("one joins while another is killed", &|silos| {
            silos.begin(0);
            silos.kill(2);
        }),
        ("two join", &|silos| {
            silos.begin(1);
            silos.begin(2);
        }),
        ("one stops while another is killed", &|silos| {
            silos.kill(fourth);
            silos.stop(1);
        }),
    ];
    for (what, change) in changes {
        let before = callers.answered();
        change(&mut silos);
        activations_must_agree(&silos);
        until("calls go on", || callers.answered() > before + 100);
        println!("{what}: agreed, {} calls answered", callers.answered());
    }
    let calls = callers.end();
    calls.must_be_linearizable();
    for error in &calls.failed {
        // A read that was under way on a silo that died: nobody can know what it would have said.
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)), "{error}");
    }
    silos.stop_all();
}

/// The longest that a call of one of these grains took while something happened.
fn longest_wait(
    silos: &mut Several<'_>,
    grains: &[String],
    happens: impl FnOnce(&mut Several<'_>),
) -> Duration {
    let (runtime, client) = client_of(silos);
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = grains
        .iter()
        .map(|grain| {
            let (client, grain, is_over) = (client.clone(), grain.clone(), is_over.clone());
            runtime.spawn(async move {
                let mut longest = Duration::ZERO;
                for n in 0.. {
                    let key = Some(format!("{grain}-{n}-{:?}", std::time::Instant::now()).into());
                    let options = Options { idempotency_key: key, ..within(60_000) };
                    let began = Instant::now();
                    call::<u64>(&client, &grain, "add", 1u64, options).await.expect("calls only wait");
                    longest = longest.max(began.elapsed());
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                longest
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    happens(silos);
    silos.until_agreed();
    is_over.store(true, Ordering::SeqCst);
    let waits = callers.into_iter().map(|caller| runtime.block_on(caller).unwrap());
    waits.max().expect("some grains")
}

/// A lease so long that nobody takes a wait for it for anything else.
const LONG_LEASE: Duration = Duration::from_secs(6);

/// Scenarios 5 and 9: calls of a killed silo's grains wait until its lease is over, and then succeed; a silo that stops in
/// order leaves nobody waiting. A caller who knows an old table only, and says something one way, is heard all the same,
/// and knows the new one then.
#[test]
fn a_crash_is_waited_for_as_long_as_a_lease_and_a_stop_is_not() {
    let lease = format!("lease_ms = {}", LONG_LEASE.as_millis());
    let rig = Rig::with(Setup { configuration: vec![("silo", lease)], ..Setup::default() });
    let mut silos = Several::start(&rig, 3);
    let (runtime, client) = client_of(&silos);
    let names = (0..).map(|n| format!("Counter/waits-{n}"));
    let grains: Vec<String> = names.filter(|grain| silo_of(&client, &silos, grain) == 0).take(10).collect();
    let moved = grains[0].clone();

    // 9: the slots of silo 0 move while it runs; this client has not heard of it.
    let (old_runtime, old) = client_of(&silos);
    assert_eq!(silo_of(&old, &silos, &moved), 0);
    runtime.block_on(async {
        let left = client.ask_silo(&silos.place(0).listen, "drain", &[]).await.unwrap();
        assert_eq!(codec::from_bytes::<u64>(&left), Ok(0), "all slots are given");
    });
    assert_eq!(silo_of(&old, &silos, &moved), 0, "it still believes the old table");
    let mut told = 0;
    old_runtime.block_on(async {
        let began = Instant::now();
        while silo_of(&old, &silos, &moved) == 0 {
            let one_way = Options { one_way: true, ..within(5_000) };
            let argument = codec::to_bytes(&1u64).unwrap();
            old.call(&GrainId::parse(&moved).unwrap(), "add", &argument, one_way).await.unwrap();
            told += 1;
            assert!(began.elapsed() < Duration::from_secs(10), "the caller's table is repaired");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let total = || runtime.block_on(call::<u64>(&client, &moved, "total", NOTHING, within(5_000)));
    until("every one-way call was heard", || total() == Ok(told));
    println!("the table was repaired after {told} one-way calls");
    silos.stop(0);
    silos.begin(0);
    silos.until_settled();
    silos.until_agreed();

    let at_a_stop = longest_wait(&mut silos, &grains, |silos| silos.stop(0));
    silos.begin(0);
    silos.until_settled();
    silos.until_agreed();
    let at_a_crash = longest_wait(&mut silos, &grains, |silos| silos.kill(0));
    println!("the longest wait: {at_a_stop:?} at a stop, {at_a_crash:?} at a crash");
    assert!(at_a_stop < LONG_LEASE / 3, "a stop costs no lease: {at_a_stop:?}");
    // The last renewal may have been an eighth of a lease before the crash.
    assert!(at_a_crash > LONG_LEASE * 3 / 4, "nobody else answers during the lease: {at_a_crash:?}");
    assert!(at_a_crash < LONG_LEASE * 2, "and somebody does soon after it: {at_a_crash:?}");
    silos.stop_all();
}
