//! The injector against its own promises.

use std::collections::BTreeMap;

use super::*;

type Line = (i64, Vec<u8>);

fn all(options: &Options) -> (Vec<Line>, Totals) {
    let mut injector = Injector::new(options.clone());
    let mut lines = Vec::new();
    while let Some(arrival) = injector.next() {
        lines.push((arrival.at.ms(), arrival.value.to_vec()));
    }
    (lines, injector.totals())
}

#[test]
fn the_same_seed_says_the_same_and_another_does_not() {
    let options = Options { devices: 20, ..Options::default() };
    assert_eq!(all(&options), all(&options));
    assert_ne!(all(&options).0, all(&Options { seed: 2, ..options }).0);
}

#[test]
fn messages_come_in_the_order_of_their_arrival_in_the_shares_asked_for() {
    let options = Options { devices: 200, ..Options::default() };
    let (lines, totals) = all(&options);
    assert!(lines.is_sorted_by_key(|(at, _)| *at));
    let originals = totals.messages - totals.copies;
    assert_eq!(originals, 199 * 300 + 3_000);
    let per_mille = totals.copies * 1_000 / originals;
    assert!((40..60).contains(&per_mille), "{per_mille} of 1,000 sent again");
}

#[test]
fn copies_are_equal_and_every_id_is_there() {
    let (lines, totals) = all(&Options { devices: 30, ..Options::default() });
    let mut by_id: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut copies = 0;
    for (_, line) in lines {
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let id = value["id"].as_str().unwrap().to_owned();
        if let Some(first) = by_id.get(&id) {
            assert_eq!(*first, line);
            copies += 1;
        }
        by_id.insert(id, line);
    }
    assert_eq!((copies, by_id.len()), (totals.copies, 29 * 300 + 3_000));
}

/// Truth again, from the messages as they are sent, by floating-point sums in decimal digits.
#[test]
fn the_truth_is_what_the_messages_say() {
    let options =
        Options { devices: 25, layout: Layout::Delimited, skewed_per_mille: 500, ..Options::default() };
    let mut expected: BTreeMap<(i64, String, String), (u64, i128, f64)> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for (_, line) in all(&options).0 {
        let line = String::from_utf8(line).unwrap();
        let [id, device, at, category, m1, m2] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        if seen.insert(id.to_owned()) {
            let at: i64 = at.parse().unwrap();
            let row =
                expected.entry((at.div_euclid(5_000) * 5_000, device.into(), category.into())).or_default();
            row.0 += 1;
            row.1 += m1.parse::<i128>().unwrap();
            row.2 += m2.parse::<f64>().unwrap();
        }
    }
    let mut rows = 0;
    for row in truth(&options, secs(5)) {
        let (count, m1_sum, m2_sum) = expected[&(row.window_start, row.device, row.category)];
        assert_eq!((row.count, row.m1_sum), (count, m1_sum));
        assert!((row.m2_sum - m2_sum).abs() < 1e-9 && row.m2_min <= row.m2_max);
        rows += 1;
    }
    assert_eq!(rows, expected.len());
    let clocks: Vec<i64> = expected.keys().map(|(start, ..)| *start).collect();
    assert!(clocks.iter().any(|start| *start < 10_000_000), "some clock is at 1970");
}

#[test]
fn truth_files_have_the_columns_of_the_sample() {
    let options = Options { devices: 1, messages: 1, hot_devices: 0, ..Options::default() };
    let mut file = Vec::new();
    assert_eq!(write_truth(truth(&options, secs(5)), &mut file).unwrap(), 1);
    let file = String::from_utf8(file).unwrap();
    let (head, row) = file.split_once('\n').unwrap();
    assert_eq!(head.split(',').count(), row.trim().split(',').count());
}
