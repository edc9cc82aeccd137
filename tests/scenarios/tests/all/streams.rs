//! Records and the grains they tell: poison, crashes, replays.

use std::ops::Range;

use granary_core::time::{millis, mins};
use granary_scenarios::pipeline::Teller;
use granary_scenarios::{Fault, Faults, Rig, SOON, Silo, eventually};

use crate::kinds::{Counter, Tally, answer, kinds, settle};

const TAKE: Teller = Teller { kind: "Tally", method: "take", elsewhere: None };

async fn seen(silo: &Silo, key: &str) -> Vec<String> {
    answer(silo.handle.grain::<Tally>(key).seen()).await.unwrap()
}

async fn until_seen(silo: &Silo, key: &str, n: usize) {
    let began = std::time::Instant::now();
    let count = std::cell::Cell::new(0);
    let ticking = async {
        while began.elapsed() < SOON {
            tokio::time::sleep(millis(3).into()).await;
            silo.advance(millis(20)); // what waits before it is tried again waits on this clock
        }
        panic!("{key}: {} of {n} records after {SOON:?}: {:?}", count.get(), silo.stats());
    };
    let seen = async {
        while count.get() < n {
            count.set(seen(silo, key).await.len());
        }
    };
    tokio::select! { () = seen => {}, () = ticking => {} }
}

/// Scenario 43: the handler, and the pipeline itself, refuse or panic in the middle of a batch.
#[tokio::test]
async fn a_poison_record_is_set_aside_after_three_tries_and_delays_nobody() {
    for poison in ["err", "boom", "fail", "panic"] {
        let rig = crate::rig();
        for i in 0..20 {
            for key in ["k-0", "k-1", "k-2", "k-3", "k-4", "k-5"] {
                let bad = key == "k-3" && i == 9;
                rig.append(key, &if bad { format!("{poison} {i}") } else { format!("event {i}") });
            }
        }
        let silo = rig.start_streaming(kinds(), TAKE, |_| {});
        for key in ["k-0", "k-1", "k-2", "k-3", "k-4", "k-5"] {
            let expected: Vec<String> =
                (0..20).filter(|i| key != "k-3" || *i != 9).map(|i| format!("event {i}")).collect();
            until_seen(&silo, key, expected.len()).await;
            assert_eq!(seen(&silo, key).await, expected, "{poison}: {key} in order, each once");
        }
        let expected = 2 * (6 * 20 - 1);
        eventually("all is published", || {
            rig.outputs("out").len() + rig.outputs("poisoned").len() > expected
        })
        .await;
        let poisoned = rig.outputs("poisoned");
        assert_eq!(poisoned.len(), 1, "{poison}: {poisoned:?}");
        assert!(poisoned[0].starts_with(&format!("{poison} 9: ")), "{poisoned:?}");
        assert_eq!((silo.stats().poisoned, silo.stats().rollbacks), (1, 3), "{poison}");
        let out = rig.outputs("out");
        assert_eq!(out.len(), 2 * (6 * 20 - 1), "{poison}: one line of the pipeline, one of the handler");
        silo.stop().await;
    }
}

#[tokio::test]
async fn a_handler_that_calls_another_slot_is_refused() {
    let rig = crate::rig();
    rig.append("k-1", "event 1");
    let teller = Teller::new("Tally", "reach_out");
    let silo = rig.start_streaming(kinds(), teller, |_| {});
    eventually("the record is set aside", || rig.outputs("poisoned").len() == 1).await;
    let reason = &rig.outputs("poisoned")[0];
    assert!(reason.contains("such a turn never waits for another slot"), "{reason}");
    for i in 0..8 {
        let counter = silo.handle.grain::<Counter>(format!("far-{i}"));
        assert_eq!(answer(counter.total()).await, Ok(0), "nothing was called");
    }
    silo.stop().await;

    let rig = crate::rig();
    rig.append("k-1", "event 1");
    let teller = Teller { elsewhere: Some("k-2"), ..TAKE };
    let silo = rig.start_streaming(kinds(), teller, |_| {});
    eventually("the record is set aside", || rig.outputs("poisoned").len() == 1).await;
    assert!(rig.outputs("poisoned")[0].contains("lives in another slot"), "{:?}", rig.outputs("poisoned"));
    silo.stop().await;
}

