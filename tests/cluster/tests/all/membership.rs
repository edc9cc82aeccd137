//! The member table in bad times: wrong clocks, a store that forgets or is away, a silo that is back before it is missed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster_tests::kit::clock::WallClock;
use granary_cluster_tests::kit::rig::{Partitioning, Rig, inject_to};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::until;
use granary_core::{ErrorKind, Ran};
use granary_harness::Redis;

use crate::calls::{NOTHING, call, client_of, grain_on, within};
use crate::several::survive;

const LEASE: Duration = Duration::from_secs(2);

/// What a silo logs when it learns that it is no member any more.
const DECLARED_DEAD: &str = "declared dead";

fn life_of(silos: &Several<'_>, asked: usize, no: usize) -> Option<u64> {
    let table = silos.table_of(asked)?;
    let name = &silos.place(no).name;
    let mut lives = table.silos.iter().filter(|silo| silo.name == *name).map(|silo| silo.incarnation);
    let life = lives.next();
    assert_eq!(lives.next(), None, "two lives of {name} at a time: {table:?}");
    life
}

/// Scenario 17: wall clocks that are ten minutes apart. Nobody is declared dead for it, a silo that dies is, and results are
/// right.
#[test]
fn clocks_ten_minutes_apart_change_nothing() {
    let rig = Rig::new();
    let clock = WallClock::new(rig.directory.path());
    for wrong_s in [300, -300] {
        let seen = clock.is_seen_wrong_by(wrong_s);
        assert!((seen - wrong_s).abs() < 5, "{seen} s for {wrong_s}");
    }
    let variables = BTreeMap::from([(1, clock.wrong_by(300)), (2, clock.wrong_by(-300))]);
    let silos = Several::start_by(&rig, 3, |no, place| {
        place.variables = variables.get(&no).cloned().unwrap_or_default();
    });
    let first = silos.until_agreed();
    let between = |step, silos: &mut Several<'_>| match step {
        6 => {
            assert_eq!(silos.until_agreed(), first, "nobody was taken for dead");
            silos.kill(2); // those that are left are five minutes apart
        }
        14 => silos.begin(2),
        _ => {}
    };
    survive(&rig, silos, between, |silos, _| {
        for no in 0..3 {
            let log = silos.silo(no).log();
            assert!(!log.contains(DECLARED_DEAD), "silo-{no} was taken for dead: {log}");
        }
    });
}

/// Scenario 18: a replica takes over that has not heard that one silo died and another joined. All see that the table went
/// back; the dead one is declared dead anew, the joined one comes back as another life, and nobody acts for a slot on the
/// word of the older table: outputs are there once.
#[test]
fn redis_loses_the_last_changes_of_membership() {
    let rig = Rig::new();
    let replica = Redis::start();
    let master = rig.redis.address();
    let (host, port) = master.split_once(':').unwrap();
    replica.says(&["REPLICAOF", host, port]);
    let mut silos = Several::start(&rig, 3);
    let fourth = silos.add();
    let (runtime, client) = client_of(&silos);
    let options = rig.load(30, 100);
    let mut before = None;
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2, |step| {
        match step {
            2 => {
                until("the replica follows", || {
                    replica.says(&["INFO", "replication"]).contains("link_status:up")
                });
                // From here on it hears no more.
                replica.says(&["REPLICAOF", "NO", "ONE"]);
                silos.kill(1);
                silos.begin(fourth);
            }
            6 => {
                before = Some(silos.until_agreed());
                runtime.block_on(client.refresh());
                assert_eq!(client.slots().map(|table| table.version), before.as_ref().map(|b| b.version));
            }
            8 => silos.lead_all_to(&replica.address()),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    });
    let before = before.unwrap();
    rig.until_right(&options);
    silos.until_settled();
    let after = silos.until_agreed();
    println!("version {} before, {} after", before.version, after.version);
    // A client of before finds every grain all the same, at the silo that has it.
    for n in 0..200 {
        let grain = format!("Counter/after-{n}");
        assert_eq!(runtime.block_on(call(&client, &grain, "add", 1u64, within(20_000))), Ok(1), "{grain}");
    }
    let life = |table: &granary_client::SlotTable, no: usize| {
        let name = &silos.place(no).name;
        table.silos.iter().find(|silo| silo.name == *name).map(|silo| silo.incarnation)
    };
    assert_eq!((life(&before, 1), life(&after, 1)), (None, None), "who died is dead in both");
    assert!(life(&after, fourth) > life(&before, fourth), "who was forgotten is a later life");
    assert_eq!(life(&after, 0), life(&before, 0), "who was in both tables lives on");
    assert!(silos.silo(fourth).log().contains(DECLARED_DEAD), "it learns that the table does not have it");
    for no in [0, 2, fourth] {
        let broken = silos.silo(no).metric("granary_invariants_broken_total");
        assert_eq!(broken.unwrap_or_default(), 0.0, "silo-{no}");
    }
    silos.stop_all();
    rig.must_be_right(&options);
}

