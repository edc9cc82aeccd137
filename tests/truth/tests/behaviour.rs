//! What a pipeline does beside windows over a file: filters, maps, questions, silence, poison, grains.

use granary_streams::{Plan, file};
use granary_truth_tests::{Driver, Input, run};
use serde_json::json;

const SOURCE: &str = "
pipeline: readings
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields:
        id:     {type: text}
        device: {type: text}
        room:   {type: integer}
        at:     {type: time_ms}
        watts:  {type: double}
    id: id
    key: device
    event_time: at
    watermark: {per: key, out_of_orderness: 0s, idle_after: 10s, future_guard: 1h}
";
const TOTALS: &str = "
steps:
  totals:
    from: readings
    by: [room]
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    allowed_lateness: 10s
    keep: 1h
    aggregates: {count: count(), watts: sum(watts)}
";
const TO_TOPIC: &str = "
sinks:
  totals: {from: totals, topic: totals}
";

fn plan(parts: &[&str]) -> Plan {
    file::parse(&parts.concat()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn reading(id: &str, device: &str, room: i64, at: i64, watts: f64) -> Input {
    let value = json!({ "id": id, "device": device, "room": room, "at": at, "watts": watts });
    Input { appended_at: at, value: value.to_string().into_bytes() }
}

fn row(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("a row is JSON")
}

fn feed(driver: &mut Driver, records: &[Input]) {
    records.iter().enumerate().for_each(|(i, record)| driver.record(i as u64, record));
}

#[test]
fn open_due_and_closed_windows_answer_the_rows_of_the_sink() {
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, TO_TOPIC]));
    let window = "Window/d%2F7/3/totals/0";
    feed(&mut driver, &[reading("a", "d/7", 3, 1_000, 2.5), reading("b", "d/7", 3, 2_000, 1.0)]);
    let open = driver.ask(window).unwrap();
    assert_eq!((&open["state"], &open["count"], &open["watts"]), (&json!("open"), &json!(2), &json!(3.5)));
    assert_eq!(open["watermark"], json!(1_999));
    for (at, state) in [(7_000, "due"), (40_000, "closed")] {
        driver.record(at as u64, &reading("later", "d/7", 4, at, 0.0));
        driver.commit();
        for _ in 0..2 {
            let sent =
                row(&driver.stream("totals").iter().rfind(|sent| sent.id.starts_with(window)).unwrap().value);
            let mut answer = driver.ask(window).unwrap();
            assert_eq!(answer["state"], json!(state));
            let answer = answer.as_object_mut().unwrap();
            answer.retain(|name, _| !["state", "watermark", "reason"].contains(&name.as_str()));
            for (name, value) in answer {
                assert_eq!(*value, sent[name.as_str()], "{state}: {name}");
            }
            driver.crash();
        }
    }
    let device = driver.ask("Device/d%2F7").unwrap();
    let expected = json!({"key": "d/7", "last_event_time": 40_000, "clock": 39_999, "events": 4, "duplicates": 0,
        "late": 0, "open_windows": device["open_windows"]});
    assert_eq!(device, expected);
}

#[test]
fn questions_that_make_no_sense_are_answered_in_words() {
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, TO_TOPIC]));
    for (grain, expected) in [
        ("Window/d/3/total/0", "no window step `total`; there are: totals"),
        ("Window/d/totals/0", "`totals` has 1 segments below the key: room"),
        ("Window/d/3/totals/x", "`x` is no window start in ms"),
        ("Device/nobody", "has not been seen"),
        ("Window/d", "expected"),
    ] {
        let answer = driver.ask(grain).unwrap_err();
        assert!(answer.contains(expected), "{grain}: {answer}");
    }
}

#[test]
fn a_silent_key_is_closed_by_the_wall_clock_and_by_nothing_else() {
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, TO_TOPIC]));
    feed(&mut driver, &[reading("a", "d", 1, 1_000, 1.0), reading("b", "e", 1, 1_000, 1.0)]);
    driver.tick(5_000_000);
    driver.tick(5_009_000);
    driver.commit();
    assert_eq!(driver.stream("totals").len(), 0, "9 s of silence");
    // A record of one key: time before it does not count as silence of its slot.
    driver.crash();
    driver.record(2, &reading("c", "e", 1, 2_000, 1.0));
    driver.tick(5_010_000);
    driver.tick(5_020_500);
    driver.commit();
    let ids: Vec<&str> = driver.stream("totals").iter().map(|sent| sent.id.as_str()).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    let answer = driver.ask("Device/e").unwrap();
    assert_eq!(
        answer["clock"],
        json!(4_999),
        "the clock stands at the end of the pane, not at the wall clock"
    );
    driver.record(3, &reading("d", "e", 1, 2_500, 1.0));
    driver.commit();
    let last = row(&driver.stream("totals").last().unwrap().value);
    assert_eq!((&last["reason"], &last["revision"], &last["count"]), (&json!("late"), &json!(1), &json!(3)));
}

