//! How an endpoint is to be told, as its owner says it, and which alerts are for it.

use std::collections::BTreeMap;

use granary_core::{Span, time::hours, time::secs};
use serde::{Deserialize, Serialize};

use crate::queue::{ATTEMPT_MAX, CONCURRENCY_MAX, Manner};

/// The content type of a webhook unless its owner says otherwise: every server reads it.
pub const JSON: &str = "application/json";
/// Attempts a second at most.
pub const RATE_MAX: u32 = 10_000;
/// Headers of an endpoint's own, and the bytes of each.
pub const HEADERS_MAX: usize = 32;
/// The longest header, name and value together.
pub const HEADER_BYTES_MAX: usize = 4_096;
/// How long an old secret signs too, at most.
pub const OVERLAP_MAX: Span = hours(7 * 24);
/// The longest name of an endpoint, in bytes.
pub const NAME_BYTES_MAX: usize = 100;

/// Headers that are ours.
const RESERVED: [&str; 8] = [
    "host",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// An endpoint as its owner wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where it is.
    pub url: String,
    /// Types of alerts it wants, `fraud.alert.*` for all that begin so; all when there is none.
    #[serde(default)]
    pub types: Vec<String>,
    /// Rules whose alerts it wants; all when there is none.
    #[serde(default)]
    pub rules: Vec<String>,
    /// The least severity, by the numbers of OpenTelemetry (9 info, 13 low, ...); 0 for all.
    #[serde(default)]
    pub severity_min: u64,
    /// How fast and in what order.
    pub manner: Manner,
    /// How long an attempt may take.
    pub timeout: Span,
    /// What the body is called.
    pub content_type: String,
    /// Headers beside those of Standard Webhooks.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Settings {
    /// All alerts, to this URL, in the usual manner.
    pub fn to(url: impl Into<String>) -> Settings {
        Settings {
            url: url.into(),
            types: Vec::new(),
            rules: Vec::new(),
            severity_min: 0,
            manner: Manner::default(),
            timeout: secs(15),
            content_type: JSON.to_owned(),
            headers: BTreeMap::new(),
        }
    }

    /// What is wrong with it, if anything, in a sentence. The URL is looked at by [`Policy::check`](crate::guard::Policy::check).
    pub fn check(&self) -> Result<(), String> {
        let Manner { rate, burst, concurrency, .. } = self.manner;
        if !(1..=RATE_MAX).contains(&rate) || !(1..=RATE_MAX).contains(&burst) {
            return Err(format!("rate and burst are from 1 to {RATE_MAX} attempts"));
        }
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return Err(format!("from 1 to {CONCURRENCY_MAX} attempts may be under way at a time"));
        }
        if self.timeout < secs(1) || self.timeout > ATTEMPT_MAX {
            return Err(format!("the timeout is from 1s to {ATTEMPT_MAX}"));
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(format!("an endpoint has at most {HEADERS_MAX} headers of its own"));
        }
        for (name, value) in self.headers.iter().chain([(&"content-type".to_owned(), &self.content_type)]) {
            let is_name = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
            if !is_name || http::HeaderValue::from_str(value).is_err() {
                return Err(format!("the header `{name}` has a name or a value that no header has"));
            }
            if name.len() + value.len() > HEADER_BYTES_MAX {
                return Err(format!("the header `{name}` is longer than {HEADER_BYTES_MAX} bytes"));
            }
        }
        match self.headers.keys().find(|name| RESERVED.contains(&name.to_ascii_lowercase().as_str())) {
            Some(name) => Err(format!("the header `{name}` is set by Granary")),
            None => Ok(()),
        }
    }

    /// Whether an alert is for it.
    pub fn wants(&self, alert: &Head) -> bool {
        let is_of_type = |wanted: &String| match wanted.strip_suffix('*') {
            Some(begin) => alert.kind.starts_with(begin),
            None => *alert.kind == **wanted,
        };
        let is_of_rule = |wanted: &String| alert.rule.as_deref() == Some(wanted);
        (self.types.is_empty() || self.types.iter().any(is_of_type))
            && (self.rules.is_empty() || self.rules.iter().any(is_of_rule))
            && alert.severity >= self.severity_min
    }
}

/// Whether an endpoint may have this name: it is part of messages, metrics and keys.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_fit) {
        return Err(format!(
            "`{name}` is no name of an endpoint: letters, digits, `-`, `_` and `.`, at most {NAME_BYTES_MAX} of them"
        ));
    }
    Ok(())
}

