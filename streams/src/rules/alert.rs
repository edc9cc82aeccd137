//! Alerts as CloudEvents 1.0 in JSON. Their ids follow from rule, version, key and the event that gave them, so whoever judges
//! the same event again says the same thing under the same id.

use granary_core::{Span, Timestamp};
use granary_window::rule::{Change, Hit, Measured};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::decimal::write;
use super::judges::{Said, key_values};
use super::words::in_words;
use super::{Info, Rules};

/// Crockford's base 32: no letter that looks like a digit.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

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
    named("al_", &[b"alert", info.id.as_bytes(), info.hash.as_bytes(), key, event])
}

fn named(prefix: &str, parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let number = digest.iter().take(16).fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    let letters = (0..26).rev().map(|i| LETTERS[(number >> (5 * i)) as usize & 31] as char);
    prefix.chars().chain(letters).collect()
}

/// What is said, as a CloudEvent.
pub fn cloud_event(rules: &Rules, said: &Said<'_>, setting: Setting) -> Value {
    let info = &rules.infos()[said.rule];
    let decision = &said.decision;
    let id = alert_id(info, decision.key, decision.id);
    let values = key_values(decision.key);
    let texts: Vec<String> = values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    let fields = &rules.spec().fields;
    let names = info.per.iter().map(|field| &*fields[*field].name);
    let key: Map<String, Value> =
        names.clone().zip(&texts).map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let subject: Vec<String> = names.zip(&texts).map(|(name, value)| format!("{name}/{value}")).collect();
    let mut data = json!({
        "rule": {
            "id": info.id, "version": "1", "hash": info.hash, "revision": setting.revision,
            "kind": info.kind, "title": info.title,
        },
        "key": key,
        "mode": info.mode.name(),
    });
    let (kind, own_id) = match &decision.change {
        Change::Raised(hit) => {
            raised(rules, info, decision.time, &texts, hit, &mut data);
            ("fraud.alert.raised", id)
        }
        Change::Withdrawn => {
            let parts = [&b"withdrawn"[..], id.as_bytes(), &setting.sequence.to_be_bytes()];
            let own_id = named("aw_", &parts);
            let event = String::from_utf8_lossy(decision.id);
            data["reason"] = json!(format!(
                "An event that came out of order showed that the alert of event {event} does not hold."
            ));
            data["alert_id"] = json!(id);
            ("fraud.alert.withdrawn", own_id)
        }
        Change::Resolved { by, took } => {
            let own_id = named("ar_", &[b"resolved", id.as_bytes(), &by.id]);
            let (of, took) = (of(rules, info, &texts), in_words(whole_seconds(*took)));
            data["reason"] = json!(format!("{of} was heard of again after {took}."));
            data["alert_id"] = json!(id);
            data["resolved_by"] = json!({"id": String::from_utf8_lossy(&by.id), "ts": by.time.to_rfc3339()});
            ("fraud.alert.resolved", own_id)
        }
    };
    json!({
        "specversion": "1.0",
        "type": kind,
        "id": own_id,
        "source": format!("/fraud/rules/{}", info.id),
        "subject": subject.join("/"),
        "time": decision.time.to_rfc3339(),
        "recordedtime": setting.recorded_at.to_rfc3339(),
        "datacontenttype": "application/json",
        "dataschema": "/schemas/fraud-alert-v1.json",
        "partitionkey": texts.join("/"),
        "sequence": format!("{:020}", setting.sequence),
        "severitytext": info.severity.name().to_uppercase(),
        "severitynumber": info.severity.number(),
        "causationid": String::from_utf8_lossy(decision.id),
        "data": data,
    })
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
    use super::*;

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

    #[test]
    fn parts_of_ids_do_not_run_together() {
        assert_ne!(named("x", &[b"ab", b"c"]), named("x", &[b"a", b"bc"]));
        assert_eq!(named("al_", &[b"a"]).len(), 29);
    }
}
