//! Alerts as CloudEvents 1.0 in JSON. Their ids follow from rule, version, key and the event that gave them, so whoever judges
//! the same event again says the same thing under the same id.

use granary_core::cloud::{Head, id_of};
use granary_core::{Span, Timestamp};
use granary_window::rule::{Change, Hit, Measured};
use serde_json::{Map, Value, json};

use super::cases::{self, Case, CaseOf, Filed};
use super::decimal::write;
use super::judges::{Said, key_values};
use super::mutes::Muted;
use super::words::in_words;
use super::{Info, Rules, include};

/// What an alert is told beside what was judged.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// When it is recorded.
    pub recorded_at: Timestamp,
    /// Its number in the stream of alerts.
    pub sequence: u64,
    /// The revision of the rules it was judged under.
    pub revision: u64,
}

/// The id of the alert that an event gives: `al_` and 26 letters and digits.
pub fn alert_id(info: &Info, key: &[u8], event: &[u8]) -> String {
    id_of("al_", &[b"alert", info.id.as_bytes(), info.hash.as_bytes(), key, event])
}

/// A key as people see it.
struct Shown {
    texts: Vec<String>,
    /// By the names of its fields.
    by_name: Map<String, Value>,
    subject: String,
}

fn shown<'n>(names: impl Iterator<Item = &'n str> + Clone, key: &[u8]) -> Shown {
    let values = key_values(key);
    let texts: Vec<String> = values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    let by_name = names.clone().zip(&texts).map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let subject: Vec<String> = names.zip(&texts).map(|(name, value)| format!("{name}/{value}")).collect();
    Shown { texts, by_name, subject: subject.join("/") }
}

/// What is said, as CloudEvents: that a case is over, that one begins, and the alert itself or that it does not hold.
pub fn cloud_events(rules: &Rules, said: &Said<'_>, setting: Setting) -> Vec<Value> {
    let mut events = Vec::new();
    if let Some((filed, of)) = said.filed.as_ref().zip(rules.infos()[said.rule].case) {
        events.extend(filed.closed.as_ref().map(|case| of_case(rules, said, case, of, false, setting)));
        events.extend(filed.is_first.then(|| of_case(rules, said, &filed.case, of, true, setting)));
    }
    events.push(cloud_event(rules, said, setting));
    events
}

/// That a case begins, or is over.
fn of_case(rules: &Rules, said: &Said<'_>, case: &Case, of: CaseOf, begins: bool, setting: Setting) -> Value {
    let info = &rules.infos()[said.rule];
    let names = cases::names(info, of, rules.spec());
    let Shown { texts, by_name, subject } =
        shown(names.iter().copied(), cases::first_of(said.decision.key, of.fields));
    let (kind, prefix, time) = match begins {
        true => ("fraud.case.opened", "co_", case.first),
        false => ("fraud.case.closed", "cc_", case.last + of.open_for),
    };
    let named: Vec<String> =
        names.iter().zip(&texts).map(|(name, value)| format!("{} {value}", name.replace('_', " "))).collect();
    let (named, length) = (named.join(", "), in_words(of.open_for));
    let reason = match (begins, case.alerts) {
        (true, _) => format!("An alert of {named}, the first in {length}."),
        (false, 1) => format!("One alert of {named}, and no other within {length}."),
        (false, alerts) => {
            format!("{alerts} alerts of {named}, and no other within {length} after the last.")
        }
    };
    let head = Head {
        kind,
        id: &id_of(prefix, &[case.id.as_bytes()]),
        source: format!("/fraud/cases/{}", names.join("/")),
        subject,
        time,
        key: Some(&texts.join("/")),
        gravity: Some(case.severity.gravity()),
    };
    let mut event = head.with(json!({
        "case": {
            "id": case.id, "alerts": case.alerts,
            "first": case.first.to_rfc3339(), "last": case.last.to_rfc3339(),
        },
        "rule": {"id": case.rule},
        "key": by_name,
        "reason": reason,
    }));
    event["correlationid"] = json!(case.id);
    event["recordedtime"] = json!(setting.recorded_at.to_rfc3339());
    event["sequence"] = json!(format!("{:020}", setting.sequence));
    event
}

