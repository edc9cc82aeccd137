//! Reads and writes of the store that fail, or whose answers are lost, on three silos.

use std::time::Duration;

use granary_cluster_tests::kit::callers::{Callers, Manner};
use granary_cluster_tests::kit::rig::Rig;
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::until;

/// Rounds of faults; each silo gets each kind.
const ROUNDS: usize = 12;
/// How long each fault lasts: shorter than a lease.
const FAULT: Duration = Duration::from_millis(250);

/// Scenarios 33 and 34: again and again a silo cannot reach the store, or what it asks for is done and the answer lost. It
/// finds out which: every call has one effect and an answer, and nothing is undone and computed again because of it. Most
/// calls meet their grain cold, so reads fail as well as writes.
#[test]
fn reads_and_writes_that_fail_or_whose_answers_are_lost_leave_no_trace() {
    let rig = Rig::new();
    let silos = Several::start(&rig, 3);
    let before = silos.until_agreed();
    let manner = Manner { grains: 1_500, ..Manner::default() };
    let callers = Callers::begin(&silos.addresses(), manner);
    for round in 0..ROUNDS {
        let (no, answered) = (round % 3, callers.answered());
        if round / 3 % 2 == 0 {
            silos.proxy(no).lose_answers();
        } else {
            silos.proxy(no).cut();
        }
        std::thread::sleep(FAULT);
        silos.mend(no);
        until("calls go on", || callers.answered() > answered + 50);
    }
    silos.until_settled();
    let calls = callers.end();
    calls.must_be_linearizable();
    calls.must_not_have_failed();
    assert_eq!(silos.until_agreed(), before, "no slot moved");
    for no in 0..3 {
        let undone = silos.silo(no).metric("granary_rollbacks_total");
        assert_eq!(undone.unwrap_or_default(), 0.0, "silo-{no} went on where it was");
    }
    silos.stop_all();
}
