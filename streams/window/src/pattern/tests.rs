//! Facts about patterns, small enough to check by hand. Stages fit events by their first letter; where a source is named,
//! the outcome is that engine's.

use std::sync::Arc;

use granary_core::{Span, Timestamp};

use super::*;
use crate::Corrupt;
use crate::shelf::Stored;
use crate::track::Machine;

struct ByLetter(Vec<char>);

impl Stored for &'static str {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<&'static str, Corrupt> {
        Ok(String::leak(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Judge<&'static str> for ByLetter {
    fn fits(&self, stage: usize, event: &&'static str, _: &Selection<'_, &'static str>) -> bool {
        event.starts_with(self.0[stage])
    }
}

/// A stage for each word: a letter, then `?` optional, `+` one or more, `*` none or more, `=n` exactly n, `<` greedy; before
/// it `!` absent, `-` next, `~` followed by any; after it `.` inner next, `:` inner followed by any.
fn pattern(text: &str) -> (Pattern, ByLetter) {
    let (mut stages, mut letters) = (Vec::new(), Vec::new());
    for word in text.split(' ') {
        let mut stage = Stage::new("");
        for letter in word.chars() {
            match letter {
                '!' => stage.is_absent = true,
                '-' => stage.contiguity = Contiguity::Next,
                '~' => stage.contiguity = Contiguity::FollowedByAny,
                '.' => stage.inner = Contiguity::Next,
                ':' => stage.inner = Contiguity::FollowedByAny,
                '?' => stage.is_optional = true,
                '+' => stage.times_max = None,
                '*' => (stage.times_max, stage.is_optional) = (None, true),
                '<' => stage.is_greedy = true,
                '2'..='9' => {
                    let times = letter.to_digit(10).unwrap();
                    (stage.times_min, stage.times_max) = (times, Some(times));
                }
                letter => {
                    stage.name = if stage.is_absent { "".into() } else { letter.to_string().into() };
                    letters.push(letter);
                }
            }
        }
        stages.push(stage);
    }
    (Pattern::new(stages), ByLetter(letters))
}

/// What is found in these events, a millisecond apart, and then until the end of time: rows in order, timeouts with a mark.
fn found_by(pattern: Pattern, judge: &ByLetter, events: &'static str) -> Vec<String> {
    let is_sound = pattern.check().is_empty();
    assert!(is_sound, "{:?}", pattern.check());
    let mut matcher = Matcher::new(Arc::new(pattern));
    let mut rows = Vec::new();
    for (at, event) in (0..).zip(events.split(' ')) {
        assert!(matcher.event(Timestamp(at), event));
        matcher.advance(Timestamp(at), judge, &mut |found| rows.push(words(&found)));
    }
    matcher.advance(Timestamp(i64::MAX), judge, &mut |found| rows.push(words(&found)));
    rows
}

fn words(found: &Found<'_, &'static str>) -> String {
    let events: Vec<&str> = found.selection.all().into_iter().map(|(_, event)| *event).collect();
    let mark = if found.pane == Pane::Timeout { "timeout " } else { "" };
    format!("{mark}{}", events.join(" "))
}

#[track_caller]
fn finds(text: &str, events: &'static str, expected: &[&str]) {
    let (pattern, judge) = pattern(text);
    let mut found = found_by(pattern, &judge, events);
    let mut expected: Vec<String> = expected.iter().map(|&row| row.to_owned()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{text} over {events}");
}

/// Flink's documentation, "Contiguity within looping patterns" and its first example.
#[test]
fn contiguity_is_strict_relaxed_or_any() {
    finds("a -b", "a c b1 b2", &[]);
    finds("a b", "a c b1 b2", &["a b1"]);
    finds("a ~b", "a c b1 b2", &["a b1", "a b2"]);
    let events = "a b1 d1 b2 d2 b3 c";
    let (alone, relaxed) = (["a b1 c", "a b2 c", "a b3 c"], ["a b1 b2 c", "a b1 b2 b3 c", "a b2 b3 c"]);
    finds("a ~b+. c", events, &alone);
    finds("a ~b+ c", events, &[alone, relaxed].concat());
    finds("a ~b+: c", events, &[&alone[..], &relaxed, &["a b1 b3 c"]].concat());
    finds("a b+. c", events, &alone[..1]);
    finds("a b+ c", events, &["a b1 c", "a b1 b2 c", "a b1 b2 b3 c"]);
}

#[test]
fn a_loop_goes_on_and_leaves() {
    finds("a+ b", "a1 a2 b1", &["a1 a2 b1", "a1 b1", "a2 b1"]);
    finds("a2 b", "a1 x a2 a3 b", &["a1 a2 b", "a2 a3 b"]);
    finds("a b? c", "a b c", &["a b c", "a c"]);
    finds("a -b? -c", "a c", &["a c"]);
    finds("a* b", "a1 b1", &["a1 b1", "b1"]);
    finds("a b+", "a b1 b2", &["a b1", "a b1 b2"]);
}

/// Flink's GreedyITCase: while events fit the greedy stage there is no other way on.
#[test]
fn greed_leaves_no_other_way() {
    finds("c a*< d", "c a1 a2 a3 d", &["c a1 a2 a3 d"]);
    finds("c a*< d", "c d", &["c d"]);
    finds("a+< b", "a1 a2 b", &["a1 a2 b", "a2 b"]);
}

#[test]
fn absence_ends_what_it_meets() {
    finds("a !b c", "a1 c1 a2 b c2", &["a1 c1"]);
    finds("a !-b c", "a1 x b c1 a2 b2 c2", &["a1 c1"]);
    finds("a+ !b c", "a1 b a2 c", &["a2 c"]);
    finds("a !b c?", "a c", &["a", "a c"]);
}

/// Flink's documentation, "After match skip strategy": `b+ c` over three b and a c.
#[test]
fn skipping_is_what_a_match_removes() {
    let (whole, judge) = pattern("b+. -c");
    let found = |skip| found_by(Pattern { skip, ..whole.clone() }, &judge, "b1 b2 b3 c");
    let all = ["b1 b2 b3 c", "b2 b3 c", "b3 c"];
    assert_eq!(found(Skip::None), all);
    assert_eq!(found(Skip::ToNext), all);
    assert_eq!(found(Skip::PastLast), all[..1]);
    assert_eq!(found(Skip::ToFirst(0)), all);
    assert_eq!(found(Skip::ToLast(0)), [all[0], all[2]]);
}

#[test]
fn time_ends_partial_matches() {
    let (whole, judge) = pattern("a b+");
    let within = |ms, timeouts| Pattern { within: Some(Span(ms)), timeouts, ..whole.clone() };
    assert_eq!(found_by(within(2, false), &judge, "a b1 b2"), ["a b1"], "the end is not in time");
    assert_eq!(found_by(within(3, false), &judge, "a b1 b2"), ["a b1", "a b1 b2"]);
    assert_eq!(found_by(within(2, true), &judge, "a x b2"), ["timeout a"]);
    let (absent, judge) = pattern("a !b");
    let absent = Pattern { within: Some(Span(2)), ..absent };
    assert_eq!(found_by(absent.clone(), &judge, "a1 x b"), ["a1"], "it comes too late to prevent it");
    assert_eq!(found_by(absent, &judge, "a1 b x"), [] as [&str; 0]);
}

#[test]
fn events_are_taken_in_the_order_of_time() {
    let (whole, judge) = pattern("a -b");
    let mut matcher = Matcher::new(Arc::new(whole));
    let mut rows = Vec::new();
    for (at, event) in [(5, "b"), (3, "a"), (3, "x")] {
        assert!(matcher.event(Timestamp(at), event));
    }
    matcher.advance(Timestamp(4), &judge, &mut |found| rows.push(words(&found)));
    assert!(!matcher.event(Timestamp(4), "a"), "it is late");
    matcher.advance(Timestamp(9), &judge, &mut |found| rows.push(words(&found)));
    assert!(rows.is_empty(), "x came between: {rows:?}");
}

#[test]
fn mistakes_are_named() {
    let fields = |text: &str| -> Vec<&str> { pattern(text).0.check().iter().map(|m| m.field).collect() };
    assert_eq!(fields("!a b"), ["stages"]);
    assert_eq!(fields("a?"), ["stages"]);
    assert_eq!(fields("a b<"), ["greedy"]);
    assert_eq!(fields("a !b"), ["within"]);
    assert_eq!(fields("a !~b c"), ["contiguity"]);
    assert_eq!(fields("a a"), ["name"]);
    assert!(fields("a b+ c?").is_empty());
}

#[test]
fn what_is_held_back_is_told_at_the_end() {
    let (whole, judge) = pattern("p2? a");
    let whole = Pattern { skip: Skip::ToNext, ..whole };
    assert_eq!(found_by(whole, &judge, "p1 a1"), ["a1"], "it waited for a second p");
}

#[test]
fn time_alone_changes_something_when_it_is_said() {
    let (absent, judge) = pattern("a !b");
    let mut matcher = Matcher::new(Arc::new(Pattern { within: Some(Span(10)), ..absent }));
    assert_eq!(matcher.next_change(), None);
    matcher.event(Timestamp(5), "a");
    assert_eq!(matcher.next_change(), Some(5), "it waits for its time");
    matcher.advance(Timestamp(5), &judge, &mut |_| {});
    assert_eq!(matcher.next_change(), Some(15));
    let mut rows = 0;
    matcher.advance(Timestamp(15), &judge, &mut |_| rows += 1);
    assert_eq!((rows, matcher.next_change()), (1, None));
}

#[test]
fn partial_matches_are_capped() {
    let (whole, judge) = pattern("a b");
    let mut matcher = Matcher::new(Arc::new(whole));
    for at in 0..=matcher::PARTIALS_MAX as i64 + 4 {
        matcher.event(Timestamp(at), "a");
    }
    matcher.advance(Timestamp(i64::MAX - 1), &judge, &mut |_| {});
    assert_eq!(matcher.dropped(), 5);
}

#[test]
fn the_events_of_partial_matches_are_capped() {
    let (whole, judge) = pattern("a+< b");
    let mut matcher = Matcher::new(Arc::new(whole));
    for at in 0..1_000 {
        matcher.event(Timestamp(at), "a");
    }
    matcher.event(Timestamp(1_000), "b");
    let mut longest = 0;
    matcher
        .advance(Timestamp(1_000), &judge, &mut |found| longest = longest.max(found.selection.all().len()));
    assert!(matcher.dropped() > 100 && longest > 700 && longest <= 1_024, "{} {longest}", matcher.dropped());
}

#[test]
fn a_key_without_room_lets_its_oldest_partial_matches_go() {
    let (whole, judge) = pattern("a2 b");
    let mut matcher = Matcher::new(Arc::new(whole));
    let mut at = 0;
    while matcher.held.shelf.len() < crate::track::EVENTS_MAX {
        assert!(matcher.has_room(Timestamp(at)));
        matcher.event(Timestamp(at), "a");
        at += 1;
    }
    assert!(!matcher.has_room(Timestamp(at)), "all of them wait for their time");
    matcher.advance(Timestamp(at), &judge, &mut |_| {});
    let dropped = matcher.dropped();
    assert!(matcher.has_room(Timestamp(at)), "those that no selection has go");
    assert_eq!(matcher.dropped(), dropped);
    matcher.drop_older_half();
    assert!(matcher.dropped() > dropped && matcher.held.shelf.len() <= matcher::PARTIALS_MAX);
    matcher.event(Timestamp(at + 1), "b");
    let mut last = Vec::new();
    matcher.advance(Timestamp(at + 1), &judge, &mut |found| last.push(words(&found)));
    assert!(!last.is_empty(), "the younger ones go on");
}
