//! The `sinks:` of a pipeline file.

use super::mistake::Mistakes;
use super::read::{self, Map};
use super::step::Scope;
use super::yaml::{Name, Node};
use crate::plan::{Delivery, From, SET_ASIDE, Sink, Target, VERDICTS};

/// One sink.
pub(super) fn read(name: &Name, node: &Node, scope: &Scope<'_>, mistakes: &mut Mistakes) -> Option<Sink> {
    let text = read::name(name, "sink", mistakes);
    if SET_ASIDE.contains(&text) || [VERDICTS, "alerts"].contains(&text) {
        mistakes.add(name.place, format!("`{text}` names a stream every pipeline has: choose another name"));
    }
    let mut map = Map::new(node, "a sink", mistakes);
    let from = map.need("from", mistakes).and_then(|node| scope.find(node, mistakes));
    if let Some(From::Step(i)) = from
        && scope.steps[i].rules().is_some()
    {
        let message =
            format!("step `{}` has rules: their alerts are in the stream `alerts`", scope.steps[i].name);
        mistakes.add(node.place, message);
    }
    let delivery = map
        .get("delivery")
        .map(|node| (node.place, read::word(node, "delivery", &["exactly_once", "eager"], mistakes)));
    let eager_at = delivery.and_then(|(place, word)| (word == Some("eager")).then_some(place));
    for later in ["webhook", "websocket"] {
        map.not_yet(later, mistakes);
    }
    let topic = map.get("topic").and_then(|node| read::text(node, "a topic's name", mistakes));
    let file = map.get("file").and_then(|node| read::text(node, "a path", mistakes));
    let grain = map.get("grain").and_then(|node| read::text(node, "a kind of grain", mistakes));
    let method = match grain {
        Some(_) => map.need("method", mistakes).and_then(|node| read::text(node, "a method", mistakes)),
        None => None,
    };
    map.finish(mistakes);
    let to = match (topic, file, grain) {
        (Some(topic), None, None) => Target::Topic(topic.into()),
        (None, Some(file), None) => Target::File(file.into()),
        (None, None, Some(kind)) => Target::Grain { kind: kind.into(), method: method?.into() },
        _ => {
            mistakes.add(node.place, "a sink has one of `topic`, `file` and `grain`".to_owned());
            return None;
        }
    };
    if let (Some(place), false) = (eager_at, matches!(to, Target::Topic(_))) {
        mistakes.add(
            place,
            "only a `topic` can be written to before the commit; allowed: exactly_once".to_owned(),
        );
    }
    let delivery = if eager_at.is_some() { Delivery::Eager } else { Delivery::ExactlyOnce };
    Some(Sink { name: text.into(), from: from?, to, delivery })
}
