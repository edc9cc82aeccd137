//! Joins, small enough to check by hand.

use super::*;
use crate::Corrupt;
use crate::shelf::Stored;
use crate::track::Shelved;
use std::sync::Arc;

impl Stored for usize {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Result<usize, Corrupt> {
        bytes.try_into().map(usize::from_le_bytes).map_err(|_| Corrupt { what: "a number expected" })
    }

    fn bytes(&self) -> usize {
        8
    }
}

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

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// An event: side, time, and its place in the order of arrival.
type Arrived = (Side, i64, usize);

/// Every pair that matches, and who has none: two loops over all events.
fn pairs(
    join: Join,
    events: &[Arrived],
    is_deletion: impl Fn(usize) -> bool,
) -> Vec<(Option<usize>, Option<usize>)> {
    let (left, right): (Vec<Arrived>, Vec<Arrived>) =
        events.iter().partition(|(side, ..)| *side == Side::Left);
    let matches = |l: &Arrived, r: &Arrived| match join.over {
        Over::Interval { lower_ms, upper_ms, .. } => (l.1 + lower_ms..=l.1 + upper_ms).contains(&r.1),
        Over::Window(size) => l.1 / size.ms() as i64 == r.1 / size.ms() as i64,
        Over::Version => {
            let version = right.iter().filter(|(_, at, _)| *at <= l.1).max_by_key(|(_, at, no)| (*at, *no));
            version == Some(r) && !is_deletion(r.2)
        }
    };
    let mut found = Vec::new();
    for l in &left {
        found.extend(right.iter().filter(|r| matches(l, r)).map(|r| (Some(l.2), Some(r.2))));
    }
    let lonely = |found: &[(Option<usize>, Option<usize>)], event: &Arrived| match event.0 {
        Side::Left => !found.iter().any(|(left, _)| *left == Some(event.2)),
        Side::Right => !found.iter().any(|(_, right)| *right == Some(event.2)),
    };
    let alone: Vec<Arrived> = events.iter().copied().filter(|event| lonely(&found, event)).collect();
    for (side, _, no) in alone.into_iter().filter(|(side, ..)| join.kind.keeps(*side)) {
        found.push(if side == Side::Left { (Some(no), None) } else { (None, Some(no)) });
    }
    found.sort_unstable();
    found
}

/// In order, shuffled within the disorder, and stored and read again anywhere: the pairs are those of two nested loops.
#[test]
fn pairs_are_those_of_two_loops() {
    let mut rows = 0;
    for seed in 0..8_000 {
        let mut dice = Dice(seed);
        let kinds = [Kind::Inner, Kind::Left, Kind::Right, Kind::Outer];
        let (lower_ms, length) = (dice.below(21) as i64 - 10, dice.below(15) as i64);
        let (over, kind) = match dice.below(3) {
            0 => (
                Over::Interval {
                    lower_ms,
                    upper_ms: lower_ms + length,
                    lower_included: true,
                    upper_included: true,
                },
                kinds[dice.below(4) as usize],
            ),
            1 => (Over::Window(Span(1 + dice.below(12))), kinds[dice.below(4) as usize]),
            _ => (Over::Version, kinds[dice.below(2) as usize]),
        };
        let late = dice.below(2) * 5;
        let join = Join { over, kind, allowed_lateness: Lateness::Span(Span(late)) };
        let disorder = dice.below(3) as i64 * 6;
        let mut events: Vec<Arrived> = (0..dice.below(120))
            .map(|at| {
                let side = [Side::Left, Side::Right][dice.below(2) as usize];
                (side, 1_000 + at as i64 / 2 - dice.below(disorder as u64 + 1) as i64, 0)
            })
            .collect();
        events.iter_mut().enumerate().for_each(|(no, event)| event.2 = no);
        let is_deletion = |no: usize| over == Over::Version && no.is_multiple_of(7);
        let expected = pairs(join, &events, is_deletion);
        for is_restored in [false, true] {
            let mut key = Shelved::new(Joiner::new(join), Arc::new(join));
            let mut found = Vec::new();
            let mut out = |row: Paired<'_, usize>| found.push((row.left.copied(), row.right.copied()));
            let mut newest = 0;
            for (side, at, no) in &events {
                if is_restored && dice.below(4) == 0 {
                    key.restore();
                }
                let event = (*side == Side::Left || !is_deletion(*no)).then_some(*no);
                assert!(
                    key.machine.event(*side, Timestamp(*at), event, &mut out),
                    "seed {seed}: it is not late"
                );
                newest = newest.max(*at);
                key.machine.advance(Timestamp(newest - disorder - 1), &mut out);
            }
            key.machine.advance(Timestamp(i64::MAX), &mut out);
            found.sort_unstable();
            assert_eq!(found, expected, "seed {seed}, restored: {is_restored}: {join:?} over {events:?}");
        }
        rows += expected.len();
    }
    assert!(rows > 100_000, "{rows}");
}
