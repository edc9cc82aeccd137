//! CloudEvents 1.0 in JSON: what people and their programs are told. Ids follow from what an event is about, so whoever says the
//! same thing again says it under the same id.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::id::GrainId;
use crate::time::Timestamp;

/// Crockford's base 32: no letter that looks like a digit.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// An id that follows from these parts: the prefix and 26 letters and digits.
///
/// ```
/// use granary_core::cloud::id_of;
/// assert_eq!(id_of("al_", &[b"a", b"bc"]).len(), 29);
/// assert_ne!(id_of("al_", &[b"a", b"bc"]), id_of("al_", &[b"ab", b"c"]));
/// ```
pub fn id_of(prefix: &str, parts: &[&[u8]]) -> String {
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

/// How grave something is, on OpenTelemetry's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gravity {
    /// In a word.
    pub text: &'static str,
    /// As a number.
    pub number: u8,
}

/// Somebody should know.
pub const MEDIUM: Gravity = Gravity { text: "MEDIUM", number: 13 };
/// Somebody has to do something.
pub const HIGH: Gravity = Gravity { text: "HIGH", number: 17 };

/// The head of an event: all but what it has to tell.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Its id: no two events have the same, copies of one do.
    pub id: &'a str,
    /// Who says it.
    pub source: String,
    /// What it is about.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
    /// Events with the same are in order.
    pub key: Option<&'a str>,
    /// How grave it is.
    pub gravity: Option<Gravity>,
}

impl Head<'_> {
    /// The event that tells this.
    pub fn with(self, data: Value) -> Value {
        let mut event = json!({
            "specversion": "1.0",
            "type": self.kind,
            "id": self.id,
            "source": self.source,
            "subject": self.subject,
            "time": self.time.to_rfc3339(),
            "datacontenttype": "application/json",
            "data": data,
        });
        if let Some(key) = self.key {
            event["partitionkey"] = json!(key);
        }
        if let Some(Gravity { text, number }) = self.gravity {
            event["severitytext"] = json!(text);
            event["severitynumber"] = json!(number);
        }
        event
    }
}

/// The type of alerts that grains raise.
pub const RAISED: &str = "grain.alert.raised";

/// An alert that a grain raises.
#[derive(Clone, Debug)]
pub struct Alert {
    /// The rule, as the grain calls it.
    pub rule: Box<str>,
    /// Who raises it.
    pub grain: GrainId,
    /// When.
    pub time: Timestamp,
    /// What the grain says of it.
    pub detail: Value,
}

impl Alert {
    /// As an event, and its id. The id follows from rule, grain, time and `place`, which no other output of the cluster has.
    pub fn at(&self, place: &str) -> (String, Value) {
        let Alert { rule, grain, time, detail } = self;
        let named = grain.to_string();
        let time_ms = time.ms().to_be_bytes();
        let id = id_of("ga_", &[rule.as_bytes(), named.as_bytes(), &time_ms, place.as_bytes()]);
        let head = Head {
            kind: RAISED,
            id: &id,
            source: format!("/grains/{}/rules/{rule}", grain.kind),
            subject: named,
            time: *time,
            key: Some(&grain.key.routing_key()),
            gravity: Some(MEDIUM),
        };
        let event = head.with(json!({"rule": {"id": rule}, "detail": detail}));
        (id, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alert_of_a_grain_says_who_raises_it_and_its_id_follows_from_where() {
        let grain = GrainId::parse("Meter/m-1/7").expect("a grain's identity");
        let alert =
            Alert { rule: "burst".into(), grain, time: Timestamp(1_500), detail: json!({"value": 101}) };
        let (id, event) = alert.at("0/3/17/0");
        let expected = json!({
            "specversion": "1.0", "type": "grain.alert.raised", "id": id, "source": "/grains/Meter/rules/burst",
            "subject": "Meter/m-1/7", "time": "1970-01-01T00:00:01.500Z", "datacontenttype": "application/json",
            "partitionkey": "m-1", "severitytext": "MEDIUM", "severitynumber": 13,
            "data": {"rule": {"id": "burst"}, "detail": {"value": 101}},
        });
        assert_eq!(event, expected);
        assert_eq!(alert.at("0/3/17/0").0, id);
        assert_ne!(alert.at("0/3/17/1").0, id);
        assert!(id.starts_with("ga_") && !id.contains('.'), "webhooks sign no full stop: {id}");
    }
}
