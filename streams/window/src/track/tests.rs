//! Keys of a join in one slot: what they write, what becomes of damage, and that nothing depends on where state was.

use std::collections::BTreeMap;

use super::*;
use crate::join::{At, Join, Joiner, Kind, Over, Paired, Side};
use crate::noted::Noted;
use crate::pattern::{Found, Judge, Matcher, Pattern, Selection, Stage};
use crate::spec::{Lateness, Per};
use crate::value::Datum;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A row: key, left, right, time.
type Row = (Vec<u8>, Option<usize>, Option<usize>, i64);

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn take(&mut self, key: &[u8], paired: &Paired<'_, usize>) {
        let (At::Time(at) | At::Window(at, _)) = paired.at;
        self.0.push((key.to_vec(), paired.left.copied(), paired.right.copied(), at.ms()));
    }
}

impl Host<Joiner<usize>> for Rows {
    fn advance(&mut self, key: &[u8], machine: &mut Joiner<usize>, to: Timestamp) {
        machine.advance(to, &mut |paired| self.take(key, &paired));
    }
}

const PREFIX: &[u8] = b"w/both/";

/// A step and the store it is rebuilt from.
struct Bench {
    of: Arc<Join>,
    paces: [Pace; 2],
    tracks: Tracks<Joiner<usize>>,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    commit: u64,
    rows: Rows,
    /// What happens between two portions of what is due.
    dice: Option<Dice>,
}

fn pace(lag_ms: Option<i64>) -> Pace {
    Pace { behind_ms: 11, lag_ms }
}

fn interval(upper_ms: i64, kind: Kind) -> Join {
    let over = Over::Interval { lower_ms: 0, upper_ms, lower_included: true, upper_included: true };
    Join { over, kind, allowed_lateness: Lateness::Span(Span::ZERO) }
}

impl Bench {
    fn new(join: Join, lag_ms: Option<i64>) -> Bench {
        let (of, paces) = (Arc::new(join), [pace(lag_ms); 2]);
        let tracks = Tracks::new(of.clone(), &paces, PREFIX);
        Bench { of, paces, tracks, store: BTreeMap::new(), commit: 0, rows: Rows::default(), dice: None }
    }

    /// Commits; how many bytes that wrote.
    fn commit(&mut self) -> usize {
        self.commit += 1;
        let (store, mut bytes) = (&mut self.store, 0);
        self.tracks.seal(self.commit, &mut |cell, value| {
            bytes += cell.len() + value.map_or(0, <[u8]>::len);
            match value {
                Some(value) => store.insert(cell.to_vec(), value.to_vec()),
                None => store.remove(cell),
            };
        });
        self.tracks.acknowledged(self.commit);
        bytes
    }

    fn restart(&mut self) {
        self.tracks = Tracks::new(self.of.clone(), &self.paces, PREFIX);
    }

    fn load(&mut self, missing: impl Fn(&mut Tracks<Joiner<usize>>, &mut Vec<Vec<u8>>)) {
        let mut cells = Vec::new();
        loop {
            missing(&mut self.tracks, &mut cells);
            if cells.is_empty() {
                return;
            }
            for cell in cells.drain(..) {
                let value = self.store.get(&cell);
                self.tracks.supply(&cell, value.map(Vec::as_slice)).expect("cells read back");
            }
        }
    }

    fn go_on(&mut self) {
        loop {
            self.load(|tracks, cells| tracks.missing_root(cells));
            if !self.tracks.is_due() {
                return;
            }
            self.load(|tracks, cells| tracks.missing_due(cells));
            self.tracks.go_on(&mut self.rows);
            self.disturb();
        }
    }

    /// Commits, evicts and restarts, if it is to be disturbed and the dice say so.
    fn disturb(&mut self) {
        match self.dice.as_mut().map(|dice| dice.below(6)) {
            Some(0) => drop(self.commit()),
            Some(1) => {
                self.commit();
                (0..2).for_each(|_| self.tracks.evict(0, usize::MAX));
            }
            Some(2) => {
                self.commit();
                self.restart();
            }
            _ => {}
        }
    }