#[test]
fn an_event_far_ahead_of_its_log_time_is_set_aside() {
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, TO_TOPIC]));
    let ahead = Input { appended_at: 1_000, ..reading("a", "d", 1, 1_000 + 3_600_001, 1.0) };
    feed(&mut driver, &[reading("0", "d", 1, 500, 1.0), ahead]);
    driver.commit();
    let late = row(&driver.stream("late")[0].value);
    assert_eq!((&late["reason"], &late["watermark"]), (&json!("future"), &json!(499)));
    assert_eq!((driver.counts().late, driver.counts().accepted), (1, 1));
}

#[test]
fn filters_and_maps_stand_before_windows_and_sinks() {
    let steps = "
steps:
  warm:   {from: readings, filter: 'watts > 1.0'}
  scaled: {from: warm, map: {watts: 'watts * 2.0', is_big: 'watts > 5.0'}}
  totals:
    from: scaled
    window: {type: tumbling, size: 5s}
    aggregates: {count: count(), watts: sum(watts), big: max(is_big)}
sinks:
  totals: {from: totals, topic: totals}
  scaled: {from: scaled, topic: scaled}
";
    let records = [
        reading("a", "d", 1, 1_000, 0.5),
        reading("b", "d", 1, 1_500, 3.0),
        reading("c", "d", 1, 2_000, 6.0),
        // Filtered out, and yet it moves the clock of its key.
        reading("d", "d", 1, 9_000, 0.0),
    ];
    let mut driver = Driver::new(plan(&[SOURCE, steps]));
    feed(&mut driver, &records);
    driver.commit();
    let total = row(&driver.stream("totals")[0].value);
    assert_eq!((&total["count"], &total["watts"], &total["big"]), (&json!(2), &json!(18.0), &json!(true)));
    let scaled: Vec<serde_json::Value> =
        driver.stream("scaled").iter().map(|sent| row(&sent.value)).collect();
    let expected = json!({"id": "b", "device": "d", "room": 1, "at": 1_500, "watts": 6.0, "is_big": false});
    assert_eq!((scaled.len(), &scaled[0]), (2, &expected));
    assert_eq!(driver.stream("scaled")[0].id, "scaled/readings/0/1");
    assert_eq!((driver.counts().accepted, driver.counts().results["scaled"]), (4, 2));
}

#[test]
fn what_an_expression_cannot_judge_is_rejected() {
    let steps = "
steps:
  odd: {from: readings, filter: '10 / room > 1'}
sinks:
  odd: {from: odd, topic: odd}
";
    let driver =
        run(plan(&[SOURCE, steps]), &[reading("a", "d", 0, 1, 1.0), reading("b", "d", 1, 2, 1.0)], 0);
    let rejected = row(&driver.stream("rejected")[0].value);
    assert_eq!((&rejected["rule"], &rejected["field"]), (&json!("filter"), &json!("odd")));
    assert_eq!((driver.counts().rejected, driver.stream("odd").len()), (1, 1));
}

#[test]
fn a_record_without_a_key_of_its_own_has_the_one_of_its_event() {
    use granary_cluster::{Pipeline, Record, SourceId};
    use granary_core::Timestamp;
    let mut slots = granary_streams::Slots::new(std::sync::Arc::new(plan(&[SOURCE, TOTALS, TO_TOPIC])), 96);
    let mut key_of = |value: &[u8]| {
        let record = Record {
            source: SourceId(0),
            partition: 3,
            offset: 0,
            appended_at: Timestamp(0),
            key: None,
            value,
        };
        let slot = slots.route(&record);
        (slot, slots.routed_key(&record))
    };
    let (slot, key) = key_of(&reading("a", "d-7", 1, 0, 1.0).value);
    assert_eq!((slot, key.as_slice()), (granary_core::id::slot_of(b"d-7", 96), &b"d-7"[..]));
    let (slot, key) = key_of(b"no record");
    assert_eq!((slot.0, key.as_slice()), (3, &b""[..]), "a refused record stays with its partition");
}