fn cloud_event(rules: &Rules, said: &Said<'_>, setting: Setting) -> Value {
    let info = &rules.infos()[said.rule];
    let decision = &said.decision;
    let id = alert_id(info, decision.key, decision.id);
    let fields = &rules.spec().fields;
    let Shown { texts, by_name, subject } =
        shown(info.per.iter().map(|field| &*fields[*field].name), decision.key);
    let mut data = json!({
        "rule": {
            "id": info.id, "version": "1", "hash": info.hash, "revision": setting.revision,
            "kind": info.kind, "title": info.title,
        },
        "key": by_name,
        "mode": info.mode.name(),
    });
    if let Some(Muted { mute, .. }) = said.muted {
        data["muted"] = json!({"until": mute.until, "reason": mute.reason});
    }
    if let Some(Filed { case, .. }) = &said.filed {
        data["case"] = json!({"id": case.id, "alerts": case.alerts});
    }
    let (kind, own_id) = match &decision.change {
        Change::Raised(hit) => {
            raised(rules, info, decision.time, &texts, hit, &mut data);
            if !info.include.is_empty() {
                let shown = said.event.map(|event| include::shown(rules.spec(), &info.include, event));
                data["include"] = json!(shown);
            }
            ("fraud.alert.raised", id)
        }
        Change::Withdrawn => {
            let parts = [&b"withdrawn"[..], id.as_bytes(), &setting.sequence.to_be_bytes()];
            let own_id = id_of("aw_", &parts);
            let event = String::from_utf8_lossy(decision.id);
            data["reason"] = json!(format!(
                "An event that came out of order showed that the alert of event {event} does not hold."
            ));
            data["alert_id"] = json!(id);
            ("fraud.alert.withdrawn", own_id)
        }
        Change::Resolved { by, took } => {
            let own_id = id_of("ar_", &[b"resolved", id.as_bytes(), &by.id]);
            let (of, took) = (of(rules, info, &texts), in_words(whole_seconds(*took)));
            data["reason"] = json!(format!("{of} was heard of again after {took}."));
            data["alert_id"] = json!(id);
            data["resolved_by"] = json!({"id": String::from_utf8_lossy(&by.id), "ts": by.time.to_rfc3339()});
            ("fraud.alert.resolved", own_id)
        }
    };
    let head = Head {
        kind,
        id: &own_id,
        source: format!("/fraud/rules/{}", info.id),
        subject,
        time: decision.time,
        key: Some(&texts.join("/")),
        gravity: Some(info.severity.gravity()),
    };
    let mut event = head.with(data);
    event["recordedtime"] = json!(setting.recorded_at.to_rfc3339());
    event["dataschema"] = json!("/schemas/fraud-alert-v1.json");
    event["sequence"] = json!(format!("{:020}", setting.sequence));
    event["causationid"] = json!(String::from_utf8_lossy(decision.id));
    if let Some(Filed { case, .. }) = &said.filed {
        event["correlationid"] = json!(case.id);
    }
    event
}

fn raised(rules: &Rules, info: &Info, time: Timestamp, key: &[String], hit: &Hit, data: &mut Value) {
    let fields = &rules.spec().fields;
    let scale = |field: Option<usize>| field.and_then(|field| fields[field].kind.scale()).unwrap_or(0);
    let value = value(&hit.measured, scale(info.of));
    let amount_scale = scale(rules.spec().amount);
    let last = hit.evidence.len().saturating_sub(1);
    let evidence = hit.evidence.iter().enumerate().map(|(i, piece)| {
        let mut shown = json!({"id": String::from_utf8_lossy(&piece.id), "ts": piece.time.to_rfc3339()});
        if let Some(amount) = piece.amount {
            shown["amount"] = json!(write(i128::from(amount), amount_scale));
        }
        if i == last {
            shown["trigger"] = json!(true);
        }
        shown
    });
    data["evidence"] = evidence.collect();
    data["evidence_truncated"] = json!(hit.events > hit.evidence.len() as u64);
    data["value"] = json!(value);
    data["limit"] = json!(info.limit);
    if let Some(unit) = info.of.and_then(|field| fields[field].unit.as_deref()) {
        data["unit"] = json!(unit);
    }
    if let Some(from) = hit.from {
        data["window"] = json!({
            "from": from.to_rfc3339(), "to": time.to_rfc3339(), "from_included": false, "events": hit.events,
        });
    }
    data["reason"] = json!(reason(rules, info, key, hit, &value));
    data["suppressed_since_last"] = json!(hit.suppressed);
    data["warming"] = json!(hit.is_warming);
    data["repaired"] = json!(hit.is_repair);
}

