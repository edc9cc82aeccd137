//! Sketches in every sort of window, against the values themselves, which the same rows list.

use granary_streams::{Plan, file};
use granary_truth_tests::{Draw, Input, run};
use serde_json::{Value, json};

const PIPELINE: &str = "
pipeline: visits
sources:
  visits:
    topic: visits
    decode:
      format: json
      fields:
        id:      {type: text}
        site:    {type: text}
        at:      {type: time_ms}
        visitor: {type: integer}
        took:    {type: double}
    id: id
    key: site
    event_time: at
    watermark: {per: key, out_of_orderness: 8s}
steps:
  traffic:
    from: visits
    allowed_lateness: 1m
    WINDOW
    aggregates:
      exact: distinct(visitor)
      about: approx_distinct(visitor)
      all: ids(took)
      least: quantile(took, 0)
      median: quantile(took, 0.5)
      most: quantile(took, 0.95)
      finer: quantile(took, 0.95, 0.001)
sinks:
  traffic: {from: traffic, topic: traffic}
";

fn plan(window: &str) -> Plan {
    file::parse(&PIPELINE.replace("WINDOW", window)).unwrap_or_else(|mistakes| panic!("{window}: {mistakes}"))
}

/// Visits of three sites, some of them out of order; what they took may be negative.
fn visits(seed: u64) -> Vec<Input> {
    let mut draw = Draw(seed);
    let mut visits = Vec::new();
    for i in 0..6_000u64 {
        let site = format!("site-{}", draw.below(3));
        let at = i * 1_000 + 20_000 - draw.below(15) * draw.below(1_000);
        let took = 1.1f64.powi(draw.below(150) as i32 - 40) - if draw.below(9) == 0 { 3.0 } else { 0.0 };
        let visitor = draw.below(4_000) as i64 - 2_000;
        let value = json!({"id": format!("v{i}"), "site": site, "at": at, "visitor": visitor, "took": took});
        visits.push(Input { appended_at: at as i64, value: value.to_string().into_bytes() });
    }
    visits
}

fn check(row: &Value, window: &str) -> u64 {
    let double = |value: &Value| value.as_f64().expect("a number");
    let number = |name: &str| double(&row[name]);
    let all: Vec<f64> = row["all"].as_array().expect("a list").iter().map(double).collect();
    let quantiles = [("least", 0.0, 0), ("median", 0.01, 500), ("most", 0.01, 950), ("finer", 0.001, 950)];
    for (name, accuracy, q_ppt) in quantiles {
        let exact = all[(all.len() - 1) * q_ppt / 1_000];
        let found = number(name);
        assert!(
            (found - exact).abs() <= accuracy * exact.abs() * 1.000_000_1,
            "{window}: {name} {found} for {exact}"
        );
    }
    let (exact, about) = (number("exact"), number("about"));
    let allowed = if exact <= 512.0 { 0.0 } else { 0.06 * exact };
    assert!((about - exact).abs() <= allowed, "{window}: {about} for {exact}");
    exact as u64
}

#[test]
fn sketches_are_near_the_truth_in_every_window() {
    let visits = visits(1);
    for (window, most) in [
        ("window: {type: tumbling, size: 45m}", 600),
        ("window: {type: tumbling, size: 30m}\n    accumulation: retracting", 500),
        ("window: {type: tumbling, size: 50m}\n    accumulation: discarding\n    early: {count: 100}", 90),
        ("window: {type: hopping, size: 50m, slide: 25m}", 600),
        ("window: {type: cumulate, size: 1h, step: 30m}", 700),
        ("window: {type: session, gap: 12s}", 20),
        ("window: {type: session, gap: 2m}\n    emit: final", 1_300),
        ("window: {type: sliding, difference: 30s}", 10),
        ("window: {type: count, size: 900, slide: 300}", 700),
        ("window: {type: global}", 1_300),
    ] {
        let driver = run(plan(window), &visits, 0);
        assert!(
            driver.counts().is_balanced() && driver.counts().rejected == 0,
            "{window}: {:?}",
            driver.counts()
        );
        let rows: Vec<&str> = driver.stream("traffic").iter().map(|sent| sent.value.as_str()).collect();
        let greatest = rows
            .iter()
            .map(|row| serde_json::from_str::<Value>(row).unwrap())
            .filter(|row| row["reason"] != "delete" && !row["exact"].is_null())
            .map(|row| check(&row, window))
            .max();
        assert!(greatest.is_some_and(|n| n >= most), "{window}: at most {greatest:?} values of a window");
        for seed in [1, 2] {
            let again = run(plan(window), &visits, seed);
            let again: Vec<&str> = again.stream("traffic").iter().map(|sent| sent.value.as_str()).collect();
            let sorted = |rows: &[&str]| {
                let mut rows = rows.iter().map(ToString::to_string).collect::<Vec<_>>();
                rows.sort();
                rows
            };
            assert_eq!(sorted(&again), sorted(&rows), "{window}: with commits and crashes of seed {seed}");
        }
    }
}
