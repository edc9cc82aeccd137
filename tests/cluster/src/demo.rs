//! `make demo-cluster`: Apache Kafka, Redis and three silos on this machine; devices send and programs call while silos are
//! killed and stopped, and at the end everything is compared with the truth.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::callers::{Callers, Manner};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, SLOTS, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_core::Span;

/// Devices, and the messages of each.
const DEVICES: u32 = 200;
const MESSAGES: u32 = 120;
/// Between two steps of 250 messages.
const STEP: Duration = Duration::from_millis(200);
/// Results may take so long to become right after the last message.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let began = Instant::now();
    let rig = Rig::with(Setup { own_broker: true, ..Setup::default() });
    println!("Apache Kafka at {}, Redis at {}", rig.kafka.brokers(), rig.redis.address());
    let mut silos = Several::start(&rig, 3);
    println!("three silos at {}: {SLOTS} slots, shared evenly", silos.addresses());

    let callers = Callers::begin(&silos.addresses(), Manner { timeout: Span(30_000), ..Manner::default() });
    let options = rig.load(DEVICES, MESSAGES);
    let said = |what: &str, calls: u64| {
        println!("{:5.1} s  {what}; {calls} calls answered so far", began.elapsed().as_secs_f64());
    };
    let mut worst = Duration::ZERO;
    rig.inject_as(&options, Partitioning::Murmur2, |step| {
        std::thread::sleep(STEP);
        match step {
            10 => {
                silos.kill(1);
                said("silo-1 is killed: kill -9", callers.answered());
            }
            30 => {
                silos.begin(1);
                said("silo-1 is started again", callers.answered());
            }
            50 => {
                let stopping = Instant::now();
                silos.stop(2);
                worst = worst.max(stopping.elapsed());
                said("silo-2 was told to stop, gave its slots and ended", callers.answered());
                silos.begin(2);
            }
            70 => {
                silos.silo(0).signal("STOP");
                said("silo-0 stands still: SIGSTOP, for longer than its lease", callers.answered());
            }
            90 => {
                silos.silo(0).signal("CONT");
                said("silo-0 goes on, learns that it was taken for dead, and comes back", callers.answered());
            }
            _ => {}
        }
    });
    said("all messages are sent", callers.answered());
    let report = rig.settle(&options, SETTLES_WITHIN);
    let calls = callers.end();
    silos.until_settled();
    silos.stop_all();
    let copies = rig.published().copies();
    let verdict = calls.verdict();
    let is_linearizable = verdict.is_linearizable();
    if !is_linearizable {
        println!("{verdict}");
    }
    let unknown = calls.failed.iter().filter(|error| error.did_run() != Some(granary_core::Ran::No)).count();
    println!("outputs that are there twice: {copies}");
    println!(
        "calls made {}, answered {}, refused {}, outcome unknown {unknown}, lost {}",
        calls.answered + calls.failed.len() as u64,
        calls.answered,
        calls.failed.len() - unknown,
        if is_linearizable { "0" } else { "some: no order of the calls explains the answers" }
    );
    println!("exceptions {} of {} windows", report.exceptions, report.of);
    report.first.iter().for_each(|line| println!("{line}"));
    println!("took {:.0} s; all that was started is stopped", began.elapsed().as_secs_f64());
    let is_right =
        report.exceptions == 0 && report.of > 0 && copies == 0 && is_linearizable && calls.answered > 0;
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
