//! A called window says what its sink's last row says: open, due and closed, before and after a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use granary::client::{Client, NewRecord, Start};
use serde_json::{Value, json};

use crate::kit::{self, Silo};

/// What does not come within this time, though nothing is wanting, does not come.
const QUIET: Duration = Duration::from_millis(1_500);

/// The windows of the device, by the start of each.
const STARTS: [(u64, &str); 3] =
    [(1_690_000_000_000, "closed"), (1_690_000_015_000, "due"), (1_690_000_020_000, "open")];

fn event(id: &str, at: u64, m1: i64) -> String {
    json!({"id": id, "di": "d-7", "dt": at.to_string(), "c": "cat-1", "m1": m1, "m2": 0.5}).to_string()
}

async fn produce(client: &Client, events: &[String]) {
    let records: Vec<_> =
        events.iter().map(|event| NewRecord { key: Some(b"d-7"), value: event.as_bytes() }).collect();
    client.produce("boontadata", &records).await.expect("the records are written");
}

/// The last row of each window, by its start, and how many rows there were, once they are what is waited for and no
/// more come.
async fn rows(
    silo: &Silo,
    are_there: impl Fn(&BTreeMap<u64, Value>, usize) -> bool,
) -> (BTreeMap<u64, Value>, usize) {
    let client = Client::connect(&silo.address).await.expect("a connection");
    let mut tail = client.tail("aggregates", Start::Earliest).await.expect("a tail");
    let (mut last, mut count) = (BTreeMap::new(), 0);
    loop {
        let patience = if are_there(&last, count) { QUIET } else { kit::PATIENCE };
        let Ok(record) = tokio::time::timeout(patience, tail.next()).await else {
            assert!(patience == QUIET, "the rows did not come: {last:?}");
            return (last, count);
        };
        let record = record.expect("the tail goes on").expect("a record");
        let row: Value = serde_json::from_slice(&record.value).expect("a row in JSON");
        last.insert(row["window_start"].as_u64().expect("a start"), row);
        count += 1;
    }
}

/// Whether the window of this start counts so many.
fn counts(rows: &BTreeMap<u64, Value>, start: u64, count: u64) -> bool {
    rows.get(&start).is_some_and(|row| row["count"] == json!(count))
}

#[track_caller]
fn assert_calls_equal_rows(silo: &Silo, rows: &BTreeMap<u64, Value>) {
    for (start, state) in STARTS {
        let answer = silo.call(&[&format!("Window/d-7/cat-1/totals/{start}"), "get"]);
        assert_eq!(answer["state"], json!(state), "{answer}");
        assert_eq!(answer["watermark"], json!(1_690_000_022_000_u64 - 1), "{answer}");
        let row = rows.get(&start).unwrap_or_else(|| panic!("no row of {start}"));
        for (name, value) in row.as_object().expect("a flat row") {
            assert_eq!(answer.get(name), Some(value), "{name} of the {state} window: {answer} and {row}");
        }
    }
}

#[tokio::test]
async fn a_called_window_equals_its_row_open_due_and_closed_before_and_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = kit::boontadata()
        .replace("idle_after: 10s", "idle_after: none")
        .replace("allowed_lateness: forever", "allowed_lateness: 6s\n    keep: 1h")
        .replace("emit: watermark", "emit: every_update");
    let configuration = kit::configuration(directory.path(), Some(&pipeline));
    let silo = Silo::start(&configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    let events = [
        event("a", 1_690_000_001_000, 14),
        event("b", 1_690_000_002_000, 26),
        event("a", 1_690_000_001_000, 14),
        event("c", 1_690_000_016_000, 5),
        event("d", 1_690_000_017_000, 6),
        event("e", 1_690_000_022_000, 7),
        event("f", 1_690_000_018_000, 8),
    ];
    produce(&client, &events).await;
    let is_due_full = |rows: &BTreeMap<u64, Value>, _: usize| rows.len() >= 3 && counts(rows, STARTS[1].0, 3);
    let (before, _) = rows(&silo, is_due_full).await;
    assert_eq!(before.len(), 3, "{before:?}");
    assert_eq!((&before[&STARTS[1].0]["count"], &before[&STARTS[1].0]["m1_sum"]), (&json!(3), &json!(19)));
    assert_calls_equal_rows(&silo, &before);

    silo.kill();
    let silo = Silo::start(&configuration);
    assert_calls_equal_rows(&silo, &before);
    let client = Client::connect(&silo.address).await.expect("a connection");
    produce(&client, &[event("g", 1_690_000_021_000, 9), event("e", 1_690_000_022_000, 7)]).await;
    let (after, count) = rows(&silo, |rows, _| counts(rows, STARTS[2].0, 2)).await;
    assert_eq!((&after[&STARTS[2].0]["count"], &after[&STARTS[2].0]["m1_sum"]), (&json!(2), &json!(16)));
    assert_calls_equal_rows(&silo, &after);

    silo.kill();
    let silo = Silo::start(&configuration);
    assert_calls_equal_rows(&silo, &after);
    let again = rows(&silo, |_, so_far| so_far >= count).await;
    assert_eq!(again, (after, count), "no row was written again");
    assert_eq!(silo.stop(), Some(0));
}
