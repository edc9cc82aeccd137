//! Patterns and joins of the Rust builder: the plans that the file makes, the same rows, the same words for mistakes.

use std::collections::BTreeMap;

use granary_core::Grain;
use granary_core::time::{hours, mins, secs};
use granary_macros::grain;
use granary_streams::builder::{
    Follow, Interval, JoinKind, Keyed, Pairs, SameWindow, Sequence, Stage, Stream, Versions,
};
use granary_streams::{Plan, file};
use granary_truth_tests::{Draw, Input, run_sources};

#[derive(serde::Deserialize)]
struct Payment {
    id: String,
    card: String,
    at: i64,
    amount: i64,
    country: String,
}

fn payments() -> Keyed<Payment> {
    let payments = Stream::<Payment>::topic("payments").event_time(|p| p.at).dedupe_by(|p| p.id.clone());
    let payments = payments.out_of_orderness(mins(10)).idle_after(mins(1)).key_by(|p| &p.card);
    payments.field("amount", |p| &p.amount).field("country", |p| &p.country)
}

fn escalation() -> Follow<Sequence> {
    let stages = [
        Stage::new("small").when("amount < 100").times(1..=2),
        Stage::absent().when("country != small.country"),
        Stage::new("large").when("amount > small.amount * 10"),
    ];
    payments().pattern(stages).named("escalation").within(hours(1)).timeouts().skip_to_first("large")
}

const SAME_PATTERN: &str = "
pipeline: payments
sources:
  payments:
    topic: payments
    decode:
      format: json
      fields:
        at: {type: time_ms}
        id: {type: text}
        key: {from: card, type: text}
        amount: {type: integer}
        country: {type: text}
    id: id
    key: key
    event_time: at
    watermark: {per: key, out_of_orderness: 10m, idle_after: 1m}
steps:
  escalation:
    from: payments
    dedup: {by: id}
    pattern:
      within: 1h
      timeouts: true
      skip: {to_first: large}
      stages:
        - {name: small, when: amount < 100, times: 1..2}
        - {absent: true, when: country != small.country}
        - {name: large, when: amount > small.amount * 10}
      fields: [amount]
sinks:
  found: {from: escalation, topic: found}
";

/// Payments of forty cards, up to eight minutes out of order, copies among them.
fn some_payments() -> Vec<(u16, Input)> {
    let mut draw = Draw(4);
    let payment = |no: i64| {
        let at = 3_600_000 + no * 20_000 - draw.below(500_000) as i64;
        let amount = [draw.below(100), 100 + draw.below(900)][draw.below(2) as usize];
        let country = if draw.below(8) == 0 { "fr" } else { "de" };
        let (id, card) = (no - no % 9 / 8, draw.below(40));
        let value = format!(
            r#"{{"id":"p-{id}","card":"c-{card}","at":{at},"amount":{amount},"country":"{country}"}}"#
        );
        (0, Input { appended_at: at, value: value.into_bytes() })
    };
    (0..1_500).map(payment).collect()
}

/// The rows of a sink by their identities, with commits and crashes as the seed says.
fn rows_of(plan: Plan, records: &[(u16, Input)], sink: &str, seed: u64) -> BTreeMap<String, String> {
    let driver = run_sources(plan, records, seed);
    assert!(driver.counts().is_balanced() && driver.counts().rejected == 0);
    driver.stream(sink).iter().map(|sent| (sent.id.clone(), sent.value.clone())).collect()
}

#[track_caller]
fn must_be_the_same(
    built: impl Fn() -> Plan,
    written: &str,
    records: &[(u16, Input)],
    (sink, least): (&str, usize),
) {
    let from_file = file::parse(written).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(built().shapes(), from_file.shapes());
    assert_eq!(built().streams(), from_file.streams());
    assert_eq!(built().notices(), from_file.notices());
    let from_file = rows_of(from_file, records, sink, 0);
    assert!(from_file.len() > least, "{}", from_file.len());
    for seed in [0, 5] {
        assert_eq!(rows_of(built(), records, sink, seed), from_file, "seed {seed}");
    }
}

#[test]
fn a_pattern_of_the_builder_is_that_of_the_file() {
    let built = || escalation().show(["amount"]).to_topic("found").plan().unwrap();
    must_be_the_same(built, SAME_PATTERN, &some_payments(), ("found", 300));
    let dropped = escalation().drop_state(2).to_topic("found").plan().unwrap();
    assert_eq!(dropped.drops().collect::<Vec<_>>(), [("escalation", 2)]);
}

#[derive(serde::Deserialize)]
struct Order {
    id: String,
    order: String,
    at: i64,
    amount: i64,
}

