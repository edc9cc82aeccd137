//! Totals over the rows of windows, beside loops over all events: with commits, crashes and evictions where a seed puts them.

use std::collections::{BTreeMap, BTreeSet};

use granary_streams::{Plan, file};
use granary_truth_tests::{Draw, Driver, Input, SLOTS};
use serde_json::{Value, json};

const SOURCE: &str = "
pipeline: readings
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields: {id: {type: text}, device: {type: text}, kind: {type: text}, at: {type: time_ms}, m: {type: integer}}
    id: id
    key: device
    event_time: at
    watermark: {per: key, out_of_orderness: 2s, idle_after: 10s}
sinks:
  kinds: {from: kinds, topic: kinds}
  best: {from: best, topic: best}
  halves: {from: halves, topic: halves}
steps:
  totals:
    from: readings
    by: [kind]
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    allowed_lateness: LATENESS
    aggregates: {n: count(), m: sum(m), top: max(m)}
  kinds:
    from: totals
    key: kind
    allowed_lateness: LATENESS
    aggregates: {devices: count(), n: sum(n), m: sum(m), most: max(top), least: min(m)}
  best:
    from: totals
    key: none
    rank: {by: m, n: 3, ties: all}
    allowed_lateness: LATENESS
  halves:
    from: kinds
    key: none
    window: {type: hopping, size: 20s, slide: 10s}
    allowed_lateness: LATENESS
    aggregates: {m: sum(m), kinds: distinct(kind), first: first(m)}
";

