//! What pipelines rely on beside the rows: cells, memory, silence, questions.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_core::{
    Span, Timestamp,
    time::{millis, secs},
};
use granary_window::{
    Accumulation, Aggregate, Computed, Dedup, Early, Emit, Event, Function, Horizon, Input, Lateness,
    Operator, Outcome, Per, Reason, Row, Spec, State, Value, Watermark, Window,
};

fn spec(window: Window) -> Spec {
    let aggregate = |name: &str, function| Aggregate { name: name.into(), function, field: 0 };
    let functions = [("count", Function::Count), ("sum", Function::Sum), ("avg", Function::Avg)];
    Spec::new(window, functions.map(|(name, function)| aggregate(name, function)).to_vec())
}

fn tumbling() -> Spec {
    spec(Window::Tumbling { size: secs(5), offset: 0 })
}

/// An operator, its store, and the rows it gave: start, revision, reason, count.
struct Bench {
    spec: Arc<Spec>,
    operator: Operator,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    commit: u64,
    rows: Vec<(i64, u32, Reason, Computed<'static>)>,
}

impl Bench {
    fn new(spec: Spec) -> Bench {
        assert_eq!(spec.check(), []);
        let spec = Arc::new(spec);
        let operator = Operator::new(spec.clone(), b"p/");
        Bench { spec, operator, store: BTreeMap::new(), commit: 0, rows: Vec::new() }
    }

    fn supply(&mut self, cells: &mut Vec<Vec<u8>>) {
        for cell in cells.drain(..) {
            let value = self.store.get(&cell).map(Vec::as_slice);
            self.operator.supply(&cell, value).expect("cells of this test are not damaged");
        }
    }

    fn apply(&mut self, input: &Input<'_>) -> Outcome {
        let mut cells = Vec::new();
        loop {
            self.operator.missing(input, &mut cells);
            if cells.is_empty() {
                break;
            }
            self.supply(&mut cells);
        }
        let rows = &mut self.rows;
        self.operator.apply(input, &mut |row: Row<'_>| {
            let count = match row.values.get(0) {
                Computed::Int(n) => Computed::Int(n),
                _ => Computed::Null,
            };
            rows.push((row.start.ms(), row.revision, row.reason, count));
        })
    }

    fn event(&mut self, key: &str, time: i64) -> Outcome {
        let values = [Value::Int(1)];
        self.apply(&Input::Event(&Event::new(key.as_bytes(), Timestamp(time), &values)))
    }

    /// The cells of a commit, which the store then holds.
    fn commit(&mut self) -> Vec<(Vec<u8>, bool)> {
        self.commit += 1;
        let (store, mut named) = (&mut self.store, Vec::new());
        self.operator.seal(self.commit, &mut |cell, value| {
            named.push((cell.to_vec(), value.is_some()));
            match value {
                Some(value) => store.insert(cell.to_vec(), value.to_vec()),
                None => store.remove(cell),
            };
        });
        named
    }

    fn acknowledge(&mut self) {
        self.operator.acknowledged(self.commit);
    }

    fn restart(&mut self) {
        self.operator = Operator::new(self.spec.clone(), b"p/");
    }

