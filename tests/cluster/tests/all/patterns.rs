//! Patterns and joins on three silos that are killed and stopped under load: the rows on the topics are those that loops over all
//! events give, and those of one process that reads the same records as files; each is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use granary_cluster::Log as _;
use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::silo::granary;
use granary_cluster_tests::kit::topics::{self, Records};
use granary_cluster_tests::kit::{PATIENCE, until};
use serde_json::{Value, json};

use super::kills::Draw;

const SILOS: usize = 3;
/// Steps of the load, what each writes of a topic, and how long it takes in event time and at least on the wall.
const STEPS: u64 = 200;
const STEP_PAYMENTS: u64 = 30;
const STEP_ORDERS: u64 = 20;
const STEP_MS: u64 = 250;
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// How much older than the newest one an event may be. The watermark allows more: a step is not written at one moment.
const DISORDER_MS: u64 = 2_000;
const BEGIN_MS: u64 = 3_600_000;

/// The topics with their partitions. Orders are read by every lane: 5 is no divisor of the slots.
const TOPICS: [(&str, u32); 3] = [("payments", 4), ("orders", 5), ("shipments", 3)];
const SINKS: [&str; 3] = ["escalated", "unanswered", "shipped"];

const PIPELINE: &str = "
pipeline: shop
sources:
  payments:
    topic: CLUSTER.payments
    decode:
      format: json
      fields: {id: {type: text}, card: {type: text}, at: {type: time_ms}, amount: {type: integer}, country: {type: text}}
    id: id
    key: card
    event_time: at
    watermark: {per: key, out_of_orderness: 3s, idle_after: 6s}
  orders:
    topic: CLUSTER.orders
    decode: {format: json, fields: {id: {type: text}, order: {type: integer}, at: {type: time_ms}}}
    id: id
    key: order
    event_time: at
    watermark: {out_of_orderness: 3s, idle_after: 6s}
  shipments:
    topic: CLUSTER.shipments
    decode: {format: json, fields: {no: {type: text}, of: {type: integer}, at: {type: time_ms}, carrier: {type: text}}}
    id: no
    key: of
    event_time: at
    watermark: {out_of_orderness: 3s, idle_after: 6s}
steps:
  escalation:
    from: payments
    dedup: {by: id}
    pattern:
      within: 4s
      timeouts: true
      stages:
        - {name: small, when: amount < 100}
        - {absent: true, when: country != small.country}
        - {name: large, when: amount > small.amount * 10}
      fields: [amount]
  silence:
    from: payments
    dedup: {by: id}
    pattern:
      within: 3s
      stages:
        - {name: large, when: amount >= 800}
        - {absent: true, when: amount < 100}
  shipped:
    join:
      left: orders
      right: shipments
      interval: {lower: -1s, upper: 4s}
      type: outer
      fields: {left: [id], right: [no, carrier]}
      dedup: {left: id, right: no}
sinks:
  escalated: {from: escalation, topic: CLUSTER.escalated}
  unanswered: {from: silence, topic: CLUSTER.unanswered}
  shipped: {from: shipped, topic: CLUSTER.shipped}
";

/// What happened: its name, its key, when, and of payments how much and where.
#[derive(Clone)]
struct Event {
    id: String,
    key: u64,
    at: i64,
    amount: i64,
    country: &'static str,
}

/// One who was found with who was found beside it.
type Found = (Option<String>, Option<String>);

/// Everything that happens, by topics, each with the step in which it is written.
struct Load {
    events: [Vec<Event>; 3],
    steps: Vec<[Records; 3]>,
}

impl Load {
    fn new(seed: u64) -> Load {
        let mut draw = Draw(seed);
        let mut load = Load { events: [vec![], vec![], vec![]], steps: Vec::new() };
        for step in 0..STEPS {
            let mut records = [vec![], vec![], vec![]];
            for (of, count) in [STEP_PAYMENTS, STEP_ORDERS, STEP_ORDERS].into_iter().enumerate() {
                for _ in 0..count {
                    let event = load.event(of, step, &mut draw);
                    records[of].push(record(of, &event));
                    load.events[of].push(event);
                }
                // some are sent again
                let copies: Vec<_> = records[of].iter().step_by(7).cloned().collect();
                records[of].extend(copies);
            }
            load.steps.push(records);
        }
        load
    }

