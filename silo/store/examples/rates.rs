//! What the embedded store does in a second: `cargo run --release -p granary-store --example rates [millions of cells]`.
//!
//! Every commit is durable (`fsync`). CPU is that of the whole process, so that it can be set against the two cores
//! the streams need as well.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use granary_cluster::{Batch, Commit, Log, Lookup, Script, Store, Verdict};
use granary_core::{Result, SlotId, Timestamp, id::slot_of};
use granary_store::conformance::{Owner, acquire, commit, emit};
use granary_store::{Durability, Embedded, Options, Stream};

const SLOTS: u16 = 96;
const PANE: [u8; 90] = [7; 90];

fn main() -> Result<()> {
    let millions: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    let dir = std::env::temp_dir().join(format!("granary-rates-{}", std::process::id()));
    let outcome = measure(&dir, millions);
    std::fs::remove_dir_all(&dir).expect("the directory was made here");
    outcome
}

fn open(dir: &Path) -> Result<Arc<Embedded>> {
    let streams = [Stream::new("results", 48)];
    Embedded::open(dir, Options::new(SLOTS).durability(Durability::Fsync).streams(streams))
}

fn measure(dir: &Path, millions: u64) -> Result<()> {
    let store = open(dir)?;
    let owners: Vec<Owner> = (0..SLOTS).map(|slot| acquire(&*store, SlotId(slot), 1)).collect();
    let mut lanes = Lanes { store: Arc::clone(&store), owners, next: vec![1; usize::from(SLOTS)] };
    preload(&mut lanes, millions);
    lookups(&store, millions)?;
    churn(&mut lanes);
    results(&mut lanes);
    calls(&mut lanes);
    source(&store)?;
    let closing = Stage::start("close");
    drop(lanes);
    drop(store);
    closing.end(1, "times");
    let opening = Stage::start("open again");
    let store = open(dir)?;
    opening.end(1, "times");
    let mut value = Vec::new();
    assert_eq!(store.load(SlotId(slot_of_device(5)), &pane(5, 0), &mut value)?, Lookup::Found);
    println!("{:<44} {} MB", "on disk", store.disk_bytes()? >> 20);
    Ok(())
}

/// The slots' next commits.
struct Lanes {
    store: Arc<Embedded>,
    owners: Vec<Owner>,
    next: Vec<u64>,
}

impl Lanes {
    /// The next commit of a slot, empty.
    fn commit(&mut self, slot: u16) -> Commit {
        let n = &mut self.next[usize::from(slot)];
        let made = commit(SlotId(slot), self.owners[usize::from(slot)], *n, &[]);
        *n += 1;
        made
    }

    /// Submits commits as one batch of a lane.
    fn submit(&self, commits: Vec<Commit>) -> Receiver<()> {
        let (tell, told) = channel();
        let scripts = commits.into_iter().map(|commit| Script::Commit(Arc::new(commit))).collect();
        self.store.submit(
            scripts,
            Box::new(move |replies| {
                assert!(replies.expect("written").iter().all(|reply| reply.verdict == Verdict::Done));
                // The measuring thread waits for it.
                let _ = tell.send(());
            }),
        );
        told
    }
}

fn slot_of_device(device: u64) -> u16 {
    slot_of(format!("d-{device:08}").as_bytes(), SLOTS).0
}

fn pane(device: u64, start: u64) -> Vec<u8> {
    format!("w/d-{device:08}/cat-1/{start:08}").into_bytes()
}

fn by_slot(devices: impl Iterator<Item = u64>) -> Vec<Vec<u64>> {
    let mut slots = vec![Vec::new(); usize::from(SLOTS)];
    for device in devices {
        slots[usize::from(slot_of_device(device))].push(device);
    }
    slots
}

fn preload(lanes: &mut Lanes, millions: u64) {
    let stage = Stage::start("long-lived cells written");
    for part in 0..millions * 4 {
        let devices = by_slot((part * 250_000)..((part + 1) * 250_000));
        let commits = devices.iter().enumerate().map(|(slot, devices)| {
            let mut made = lanes.commit(slot as u16);
            for device in devices {
                made.cells.put(|k| k.extend(pane(*device, 0)), |v| v.extend(PANE));
            }
            made
        });
        let commits = commits.collect();
        lanes.submit(commits).recv().expect("an answer");
    }
    stage.end(millions * 1_000_000, "cells");
}

