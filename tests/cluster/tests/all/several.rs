//! Several silos: slots move when silos come, go, die or stand still, and nothing is lost or done twice.

use std::time::Duration;

use granary_cluster_tests::kit::callers::{Callers, Calls, Manner};
use granary_cluster_tests::kit::rig::{Partitioning, Rig, free_address};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::Silo;

/// Messages of a run, and the step of 250 after which something happens.
const DEVICES: u32 = 40;
const MESSAGES: u32 = 120;

pub fn under_load(rig: &Rig, mut between: impl FnMut(u64)) -> granary_streams::inject::Options {
    let options = rig.load(DEVICES, MESSAGES);
    rig.inject_as(&options, Partitioning::Murmur2, |step| {
        std::thread::sleep(Duration::from_millis(300));
        between(step);
    });
    options
}

/// Three silos under records and calls: `between` is called after each step, `after` when the results are right and the
/// silos have come to rest. Nothing may be lost, doubled or stale.
pub fn three_survive(between: impl FnMut(u64, &mut Several<'_>), after: impl FnOnce(&Several<'_>, &Calls)) {
    let rig = Rig::new();
    survive(&rig, Several::start(&rig, 3), between, after);
}

/// The same with these silos.
pub fn survive(
    rig: &Rig,
    mut silos: Several<'_>,
    mut between: impl FnMut(u64, &mut Several<'_>),
    after: impl FnOnce(&Several<'_>, &Calls),
) {
    let callers = Callers::begin(&silos.addresses(), Manner::default());
    let options = under_load(rig, |step| between(step, &mut silos));
    rig.until_right(&options);
    silos.until_settled();
    let calls = callers.end();
    calls.must_be_linearizable();
    after(&silos, &calls);
    silos.stop_all();
    rig.must_be_right(&options);
}

/// Fault 7 of many silos: one is killed while records and calls come; the others take its slots within seconds.
#[test]
fn a_killed_silo_is_replaced_by_the_others() {
    let between = |step, silos: &mut Several<'_>| match step {
        3 => silos.kill(1),
        8 => silos.begin(1),
        _ => {}
    };
    three_survive(between, |_, _| {});
}

/// Scenario 4: a silo that stands still past its lease is declared dead; when it goes on it writes nothing and answers
/// nothing, and comes back as a new life.
#[test]
fn a_silo_that_stands_still_past_its_lease_comes_back_as_another() {
    let between = |step, silos: &mut Several<'_>| match step {
        3 => silos.silo(2).signal("STOP"),
        // Two seconds of lease, and some for those who notice.
        15 => silos.silo(2).signal("CONT"),
        _ => {}
    };
    three_survive(between, |silos, _| {
        assert!(silos.silo(2).log().contains("declared dead"), "it learns that it was taken for dead");
    });
}

/// Fault 8: a silo that stands still for less than its lease keeps its slots, and nobody notices but by a pause.
#[test]
fn a_silo_that_stands_still_for_less_than_its_lease_keeps_its_slots() {
    let mut before = None;
    let between = |step, silos: &mut Several<'_>| {
        if step == 3 {
            before = Some(silos.until_agreed());
            silos.silo(2).signal("STOP");
            std::thread::sleep(Duration::from_millis(1_000));
            silos.silo(2).signal("CONT");
        }
        if step == 6 {
            assert_eq!(Some(silos.until_agreed()), before.take(), "no slot moved, and no life ended");
        }
    };
    three_survive(between, |_, calls| calls.must_not_have_failed());
}

/// A silo that is cut off from Redis loses its slots to those that are not, and gets its share back.
#[test]
fn a_silo_cut_off_from_redis_loses_its_slots() {
    let between = |step, silos: &mut Several<'_>| match step {
        3 => silos.proxy(0).cut(),
        15 => silos.mend(0),
        _ => {}
    };
    three_survive(between, |_, _| {});
}

/// Scenarios 28, 35 and 54: each silo in turn is stopped in order and started again under records and calls, and no caller
/// notices.
#[test]
fn a_rolling_restart_loses_nothing_and_fails_no_call() {
    let between = |step, silos: &mut Several<'_>| {
        if let Some(no) = [2, 5, 8].iter().position(|at| *at == step) {
            silos.stop(no);
            silos.begin(no);
            silos.until_settled();
        }
    };
    three_survive(between, |_, calls| calls.must_not_have_failed());
}

/// A second silo of a name is refused while the first lives, and told why.
#[test]
fn a_name_belongs_to_one_silo() {
    let rig = Rig::new();
    let silos = Several::start(&rig, 2);
    let mut second = silos.place(0).clone();
    second.listen = free_address();
    second.gateway = free_address();
    let second = Silo::start_at(&rig, &second, &[]);
    let log = second.log_path().to_owned();
    let status = second.until_ended();
    assert_eq!(status.code(), Some(2), "{status}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("a silo named `silo-0` runs at"), "{log}");
    silos.until_settled();
    silos.stop_all();
}
