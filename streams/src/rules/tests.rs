//! What a rules file is refused for, and how a record is.

use std::sync::Arc;

use granary_window::rule::Change;

use super::*;

mod told;

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
