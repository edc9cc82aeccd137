//! The pipeline file: the sample of the formats page, and mistakes.

use granary_cluster::StreamId;
use granary_core::time::secs;
use granary_window::{Emit, Function, Horizon, Lateness, Quantile, Window};

use super::parse;
use crate::decode::Kind;
use crate::plan::{Does, From, Plan, Target};

const BOONTADATA: &str = include_str!("../../../deploy/examples/boontadata/pipeline.yaml");

fn mistakes(text: &str) -> Vec<String> {
    parse(text).expect_err("it has mistakes").iter().map(ToString::to_string).collect()
}

fn plan(text: &str) -> Plan {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn changed(from: &str, to: &str) -> String {
    assert!(BOONTADATA.contains(from), "the sample holds `{from}`");
    BOONTADATA.replacen(from, to, 1)
}

#[test]
fn the_sample_is_read_as_it_stands() {
    let plan = plan(BOONTADATA);
    assert_eq!(&*plan.name, "boontadata");
    let source = &plan.sources[0];
    assert_eq!((&*source.topic, source.key, source.id), ("boontadata", 1, Some(0)));
    assert_eq!(source.watermark.idle_after, Some(secs(10)));
    assert_eq!(source.watermark.future_guard, None);
    let crate::plan::Decoder::Schema(schema) = &source.decoder else { panic!("a schema") };
    assert_eq!(schema.fields[3].kind, Kind::TimeMs { digits: 1..=15, quoted: true });
    assert_eq!(schema.fields[5].kind, Kind::Double { range: -1e12..=1e12 });
    let step = plan.steps[0].window().expect("a window step");
    assert_eq!(step.spec.window, Window::Tumbling { size: secs(5), offset: 0 });
    assert_eq!((step.spec.allowed_lateness, step.spec.emit), (Lateness::Forever, Emit::Watermark));
    assert_eq!(step.spec.dedup.map(|dedup| dedup.horizon), Some(Horizon::Pane));
    assert_eq!((&step.id[..], step.by[0].index), (&[0][..], 2));
    assert_eq!(step.spec.aggregates[1].function, Function::Sum);
    assert_eq!(step.inputs, [4, 5]);
    assert!(matches!(&plan.sinks[0].to, Target::Topic(topic) if &**topic == "boontadata-results"));
    assert_eq!(plan.sinks[0].from, From::Step(0));
    assert_eq!(plan.streams(), ["aggregates", "rejected", "late", "poisoned"]);
    assert_eq!(plan.topic(plan.stream("late").unwrap(), "dev"), "granary.dev.boontadata.late");
    assert_eq!(plan.notices().len(), 1, "forever is said at start");
}

#[test]
fn all_mistakes_come_at_once_with_their_places() {
    let text = "\
pipeline: 7up
sources:
  readings:
    topic: readings
    start: newest
    decode:
      format: jsn
      fields:
        device: {type: txt, chars: 1..128}
        at: {type: time_ms, digits: 15..1}
    key: device
    event_time: at
    watermark: {per: keys, out_of_orderness: 5 s}
sinks: {}
";
    let found = mistakes(text);
    let expected = [
        "line 1, column 11: pipeline `7up`: a letter, then",
        "line 5, column 12: unknown start `newest`;",
        "line 7, column 15: unknown format `jsn`; did you mean `json`? allowed: json, delimited, messagepack",
        "line 9, column 24: unknown type `txt`; did you mean `text`?",
        "line 10, column 37: digits: a range such as 1..15 expected, `15..1` found",
        "line 13, column 22: unknown per `keys`; did you mean `key`? allowed: key, partition",
        "line 13, column 46: out_of_orderness: a length such as 250ms, 5s, 15m, 1h or 1d expected, `5 s` found",
        "line 14, column 8: sinks: at least one is needed",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn unknown_words_name_the_nearest() {
    for (from, to, expected) in [
        ("allowed_lateness", "allowed_latness", "did you mean `allowed_lateness`?"),
        ("avg(m2)", "average(m2)", "unknown aggregate `average`"),
        ("sum(m1)", "sum(m3)", "unknown field `m3`; did you mean `m1`?"),
        ("from: totals", "from: total", "unknown source or step `total`; did you mean `totals`?"),
        ("key: device", "key: devise", "did you mean `device`?"),
        ("type: tumbling", "type: tumblin", "did you mean `tumbling`?"),
        ("size: 5s", "size: 5s, slide: 1s", "unknown name `slide`"),
        ("by: [category]", "by: [m2]", "`m2` is a double"),
        ("emit: watermark", "emit: retract", "unknown emit `retract`"),
        ("size: 5s", "size: 0s", "window.size: must be greater than 0"),
    ] {
        let found = mistakes(&changed(from, to));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{to}: {found:#?}");
        assert_eq!(found.len(), 1, "{to}: {found:#?}");
    }
}

#[test]
fn sketches_say_how_accurate_they_are() {
    let function = |aggregate: &str| {
        let plan = plan(&changed("avg(m2)", aggregate));
        plan.steps[0]
            .window()
            .unwrap()
            .spec
            .aggregates
            .iter()
            .find(|a| &*a.name == "m2_avg")
            .unwrap()
            .function
    };
    assert_eq!(function("approx_distinct(id)"), Function::ApproxDistinct);
    assert_eq!(function("quantile(m2, 0.999)"), Function::Quantile(Quantile::of(0.999)));
    let finer = Quantile { q_ppm: 70_000, accuracy_ppm: 2_500 };
    assert_eq!(function("'quantile(m1,.07, 0.0025)'"), Function::Quantile(finer));
    for (aggregate, expected) in [
        ("quantile(m2, 1.01)", "q from 0 to 1, with six decimals at most, expected, `1.01` found"),
        ("quantile(m2, -0.5)", "q from 0 to 1"),
        ("quantile(m2, 0.9999999)", "with six decimals at most"),
        ("quantile(m2, NaN)", "q from 0 to 1"),
        ("quantile(m2, half)", "`half` found"),
        (
            "quantile(m2, 0.5, 0)",
            "an accuracy from 0.001 to 0.5, with six decimals at most, expected, `0.5, 0` found",
        ),
        ("quantile(m2, 0.5, 0.6)", "an accuracy from 0.001 to 0.5"),
        ("quantile(m2, 0.5, inf)", "an accuracy from 0.001 to 0.5"),
        (
            "quantile(m2)",
            "`quantile` takes two arguments, or three with its accuracy: write quantile(m1, 0.99)",
        ),
        ("quantile(m2, 0.5, 0.1, 1)", "`quantile` takes two arguments"),
        ("quantile(category, 0.5)", "quantile: a number expected, `category` is none"),
        ("approx_distinct()", "`approx_distinct` takes one argument"),
        ("quantiles(m2, 0.5)", "unknown aggregate `quantiles`; did you mean `quantile`?"),
    ] {
        let found = mistakes(&changed("avg(m2)", &format!("'{aggregate}'")));
        assert!(found.len() == 1 && found[0].contains(expected), "{aggregate}: {found:#?}");
    }
    let (before, rest) = BOONTADATA.split_once("    aggregates:").unwrap();
    let sinks = &rest[rest.find("sinks:").unwrap()..];
    let within = |braces: &str| format!("{before}    aggregates: {{{braces}}}\n{sinks}");
    plan(&within("p99: 'quantile(m2, 0.99)'"));
    let found = mistakes(&within("p99: quantile(m2, 0.99)"));
    assert!(found.iter().any(|m| m.contains("put quotes around what has a comma")), "{found:#?}");
}

#[test]
fn only_a_topic_is_written_to_before_the_commit() {
    let eager: Vec<StreamId> = plan(BOONTADATA).eager_streams().collect();
    assert_eq!(eager, []);
    let text = changed("delivery: exactly_once", "delivery: eager");
    assert_eq!(plan(&text).eager_streams().collect::<Vec<_>>(), [StreamId(0)]);
    let text = text.replacen("topic: boontadata-results", "file: out.csv", 1);
    let found = mistakes(&text);
    assert!(found[0].contains("only a `topic`") && found[0].contains("exactly_once"), "{found:#?}");
}

#[test]
fn what_is_not_built_is_said() {
    for (from, to) in [
        ("topic: boontadata-results", "topic: boontadata-results, webhook: x"),
        ("format: json ", "format: avro "),
        ("horizon: pane", "horizon: pane, keep: last"),
    ] {
        let found = mistakes(&changed(from, to));
        assert!(found.iter().any(|mistake| mistake.contains("not supported yet")), "{to}: {found:#?}");
    }
    let second = changed("sinks:\n", "  more:\n    from: totals\n    filter: count > 3\nsinks:\n");
    let found = mistakes(&second);
    assert!(found[0].contains("this step reads events, and the one it names gives results"), "{found:#?}");
}

#[test]
fn filters_and_maps_are_compiled_once_and_point_at_the_place() {
    let with = |filter: &str| {
        changed(
            "  totals:\n    from: measurements",
            &format!(
                "  warm: {{from: measurements, filter: \"{filter}\"}}\n  scaled: {{from: warm, map: {{m2: m2 * 2.0}}}}\n  totals:\n    from: scaled"
            ),
        )
    };
    let plan = plan(&with("m2 > 20.5 && category != 'x'"));
    assert!(matches!(plan.steps[0].does, Does::Filter(_)) && matches!(plan.steps[1].does, Does::Map(_)));
    let window = plan.steps[2].window().expect("a window step");
    assert_eq!(window.inputs, [4, 6], "the mapped m2 hides the first one");
    let line = 1 + with("x").lines().position(|line| line.contains("warm: {")).unwrap();
    let found = mistakes(&with("m2 > 20.5 && m9 != 1"));
    assert!(
        found[0].starts_with(&format!("line {line}, column 52: unknown field `m9`; did you mean `m")),
        "{found:#?}"
    );
    let found = mistakes(&with("m2 > > 1"));
    assert!(found[0].starts_with(&format!("line {line}, column 4")), "{found:#?}");
    let found = mistakes(&with("m1 + 1"));
    assert!(found[0].contains("true or false expected"), "{found:#?}");
}

const STEPS: &str = "\
pipeline: shop
sources:
  orders:
    topic: orders
    decode: {format: json, fields: {id: {type: text}, card: {type: text}, at: {type: time_ms}, amount: {type: integer}}}
    id: id
    key: card
    event_time: at
    watermark: {out_of_orderness: 5s}
  refunds:
    topic: refunds
    decode: {format: json, fields: {card: {type: text}, at: {type: time_ms}, sum: {type: integer}}}
    key: card
    event_time: at
    watermark: {out_of_orderness: 5s, idle_after: 10s}
sinks: {found: {from: found, topic: found}, both: {from: both, topic: both}}
steps:
  found:
    from: orders
    pattern:
      within: 1h
      skip: {to_first: large}
      timeouts: true
      stages:
        - {name: small, when: amount < 100, times: 1..3, optional: false, contiguity: followed_by, inner: next}
        - {absent: true, when: card != small.card}
        - {name: large, when: amount > small.amount * 10}
      fields: [amount]
  both:
    join: {left: orders, right: refunds, interval: {lower: -5m, upper: 1h}, type: left, fields: {left: [amount]}}
";

#[test]
fn patterns_and_joins_are_read() {
    use granary_window::join::{Kind as Joined, Over};
    use granary_window::pattern::{Contiguity, Skip};
    let plan = plan(STEPS);
    let pattern = plan.steps[0].pattern().expect("a pattern");
    let stages = &pattern.pattern.stages;
    assert_eq!((stages[0].times_min, stages[0].times_max, stages[0].inner), (1, Some(3), Contiguity::Next));
    assert!(stages[1].is_absent && pattern.pattern.timeouts && pattern.pattern.skip == Skip::ToFirst(2));
    let kept: Vec<&str> = pattern.kept.iter().map(|column| &*column.name).collect();
    assert_eq!(
        (kept, pattern.shown),
        (vec!["amount", "card"], 1),
        "conditions need the card, rows do not show it"
    );
    let join = plan.steps[1].join().expect("a join");
    let interval = Over::Interval {
        lower_ms: -300_000,
        upper_ms: 3_600_000,
        lower_included: true,
        upper_included: true,
    };
    assert_eq!((join.join.over, join.join.kind), (interval, Joined::Left));
    assert_eq!(
        (join.sides[0].shown.len(), join.sides[1].shown.len()),
        (1, 3),
        "all columns unless it is said"
    );
    let notices = plan.notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("`orders` has no `idle_after`"), "{notices:?}");
    let shapes = plan.shapes();
    assert_eq!(plan.drops().collect::<Vec<_>>(), [("found", 0), ("both", 0)]);
    for (from, to) in [
        ("times: 1..3", "times: 1..4"),
        ("within: 1h", "within: 2h"),
        ("amount < 100", "amount < 101"),
        ("fields: [amount]\n", "fields: [card]\n"),
        ("upper: 1h", "upper: 2h"),
        ("type: left", "type: inner"),
        ("left: [amount]", "left: [id]"),
    ] {
        assert_ne!(self::plan(&STEPS.replacen(from, to, 1)).shapes(), shapes, "{to}");
    }
    let dropped = STEPS.replacen("    from: orders\n", "    from: orders\n    drop_state: 1\n", 1);
    let state = |plan: &Plan| plan.steps[0].state().expect("it has state").prefix.to_vec();
    let prefixes = (state(&plan), state(&self::plan(&dropped)));
    assert_eq!(prefixes, (b"w/found/".to_vec(), b"w/found#1/".to_vec()));
}

#[test]
fn the_example_of_orders_is_read() {
    let plan = plan(include_str!("../../../deploy/examples/orders/pipeline.yaml"));
    let join = plan.steps[0].join().expect("a join");
    assert_eq!(join.sides.each_ref().map(|side| side.dedup.clone()), [[0], [0]]);
    assert!(plan.steps[1].pattern().is_some() && plan.notices().is_empty());
}

#[test]
fn mistakes_in_patterns_and_joins_are_named_with_their_places() {
    for (from, to, expected) in [
        ("small.amount", "smal.amount", "line 27, column 40: unknown field `smal`; did you mean `small`?"),
        (
            "small.amount",
            "small.amont",
            "line 27, column 46: unknown field of `small`: `amont`; did you mean `amount`?",
        ),
        ("amount < 100", "large.amount < 100", "unknown field `large`"),
        ("amount < 100", "amount + 100", "when: true or false expected, the expression gives int"),
        ("amount > small.amount * 10", "amount > small", "`small` is no value: name one of its fields"),
        ("card != small.card", "card + small.amount == card", "does not fit string and int"),
        ("{to_first: large}", "{to_first: larg}", "unknown stage `larg`; did you mean `large`?"),
        ("{to_first: large}", "past_lst", "unknown skip `past_lst`; did you mean `past_last`?"),
        ("times: 1..3", "times: 3..1", "times: 2, 1..3 or 1.. expected"),
        ("name: small", "name: amount", "`amount` is the name of a field"),
        ("absent: true,", "absent: true, name: x,", "an absent stage takes no event and has no name"),
        ("fields: [amount]\n", "fields: [amout]\n", "unknown field `amout`; did you mean `amount`?"),
        ("      within: 1h\n", "", "timeouts: without `within` no time runs out"),
        ("inner: next", "inner: strict", "unknown inner `strict`"),
        ("timeouts: true", "timeouts: true\n      greedy: true", "unknown name `greedy`"),
        ("right: refunds", "right: refund", "unknown source or step `refund`; did you mean `refunds`?"),
        ("right: refunds", "right: found", "`found` gives results: a join reads sources, filters and maps"),
        ("interval: {lower: -5m", "interval: {lower: 5h", "nothing lies between"),
        (
            "interval: {lower: -5m, upper: 1h}",
            "version: true, window: 5m",
            "one of `interval`, `window` and `version`",
        ),
        (
            "interval: {lower: -5m, upper: 1h}, type: left",
            "version: true, type: outer",
            "is `inner` or `left`",
        ),
        ("left: [amount]", "left: [sum]", "unknown field `sum`"),
        ("type: left", "type: left, dedup: {left: id, both: id}", "unknown name `both`"),
        ("type: left", "type: left, deleted: sum > 1", "only a join with versions has a table"),
        (
            "{format: json, fields: {card: {type: text}",
            "{format: json, fields: {card: {type: integer}",
            "the key `card` of `orders` is text, the key `card` of `refunds` is int: equal keys would not meet in one slot",
        ),
    ] {
        assert!(STEPS.contains(from), "{from}");
        let found = mistakes(&STEPS.replacen(from, to, 1));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{to}: {found:#?}");
    }
}

#[test]
fn yaml_that_is_none_is_said_with_its_place() {
    assert!(
        mistakes("a: [1, 2").first().is_some_and(|m| m.contains("not YAML")),
        "{:?}",
        mistakes("a: [1, 2")
    );
    assert!(mistakes("").first().is_some_and(|m| m.contains("empty")));
    let twice = changed("pipeline: boontadata", "pipeline: boontadata\npipeline: again");
    assert!(mistakes(&twice)[0].contains("`pipeline` stands twice"), "{:?}", mistakes(&twice));
    assert!(mistakes("a: &x 1\nb: *x\n").iter().any(|m| m.contains("aliases are not supported")));
}

#[test]
fn every_shape_change_is_visible() {
    let shape = |text: &str| plan(text).shapes()[0].1.clone();
    let first = shape(BOONTADATA);
    for (from, to) in
        [("size: 5s", "size: 6s"), ("min(m1)", "max(m1)"), ("by: [category]", "by: []"), ("by: id", "by: at")]
    {
        assert_ne!(shape(&changed(from, to)), first, "{to}");
    }
    assert_eq!(shape(&changed("topic: boontadata\n", "topic: other\n")), first, "a topic is no shape");
}

#[test]
fn a_step_whose_state_is_dropped_has_other_cells() {
    let prefix = |text: &str| plan(text).steps[0].window().expect("a window step").prefix.to_vec();
    let dropped = changed("    from: measurements\n", "    from: measurements\n    drop_state: 2\n");
    assert_eq!((prefix(BOONTADATA), prefix(&dropped)), (b"w/totals/".to_vec(), b"w/totals#2/".to_vec()));
    let drops = plan(&dropped);
    assert_eq!(drops.drops().collect::<Vec<_>>(), [("totals", 2)]);
    assert_ne!(plan(BOONTADATA).text(), drops.text());
    assert_eq!(plan(BOONTADATA).text(), plan(BOONTADATA).text());
    let found =
        mistakes(&changed("    from: measurements\n", "    from: measurements\n    drop_state: yes\n"));
    assert!(found[0].contains("drop_state: a whole number from 0"), "{found:#?}");
    let found = mistakes(&changed(
        "  totals:\n",
        "  warm: {from: measurements, filter: \"m2 > 1.0\", drop_state: 1}\n  totals:\n",
    ));
    assert!(found[0].contains("only windows, patterns and joins have a state of their own"), "{found:#?}");
}

#[test]
fn rules_on_windows_name_what_rows_have() {
    let pipeline = BOONTADATA.replace("sinks:", "  watch: {from: totals, rules: r.yaml}\nsinks:");
    let rules = |id: &str, time: &str, field: &str, per: &str| {
        format!(
            "schema: fraud-rules/v1\nstream: totals\nevent: {{id: {id}, time: {time}, fields: {{device: text, {field}: integer}}}}\n\
             rules:\n  - {{id: r, kind: threshold, per: {per}, when: {field} > 60}}\n"
        )
    };
    let parse = |rules: String| crate::file::parse_beside(&pipeline, &|_| Ok(rules.clone()));
    parse(rules("window", "window_end", "m1_sum", "device")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    for (rules, words) in [
        (rules("device", "window_end", "m1_sum", "device"), "write `id: window`"),
        (rules("window", "at", "m1_sum", "device"), "`window_start` and `window_end`"),
        (rules("window", "window_end", "m3_sum", "device"), "no column `m3_sum`"),
        (rules("window", "window_end", "m1_sum", "m1_sum"), "no source of these rules has that key"),
    ] {
        let message = parse(rules).unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
}
