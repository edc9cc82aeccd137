//! Records on several silos: kills at full speed, slots given in the middle of batches, one slow key and one hot one, a
//! subscriber that was away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use granary_client::{Client, Start};
use granary_cluster::Batch;
use granary_cluster_tests::kit::rig::{Partitioning, Rig, SLOTS, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::until;
use granary_core::Timestamp;
use granary_core::id::slot_of;
use granary_streams::inject::{Injector, Options};
use serde_json::Value;

use crate::calls::{NOTHING, block_on, call, client_of, within};
use crate::inputs::{message, write};

/// Scenario 41, in small: duplicates, disorder and late data, and every few seconds a silo is killed. What of it a commit
/// had and its publication had not (45), or a silo that is dead still had in hand (42), shows in no result.
#[test]
fn windows_equal_the_truth_while_silos_are_killed_again_and_again() {
    const CYCLE: u64 = 80;
    let rig = Rig::new();
    let mut silos = Several::start(&rig, 3);
    let options = rig.load(200, 300);
    let began = Instant::now();
    let mut kills = 0;
    rig.inject_as(&options, Partitioning::Murmur2, |step| {
        std::thread::sleep(Duration::from_millis(20));
        let no = (step / CYCLE % 3) as usize;
        if step % CYCLE == 15 {
            silos.kill(no);
            kills += 1;
        } else if step % CYCLE == 65 {
            silos.begin(no);
        }
    });
    println!("{kills} kills while messages came for {:?}", began.elapsed());
    assert!(kills >= 3);
    rig.until_right(&options);
    silos.until_settled();
    silos.stop_all();
    rig.must_be_right(&options);
}

/// A cluster whose records are told to a grain of each device, too, which takes a while for each.
fn listening() -> Rig {
    let told = "sinks:\n  listener: {from: measurements, grain: Listener, method: take}\n";
    let pipeline = vec![("idle_after: 10s", "idle_after: 1s".into()), ("sinks:\n", told.into())];
    Rig::with(Setup { pipeline, ..Setup::default() })
}

/// What each device's grain heard, in order.
async fn heard(client: &Client, device: &str) -> Vec<String> {
    call(client, &format!("Listener/{device}"), "heard", NOTHING, within(20_000)).await.unwrap()
}

/// The ids of each device's messages in the order in which they are sent.
fn sent(options: &Options) -> BTreeMap<String, Vec<String>> {
    let mut injector = Injector::new(options.clone());
    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(message) = injector.next() {
        let value: Value = serde_json::from_slice(message.value).unwrap();
        let device = String::from_utf8(message.key.unwrap().to_vec()).unwrap();
        sent.entry(device).or_default().push(value["id"].as_str().unwrap().to_owned());
    }
    sent
}

/// Faults 18 and 19: slots are given, and taken, in the middle of batches. Whatever a batch had done is there as a whole or
/// not at all: each device's grain hears each of its messages once, in order.
#[test]
fn slots_move_in_the_middle_of_batches() {
    let rig = listening();
    let mut silos = Several::start(&rig, 3);
    let options = rig.load(30, 400);
    let sent = sent(&options);
    let total: usize = sent.values().map(Vec::len).sum();
    let records = |silos: &Several<'_>| -> f64 {
        let running = (0..3).filter(|no| silos.runs(*no));
        running.map(|no| silos.silo(no).metric("granary_records_total").unwrap_or_default()).sum()
    };
    rig.inject(&options);
    let is_in_the_middle = |silos: &Several<'_>, what: &str| {
        let so_far = records(silos);
        println!("{what} at {so_far} of {total} records");
        assert!(so_far < total as f64, "there is a backlog");
    };
    is_in_the_middle(&silos, "silo-0 stops");
    silos.stop(0);
    is_in_the_middle(&silos, "silo-0 joins");
    silos.begin(0);
    std::thread::sleep(Duration::from_millis(500));
    is_in_the_middle(&silos, "silo-1 is killed");
    silos.kill(1);
    let (runtime, client) = client_of(&silos);
    let all = || -> BTreeMap<String, Vec<String>> {
        runtime.block_on(async {
            let mut all = BTreeMap::new();
            for device in sent.keys() {
                all.insert(device.clone(), heard(&client, device).await);
            }
            all
        })
    };
    until("all is heard", || all().values().map(Vec::len).sum::<usize>() >= total);
    silos.begin(1);
    rig.until_right(&options);
    silos.until_settled();
    for (device, heard) in all() {
        assert_eq!(heard, sent[&device], "{device}: each once, in order");
    }
    silos.stop_all();
    rig.must_be_right(&options);
}

/// Keys of partition `partition` of 12 for which this holds of their slot.
fn keys(prefix: &str, partition: u32, count: usize, holds: impl Fn(u16) -> bool) -> Vec<String> {
    let slot = |key: &String| slot_of(key.as_bytes(), SLOTS).0;
    let names = (0..).map(|n| format!("{prefix}-{n}"));
    names.filter(|key| u32::from(slot(key)) % 12 == partition && holds(slot(key))).take(count).collect()
}