fn fill(rig: &Rig, events: Range<usize>) {
    for i in events {
        for key in KEYS {
            rig.append(key, &format!("event {i}"));
        }
    }
}

const KEYS: [&str; 5] = ["k-0", "k-1", "k-2", "k-3", "k-4"];
const EVENTS: usize = 40;

/// Scenario 48: the same log gives the same outputs with the same identities, however it is cut into commits.
#[tokio::test]
async fn outputs_do_not_depend_on_the_size_of_commits() {
    for method in ["take", "take_with_help"] {
        let mut first = None;
        for batch in [1, 7, 1_000] {
            let rig = crate::rig();
            fill(&rig, 0..EVENTS);
            let silo = rig.start_streaming(kinds(), Teller::new("Tally", method), |config| {
                config.batch_records_max = batch;
                config.lanes = 2;
            });
            for key in KEYS {
                until_seen(&silo, key, EVENTS).await;
            }
            silo.stop().await;
            let outputs = rig.outputs_by_id("out");
            assert_eq!(outputs.len(), 2 * 200, "{method}, {batch} records a commit");
            assert!(outputs.windows(2).all(|two| two[0].0 != two[1].0), "identities differ");
            let first = first.get_or_insert_with(|| outputs.clone());
            assert_eq!(*first, outputs, "{method}, {batch} records a commit");
        }
    }
}

/// Deaths in a row before a life that gets everywhere: one more, and a record that was noted in three of them would
/// rightly be suspected, and set aside.
const DEATHS_IN_A_ROW: u64 = 4;

/// Scenario 45: killed between the commit and its acknowledgement, before the commit, and in between.
#[tokio::test]
async fn a_kill_at_any_commit_counts_nothing_twice() {
    let undisturbed = crate::rig();
    fill(&undisturbed, 0..EVENTS);
    let silo = undisturbed.start_streaming(kinds(), TAKE, |_| {});
    for key in KEYS {
        until_seen(&silo, key, EVENTS).await;
    }
    silo.stop().await;

    let rig = crate::rig();
    for round in 0..3 {
        let of_round = 11; // in each slot one more than the commits of the deaths: 1 + 2 + 3 + 4
        fill(&rig, of_round * round..of_round * (round + 1));
        let appended = of_round * (round + 1) * KEYS.len();
        for death in 0..DEATHS_IN_A_ROW {
            let plant = |faults: &Faults| {
                faults.cut_off_after(1 + death);
                match (round as u64 + death) % 3 {
                    0 => faults.next_commits([Fault::AnswerLost]),
                    1 => faults.next_commits([Fault::Refused]),
                    _ => {}
                }
            };
            let silo = rig.start_doomed(kinds(), TAKE, plant, |config| config.batch_records_max = 1);
            eventually("its last commit is stored", || {
                silo.advance(millis(20));
                silo.faults.is_cut_off()
            })
            .await;
            silo.crash();
        }
        let stored = rig.records_stored();
        assert!(stored < appended, "the kills came on the way: {stored} of {appended} records");
        let silo = rig.start_streaming(kinds(), TAKE, |config| config.batch_records_max = 2);
        eventually("all records are stored", || {
            silo.advance(millis(20));
            rig.records_stored() == appended
        })
        .await;
        silo.crash();
    }
    fill(&rig, 33..EVENTS);
    let silo = rig.start_streaming(kinds(), TAKE, |config| config.batch_records_max = 7);
    let expected: Vec<String> = (0..EVENTS).map(|i| format!("event {i}")).collect();
    for key in KEYS {
        until_seen(&silo, key, EVENTS).await;
        assert_eq!(seen(&silo, key).await, expected, "{key}: each record once, in order");
    }
    silo.stop().await;
    assert_eq!(rig.outputs_by_id("out"), undisturbed.outputs_by_id("out"));
}