    fn peek(&mut self, key: &str, start: i64) -> (State, Option<(u32, Computed<'static>)>) {
        let mut cells = Vec::new();
        loop {
            let found = self.operator.peek(key.as_bytes(), b"", Timestamp(start), None, &mut cells);
            if let Some(found) = found {
                let row = found.row.map(|row| match row.values.get(0) {
                    Computed::Int(n) => (row.revision, Computed::Int(n)),
                    _ => (row.revision, Computed::Null),
                });
                return (found.state, row);
            }
            assert!(!cells.is_empty(), "nothing missing, and no answer");
            self.supply(&mut cells);
        }
    }
}

#[test]
fn a_window_opened_and_closed_between_commits_costs_no_cell() {
    let mut bench = Bench::new(tumbling());
    bench.event("d", 1_000);
    bench.event("d", 7_000);
    bench.event("d", 12_000);
    let slices = |named: &[(Vec<u8>, bool)]| -> Vec<bool> {
        named.iter().filter(|(cell, _)| cell.starts_with(b"p/S")).map(|(_, stored)| *stored).collect()
    };
    let named = bench.commit();
    assert!(slices(&named).is_empty(), "the open window lies in its key's cell: {named:?}");
    bench.event("d", 17_000);
    assert!(slices(&bench.commit()).is_empty());
    assert!(bench.commit().is_empty(), "nothing has changed since");

    // With lateness a window that has given its result gets a cell, which is deleted when it closes.
    let mut bench = Bench::new(Spec { allowed_lateness: Lateness::Span(secs(7)), ..tumbling() });
    bench.event("d", 1_000);
    assert!(slices(&bench.commit()).is_empty());
    bench.event("d", 7_000);
    assert_eq!(slices(&bench.commit()), [true]);
    bench.event("d", 8_000);
    assert!(slices(&bench.commit()).is_empty(), "only the open window has changed");
    bench.event("d", 12_000);
    assert_eq!(slices(&bench.commit()), [false, true]);
}

#[test]
fn each_cell_is_named_once_in_a_commit() {
    let spec = Spec { allowed_lateness: Lateness::Span(secs(7)), ..tumbling() };
    let mut bench = Bench::new(spec);
    for n in 0..200 {
        bench.event(["a", "b", "c"][n % 3], (n as i64 * 1_700) % 40_000 + n as i64 * 300);
        if n % 9 == 0 {
            let mut cells: Vec<_> = bench.commit().into_iter().map(|(cell, _)| cell).collect();
            let all = cells.len();
            cells.sort();
            cells.dedup();
            assert_eq!(cells.len(), all);
        }
    }
}

#[test]
fn silent_keys_are_closed_once_also_after_a_restart() {
    let watermark = Watermark { idle_after: Some(secs(10)), ..Watermark::default() };
    let mut bench = Bench::new(Spec { watermark, ..tumbling() });
    bench.event("d", 1_000);
    bench.event("e", 2_000);
    bench.operator.pass_silence(secs(6));
    bench.event("e", 2_500);
    bench.operator.pass_silence(secs(5));
    let mut idle = Vec::new();
    bench.operator.idle_keys(10, &mut idle);
    assert_eq!(idle, [Box::from(&b"d"[..])]);
    bench.apply(&Input::CloseIdle { key: b"d" });
    assert_eq!(bench.rows, [(0, 0, Reason::OnTime, Computed::Int(1))]);
    bench.commit();
    bench.restart();
    let mut cells = Vec::new();
    loop {
        bench.operator.missing_index(&mut cells);
        if cells.is_empty() {
            break;
        }
        bench.supply(&mut cells);
    }
    bench.operator.pass_silence(secs(10));
    idle.clear();
    bench.operator.idle_keys(10, &mut idle);
    assert_eq!(idle, [Box::from(&b"e"[..])], "d has nothing to come");
    bench.apply(&Input::CloseIdle { key: b"e" });
    assert_eq!(bench.rows.len(), 2);
    idle.clear();
    bench.operator.pass_silence(secs(100));
    bench.operator.idle_keys(10, &mut idle);
    assert!(idle.is_empty());
    let mut cells = Vec::new();
    let stats = bench.operator.key_stats(b"e", &mut cells).unwrap();
    assert_eq!(
        (stats.clock, stats.events),
        (Timestamp(4_999), 2),
        "the clock is at the window's end, not beyond"
    );
}

#[test]
fn windows_answer_while_open_due_and_kept() {
    let spec = Spec { allowed_lateness: Lateness::Span(secs(5)), keep: secs(10), ..tumbling() };
    let mut bench = Bench::new(spec);
    assert_eq!(bench.peek("d", 0), (State::Open, None));
    bench.event("d", 1_000);
    assert_eq!(bench.peek("d", 0), (State::Open, Some((0, Computed::Int(1)))));
    bench.event("d", 5_001);
    bench.event("d", 2_000);
    assert_eq!(bench.peek("d", 0), (State::Due, Some((1, Computed::Int(2)))), "corrected once");
    bench.commit();
    bench.restart();
    assert_eq!(bench.peek("d", 0), (State::Due, Some((1, Computed::Int(2)))));
    bench.event("d", 12_000);
    assert_eq!(bench.peek("d", 0), (State::Closed, Some((1, Computed::Int(2)))));
    assert_eq!(bench.event("d", 1_500), Outcome::Late);
    bench.event("d", 21_000);
    assert_eq!(bench.peek("d", 0), (State::Closed, None));
}

#[test]
fn a_session_that_grows_withdraws_its_row() {
    let window = Window::Session { gap: secs(5), inclusive: false, per_event: false };
    let spec = Spec { allowed_lateness: Lateness::Forever, withdraw: true, ..spec(window) };
    let mut bench = Bench::new(spec);
    bench.event("d", 1_000);
    bench.event("d", 10_000);
    bench.event("d", 5_500);
    bench.event("d", 30_000);
    let rows: Vec<_> =
        bench.rows.iter().map(|(start, revision, reason, _)| (*start, *revision, *reason)).collect();
    assert_eq!(
        rows,
        [(1_000, 0, Reason::OnTime), (1_000, 1, Reason::Delete), (1_000, 2, Reason::OnTime)],
        "no two rows have one identity"
    );
}

#[test]
fn nothing_leaves_memory_before_its_commit_is_acknowledged() {
    let mut bench = Bench::new(Spec { allowed_lateness: Lateness::Forever, ..tumbling() });
    for n in 0..1_000 {
        bench.event(&format!("device-{n}"), 1_000);
    }
    let full = bench.operator.memory_bytes();
    bench.operator.evict(0, usize::MAX);
    assert!(bench.operator.memory_bytes() >= full / 2, "dirty state stays");
    bench.commit();
    bench.operator.evict(0, usize::MAX);
    assert!(bench.operator.memory_bytes() >= full / 2, "so does what is on its way");
    bench.acknowledge();
    bench.operator.evict(0, usize::MAX);
    assert!(bench.operator.memory_bytes() < full / 2 + 20_000, "the panes are gone");
    bench.event("device-7", 5_500);
    assert_eq!(bench.rows, [(0, 0, Reason::OnTime, Computed::Int(1))]);
}

#[test]
fn a_key_with_one_open_pane_is_small() {
    let spec = Spec { dedup: Some(Dedup { horizon: Horizon::Pane }), ..tumbling() };
    let mut bench = Bench::new(spec);
    let empty = bench.operator.memory_bytes();
    let keys = 50_000;
    for n in 0..keys {
        let (key, id, values) = (format!("device-{n}"), format!("id-{n}"), [Value::Int(1)]);
        let mut event = Event::new(key.as_bytes(), Timestamp(1_000), &values);
        event.id = Some(id.as_bytes());
        bench.apply(&Input::Event(&event));
    }
    let each = (bench.operator.memory_bytes() - empty) / keys;
    assert!(each < 460, "{each} bytes a key");
}

#[test]
fn damaged_cells_are_errors_never_panics() {
    let specs = [
        Spec {
            dedup: Some(Dedup { horizon: Horizon::Pane }),
            allowed_lateness: Lateness::Forever,
            ..tumbling()
        },
        Spec {
            accumulation: Accumulation::Retracting,
            early: Some(Early::EventTimeEvery(millis(700))),
            allowed_lateness: Lateness::Span(secs(60)),
            dedup: Some(Dedup { horizon: Horizon::Span(secs(9)) }),
            ..spec(Window::Session { gap: secs(2), inclusive: true, per_event: false })
        },
        Spec { emit: Emit::EveryUpdate, ..spec(Window::Sliding { difference: secs(3) }) },
    ];
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut refused = 0;
    for spec in specs {
        let mut bench = Bench::new(spec);
        for n in 0..60i64 {
            bench.event(["a", "b"][n as usize % 2], n * 400 % 9_000);
        }
        bench.commit();
        for _ in 0..2_000 {
            bench.restart();
            let mut cells = Vec::new();
            let values = [Value::Int(1)];
            let event = Event::new(b"a", Timestamp(4_000), &values);
            'ask: for _ in 0..8 {
                bench.operator.missing(&Input::Event(&event), &mut cells);
                for cell in cells.drain(..) {
                    let mut value = bench.store.get(&cell).cloned().unwrap_or_default();
                    if value.is_empty() {
                        let _ = bench.operator.supply(&cell, None);
                        continue;
                    }
                    match random(3) {
                        0 => {
                            let at = random(value.len() as u64) as usize;
                            value[at] = random(256) as u8;
                        }
                        1 => value.truncate(random(value.len() as u64) as usize),
                        _ => {}
                    }
                    if bench.operator.supply(&cell, Some(&value)).is_err() {
                        refused += 1;
                        break 'ask;
                    }
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused} damaged cells were refused");
}

#[test]
fn events_far_ahead_of_their_log_time_change_nothing() {
    let watermark = Watermark { future_guard: Some(secs(60)), ..Watermark::default() };
    let mut bench = Bench::new(Spec { watermark, ..tumbling() });
    let values = [Value::Int(1)];
    let mut event = Event::new(b"d", Timestamp(100_000), &values);
    event.logged_at = Some(Timestamp(39_999));
    assert_eq!(bench.apply(&Input::Event(&event)), Outcome::Future);
    event.logged_at = Some(Timestamp(40_000));
    assert_eq!(bench.apply(&Input::Event(&event)), Outcome::Accepted);
}

#[test]
fn an_observed_event_moves_the_clock_only() {
    let mut bench = Bench::new(tumbling());
    bench.event("d", 1_000);
    let values = [];
    bench.apply(&Input::Observe(&Event::new(b"d", Timestamp(9_000), &values)));
    assert_eq!(bench.rows, [(0, 0, Reason::OnTime, Computed::Int(1))]);
    assert_eq!(bench.event("d", 3_000), Outcome::Late);
    let stats = bench.operator.key_stats(b"d", &mut Vec::new()).unwrap();
    assert_eq!((stats.events, stats.late, stats.last_event), (1, 1, Timestamp(9_000)));
    assert_eq!(bench.operator.key_stats(b"d", &mut Vec::new()).unwrap().open_windows, 0);
}

#[test]
fn many_groups_of_one_key_are_found_by_hash() {
    let mut bench = Bench::new(Spec { allowed_lateness: Lateness::Forever, ..tumbling() });
    for round in 0..2 {
        for n in 0..500u32 {
            let (by, values) = (n.to_be_bytes(), [Value::Int(1)]);
            let mut event = Event::new(b"d", Timestamp(1_000), &values);
            event.by = &by;
            bench.apply(&Input::Event(&event));
        }
        if round == 0 {
            bench.commit();
            bench.restart();
        }
    }
    bench.event("d", 6_000);
    assert_eq!(bench.rows.len(), 500);
    assert!(bench.rows.iter().all(|row| row.3 == Computed::Int(2)));
    assert_eq!(Span::ZERO, bench.spec.keep);
}

/// One step, and portions with a restart between any two: the same rows in the same order.
#[test]
fn a_mass_of_windows_closes_in_portions_and_goes_on_after_a_restart() {
    let per_stream = Watermark { per: Per::Stream { partitions: 1 }, ..Watermark::default() };
    // What makes them due: the watermark of all, the end of the input, an event of the one key with many windows.
    for cause in 0..3 {
        let watermark = if cause == 0 { per_stream } else { Watermark::default() };
        let run = |portion: usize, restarts: bool| {
            // Nothing is due before: all events are within the disorder that is allowed.
            let out_of_orderness = Some(secs(10));
            let watermark = Watermark { out_of_orderness, ..watermark };
            let mut bench = Bench::new(Spec { watermark, ..tumbling() });
            for i in 0..40 {
                bench.event(&format!("k-{:02}", i * 7 % 40), 1_000);
            }
            for second in (1..20).rev() {
                bench.event("k-03", second * 500);
            }
            bench.operator.set_portion(portion);
            match cause {
                0 => bench.event("z", 20_000),
                1 => bench.apply(&Input::End),
                _ => bench.event("k-03", 1_000_000),
            };
            let mut portions = vec![bench.rows.len()];
            while bench.operator.is_closing() {
                bench.commit();
                if restarts {
                    bench.restart();
                    bench.operator.set_portion(portion);
                }
                let before = bench.rows.len();
                bench.apply(&Input::GoOn);
                portions.push(bench.rows.len() - before);
            }
            bench.commit();
            (bench.rows, portions, bench.store)
        };
        let (at_once, ..) = run(usize::MAX, false);
        assert!(at_once.len() >= 2, "{at_once:?}");
        for (portion, restarts) in [(1, false), (1, true), (7, true), (1_000, true)] {
            let (rows, portions, store) = run(portion, restarts);
            assert_eq!(rows, at_once, "portions of {portion}, restarts {restarts}");
            assert!(portions.iter().all(|rows| *rows <= portion), "{portions:?}");
            assert_eq!(store, run(usize::MAX, false).2, "the same state in the end");
        }
    }
}