#[derive(serde::Deserialize)]
struct Shipment {
    no: String,
    of: String,
    at: i64,
    carrier: String,
}

fn orders() -> Keyed<Order> {
    let orders = Stream::<Order>::topic("orders").event_time(|o| o.at).dedupe_by(|o| o.id.clone());
    let orders = orders.out_of_orderness(mins(1)).idle_after(mins(1)).filter(|o| o.amount > 10);
    orders.key_by(|o| &o.order).field("amount", |o| &o.amount)
}

fn shipments() -> Keyed<Shipment> {
    let shipments = Stream::<Shipment>::topic("shipments").event_time(|s| s.at).dedupe_by(|s| s.no.clone());
    let shipments = shipments.out_of_orderness(mins(2)).idle_after(mins(1)).key_by(|s| &s.of);
    shipments.field("carrier", |s| &s.carrier)
}

const SAME_JOIN: &str = "
pipeline: orders
sources:
  orders:
    topic: orders
    decode:
      format: json
      fields: {at: {type: time_ms}, id: {type: text}, key: {from: order, type: text}, amount: {type: integer}}
    id: id
    key: key
    event_time: at
    watermark: {out_of_orderness: 1m, idle_after: 1m}
  shipments:
    topic: shipments
    decode:
      format: json
      fields: {at: {type: time_ms}, no: {type: text}, key: {from: of, type: text}, carrier: {type: text}}
    id: no
    key: key
    event_time: at
    watermark: {out_of_orderness: 2m, idle_after: 1m}
steps:
  large: {from: orders, filter: amount > 10}
  shipped:
    join:
      left: large
      right: shipments
      OVER
      fields: {left: [amount], right: [carrier]}
      dedup: {left: id, right: no}
sinks:
  rows: {from: shipped, topic: rows}
";