fn lookups(store: &Arc<Embedded>, millions: u64) -> Result<()> {
    const EACH: u64 = 2_000_000;
    // The filter is rebuilt after the load, in the background.
    std::thread::sleep(std::time::Duration::from_secs(10));
    for threads in [1u64, 2] {
        let stage = Stage::start(&format!("absent cells looked up, {threads} threads"));
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    let (mut value, mut key) = (Vec::new(), pane(0, 99));
                    for i in 0..EACH {
                        let device = (i * 2_654_435_761 + thread) % 100_000_000;
                        write_device(&mut key, device);
                        let slot = SlotId((device % u64::from(SLOTS)) as u16);
                        let found = store.load(slot, &key, &mut value).expect("a lookup");
                        assert_eq!(found, Lookup::Absent);
                    }
                });
            }
        });
        stage.end(EACH * threads, "lookups");
    }
    let stage = Stage::start("present cells looked up");
    let mut value = Vec::new();
    for i in 0..200_000u64 {
        let device = i * 2_654_435_761 % (millions * 1_000_000);
        let slot = SlotId(slot_of_device(device));
        assert_eq!(store.load(slot, &pane(device, 0), &mut value)?, Lookup::Found);
        value.clear();
    }
    stage.end(200_000, "lookups");
    let stage = Stage::start("cells scanned by prefix");
    let mut seen = 0;
    for slot in 0..4 {
        store.scan(SlotId(slot), b"w/", None, &mut |_, _| {
            seen += 1;
            true
        })?;
    }
    stage.end(seen, "cells");
    Ok(())
}