/// Scenario 19: all silos are without Redis for four leases. No slot moves, nothing is read or published, calls are refused,
/// what memory can answer by name is answered, and all goes on by itself.
#[test]
fn without_redis_nothing_moves_and_all_resumes() {
    let rig = Rig::new();
    let silos = Several::start(&rig, 3);
    let options = rig.load(40, 40);
    let before = silos.until_agreed();
    let (runtime, client) = client_of(&silos);
    let counter = grain_on(&client, &silos, "Counter", 1);
    assert_eq!(runtime.block_on(call(&client, &counter, "add", 5u64, within(5_000))), Ok(5));
    // A client that gives every error to its caller; others ask again until they are out of time.
    let plain = runtime.block_on(Client::builder(silos.addresses()).send_once().connect()).unwrap();
    let records = || [0, 1, 2].map(|no| silos.silo(no).metric("granary_records_total"));
    let mut before_away = None;
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2, |step| {
        if step != 3 {
            std::thread::sleep(Duration::from_millis(100));
            return;
        }
        (0..3).for_each(|no| silos.proxy(no).cut());
        let began = Instant::now();
        let add = |n: u64| runtime.block_on(call::<u64>(&plain, &counter, "add", n, within(2_000)));
        // The first may have been on its way when the store went.
        let first = add(100).unwrap_err();
        assert!(matches!(first.did_run(), Some(Ran::No | Ran::Unknown)), "{first}");
        until("all know", || (0..3).all(|no| !silos.silo(no).is_ready()));
        std::thread::sleep(LEASE / 2); // what was stored before is published
        before_away = Some((rig.published().rows.len(), records()));
        while began.elapsed() < 4 * LEASE {
            let error = add(1_000).unwrap_err();
            assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::No)), "{error}");
            let read = runtime.block_on(call::<u64>(&plain, &counter, "total", NOTHING, within(2_000)));
            if began.elapsed() > 2 * LEASE {
                let error = read.unwrap_err();
                assert_eq!(
                    (error.kind(), error.did_run()),
                    (ErrorKind::Unavailable, Some(Ran::No)),
                    "{error}"
                );
            }
            let glance = runtime.block_on(call::<u64>(&client, &counter, "glance", NOTHING, within(2_000)));
            assert!(matches!(glance, Ok(5 | 105)), "a snapshot read goes on: {glance:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let error =
            runtime.block_on(call::<u64>(&client, &counter, "add", 1_000u64, within(500))).unwrap_err();
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)), "{error}");
        assert!(error.message().contains("cannot be reached"), "it says why: {error}");
    });
    // All messages are in the topic by now.
    std::thread::sleep(Duration::from_millis(500));
    let after = (rig.published().rows.len(), records());
    assert_eq!(Some(after), before_away, "nothing is read, and nothing that cannot be stored is published");
    (0..3).for_each(|no| silos.mend(no));
    rig.until_right(&options);
    silos.until_settled();
    assert_eq!(silos.until_agreed(), before, "no slot moved, and no life ended");
    let total = runtime.block_on(call::<u64>(&client, &counter, "total", NOTHING, within(20_000))).unwrap();
    assert!([5, 105].contains(&total), "refused calls did not run: {total}");
    silos.stop_all();
    rig.must_be_right(&options);
}

/// Scenario 21: a silo that was killed is started again at once, at the same addresses. Its old life is dead before the new
/// one has anything, and nothing that was acknowledged is lost.
#[test]
fn a_silo_back_at_once_ends_its_old_life_first() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, 3);
    let old = life_of(&silos, 0, 1).expect("it lives");
    let (runtime, client) = client_of(&silos);
    let counter = grain_on(&client, &silos, "Counter", 1);
    assert_eq!(runtime.block_on(call(&client, &counter, "add", 5u64, within(5_000))), Ok(5));
    let killed = Instant::now();
    silos.kill(1);
    silos.begin(1);
    // Nobody else can listen at its addresses, so its old life ends with the step that begins the new one, or before it when the
    // others were first to miss it; `life_of` never sees both.
    let (mut was_missing, mut joined) = (false, None);
    while joined.is_none_or(|joined: Instant| joined.elapsed() < LEASE) {
        match life_of(&silos, 0, 1) {
            Some(life) if life == old => assert!(!was_missing && joined.is_none(), "a dead life stays dead"),
            Some(life) => {
                assert!(life > old, "{life} after {old}");
                joined.get_or_insert_with(Instant::now);
            }
            None => {
                assert!(joined.is_none(), "the new life stays");
                was_missing = true;
            }
        }
        assert!(killed.elapsed() < Duration::from_secs(60), "it does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    silos.until_settled();
    silos.until_agreed();
    assert_eq!(runtime.block_on(call(&client, &counter, "total", NOTHING, within(5_000))), Ok(5));
    silos.stop_all();
}
