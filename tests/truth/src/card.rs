//! The card sample: payments whose exact alerts are known, and the example's pipeline over them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use granary_streams::Plan;
use serde_json::json;

use crate::Input;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A table of the sample.
pub fn sample(name: &str) -> csv::Reader<GzDecoder<std::fs::File>> {
    let path = root().join("tests/data/fraud-sample").join(name);
    csv::Reader::from_reader(GzDecoder::new(std::fs::File::open(path).expect("a file of the sample")))
}

/// A file of the examples.
pub fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy/examples").join(name)).expect("an example")
}

/// Rows of a table, each by the names of its columns.
pub fn rows(name: &str) -> Vec<HashMap<String, String>> {
    sample(name).into_deserialize().map(|row| row.expect("a row")).collect()
}

/// The pipeline of the example, with these rules beside it.
pub fn pipeline(rules: &str) -> Plan {
    let read = |_: &str| Ok(rules.to_owned());
    granary_streams::file::parse_beside(&example("fraud/pipeline.yaml"), &read)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The payments as records of a topic.
pub fn payments() -> Vec<Input> {
    let record = |row: &HashMap<String, String>| {
        let cents: i64 = row["amount_cents"].parse().expect("cents");
        let value = format!(
            r#"{{"transaction_id":"{}","customer_id":"{}","vendor_id":"{}","amount":{}.{:02},"ts":{}000,"lat":{},"lon":{},"category":{}}}"#,
            row["tx_id"],
            row["customer"],
            row["vendor"],
            cents / 100,
            cents % 100,
            row["ts"],
            row["lat"],
            row["lon"],
            json!(row["category"])
        );
        Input { appended_at: row["ts"].parse::<i64>().expect("a time") * 1_000, value: value.into_bytes() }
    };
    rows("cards.csv.gz").iter().map(record).collect()
}
