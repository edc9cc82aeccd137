//! Roll-ups beside loops over all rows, with state stored, lost and loaded where a seed says.

use std::collections::BTreeMap;

use super::*;
use crate::spec::Function;
use crate::value::Computed;

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Debug)]
enum Put {
    /// Key, number of the row, value; `None`: withdrawn.
    Row(&'static str, u64, i64, Option<i64>),
    Advance(i64),
}

/// What was told: window, revision, reason, values.
type Line = (String, i64, u32, &'static str, String);

struct Lines<'a>(&'a mut Vec<Line>);

impl Output for Lines<'_> {
    fn result(&mut self, row: &Row<'_>, best: Option<&[&[Datum]]>) {
        let values = match best {
            Some(best) => format!("{:?}", best.iter().map(|row| (&row[0], &row[1])).collect::<Vec<_>>()),
            None => format!("{:?}", row.values.iter().collect::<Vec<Computed<'_>>>()),
        };
        let key = String::from_utf8_lossy(row.key).into_owned();
        self.0.push((key, row.start.ms(), row.revision, row.reason.as_str(), values));
    }
}

/// A roll-up and its store.
struct Kept {
    spec: Arc<Spec>,
    rollup: Rollup,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    n: u64,
    loads: usize,
}

impl Kept {
    fn new(spec: &Arc<Spec>) -> Kept {
        let rollup = Rollup::new(spec.clone(), 1, b"r/");
        Kept { spec: spec.clone(), rollup, store: BTreeMap::new(), n: 0, loads: 0 }
    }

    fn supply(&mut self, missing: impl Fn(&mut Rollup, &mut Vec<Vec<u8>>)) {
        for _ in 0..9 {
            let mut cells = Vec::new();
            missing(&mut self.rollup, &mut cells);
            if cells.is_empty() {
                return;
            }
            for cell in cells {
                self.loads += 1;
                self.rollup.supply(&cell, self.store.get(&cell).map(Vec::as_slice)).expect("cells read back");
            }
        }
        panic!("cells are missing again and again");
    }

    fn put(&mut self, put: &Put, out: &mut Vec<Line>) -> Outcome {
        let mut outcome = Outcome::Accepted;
        match put {
            Put::Advance(ms) => {
                self.supply(|rollup, cells| rollup.missing_root(cells));
                self.rollup.advance(Timestamp(*ms));
            }
            Put::Row(key, no, at, value) => {
                let values = value.map(|value| [Value::Int(*no as i64), Value::Int(value)]);
                let id = format!("{key}/{no}/{at}");
                let (start, end) = (Timestamp(*at), Timestamp(at + 10));
                let (key, id, values) =
                    (key.as_bytes(), id.as_bytes(), values.as_ref().map(<[_; 2]>::as_slice));
                let arrival = Arrival { key, by: b"", start, end, id, values };
                self.supply(|rollup, cells| rollup.missing(&arrival, cells));
                outcome = self.rollup.row(&arrival, &mut Lines(out));
            }
        }
        while self.rollup.is_due() {
            self.supply(|rollup, cells| rollup.missing_due(cells));
            self.rollup.go_on(&mut Lines(out));
        }
        outcome
    }

    fn commit(&mut self) {
        self.n += 1;
        let Kept { rollup, store, n, .. } = self;
        rollup.seal(*n, &mut |cell: &[u8], value: Option<&[u8]>| {
            match value {
                Some(value) => store.insert(cell.to_vec(), value.to_vec()),
                None => store.remove(cell),
            };
        });
        rollup.acknowledged(*n);
    }

