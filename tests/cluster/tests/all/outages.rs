//! Servers that are away, stand still or refuse: the silo stays, says so, and goes on; nothing is lost or doubled.

use std::time::Duration;

use granary_cluster_tests::kit::load::{self, Calls};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup};
use granary_cluster_tests::kit::silo::Silo;
use granary_cluster_tests::kit::until;

/// Load and calls go on while something happens; then results are right and every acknowledged call counts once.
#[track_caller]
fn survives(rig: &Rig, mut happens: impl FnMut(u64, &Rig, &Silo)) {
    let options = rig.load(30, 80);
    let silo = rig.silo();
    let calls = Calls::begin(rig);
    let log = rig.log.clone();
    let input = rig.input.clone();
    granary_cluster_tests::kit::rig::inject_to(&log, &input, &options, Partitioning::Murmur2, |step| {
        happens(step, rig, &silo);
        std::thread::sleep(Duration::from_millis(150));
    });
    rig.until_right(&options);
    until("the silo is ready again", || silo.is_ready());
    let acknowledged = calls.end();
    assert_eq!(load::total(rig), acknowledged, "every acknowledged call counts once");
    silo.stop();
    rig.must_be_right(&options);
}

/// Fault 8: a pause of the process that is shorter than anybody's patience.
#[test]
fn stopped_and_continued() {
    survives(&Rig::new(), |step, _, silo| {
        if step == 4 {
            silo.signal("STOP");
            std::thread::sleep(Duration::from_secs(3));
            silo.signal("CONT");
        }
    });
}

/// Fault 11, with nothing lost: Redis starts again from its file.
#[test]
fn redis_restarts() {
    survives(&Rig::new(), |step, rig, _| {
        if step == 3 || step == 6 {
            rig.redis.kill();
            rig.redis.restart();
        }
    });
}

/// Fault 13: Redis has no memory left, for a time.
#[test]
fn redis_is_out_of_memory() {
    survives(&Rig::new(), |step, rig, silo| match step {
        3 => rig.redis_says(&["CONFIG", "SET", "maxmemory", "1"]),
        5 => until("the silo says so", || !silo.is_ready()),
        6 => rig.redis_says(&["CONFIG", "SET", "maxmemory", "0"]),
        _ => {}
    });
}

/// Fault 14: the way to Redis is cut, Kafka can be reached.
#[test]
fn the_way_to_redis_is_cut() {
    let rig = Rig::with(Setup { is_proxied: true, ..Setup::default() });
    survives(&rig, |step, rig, silo| match step {
        3 => rig.proxy().cut(),
        5 => {
            until("the silo says so", || !silo.is_ready());
            assert!(silo.get("/livez").is_some_and(|answer| answer.contains("200 OK")), "it stays");
        }
        6 => rig.proxy().lead_to(rig.redis.address()),
        _ => {}
    });
}

/// Faults 16 and 17: the broker, which is also every coordinator, ends in the middle and starts again.
#[test]
fn kafka_restarts() {
    let rig = Rig::with(Setup { own_broker: true, ..Setup::default() });
    survives(&rig, |step, rig, _| {
        if step == 3 || step == 6 {
            rig.kafka.kill();
            rig.kafka.restart();
        }
    });
}

/// Fault 15, as far as one silo shows it: Kafka stands still while Redis can be reached.
#[test]
fn kafka_stands_still() {
    let rig = Rig::with(Setup { own_broker: true, ..Setup::default() });
    survives(&rig, |step, rig, _| {
        if step == 4 {
            rig.kafka.pause();
            std::thread::sleep(Duration::from_secs(4));
            rig.kafka.resume();
        }
    });
}

/// Fault 35: every commit takes two seconds, for a time.
#[test]
fn redis_is_slow() {
    survives(&Rig::new(), |step, rig, _| {
        if step == 3 || step == 5 {
            rig.redis_says(&["CLIENT", "PAUSE", "2000", "WRITE"]);
        }
    });
}

/// Both are away before the silo starts: it waits for them and says so.
#[test]
fn a_silo_starts_before_its_servers() {
    let rig = Rig::new();
    let options = rig.load(10, 20);
    rig.redis.kill();
    let mut silo = Silo::start(&rig, "");
    until("it says what it waits for", || {
        silo.get("/readyz").is_some_and(|answer| answer.contains("503") && answer.contains("Redis"))
    });
    rig.redis.restart();
    silo.until_ready();
    rig.inject(&options);
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
}