/// What of an alert decides to whom it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: Box<str>,
    /// Its type.
    pub kind: Box<str>,
    /// The rule it is of.
    pub rule: Option<Box<str>>,
    /// The number of its severity; 0 when it has none.
    pub severity: u64,
    /// Alerts with the same key are in order.
    pub key: Box<str>,
}

impl Head {
    /// Reads it from a CloudEvent in JSON; `None` when it is none, or its id cannot be signed: it has a full stop.
    pub fn read(event: &[u8]) -> Option<Head> {
        #[derive(Deserialize)]
        struct Event<'a> {
            id: Box<str>,
            r#type: Box<str>,
            #[serde(default)]
            severitynumber: u64,
            #[serde(default)]
            partitionkey: Box<str>,
            #[serde(borrow, default)]
            data: Option<Data<'a>>,
        }
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow, default)]
            rule: Option<&'a serde_json::value::RawValue>,
        }
        #[derive(Deserialize)]
        struct Rule {
            id: Box<str>,
        }
        let Event { id, r#type: kind, severitynumber: severity, partitionkey: key, data } =
            serde_json::from_slice(event).ok()?;
        let rule = data.and_then(|data| data.rule);
        let rule = rule.and_then(|rule| serde_json::from_str::<Rule>(rule.get()).ok()).map(|rule| rule.id);
        (!id.contains('.')).then_some(Head { id, kind, rule, severity, key })
    }
}

#[cfg(test)]
mod tests {
    use granary_core::cloud::Alert;
    use granary_core::{GrainId, Timestamp};

    use super::*;

    fn head(kind: &str, rule: Option<&str>, severity: u64) -> Head {
        Head { kind: kind.into(), rule: rule.map(Into::into), severity, ..Head::default() }
    }

    #[test]
    fn an_endpoint_gets_what_it_wants() {
        let all = Settings::to("https://example.com/");
        assert!(all.wants(&head("fraud.alert.raised", Some("a"), 9)));
        let some = Settings { types: vec!["fraud.alert.*".into()], ..all.clone() };
        assert!(some.wants(&head("fraud.alert.withdrawn", None, 0)));
        assert!(!some.wants(&head("webhook.ping", None, 0)));
        let of_a = Settings { rules: vec!["a".into()], severity_min: 17, ..all };
        assert!(of_a.wants(&head("x", Some("a"), 17)));
        assert!(!of_a.wants(&head("x", Some("a"), 13)) && !of_a.wants(&head("x", Some("b"), 17)));
        assert!(!of_a.wants(&head("x", None, 17)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = Settings::to("https://example.com/");
        assert_eq!(good.check(), Ok(()));
        let with = |name: &str, value: &str| {
            let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            Settings { headers, ..good.clone() }.check()
        };
        assert_eq!(with("x-team", "fraud"), Ok(()));
        for (name, value) in [("Webhook-Id", "1"), ("a b", "1"), ("x", "a\r\nb"), ("x", &"y".repeat(5_000))] {
            assert!(with(name, value).is_err(), "{name}");
        }
        let slow = Settings { timeout: secs(31), ..good.clone() };
        let none = Settings { manner: Manner { rate: 0, ..Manner::default() }, ..good };
        assert!(slow.check().is_err() && none.check().is_err());
        assert!(check_name("siem-1").is_ok() && check_name("a/b").is_err() && check_name("").is_err());
    }

    #[test]
    fn the_head_of_an_alert_is_read_and_other_things_are_not() {
        let event = br#"{"id":"al_1","type":"t","partitionkey":"c-1","severitynumber":17,"data":{"rule":{"id":"r"}}}"#;
        let read = Head::read(event).unwrap();
        assert_eq!(
            (&*read.id, read.rule.as_deref(), read.severity, &*read.key),
            ("al_1", Some("r"), 17, "c-1")
        );
        let own = br#"{"id":"al_1","type":"t","data":{"rule":"burst"}}"#;
        assert_eq!(Head::read(own).unwrap().rule, None);
        let grain = GrainId::parse("Meter/m-1").unwrap();
        let alert = Alert { rule: "burst".into(), grain, time: Timestamp(0), detail: 101.into() };
        let (id, event) = alert.at("0/3/17/0");
        let read =
            Head::read(event.to_string().as_bytes()).expect("endpoints are told of the alerts of grains");
        assert_eq!((&*read.id, read.rule.as_deref(), &*read.key), (&*id, Some("burst"), "m-1"));
        assert!(
            Settings { types: vec!["grain.alert.*".into()], ..Settings::to("https://example.com/") }
                .wants(&read)
        );
        for wrong in [&b"\x81\xa4rule"[..], b"[]", br#"{"id":"a.b","type":"t"}"#, b""] {
            assert_eq!(Head::read(wrong), None);
        }
    }
}
