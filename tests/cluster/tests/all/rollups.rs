//! Totals over the rows of windows on three silos: those of the rows, each told once, when a silo is killed in the middle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::PATIENCE;
use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup, inject_to};
use granary_cluster_tests::kit::several::Several;
use granary_harness::unique;
use serde_json::{Value, json};

const STEPS: &str = "  categories:
    from: totals
    key: category
    allowed_lateness: forever
    aggregates: {devices: count(), count: sum(count), m1_sum: sum(m1_sum), m1_max: max(m1_max)}
  greatest:
    from: totals
    key: none
    rank: {by: m1_sum, n: 3, ties: all, show: [device, category, m1_sum]}
    allowed_lateness: forever
  all:
    from: categories
    key: none
    allowed_lateness: forever
    aggregates: {categories: count(), m1_sum: sum(m1_sum)}
sinks:
";

/// By window and key what stands.
type Rows = BTreeMap<(i64, String), Value>;

fn number(row: &Value, name: &str) -> i64 {
    row[name].as_i64().unwrap_or_else(|| panic!("{name} of {row}"))
}

/// The last rows of a topic; each was told once, and revisions come in order.
fn told(rig: &Rig, topic: &str, key: &str) -> Rows {
    let published = Published::read(rig.kafka.brokers(), topic);
    published.must_be_once();
    let rows = published.last_rows();
    let rows = rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows = rows.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    rows.map(|mut row| {
        let of = (number(&row, "window_start"), row[key].as_str().unwrap().to_owned());
        let members = row.as_object_mut().unwrap();
        ["window_start", "window_end", key, "revision", "reason"].iter().for_each(|name| {
            members.remove(*name);
        });
        (of, row)
    })
    .collect()
}

/// What a loop over the rows of windows gives.
fn expected(totals: &[Value]) -> [Rows; 3] {
    let (mut categories, mut greatest, mut all) = (Rows::new(), Rows::new(), Rows::new());
    let mut by_window: BTreeMap<i64, Vec<&Value>> = BTreeMap::new();
    for row in totals {
        by_window.entry(number(row, "window_start")).or_default().push(row);
    }
    for (start, mut rows) in by_window {
        let mut by_category: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for row in &rows {
            by_category.entry(row["category"].as_str().unwrap()).or_default().push(row);
        }
        let sum = |rows: &[&Value], name| rows.iter().map(|row| number(row, name)).sum::<i64>();
        for (category, rows) in &by_category {
            let most = rows.iter().map(|row| number(row, "m1_max")).max();
            let row = json!({"devices": rows.len(), "count": sum(rows, "count"), "m1_sum": sum(rows, "m1_sum"),
                "m1_max": most});
            categories.insert((start, (*category).to_owned()), row);
        }
        let row = json!({"categories": by_category.len(), "m1_sum": sum(&rows, "m1_sum")});
        all.insert((start, "all".to_owned()), row);
        let name = |row: &Value| (row["device"].to_string(), row["category"].to_string());
        rows.sort_by_key(|row| (-number(row, "m1_sum"), name(row)));
        let last = rows.get(2).map_or(i64::MIN, |row| number(row, "m1_sum"));
        let shown =
            rows.iter().enumerate().filter(|(place, row)| *place < 3 || number(row, "m1_sum") == last);
        let shown: Vec<Value> = shown
            .map(|(_, row)| json!({"device": row["device"], "category": row["category"], "m1_sum": row["m1_sum"]}))
            .collect();
        greatest.insert((start, "all".to_owned()), json!({"top": shown}));
    }
    [categories, greatest, all]
}

#[test]
fn totals_of_all_devices_are_exact_when_a_silo_is_killed() {
    let topics = ["categories", "greatest", "all"].map(unique);
    let sinks = ["categories", "greatest", "all"].iter().zip(&topics);
    let sinks: String =
        sinks.map(|(name, topic)| format!("  {name}: {{from: {name}, topic: {topic}}}\n")).collect();
    let pipeline =
        vec![("idle_after: 10s", "idle_after: 1s".into()), ("sinks:\n", format!("{STEPS}{sinks}"))];
    let rig = Rig::with(Setup { partitions: 4, pipeline, ..Setup::default() });
    let mut silos = Several::start(&rig, 3);
    silos.until_settled();
    let options = rig.load(40, 60);
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2, |step| match step {
        3 => silos.kill(1),
        7 => silos.begin(1),
        _ => std::thread::sleep(Duration::from_millis(150)),
    });
    rig.until_right(&options);
    let lines = rig.published().last_rows();
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let totals: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    let expected = expected(&totals);
    let all_told = || -> [Rows; 3] {
        [(0, "category"), (1, "key"), (2, "key")].map(|(topic, key)| told(&rig, &topics[topic], key))
    };
    let began = Instant::now();
    while all_told() != expected && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
    }
    silos.stop_all();
    for ((told, expected), name) in all_told().iter().zip(&expected).zip(["categories", "greatest", "all"]) {
        let wrong: Vec<_> = expected.iter().filter(|(of, row)| told.get(*of) != Some(*row)).take(3).collect();
        let found: Vec<_> = wrong.iter().map(|(of, _)| told.get(*of)).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?} expected, {found:?} told");
        assert_eq!(told.len(), expected.len(), "{name}");
    }
    rig.must_be_right(&options);
}
