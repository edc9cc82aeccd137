//! Typed reading of a tree: each reader notes what is wrong and goes on, so that all mistakes come at once.

use std::ops::RangeInclusive;

use granary_core::Span;

use super::mistake::{Mistakes, Place};
use super::yaml::{Name, Node, Value};
use crate::asked::Written;

/// A map being read: every member must be taken by someone.
pub(crate) struct Map<'n> {
    pub place: Place,
    what: &'static str,
    members: Vec<(&'n Name, &'n Node, bool)>,
    asked: Vec<&'static str>,
}

impl<'n> Map<'n> {
    /// `node` as a map; an empty one when it is something else, which is noted.
    pub fn new(node: &'n Node, what: &'static str, mistakes: &mut Mistakes) -> Map<'n> {
        let members = match &node.value {
            Value::Map(members) => members.iter().map(|(name, node)| (name, node, false)).collect(),
            _ => {
                mistakes.add(node.place, format!("{what}: a map expected, {} found", node.describe()));
                Vec::new()
            }
        };
        Map { place: node.place, what, members, asked: Vec::new() }
    }

    /// Takes a member, if it is there.
    pub fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        self.asked.push(name);
        let member = self.members.iter_mut().find(|(known, _, _)| known.text == name)?;
        member.2 = true;
        Some(member.1)
    }

    /// Takes a member that must be there.
    pub fn need(&mut self, name: &'static str, mistakes: &mut Mistakes) -> Option<&'n Node> {
        let found = self.get(name);
        if found.is_none() {
            mistakes.add(self.place, format!("{}: `{name}` is missing", self.what));
        }
        found
    }

    /// Names that are known here, whether they are asked for or not.
    pub fn knows(&mut self, names: &[&'static str]) {
        self.asked
            .extend(names.iter().filter(|name| !self.asked.contains(name)).copied().collect::<Vec<_>>());
        for member in self.members.iter_mut().filter(|(name, ..)| names.contains(&name.text.as_str())) {
            member.2 = true;
        }
    }

    /// Takes a word this version knows of and does not do.
    pub fn not_yet(&mut self, name: &'static str, mistakes: &mut Mistakes) {
        let member = self.members.iter_mut().find(|(known, _, _)| known.text == name);
        if let Some((known, _, taken)) = member {
            *taken = true;
            mistakes.add(known.place, format!("`{name}` is not supported yet"));
        }
    }

    /// All members as they are: a map of free names.
    pub fn entries(self) -> Vec<(&'n Name, &'n Node)> {
        self.members.into_iter().map(|(name, node, _)| (name, node)).collect()
    }

    /// Notes the members nobody took.
    pub fn finish(self, mistakes: &mut Mistakes) {
        for (name, _, taken) in &self.members {
            if !taken {
                mistakes.unknown(name.place, "name", &name.text, &self.asked);
            }
        }
    }
}

/// The scalar's text, or a noted mistake.
pub(crate) fn text<'n>(node: &'n Node, what: &str, mistakes: &mut Mistakes) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, is_quoted } if *is_quoted || !text.is_empty() => Some(text),
        _ => {
            mistakes.add(node.place, format!("{what} expected, {} found", node.describe()));
            None
        }
    }
}

/// The scalar's text with its place, or a noted mistake.
pub(crate) fn written<'n>(node: &'n Node, what: &str, mistakes: &mut Mistakes) -> Option<Written<'n>> {
    let is_quoted = matches!(&node.value, Value::Scalar { is_quoted: true, .. });
    Some(Written { text: text(node, what, mistakes)?, place: Some(node.place), is_quoted })
}

/// One of these words.
pub(crate) fn word(
    node: &Node,
    what: &str,
    allowed: &[&'static str],
    mistakes: &mut Mistakes,
) -> Option<&'static str> {
    let found = text(node, what, mistakes)?;
    let known = allowed.iter().find(|word| **word == found).copied();
    if known.is_none() {
        mistakes.unknown(node.place, what, found, allowed);
    }
    known
}

/// The items of a list, or one item by itself.
pub(crate) fn items(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}

/// A name: a letter, then letters, digits, `_` or `-`.
pub(crate) fn name<'n>(name: &'n Name, what: &str, mistakes: &mut Mistakes) -> &'n str {
    if !is_name(&name.text) {
        let message = format!("{what} `{}`: a letter, then letters, digits, `_` or `-` expected", name.text);
        mistakes.add(name.place, message);
    }
    &name.text
}

/// Whether it can name a step, a field, a source or a sink.
pub(crate) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|other| other.is_ascii_alphanumeric() || matches!(other, '_' | '-'))
        && text.len() <= 100
}

/// A length: `250ms`, `5s`, `15m`, `1h`, `1d`.
pub(crate) fn span(node: &Node, what: &str, mistakes: &mut Mistakes) -> Option<Span> {
    let found = text(node, what, mistakes)?;
    let parsed = parse_span(found);
    if parsed.is_none() {
        let message = format!("{what}: a length such as 250ms, 5s, 15m, 1h or 1d expected, `{found}` found");
        mistakes.add(node.place, message);
    }
    parsed
}

/// A length, negative ones included, in ms.
pub(crate) fn signed_span_ms(node: &Node, what: &str, mistakes: &mut Mistakes) -> Option<i64> {
    let found = text(node, what, mistakes)?;
    let (negative, unsigned) = found.strip_prefix('-').map_or((false, found), |rest| (true, rest));
    match parse_span(unsigned).and_then(|span| i64::try_from(span.ms()).ok()) {
        Some(ms) => Some(if negative { -ms } else { ms }),
        None => {
            mistakes.add(node.place, format!("{what}: a length such as 5s or -1h expected, `{found}` found"));
            None
        }
    }
}

/// Reads `250ms`, `5s`, `15m`, `1h`, `1d`.
pub fn parse_span(text: &str) -> Option<Span> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let count: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(unit).map(Span)
}

/// A whole number within `range`; `_` may group its digits.
pub(crate) fn number(
    node: &Node,
    what: &str,
    range: RangeInclusive<u64>,
    mistakes: &mut Mistakes,
) -> Option<u64> {
    let found = text(node, what, mistakes)?;
    let parsed = found.replace('_', "").parse().ok().filter(|number| range.contains(number));
    if parsed.is_none() {
        let (start, end) = (range.start(), range.end());
        mistakes.add(
            node.place,
            format!("{what}: a whole number from {start} to {end} expected, `{found}` found"),
        );
    }
    parsed
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node, what: &str, mistakes: &mut Mistakes) -> Option<bool> {
    word(node, what, &["true", "false"], mistakes).map(|word| word == "true")
}

/// A range `1..128`: both ends belong to it.
pub(crate) fn range<T: std::str::FromStr + PartialOrd>(
    node: &Node,
    what: &str,
    example: &str,
    mistakes: &mut Mistakes,
) -> Option<RangeInclusive<T>> {
    let found = text(node, what, mistakes)?;
    let parsed = found.split_once("..").and_then(|(start, end)| {
        let (start, end): (T, T) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
        (start <= end).then_some(start..=end)
    });
    if parsed.is_none() {
        mistakes.add(node.place, format!("{what}: a range such as {example} expected, `{found}` found"));
    }
    parsed
}
