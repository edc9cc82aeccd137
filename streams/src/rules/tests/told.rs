//! What is said of events: cases, fields that alerts show, mutes.

use std::sync::Arc;

use granary_core::codec;

use super::{HEAD, parsed, rules};
use crate::plan::Bundle;
use crate::rules::mutes::Mute;
use crate::rules::*;

/// All that is said of events, given as JSON.
fn told(rules: &Rules, events: &[String]) -> Vec<serde_json::Value> {
    let mut judges = Judges::new(Arc::new(rules.clone()));
    let reader = Reader::new(rules.spec());
    let mut told = Vec::new();
    for record in events {
        let mut event = Event::default();
        reader.json(record.as_bytes(), &mut event).unwrap();
        let setting = alert::Setting { recorded_at: event.time(), sequence: 0, revision: 0 };
        judges.event(&event, &mut |said| told.extend(alert::cloud_events(rules, &said, setting)));
    }
    told
}

/// A payment of 2.00 so many minutes after the beginning.
fn payment(id: u32, minute: i64, card: &str, shop: &str) -> String {
    let time = 1_704_067_200 + minute * 60;
    format!(r#"{{"id":{id},"ts":{time},"card":"{card}","shop":"{shop}","amount":2.00}}"#)
}

/// Type, case and number in it.
fn of_case(event: &serde_json::Value) -> (&str, &str, u64) {
    let case = &event["data"]["case"];
    assert_eq!(case["id"], event["correlationid"]);
    let kind = event["type"].as_str().unwrap().trim_start_matches("fraud.");
    (kind, case["id"].as_str().unwrap_or("none"), case["alerts"].as_u64().unwrap_or(0))
}

#[test]
fn alerts_of_a_key_that_follow_each_other_closely_are_one_case() {
    let rules = rules(
        "  - {id: a, kind: threshold, per: card, cooldown: 0s, when: shop == \"m\", case: {per: card, open_for: 1h}}
  - {id: b, kind: threshold, per: [card, shop], cooldown: 0s, when: shop == \"n\", severity: critical, case: {per: [card], open_for: 60m}}
  - {id: c, kind: threshold, per: card, cooldown: 0s, when: shop == \"o\"}
",
    );
    let events = [
        payment(1, 0, "x", "m"),
        payment(2, 60, "x", "n"),  // just in time, and by another rule
        payment(3, 60, "y", "m"),  // another key
        payment(4, 90, "x", "o"),  // a rule without cases: prolongs none
        payment(5, 121, "x", "m"), // too late
    ];
    let told = told(&rules, &events);
    let found: Vec<_> = told.iter().map(of_case).collect();
    let [x, y, z] = [found[0].1, found[3].1, found[7].1];
    assert!(x.starts_with("case_") && x.len() == 31 && x != y && x != z && y != z, "{x} {y} {z}");
    let expected = [
        ("case.opened", x, 1),
        ("alert.raised", x, 1),
        ("alert.raised", x, 2),
        ("case.opened", y, 1),
        ("alert.raised", y, 1),
        ("alert.raised", "none", 0),
        ("case.closed", x, 2),
        ("case.opened", z, 1),
        ("alert.raised", z, 1),
    ];
    assert_eq!(found, expected);
    let (opened, closed) = (&told[0], &told[6]);
    assert_eq!((&opened["time"], &opened["subject"]), (&"2024-01-01T00:00:00Z".into(), &"card/x".into()));
    assert_eq!(closed["time"], "2024-01-01T02:00:00Z", "an hour after the last");
    assert_eq!(closed["data"]["case"]["last"], "2024-01-01T01:00:00Z");
    assert_eq!((&opened["severitynumber"], &closed["severitynumber"]), (&13.into(), &21.into()));
    assert_eq!(closed["data"]["rule"]["id"], "a");
    assert_eq!(closed["data"]["reason"], "2 alerts of card x, and no other within 1 hour after the last.");
}

#[test]
fn a_withdrawn_alert_names_its_case_and_opens_none() {
    let rules = rules(
        "  - {id: a, kind: velocity, per: card, cooldown: 0s, window: 1h, measure: max(amount), limit: '< 3.00', case: {per: card, open_for: 1h}}\n",
    );
    let big = payment(3, 9, "x", "m").replace("2.00", "5.00");
    let told = told(&rules, &[payment(1, 0, "x", "m"), payment(2, 10, "x", "m"), big]);
    let found: Vec<_> = told.iter().map(of_case).collect();
    let x = found[0].1;
    let expected =
        [("case.opened", x, 1), ("alert.raised", x, 1), ("alert.raised", x, 2), ("alert.withdrawn", x, 1)];
    assert_eq!(found, expected);
}

#[test]
fn cases_that_cannot_be_are_refused() {
    let of = |rules: &str| {
        let (_, problems) = parsed(&format!("{HEAD}{rules}"));
        problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let rule = |id: &str, per: &str, case: &str| {
        format!("  - {{id: {id}, kind: threshold, per: {per}, when: amount > 1, case: {case}}}\n")
    };
    for (text, expected) in [
        (
            rule("a", "[card, shop]", "{per: shop, open_for: 1h}"),
            "its key is [card, shop], and its cases are per [shop]",
        ),
        (rule("a", "card", "{per: [card, shop], open_for: 1h}"), "its cases are per [card, shop]"),
        (rule("a", "card", "{per: card, open_for: 1hr}"), "a: open_for \"1hr\" is not a duration"),
        (rule("a", "card", "{per: card}"), "`open_for` is missing"),
        (rule("a", "card", "{per: card, open_for: 1h, shut: 2h}"), "unknown name `shut`"),
        (
            rule("a", "card", "{per: card, open_for: 1h}")
                + &rule("b", "[card, shop]", "{per: card, open_for: 2h}"),
            "E123  b: cases per card are open for 2 hours, and for 1 hour by rule a",
        ),
    ] {
        let found = of(&text);
        assert!(found.contains(expected), "{text}{found}");
    }
    let defaults = HEAD.replace("rules:\n", "defaults: {case: {per: card, open_for: 1h}}\nrules:\n");
    let (rules, problems) = parsed(&format!(
        "{defaults}{}{}",
        rule("a", "shop", "none"),
        "  - {id: b, kind: threshold, per: [card, shop], when: amount > 1}\n"
    ));
    let rules = rules.unwrap_or_else(|| panic!("{problems}"));
    let fields: Vec<_> = rules.infos().iter().map(|info| info.case.map(|case| case.fields)).collect();
    assert_eq!(fields, [None, Some(1)]);
}

#[test]
fn an_alert_shows_the_fields_that_its_rule_names_and_no_number_of_a_card() {
    let rules = rules(
        "  - {id: a, kind: threshold, per: shop, cooldown: 0s, when: amount > 1.00, include: [card, amount, lat, is_online, country]}
  - {id: b, kind: threshold, per: card, cooldown: 0s, when: amount > 1.00}
",
    );
    let events = [
        r#"{"id":1,"ts":1,"card":"c-1","shop":"m","amount":2.5,"lat":48.5,"is_online":true}"#.to_owned(),
        r#"{"id":2,"ts":2,"card":"4111 1111 1111 1111","shop":"m","amount":"7.00","country":"XX"}"#
            .to_owned(),
    ];
    let told = told(&rules, &events);
    let shown: Vec<_> = told.iter().map(|event| event["data"].get("include").cloned()).collect();
    let first =
        serde_json::json!({"card": "c-1", "amount": "2.50", "lat": 48.5, "is_online": true, "country": null});
    let second = serde_json::json!({"card": "hidden", "amount": "7.00", "lat": null, "is_online": null, "country": "XX"});
    assert_eq!(shown, [Some(first), None, Some(second), None]);
    for (rule, expected) in [
        ("include: [contry]", "E104  a: unknown field \"contry\". Did you mean \"country\"?"),
        (
            "include: shop, judge: on_watermark",
            "a: include: with `judge: on_watermark` an alert comes later than its event",
        ),
    ] {
        let text = format!("{HEAD}  - {{id: a, kind: threshold, per: card, when: amount > 1, {rule}}}\n");
        let (_, problems) = parsed(&text);
        assert!(problems.to_string().contains(expected), "{problems}");
    }
    let timed = format!("{HEAD}  - {{id: a, kind: silence, per: card, gap: 1h, include: shop}}\n");
    let (_, problems) = parsed(&timed);
    assert!(problems.to_string().contains("a: include: an alert by a timer has no event"), "{problems}");
}

#[test]
fn an_alert_that_comes_later_than_its_event_shows_nothing_of_it() {
    let rules = rules(
        "  - {id: a, kind: velocity, per: card, cooldown: 0s, window: 1h, measure: count, limit: '> 1', include: shop}\n",
    );
    // the first is in time and comes second: it shows that the other is an alert
    let told = told(&rules, &[payment(2, 1, "x", "m"), payment(1, 1, "x", "n"), payment(3, 2, "x", "o")]);
    let shown: Vec<_> =
        told.iter().map(|e| (e["causationid"].clone(), e["data"]["include"].clone())).collect();
    assert_eq!(
        shown,
        [("2".into(), serde_json::Value::Null), ("3".into(), serde_json::json!({"shop": "o"}))]
    );
    assert_eq!(told[0]["data"].get("include"), Some(&serde_json::Value::Null));
}

fn mute(rule: Option<&str>, key: &[(&str, &str)], until: &str) -> Mute {
    let key = key.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
    Mute { rule: rule.map(str::to_owned), key, until: until.to_owned(), reason: "known".to_owned() }
}

#[test]
fn an_alert_is_muted_by_rule_key_and_the_time_of_its_event() {
    let rules = rules(
        "  - {id: a, kind: threshold, per: card, mode: live, cooldown: 0s, when: amount > 1.00, case: {per: card, open_for: 1h}}
  - {id: b, kind: threshold, per: [card, shop], mode: live, cooldown: 0s, when: amount > 1.00}
  - {id: c, kind: threshold, per: [card, shop], cooldown: 0s, when: amount > 1.00}
",
    );
    let until = "2024-01-01T00:10:00Z";
    let muted = |mutes: &[Mute]| {
        let rules = rules.clone().with_mutes(mutes).unwrap();
        let events = [payment(1, 9, "x", "m"), payment(2, 10, "x", "m"), payment(3, 9, "y", "n")];
        let told = told(&rules, &events);
        let alerts = told.iter().filter(|event| event["type"] == "fraud.alert.raised");
        let muted = alerts.filter(|event| event["data"]["muted"]["until"] == until);
        let muted: Vec<String> = muted
            .map(|event| {
                assert!(event["data"]["case"].is_null() && event["correlationid"].is_null());
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                format!("{}{}", text(&event["data"]["rule"]["id"]), text(&event["causationid"]))
            })
            .collect();
        muted.join(" ")
    };
    assert_eq!(muted(&[]), "");
    assert_eq!(muted(&[mute(None, &[("card", "x")], until)]), "a1 b1", "c is in shadow anyway");
    assert_eq!(muted(&[mute(Some("b"), &[("card", "x")], until)]), "b1");
    assert_eq!(
        muted(&[mute(None, &[("shop", "n")], until), mute(Some("a"), &[("card", "x")], until)]),
        "a1 b3"
    );
    assert_eq!(muted(&[mute(None, &[("card", "x"), ("shop", "n")], until)]), "");
    for (wrong, expected) in [
        (mute(Some("z"), &[("card", "x")], until), "there is no rule `z`; there are: a, b, c"),
        (mute(Some("a"), &[("shop", "x")], until), "rule a, shop=x: no rule has such a key: a is per card"),
        (mute(None, &[("country", "x")], until), "all rules, country=x: no rule has such a key"),
        (mute(None, &[("city", "x")], until), "events have no field `city`"),
        (mute(None, &[("card", "x")], "soon"), "`soon` is no time"),
        (mute(None, &[], until), "a mute is for a key"),
    ] {
        let found = rules.clone().with_mutes(&[wrong]).err().unwrap().join("\n");
        assert!(found.contains(expected), "{found}");
    }
    let many = vec![mute(None, &[("card", "x")], until); mutes::MUTES_MAX + 1];
    assert!(rules.clone().with_mutes(&many).is_err());
}

#[test]
fn a_bundle_of_before_there_were_mutes_is_read_and_a_new_one_keeps_those_it_can() {
    #[derive(serde::Serialize)]
    struct Old {
        text: String,
        files: std::collections::BTreeMap<String, String>,
        modes: std::collections::BTreeMap<String, String>,
    }
    let text = format!(
        "{}  - {{id: a, kind: threshold, per: card, when: amount > 1.00}}\n",
        HEAD.replace("lists: {blocked: blocked.txt}\n", "")
    );
    let old = Old { text, files: Default::default(), modes: [("a".to_owned(), "live".to_owned())].into() };
    let old: Bundle = codec::from_bytes(&codec::to_bytes(&old).unwrap()).unwrap();
    assert_eq!((old.mutes.len(), old.rules().unwrap().infos()[0].mode), (0, Mode::Live));
    let mut bundle = old;
    let now = crate::file::rfc3339("2024-01-09T00:00:00Z").unwrap();
    for (rule, card, until) in [
        ("a", "x", "2024-01-07T00:00:00Z"), // over for long
        ("b", "x", "2024-01-08T12:00:00Z"),
        ("a", "y", "2024-01-10T00:00:00Z"),
        ("a", "y", "2024-01-11T00:00:00Z"), // instead of the one before
    ] {
        bundle.mute(mute(Some(rule), &[("card", card)], until), now);
    }
    let stored: Bundle = codec::from_bytes(&codec::to_bytes(&bundle).unwrap()).unwrap();
    assert_eq!(stored, bundle);
    let mut next = Bundle { mutes: Vec::new(), ..bundle.clone() };
    let rules = next.rules().unwrap();
    let dropped = next.keep_mutes(bundle.mutes, &rules);
    assert_eq!(dropped, [mute(Some("b"), &[("card", "x")], "2024-01-08T12:00:00Z")]);
    assert_eq!(next.mutes, [mute(Some("a"), &[("card", "y")], "2024-01-11T00:00:00Z")]);
}