fn plan(lateness: &str) -> Plan {
    file::parse(&SOURCE.replace("LATENESS", lateness)).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// An event, its fields.
#[derive(Clone, Debug)]
struct Read {
    id: String,
    device: u64,
    kind: u64,
    at: i64,
    m: i64,
}

impl Read {
    fn input(&self) -> Input {
        let Read { id, device, kind, at, m } = self;
        let event =
            json!({"id": id, "device": format!("d-{device}"), "kind": format!("k-{kind}"), "at": at, "m": m});
        Input { appended_at: *at, value: event.to_string().into_bytes() }
    }
}

fn window(at: i64) -> i64 {
    at.div_euclid(5_000) * 5_000
}

/// The rows of a window step for each (window, device, kind): count, sum, greatest.
type Totals = BTreeMap<(i64, String, String), (i64, i64, i64)>;

fn totals(events: &[Read]) -> Totals {
    let mut totals = Totals::new();
    let mut seen = BTreeSet::new();
    for event in events.iter().filter(|event| seen.insert(event.id.clone())) {
        let key = (window(event.at), format!("d-{}", event.device), format!("k-{}", event.kind));
        let total = totals.entry(key).or_insert((0, 0, i64::MIN));
        *total = (total.0 + 1, total.1 + event.m, total.2.max(event.m));
    }
    totals
}

/// What each sink is to hold in the end: key and start of a window, and its values.
fn expected(totals: &Totals) -> BTreeMap<(&'static str, String, i64), Value> {
    let mut expected = BTreeMap::new();
    let kinds: BTreeSet<(i64, &String)> = totals.keys().map(|(start, _, kind)| (*start, kind)).collect();
    let of_kind = |start: i64, kind: &str| {
        let rows = totals.iter().filter(move |((s, _, k), _)| *s == start && k == kind);
        rows.map(|(_, total)| *total).collect::<Vec<_>>()
    };
    for (start, kind) in &kinds {
        let rows = of_kind(*start, kind);
        let sum = |of: fn(&(i64, i64, i64)) -> i64| rows.iter().map(of).sum::<i64>();
        let row = json!({"devices": rows.len(), "n": sum(|r| r.0), "m": sum(|r| r.1),
            "most": rows.iter().map(|r| r.2).max(), "least": rows.iter().map(|r| r.1).min()});
        expected.insert(("kinds", (*kind).clone(), *start), row);
    }
    for start in kinds.iter().map(|(start, _)| *start).collect::<BTreeSet<_>>() {
        let mut rows: Vec<_> = totals.iter().filter(|((s, ..), _)| *s == start).collect();
        rows.sort_by_key(|((_, device, kind), total)| (-total.1, device.clone(), kind.clone()));
        let last = rows.get(2).map_or(i64::MIN, |(_, total)| total.1);
        let shown = rows.iter().enumerate().filter(|(place, (_, total))| *place < 3 || total.1 == last);
        let shown = shown.map(|(_, ((_, d, k), total))| json!({"device": d, "kind": k, "m": total.1}));
        expected.insert(("best", "all".into(), start), json!({"top": shown.collect::<Vec<_>>()}));
    }
    let starts = kinds.iter().flat_map(|(start, _)| {
        let newest = (start + 4_999).div_euclid(10_000) * 10_000;
        [newest - 10_000, newest]
    });
    // a window that ends after those of all rows waits for more
    let newest = kinds.iter().map(|(start, _)| start + 5_000).max().unwrap_or(0);
    for start in starts.filter(|start| start + 20_000 <= newest).collect::<BTreeSet<i64>>() {
        let inside: Vec<_> =
            kinds.iter().filter(|(s, _)| (start..start + 20_000).contains(&(s + 4_999))).collect();
        let m = |(s, kind): &(i64, &String)| of_kind(*s, kind).iter().map(|r| r.1).sum::<i64>();
        let different: BTreeSet<&String> = inside.iter().map(|(_, kind)| *kind).collect();
        let first = inside.iter().min_by_key(|(s, kind)| (*s, (*kind).clone())).map(|of| m(of));
        let sum: i64 = inside.iter().map(|of| m(of)).sum();
        expected.insert(
            ("halves", "all".into(), start),
            json!({"m": sum, "kinds": different.len(), "first": first}),
        );
    }
    expected
}

/// The last row of each result; revisions count up from 0, no identity comes twice.
fn told(driver: &Driver) -> BTreeMap<(&'static str, String, i64), Value> {
    let mut told = BTreeMap::new();
    for sink in ["kinds", "best", "halves"] {
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for sent in driver.stream(sink) {
            let mut row: Value = serde_json::from_str(&sent.value).expect("a row is JSON");
            let (window, revision) = sent.id.split_once('#').expect("an identity has a revision");
            let due = next.entry(window.to_owned()).or_default();
            assert_eq!(revision, due.to_string(), "{} {}", sent.id, sent.value);
            assert_eq!(row["revision"], json!(*due));
            *due += 1;
            let row = row.as_object_mut().expect("a row is an object");
            let start = row["window_start"].as_i64().expect("a start");
            let key = row.get("kind").or(row.get("key")).and_then(Value::as_str).expect("a key").to_owned();
            let is_there = row["reason"] != "delete";
            ["window_start", "window_end", "kind", "key", "revision", "reason"].iter().for_each(|name| {
                row.remove(*name);
            });
            if is_there {
                told.insert((sink, key, start), json!(row));
            } else {
                told.remove(&(sink, key, start));
            }
        }
    }
    told
}

/// Reads what came to roll-ups in some slots, then in all of them until nothing comes any more.
fn drain(driver: &mut Driver, now: &mut i64) {
    for _ in 0..40 {
        *now += 6_000;
        driver.tick(*now);
        driver.commit();
        let all = (0..3).flat_map(|rollup| (0..SLOTS).map(move |slot| (rollup, slot)));
        all.for_each(|(rollup, slot)| {
            driver.roll(rollup, slot, usize::MAX);
        });
        driver.commit();
    }
}

/// `begun`: that many events are known to all before time passes, and slots without any are known to have none.
fn run(plan: Plan, events: &[Read], seed: u64, begun: usize) -> Driver {
    let (mut driver, mut draw, mut now) = (Driver::new(plan), Draw(seed), 1_000_000_000);
    if begun > 0 {
        driver.tick(now);
        driver.tick(now + 12_000);
        (0..begun).for_each(|at| driver.record(at as u64, &events[at].input()));
        driver.commit();
    }
    let (mut at, mut committed, mut crashes) = (begun, begun, 0);
    while at < events.len() {
        driver.record(at as u64, &events[at].input());
        at += 1;
        match draw.below(60) {
            0 if seed > 0 && crashes < 30 => {
                driver.crash();
                (at, crashes) = (committed, crashes + 1);
            }
            1..=6 => {
                driver.commit();
                committed = at;
            }
            7..=9 if seed > 0 => (0..2).for_each(|_| driver.evict()),
            10..=30 => {
                let (rollup, slot) = (draw.below(3) as usize, draw.below(u64::from(SLOTS)) as u16);
                driver.roll(rollup, slot, 1 + draw.below(200) as usize);
            }
            31..=32 if begun == 0 => {
                now += draw.below(8_000) as i64;
                driver.tick(now);
            }
            _ => {}
        }
    }
    drain(&mut driver, &mut now);
    driver
}

/// Devices go on at their own pace, some stop for a while; a part of the events comes twice, or late.
fn random(seed: u64, count: u64) -> Vec<Read> {
    let mut draw = Draw(seed);
    let mut clocks = [0_i64; 9];
    let mut events: Vec<Read> = Vec::new();
    for no in 0..count {
        let device = [draw.below(9), draw.below(4)][draw.below(2) as usize];
        clocks[device as usize] += draw.below(2_400) as i64;
        let at = (clocks[device as usize]
            - [draw.below(2_000), draw.below(20_000)][usize::from(no % 9 == 0)] as i64)
            .max(0);
        let (kind, m) = (draw.below(3), draw.below(20) as i64 - 4);
        events.push(Read { id: format!("e-{no}"), device, kind, at, m });
        if no % 11 == 0 {
            let copy = events[draw.below(events.len() as u64) as usize].clone();
            events.push(copy);
        }
    }
    events
}

#[test]
fn totals_of_totals_are_those_of_loops_whatever_happens_to_slots() {
    let events = random(3, 3_000);
    let expected = expected(&totals(&events));
    assert!(expected.len() > 500, "{}", expected.len());
    for seed in 0..6 {
        let mut driver = run(plan("forever"), &events, seed, 0);
        let told = told(&driver);
        for (of, row) in &expected {
            assert_eq!(told.get(of), Some(row), "seed {seed}: {of:?}");
        }
        assert_eq!(told.len(), expected.len(), "seed {seed}");
        let ((_, kind, start), row) =
            expected.iter().find(|((sink, ..), _)| *sink == "kinds").expect("a row");
        let answer = driver.ask(&format!("Window/{kind}/kinds/{start}")).expect("a window");
        assert_eq!((&answer["m"], &answer["state"]), (&row["m"], &json!("due")), "a window is a grain");
        assert!(driver.ask("Window/no/kinds/0").is_err_and(|error| error.contains("no window")));
        assert!(driver.stream("late").is_empty());
        let counts = driver.counts();
        assert!(counts.is_balanced() && counts.accepted == 3_000, "{counts:?}");
        assert!(seed == 0 || driver.loads > 1_000, "state came back from the store");
    }
}

#[test]
fn nothing_is_late_when_slots_are_read_at_their_own_pace() {
    // All devices send in turn, so that each is known before any is past a window; nothing may be late then, though slots read
    // what comes to them at very different times.
    let mut draw = Draw(8);
    let mut events = Vec::new();
    for turn in 0..700 {
        for device in 0..10 {
            let at = turn * 700 + draw.below(1_500) as i64;
            let id = format!("{turn}-{device}");
            events.push(Read { id, device, kind: draw.below(3), at, m: draw.below(50) as i64 });
        }
    }
    let expected = expected(&totals(&events));
    for seed in [1, 2, 5] {
        let driver = run(plan("0s"), &events, seed, 10);
        assert_eq!(driver.stream("late").len(), 0, "{:?}", driver.stream("late").first());
        for sink in ["kinds", "best", "halves"] {
            let wrong =
                driver.stream(sink).iter().find(|sent| !sent.value.contains("\"reason\":\"on_time\""));
            assert!(wrong.is_none(), "{wrong:?}");
        }
        let told = told(&driver);
        let wrong = expected.iter().find(|(of, row)| told.get(of) != Some(row));
        assert_eq!((wrong, told.len()), (None, expected.len()), "seed {seed}");
    }
}

const RULES: &str = "
schema: fraud-rules/v1
stream: kinds
event: {id: window, time: window_end, fields: {kind: text, m: integer, revision: integer}}
defaults: {mode: live, severity: low, cooldown: 0s, lateness: 10m}
rules:
  - {id: much, kind: threshold, title: Much of a kind, per: kind, when: m > 40}
";

#[test]
fn rules_judge_totals_as_they_are_told() {
    let text =
        format!("{}  watch: {{from: kinds, rules: rules.yaml}}\n", SOURCE.replace("LATENESS", "forever"));
    let parse = || file::parse_beside(&text, &|_| Ok(RULES.to_owned())).unwrap_or_else(|m| panic!("{m}"));
    let events = random(5, 1_500);
    for seed in [0, 3] {
        let driver = run(parse(), &events, seed, 0);
        let ids: BTreeSet<String> = driver
            .stream("kinds")
            .iter()
            .filter(|sent| {
                let row: Value = serde_json::from_str(&sent.value).expect("a row is JSON");
                row["m"].as_i64().is_some_and(|m| m > 40)
            })
            .map(|sent| sent.id.clone())
            .collect();
        let cause = |sent: &granary_truth_tests::Sent| {
            let alert: Value = serde_json::from_str(&sent.value).expect("an alert is JSON");
            alert["causationid"].as_str().expect("it names its row").to_owned()
        };
        let alerts: Vec<String> = driver.stream("alerts").iter().map(cause).collect();
        assert!(ids.len() > 50, "{}", ids.len());
        assert_eq!(alerts.len(), ids.len(), "seed {seed}: each once");
        assert_eq!(alerts.into_iter().collect::<BTreeSet<_>>(), ids, "seed {seed}");
    }
}