    fn event(&mut self, key: &[u8], side: Side, ms: i64, no: usize) -> Outcome {
        self.load(|tracks, cells| tracks.missing(key, cells));
        let id = no.to_le_bytes();
        let time = Timestamp(ms);
        let arrival = Arrival { key, side: side as usize, partition: 0, time, id: Some(&id) };
        let enter = |rows: &mut Rows, machine: &mut Joiner<usize>| {
            machine.event(side, time, Some(no), &mut |paired| rows.take(key, &paired));
        };
        let outcome = self.tracks.event(&arrival, &mut self.rows, Some(enter));
        self.go_on();
        outcome
    }

    fn end(&mut self) {
        self.load(|tracks, cells| tracks.missing_root(cells));
        self.tracks.end();
        self.go_on();
    }
}

#[test]
fn a_key_with_many_events_writes_few_bytes_for_some_more() {
    let mut bench = Bench::new(interval(1_000_000, Kind::Left), None);
    let mut most = 0;
    for no in 0..8_000 {
        assert_eq!(bench.event(b"hot", Side::Left, no, no as usize), Outcome::Accepted);
        if no % 50 == 0 {
            let bytes = bench.commit();
            most = most.max(if no < 50 { 0 } else { bytes });
        }
    }
    assert!(most < 8_000, "{most}");
    bench.commit();
    bench.restart();
    bench.event(b"hot", Side::Right, 8_000, 8_000);
    assert_eq!(bench.rows.0.len(), 8_000, "every one of them pairs");
    bench.end();
    bench.commit();
    let chunks = bench.store.keys().filter(|cell| cell.starts_with(b"w/both/C"));
    assert_eq!(chunks.count(), 0, "nothing of the events is left");
}

#[test]
fn damaged_cells_are_errors() {
    let mut bench = Bench::new(interval(1_000_000, Kind::Outer), Some(5));
    for no in 0..200 {
        bench.event(b"key", [Side::Left, Side::Right][no % 2], no as i64, no);
    }
    bench.commit();
    let cells = bench.store.clone();
    assert!(cells.keys().filter(|cell| cell.starts_with(b"w/both/C")).count() >= 3);
    let mut dice = Dice(1);
    for (cell, value) in &cells {
        let mut refused = 0;
        for _ in 0..200 {
            let mut damaged = value.clone();
            let at = dice.below(damaged.len() as u64) as usize;
            match dice.below(3) {
                0 => damaged.truncate(at),
                1 => damaged[at] ^= 1 << dice.below(8),
                _ => damaged.insert(at, dice.below(256) as u8),
            }
            bench.restart();
            let mut all = cells.clone();
            all.insert(cell.clone(), damaged);
            let mut missing = Vec::new();
            let mut rounds = 0;
            'reading: loop {
                bench.tracks.missing(b"key", &mut missing);
                rounds += 1;
                if missing.is_empty() || rounds > 5 {
                    break;
                }
                for cell in missing.drain(..) {
                    if bench.tracks.supply(&cell, all.get(&cell).map(Vec::as_slice)).is_err() {
                        refused += 1;
                        break 'reading;
                    }
                }
            }
        }
        assert!(refused > 60 || cell.starts_with(b"w/both/AP"), "{cell:?}: {refused}");
    }
}