/// Orders and shipments of a hundred numbers, some twice.
fn some_orders() -> Vec<(u16, Input)> {
    let mut draw = Draw(6);
    let event = |no: i64| {
        let (of, at) = (draw.below(100), 3_600_000 + no * 4_000 - draw.below(60_000) as i64);
        let id = no - no % 9 / 8;
        let amount = draw.below(40);
        let carrier = ["post", "rail", "ship"][draw.below(3) as usize];
        let order = format!(r#"{{"id":"o-{id}","order":"{of}","at":{at},"amount":{amount}}}"#);
        let shipment = format!(r#"{{"no":"s-{id}","of":"{of}","at":{at},"carrier":"{carrier}"}}"#);
        let (source, value) = [(0, order), (1, shipment)][draw.below(2) as usize].clone();
        (source, Input { appended_at: at, value: value.into_bytes() })
    };
    (0..1_500).map(event).collect()
}

#[test]
fn joins_of_the_builder_are_those_of_the_file() {
    const INTERVAL: Interval = Interval::between_ms(-300_000, 1_800_000);
    type Built = fn() -> Follow<Pairs>;
    let cases: [(Built, &str); 4] = [
        (
            || orders().join(shipments(), INTERVAL).kind(JoinKind::Outer),
            "interval: {lower: -5m, upper: 30m}\n      type: outer",
        ),
        (
            || {
                let join = orders().join(shipments(), INTERVAL.lower_exclusive().upper_exclusive());
                join.allowed_lateness(mins(3))
            },
            "interval: {lower: -5m, upper: 30m, lower_inclusive: false, upper_inclusive: false}\n      allowed_lateness: 3m",
        ),
        (
            || {
                let join = orders().join(shipments(), SameWindow::of(mins(10))).kind(JoinKind::Right);
                join.show_left(["amount"]).show_right(["carrier"])
            },
            "window: 10m\n      type: right",
        ),
        (
            || orders().join(shipments(), Versions).kind(JoinKind::Left).deleted("carrier == 'post'"),
            "version: true\n      type: left\n      deleted: carrier == 'post'",
        ),
    ];
    for (join, written) in cases {
        let plan = || join().named("shipped").to_topic("rows").plan();
        let plan = || plan().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        must_be_the_same(plan, &SAME_JOIN.replace("OVER", written), &some_orders(), ("rows", 100));
    }
}

/// A grain without a body: the pipeline only makes its calls.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Card {
    noted: Vec<String>,
}

#[grain(crate = granary_core)]
impl Card {
    fn note(&mut self, pattern: String) {
        self.noted.push(pattern);
    }
}

#[test]
fn rows_of_a_pattern_call_the_grain_of_their_key() {
    let plan = escalation().to_grain::<Card>("note").plan().unwrap();
    let driver = run_sources(plan, &some_payments(), 3);
    assert!(driver.tells.len() > 300);
    for (grain, method, arguments) in &driver.tells {
        assert_eq!((&*grain.kind, method.as_str()), (Card::KIND, "note"));
        let row = rmpv::decode::read_value(&mut &arguments[..]).unwrap();
        assert_eq!(serde_json::to_value(row).unwrap()["key"], *grain.key.routing_key());
    }
}

#[test]
fn mistakes_in_patterns_and_joins_are_said_in_the_words_of_the_file() {
    let small = || Stage::new("small").when("amount < 100");
    let pattern = |stages: Vec<Stage>| payments().pattern(stages).named("found").to_topic("found").plan();
    let found = |join: Follow<Pairs>| join.named("found").to_topic("found").plan();
    let near = || orders().join(shipments(), Interval::between_ms(0, 1));
    let valid = || orders().join(shipments(), Versions);
    let large = |when: &str| vec![small(), Stage::new("large").when(when)];
    for (plan, expected) in [
        (
            pattern(large("amount > smal.amount")),
            "step `found`: stage 1: unknown field `smal`; did you mean `small`?",
        ),
        (
            pattern(large("amount > small.amont")),
            "stage 1: unknown field of `small`: `amont`; did you mean `amount`?",
        ),
        (pattern(large("amount + 1")), "stage 1: when: true or false expected, the expression gives int"),
        (pattern(large("country + amount == country")), "does not fit string and int"),
        (pattern(vec![]), "stages: the first stage has to take an event"),
        (pattern(vec![small(), small()]), "name: stage 1: another one is called `small`"),
        (pattern(vec![small().times(0)]), "times: stage 0: the most is at least the least"),
        (pattern(vec![small().times(1_001)]), "stage 0: times: 1000 at most"),
        (pattern(vec![Stage::new("amount")]), "`amount` is the name of a field: call the stage otherwise"),
        (
            pattern(vec![Stage::new("sm-all")]),
            "stage `sm-all`: a letter, then letters, digits or `_` expected",
        ),
        (pattern(vec![small(), Stage::absent().optional()]), "stage 1: an absent stage takes no event"),
        (pattern(vec![small(), Stage::absent()]), "how long an absence at the end lasts is not said"),
        (
            escalation().within(secs(0)).to_topic("found").plan(),
            "step `escalation`: within: more than nothing",
        ),
        (
            payments().pattern([small()]).timeouts().to_topic("found").plan(),
            "timeouts: without `within` no time runs out",
        ),
        (
            escalation().skip_to_last("larg").to_topic("found").plan(),
            "unknown stage `larg`; did you mean `large`?",
        ),
        (
            escalation().show(["amout"]).to_topic("found").plan(),
            "unknown field `amout`; did you mean `amount`?",
        ),
        (escalation().show(["amount", "amount"]).to_topic("found").plan(), "`amount` stands twice"),
        (escalation().plan(), "the pipeline has no sink"),
        (escalation().named("payments").to_topic("found").plan(), "`payments` is the name of a source too"),
        (
            payments().field("id", |p| &p.id).pattern([small()]).to_topic("found").plan(),
            "field `id` of `payments` stands twice",
        ),
        (
            found(orders().join(shipments(), Interval::between_ms(1, 0))),
            "nothing lies between `lower` and `upper`",
        ),
        (found(valid().kind(JoinKind::Outer)), "a join with versions is `inner` or `left`"),
        (found(near().deleted("carrier == ''")), "deleted: only a join with versions has a table"),
        (found(valid().deleted("carier == ''")), "unknown field `carier`; did you mean `carrier`?"),
        (
            found(orders().join(shipments(), SameWindow::of(mins(1))).allowed_lateness(mins(1))),
            "a join of windows has none",
        ),
        (found(near().show_left(["carrier"])), "unknown field `carrier`"),
        (
            Stream::<Order>::topic("a")
                .pipeline("a")
                .key_by(|o| &o.order)
                .join(Stream::<Order>::topic("b").pipeline("b").key_by(|o| &o.at), Interval::between_ms(0, 1))
                .to_topic("found")
                .plan(),
            "the key `key` of `a` is text, the key `key` of `b` is any: equal keys would not meet",
        ),
        (
            Stream::<Order>::topic("a")
                .pipeline("a")
                .key_by(|o| &o.order)
                .join(Stream::<Order>::topic("a").pipeline("b").key_by(|o| &o.id), Interval::between_ms(0, 1))
                .to_topic("found")
                .plan(),
            "step `a-a-join`: one pipeline has two names, `a` and `b`",
        ),
    ] {
        let mistakes = plan.unwrap_err().to_string();
        assert!(mistakes.contains(expected), "{expected}: {mistakes}");
    }
}
