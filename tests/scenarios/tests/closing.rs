//! A mass of windows closes: in portions, with calls answered in between, in bounded memory. A process of its own, since
//! it counts what the process allocates.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use granary_cluster::port::Done;
use granary_cluster::{Batch, Log, Lookup, RunId, Script, SlotRecord, Store};
use granary_core::id::positive_murmur2;
use granary_core::time::secs;
use granary_core::{Clock, Grain, GrainId, Key, Result, SlotId, Span, Timestamp};
use granary_engine::{Config, Engine, Handle, LogSource, SourceSpec};
use granary_macros::grain;
use granary_scenarios::within;
use granary_store::{Embedded, Options, Stream};
use granary_streams::{Slots, file};
use serde::{Deserialize, Serialize};

#[global_allocator]
static HEAP: cap::Cap<mimalloc::MiMalloc> = cap::Cap::new(mimalloc::MiMalloc, usize::MAX);

const MIB: usize = 1 << 20;
const SLOTS: u16 = 96;
const PARTITIONS: u32 = 12;

/// A commit's outbox is full at so many bytes; the last portion may go beyond.
const OUTBOX_BYTES_MAX: usize = MIB;
/// A portion is a thousand windows.
const PORTION: usize = granary_window::PORTION_WINDOWS;
/// More than a row of this pipeline takes, with key and identity.
const ROW_BYTES_MAX: usize = 400;
/// A commit is full at so many cells. A window that closes writes its key and deletes its slice, and a slot has some cells
/// of its own.
const CELLS_MAX: usize = 4_000 + 2 * PORTION + 300;
/// What closing may take beside the state: 64 MiB that a lane keeps of stored commits for the next ones; eight slots with
/// an outbox and cells open and the same on the way to the store, 24 MiB; three times 8 MiB for the store, as set here.
/// In one step each window would take some 700 bytes.
const PEAK_BYTES_MAX: usize = 112 * MIB;
/// Every call is answered within this time, a third of what a call has when it says nothing. On a machine of its own most
/// take some tens of milliseconds; the store's disk decides.
const TIMEOUT: Span = secs(10);

/// A grain beside the windows, called all the while.
#[derive(Default, Serialize, Deserialize)]
struct Beside {
    calls: u64,
}

#[grain(crate = granary_core)]
impl Beside {
    fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }
}

/// Notes how large commits are and how long they take, and hands everything on.
struct Watched {
    store: Arc<Embedded>,
    outbox_bytes: AtomicUsize,
    cells: AtomicUsize,
    commits: AtomicUsize,
    slowest_ms: Arc<AtomicUsize>,
}

impl Store for Watched {
    fn submit(&self, scripts: Vec<Script>, done: Done) {
        for script in &scripts {
            if let Script::Commit(commit) = script {
                self.outbox_bytes.fetch_max(commit.outbox.bytes(), Ordering::SeqCst);
                self.cells.fetch_max(commit.cells.len(), Ordering::SeqCst);
                self.commits.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (sent, slowest_ms) = (Instant::now(), self.slowest_ms.clone());
        let timed = move |replies| {
            slowest_ms.fetch_max(sent.elapsed().as_millis() as usize, Ordering::SeqCst);
            done(replies);
        };
        self.store.submit(scripts, Box::new(timed));
    }

    fn record(&self, slot: SlotId) -> Result<SlotRecord> {
        self.store.record(slot)
    }

    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        self.store.load(slot, cell, value)
    }

    fn scan(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.store.scan(slot, prefix, after, each)
    }

    fn run(&self) -> RunId {
        self.store.run()
    }
}

/// What makes all windows due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The watermark of each partition jumps.
    Watermark,
    /// All keys fall silent.
    Silence,
    /// The input ends.
    End,
}

fn pipeline(cause: Cause) -> String {
    let (per, idle_after) = match cause {
        Cause::Watermark => ("partition", "none"),
        Cause::Silence => ("key", "3s"),
        Cause::End => ("key", "none"),
    };
    format!(
        "
pipeline: mass
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields:
        device: {{type: text}}
        at:     {{type: time_ms}}
        watts:  {{type: integer}}
    key: device
    event_time: at
    watermark: {{per: {per}, out_of_orderness: 1s, idle_after: {idle_after}}}
steps:
  totals:
    from: readings
    window: {{type: tumbling, size: 1h}}
    aggregates: {{count: count(), watts: sum(watts)}}
sinks:
  totals: {{from: totals, topic: totals}}
"
    )
}

fn append(store: &Embedded, batches: &mut [Batch]) {
    for (partition, batch) in (0..).zip(batches) {
        if !batch.is_empty() {
            store.append("readings", partition, batch).unwrap();
            batch.clear();
        }
    }
}

