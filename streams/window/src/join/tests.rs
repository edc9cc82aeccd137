//! Joins, small enough to check by hand.

use super::*;

/// Rows in words: left, right, time; for windows the start.
fn rows(join: Join, events: &[(Side, i64, Option<&'static str>)], marks: &[i64]) -> Vec<String> {
    assert_eq!(join.check(), []);
    let mut joiner = Joiner::new(join);
    let mut rows = Vec::new();
    let mut tell = |paired: Paired<'_, &'static str>| {
        let (At::Time(at) | At::Window(at, _)) = paired.at;
        let word = |event: Option<&&'static str>| event.map_or("-", |word| word).to_owned();
        rows.push(format!("{} {} {}", word(paired.left), word(paired.right), at.ms()));
    };
    for (side, at, event) in events {
        assert!(joiner.event(*side, Timestamp(*at), *event, &mut tell), "{event:?} is not late");
    }
    for to in marks {
        joiner.advance(Timestamp(*to), &mut tell);
    }
    rows
}

fn interval(kind: Kind, lower_ms: i64, upper_ms: i64, included: (bool, bool)) -> Join {
    let (lower_included, upper_included) = included;
    let over = Over::Interval { lower_ms, upper_ms, lower_included, upper_included };
    Join { over, kind, allowed_lateness: Lateness::Span(Span::ZERO) }
}

#[test]
fn intervals_include_their_ends_or_do_not() {
    use Side::{Left, Right};
    let events = [
        (Left, 10, Some("l")),
        (Right, 8, Some("r8")),
        (Right, 9, Some("r9")),
        (Right, 12, Some("r12")),
        (Right, 13, Some("r13")),
    ];
    let with = |included| rows(interval(Kind::Inner, -1, 2, included), &events, &[]);
    assert_eq!(with((true, true)), ["l r9 10", "l r12 12"]);
    assert_eq!(with((false, true)), ["l r12 12"]);
    assert_eq!(with((true, false)), ["l r9 10"]);
}

#[test]
fn who_finds_nobody_is_told_once_and_when_it_is_certain() {
    use Side::{Left, Right};
    let events = [(Left, 10, Some("l")), (Right, 10, Some("r"))];
    let join = interval(Kind::Outer, 5, 6, (true, true));
    assert_eq!(rows(join, &events, &[15]), ["- r 10"], "partners of r lie before it");
    assert_eq!(rows(join, &events, &[15, 16]), ["- r 10", "l - 10"]);
    assert_eq!(rows(interval(Kind::Left, 5, 6, (true, true)), &events, &[99]), ["l - 10"]);
    let late = Join { allowed_lateness: Lateness::Forever, ..join };
    assert_eq!(rows(late, &events, &[99]), [] as [&str; 0], "somebody may still come");
    assert_eq!(rows(late, &events, &[i64::MAX]), ["l - 10", "- r 10"]);
}

#[test]
fn windows_pair_everything_with_everything() {
    use Side::{Left, Right};
    let events = [(Left, 1, Some("a")), (Left, 2, Some("b")), (Right, 3, Some("x")), (Right, 11, Some("y"))];
    let join = |kind| Join { over: Over::Window(Span(10)), kind, allowed_lateness: Lateness::Span(Span(0)) };
    assert_eq!(rows(join(Kind::Inner), &events, &[8]), [] as [&str; 0]);
    assert_eq!(rows(join(Kind::Inner), &events, &[9]), ["a x 0", "b x 0"]);
    assert_eq!(rows(join(Kind::Outer), &events, &[i64::MAX]), ["a x 0", "b x 0", "- y 10"]);
    let mut joiner = Joiner::new(join(Kind::Inner));
    joiner.advance(Timestamp(9), &mut |_| {});
    assert!(!joiner.event(Left, Timestamp(9), Some("late"), &mut |_| {}));
    assert!(joiner.event(Left, Timestamp(10), Some("in time"), &mut |_| {}));
}

#[test]
fn versions_hold_from_their_time_on() {
    use Side::{Left, Right};
    let events = [
        (Right, 10, Some("v1")),
        (Right, 20, None),
        (Right, 30, Some("v2")),
        (Right, 30, Some("v3")),
        (Left, 9, Some("a")),
        (Left, 10, Some("b")),
        (Left, 25, Some("c")),
        (Left, 40, Some("d")),
    ];
    let join = |kind| Join { over: Over::Version, kind, allowed_lateness: Lateness::Span(Span(0)) };
    assert_eq!(rows(join(Kind::Inner), &events, &[39, 40]), ["b v1 10", "d v3 40"]);
    let all = ["a - 9", "b v1 10", "c - 25", "d v3 40"];
    assert_eq!(rows(join(Kind::Left), &events, &[15, 15, 40]), all, "old versions stay as long as needed");
}

#[test]
fn mistakes_are_named() {
    let fields = |join: Join| join.check().iter().map(|mistake| mistake.field).collect::<Vec<_>>();
    assert_eq!(fields(interval(Kind::Inner, 2, 1, (true, true))), ["lower"]);
    assert_eq!(fields(interval(Kind::Inner, 2, 2, (true, false))), ["lower"]);
    let over = |over| Join { over, ..interval(Kind::Outer, 0, 1, (true, true)) };
    assert_eq!(fields(over(Over::Version)), ["type"]);
    assert_eq!(fields(over(Over::Window(Span::ZERO))), ["size"]);
}
