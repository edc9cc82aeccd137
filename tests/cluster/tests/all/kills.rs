//! Rounds of faults at random moments, under load and calls.

use std::time::Duration;

use granary_cluster_tests::kit::load::{self, Calls};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup, inject_to};
use granary_cluster_tests::kit::until;

/// Rounds in every run of the tests; the long form has [`ROUNDS_LONG`].
const ROUNDS: u64 = 5;
const ROUNDS_LONG: u64 = 100;

/// Numbers that are different every time.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn rounds(rounds: u64) {
    let rig = Rig::with(Setup { own_broker: true, ..Setup::default() });
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut draw = Draw(since.as_nanos() as u64);
    let steps = rounds * 3;
    let options = rig.load(40, u32::try_from(steps * 250 / 40).unwrap());
    let mut silo = Some(rig.silo());
    let calls = Calls::begin(&rig);
    let (log, input) = (rig.log.clone(), rig.input.clone());
    let mut done = [0; 5];
    inject_to(&log, &input, &options, Partitioning::Murmur2, |step| {
        std::thread::sleep(Duration::from_millis(draw.below(400)));
        if step % 3 != 0 {
            return;
        }
        let fault = draw.below(5) as usize;
        done[fault] += 1;
        println!("step {step}: fault {fault}, {} calls answered", calls.acknowledged());
        match fault {
            0 | 1 => {
                silo.take().unwrap().kill();
                std::thread::sleep(Duration::from_millis(draw.below(1_500)));
                silo = Some(if fault == 0 {
                    rig.silo()
                } else {
                    granary_cluster_tests::kit::silo::Silo::start(&rig, "")
                });
            }
            2 => {
                rig.redis.kill();
                std::thread::sleep(Duration::from_millis(draw.below(1_000)));
                rig.redis.restart();
            }
            3 => {
                rig.kafka.kill();
                rig.kafka.restart();
            }
            _ => {
                let silo = silo.as_ref().unwrap();
                silo.signal("STOP");
                std::thread::sleep(Duration::from_millis(draw.below(2_000)));
                silo.signal("CONT");
            }
        }
    });
    println!("kills, kills in a row, Redis, Kafka, pauses: {done:?}");
    rig.until_right(&options);
    let silo = silo.unwrap();
    until("the silo is ready", || silo.is_ready());
    let acknowledged = calls.end();
    assert_eq!(load::total(&rig), acknowledged, "every acknowledged call counts once");
    silo.stop();
    rig.must_be_right(&options);
}

#[test]
fn some_rounds_of_random_faults() {
    rounds(ROUNDS);
}

#[test]
#[ignore = "a quarter of an hour"]
fn a_hundred_rounds_of_random_faults() {
    rounds(ROUNDS_LONG);
}
