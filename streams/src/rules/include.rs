//! Fields of the event that an alert shows beside the ids: only those that a rule names.

use granary_window::rule::Pace;
use serde_json::{Map, Value, json};

use super::decimal::write;
use super::event::{Cell, Event, EventSpec};
use super::problem::{Problems, code};
use super::rule::unknown_field;
use crate::file::Mistakes;
use crate::file::read;
use crate::file::yaml::Node;

/// Fields that a rule shows.
const INCLUDE_MAX: usize = 16;
/// How many digits the number of a card has.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Reads `include: [category, country]`.
pub(crate) fn fields(
    of: &str,
    node: &Node,
    (spec, pace): (&EventSpec, Pace),
    mistakes: &mut Mistakes,
    problems: &mut Problems,
) -> Vec<usize> {
    let mut fields = Vec::new();
    for item in read::items(node) {
        let Some(name) = read::text(item, "a field", mistakes) else { continue };
        match spec.fields.iter().position(|field| *field.name == *name) {
            Some(field) if fields.contains(&field) => {}
            Some(field) => fields.push(field),
            None => unknown_field(of, name, spec, item.place, problems),
        }
    }
    if pace == Pace::OnWatermark {
        let message = format!(
            "{of}: include: with `judge: on_watermark` an alert comes later than its event, of which only what rules look at is kept. \
             Write `judge: on_arrival`"
        );
        problems.add(node.place, code::FIELD, message);
    }
    if fields.len() > INCLUDE_MAX {
        let message = format!("{of}: include has {} fields, at most {INCLUDE_MAX} are shown", fields.len());
        problems.add(node.place, code::FIELD, message);
    }
    fields
}

/// What an alert shows of its event: exact numbers with places as text, the others as they are, null for what is missing. A
/// number that could be a card's is not shown.
pub(crate) fn shown(spec: &EventSpec, fields: &[usize], event: &Event) -> Value {
    let shown = fields.iter().map(|field| {
        let of = &spec.fields[*field];
        let value = match event.cells[*field] {
            Cell::Missing | Cell::Wrong => Value::Null,
            Cell::Boolean(value) => json!(value),
            Cell::Double(double) => json!(double),
            Cell::Number(units) if is_card(units.unsigned_abs().to_string().as_bytes()) => json!("hidden"),
            Cell::Number(units) => match of.kind.scale() {
                None | Some(0) => json!(units),
                Some(scale) => json!(write(i128::from(units), scale)),
            },
            Cell::Text(..) => match event.text(*field).unwrap_or_default() {
                text if is_card(text) => json!("hidden"),
                text => json!(String::from_utf8_lossy(text)),
            },
        };
        (of.name.to_string(), value)
    });
    Value::Object(shown.collect::<Map<String, Value>>())
}

/// Whether it could be the number of a card: so many digits, with spaces or dashes between them, that pass Luhn's check.
fn is_card(text: &[u8]) -> bool {
    let mut digits = Vec::with_capacity(*CARD_DIGITS.end());
    for byte in text {
        match byte {
            b'0'..=b'9' if digits.len() < *CARD_DIGITS.end() => digits.push(u32::from(byte - b'0')),
            b' ' | b'-' => {}
            _ => return false,
        }
    }
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| if i % 2 == 1 { doubled(*digit) } else { *digit })
        .sum();
    CARD_DIGITS.contains(&digits.len()) && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_cards_are_known_by_their_digits() {
        // 13, 15, 16 and 19 digits that payment networks give out for tests
        for card in ["4222222222222", "378282246310005", "4111 1111 1111 1111", "6205-5000-0000-0000-004"] {
            assert!(is_card(card.as_bytes()), "{card}");
        }
        for other in
            ["4111111111111112", "411111111111", "41111111111111111111", "x4111111111111111", "", "food"]
        {
            assert!(!is_card(other.as_bytes()), "{other}");
        }
    }
}
