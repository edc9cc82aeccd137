//! Rolling upgrade: two revisions of a pipeline and two versions of a kind's state are alive at once, and nothing is lost.

use std::time::Duration;

use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::{Silo, granary};
use granary_cluster_tests::kit::until;

use super::inputs::{message, write};
use super::several::three_survive;

/// The next version of the tests' program: its `Counter` has state version 2.
fn next_program() -> (&'static str, String) {
    ("GRANARY_TEST_NEXT", "1".into())
}

/// The revision and generation that a silo says it runs.
fn runs(silo: &Silo) -> (u64, u64) {
    let metric = |name| silo.metric(name).map_or(0, |value| value as u64);
    (metric("granary_revision"), metric("granary_generation"))
}

/// Which of these silos is rolled after a step.
fn rolled<const N: usize>(step: u64, at: [(u64, usize); N]) -> Option<usize> {
    at.iter().find(|(of, _)| *of == step).map(|(_, no)| *no)
}

/// Scenario 53 and fault 34: three silos are rolled one by one to another revision of the pipeline, and two of them back,
/// under records and calls. Slots go both ways between the two revisions; no result is lost or doubled, no call fails.
#[test]
fn a_pipeline_is_rolled_forward_and_half_way_back() {
    let between = |step, silos: &mut Several<'_>| {
        let filtered = silos.rig().changed_pipeline(
            "filtered.yaml",
            &[(
                "  totals:\n    from: measurements",
                "  all: {from: measurements, filter: \"m2 < 1e12 + 1.0\"}\n  totals:\n    from: all",
            )],
        );
        if let Some(no) = rolled(step, [(2, 0), (5, 1), (8, 2)]) {
            silos.roll(no, &[filtered]);
            assert_eq!(runs(silos.silo(no)), (2, 1), "another revision of the same generation");
            assert!(silos.silo(no).metric("granary_slots_running") > Some(20.0), "it has its share");
        }
        if let Some(no) = rolled(step, [(11, 0), (14, 2)]) {
            silos.roll(no, &[]);
            assert_eq!(runs(silos.silo(no)), (1, 1), "the same content has the same number");
        }
    };
    three_survive(between, |silos, calls| {
        calls.must_not_have_failed();
        assert_eq!([0, 1, 2].map(|no| runs(silos.silo(no)).0), [1, 2, 1]);
    });
}

/// Scenario 53 and fault 34: three silos are rolled one by one to a program whose kind has the next state version, and to a
/// pipeline with one more source and sink. What the old ones stored is migrated; no call fails, no result is lost or doubled.
/// An old silo that comes back owns nothing and says why.
#[test]
fn a_state_version_is_raised_silo_by_silo() {
    let between = |step, silos: &mut Several<'_>| {
        let rig = silos.rig();
        let second_sink = format!("sinks:\n  also: {{from: totals, topic: {}-also}}\n", rig.output);
        let wider = rig.changed_pipeline("wider.yaml", &[("sinks:\n", &second_sink)]);
        if let Some(no) = rolled(step, [(2, 0), (5, 1), (8, 2)]) {
            silos.roll(no, &[wider, next_program()]);
            assert_eq!(runs(silos.silo(no)), (2, 2));
            let others = (0..3).filter(|other| *other > no);
            for other in others {
                assert!(
                    silos.silo(other).is_outdated(),
                    "silo {other}: {:?}",
                    silos.silo(other).get("/readyz")
                );
                assert_eq!(silos.silo(other).metric("granary_slots_held"), Some(0.0), "silo {other}");
            }
        } else if step == 11 {
            silos.roll(1, &[]);
            let old = silos.silo(1);
            assert_eq!(runs(old), (1, 1));
            let why = old.get("/readyz").unwrap();
            assert!(why.contains("kind `Counter` has state version 1, stored is version 2"), "{why}");
            assert!(old.log().contains("it joins, and owns no slot"), "loudly");
        } else if step == 14 {
            assert_eq!(silos.silo(1).metric("granary_slots_held"), Some(0.0), "it never got one");
            let status = granary().args(["status", "--silo", &silos.place(1).listen]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            let of = |name: &str| status["generations"][name].as_u64();
            assert_eq!((of("silo-0"), of("silo-1"), of("silo-2")), (Some(2), Some(1), Some(2)), "{status}");
            assert_eq!((status["revision"].as_u64(), status["generation"].as_u64()), (Some(1), Some(1)));
            silos.roll(1, &[wider, next_program()]);
            assert!(silos.silo(1).is_ready(), "the newer program has its share again");
        }
    };
    three_survive(between, |_, calls| calls.must_not_have_failed());
}