    fn event(&self, of: usize, step: u64, draw: &mut Draw) -> Event {
        let at = BEGIN_MS + step * STEP_MS + draw.below(STEP_MS) - draw.below(DISORDER_MS);
        Event {
            id: format!("{of}-{}", self.events[of].len()),
            key: draw.below(if of == 0 { 300 } else { 500 }),
            at: at as i64,
            amount: [draw.below(100), 100 + draw.below(900)][draw.below(2) as usize] as i64,
            country: if draw.below(6) == 0 { "fr" } else { "de" },
        }
    }

    /// All records of a topic.
    fn records(&self, of: usize) -> Records {
        self.steps.iter().flat_map(|records| records[of].iter().cloned()).collect()
    }

    /// What each sink has to show.
    fn expected(&self) -> [BTreeSet<Found>; 3] {
        let [payments, orders, shipments] = &self.events;
        [escalated(payments), unanswered(payments), shipped(orders, shipments)]
    }
}

fn record(of: usize, event: &Event) -> (String, String) {
    let Event { id, key, at, amount, country } = event;
    match of {
        0 => {
            let card = format!("c-{key}");
            let value = json!({"id": id, "card": card, "at": at, "amount": amount, "country": country});
            (card, value.to_string())
        }
        1 => (key.to_string(), json!({"id": id, "order": key, "at": at}).to_string()),
        _ => (key.to_string(), json!({"no": id, "of": key, "at": at, "carrier": "post"}).to_string()),
    }
}

/// Each event with those of its key that come after it, in the order of their times.
fn followed(events: &[Event]) -> impl Iterator<Item = (&Event, impl Iterator<Item = &Event>)> {
    let mut of_key: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    events.iter().for_each(|event| of_key.entry(event.key).or_default().push(event));
    let sorted = of_key.into_values().flat_map(|mut events| {
        events.sort_by_key(|event| event.at); // stable: equal times in the order of arrival
        (0..events.len()).map(|i| (events[i], events[i + 1..].to_vec())).collect::<Vec<_>>()
    });
    sorted.map(|(event, after)| {
        let begin = event.at;
        (event, after.into_iter().take_while(move |other| other.at - begin < 4_000))
    })
}

/// A small payment, and the first one within four seconds that is large for it; none in another country up to there.
fn escalated(payments: &[Event]) -> BTreeSet<Found> {
    let found =
        followed(payments).filter(|(small, _)| small.amount < 100).filter_map(|(small, mut after)| {
            let end = after.find(|o| o.country != small.country || o.amount > small.amount * 10);
            let large = end.filter(|large| large.country == small.country);
            (end.is_none() || large.is_some()).then(|| (Some(small.id.clone()), large.map(|o| o.id.clone())))
        });
    found.collect()
}

/// A large payment without a small one in the three seconds after it.
fn unanswered(payments: &[Event]) -> BTreeSet<Found> {
    let of_large = followed(payments).filter(|(large, _)| large.amount >= 800);
    let alone = of_large.filter_map(|(large, mut after)| {
        let is_answered = after.any(|other| other.amount < 100 && other.at - large.at < 3_000);
        (!is_answered).then(|| (Some(large.id.clone()), None))
    });
    alone.collect()
}

/// Orders and shipments that belong together, and those that are alone.
fn shipped(orders: &[Event], shipments: &[Event]) -> BTreeSet<Found> {
    let mut found: BTreeSet<Found> = BTreeSet::new();
    for order in orders {
        let of_order = shipments.iter().filter(|shipment| shipment.key == order.key);
        let in_time = of_order.filter(|other| (-1_000..=4_000).contains(&(other.at - order.at)));
        found.extend(in_time.map(|shipment| (Some(order.id.clone()), Some(shipment.id.clone()))));
    }
    let (of_left, of_right): (BTreeSet<_>, BTreeSet<_>) = found.iter().cloned().unzip();
    let name = |event: &Event| Some(event.id.clone());
    found.extend(orders.iter().map(name).filter(|id| !of_left.contains(id)).map(|id| (id, None)));
    found.extend(shipments.iter().map(name).filter(|id| !of_right.contains(id)).map(|id| (None, id)));
    found
}

/// What a sink shows, in the words of [`Load::expected`].
fn found(sink: &str, row: &Value) -> Found {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match sink {
        "shipped" => (text(&row["left"]["id"]), text(&row["right"]["no"])),
        "unanswered" => (text(&row["match"]["large"][0]["id"]), None),
        _ => {
            let large = text(&row["match"]["large"][0]["id"]);
            assert_eq!(row["reason"], if large.is_some() { "match" } else { "timeout" }, "{row}");
            (text(&row["match"]["small"][0]["id"]), large)
        }
    }
}

