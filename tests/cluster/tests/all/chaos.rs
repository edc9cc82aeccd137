//! Rounds of faults at random moments on three silos, under records and calls.

use std::time::Duration;

use granary_cluster_tests::kit::callers::{Callers, Manner};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup, inject_to};
use granary_cluster_tests::kit::several::Several;
use granary_core::Span;

use crate::kills::Draw;

/// Rounds in every run of the tests; the long form has [`ROUNDS_LONG`].
const ROUNDS: u64 = 4;
const ROUNDS_LONG: u64 = 100;
/// Steps of 250 messages in a round.
const ROUND_STEPS: u64 = 4;
const SILOS: usize = 3;
/// A silo stands still, or has no way to Redis, for at most so long: longer than its lease of two seconds.
const APART_MS_MAX: u64 = 4_000;

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    KillTwo,
    Restart,
    StandStill,
    CutOff,
    KillRedis,
    KillKafka,
}

const FAULTS: [Fault; 7] = [
    Fault::Kill,
    Fault::KillTwo,
    Fault::Restart,
    Fault::StandStill,
    Fault::CutOff,
    Fault::KillRedis,
    Fault::KillKafka,
];

fn rounds(rounds: u64) {
    let rig = Rig::with(Setup { own_broker: true, ..Setup::default() });
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut draw = Draw(since.as_nanos() as u64);
    println!("seed {}", draw.0);
    let options = rig.load(40, u32::try_from(rounds * ROUND_STEPS * 250 / 40).unwrap());
    let mut silos = Several::start(&rig, SILOS);
    let callers = Callers::begin(&silos.addresses(), Manner { timeout: Span(5_000), ..Manner::default() });
    let mut done = [0; FAULTS.len()];
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2, |step| {
        std::thread::sleep(Duration::from_millis(draw.below(400)));
        if step % ROUND_STEPS != 0 {
            return;
        }
        let which = draw.below(FAULTS.len() as u64) as usize;
        done[which] += 1;
        println!("step {step}: {:?}, {} calls answered", FAULTS[which], callers.answered());
        strike(FAULTS[which], &rig, &mut silos, &mut draw);
    });
    println!("{FAULTS:?}: {done:?}");
    rig.until_right(&options);
    silos.until_settled();
    callers.end().must_be_linearizable();
    silos.stop_all();
    rig.must_be_right(&options);
}

fn strike(fault: Fault, rig: &Rig, silos: &mut Several<'_>, draw: &mut Draw) {
    let no = draw.below(SILOS as u64) as usize;
    let other = (no + 1) % SILOS;
    let mut wait = |most_ms| std::thread::sleep(Duration::from_millis(draw.below(most_ms)));
    match fault {
        Fault::Kill => {
            silos.kill(no);
            wait(3_000);
            silos.begin(no);
        }
        Fault::KillTwo => {
            silos.kill(no);
            wait(300);
            silos.kill(other);
            wait(3_000);
            silos.begin(other);
            silos.begin(no);
        }
        Fault::Restart => {
            silos.stop(no);
            silos.begin(no);
        }
        Fault::StandStill => {
            silos.silo(no).signal("STOP");
            wait(APART_MS_MAX);
            silos.silo(no).signal("CONT");
        }
        Fault::CutOff => {
            silos.proxy(no).cut();
            wait(APART_MS_MAX);
            silos.mend(no);
        }
        Fault::KillRedis => {
            rig.redis.kill();
            wait(1_500);
            rig.redis.restart();
        }
        Fault::KillKafka => {
            rig.kafka.kill();
            rig.kafka.restart();
        }
    }
}

#[test]
fn some_rounds_of_random_faults_on_three_silos() {
    rounds(ROUNDS);
}

#[test]
#[ignore = "a quarter of an hour"]
fn a_hundred_rounds_of_random_faults_on_three_silos() {
    rounds(ROUNDS_LONG);
}
