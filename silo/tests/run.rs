//! A pipeline over files: what stands in the files of its results.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

use std::collections::BTreeSet;
use std::path::Path;

use granary::run::{Options, run};
use granary_store::Durability;

/// Rows of a pattern, of a join and of a filter have no revisions, and windows have.
const PIPELINE: &str = "
pipeline: named
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields: {id: {type: text}, room: {type: text}, at: {type: time_ms}, m: {type: integer}, reason: {type: text}}
    id: id
    key: room
    event_time: at
    watermark: {out_of_orderness: 0s}
steps:
  low: {from: readings, filter: m < 10}
  high: {from: readings, filter: m >= 10}
  rising: {from: readings, pattern: {stages: [{name: low, when: m < 10}, {name: high, when: m >= 10}]}}
  beside: {join: {left: low, right: high, window: 1h, fields: {left: [id], right: [id]}}}
  hours: {from: readings, window: {type: tumbling, size: 1h}, aggregates: {readings: count()}}
sinks:
  lows: {from: low, topic: lows}
  risen: {from: rising, topic: risen}
  pairs: {from: beside, topic: pairs}
  hours: {from: hours, topic: hours}
";

async fn lines(directory: &Path, records: &str) -> impl Fn(&str) -> Vec<String> {
    let input = directory.join("readings.jsonl");
    std::fs::write(&input, records).unwrap();
    let out = directory.join("out");
    let options = Options {
        plan: granary_streams::file::parse(PIPELINE).unwrap_or_else(|mistakes| panic!("{mistakes}")),
        inputs: vec![input.display().to_string()],
        out: out.clone(),
        changes: false,
        verdicts: false,
        lanes: 1,
        batch_records_max: usize::MAX,
        durability: Durability::Everysec,
        kinds: vec![],
        turn_max: None,
    };
    let counts = run(options, |_| {}).await.unwrap();
    assert!(counts.is_balanced() && counts.rejected == 0, "{counts:?}");
    move |sink| {
        let text = std::fs::read_to_string(out.join(format!("{sink}.jsonl"))).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn rows_of_keys_with_a_number_sign_and_rows_that_end_like_a_deletion_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = String::new();
    for room in ["a", "a#1", "a#2", "a#2#3"] {
        for (id, m) in [("low", 1), ("high", 20)] {
            records += &format!(
                "{{\"id\":\"{id}-{room}\",\"room\":\"{room}\",\"at\":{m},\"m\":{m},\"reason\":\"delete\"}}\n"
            );
        }
    }
    let lines = lines(directory.path(), &records).await;
    for sink in ["lows", "risen", "pairs", "hours"] {
        let rows = lines(sink);
        assert_eq!(rows.len(), 4, "{sink}: a row of each room: {rows:#?}");
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), 4, "{sink}: {rows:#?}");
    }
}
