use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_store::Memory;
use serde_json::json;

use super::*;

const ASIDE: &str = "aside";

/// A log with ten records in partition 1 of `t`, of every second of which a row is set aside.
fn log() -> Arc<Memory> {
    let log = Memory::new(4, []);
    log.create("t", 2).unwrap();
    log.create(ASIDE, 2).unwrap();
    let mut records = Batch::default();
    for n in 0..10u64 {
        let key = format!("k{n}");
        records.push(0, Timestamp(0), (n > 0).then_some(key.as_bytes()), format!("value {n}").as_bytes());
    }
    log.append("t", 1, &records).unwrap();
    for n in (0..10u64).step_by(2) {
        set_aside(&log, n, json!({"topic": "t", "partition": 1, "offset": n, "reason": "late"}));
    }
    log
}

/// A row, in partition 0 or 1 by turns, set aside at the time `n`.
fn set_aside(log: &Memory, n: u64, row: serde_json::Value) {
    let mut rows = Batch::default();
    rows.push(0, Timestamp(n as i64), Some(b"key"), row.to_string().as_bytes());
    log.append(ASIDE, (n / 2 % 2) as u32, &rows).unwrap();
}

fn options() -> Options {
    Options {
        topic: ASIDE.into(),
        reason: None,
        since: None,
        after: BTreeMap::new(),
        most: u64::MAX,
        is_dry_run: false,
    }
}

fn run(log: &Memory, options: &Options) -> (Report, Vec<Place>) {
    let (mut report, mut gone) = (Report::default(), Vec::new());
    replay(log, options, &mut report, &mut |place| gone.push(place.clone())).unwrap();
    (report, gone)
}

/// Keys and values behind the first ten.
fn appended(log: &Memory) -> Vec<(Option<String>, String)> {
    let mut batch = Batch::default();
    if log.bounds("t", 1).unwrap().1 > 10 {
        log.read("t", 1, 10, usize::MAX, &mut batch).unwrap();
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    batch.iter(SourceId(0), 1).map(|r| (r.key.map(text), text(r.value))).collect()
}

fn record(n: u64) -> (Option<String>, String) {
    ((n > 0).then(|| format!("k{n}")), format!("value {n}"))
}

#[test]
fn originals_come_again_with_their_keys() {
    let log = log();
    let (report, gone) = run(&log, &options());
    assert_eq!((report.replayed, report.of_rows, report.gone, gone.len()), (5, 0, 0, 0));
    // those whose rows are in partition 0, then those in partition 1
    assert_eq!(appended(&log), [0, 4, 8, 2, 6].map(record));
    assert_eq!(report.after, BTreeMap::from([(0, 2), (1, 1)]));
    let (report, _) = run(&log, &Options { after: report.after, ..options() });
    assert_eq!(report.replayed, 0, "it goes on where it ended");
    assert_eq!(report.after, BTreeMap::from([(0, 2), (1, 1)]), "and says so again");
}

#[test]
fn a_dry_run_appends_nothing() {
    let log = log();
    let (report, _) = run(&log, &Options { is_dry_run: true, ..options() });
    assert_eq!((report.replayed, appended(&log).len()), (5, 0));
}

#[test]
fn some_at_a_time_are_all_in_the_end() {
    let log = log();
    let mut after = BTreeMap::new();
    for expected in [2, 2, 1, 0] {
        let (report, _) = run(&log, &Options { most: 2, after: after.clone(), ..options() });
        assert_eq!(report.replayed, expected);
        after = report.after;
    }
    assert_eq!(appended(&log), [0, 4, 8, 2, 6].map(record));
}

#[test]
fn only_what_is_asked_for_comes() {
    let log = log();
    set_aside(&log, 4, json!({"topic": "t", "partition": 1, "offset": 1, "reason": "future"}));
    let (report, _) = run(&log, &Options { reason: Some("future".into()), ..options() });
    assert_eq!((report.replayed, report.passed_over), (1, 5));
    assert_eq!(appended(&log), [record(1)]);
    set_aside(&log, 0, json!({"step": "alarms", "reason": "late", "event": {}}));
    let (report, _) = run(&log, &Options { since: Some(Timestamp(6)), is_dry_run: true, ..options() });
    assert_eq!((report.replayed, report.passed_over), (2, 5), "what no topic has had is passed over");
}

#[test]
fn what_the_topic_lost_comes_from_its_row_or_is_named() {
    let log = log();
    let raw = STANDARD.encode("lost");
    set_aside(&log, 0, json!({"topic": "t", "partition": 1, "offset": 77, "raw": raw}));
    set_aside(&log, 0, json!({"topic": "t", "partition": 1, "offset": 3, "raw": raw}));
    set_aside(&log, 0, json!({"topic": "t", "partition": 1, "offset": 78, "reason": "late"}));
    set_aside(&log, 0, json!({"topic": "no more", "partition": 0, "offset": 0, "raw": raw}));
    let (report, gone) = run(&log, &Options { after: BTreeMap::from([(0, 2), (1, 9)]), ..options() });
    assert_eq!((report.replayed, report.of_rows, report.gone), (2, 2, 2));
    let lost = (Some("key".to_string()), "lost".to_string());
    assert_eq!(appended(&log), [lost.clone(), lost], "another record at its offset is not the one");
    assert_eq!(gone.iter().map(|p| (&*p.topic, p.offset)).collect::<Vec<_>>(), [("no more", 0), ("t", 78)]);
}

#[test]
fn only_set_aside_streams_can_be_replayed() {
    let log = log();
    let mut report = Report::default();
    let of = |topic: &str| Options { topic: topic.into(), ..options() };
    let mut run = |topic| replay(&*log, &of(topic), &mut report, &mut |_| {}).unwrap_err().kind();
    assert_eq!((run("t"), run("there is none")), (ErrorKind::Codec, ErrorKind::NotFound));
}