/// The committed rows of a sink: each identity once.
fn rows(rig: &Rig, sink: &str) -> Vec<String> {
    let rows = Published::read(rig.kafka.brokers(), &format!("{}.{sink}", rig.cluster)).rows;
    let ids: BTreeSet<&str> = rows.iter().map(|row| &*row.id).collect();
    assert_eq!(ids.len(), rows.len(), "{sink}: an identity is there twice");
    rows.into_iter().map(|row| String::from_utf8(row.value).unwrap()).collect()
}

fn all_found(sink: &str, rows: &[String]) -> BTreeSet<Found> {
    rows.iter().map(|row| found(sink, &serde_json::from_str(row).unwrap())).collect()
}

/// The rows of one process that reads the records from files to their end.
fn rows_of_files(rig: &Rig, load: &Load) -> [Vec<String>; 3] {
    let directory = rig.directory.path();
    let mut command = granary();
    command.arg("run").arg("-p").arg(directory.join("pipeline.yaml"));
    command.arg("--out").arg(directory.join("out")).arg("--input");
    for (of, (topic, partitions)) in TOPICS.into_iter().enumerate() {
        let files: Vec<PathBuf> = topics::write_files(directory, topic, partitions, &load.records(of));
        command.args(files.iter().map(|file| format!("{topic}={}", file.display())));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    SINKS.map(|sink| {
        let text = std::fs::read_to_string(directory.join("out").join(format!("{sink}.jsonl"))).unwrap();
        text.lines().map(str::to_owned).collect()
    })
}

fn rig() -> Rig {
    let rig = Rig::with(Setup::default());
    for (topic, partitions) in TOPICS {
        rig.log.create(&format!("{}.{topic}", rig.cluster), partitions).unwrap();
    }
    let pipeline = PIPELINE.replace("CLUSTER", &rig.cluster);
    std::fs::write(rig.directory.path().join("pipeline.yaml"), pipeline).unwrap();
    rig
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

/// One silo is killed in the middle, one stands still for longer than its lease, one is killed when all is written: the others have
/// the last rows come by silence.
#[test]
fn patterns_and_joins_are_exact_while_silos_are_killed_and_stopped() {
    let rig = rig();
    let load = Load::new(5);
    let expected = load.expected();
    let timeouts = expected[0].iter().filter(|(_, large)| large.is_none()).count();
    let pairs = expected[2].iter().filter(|(left, right)| left.is_some() && right.is_some()).count();
    let counts =
        [timeouts, expected[0].len() - timeouts, expected[1].len(), pairs, expected[2].len() - pairs];
    println!("timeouts, escalations, unanswered, pairs, alone: {counts:?}");
    assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
    let mut silos = Several::start(&rig, SILOS);
    for (step, records) in (0..).zip(&load.steps) {
        for ((topic, _), records) in TOPICS.iter().zip(records) {
            topics::write(&rig, &format!("{}.{topic}", rig.cluster), records);
        }
        match step {
            40 => silos.kill(1),
            100 => silos.begin(1),
            120 => silos.silo(2).signal("STOP"),
            180 => silos.silo(2).signal("CONT"),
            _ => {}
        }
        std::thread::sleep(STEP_PAUSE);
    }
    until("there are rows", || rows(&rig, "shipped").len() > 100);
    silos.kill(0);
    let began = Instant::now();
    let is_there = |sink: usize| all_found(SINKS[sink], &rows(&rig, SINKS[sink])) == expected[sink];
    while !(0..SINKS.len()).all(is_there) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("all was there after {:?}", began.elapsed());
    silos.until_settled();
    silos.stop_all();
    let late = Published::read(rig.kafka.brokers(), &format!("granary.{}.shop.late", rig.cluster)).rows;
    let late: Vec<_> = late.iter().take(3).map(|row| String::from_utf8_lossy(&row.value)).collect();
    assert!(late.is_empty(), "nothing is late: {late:?}");
    let of_files = rows_of_files(&rig, &load);
    for ((sink, expected), of_files) in SINKS.into_iter().zip(&expected).zip(of_files) {
        let rows = rows(&rig, sink);
        let found = all_found(sink, &rows);
        let missing: Vec<_> = expected.difference(&found).take(5).collect();
        let wrong: Vec<_> = found.difference(expected).take(5).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{sink}: missing {missing:?}, wrong {wrong:?}");
        assert_eq!(rows.len(), expected.len(), "{sink}");
        assert_eq!(sorted(rows), sorted(of_files), "{sink}: one process finds the same");
    }
}
