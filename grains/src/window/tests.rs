use super::*;
use granary_core::Grain;

fn row(members: &[(&str, Value)]) -> Vec<u8> {
    let map = members.iter().map(|(name, value)| (Value::from(*name), value.clone())).collect();
    codec::to_bytes(&Value::Map(map)).unwrap()
}

fn members() -> Vec<(&'static str, Value)> {
    vec![
        ("window_start", Value::from(1_690_000_000_000_i64)),
        ("window_end", Value::from(1_690_000_005_000_i64)),
        ("device", Value::from("d-7")),
        ("category", Value::from("cat-1")),
        ("count", Value::from(2)),
        ("m1_sum", Value::from(-40)),
        ("m2_avg", Value::from(375.125)),
        ("m2_min", Value::Nil),
        ("revision", Value::from(1)),
        ("reason", Value::from("on_time")),
        ("state", Value::from("due")),
        ("watermark", Value::from(1_690_000_007_000_i64)),
    ]
}

#[test]
fn a_row_is_read_with_its_columns() {
    let state: WindowState = codec::from_bytes(&row(&members())).unwrap();
    assert_eq!(state.window_start, Some(Timestamp(1_690_000_000_000)));
    assert_eq!((state.revision, state.reason, state.op), (Some(1), Some(Reason::OnTime), None));
    assert_eq!((state.state, state.watermark), (State::Due, Timestamp(1_690_000_007_000)));
    assert_eq!(state.column::<String>("device").unwrap(), "d-7");
    assert_eq!(state.column::<u64>("count").unwrap(), 2);
    assert_eq!(state.column::<i64>("m1_sum").unwrap(), -40);
    assert_eq!(state.column::<f64>("m2_avg").unwrap(), 375.125);
    assert_eq!(state.column::<Option<f64>>("m2_min").unwrap(), None);
    assert_eq!(state.columns.len(), 6, "fields of their own are no columns");
}

#[test]
fn a_column_that_is_missing_or_of_another_type_is_named() {
    let state: WindowState = codec::from_bytes(&row(&members())).unwrap();
    let missing = state.column::<u64>("total").unwrap_err();
    assert_eq!(
        missing.message(),
        "no column `total`; there are: category, count, device, m1_sum, m2_avg, m2_min"
    );
    let wrong = state.column::<u64>("device").unwrap_err();
    assert!(wrong.message().starts_with("column `device` is \"d-7\": cannot decode"), "{wrong}");
}

#[test]
fn an_open_window_without_a_row_has_no_revision() {
    let without_row: Vec<_> = members()
        .into_iter()
        .filter(|(name, _)| ["device", "state", "watermark"].contains(name))
        .map(|(name, value)| (name, if name == "state" { Value::from("open") } else { value }))
        .collect();
    let state: WindowState = codec::from_bytes(&row(&without_row)).unwrap();
    assert_eq!((state.window_start, state.revision, state.reason), (None, None, None));
    assert_eq!(state.state, State::Open);
}

#[test]
fn an_answer_reads_back_what_was_written() {
    let state: WindowState = codec::from_bytes(&row(&members())).unwrap();
    assert_eq!(codec::from_bytes::<WindowState>(&codec::to_bytes(&state).unwrap()).unwrap(), state);
}

#[test]
fn an_unknown_word_is_refused() {
    let changed: Vec<_> = members()
        .into_iter()
        .map(|(name, value)| (name, if name == "state" { Value::from("ajar") } else { value }))
        .collect();
    let error = codec::from_bytes::<WindowState>(&row(&changed)).unwrap_err();
    assert!(error.message().contains("`ajar` is none of open, due, closed"), "{error}");
}

#[test]
fn addresses_are_those_of_rows() {
    let start = Timestamp(1_690_000_000_000);
    let plain = Window::key("d/7", ["cat-1"], "totals", start);
    assert_eq!(plain.as_str(), "d%2F7/cat-1/totals/1690000000000");
    assert_eq!(plain.routing_key(), "d/7");
    let none: [&str; 0] = [];
    let until = Window::key_until("d-7", none, "totals", start, Timestamp(1_690_000_005_000));
    assert_eq!(until.as_str(), "d-7/totals/1690000000000..1690000005000");
    let (target, method, arguments) =
        Window::at(Window::key_of_all("d-7", none, "all-time")).get().into_parts().unwrap();
    assert_eq!((target.to_string().as_str(), method), ("Window/d-7/all-time/all", "get"));
    assert_eq!(arguments, [0x80], "no arguments");
}
