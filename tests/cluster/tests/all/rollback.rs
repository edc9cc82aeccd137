//! Redis loses what it had acknowledged. Results stay right and are there once; calls of lost commits are gone, and the silo
//! says which.

use std::time::Duration;

use granary_harness::Redis;

use granary_cluster_tests::kit::load::{self, Calls};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup, inject_to};
use granary_cluster_tests::kit::until;

/// Faults 9 and 10: the replica that takes over has stood still for a second; what was acknowledged since is gone, acquiring
/// the slots by a successor among it.
#[test]
fn redis_fails_over_to_a_replica_that_lags() {
    let rig = Rig::with(Setup { is_proxied: true, ..Setup::default() });
    let options = rig.load(30, 80);
    let replica = Redis::start();
    let master = rig.redis.address();
    let (host, port) = master.split_once(':').unwrap();
    replica.says(&["REPLICAOF", host, port]);
    let mut silo = Some(rig.silo());
    let calls = Calls::begin(&rig);
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2, |step| {
        match step {
            3 => until("the replica follows", || {
                replica.says(&["INFO", "replication"]).contains("link_status:up")
            }),
            // From here on it hears no more: it goes its own way.
            4 => drop(replica.says(&["REPLICAOF", "NO", "ONE"])),
            6 => {
                silo.take().unwrap().kill(); // the successor acquires the slots in what gets lost
                silo = Some(rig.silo());
            }
            8 => rig.proxy().lead_to(replica.address()),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    });
    rig.until_right(&options);
    let silo = silo.unwrap();
    until("the silo is ready again", || silo.is_ready());
    let acknowledged = calls.end();
    let total = load::total(&rig);
    assert!(total <= acknowledged, "{total} of {acknowledged} acknowledged calls");
    assert!(silo.log().contains("the store lost acknowledged commits"), "the silo says what is gone");
    silo.stop();
    rig.must_be_right(&options);
}

/// Fault 11: Redis starts again from an older file.
#[test]
fn redis_restarts_from_an_older_file() {
    let rig = Rig::new();
    let options = rig.load(30, 80);
    let silo = rig.silo();
    let (log, input) = (rig.log.clone(), rig.input.clone());
    let mut older = None;
    inject_to(&log, &input, &options, Partitioning::Murmur2, |step| {
        match step {
            3 => older = Some(rig.redis.copy()),
            8 => {
                rig.redis.kill();
                rig.redis.put_back(older.as_ref().unwrap());
                rig.redis.restart();
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(150));
    });
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
}

/// Fault 12: everything in Redis is gone, the log is complete: all is computed again and nothing is published twice.
#[test]
fn redis_is_emptied() {
    is_emptied(Partitioning::Murmur2);
}

/// The same when most records are strays: what they caused is told from what others did.
#[test]
fn redis_is_emptied_and_records_were_rekeyed() {
    is_emptied(Partitioning::Crc32);
}

fn is_emptied(partitioning: Partitioning) {
    let rig = Rig::new();
    let options = rig.load(30, 60);
    let silo = rig.silo();
    rig.inject_as(&options, partitioning, |_| {});
    rig.until_right(&options);
    silo.kill();
    rig.redis_says(&["FLUSHALL"]);
    let silo = rig.silo();
    rig.until_read(&silo);
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
}

/// Fault 37: silent keys were closed by the wall clock, then Redis went back to before that, then their next events are read
/// again: they are closed again at the same place, as the same rows.
#[test]
fn redis_forgets_what_silence_closed() {
    let rig = Rig::new();
    let options = rig.load(20, 80);
    let silo = rig.silo();
    let (log, input) = (rig.log.clone(), rig.input.clone());
    let mut older = None;
    inject_to(&log, &input, &options, Partitioning::Murmur2, |step| match step {
        2 => older = Some(rig.redis.copy()),
        3 | 4 => {
            rig.until_read(&silo);
            std::thread::sleep(Duration::from_secs(3)); // `idle_after` is a second: silence closes what is open
        }
        5 => {
            rig.redis.kill();
            rig.redis.put_back(older.as_ref().unwrap());
            rig.redis.restart();
        }
        _ => std::thread::sleep(Duration::from_millis(150)),
    });
    rig.until_right(&options);
    assert!(silo.log().contains("inputs of the clock were taken again"), "the journal was read");
    silo.stop();
    rig.must_be_right(&options);
}
