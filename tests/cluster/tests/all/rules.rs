//! Rules on three silos: the alerts on the topic are those of the sample, from any number of partitions, in any order that
//! the lateness allows, and when a silo is killed in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::Value;

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::{PATIENCE, topics};

use super::kills::Draw;

const SILOS: usize = 3;
/// Payments written in one step.
const STEP_PAYMENTS: usize = 5_000;
/// How late payments arrive at most; the rules allow twelve hours.
const LATE_MS: u64 = 11 * 3_600_000;

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sample(name: &str) -> Vec<BTreeMap<String, String>> {
    let path = root().join("tests/data/fraud-sample").join(name);
    let table = csv::Reader::from_reader(GzDecoder::new(fs::File::open(path).unwrap()));
    table.into_deserialize().map(Result::unwrap).collect()
}

/// The alerts of all card rules without cooldowns: rule and payment.
pub(super) fn expected() -> BTreeSet<(String, String)> {
    let rules =
        ["amount_gt_900", "count_1h_gt_3", "sum_30m_gt_1000", "sum_24h_gt_3000", "distinct_vendors_1h_gt_3"];
    let others = ["amount_gt_4x_mean20", "zscore20_gt_5", "geo_900kmh", "small_then_large_strict_1h"];
    let rules = rules.iter().chain(&others).chain(&["small_then_large_relaxed_6h", "silence_3d"]);
    let of = |rule: &&str| {
        let rows = sample(&format!("expected/{rule}.csv.gz"));
        rows.into_iter().map(|row| ((*rule).to_owned(), row["tx_id"].clone())).collect::<Vec<_>>()
    };
    rules.flat_map(of).collect()
}

/// Customer and record of each payment, in an order of arrival.
pub(super) fn payments(shuffled_by: u64) -> Vec<(String, String)> {
    let mut draw = Draw(11);
    let mut arrivals: Vec<(u64, String, String)> = sample("cards.csv.gz")
        .into_iter()
        .map(|row| {
            let (cents, seconds): (u64, u64) = (row["amount_cents"].parse().unwrap(), row["ts"].parse().unwrap());
            let record = format!(
                r#"{{"transaction_id":"{}","customer_id":"{}","vendor_id":"{}","amount":{}.{:02},"ts":{seconds}000,"lat":{},"lon":{},"category":"{}"}}"#,
                row["tx_id"], row["customer"], row["vendor"], cents / 100, cents % 100, row["lat"], row["lon"], row["category"]
            );
            let late = if shuffled_by == 0 { 0 } else { draw.below(shuffled_by) };
            (seconds * 1_000 + late, row["customer"].clone(), record)
        })
        .collect();
    arrivals.sort_by_key(|(at, ..)| *at);
    arrivals.into_iter().map(|(_, customer, record)| (customer, record)).collect()
}

/// A rig that runs the example with rules, without cooldowns.
pub(super) fn rig(partitions: u32, lateness: &str) -> Rig {
    let rig = Rig::with(Setup { partitions, ..Setup::default() });
    let example = |name: &str| fs::read_to_string(root().join("deploy/examples/fraud").join(name)).unwrap();
    let pipeline =
        example("pipeline.yaml").replace("topic: transactions\n", &format!("topic: {}\n", rig.input));
    let rules = example("rules.yaml").replace("cooldown: 1h", "cooldown: 0s");
    let rules = rules.replace("lateness: 60s", &format!("lateness: {lateness}"));
    fs::write(rig.directory.path().join("pipeline.yaml"), pipeline).unwrap();
    fs::write(rig.directory.path().join("rules.yaml"), rules).unwrap();
    rig
}

/// Writes payments, and is called between steps.
pub(super) fn write(rig: &Rig, payments: &[(String, String)], mut between: impl FnMut(usize)) {
    for (step, some) in payments.chunks(STEP_PAYMENTS).enumerate() {
        topics::write(rig, &rig.input, some);
        between(step);
    }
}

/// The alerts that stand, and how often one was withdrawn. None is there twice.
fn alerts(rig: &Rig) -> (BTreeSet<(String, String)>, usize) {
    let topic = format!("granary.{}.alerts", rig.cluster);
    let (mut standing, mut withdrawn, mut ids) = (BTreeSet::new(), 0, BTreeMap::new());
    for row in Published::read(rig.kafka.brokers(), &topic).rows {
        let alert: Value = serde_json::from_slice(&row.value).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!(text(&alert["id"]), row.id);
        let name = (text(&alert["data"]["rule"]["id"]), text(&alert["causationid"]));
        if alert["type"] == "fraud.alert.raised" {
            let known = ids.insert(row.id.clone(), name.clone());
            assert!(known.is_none_or(|known| known == name), "one id, one alert: {}", row.id);
            assert!(standing.insert(name), "raised twice: {alert}");
        } else {
            withdrawn += 1;
            assert!(standing.remove(&name), "withdrawn and not raised: {alert}");
        }
    }
    (standing, withdrawn)
}

#[track_caller]
fn is_exact(partitions: u32, shuffled_by: u64, kills: bool) {
    let rig = rig(partitions, if shuffled_by == 0 { "60s" } else { "12h" });
    let mut silos = Several::start(&rig, SILOS);
    silos.until_settled();
    write(&rig, &payments(shuffled_by), |step| match step {
        6 if kills => silos.kill(1),
        12 if kills => silos.begin(1),
        _ => {}
    });
    let expected = expected();
    let began = Instant::now();
    while alerts(&rig).0 != expected && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
    }
    let (standing, withdrawn) = alerts(&rig);
    let missing: Vec<_> = expected.difference(&standing).take(10).collect();
    let wrong: Vec<_> = standing.difference(&expected).take(10).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "{} of {} alerts stand, {withdrawn} were withdrawn; missing {missing:?}; wrong {wrong:?}",
        standing.len(),
        expected.len()
    );
    silos.stop_all();
    let (standing, withdrawn) = alerts(&rig);
    assert_eq!(standing, expected);
    assert_eq!(withdrawn > 0, shuffled_by > 0, "{withdrawn} alerts were withdrawn");
}

#[test]
fn alerts_are_exact_from_one_partition() {
    is_exact(1, 0, false);
}

#[test]
fn alerts_are_exact_from_four_partitions_shuffled_within_the_lateness() {
    is_exact(4, LATE_MS, false);
}

#[test]
fn alerts_are_exact_from_twelve_partitions_shuffled_with_a_silo_killed_in_the_middle() {
    is_exact(12, LATE_MS, true);
}
