//! The recorder, with real threads.

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use granary_history::{Counter, CounterInput, NEVER, Outcome, Recorder, VISITED_STATES, check};

const THREADS: u64 = 8;
const ROUNDS: u64 = 2_000;
const KEYS: u64 = 5;

fn add(total: &Mutex<u64>, n: u64) -> u64 {
    let mut total = total.lock().expect("no thread panicked");
    *total += n;
    *total
}

#[test]
fn threads_on_a_locked_total_are_linearizable() {
    let totals: Vec<Mutex<u64>> = (0..KEYS).map(|_| Mutex::new(0)).collect();
    let recorder = Recorder::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (recorder, totals) = (&recorder, &totals);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let key = (thread + round) % KEYS;
                    let token = recorder.begin(thread, key, CounterInput::Add(round % 4));
                    let total = add(&totals[key as usize], round % 4);
                    match round % 50 {
                        0 => recorder.end(token, Outcome::Unknown),
                        1 => drop(token),
                        _ => recorder.end(token, Outcome::Answered(total)),
                    }
                }
            });
        }
        // A history that is taken in between holds, too.
        for _ in 0..20 {
            let verdict = check::<Counter, _>(&recorder.history(), VISITED_STATES);
            assert!(verdict.is_linearizable(), "{verdict}");
        }
    });
    let history = recorder.history();
    assert_eq!(history.operations().len() as u64, THREADS * ROUNDS);
    let open = history.operations().iter().filter(|o| o.returned_at == NEVER).count() as u64;
    assert_eq!(open, THREADS * ROUNDS / 50, "those whose tokens were dropped");
    let verdict = check::<Counter, _>(&history, VISITED_STATES);
    assert!(verdict.is_linearizable(), "{verdict}");
}

#[test]
fn two_threads_that_both_read_before_they_write_are_found() {
    let total = Mutex::new(0);
    let recorder = Recorder::new();
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (recorder, total, both) = (&recorder, &total, &both);
            scope.spawn(move || {
                let token = recorder.begin(thread, "total", CounterInput::Add(1));
                let seen = *total.lock().unwrap();
                both.wait();
                *total.lock().unwrap() = seen + 1;
                recorder.end(token, Outcome::Answered(seen + 1));
            });
        }
    });
    let verdict = check::<Counter, _>(&recorder.history(), VISITED_STATES);
    assert!(verdict.is_violated(), "{verdict}");
}

#[test]
fn noting_an_operation_is_cheap() {
    let recorder = Recorder::new();
    let started = Instant::now();
    for n in 0..200_000_u64 {
        let token = recorder.begin(n % 16, n % 100, CounterInput::Read);
        recorder.end(token, Outcome::Answered(0));
    }
    let each = started.elapsed() / 200_000;
    println!("{each:?} for begin and end");
    assert!(each < Duration::from_micros(20), "{each:?}");
}
