//! Streams: what grains emit and listen to, and pipelines over several silos.

use granary::prelude::*;
use granary_testkit::TestCluster;
use serde_json::Value;

use crate::kinds::Tally;
use crate::three;

#[derive(Serialize, Deserialize)]
struct Reading {
    id: u64,
    device: String,
    at: i64,
}

fn counts() -> std::result::Result<Plan, impl std::fmt::Display> {
    Stream::<Reading>::topic("readings")
        .event_time(|r| r.at)
        .dedupe_by(|r| r.id)
        .idle_after(secs(30))
        .key_by(|r| &r.device)
        .window(Tumbling::of(secs(5)))
        .named("counts")
        .count()
        .to_topic("device-counts")
        .plan()
}

const FILE: &str = "
pipeline: file
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields:
        id:     {type: integer}
        device: {type: text}
        at:     {type: time_ms}
    key: device
    event_time: at
    watermark: {out_of_orderness: 0s, idle_after: 30s}
steps:
  counts:
    from: readings
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    aggregates: {n: count()}
sinks:
  results: {from: counts, topic: device-counts}
";

/// Twenty devices, each with three readings in every window of `windows`, each of them sent twice.
fn push_windows(cluster: &TestCluster, windows: std::ops::Range<i64>) {
    for window in windows {
        for device in 0..20 {
            for n in 0..3 {
                let id = (window * 100 + device * 4 + n) as u64;
                let reading = Reading { id, device: format!("d-{device}"), at: window * 5_000 + n };
                cluster.push("readings", &reading.device, &reading).unwrap();
                cluster.push("readings", &reading.device, &reading).unwrap();
            }
        }
    }
}

/// Rows by window and device; each there once, each with the same count.
fn check_rows(cluster: &TestCluster, rows: usize, count: u64) {
    let records = cluster.records("device-counts").unwrap();
    let mut ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((records.len(), ids.len()), (rows, rows), "every row once");
    for row in cluster.stream::<Value>("device-counts").unwrap() {
        let held = row.as_object().unwrap().values().any(|value| value.as_u64() == Some(count));
        assert!(held, "three readings, each sent twice: {row}");
    }
}

#[tokio::test]
async fn a_pipeline_counts_exactly_over_three_silos_one_of_which_is_killed() {
    let cluster = TestCluster::builder().silos(3).pipeline(counts()).start().await.unwrap();
    push_windows(&cluster, 0..4);
    cluster.settle().await.unwrap();
    cluster.kill("silo-3").await.unwrap();
    push_windows(&cluster, 4..8);
    cluster.settle().await.unwrap();
    check_rows(&cluster, 7 * 20, 3);
    cluster.advance(mins(1)).await.unwrap(); // silence closes the last windows
    check_rows(&cluster, 8 * 20, 3);
}

#[tokio::test]
async fn a_pipeline_file_runs_and_what_it_cannot_read_is_rejected() {
    let cluster = TestCluster::builder().silos(2).pipeline_file(FILE).start().await.unwrap();
    push_windows(&cluster, 0..2);
    cluster.push_bytes("readings", "d-1", b"not JSON").unwrap();
    cluster.settle().await.unwrap();
    check_rows(&cluster, 20, 3);
    assert_eq!(cluster.records("rejected").unwrap().len(), 1);
    let wrong = TestCluster::builder().pipeline_file("pipeline: x\nsources: 3\n").start().await;
    assert!(wrong.is_err());
}

#[tokio::test]
async fn what_grains_emit_is_read_back_and_what_they_listen_to_reaches_them() {
    let cluster = three().await;
    for (key, by) in [("a", 2), ("b", 3), ("a", 4)] {
        cluster.push("additions", key, &by).unwrap();
    }
    cluster.settle().await.unwrap();
    assert_eq!(cluster.grain::<Tally>("a").n().await, Ok(6));
    assert_eq!(cluster.grain::<Tally>("b").n().await, Ok(3));
    cluster.grain::<Tally>("a").tell().await.unwrap();
    assert_eq!(cluster.stream::<u64>("tallies").unwrap(), [6]);
    let alerts = cluster.records("alerts").unwrap();
    assert_eq!((alerts.len(), alerts[0].key.as_str(), alerts[0].at), (1, "a", cluster.now()));
    let alert: Value = alerts[0].decode().unwrap();
    assert_eq!(alert["id"], alerts[0].id.as_str());
    assert_eq!((&alert["type"], &alert["subject"]), (&"grain.alert.raised".into(), &"Tally/a".into()));
    assert_eq!((&alert["data"]["rule"]["id"], &alert["data"]["detail"]), (&"tally.told".into(), &6.into()));
}
