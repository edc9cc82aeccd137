//! What a rules file is refused for, and how a record is.

use std::sync::Arc;

use granary_core::codec;
use granary_window::rule::Change;

use super::mutes::Mute;
use super::*;
use crate::plan::Bundle;

fn parsed(text: &str) -> (Option<Rules>, Problems) {
    let read = |path: &str| match path {
        "blocked.txt" => Ok("# shops\nm-1\nm-2\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    parse(text, &Options { read: &read, modes: &Default::default(), without_cooldown: false })
}

const HEAD: &str = "\
schema: fraud-rules/v1
stream: payments
event:
  id: id
  time: ts
  amount: {type: money, scale: 2}
  fields: {card: text, shop: text, country: text, lat: float, lon: float, is_online: boolean}
  optional: [country]
lists: {blocked: blocked.txt}
rules:
";

fn rules(text: &str) -> Rules {
    let (rules, problems) = parsed(&format!("{HEAD}{text}"));
    rules.unwrap_or_else(|| panic!("{problems}"))
}

/// The alerts of events, given as JSON: rule and event.
fn alerts(rules: &Rules, events: &[&str]) -> Vec<String> {
    let mut judges = Judges::new(Arc::new(rules.clone()));
    let reader = Reader::new(rules.spec());
    let mut alerts = Vec::new();
    for record in events {
        let mut event = Event::default();
        reader.json(record.as_bytes(), &mut event).unwrap();
        judges.event(&event, &mut |said| {
            let sign = if matches!(said.decision.change, Change::Raised(_)) { "" } else { "-" };
            let id = String::from_utf8_lossy(said.decision.id).into_owned();
            alerts.push(format!("{sign}{}:{id}", rules.infos()[said.rule].id));
        });
    }
    alerts
}

#[test]
fn ten_mistakes_give_ten_messages() {
    let rules = [
        r#"- {id: a, kind: velocity, per: card, window: 30m, measure: sum(amout), limit: '> 3'}"#,
        r#"- {id: b, kind: velocity, per: card, window: 1hr, measure: count, limit: '> 3'}"#,
        r#"- {id: c, kind: deviation, per: card, of: amount, last: 20, min_events: 25, limit: '> 3x'}"#,
        r#"- {id: a, kind: threshold, per: card, when: amount > 1}"#,
        r#"- {id: d, kind: threshold, per: card, when: 'amount > 1 and contry == "XX"'}"#,
        r#"- {id: e, kind: velosity, per: card}"#,
        r#"- {id: f, kind: velocity, per: card, window: 1h, measure: count, limit: 3}"#,
        r#"- {id: g, kind: threshold, per: card, when: amount > "x"}"#,
        r#"- {id: h, kind: zscore, per: card, of: lat, last: 20, limit: '> 3'}"#,
        r#"- {id: i, kind: list, per: card, field: shop, in: blocket}"#,
    ];
    let rules: String = rules.iter().map(|rule| format!("  {rule}\n")).collect();
    let (rules, problems) = parsed(&format!("{HEAD}{rules}"));
    assert!(rules.is_none());
    let found: Vec<String> = problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    let expected = [
        r#"11:66   E104  a: unknown field "amout". Did you mean "amount"?"#,
        r#"12:48   E110  b: window "1hr" is not a duration. Write 1h, 30m, 90s or 7d"#,
        "13:75   E121  c: min_events 25 is more than last 20, the rule could never fire",
        r#"14:5    E130  two rules are called "a" (first at 11:5)"#,
        r#"15:63   E104  d: unknown field "contry". Did you mean "country"?"#,
        "16:19   E100  unknown kind `velosity`; did you mean `velocity`?",
        r#"17:75   E112  f: limit "3" is not one. Write "> 300.00""#,
        "18:54   E106  g: a number cannot be compared with a text",
        r#"19:42   E104  h: "lat" is float, money or decimal or integer expected"#,
        r#"20:53   E125  i: unknown list "blocket". Did you mean "blocked"?"#,
    ];
    assert_eq!(found.len(), expected.len(), "{problems}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn a_test_in_the_file_that_fails_refuses_it() {
    let text = format!(
        "{HEAD}  - {{id: a, kind: threshold, per: card, when: amount > 5.00}}\ntests:\n  \
         - {{rule: a, events: ['10:00 c 5.00', '10:01 c 6.00'], alerts_at: ['10:00']}}\n"
    );
    let (rules, problems) = parsed(&text);
    assert!(rules.is_none());
    assert!(
        problems.to_string().contains("E140  a: its test fails: alerts at 2000-01-01T10:00:00Z expected")
    );
}

#[test]
fn conditions_are_exact_and_know_what_they_do_not_know() {
    for (when, expected) in [
        ("amount > 220.00", "r:2 r:3"),
        ("amount >= 220.00 and shop != \"m-1\"", "r:2 r:3"),
        ("amount * 2 == 440", "r:1"),
        ("amount - 0.01 == 220", "r:2"),
        ("country in [\"XX\", \"YY\"]", "r:3"),
        ("not (country == \"XX\")", "r:2"),
        ("country == \"XX\" or amount < 221", "r:1 r:2 r:3"),
        ("shop in blocked", "r:1 r:2"),
        ("shop.startsWith('m-') && is_online", "r:2"),
        ("lat > 48.5", "r:3"),
    ] {
        let rules = rules(&format!(
            "  - {{id: r, kind: threshold, per: card, cooldown: 0s, when: '{}'}}\n",
            when.replace('\'', "''")
        ));
        let events = [
            r#"{"id":1,"ts":1,"card":"c","shop":"m-1","amount":220.00}"#,
            r#"{"id":2,"ts":2,"card":"c","shop":"m-2","amount":"220.01","country":"ZZ","is_online":true}"#,
            r#"{"id":3,"ts":3,"card":"c","shop":"x","amount":1e5,"country":"XX","lat":48.6}"#,
        ];
        assert_eq!(alerts(&rules, &events).join(" "), expected, "{when}");
    }
}

#[test]
fn what_a_rule_cannot_look_at_is_counted() {
    let rules =
        rules("  - {id: r, kind: velocity, per: card, window: 1h, measure: sum(amount), limit: '> 1'}\n");
    let mut judges = Judges::new(Arc::new(rules.clone()));
    let reader = Reader::new(rules.spec());
    for (i, amount) in ["NaN", "12.345", "1e300", "", "0x10", "99999999999999999999"].iter().enumerate() {
        let mut event = Event::default();
        let record = format!(r#"{{"id":{i},"ts":1,"card":"c","amount":"{amount}"}}"#);
        reader.json(record.as_bytes(), &mut event).unwrap();
        judges.event(&event, &mut |said| panic!("{said:?}"));
    }
    let mut event = Event::default();
    reader.json(br#"{"id":"k","ts":1,"amount":5}"#, &mut event).unwrap();
    judges.event(&event, &mut |said| panic!("no key: {said:?}"));
    assert_eq!(judges.skipped(), [7]);
}

#[test]
fn what_is_no_event_says_why() {
    let rules = rules("  - {id: r, kind: threshold, per: card, when: amount > 1.00}\n");
    let reader = Reader::new(rules.spec());
    for (record, message) in [
        ("{", "json: "),
        ("[]", "json: "),
        (r#"{"ts":1}"#, "id: the id is missing"),
        (r#"{"id":"","ts":1}"#, "id: an id has from 1"),
        (r#"{"id":[1],"ts":1}"#, "id: an id is text or a number"),
        (r#"{"id":1}"#, "ts: the time is missing"),
        (r#"{"id":1,"ts":"soon"}"#, "ts: a time is 2026-01-31T00:00:00Z"),
        (r#"{"id":1,"id":2,"ts":1}"#, "id: an id is text or a number"),
        ("{\"id\":1,\"ts\":1} x", "json: "),
    ] {
        let error = reader.json(record.as_bytes(), &mut Event::default()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{record}: {error}");
    }
}

#[test]
fn versions_follow_from_what_a_rule_means() {
    let hash = |text: &str| rules(text).infos()[0].hash.clone();
    let one = hash("  - {id: r, kind: silence, per: card, gap: 1h, alert: return}\n");
    let same = "  - {kind: silence, id: r, gap: 60m, alert: return, per: card, title: T, severity: high, mode: live}\n";
    assert_eq!(one, hash(same));
    assert_ne!(one, hash("  - {id: r, kind: silence, per: card, gap: 61m, alert: return}\n"));
}

#[test]
fn a_key_has_several_fields_and_they_do_not_run_together() {
    let rules =
        rules("  - {id: r, kind: velocity, per: [card, shop], window: 1h, measure: count, limit: '> 1'}\n");
    let event =
        |id: u8, card: &str, shop: &str| format!(r#"{{"id":{id},"ts":1,"card":"{card}","shop":"{shop}"}}"#);
    let events = [event(1, "a", "bc"), event(2, "ab", "c"), event(3, "a", "bc")];
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    assert_eq!(alerts(&rules, &events), ["r:3"]);
}

#[test]
fn an_alert_says_that_its_rule_is_warming() {
    let rules = rules("  - {id: r, kind: threshold, per: card, when: amount > 1.00}\n");
    let mut event = Event::default();
    Reader::new(rules.spec()).json(br#"{"id":1,"ts":1,"card":"c","amount":2}"#, &mut event).unwrap();
    let mut warming = Vec::new();
    Judges::new(Arc::new(rules.clone())).event(&event, &mut |mut said| {
        let setting = alert::Setting { recorded_at: said.decision.time, sequence: 0, revision: 0 };
        warming.push(alert::cloud_events(&rules, &said, setting)[0]["data"]["warming"].clone());
        if let Change::Raised(hit) = &mut said.decision.change {
            hit.is_warming = true;
        }
        warming.push(alert::cloud_events(&rules, &said, setting)[0]["data"]["warming"].clone());
    });
    assert_eq!(warming, [false, true]);
}

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