    fn crash(&mut self) {
        self.rollup = Rollup::new(self.spec.clone(), 1, b"r/");
    }
}

fn puts(seed: u64) -> Vec<Put> {
    let (mut draw, mut clock) = (Draw(seed), 0);
    let mut puts = Vec::new();
    for _ in 0..300 {
        let at = (clock - 30 + 10 * draw.below(6) as i64).max(0);
        let no = [draw.below(90), 0][draw.below(2) as usize];
        match draw.below(12) {
            0 => {
                clock += 10 * draw.below(3) as i64;
                puts.push(Put::Advance(clock - 1));
            }
            1..=3 => puts.push(Put::Row(["a", "b"][draw.below(2) as usize], no, at, None)),
            _ => {
                let value = Some(draw.below(40) as i64);
                puts.push(Put::Row(["a", "b"][draw.below(2) as usize], no, at, value));
            }
        }
    }
    puts
}

fn sums(over: Over, allowed_lateness: Lateness) -> Arc<Spec> {
    let of = |name: &str, function| Aggregate { name: name.into(), function, field: 1 };
    let aggregates = vec![of("n", Function::Count), of("sum", Function::Sum), of("least", Function::Min)];
    Arc::new(Spec { over, allowed_lateness, told: Told::Aggregates(aggregates) })
}

/// What is told of all rows that arrived before a window closed, by a loop over them.
fn oracle(spec: &Spec, puts: &[Put]) -> BTreeMap<(String, i64), String> {
    let (mut w, mut rows) = (i64::MIN, BTreeMap::new());
    for put in puts {
        match put {
            Put::Advance(ms) => w = w.max(*ms),
            Put::Row(key, no, at, value) => {
                for (start, end) in spec.windows(Timestamp(*at), Timestamp(at + 10)) {
                    if w < spec.close(end) {
                        rows.insert(((*key).to_owned(), start, *no, *at), *value);
                    }
                }
            }
        }
    }
    let mut sums: BTreeMap<(String, i64), (i128, i128, i64)> = BTreeMap::new();
    for ((key, start, ..), value) in rows {
        let Some(value) = value else { continue };
        let sum = sums.entry((key, start)).or_insert((0, 0, i64::MAX));
        *sum = (sum.0 + 1, sum.1 + i128::from(value), sum.2.min(value));
    }
    let line = |(n, sum, least): (i128, i128, i64)| {
        format!("{:?}", [Computed::Int(n), Computed::Int(sum), Computed::Int(i128::from(least))])
    };
    sums.into_iter().map(|(of, sum)| (of, line(sum))).collect()
}

#[test]
fn sums_are_those_of_a_loop_wherever_state_was_lost() {
    let hopping = Over::Hopping { size: Span(30), slide: Span(10), offset_ms: 5 };
    let specs = [Over::Rows, hopping].into_iter().flat_map(|over| {
        [Lateness::Forever, Lateness::Span(Span(20)), Lateness::Span(Span::ZERO)].map(|late| sums(over, late))
    });
    let mut deletions = 0;
    for spec in specs {
        for seed in 0..12 {
            let mut puts = puts(seed);
            puts.push(Put::Advance(100_000));
            let (mut kept, mut draw, mut lines) = (Kept::new(&spec), Draw(seed + 77), Vec::new());
            let (mut at, mut committed) = (0, (0, 0));
            let mut crashes = 0;
            while at < puts.len() {
                kept.put(&puts[at], &mut lines);
                at += 1;
                match draw.below(20) {
                    0 if crashes < 20 && seed > 0 => {
                        kept.crash();
                        lines.truncate(committed.1);
                        (at, crashes) = (committed.0, crashes + 1);
                    }
                    1..=3 => {
                        kept.commit();
                        committed = (at, lines.len());
                    }
                    4..=6 => (0..2).for_each(|_| kept.rollup.evict(0, usize::MAX)),
                    _ => {}
                }
            }
            let mut told: BTreeMap<(String, i64), String> = BTreeMap::new();
            let mut next: BTreeMap<(String, i64), u32> = BTreeMap::new();
            for (key, start, revision, reason, values) in &lines {
                let of = (key.clone(), *start);
                let due = next.entry(of.clone()).or_default();
                assert_eq!(revision, due, "{of:?}");
                *due += 1;
                deletions += usize::from(*reason == "delete");
                match *reason {
                    "delete" => drop(told.remove(&of)),
                    _ => drop(told.insert(of, values.clone())),
                }
            }
            assert_eq!(told, oracle(&spec, &puts), "{spec:?}, seed {seed}");
            assert!(seed == 0 || kept.loads > 100);
            kept.commit();
            let left = kept.store.keys().filter(|cell| matches!(cell[2], b'P' | b'C')).count();
            assert_eq!(
                left > 0,
                spec.allowed_lateness == Lateness::Forever,
                "what has closed leaves the store"
            );
        }
    }
    assert!(deletions > 20, "{deletions}: windows lost their last row");
}

#[test]
fn the_best_are_told_with_ties_and_told_anew() {
    let told = Told::Best { n: 2, ties: Ties::All, by: 1, is_least: false };
    let spec = Arc::new(Spec { over: Over::Rows, allowed_lateness: Lateness::Forever, told });
    let (mut kept, mut lines) = (Kept::new(&spec), Vec::new());
    for (no, value) in [(1, 5), (2, 7), (3, 5), (4, 1)] {
        kept.put(&Put::Row("a", no, 0, Some(value)), &mut lines);
    }
    assert!(lines.is_empty());
    kept.put(&Put::Advance(9), &mut lines);
    kept.put(&Put::Row("a", 2, 0, None), &mut lines);
    let values = |line: &Line| line.4.replace("Int", "");
    assert_eq!(lines.iter().map(|line| (line.2, line.3)).collect::<Vec<_>>(), [(0, "on_time"), (1, "late")]);
    assert_eq!(values(&lines[0]), "[((2), (7)), ((1), (5)), ((3), (5))]", "1 and 3 share the second place");
    assert_eq!(values(&lines[1]), "[((1), (5)), ((3), (5))]");
}

#[test]
fn a_pane_takes_so_many_rows_and_no_more() {
    let (mut kept, mut lines) = (Kept::new(&sums(Over::Rows, Lateness::Forever)), Vec::new());
    for no in 0..ROWS_MAX as u64 {
        assert_eq!(kept.put(&Put::Row("a", no, 0, Some(1)), &mut lines), Outcome::Accepted);
    }
    assert_eq!(kept.put(&Put::Row("a", 1 << 40, 0, Some(1)), &mut lines), Outcome::Overflow);
    assert_eq!(kept.put(&Put::Row("a", 5, 0, Some(2)), &mut lines), Outcome::Accepted, "one that is there");
    kept.put(&Put::Advance(9), &mut lines);
    assert_eq!(lines[0].4, format!("[Int({ROWS_MAX}), Int({}), Int(1)]", ROWS_MAX + 1));
}

#[test]
fn all_slots_are_waited_for_but_those_that_are_idle() {
    let mut kept = Kept::new(&sums(Over::Rows, Lateness::Forever));
    kept.rollup = Rollup::new(kept.spec.clone(), 3, b"r/");
    kept.supply(|rollup, cells| rollup.missing_gauge(cells));
    let mut report = |slot, ms, is_idle| {
        kept.rollup.report(&Report { slot, watermark: Timestamp(ms), is_idle }).map(Timestamp::ms)
    };
    assert_eq!(report(0, 9, false), None, "two have said nothing");
    assert_eq!(report(1, 19, false), None);
    assert_eq!(report(2, i64::MIN, true), Some(9), "the third has nothing to come");
    assert_eq!(report(0, 39, false), Some(19));
    assert_eq!(report(2, 9, false), None, "it is back, and what was told stays told");
    assert_eq!(report(1, 29, false), None);
    assert_eq!(report(2, 29, false), Some(29));
}

/// What version 2 has written of a row, a report and a slot's own: a pane is named by its end, its start, key and segments.
const GOLDEN: [(&str, &str); 6] = [
    ("722f4144", "02011401"),
    ("722f4150000000000000000a00000000", "020113800000000000000a8000000000000000016100"),
    ("722f43800000000000000a800000000000000001610000000000", "020105612f312f3012030302030a"),
    ("722f47", "02ffffffffffffffffff01ffffffffffffffffff0102ffffffffffffffffff01001200"),
    ("722f50800000000000000a8000000000000000016100", "0214000001"),
    ("722f55", "021200"),
];

#[test]
fn cells_of_version_2_are_read() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let spec = sums(Over::Rows, Lateness::Forever);
    let fresh = || {
        let mut kept = Kept::new(&spec);
        kept.rollup = Rollup::new(spec.clone(), 2, b"r/");
        kept
    };
    let mut first = fresh();
    first.supply(|rollup, cells| rollup.missing_gauge(cells));
    first.put(&Put::Row("a", 1, 0, Some(5)), &mut Vec::new());
    first.rollup.report(&Report { slot: 1, watermark: Timestamp(9), is_idle: false });
    first.rollup.reached(0, Reach { watermark: Timestamp(9), is_quiet: false }, false);
    first.commit();
    let written: Vec<_> = first.store.iter().map(|(cell, value)| (hex(cell), hex(value))).collect();
    let golden: Vec<_> =
        GOLDEN.iter().map(|(cell, value)| ((*cell).to_owned(), (*value).to_owned())).collect();
    assert_eq!(written, golden, "a new form is added here");
    let (mut again, mut lines) = (fresh(), Vec::new());
    again.store = GOLDEN.iter().map(|(cell, value)| (bytes(cell), bytes(value))).collect();
    again.supply(|rollup, cells| rollup.missing_gauge(cells));
    let told = again.rollup.report(&Report { slot: 0, watermark: Timestamp(9), is_idle: false });
    assert_eq!(told, Some(Timestamp(9)), "what the other slot has reported is known");
    again.put(&Put::Row("a", 2, 0, Some(7)), &mut lines);
    again.put(&Put::Advance(9), &mut lines);
    assert_eq!(lines, [("a".into(), 0, 0, "on_time", "[Int(2), Int(12), Int(5)]".into())]);
    let damaged = again.rollup.supply(b"r/P\x01", Some(&[2, 1]));
    assert!(damaged.is_err());
}