/// Half of all records are of one key, which takes a hundred times as long as the others for each. Those are of this
/// partition, and are heard within a moment; nothing is skipped.
fn a_slow_key_holds_up_nobody_in(of_others: u32) {
    const ROUNDS: i64 = 20;
    const OF_SLOW: u32 = 3;
    let rig = listening();
    let silo = rig.silo();
    let slow = keys("slow", OF_SLOW, 1, |_| true).remove(0);
    let slot = slot_of(slow.as_bytes(), SLOTS).0;
    let others = keys("quick", of_others, 4, |of| of != slot);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(Client::connect(rig.listen.as_str())).unwrap();
    let mut latencies = Vec::new();
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let (at, mut batches) = (1_000 + round * 100, vec![Batch::default(); 12]);
        for (n, key) in others.iter().enumerate() {
            for (key, at, partition) in [(&slow, at * 10 + n as i64, OF_SLOW), (key, at, of_others)] {
                let value = message(key, at, 1);
                batches[partition as usize].push(0, Timestamp(at), Some(key.as_bytes()), &value);
                let value: Value = serde_json::from_slice(&value).unwrap();
                expected.entry(key.clone()).or_default().push(value["id"].as_str().unwrap().to_owned());
            }
        }
        rig.log.append_all(&rig.input, &batches).unwrap();
        let written = Instant::now();
        runtime.block_on(async {
            for key in &others {
                while heard(&client, key).await.len() < expected[key].len() {
                    assert!(written.elapsed() < Duration::from_secs(60), "{key} is not heard");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                latencies.push(written.elapsed());
            }
        });
    }
    latencies.sort_unstable();
    let [p50, p99] = [50, 99].map(|p| latencies[latencies.len() * p / 100]);
    let behind = runtime.block_on(heard(&client, &slow)).len();
    println!(
        "others are heard after {p50:?} (p50), {p99:?} (p99); the slow key has {behind} of {}",
        expected[&slow].len()
    );
    assert!(behind * 2 < expected[&slow].len(), "it is far behind all the while: {behind}");
    assert!(p50 < Duration::from_millis(100), "{latencies:?}");
    for (key, ids) in &expected {
        until("nothing is skipped", || runtime.block_on(heard(&client, key)).len() >= ids.len());
        assert_eq!(runtime.block_on(heard(&client, key)), *ids, "{key}: each once, in order");
    }
    silo.stop();
}

/// Fault 32: a hot key, and a slow one: keys of other partitions go on, and so do their commits.
#[test]
fn a_slow_and_hot_key_holds_up_no_other_partition() {
    a_slow_key_holds_up_nobody_in(5);
}

/// Scenario 44: keys of its own partition do so, too.
#[test]
fn a_slow_and_hot_key_holds_up_no_other_slot() {
    a_slow_key_holds_up_nobody_in(3);
}

/// Scenario 51: a silo that stops has stored how far it came: its successor reads nothing again that was applied before, at
/// rest and in the middle of a backlog.
#[test]
fn a_silo_that_stops_leaves_nothing_to_be_read_again() {
    let rig = listening();
    let options = rig.load(40, 200);
    let total: usize = sent(&options).values().map(Vec::len).sum();
    let silo = rig.silo();
    rig.inject(&options);
    let records = |silo: &granary_cluster_tests::kit::silo::Silo| {
        silo.metric("granary_records_total").unwrap_or_default() as usize
    };
    until("it is at work", || records(&silo) > 200);
    let before = records(&silo);
    assert!(before < total, "in the middle: {before} of {total}");
    silo.stop();
    let silo = rig.silo();
    rig.until_right(&options);
    rig.until_read(&silo);
    let after = records(&silo);
    println!("{total} records: at least {before} before the stop, {after} after it");
    assert!(before + after <= total, "{before} were applied before, {after} after: some twice");
    silo.stop();
    let silo = rig.silo();
    write(&rig, &[("d-1", message("d-1", 1_000, 7))]);
    until("the next one is read", || records(&silo) > 0);
    assert_eq!(records(&silo), 1, "and nothing but it");
    silo.stop();
}

/// Scenario 52: a subscriber is away while results come and a silo dies. From its token it goes on without a gap.
#[test]
fn a_subscriber_that_was_away_goes_on_from_its_token() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, 3);
    let options = rig.load(40, 100);
    let mut ids = Vec::new();
    let mut token = None;
    rig.inject_as(&options, Partitioning::Murmur2, |step| {
        std::thread::sleep(Duration::from_millis(150));
        match step {
            5 => block_on(async {
                let client = Client::connect(silos.addresses()).await.unwrap();
                let mut tail = client.tail("aggregates", Start::Earliest).await.unwrap();
                while ids.len() < 100 {
                    ids.push(tail.next().await.unwrap().unwrap().id.unwrap());
                }
                token = Some(tail.token().unwrap());
            }),
            7 => silos.kill(0),
            _ => {}
        }
    });
    rig.until_right(&options);
    let published = rig.published();
    assert!(published.rows.len() > 300, "much came while it was away");
    block_on(async {
        let client = Client::connect(silos.addresses()).await.unwrap();
        let mut tail = client.resume(&token.unwrap()).await.unwrap();
        while ids.len() < published.rows.len() {
            let next = tokio::time::timeout(Duration::from_secs(60), tail.next()).await;
            ids.push(next.expect("a record is missing").unwrap().unwrap().id.unwrap());
        }
    });
    let mut expected: Vec<_> = published.rows.into_iter().map(|row| row.id).collect();
    expected.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, expected, "each once, none missing");
    silos.stop_all();
    rig.must_be_right(&options);
}