#[test]
fn a_poisoned_record_keeps_its_bytes_and_is_counted() {
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, TO_TOPIC]));
    driver.poison(7, &Input { appended_at: 3, value: b"\xff{".to_vec() });
    driver.commit();
    let poisoned = row(&driver.stream("poisoned")[0].value);
    let expected = json!({"source": "readings", "topic": "readings", "partition": 0, "offset": 7,
        "reason": "poisoned", "message": "it made a handler panic", "raw": "/3s="});
    assert_eq!(poisoned, expected);
    assert!(driver.counts().is_balanced() && driver.counts().poisoned == 1);
}

#[test]
fn a_grain_sink_calls_the_grain_of_the_key_with_the_row() {
    let sinks = "
sinks:
  sensors: {from: totals, grain: Sensor, method: record}
";
    let mut driver = Driver::new(plan(&[SOURCE, TOTALS, sinks]));
    feed(&mut driver, &[reading("a", "d/7", 3, 1_000, 2.5), reading("b", "d/7", 3, 6_000, 1.0)]);
    driver.commit();
    let (grain, method, arguments) = &driver.tells[0];
    assert_eq!((grain.to_string().as_str(), method.as_str()), ("Sensor/d%2F7", "record"));
    let arguments = serde_json::to_value(rmpv::decode::read_value(&mut &arguments[..]).unwrap()).unwrap();
    let expected = json!({"window_start": 0, "window_end": 5_000, "device": "d/7", "room": 3, "count": 1,
        "watts": 2.5, "revision": 0, "reason": "on_time"});
    assert_eq!((arguments, driver.counts().results["sensors"]), (expected, 1));
}

#[test]
fn a_session_that_grows_takes_its_row_back() {
    let steps = "
steps:
  visits:
    from: readings
    window: {type: session, gap: 5s}
    allowed_lateness: 1m
    aggregates: {count: count()}
sinks:
  visits: {from: visits, topic: visits}
";
    let mut driver = Driver::new(plan(&[SOURCE, steps]));
    let times = [1_000, 20_000, 4_000, 40_000];
    let records: Vec<Input> =
        times.iter().enumerate().map(|(i, at)| reading(&i.to_string(), "d", 1, *at, 1.0)).collect();
    feed(&mut driver, &records);
    driver.commit();
    let sent: Vec<(String, String)> = driver
        .stream("visits")
        .iter()
        .map(|sent| (sent.id.clone(), row(&sent.value)["reason"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(sent[0], ("Window/d/visits/1000#0".to_owned(), "on_time".to_owned()));
    assert_eq!(sent[1], ("Window/d/visits/1000#1".to_owned(), "delete".to_owned()));
    assert_eq!(sent[2].0, "Window/d/visits/1000#2");
    let results = driver.results("visits");
    assert!(results.contains("\"window_end\":9000") && !results.contains("\"window_end\":6000"), "{results}");
}

#[test]
fn delimited_and_messagepack_say_the_same_as_json() {
    let with = |format: &str| plan(&[&SOURCE.replace("format: json", format), TOTALS, TO_TOPIC]);
    let rows = |plan: Plan, values: Vec<Vec<u8>>| -> Vec<String> {
        let records: Vec<Input> =
            values.into_iter().map(|value| Input { appended_at: 9_000, value }).collect();
        let driver = run(plan, &records, 0);
        assert_eq!((driver.counts().rejected, driver.counts().accepted), (1, 2), "one line too short");
        driver.stream("totals").iter().map(|sent| sent.value.clone()).collect()
    };
    let json = [
        json!({"id":"a","device":"d","room":-1,"at":1,"watts":1.5}),
        json!({"id":"b","device":"d","room":2,"at":2,"watts":2.0}),
        json!({}),
    ];
    let expected =
        rows(with("format: json"), json.iter().map(|value| value.to_string().into_bytes()).collect());
    assert_eq!(expected.len(), 2);
    let pack = |value: &serde_json::Value| {
        let mut out = Vec::new();
        let members = value.as_object().unwrap().iter().map(|(name, value)| {
            let value = match value {
                serde_json::Value::String(text) => rmpv::Value::from(text.as_str()),
                value => value
                    .as_i64()
                    .map_or_else(|| rmpv::Value::from(value.as_f64().unwrap()), rmpv::Value::from),
            };
            (rmpv::Value::from(name.as_str()), value)
        });
        rmpv::encode::write_value(&mut out, &rmpv::Value::Map(members.collect())).unwrap();
        out
    };
    assert_eq!(rows(with("format: messagepack"), json.iter().map(pack).collect()), expected);
    let columns = "format: delimited\n      columns: [id, device, at, room, watts]";
    let lines = ["a|d|1|-1|1.5", "b|d|2|2|2\r", "c|d|3"].map(|line| line.as_bytes().to_vec());
    assert_eq!(rows(with(columns), lines.to_vec()), expected);
}
