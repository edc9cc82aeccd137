//! Patterns and joins in pipelines: beside loops over all events, with commits, crashes and evictions where a seed puts them.

use std::collections::{BTreeMap, BTreeSet};

use granary_streams::{Plan, file};
use granary_truth_tests::{Draw, Driver, Input, run_sources as run};
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000;

const PAYMENTS: &str = "
pipeline: payments
sources:
  payments:
    topic: payments
    decode:
      format: json
      fields: {id: {type: text}, card: {type: text}, at: {type: time_ms}, amount: {type: integer}, country: {type: text}}
    id: id
    key: card
    event_time: at
    watermark: {per: key, out_of_orderness: 10m, idle_after: 1m}
sinks:
  found: {from: escalation, topic: found}
steps:
";
const ESCALATION: &str = "
  escalation:
    from: payments
    dedup: {by: id}
    pattern:
      within: 1h
      timeouts: true
      stages:
        - {name: small, when: amount < 100}
        - {name: large, when: amount > small.amount * 10 && country == small.country}
      fields: [amount]
";

fn plan(parts: &[&str]) -> Plan {
    file::parse(&parts.concat()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn row(text: &str) -> Value {
    serde_json::from_str(text).expect("a row is JSON")
}

/// The rows of a stream; no identity comes twice.
fn rows(driver: &Driver, stream: &str) -> Vec<Value> {
    let mut ids = BTreeSet::new();
    let sent = driver.stream(stream);
    sent.iter().for_each(|sent| assert!(ids.insert(&sent.id), "twice: {} {}", sent.id, sent.value));
    sent.iter().map(|sent| row(&sent.value)).collect()
}

fn payment(id: &str, card: &str, at: i64, amount: i64, country: &str) -> Input {
    let value = json!({"id": id, "card": card, "at": at, "amount": amount, "country": country});
    Input { appended_at: at, value: value.to_string().into_bytes() }
}

/// A payment, its fields.
#[derive(Clone, Debug)]
struct Paid {
    id: String,
    card: String,
    at: i64,
    amount: i64,
    country: &'static str,
}

fn random_payments(seed: u64, count: i64) -> Vec<Paid> {
    let mut draw = Draw(seed);
    let paid = |no: i64| Paid {
        id: format!("p-{no}"),
        card: format!("c-{}", draw.below(40)),
        at: HOUR + no * 20_000 - draw.below(500_000) as i64,
        amount: [draw.below(100), 100 + draw.below(900)][draw.below(2) as usize] as i64,
        country: ["de", "fr"][draw.below(2) as usize],
    };
    (0..count).map(paid).collect()
}

/// What the pattern finds, by two loops: small, large (none when the time ran out).
fn escalations(payments: &[Paid]) -> BTreeSet<(String, Option<String>)> {
    let mut found = BTreeSet::new();
    let mut sorted: Vec<&Paid> = payments.iter().collect();
    sorted.sort_by_key(|paid| paid.at); // stable: equal times in the order of arrival
    for (i, small) in sorted.iter().enumerate().filter(|(_, paid)| paid.amount < 100) {
        let later = sorted[i + 1..].iter().filter(|other| other.card == small.card);
        let mut in_time = later.take_while(|other| other.at - small.at < HOUR);
        let large = in_time.find(|o| o.amount > small.amount * 10 && o.country == small.country);
        found.insert((small.id.clone(), large.map(|large| large.id.clone())));
    }
    found
}

#[test]
fn a_pattern_finds_what_two_loops_find_whatever_happens_to_its_slots() {
    let payments = random_payments(3, 2_500);
    let mut records: Vec<(u16, Input)> =
        payments.iter().map(|p| (0, payment(&p.id, &p.card, p.at, p.amount, p.country))).collect();
    // copies come soon after
    let mut draw = Draw(9);
    for at in (0..records.len()).rev().filter(|at| at % 7 == 0) {
        let copy = records[at].clone();
        records.insert(at + 1 + draw.below(2) as usize, copy);
    }
    let expected = escalations(&payments);
    let matches = expected.iter().filter(|(_, large)| large.is_some()).count();
    assert!(matches > 300 && expected.len() - matches > 300);
    for seed in 0..6 {
        let driver = run(plan(&[PAYMENTS, ESCALATION]), &records, seed);
        assert!(seed == 0 || driver.loads > 200, "seed {seed}: state came back from the store");
        let id = |stage: &Value| stage[0]["id"].as_str().map(str::to_owned);
        let mut found = BTreeSet::new();
        for row in rows(&driver, "found") {
            let (small, large) =
                (id(&row["match"]["small"]).expect("a small one"), id(&row["match"]["large"]));
            assert_eq!(row["reason"], if large.is_some() { "match" } else { "timeout" });
            assert_eq!(row["start"], row["match"]["small"][0]["time"]);
            assert!(row["match"]["small"][0]["amount"].as_i64().expect("an amount") < 100);
            assert!(found.insert((small, large)));
        }
        let counts = driver.counts();
        assert_eq!((counts.late, counts.accepted), (0, payments.len() as u64), "seed {seed}");
        assert_eq!(counts.duplicates, (records.len() - payments.len()) as u64);
        assert_eq!(counts.results["found"], expected.len() as i64);
        assert!(counts.is_balanced() && counts.cut == 0);
        assert_eq!(found, expected, "seed {seed}");
    }
}

const UNPAID: &str = "
  escalation:
    from: payments
    pattern:
      within: 30m
      stages:
        - {name: ordered, when: amount > 0}
        - {absent: true, when: amount < 0}
      fields: [amount]
";

#[test]
fn an_absence_is_found_by_silence_and_told_once() {
    let minutes = |count: i64| count * 60_000;
    let mut driver = Driver::new(plan(&[PAYMENTS, UNPAID]));
    driver.record(0, &payment("a", "c-1", minutes(0), 5, "de"));
    driver.record(1, &payment("b", "c-2", minutes(1), 5, "de"));
    driver.record(2, &payment("c", "c-2", minutes(3), -5, "de"));
    driver.commit();
    driver.tick(1_000_000_000);
    driver.tick(1_000_000_000 + minutes(37));
    driver.commit();
    assert!(driver.stream("found").is_empty(), "disorder and idle_after are waited for, too");
    driver.crash();
    driver.tick(2_000_000_000);
    driver.tick(2_000_000_000 + minutes(42));
    driver.commit();
    let found = rows(&driver, "found");
    assert_eq!(found.len(), 1, "{found:?}");
    let expected = json!({"card": "c-1", "pattern": "escalation", "start": 0, "end": 0, "reason": "match",
        "match": {"ordered": [{"id": "a", "time": 0, "amount": 5}]}});
    assert_eq!(found[0], expected);
    driver.crash();
    driver.tick(3_000_000_000);
    driver.tick(4_000_000_000);
    driver.end();
    driver.commit();
    assert_eq!(driver.stream("found").len(), 1, "it is told once");
}

#[test]
fn events_of_other_keys_make_an_absence_due() {
    let mut driver = Driver::new(plan(&[PAYMENTS, UNPAID]));
    driver.record(0, &payment("a", "c-1", 0, 5, "de"));
    driver.commit();
    driver.crash();
    // so many cards that one of them is in the same slot
    for card in 0..60 {
        driver.record(card + 1, &payment("x", &format!("d-{card}"), 42 * 60_000, 0, "de"));
    }
    driver.commit();
    let found = rows(&driver, "found");
    assert_eq!((found.len(), &found[0]["card"]), (1, &json!("c-1")));
    driver.record(61, &payment("b", "c-1", 60_000, -5, "de"));
    driver.commit();
    assert_eq!(driver.counts().late, 1, "what would have prevented it is late now");
    let late = row(&driver.stream("late")[0].value);
    assert_eq!((&late["step"], &late["watermark"]), (&json!("escalation"), &json!(30 * 60_000)));
}

const SHOP: &str = "
pipeline: shop
sources:
  orders:
    topic: orders
    decode: {format: json, fields: {id: {type: text}, order: {type: integer}, at: {type: time_ms}, amount: {type: integer}}}
    id: id
    key: order
    event_time: at
    watermark: {out_of_orderness: 1m, idle_after: 1m}
  shipments:
    topic: shipments
    decode: {format: json, fields: {no: {type: text}, of: {type: integer}, at: {type: time_ms}, carrier: {type: text}}}
    id: no
    key: of
    event_time: at
    watermark: {out_of_orderness: 2m, idle_after: 1m}
sinks:
  rows: {from: shipped, topic: rows}
steps:
  large: {from: orders, filter: amount > 10}
  shipped:
    join:
      left: large
      right: shipments
      fields: {left: [id, amount], right: [no, carrier]}
";

/// An event of a side: key, its number, time.
type Happened = (u16, i64, String, i64);

fn order(of: i64, id: &str, at: i64, amount: i64) -> (u16, Input) {
    let value = json!({"id": id, "order": of, "at": at, "amount": amount});
    (0, Input { appended_at: at, value: value.to_string().into_bytes() })
}

fn shipment(of: i64, no: &str, at: i64, carrier: &str) -> (u16, Input) {
    let value = json!({"no": no, "of": of, "at": at, "carrier": carrier});
    (1, Input { appended_at: at, value: value.to_string().into_bytes() })
}

fn random_shop(seed: u64) -> (Vec<Happened>, Vec<(u16, Input)>) {
    let mut draw = Draw(seed);
    let (mut events, mut records) = (Vec::new(), Vec::new());
    for no in 0..1_500 {
        let (key, at) = (draw.below(200) as i64, HOUR + no * 4_000 - draw.below(60_000) as i64);
        let id = format!("e-{no}");
        if draw.below(2) == 0 {
            let amount = draw.below(40) as i64;
            records.push(order(key, &id, at, amount));
            if amount > 10 {
                events.push((0, key, id, at));
            }
        } else {
            records.push(shipment(key, &id, at, "post"));
            events.push((1, key, id, at));
        }
    }
    (events, records)
}

/// Pairs, and who has none, by two loops.
fn pairs(
    events: &[Happened],
    matches: impl Fn(i64, i64) -> bool,
    keeps: [bool; 2],
) -> BTreeSet<(Option<String>, Option<String>)> {
    let mut found = BTreeSet::new();
    let mut lonely: BTreeSet<&String> = events.iter().map(|event| &event.2).collect();
    for left in events.iter().filter(|event| event.0 == 0) {
        let others = events.iter().filter(|event| event.0 == 1 && event.1 == left.1);
        for right in others.filter(|right| matches(left.3, right.3)) {
            found.insert((Some(left.2.clone()), Some(right.2.clone())));
            lonely.remove(&left.2);
            lonely.remove(&right.2);
        }
    }
    for event in events.iter().filter(|event| lonely.contains(&event.2) && keeps[usize::from(event.0)]) {
        let id = Some(event.2.clone());
        found.insert(if event.0 == 0 { (id, None) } else { (None, id) });
    }
    found
}

fn joined(driver: &Driver) -> BTreeSet<(Option<String>, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = rows(driver, "rows");
    let count = found.len();
    let found: BTreeSet<_> =
        found.iter().map(|row| (text(&row["left"]["id"]), text(&row["right"]["no"]))).collect();
    assert_eq!(found.len(), count, "no pair comes twice");
    found
}

#[test]
fn joins_find_what_two_loops_find_whatever_happens_to_their_slots() {
    let (events, records) = random_shop(5);
    let in_interval = |left: i64, right: i64| (left - 300_000..=left + 1_800_000).contains(&right);
    let in_window = |left: i64, right: i64| left / 600_000 == right / 600_000;
    let interval = "      interval: {lower: -5m, upper: 30m}\n";
    for (words, expected) in [
        (format!("{interval}      type: left\n"), pairs(&events, in_interval, [true, false])),
        (format!("{interval}      type: outer\n"), pairs(&events, in_interval, [true, true])),
        ("      window: 10m\n      type: right\n".to_owned(), pairs(&events, in_window, [false, true])),
    ] {
        assert!(expected.len() > 300, "{}", expected.len());
        for seed in 0..4 {
            let driver = run(plan(&[SHOP, &words]), &records, seed);
            assert_eq!(driver.counts().late, 0);
            assert_eq!(joined(&driver), expected, "seed {seed}: {words}");
            assert_eq!(driver.counts().results["rows"], expected.len() as i64);
        }
    }
}

#[test]
fn an_order_without_shipment_is_told_once_when_none_can_come_any_more() {
    let words = "      interval: {lower: 0s, upper: 1h}\n      type: left\n";
    let mut driver = Driver::new(plan(&[SHOP, words]));
    let feed = |driver: &mut Driver, offset, (source, input): (u16, Input)| {
        driver.record_of(source, offset, &input);
    };
    feed(&mut driver, 0, order(1, "a", 0, 50));
    feed(&mut driver, 1, order(2, "b", 0, 60));
    feed(&mut driver, 0, shipment(2, "s", 120_000, "post"));
    driver.commit();
    let pair = json!({"order": 2, "time": 120_000, "left": {"id": "b", "amount": 60}, "right": {"no": "s", "carrier": "post"}});
    assert_eq!(rows(&driver, "rows"), [pair], "a pair is told at once");
    driver.crash();
    driver.tick(1_000_000);
    driver.tick(1_000_000 + 62 * 60_000);
    driver.commit();
    assert_eq!(driver.stream("rows").len(), 1, "one may still come");
    driver.evict();
    driver.evict();
    driver.tick(1_000_000 + 70 * 60_000);
    driver.commit();
    driver.crash();
    driver.end();
    driver.commit();
    let found = rows(&driver, "rows");
    assert_eq!(
        found[1..],
        [json!({"order": 1, "time": 0, "left": {"id": "a", "amount": 50}, "right": null})]
    );
}

#[test]
fn a_side_that_is_read_later_is_not_late() {
    let words = "      interval: {lower: 0s, upper: 1m}\n      type: left\n";
    let mut records: Vec<(u16, Input)> =
        (0..500).map(|i| order(i % 50, &format!("o-{i}"), i * 60_000, 50)).collect();
    records.extend((0..500).map(|i| shipment(i % 50, &format!("s-{i}"), i * 60_000 + 1, "post")));
    for seed in 0..3 {
        let driver = run(plan(&[SHOP, words]), &records, seed);
        assert_eq!((driver.counts().late, joined(&driver).len()), (0, 500));
        assert!(joined(&driver).iter().all(|(left, right)| left.is_some() && right.is_some()));
    }
}

/// A partition that nothing was read of is behind, however far the others are.
#[test]
fn a_partition_that_is_read_later_is_not_late() {
    let words = "      interval: {lower: 0s, upper: 1m}\n      type: left\n";
    let orders = (0..500).map(|i| order(i % 50, &format!("o-{i}"), i * 60_000, 50).1);
    let (even, odd): (Vec<_>, Vec<_>) = orders.enumerate().partition(|(i, _)| i % 2 == 0);
    let shipments = (0..500).map(|i| shipment(i % 50, &format!("s-{i}"), i * 60_000 + 1, "post").1);
    for crashes in [false, true] {
        let mut driver = Driver::new(plan(&[SHOP, words]));
        driver.fed_by(0, 2);
        driver.fed_by(1, 1);
        let read = |driver: &mut Driver, source, partition, inputs: &mut dyn Iterator<Item = &Input>| {
            inputs.zip(0..).for_each(|(input, offset)| driver.record_in(source, partition, offset, input));
            driver.commit();
            if crashes {
                driver.crash();
            }
        };
        read(&mut driver, 0, 0, &mut even.iter().map(|(_, input)| input));
        read(&mut driver, 1, 0, &mut shipments.clone().collect::<Vec<_>>().iter());
        read(&mut driver, 0, 1, &mut odd.iter().map(|(_, input)| input));
        assert!(driver.stream("rows").iter().all(|sent| !sent.value.contains("null")), "and is waited for");
        driver.end();
        driver.commit();
        assert_eq!((driver.counts().late, joined(&driver).len()), (0, 500));
        assert!(joined(&driver).iter().all(|(left, right)| left.is_some() && right.is_some()));
    }
}

#[test]
fn a_version_is_the_one_of_its_time() {
    let words = "      version: true\n      type: left\n      deleted: carrier == 'none'\n";
    let records = [
        shipment(7, "v1", 100_000, "post"),
        order(7, "b", 150_000, 50),
        order(7, "a", 90_000, 50),
        shipment(7, "gone", 300_000, "none"),
        order(7, "c", 310_000, 50),
        shipment(7, "v2", 400_000, "rail"),
        order(7, "d", 399_999, 50),
        order(7, "e", 400_000, 50),
    ];
    for seed in 0..8 {
        let driver = run(plan(&[SHOP, words]), &records, seed);
        let found: BTreeMap<_, _> = joined(&driver).into_iter().collect();
        let version = |id: &str| found[&Some(id.to_owned())].as_deref();
        assert_eq!(["a", "b", "c", "d", "e"].map(version), [None, Some("v1"), None, None, Some("v2")]);
    }
}

#[test]
fn what_a_key_has_no_room_for_is_set_aside() {
    let words = "      window: 1h\n";
    let records: Vec<(u16, Input)> = (0..300)
        .flat_map(|i| [order(1, &format!("o-{i}"), 1_000, 50), shipment(1, &format!("s-{i}"), 1_000, "post")])
        .collect();
    let driver = run(plan(&[SHOP, words]), &records, 0);
    let counts = driver.counts();
    assert_eq!((counts.accepted, counts.late), (511, 89), "one more on each side would make too many pairs");
    assert_eq!(counts.results["rows"], 256 * 255);
    let late = row(&driver.stream("late")[0].value);
    assert_eq!((&late["reason"], &late["step"]), (&json!("overflow"), &json!("shipped")));
}

#[test]
fn what_the_wall_clock_decided_is_taken_again() {
    let words = "      interval: {lower: 0s, upper: 1h}\n      type: left\n";
    let filled = || {
        let mut driver = Driver::new(plan(&[SHOP, words]));
        (0..100).for_each(|i| driver.record_of(0, i, &order(i as i64, &format!("o-{i}"), i as i64, 50).1));
        driver.commit();
        driver
    };
    let mut first = filled();
    first.tick(1_000_000);
    first.tick(1_000_000 + 30 * 60_000);
    assert!(first.decided.is_empty(), "nothing is due, so nothing is decided");
    first.tick(1_000_000 + 90 * 60_000);
    first.commit();
    assert_eq!((first.stream("rows").len(), first.decided.is_empty()), (100, false));
    let mut again = filled();
    again.crash();
    again.replay(&first.decided);
    again.commit();
    assert_eq!(again.stream("rows"), first.stream("rows"), "the same rows in the same order");
}

#[test]
fn a_grain_takes_the_rows_of_a_pattern() {
    let to_grain = PAYMENTS.replace("topic: found}", "grain: Card, method: note}");
    let mut driver = Driver::new(plan(&[&to_grain, ESCALATION]));
    driver.record(0, &payment("a", "c-1", HOUR, 5, "de"));
    driver.record(1, &payment("b", "c-1", HOUR + 1, 510, "de"));
    driver.end();
    driver.commit();
    let (grain, method, arguments) = &driver.tells[0];
    assert_eq!((grain.to_string(), &**method), ("Card/c-1".to_owned(), "note"));
    let row = serde_json::to_value(rmpv::decode::read_value(&mut &arguments[..]).expect("MessagePack"))
        .expect("JSON");
    assert_eq!((&row["card"], &row["match"]["large"][0]["id"]), (&json!("c-1"), &json!("b")));
    assert_eq!((driver.tells.len(), driver.counts().results["found"]), (1, 1));
}