/// Silos of the old program alone: what was never touched by the new one is theirs, the rest waits for the new one, and they
/// say so. Nothing is read by a program that cannot.
#[test]
fn old_silos_alone_do_not_touch_what_the_new_ones_had() {
    let rig = Rig::new();
    let mut silos = Several::start(&rig, 1);
    silos.roll(0, &[next_program()]);
    silos.stop(0);
    silos.set(0, &[]);
    silos.begin(0);
    until("the old silo says that it has nothing to run", || {
        silos.silo(0).metric("granary_slots_outdated") == Some(96.0)
    });
    let log = silos.silo(0).log().matches("too old for it").count();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(silos.silo(0).log().matches("too old for it").count(), log, "it does not try again and again");
    let call = granary()
        .args(["call", "Counter/x", "total", "--timeout-ms", "2000", "--silo", &silos.place(0).listen])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&call.stderr).into_owned();
    assert!(!call.status.success() && said.contains("start silos of the newer program"), "{said}");
    silos.roll(0, &[next_program()]);
    assert!(silos.silo(0).is_ready());
    silos.stop_all();
}

/// A step whose shape has changed is refused at the start, with the remedy; `drop_state` begins it anew, and what was stored
/// is not read.
#[test]
fn a_changed_shape_is_refused_until_its_state_is_dropped() {
    let rig = Rig::with(Setup::default());
    let mut silos = Several::start(&rig, 1);
    let rows = |count: usize| {
        until("results come", || rig.published().rows.len() >= count);
        let last = rig.published().rows.last().cloned().expect("a row");
        serde_json::from_slice::<serde_json::Value>(&last.value).expect("rows in JSON")
    };
    write(&rig, &[("d-1", message("d-1", 1_000, 5))]);
    assert_eq!((rows(1)["count"].as_u64(), rows(1)["m1_sum"].as_i64()), (Some(1), Some(5)));
    silos.stop(0);

    let narrower = ("      m2_avg: avg(m2)\n", "");
    silos.set(0, &[rig.changed_pipeline("narrower.yaml", &[narrower])]);
    let refused = Silo::start_at(&rig, silos.place(0), &[]);
    let log = refused.log_path().to_owned();
    assert_eq!(refused.until_ended().code(), Some(2));
    let said = std::fs::read_to_string(log).unwrap();
    for part in
        ["step `totals` has changed", "stored: 1 key=device", "wanted: 1 key=device", "`drop_state: 1`"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }

    let dropped =
        ("  totals:\n    from: measurements\n", "  totals:\n    from: measurements\n    drop_state: 1\n");
    let anew = rig.changed_pipeline("anew.yaml", &[narrower, dropped]);
    silos.set(0, &[anew]);
    silos.begin(0);
    silos.until_settled();
    assert_eq!(runs(silos.silo(0)), (2, 2));
    write(&rig, &[("d-1", message("d-1", 1_001, 7))]);
    let row = rows(2);
    assert_eq!(
        (row["count"].as_u64(), row["m1_sum"].as_i64()),
        (Some(1), Some(7)),
        "of the dropped state nothing: {row}"
    );
    assert!(row["m2_avg"].is_null(), "{row}");
    silos.stop_all();
}