/// Scenario 48 for alerts of grains: a record that is told again after a kill raises them under the ids they had.
#[tokio::test]
async fn an_alert_that_is_raised_again_has_the_id_it_had() {
    const EVENTS: usize = 10;
    for method in ["raise", "raise_slowly"] {
        let teller = Teller::new("Tally", method);
        let (undisturbed, rig) = (crate::rig(), crate::rig());
        fill(&undisturbed, 0..EVENTS);
        fill(&rig, 0..EVENTS);
        for death in 0..3 {
            let plant = |faults: &Faults| {
                faults.cut_off_after(1 + death);
                if death == 1 {
                    faults.next_commits([Fault::AnswerLost]);
                }
            };
            let silo = rig.start_doomed(kinds(), teller, plant, |config| config.batch_records_max = 1);
            eventually("its last commit is stored", || {
                silo.advance(millis(20));
                silo.faults.is_cut_off()
            })
            .await;
            silo.crash();
        }
        assert!(rig.records_stored() < EVENTS * KEYS.len(), "{method}: the kills came on the way");
        for rig in [&undisturbed, &rig] {
            let silo = rig.start_streaming(kinds(), teller, |config| config.batch_records_max = 7);
            for key in KEYS {
                until_seen(&silo, key, EVENTS).await;
            }
            silo.stop().await;
        }
        let alerts = rig.outputs_by_id("alerts");
        assert_eq!(alerts, undisturbed.outputs_by_id("alerts"), "{method}");
        assert_eq!(alerts.len(), 2 * EVENTS * KEYS.len(), "{method}");
        assert!(alerts.windows(2).all(|two| two[0].0 != two[1].0), "{method}: ids differ");
        for (id, alert) in alerts {
            assert!(
                alert.contains(&format!(r#""id":"{id}""#)) && alert.contains("grain.alert.raised"),
                "{alert}"
            );
        }
    }
}

/// The store cannot be read while a record's grain wakes: nobody's fault, so nothing is poisoned.
#[tokio::test]
async fn a_store_that_cannot_be_read_poisons_nothing() {
    let rig = crate::rig();
    let silo = rig.start_streaming(kinds(), TAKE, |_| {});
    assert_eq!(seen(&silo, "warm").await, Vec::<String>::new());
    for round in 0..4 {
        silo.faults.next_reads(2);
        let key = format!("k-{round}");
        rig.append(&key, "event");
        silo.handle.look();
        eventually("the reads fail", || {
            silo.advance(millis(20));
            silo.faults.are_spent()
        })
        .await;
        until_seen(&silo, &key, 1).await;
    }
    silo.stop().await;
    assert_eq!(rig.outputs("poisoned"), Vec::<String>::new());
    assert_eq!(rig.outputs("out").len(), 8, "each record once");
}

/// Scenario 50: the grain that is told has left memory again and again; the next record finds it, and nothing is missed.
#[tokio::test]
async fn a_grain_that_has_left_memory_is_told_the_next_record() {
    let rig = crate::rig();
    let silo = rig.start_streaming(kinds(), TAKE, |_| {});
    let mut expected = Vec::new();
    for round in 0..4 {
        expected.push(format!("event {round}"));
        rig.append("k-1", &expected[round]);
        silo.handle.look();
        until_seen(&silo, "k-1", round + 1).await;
        assert_eq!(seen(&silo, "k-1").await, expected);
        let left = silo.stats().deactivated;
        for _ in 0..18 {
            silo.advance(mins(1));
            settle(&silo).await;
        }
        eventually("the idle grain has left", || silo.stats().deactivated > left).await;
    }
    silo.stop().await;
}

/// A record's turn and its in-slot calls are one commit, and calls from outside do not part them.
#[tokio::test]
async fn a_record_and_what_it_calls_are_one_commit() {
    let rig = crate::rig();
    let silo = rig.start_streaming(kinds(), Teller::new("Tally", "take_with_help"), |config| {
        config.batch_records_max = 1;
    });
    assert_eq!(seen(&silo, "k-1").await, Vec::<String>::new());
    for i in 0..30 {
        rig.append("k-1", &format!("event {i}"));
    }
    silo.handle.look();
    let noise = async {
        for _ in 0..200 {
            let _ = answer(silo.handle.grain::<Counter>(granary_core::Key::parse("k-1/noise")).add(1)).await;
        }
    };
    noise.await;
    until_seen(&silo, "k-1", 30).await;
    for commit in silo.faults.commits_with("g/Tally/k-1") {
        assert_eq!(commit, ["g/Tally/k-1", "g/Tally/k-1/helper"]);
    }
    silo.stop().await;
}