/// One reading for each key, all within one second.
fn fill(store: &Embedded, windows: u64) {
    let mut batches = vec![Batch::default(); PARTITIONS as usize];
    for i in 0..windows {
        let key = format!("d-{i}");
        let at = 1_000_000 + i % 1_000;
        let value = format!(r#"{{"device":"{key}","at":{at},"watts":{}}}"#, i % 100);
        let partition = positive_murmur2(key.as_bytes()) % PARTITIONS;
        batches[partition as usize].push(0, Timestamp(0), Some(key.as_bytes()), value.as_bytes());
        if i % 20_000 == 19_999 {
            append(store, &mut batches);
        }
    }
    append(store, &mut batches);
}

/// A key in each slot, in the order of the slots.
fn a_key_in_each_slot() -> Vec<String> {
    let key_in = |slot: u16| {
        let in_slot = |key: &String| granary_core::id::slot_of(key.as_bytes(), SLOTS).0 == slot;
        (0..).map(|i| format!("last-{i}")).find(in_slot).unwrap()
    };
    (0..SLOTS).map(key_in).collect()
}

/// One reading far ahead in each slot.
fn jump(store: &Embedded) {
    let mut batches = vec![Batch::default(); PARTITIONS as usize];
    for key in a_key_in_each_slot() {
        let value = format!(r#"{{"device":"{key}","at":100000000,"watts":1}}"#);
        let partition = positive_murmur2(key.as_bytes()) % PARTITIONS;
        batches[partition as usize].push(0, Timestamp(0), Some(key.as_bytes()), value.as_bytes());
    }
    append(store, &mut batches);
}

/// Rows published so far.
fn published(store: &Embedded) -> u64 {
    (0..PARTITIONS).map(|partition| store.bounds("totals", partition).unwrap().1).sum()
}

/// Calls grains of all slots until `is_over`; the slowest answer.
async fn call_all_the_while(handle: Handle, is_over: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::SeqCst) {
        let began = Instant::now();
        let sent: Vec<_> = (0..16)
            .map(|i| handle.grain::<Beside>(Key::from(calls + i)).call().timeout(TIMEOUT).into_future())
            .collect();
        for call in sent {
            call.await.expect("no call fails or times out while windows close");
            slowest = slowest.max(began.elapsed());
            calls += 1;
        }
        let key = format!("d-{}", calls % 1_000);
        let window = GrainId::parse(&format!("Window/{key}/totals/0")).unwrap();
        let options = granary_core::call::Options { timeout: Some(TIMEOUT), ..Default::default() };
        // it may have closed and left: what counts is that there is an answer in time
        let answer = handle.call(window, "get", Vec::new(), options).await.expect("the silo runs");
        if let Err(error) = answer {
            assert_eq!(error.kind(), granary_core::ErrorKind::NotFound, "{error}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (calls, slowest)
}

/// Looks at the heap until `is_over`; the most it ever was.
fn peak_until(is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut peak = 0;
        while !is_over.load(Ordering::SeqCst) {
            peak = peak.max(HEAP.allocated());
            std::thread::sleep(Duration::from_micros(200));
        }
        peak
    })
}

/// Every window was published once, with the value of its one reading.
fn check_rows(store: &Embedded, windows: u64) {
    let mut seen = vec![false; windows as usize];
    for partition in 0..PARTITIONS {
        store
            .read_with_ids("totals", partition, 0, |_, entry| {
                let id = std::str::from_utf8(entry.id.unwrap()).unwrap();
                let i = id.strip_prefix("Window/d-").and_then(|rest| rest.strip_suffix("/totals/0#0"));
                let i: u64 = i.and_then(|i| i.parse().ok()).unwrap_or_else(|| panic!("identity {id}"));
                assert!(!std::mem::replace(&mut seen[i as usize], true), "{id} was published twice");
                let row: serde_json::Value = serde_json::from_slice(entry.value).unwrap();
                assert_eq!((&row["count"], &row["watts"]), (&1.into(), &(i % 100).into()), "{row}");
                true
            })
            .unwrap();
    }
    assert_eq!(seen.iter().filter(|seen| !**seen).count(), 0, "windows never published");
}

fn config(cause: Cause, watched: Arc<Watched>, clock: Arc<dyn Clock>) -> Config {
    let plan = Arc::new(file::parse(&pipeline(cause)).unwrap_or_else(|mistakes| panic!("{mistakes}")));
    let log: Arc<dyn Log> = watched.store.clone();
    let mut config = Config::new(watched, clock, vec![Beside::info()]);
    config.slots = SLOTS;
    config.sources = vec![SourceSpec {
        topic: "readings".into(),
        partitions: PARTITIONS,
        in_place: true,
        starts: Vec::new(),
        rewound: Vec::new(),
        again_of: None,
        strays: None,
        open: match cause {
            Cause::End => Ending::opener(log),
            _ => LogSource::opener(log, "readings".into()),
        },
    }];
    config.finite = cause == Cause::End;
    config.pipeline = Arc::new(move || Box::new(Slots::new(plan.clone(), SLOTS)));
    config
}

/// The topic as an input that ends when the test says so.
struct Ending {
    log: Arc<dyn Log>,
    partition: u32,
}

static HAS_ENDED: AtomicBool = AtomicBool::new(false);

impl Ending {
    fn opener(log: Arc<dyn Log>) -> granary_engine::config::OpenSource {
        Arc::new(move |partition| Ok(Box::new(Ending { log: log.clone(), partition })))
    }
}

impl granary_engine::Source for Ending {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.log.read("readings", self.partition, from, bytes_max, batch)
    }

    fn has_ended(&mut self, _: u64) -> Result<bool> {
        Ok(HAS_ENDED.load(Ordering::SeqCst))
    }
}

/// Waits until the condition holds.
async fn until(limit: Duration, expected: &str, mut holds: impl FnMut() -> bool) {
    let holds = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(limit, expected, holds).await;
}

async fn close(cause: Cause, windows: u64) {
    const PATIENCE: Duration = Duration::from_secs(300);
    let dir = tempfile::tempdir().unwrap();
    let plan = file::parse(&pipeline(cause)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let streams = (0..).zip(plan.streams()).map(|(i, _)| plan.topic(granary_cluster::StreamId(i), "dev"));
    let streams = streams.map(|topic| Stream::new(topic, PARTITIONS));
    let options = Options::new(SLOTS).streams(streams).recent_bytes_max(8 * MIB);
    let options = Options { cache_bytes_max: 8 << 20, log_bytes_max: 8 << 20, ..options };
    let store = Embedded::open(dir.path(), options).unwrap();
    store.create("readings", PARTITIONS).unwrap();
    fill(&store, windows);

    let [outbox_bytes, cells, commits] = [0; 3].map(AtomicUsize::new);
    let slowest_ms = Arc::default();
    let watched = Arc::new(Watched { store: store.clone(), outbox_bytes, cells, commits, slowest_ms });
    let clock = Arc::new(granary::clock::SystemClock::start());
    let engine = Engine::start(config(cause, watched.clone(), clock)).unwrap();
    let handle = engine.handle();
    until(PATIENCE, "all records are applied", || handle.stats().records == windows).await;
    if cause != Cause::Silence {
        tokio::time::sleep(Duration::from_millis(1_500)).await; // what was applied is stored
        assert_eq!(published(&store), 0, "all windows are open");
    }
    let state = HEAP.allocated();
    watched.outbox_bytes.store(0, Ordering::SeqCst);
    watched.cells.store(0, Ordering::SeqCst);
    watched.slowest_ms.store(0, Ordering::SeqCst);
    let commits = watched.commits.load(Ordering::SeqCst);

    let is_over = Arc::new(AtomicBool::new(false));
    let calling = tokio::spawn(call_all_the_while(handle.clone(), is_over.clone()));
    let peak = peak_until(is_over.clone());
    let began = Instant::now();
    match cause {
        Cause::Watermark => jump(&store),
        Cause::Silence => {}
        Cause::End => HAS_ENDED.store(true, Ordering::SeqCst),
    }
    handle.look();
    until(PATIENCE, "all windows are published", || published(&store) >= windows).await;
    let took = began.elapsed();
    is_over.store(true, Ordering::SeqCst);
    let ((calls, slowest), peak) = (calling.await.unwrap(), peak.join().unwrap());

    let (outbox_bytes, cells) =
        (watched.outbox_bytes.load(Ordering::SeqCst), watched.cells.load(Ordering::SeqCst));
    let commits = watched.commits.load(Ordering::SeqCst) - commits;
    println!(
        "{cause:?}: {windows} windows closed in {took:?} by {commits} commits of at most {} KiB of rows and {cells} \
         cells, the slowest {} ms at the store; {calls} calls, the slowest {slowest:?}; state {} MiB, peak {} MiB more",
        outbox_bytes >> 10,
        watched.slowest_ms.load(Ordering::SeqCst),
        state / MIB,
        peak.saturating_sub(state) / MIB
    );
    assert!(outbox_bytes <= OUTBOX_BYTES_MAX + PORTION * ROW_BYTES_MAX, "an outbox of {outbox_bytes} bytes");
    assert!(cells <= CELLS_MAX, "a commit of {cells} cells");
    assert!(commits as u64 >= windows * 2 / CELLS_MAX as u64, "{commits} commits");
    assert!(calls >= 16, "{calls} calls were made meanwhile");
    assert!(peak <= state + PEAK_BYTES_MAX, "the heap grew from {state} to {peak} bytes");
    check_rows(&store, windows);
    within(PATIENCE, "the silo stops in order", engine.stop()).await;
}

async fn close_for_every_cause(windows: u64) {
    for cause in [Cause::Watermark, Cause::Silence, Cause::End] {
        close(cause, windows).await;
    }
}

/// The same as below with fewer windows.
#[tokio::test]
async fn scenario_49_a_mass_of_windows_closes_in_portions() {
    close_for_every_cause(300_000).await;
}

/// A million windows close in one second: closing is paced, the heap bounded, no call times out.
#[tokio::test]
#[ignore = "takes a minute: make soak"]
async fn scenario_49_a_million_windows_close_in_portions() {
    close_for_every_cause(1_000_000).await;
}
