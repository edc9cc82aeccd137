//! The JSON decoder against serde_json and against arbitrary bytes.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use crate::decode::{Decoded, Field, Kind, Reject, Rule, Schema, decode};

/// Accepts every JSON object.
fn any_object() -> Schema {
    Schema::json(Vec::new())
}

fn measurement() -> Schema {
    Schema::json(vec![
        Field::new("id", "id", Kind::text(1, 128)),
        Field::new("at", "dt", Kind::time_ms()),
        Field::new("m1", "m1", Kind::Integer { range: -9_007_199_254_740_991..=9_007_199_254_740_991 }),
        Field::new("m2", "m2", Kind::Double { range: -1e12..=1e12 }),
    ])
}

fn verdict(schema: &Schema, raw: &[u8]) -> Result<(), Box<Reject>> {
    decode(schema, raw, &mut Decoded::default())
}

/// Whether it is one JSON object in valid UTF-8, by another reader.
fn is_object(raw: &[u8]) -> bool {
    std::str::from_utf8(raw).is_ok()
        && raw.iter().find(|byte| !b" \t\r\n".contains(byte)) == Some(&b'{')
        && serde_json::from_slice::<IgnoredAny>(raw).is_ok()
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("JSON has finite numbers", |x| x.is_finite()).prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-z\"\\\\\u{e9}]{0,4}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// One change of some bytes: replaced, inserted, removed, doubled or cut.
fn mutate(mut raw: Vec<u8>, changes: &[(u8, usize, u8)]) -> Vec<u8> {
    const LIKELY: &[u8] = b"{}[]\",:\\u00e9 \t\n-+.0123456789eEtrufalsn\xff\xc3\x01";
    for (how, at, byte) in changes {
        let at = at % (raw.len() + 1);
        let byte = LIKELY[usize::from(*byte) % LIKELY.len()];
        match how % 4 {
            0 if at < raw.len() => raw[at] = byte,
            1 => raw.insert(at, byte),
            2 if at < raw.len() => {
                raw.remove(at);
            }
            3 => raw.truncate(at.max(raw.len() / 2)),
            _ => {}
        }
    }
    raw
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn accepts_what_serde_json_accepts(value in json(), is_pretty: bool) {
        let raw = if is_pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert_eq!(verdict(&any_object(), &raw).is_ok(), value.is_object());
    }

    #[test]
    fn judges_mutations_as_serde_json_does(
        value in json(),
        changes in prop::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..4),
    ) {
        let whole = serde_json::to_vec(&serde_json::json!({ "x": value })).unwrap();
        let raw = mutate(whole, &changes);
        let ours = verdict(&any_object(), &raw);
        prop_assert_eq!(ours.is_ok(), is_object(&raw), "{:?}: {:?}", String::from_utf8_lossy(&raw), ours);
    }

    #[test]
    fn values_of_fields_are_what_serde_json_reads(id in "\\PC{1,40}", m1 in -1_000_000_i64..1_000_000, m2 in -1e12_f64..1e12) {
        let value = serde_json::json!({ "m2": m2, "id": id, "m1": m1, "dt": "1690000000000", "more": [id] });
        let raw = serde_json::to_vec(&value).unwrap();
        let mut decoded = Decoded::default();
        prop_assume!(!id.chars().any(char::is_control));
        decode(&measurement(), &raw, &mut decoded).unwrap();
        prop_assert_eq!(decoded.text(0, &raw), Some(id.as_bytes()));
        prop_assert_eq!(decoded.int(1), Some(1_690_000_000_000));
        prop_assert_eq!(decoded.int(2), Some(m1));
        prop_assert_eq!(decoded.value(3, &raw), granary_window::Value::Double(m2));
    }

    #[test]
    fn never_panics(raw in prop::collection::vec(any::<u8>(), 0..80), as_map: bool, separator: u8) {
        let mut schema = measurement();
        let _ = verdict(&schema, &raw);
        schema.format = crate::decode::Format::MessagePack;
        let mut framed = if as_map { vec![0x84] } else { Vec::new() };
        framed.extend(&raw);
        let _ = verdict(&schema, &framed);
        let columns = ["id", "dt", "m1", "m2"].map(Box::from).to_vec();
        schema.format = crate::decode::Format::Delimited { separator, columns };
        let _ = verdict(&schema, &raw);
    }
}

#[test]
fn reuse_leaves_nothing_behind() {
    let schema = measurement();
    let mut decoded = Decoded::default();
    let first = br#"{"id":"\u0041","dt":1,"m1":1,"m2":1}"#;
    decode(&schema, first, &mut decoded).unwrap();
    assert_eq!(decoded.text(0, first), Some(&b"A"[..]));
    assert_eq!(decode(&schema, br#"{"id":"b"}"#, &mut decoded).unwrap_err().rule, Rule::Fields);
    let second = br#"{"m2":2,"m1":-0,"dt":"2","id":"c"}"#;
    decode(&schema, second, &mut decoded).unwrap();
    assert_eq!((decoded.text(0, second), decoded.int(2)), (Some(&b"c"[..]), Some(0)));
}

#[test]
fn escapes_count_as_what_they_stand_for() {
    let raw = br#"{"\u0069d":"\ud83d\ude80","dt":"\u0031\u0032","m1":1,"m2":1, "x":"\ud800"}"#;
    let mut decoded = Decoded::default();
    decode(&measurement(), raw, &mut decoded).unwrap();
    assert_eq!(decoded.text(0, raw), Some("🚀".as_bytes()));
    assert_eq!(decoded.int(1), Some(12));
    let lone = br#"{"id":"\ud800","m1":1,"m2":1}"#;
    assert_eq!(verdict(&measurement(), lone).unwrap_err().rule, Rule::Json, "before the missing field");
}

#[test]
fn nesting_is_bounded_without_the_stack() {
    let nested =
        |depth: usize| [b"{\"x\":".to_vec(), vec![b'['; depth], vec![b']'; depth], b"}".to_vec()].concat();
    let schema = Schema { record_bytes_max: 1 << 20, ..any_object() };
    assert_eq!(verdict(&schema, &nested(20_000)), Ok(()));
    let refused = verdict(&schema, &nested(crate::decode::DEPTH_MAX + 1)).unwrap_err();
    assert!(refused.message.contains("nested too deeply"), "{}", refused.message);
}

#[test]
fn messages_are_sentences() {
    let of = |raw: &str| verdict(&measurement(), raw.as_bytes()).unwrap_err();
    let type_broken = of(r#"{"id":"a","dt":"1","m1":"40","m2":1}"#);
    assert_eq!(
        (type_broken.message.as_str(), type_broken.field.as_deref()),
        ("m1: integer expected, text found", Some("m1"))
    );
    assert_eq!(of(r#"{"id":"a","dt":"1","m1":1.5,"m2":1}"#).message, "m1: integer expected, `1.5` found");
    assert_eq!(of(r#"{"id":"a","dt":"1","m1":1}"#).message, "m2: `m2` is missing");
    assert_eq!(of(r#"{"id":"a","dt":"1","m1":1,"m2":1e13}"#).rule, Rule::Limit);
    assert_eq!(of("{} {}").rule, Rule::Json);
}
