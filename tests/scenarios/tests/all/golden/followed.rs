//! What patterns and joins have stored.

use super::{Forms, Rig, append_of, eventually, millis, read, streaming};

pub const PATTERNS: Forms = ("patterns.txt", "3");
pub const JOINS: Forms = ("joins.txt", "3");

/// Loops, an absence in the middle and one at the end, conditions on two events, timeouts.
const MATCHING: &str = "
  rising:
    from: readings
    dedup: {by: id}
    pattern:
      within: 1h
      skip: past_last
      timeouts: true
      stages:
        - {name: low, when: m < 0, times: 1..2}
        - {absent: true, when: m == 0}
        - {name: high, when: m > 0 && x > low.x}
      fields: [m, x]
  calm:
    from: readings
    pattern:
      within: 10s
      stages:
        - {name: high, when: m > 5}
        - {absent: true, when: m < 0}
sinks:
  out: {from: rising, topic: out}
  second: {from: calm, topic: poisoned}
";

/// A join of every sort, of two parts of one topic.
const JOINING: &str = "
  low: {from: readings, filter: m < 0}
  high: {from: readings, filter: m >= 0}
  near:
    join:
      left: low
      right: high
      interval: {lower: -1s, upper: 2s}
      type: outer
      fields: {left: [id, m], right: [id, x]}
      dedup: {left: id, right: id}
  beside:
    join: {left: low, right: high, window: 5s, type: left, fields: {left: [id], right: [id]}}
  valid:
    join: {left: low, right: high, version: true, type: left, deleted: m == 0, fields: {left: [id], right: [x]}}
sinks:
  out: {from: near, topic: out}
  second: {from: beside, topic: poisoned}
  third: {from: valid, topic: alerts}
";

/// A key with few events, some of which wait for the watermark, and one with more than a chunk has room for.
pub async fn store_patterns(rig: &Rig) {
    let silo = streaming(rig, MATCHING);
    append_of(rig, "few", "a", 1_000, -4, 0.5);
    append_of(rig, "few", "b", 2_000, -9, 1.0);
    append_of(rig, "few", "c", 6_500, 7, -1.0);
    append_of(rig, "still", "a", 5_000, 8, -1.0);
    for n in 0..70 {
        append_of(rig, "many", &n.to_string(), 1_000 + n * 10, -1 - n, n as f64 / 4.0);
    }
    silo.handle.look();
    eventually("all is stored", || rig.records_stored() == 74).await;
    silo.stop().await;
}

/// The same for joins: some events have found a partner and some have not.
pub async fn store_joins(rig: &Rig) {
    let silo = streaming(rig, JOINING);
    append_of(rig, "few", "a", 1_000, -4, 0.5);
    append_of(rig, "few", "b", 2_000, 5, 1.0);
    append_of(rig, "few", "c", 4_500, 0, 1.5);
    append_of(rig, "few", "d", 4_600, -1, 2.0);
    append_of(rig, "still", "a", 5_000, -8, -1.0);
    for n in 0..70 {
        let m = if [20, 45, 68].contains(&n) { n } else { -1 - n };
        append_of(rig, "many", &n.to_string(), 1_000 + n * 100, m, n as f64 / 4.0);
    }
    silo.handle.look();
    eventually("all is stored", || rig.records_stored() == 75).await;
    silo.stop().await;
}

/// What comes of stored state when these events come, copies of stored ones among them, and then an hour passes.
async fn rows(rig: &Rig, pipeline: &str, streams: &[&str], copy_of_few: &str) -> String {
    let silo = streaming(rig, pipeline);
    for (device, copy) in [("few", copy_of_few), ("many", "69")] {
        append_of(rig, device, copy, 6_000, -9, 1.0);
        append_of(rig, device, "next", 6_900, 6, 17.0);
        append_of(rig, device, "low", 9_000, -6, 3.0);
    }
    for device in ["few", "many", "still"] {
        append_of(rig, device, "last", 3_700_000, 1, 0.25);
    }
    silo.handle.look();
    eventually("all is stored", || rig.records_stored() == 9).await;
    silo.advance(millis(1));
    silo.stop().await;
    let rows = streams.iter().flat_map(|stream| rig.outputs_by_id(stream));
    rows.map(|(id, row)| format!("{id} {row}\n")).collect()
}

#[tokio::test]
async fn patterns_of_every_version_are_read() {
    for (version, rig) in read(PATTERNS) {
        let found = rows(&rig, MATCHING, &["out", "poisoned"], "b").await;
        assert_eq!(found, include_str!("../../../../data/golden/patterns.expected"), "{version}");
    }
}

#[tokio::test]
async fn joins_of_every_version_are_read() {
    for (version, rig) in read(JOINS) {
        let found = rows(&rig, JOINING, &["out", "poisoned", "alerts"], "d").await;
        assert_eq!(found, include_str!("../../../../data/golden/joins.expected"), "{version}");
    }
}