/// A number with three places, rounded down.
fn thousandths(num: i128, den: i128) -> String {
    if den <= 0 {
        return "infinite".to_owned();
    }
    write((num * 1_000).div_euclid(den), 3)
}

/// The value an alert shows.
fn value(measured: &Measured, scale: u32) -> String {
    match measured {
        Measured::Number(number) => number.map_or(String::new(), |number| write(i128::from(number), scale)),
        Measured::Count(count) => count.to_string(),
        Measured::Sum(sum) => write(*sum, scale),
        Measured::Mean(sum, count) => write(sum.div_euclid(i128::from((*count).max(1))), scale),
        Measured::Times(num, den) => thousandths(*num, *den),
        Measured::Deviations(Some(thousandths)) => write(i128::from(*thousandths), 3),
        Measured::Deviations(None) => "infinite".to_owned(),
        Measured::Travel { kmh, .. } => format!("{}", kmh.floor()),
        Measured::Elapsed(span) | Measured::Silent(span) => (span.ms() / 1_000).to_string(),
        Measured::Text(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

/// The key of an alert, for a sentence.
fn of(rules: &Rules, info: &Info, key: &[String]) -> String {
    let fields = &rules.spec().fields;
    let names = info.per.iter().map(|field| fields[*field].name.replace('_', " "));
    let of: Vec<String> = names.zip(key).map(|(name, value)| format!("{name} {value}")).collect();
    of.join(", ")
}

/// Nobody asks for the milliseconds of minutes.
fn whole_seconds(span: Span) -> Span {
    if span.ms() < 10_000 { span } else { Span(span.ms() / 1_000 * 1_000) }
}

/// Why there is an alert, in a sentence.
fn reason(rules: &Rules, info: &Info, key: &[String], hit: &Hit, value: &str) -> String {
    let of = of(rules, info, key);
    let length = info.length.map(in_words).unwrap_or_default();
    let events = if hit.events == 1 { "1 event".to_owned() } else { format!("{} events", hit.events) };
    let subject = &info.subject;
    let limit = info.limit.trim_start_matches(['>', '<', '=', ' ']);
    match &hit.measured {
        Measured::Number(_) if info.kind == "list" => {
            format!("{subject} of an event of {of} is {}.", info.limit)
        }
        Measured::Number(_) => format!("An event of {of} with {value} fulfils: {subject}."),
        Measured::Count(_) if info.kind == "feedback" => {
            format!("{value} confirmed frauds of {of} in {length}; {limit} are enough for an alert.")
        }
        Measured::Count(_) if &**subject == "count" => {
            format!("{value} events of {of} in {length}; the limit is {limit}.")
        }
        Measured::Sum(_) if subject.starts_with("sum") => {
            format!("{events} of {of} in {length} add up to {value}; the limit is {limit}.")
        }
        Measured::Count(_) | Measured::Sum(_) | Measured::Mean(..) => {
            format!("{subject} over {events} of {of} in {length} is {value}; the limit is {limit}.")
        }
        Measured::Times(..) => format!(
            "{subject} of {of} is {value} times the mean of the {} before; the limit is {limit}.",
            hit.events - 1
        ),
        Measured::Deviations(_) => format!(
            "{subject} of {of} is {value} standard deviations from the mean of the {} before; the limit is {limit}.",
            hit.events - 1
        ),
        Measured::Travel { km, took, .. } => format!(
            "{of} was in two places {km:.0} km apart within {}: {value} km/h; the limit is {limit}.",
            in_words(Span(took.ms()))
        ),
        Measured::Silent(_) => format!("Nothing was heard of {of} for more than {length}."),
        Measured::Elapsed(span) if info.kind == "silence" => {
            format!("{of} came back after {}; the limit is {length}.", in_words(*span))
        }
        Measured::Elapsed(span) => {
            format!("{subject}: {events} of {of} within {}; the limit is {length}.", in_words(*span))
        }
        Measured::Text(_) => format!("{subject} {value} was not seen for {of} in {length}."),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_written_as_they_are_read() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59.500Z",
            "1969-12-31T23:59:59Z",
            "2100-03-01T00:00:00Z",
        ] {
            assert_eq!(crate::file::rfc3339(text).unwrap().to_rfc3339(), text);
        }
    }
}
