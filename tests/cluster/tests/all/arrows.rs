//! The silo dies at each arrow of a commit and of a publication; a successor goes on.

use granary_cluster_tests::kit::load::{self, Calls};
use granary_cluster_tests::kit::rig::{Partitioning, Rig};
use granary_cluster_tests::kit::silo::Silo;

/// The silo dies at each of these points in turn, under load and calls. Whoever comes after the last one finishes.
#[track_caller]
fn dies_at(points: &[&str]) {
    let rig = Rig::new();
    let options = rig.load(30, 40 * points.len() as u32);
    let calls = Calls::begin(&rig);
    let mut silo = None;
    let mut left = points.iter();
    let mut deaths = 0;
    std::thread::scope(|scope| {
        let (rig, options) = (&rig, &options);
        let writer = scope.spawn(move || {
            rig.inject_as(options, Partitioning::Murmur2, |_| {
                std::thread::sleep(std::time::Duration::from_millis(150));
            });
        });
        for point in left.by_ref() {
            Silo::start(rig, point).until_ended();
            deaths += 1;
        }
        silo = Some(rig.silo());
        writer.join().unwrap();
    });
    assert_eq!(deaths, points.len());
    rig.until_right(&options);
    let acknowledged = calls.end();
    assert!(acknowledged > 0, "calls were answered");
    assert_eq!(load::total(&rig), acknowledged, "every acknowledged call counts once");
    silo.unwrap().stop();
    rig.must_be_right(&options);
}

/// Fault 1.
#[test]
fn killed_after_fetch_before_commit() {
    dies_at(&["fetch.after", "apply.after=300", "seal.after=20", "commit.before=20"]);
}

/// Fault 2.
#[test]
fn killed_between_commit_and_reply() {
    dies_at(&["commit.after=20", "reply.before=40"]);
}

/// Fault 3.
#[test]
fn killed_after_commit_before_transaction() {
    dies_at(&["reply.after=40", "begin.before", "begin.before=4"]);
}

/// Fault 4.
#[test]
fn killed_inside_the_transaction() {
    dies_at(&["begin.after=3", "send.after=3", "markers.before=2", "markers.after=3", "end.before=3"]);
}

/// Fault 5.
#[test]
fn killed_after_the_transaction_before_trim() {
    dies_at(&["end.after=2", "trim.before", "trim.after=3"]);
}

/// Fault 6.
#[test]
fn outcome_of_a_transaction_unknown() {
    let rig = Rig::new();
    let options = rig.load(30, 60);
    let mut silo = Silo::start(&rig, "end.after=2:err,end.before=4:err,markers.after=6:err");
    silo.until_ready();
    rig.inject_as(&options, Partitioning::Murmur2, |_| {
        std::thread::sleep(std::time::Duration::from_millis(150));
    });
    rig.until_right(&options);
    assert!(silo.metric("granary_transactions_lost_total").unwrap() > 0.0, "an outcome was unknown");
    silo.stop();
    rig.must_be_right(&options);
}
