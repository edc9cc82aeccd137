//! What came out against what must.

use serde_json::{Map, Number, Value as Json};

use super::run::Observed;

/// What differs, for a person; `None` when nothing does. Rows of one step may come in any order; numbers are equal by
/// value.
pub fn difference(observed: &Observed, expect: &Json) -> Option<String> {
    let mut text = String::new();
    let lists = [
        ("results", &observed.results),
        ("late", &observed.late),
        ("partially_late", &observed.partially_late),
        ("duplicates", &observed.duplicates),
        ("unassigned", &observed.unassigned),
    ];
    for (name, found) in lists {
        let wanted = expect.get(name).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        let (mut found, mut wanted) = (sorted(found), sorted(wanted));
        for row in std::mem::take(&mut wanted) {
            match found.iter().position(|other| *other == row) {
                Some(i) => {
                    found.swap_remove(i);
                }
                None => wanted.push(row),
            }
        }
        found.sort();
        wanted.iter().for_each(|row| text.push_str(&format!("{name}: missing    {row}\n")));
        found.iter().for_each(|row| text.push_str(&format!("{name}: unexpected {row}\n")));
    }
    (!text.is_empty()).then_some(text)
}

fn sorted(rows: &[Json]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| canonical(row).to_string()).collect();
    rows.sort();
    rows
}

/// The value with numbers that are equal written alike: whole numbers within 64 bits as such, all others as doubles.
pub(crate) fn canonical(value: &Json) -> Json {
    match value {
        Json::Number(n) => number(n),
        Json::Array(items) => items.iter().map(canonical).collect(),
        Json::Object(fields) => {
            let fields: Map<String, Json> =
                fields.iter().map(|(name, value)| (name.clone(), canonical(value))).collect();
            Json::Object(fields)
        }
        other => other.clone(),
    }
}

fn number(n: &Number) -> Json {
    if n.is_i64() {
        return Json::Number(n.clone());
    }
    let x = n.as_f64().unwrap_or(f64::NAN);
    let is_whole = x.trunc() == x && x.abs() < 9_223_372_036_854_775_808.0;
    if is_whole { Json::from(x as i64) } else { Json::from(x) }
}
