//! Partitions: a silo that does not reach Kafka, silos that do not reach each other.

use std::time::{Duration, Instant};

use granary_client::Client;
use granary_cluster_tests::kit::proxy::Proxy;
use granary_cluster_tests::kit::rig::{Rig, Setup, free_address};
use granary_cluster_tests::kit::several::Several;
use granary_core::{Error, ErrorKind, Result};

use super::calls::{call, client_of, grain_on, within};
use super::several::survive;

const SILOS: usize = 3;
/// After a silo has lost Kafka, all its slots run elsewhere within this: two seconds that it may be without, some for those
/// who notice, and for a transaction of it that is open; on a machine that does much else.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// Faults 15, 19 and 20: a silo that is cut off from Kafka alone, while it reaches Redis and the others, stands aside; the
/// others take its slots and fence it, and nothing is lost or doubled, whatever it had begun. When it reaches Kafka again it
/// gets its share back.
#[test]
fn a_silo_cut_off_from_kafka_loses_its_slots_and_gets_them_back() {
    let behind: Vec<String> = (0..SILOS).map(|_| free_address()).collect();
    let ways: Vec<Proxy> = behind.iter().map(|address| Proxy::to(address.clone())).collect();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.parse().unwrap();
    let log_ways = behind.iter().zip(&ways).map(|(at, way)| (port(at), way.address().to_owned()));
    let rig = Rig::with(Setup {
        log_ways: log_ways.collect(),
        configuration: vec![("silo", "kafka_away_max_ms = 2000".into())],
        ..Setup::default()
    });
    let silos = Several::start_by(&rig, SILOS, |no, place| place.log = Some(ways[no].address().to_owned()));
    let between = |step, silos: &mut Several<'_>| match step {
        3 => {
            ways[0].cut();
            silos.until_running_on(&[1, 2], SERVED_WITHIN);
            assert!(silos.silo(0).log().contains("it stands aside"), "it says why");
            assert!(!silos.silo(0).is_ready());
        }
        10 => ways[0].lead_to(behind[0].clone()),
        _ => {}
    };
    survive(&rig, silos, between, |silos, _| {
        let running = || silos.silo(0).metric("granary_slots_running");
        granary_cluster_tests::kit::until("it has its share", || running() == Some(32.0));
        assert!(!silos.silo(0).log().contains("declared dead"), "it was a member all the time");
    });
}

/// Asks the grain on the first silo to call the one on the second.
async fn relay(client: &Client, grains: &[String], from: usize, to: usize) -> Result<u64> {
    let (_, key) = grains[to].split_once('/').unwrap();
    call(client, &grains[from], "relay", [vec![key]], within(3_000)).await
}

fn must_fail_typed(relayed: Result<u64>, began: Instant) {
    let error: Error = relayed.expect_err("they do not reach each other");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}: {error}", began.elapsed());
}

/// Scenario 3: two silos do not reach each other, and everybody else reaches both. Calls of clients work; calls of grains from
/// the one to the other fail, typed and at the latest by their deadline; when they reach each other again those work, too.
/// No slot moves: who owns what does not hang on who reaches whom.
#[test]
fn two_silos_that_do_not_reach_each_other_serve_everybody_else() {
    let rig = Rig::new();
    let ways: Vec<Proxy> = (0..SILOS).map(|_| Proxy::to(String::new())).collect();
    let silos = Several::start_by(&rig, SILOS, |no, place| {
        ways[no].lead_to(place.listen.clone());
        place.advertise = Some(ways[no].address().to_owned());
    });
    let (runtime, client) = client_of(&silos);
    let grains: Vec<String> = (0..SILOS).map(|no| grain_on(&client, &silos, "Slow", no)).collect();
    let before = client.slots().unwrap().version;
    let between = |step, _: &mut Several<'_>| match step {
        3 => {
            ways[0].refuse(&["silo-1"]);
            ways[1].refuse(&["silo-0"]);
        }
        6 => runtime.block_on(async {
            let began = Instant::now();
            must_fail_typed(relay(&client, &grains, 0, 1).await, began);
            let began = Instant::now();
            must_fail_typed(relay(&client, &grains, 1, 0).await, began);
            for (from, to) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
                assert_eq!(relay(&client, &grains, from, to).await, Ok(1), "from {from} to {to}");
            }
            for grain in &grains {
                let added = call::<u64>(&client, grain, "add", (1, 0), within(3_000));
                added.await.expect("clients reach it");
            }
        }),
        9 => ways.iter().for_each(|way| way.refuse(&[])),
        12 => runtime.block_on(async {
            for (from, to) in [(0, 1), (1, 0)] {
                assert_eq!(relay(&client, &grains, from, to).await, Ok(1), "from {from} to {to}");
            }
        }),
        _ => {}
    };
    survive(&rig, silos, between, |_, _| {
        assert_eq!(client.slots().unwrap().version, before, "no silo came or went");
    });
}