#[test]
fn nothing_depends_on_where_state_was() {
    let mut rows = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let lag = [None, Some(0), Some(300), Some(3_000)][dice.below(4) as usize];
        let kind = [Kind::Left, Kind::Outer][dice.below(2) as usize];
        let keys = [20, 20, 20, 1_000][dice.below(4) as usize];
        let events: Vec<(Vec<u8>, Side, i64, usize)> = (0..dice.below(300 + keys) as usize)
            .map(|no| {
                let key = format!("k-{}", dice.below(keys)).into_bytes();
                let at = no as i64 * 40 - dice.below(400) as i64;
                let copied = dice.below(2).min(no as u64) as usize;
                (key, [Side::Left, Side::Right][dice.below(2) as usize], at, no - copied)
            })
            .collect();
        let run = |is_disturbed: bool| {
            let mut bench = Bench::new(interval(500, kind), lag);
            bench.dice = is_disturbed.then(|| Dice(seed + 1));
            let mut outcomes = Vec::new();
            for (key, side, at, no) in &events {
                bench.disturb();
                outcomes.push(bench.event(key, *side, *at, *no));
            }
            bench.end();
            (outcomes, bench.rows.0)
        };
        let whole = run(false);
        assert_eq!(run(true), whole, "seed {seed}");
        rows += whole.1.len();
    }
    assert!(rows > 20_000, "{rows}");
}

#[test]
fn silence_moves_a_key_once_it_has_lasted() {
    let mut bench = Bench::new(interval(100, Kind::Left), Some(5_000));
    bench.event(b"a", Side::Left, 1_000, 1);
    let stands = |bench: &mut Bench, ms: u64| {
        let to = bench.tracks.pass(Span(ms));
        if let Some(to) = to {
            bench.tracks.set_clock(to);
            bench.go_on();
        }
        bench.rows.0.len()
    };
    assert_eq!(stands(&mut bench, 5_000), 0, "1 s of the end of the interval, and the disorder, are left");
    assert_eq!(stands(&mut bench, 3_000), 1);
    assert_eq!(stands(&mut bench, 300_000), 1);
    assert_eq!(bench.event(b"a", Side::Right, 1_050, 2), Outcome::Late(Timestamp(1_100)));
}

#[test]
fn copies_are_refused_on_their_own_side_as_long_as_they_would_not_be_late() {
    let over = Over::Interval { lower_ms: -100, upper_ms: -50, lower_included: true, upper_included: true };
    let join = Join { over, allowed_lateness: Lateness::Span(Span(30)), ..interval(0, Kind::Left) };
    let mut bench = Bench::new(join, None);
    assert_eq!(bench.event(b"a", Side::Left, 1_000, 1), Outcome::Accepted);
    assert_eq!(bench.event(b"a", Side::Right, 1_000, 1), Outcome::Accepted, "another event of the same name");
    assert_eq!(bench.event(b"a", Side::Left, 1_000, 1), Outcome::Duplicate);
    bench.event(b"a", Side::Left, 1_020, 2);
    bench.event(b"a", Side::Right, 1_020, 3);
    assert_eq!(bench.rows.0.len(), 2, "the left events have found nobody, and are gone");
    bench.commit();
    bench.restart();
    assert_eq!(bench.event(b"a", Side::Left, 1_000, 1), Outcome::Duplicate, "a copy of it would not be late");
    bench.event(b"a", Side::Left, 1_050, 4);
    bench.event(b"a", Side::Right, 1_050, 5);
    assert_eq!(bench.event(b"a", Side::Left, 1_000, 1), Outcome::Late(Timestamp(1_039)));
    assert_eq!(bench.tracks.keys[&b"a"[..]].ids.len(), 3, "the right ones are there themselves");
}

#[test]
fn a_watermark_per_partition_waits_for_no_silence() {
    let watermark = |per, idle_after| Watermark { per, idle_after, ..Watermark::default() };
    let lag = |per, idle_after| Pace::of(&watermark(per, idle_after)).lag_ms;
    assert_eq!(lag(Per::Key, None), None);
    assert_eq!(lag(Per::Key, Some(Span(7))), Some(7));
    assert_eq!(lag(Per::Stream { partitions: 1 }, None), Some(0));
}

/// Each stage takes the events with its bit.
struct ByBit;

