//! How fast the window part is: 10,000 devices in 4 categories, 5 s tumbling windows, 60 s of allowed lateness, copies
//! refused per pane, count, sum and avg, one event at a time.
//!
//! `cargo run --release -p granary-window --example windows_rate [EVENTS] [DEVICES] [SLOTS]`
//!
//! With one slot events of all devices come in turn, so that each meets cold memory: the worst case. With more slots
//! they come as partitions are read, a thousand or so of one slot after the other.

use std::sync::Arc;

use granary_core::{Timestamp, time::secs};
use granary_window::{
    Aggregate, Computed, Dedup, Event, Function, Horizon, Input, Lateness, Operator, Outcome, Row, Spec,
    Value, Window,
};

const CATEGORIES: [&[u8]; 4] = [b"cat-1", b"cat-2", b"cat-3", b"cat-4"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// One made-up event.
struct Made {
    device: u32,
    category: u8,
    time: i64,
    id: [u8; 16],
    value: i64,
}

fn make(events: usize, devices: u64) -> Vec<Made> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut made: Vec<Made> = Vec::with_capacity(events);
    for n in 0..events as u64 {
        if n > devices * 2 && random.below(20) == 0 {
            let copy = &made[(n - 1 - random.below(devices * 2)) as usize];
            let again = Made { id: copy.id, ..*copy };
            made.push(again);
            continue;
        }
        // Every device sends every two seconds or so; one event in twenty comes up to 20 s late.
        let late = if random.below(20) == 0 { random.below(20_000) } else { 0 };
        let time = 1_690_000_000_000 + (n / devices * 2_000 + random.below(1_000)) as i64 - late as i64;
        let mut id = [b'0'; 16];
        id.iter_mut().zip(format!("{:016x}", random.next()).bytes()).for_each(|(to, from)| *to = from);
        made.push(Made {
            device: random.below(devices) as u32,
            category: random.below(4) as u8,
            time,
            id,
            value: random.below(1000) as i64,
        });
    }
    made
}

/// Time this thread has spent on a processor, so that neighbours on the machine do not count; the time that has passed
/// where the system does not tell.
fn busy_ns() -> u128 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/self/schedstat").ok();
    let first = told.as_deref().and_then(|text| text.split(' ').next()).and_then(|ns| ns.parse().ok());
    first.unwrap_or_else(|| START.get_or_init(std::time::Instant::now).elapsed().as_nanos())
}

#[derive(Default)]
struct Tally {
    rows: u64,
    sum: i128,
    accepted: u64,
    duplicates: u64,
    late: u64,
}

impl Tally {
    fn row(&mut self, row: &Row<'_>) {
        self.rows += 1;
        if let (Computed::Int(count), Computed::Int(sum), Computed::Double(avg)) =
            (row.values.get(0), row.values.get(1), row.values.get(2))
        {
            self.sum += sum + count + avg as i128;
        }
    }
}

/// How many events of one slot come together.
const BATCH: usize = 1_000;

/// Events as they come out of a log in as many partitions: in their order within each.
fn in_batches(made: &mut [Made], slots: usize) {
    for chunk in made.chunks_mut(BATCH * slots) {
        chunk.sort_by_key(|event| event.device as usize % slots);
    }
}

fn run(made: &[Made], keys: &[Vec<u8>], commit_every: usize, slots: usize) {
    let aggregate = |name: &str, function| Aggregate { name: name.into(), function, field: 0 };
    let spec = Spec {
        allowed_lateness: Lateness::Span(secs(60)),
        dedup: Some(Dedup { horizon: Horizon::Pane }),
        ..Spec::new(
            Window::Tumbling { size: secs(5), offset: 0 },
            vec![
                aggregate("count", Function::Count),
                aggregate("sum", Function::Sum),
                aggregate("avg", Function::Avg),
            ],
        )
    };
    let spec = Arc::new(spec);
    let mut operators: Vec<Operator> = (0..slots).map(|_| Operator::new(spec.clone(), b"totals/")).collect();
    let (mut tally, mut cells, mut sealed_bytes, mut sealed_cells) = (Tally::default(), Vec::new(), 0, 0);
    let started = busy_ns();
    for (n, event) in made.iter().enumerate() {
        let operator = &mut operators[event.device as usize % slots];
        let values = [Value::Int(event.value)];
        let mut input = Event::new(&keys[event.device as usize], Timestamp(event.time), &values);
        input.by = CATEGORIES[usize::from(event.category)];
        input.id = Some(&event.id);
        let input = Input::Event(&input);
        operator.missing(&input, &mut cells);
        while !cells.is_empty() {
            for cell in cells.drain(..) {
                operator.supply(&cell, None).expect("an empty store holds no damaged cell");
            }
            operator.missing(&input, &mut cells);
        }
        match operator.apply(&input, &mut |row: Row<'_>| tally.row(&row)) {
            Outcome::Duplicate => tally.duplicates += 1,
            Outcome::Late => tally.late += 1,
            _ => tally.accepted += 1,
        }
        if (n + 1) % commit_every == 0 {
            for operator in &mut operators {
                operator.seal(n as u64, &mut |cell, value| {
                    sealed_bytes += cell.len() + value.map_or(0, <[u8]>::len);
                    sealed_cells += 1;
                });
                operator.acknowledged(n as u64);
            }
        }
    }
    let ns = (busy_ns() - started) as f64 / made.len() as f64;
    println!(
        "commit every {commit_every}: {ns:.0} ns/event ({:.2} M/s), {} rows, {} accepted, {} duplicates, {} late, \
         {} MiB, {} cells of {} bytes, check {}",
        1e3 / ns,
        tally.rows,
        tally.accepted,
        tally.duplicates,
        tally.late,
        operators.iter().map(Operator::memory_bytes).sum::<usize>() >> 20,
        sealed_cells,
        sealed_bytes / sealed_cells.max(1),
        tally.sum,
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let events = arguments.next().unwrap_or(5_000_000);
    let devices = arguments.next().unwrap_or(10_000);
    let slots = arguments.next().unwrap_or(1);
    let mut made = make(events, devices as u64);
    in_batches(&mut made, slots);
    let keys: Vec<Vec<u8>> = (0..devices).map(|n| format!("device-{n}").into_bytes()).collect();
    for commit_every in [events, 100_000, 10_000] {
        run(&made, &keys, commit_every, slots);
    }
}
