//! The Rust builder makes the plan that the file makes: same rows, same commits.

use std::collections::BTreeMap;

use granary_core::Grain;
use granary_core::time::{mins, secs};
use granary_streams::builder::{Quantile, Stream, Tumbling, Windowed};
use granary_streams::{Plan, file};
use granary_truth_tests::{Input, lines, run};

const EVENTS: &[u8] = include_bytes!("../../data/boonta-sample/events.jsonl");

#[derive(serde::Deserialize)]
struct Measurement {
    id: String,
    di: String,
    dt: At,
    c: String,
    m1: i64,
    m2: f64,
}

/// Times come as digits in quotes, from some devices without.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum At {
    Quoted(String),
    Bare(i64),
}

fn at(measurement: &Measurement) -> i64 {
    match &measurement.dt {
        At::Quoted(digits) => digits.parse().expect("the sample's times are digits"),
        At::Bare(at) => *at,
    }
}

fn built() -> Plan {
    Stream::<Measurement>::topic("boontadata")
        .event_time(at)
        .dedupe_by(|m| m.id.clone())
        .filter(|m| m.m2 > 0.0)
        .key_by(|m| &m.di)
        .window(Tumbling::of(secs(5)))
        .named("totals")
        .by("category", |m| &m.c)
        .allowed_lateness_forever()
        .sum(|m| m.m1)
        .to_topic("results")
        .plan()
        .expect("a plan without mistakes")
}

const SAME: &str = "
pipeline: boontadata
sources:
  boontadata:
    topic: boontadata
    decode:
      format: json
      fields:
        id:       {type: text}
        key:      {from: di, type: text}
        category: {from: c, type: text}
        at:       {from: dt, type: time_ms, quoted: allowed}
        m1:       {type: integer}
        m2:       {type: double}
    key: key
    event_time: at
    watermark: {out_of_orderness: 0s}
steps:
  positive: {from: boontadata, filter: m2 > 0.0}
  totals:
    from: positive
    by: category
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    allowed_lateness: forever
    aggregates: {sum: sum(m1)}
sinks:
  results: {from: totals, topic: results}
";

#[test]
fn closures_and_file_give_the_same_rows() {
    let by_id = |plan: Plan, seed| -> BTreeMap<String, String> {
        let driver = run(plan, &lines(EVENTS), seed);
        assert!(driver.counts().is_balanced() && driver.counts().rejected == 0);
        driver.stream("results").iter().map(|sent| (sent.id.clone(), sent.value.clone())).collect()
    };
    let from_file = by_id(file::parse(SAME).unwrap_or_else(|mistakes| panic!("{mistakes}")), 0);
    assert!(from_file.len() > 2_000);
    assert_eq!(by_id(built(), 0), from_file);
    assert_eq!(by_id(built(), 5), from_file, "with commits and crashes");
}

#[test]
fn sketches_of_closures_are_those_of_the_file() {
    let hours = || {
        let measurements =
            Stream::<Measurement>::topic("boontadata").event_time(at).dedupe_by(|m| m.id.clone());
        measurements.filter(|m| m.m2 > 0.0).key_by(|m| &m.c).window(Tumbling::of(mins(1))).named("totals")
    };
    let finer = Quantile::of(0.9).within(0.002);
    let built = [
        hours().approx_distinct(|m| m.m1).to_topic("results").plan(),
        hours().quantile(0.5, |m| m.m1).to_topic("results").plan(),
        hours().quantile(finer, |m| m.m2).to_topic("results").plan(),
    ];
    let written = [
        "{approx_distinct: approx_distinct(m1)}",
        "{quantile: 'quantile(m1, 0.5)'}",
        "{quantile: 'quantile(m2, 0.9, 0.002)'}",
    ];
    for (built, written) in built.into_iter().zip(written) {
        let text = SAME
            .replace("{sum: sum(m1)}", written)
            .replace("size: 5s", "size: 1m")
            .replace("    by: category\n", "")
            .replace("    allowed_lateness: forever\n", "")
            .replace("    key: key\n", "    key: category\n");
        let from_file = file::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let built = built.unwrap();
        let function = |plan: &Plan| plan.steps[1].window().unwrap().spec.aggregates[0].clone();
        assert_eq!(function(&built), function(&from_file));
        let rows = |plan: Plan, seed| -> BTreeMap<String, String> {
            let driver = run(plan, &lines(EVENTS), seed);
            let row = |value: &str| value.replace("\"category\":", "\"key\":");
            driver.stream("results").iter().map(|sent| (sent.id.clone(), row(&sent.value))).collect()
        };
        let from_file = rows(from_file, 0);
        assert!(from_file.len() > 10, "{}", from_file.len());
        assert_eq!(rows(built, 3), from_file, "{written}");
    }
}