impl Judge<Noted> for ByBit {
    fn fits(&self, stage: usize, event: &Noted, _: &Selection<'_, Noted>) -> bool {
        event.truths >> stage & 1 == 1
    }
}

impl Host<Matcher<Noted>> for Vec<Vec<Datum>> {
    fn advance(&mut self, _: &[u8], machine: &mut Matcher<Noted>, to: Timestamp) {
        machine.advance(to, &ByBit, &mut |found: Found<'_, Noted>| {
            self.push(found.selection.all().into_iter().map(|(_, event)| event.id.clone()).collect());
        });
    }
}

/// The cells of a pattern as version 2 has written them: a partial match, an event that waits, a remembered id, a page.
const GOLDEN: [(&str, &str); 5] = [
    (
        "772f702f4b6b",
        "02ec0fffffffffffffffffff018210ffffffffffffffffff01a01f00ec0f01010000010100000001d00f0105000301000707\
         000000000000000100000000000000fb030300d00f019aae372192164c72e4cdc9c36579677a1303d00fd00f010205017804\
         000000000000f83f01f80f01613e6c120f2c32b3263ff7baeccebcc91303f80ff80f000205017804000000000000f83f0282\
         10019080660579e6d3ef2934a8311f192ba1130382108210020205017804000000000000f83f",
    ),
    ("772f702f52", "020001038210"),
    ("772f702f415000000000000007d000000000", "0201016b"),
    ("772f702f4144", "0201a01f01"),
    ("772f702f4154", "0282108210"),
];

#[test]
fn cells_of_version_2_are_read() {
    let pattern =
        Arc::new(Pattern { within: Some(Span(100)), ..Pattern::new(vec![Stage::new("a"), Stage::new("b")]) });
    let tracks = || Tracks::<Matcher<Noted>>::new(pattern.clone(), &[pace(Some(50))], b"w/p/");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let event = |tracks: &mut Tracks<Matcher<Noted>>, found: &mut Vec<Vec<Datum>>, ms: i64, truths: u64| {
        let (id, time) = (Datum::Int(ms), Timestamp(ms));
        let noted =
            Noted { id, time, truths, values: [Datum::Text((*b"x").into()), Datum::Double(1.5)].into() };
        let id = ms.to_le_bytes();
        let arrival = Arrival { key: b"k", side: 0, partition: 3, time, id: Some(&id) };
        let enter = |_: &mut Vec<Vec<Datum>>, machine: &mut Matcher<Noted>| {
            machine.event(time, noted);
        };
        tracks.event(&arrival, found, Some(enter))
    };
    let mut found = Vec::new();
    let mut first = tracks();
    for cell in [&b"w/p/R"[..], b"w/p/AT", b"w/p/AD", b"w/p/Kk"] {
        first.supply(cell, None).unwrap();
    }
    event(&mut first, &mut found, 1_000, 1);
    event(&mut first, &mut found, 1_020, 0);
    event(&mut first, &mut found, 1_025, 2);
    let mut written = Vec::new();
    first.seal(1, &mut |cell, value| written.push((hex(cell), hex(value.expect("nothing is deleted")))));
    let golden: Vec<_> =
        GOLDEN.iter().map(|(cell, value)| ((*cell).to_owned(), (*value).to_owned())).collect();
    assert_eq!(written, golden, "a new form is added here");
    let mut again = tracks();
    let mut missing = Vec::new();
    again.missing(b"k", &mut missing);
    for cell in missing {
        let value = GOLDEN.iter().find(|(known, _)| bytes(known) == cell).map(|(_, value)| bytes(value));
        again.supply(&cell, value.as_deref()).unwrap();
    }
    assert_eq!(event(&mut again, &mut found, 1_025, 2), Outcome::Duplicate);
    assert_eq!(event(&mut again, &mut found, 1_040, 0), Outcome::Accepted);
    assert_eq!(found, [[Datum::Int(1_000), Datum::Int(1_025)]]);
}