fn write_device(key: &mut [u8], device: u64) {
    let mut rest = device;
    for digit in key[4..12].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Panes that live for two commits: 200,000 writes and 200,000 deletions in each round.
fn churn(lanes: &mut Lanes) {
    const ROUNDS: u64 = 20;
    let devices = by_slot(20_000_000..20_200_000);
    let rounds: Vec<Vec<Commit>> = (1..=ROUNDS)
        .map(|round| {
            let commits = devices.iter().enumerate().map(|(slot, devices)| {
                let mut made = lanes.commit(slot as u16);
                for device in devices {
                    made.cells.put(|k| k.extend(pane(*device, round)), |v| v.extend(PANE));
                    if round > 1 {
                        made.cells.delete(|k| k.extend(pane(*device, round - 1)));
                    }
                }
                made
            });
            commits.collect()
        })
        .collect();
    let stage = Stage::start("short-lived cells written and deleted");
    let mut longest = 0;
    for commits in rounds {
        let since = Instant::now();
        lanes.submit(commits).recv().expect("an answer");
        longest = longest.max(since.elapsed().as_millis());
    }
    stage.end((2 * ROUNDS - 1) * 200_000, "changes");
    println!("  longest commit of 400,000 changes: {longest} ms");
}

/// Four million result rows of about 180 bytes, 700 MB, in six commits of every slot.
fn results(lanes: &mut Lanes) {
    const ROUNDS: u64 = 6;
    const ROWS: u64 = 4_000_000;
    let devices = by_slot(0..10_000);
    let mut bytes = 0;
    let rounds: Vec<Vec<Commit>> = (0..ROUNDS)
        .map(|round| {
            let commits = devices.iter().enumerate().map(|(slot, devices)| {
                let mut made = lanes.commit(slot as u16);
                for index in 0..(ROWS / ROUNDS / 10_000) as u32 {
                    for device in devices {
                        let start = 1_690_000_000_000 + round * 500_000 + u64::from(index) * 5_000;
                        let key = format!("d-{device:08}");
                        let id = format!("Window/{key}/cat-{}/totals/{start}#1", index % 4);
                        let row = row(start, &key, *device * u64::from(index));
                        emit(&mut made, 0, index, key.as_bytes(), id.as_bytes(), row.as_bytes());
                    }
                }
                bytes += made.outbox.bytes() as u64;
                made
            });
            commits.collect()
        })
        .collect();
    let stage = Stage::start("results published with commits");
    for commits in rounds {
        let half = commits.len() / 2;
        let mut commits = commits.into_iter();
        // Two lanes, each with half of the slots.
        let first: Vec<Commit> = commits.by_ref().take(half).collect();
        let second: Vec<Commit> = commits.collect();
        let lanes = &*lanes;
        std::thread::scope(|scope| {
            let one = scope.spawn(move || lanes.submit(first).recv());
            lanes.submit(second).recv().expect("an answer");
            one.join().expect("no panic").expect("an answer");
        });
    }
    stage.end(bytes >> 20, "MB");
}

fn row(start: u64, device: &str, n: u64) -> String {
    let (sum, mean) = (n % 997, n % 12_345);
    format!(
        r#"{{"window_start":{start},"window_end":{},"device":"{device}","category":"cat-{}","count":{},"m1_sum":{sum},"m2_sum":{mean}.25,"revision":0,"reason":"on_time"}}"#,
        start + 5_000,
        n % 4,
        n % 5 + 1
    )
}

/// One small commit at a time, as a single caller waits for it; then 32 callers of as many slots.
fn calls(lanes: &mut Lanes) {
    for callers in [1u16, 32] {
        const ROUNDS: u64 = 500;
        let stage = Stage::start(&format!("small durable commits, {callers} at a time"));
        for round in 0..ROUNDS {
            let waiting: Vec<Receiver<()>> = (0..callers)
                .map(|slot| {
                    let mut made = lanes.commit(slot);
                    let value = round.to_be_bytes();
                    made.cells.put(|k| k.extend(b"g/Sensor/d-7"), |v| v.extend(value));
                    lanes.submit(vec![made])
                })
                .collect();
            for told in waiting {
                told.recv().expect("an answer");
            }
        }
        stage.end(ROUNDS * u64::from(callers), "commits");
    }
}

/// A source topic: written beforehand, then read to its end.
fn source(store: &Arc<Embedded>) -> Result<()> {
    const RECORDS: u64 = 5_000_000;
    store.create("readings", 8)?;
    let stage = Stage::start("records appended to a source topic");
    let mut batch = Batch::default();
    for i in 0..RECORDS {
        let device = format!("d-{:08}", i * 2_654_435_761 % 10_000);
        let value = format!(
            r#"{{"id":"{device}-{i}","di":"{device}","c":"cat-{}","dt":{},"m1":{},"m2":{}.25}}"#,
            i % 4,
            1_690_000_000_000 + i,
            i % 997,
            i % 12_345
        );
        batch.push(0, Timestamp(1_690_000_000_000), Some(device.as_bytes()), value.as_bytes());
        if batch.bytes() >= 1 << 20 {
            store.append("readings", (i % 8) as u32, &batch)?;
            batch.clear();
        }
    }
    store.append("readings", 0, &batch)?;
    stage.end(RECORDS, "records");
    let stage = Stage::start("records read from a source topic");
    let mut seen = 0;
    for partition in 0..8 {
        let (mut from, end) = store.bounds("readings", partition)?;
        while from < end {
            batch.clear();
            store.read("readings", partition, from, 256 << 10, &mut batch)?;
            from += batch.len() as u64;
            seen += batch.len() as u64;
        }
    }
    assert_eq!(seen, RECORDS);
    stage.end(RECORDS, "records");
    Ok(())
}

/// One line of the table.
struct Stage {
    name: String,
    since: Instant,
    cpu_s: f64,
}

impl Stage {
    fn start(name: &str) -> Stage {
        Stage { name: name.to_owned(), since: Instant::now(), cpu_s: cpu_s() }
    }

    fn end(self, done: u64, unit: &str) {
        let seconds = self.since.elapsed().as_secs_f64();
        let cpu = cpu_s() - self.cpu_s;
        let rate = done as f64 / seconds;
        println!("{:<44} {rate:>12.0} {unit}/s  {seconds:>6.2} s, cpu {cpu:.2} s", self.name);
    }
}

/// CPU time of this process so far; 0 where the system has no `/proc`.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    fields.get(11..13).map_or(0.0, |ticks| ticks.iter().sum::<f64>() / 100.0)
}