#[test]
fn a_quantile_of_nothing_known_is_a_mistake() {
    let plan = |quantile: Quantile| {
        let stream = Stream::<Measurement>::topic("boontadata").event_time(at).key_by(|m| &m.di);
        stream.window(Tumbling::of(secs(5))).quantile(quantile, |m| m.m2).to_topic("results").plan()
    };
    for (quantile, expected) in [
        (Quantile::of(1.5), "q from 0 to 1"),
        (Quantile::of(f64::NAN), "q from 0 to 1"),
        (Quantile::of(-0.000_001), "q from 0 to 1"),
        (Quantile::of(0.5).within(0.0), "an accuracy from 0.001 to 0.5"),
        (Quantile::of(0.5).within(0.51), "an accuracy from 0.001 to 0.5"),
    ] {
        let mistakes = plan(quantile).unwrap_err().to_string();
        assert!(mistakes.contains("boontadata-windows") && mistakes.contains(expected), "{mistakes}");
    }
    plan(Quantile::of(1.0).within(0.5)).unwrap();
}

#[test]
fn what_serde_refuses_is_rejected_with_its_words() {
    let records = [r#"{"id":1}"#, "{", r#"{"id":"a","di":"d","dt":1,"c":"c","m1":1,"m2":1}"#];
    let records: Vec<Input> =
        records.iter().map(|line| Input { appended_at: 0, value: line.as_bytes().to_vec() }).collect();
    let driver = run(built(), &records, 0);
    let rules: Vec<String> = driver
        .stream("rejected")
        .iter()
        .map(|sent| serde_json::from_str::<serde_json::Value>(&sent.value).unwrap()["rule"].to_string())
        .collect();
    assert_eq!(rules, ["\"type\"", "\"json\""]);
    assert_eq!(driver.counts().accepted, 1);
}

/// A grain without a body: the pipeline only makes its calls.
mod sensor {
    use granary_core::{Grain, Result};
    use granary_macros::grain;
    use granary_streams::builder::Windowed;

    #[derive(Default, serde::Serialize, serde::Deserialize)]
    pub struct Sensor {
        seen: u64,
    }

    #[grain(crate = granary_core)]
    impl Sensor {
        pub fn record(&mut self, window: Windowed<u64>) -> Result<()> {
            self.seen += window.value;
            Ok(())
        }
    }

    pub const KIND: &str = Sensor::KIND;
}

#[test]
fn values_call_the_grain_of_their_key() {
    let plan = |other: bool| {
        Stream::<Measurement>::topic("boontadata")
            .event_time(at)
            .key_by(|m| &m.di)
            .window(Tumbling::of(secs(5)))
            .allowed_lateness(mins(15))
            .count()
            .to_grain(move |w| {
                let key = if other { "someone else" } else { w.key.as_str() };
                sensor::Sensor::at(key).record(w.clone())
            })
            .plan()
            .unwrap()
    };
    let driver = run(plan(false), &lines(EVENTS), 4);
    assert!(driver.tells.len() > 1_000);
    for (grain, method, arguments) in &driver.tells {
        assert_eq!((&*grain.kind, method.as_str()), (sensor::KIND, "record"));
        let window: Windowed<u64> = serde_json::from_value(
            serde_json::to_value(rmpv::decode::read_value(&mut &arguments[..]).unwrap()).unwrap()["window"]
                .clone(),
        )
        .unwrap();
        assert!(window.value > 0 && grain.key.routing_key() == window.key);
    }
    let refused = std::panic::catch_unwind(|| run(plan(true), &lines(EVENTS), 0));
    assert!(refused.is_err(), "a grain of another key may live in another slot");
}

#[test]
fn mistakes_of_the_builder_come_at_once() {
    let mistakes = Stream::<Measurement>::topic("late")
        .key_by(|m| &m.di)
        .window(Tumbling::of(secs(0)))
        .named("7")
        .count()
        .to_topic("late")
        .plan()
        .unwrap_err()
        .to_string();
    for expected in ["window.size", "step `7`", "`late` names a stream every pipeline has"] {
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}
