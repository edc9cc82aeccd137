//! Silence: windows of a key or partition that sends nothing more are closed by the clock, those of one that is merely
//! behind are not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use granary::assembly::{Assembly, Running};
use granary::backing::Backing;
use granary_cluster::{Batch, Log};
use granary_core::id::{positive_murmur2, slot_of};
use granary_core::time::secs;
use granary_core::{Grain, GrainId, HandClock, Result, Span, Timestamp};
use granary_macros::grain;
use granary_scenarios::{eventually, soon};
use granary_store::Embedded;
use granary_streams::file;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

const PARTITIONS: u32 = 2;
const SLOTS: u16 = 12;

/// What holds the first reading of the device that is behind, for each test by its name.
static HOLDS: Mutex<Vec<(String, oneshot::Receiver<()>)>> = Mutex::new(Vec::new());

/// Told of every reading; one of a held device takes its time.
#[derive(Default, Serialize, Deserialize)]
struct Listener {
    readings: u64,
}

#[derive(Serialize, Deserialize)]
struct Reading {
    device: String,
}

#[grain(crate = granary_core)]
impl Listener {
    async fn take(&mut self, reading: Reading) -> Result<()> {
        self.readings += 1;
        let hold = {
            let mut holds = HOLDS.lock().expect("no test panics with it");
            let at = holds.iter().position(|(device, _)| *device == reading.device);
            at.map(|at| holds.swap_remove(at).1)
        };
        if let Some(hold) = hold {
            let _ = hold.await;
        }
        Ok(())
    }
}

fn pipeline(per: &str) -> String {
    format!(
        "
pipeline: idle
sources:
  readings:
    topic: readings
    decode:
      format: json
      fields:
        device: {{type: text}}
        at:     {{type: time_ms}}
    key: device
    event_time: at
    watermark: {{per: {per}, out_of_orderness: 0s, idle_after: 10s}}
steps:
  totals:
    from: readings
    window: {{type: tumbling, size: 5s}}
    allowed_lateness: 10s
    aggregates: {{count: count()}}
sinks:
  totals: {{from: totals, topic: totals}}
  listener: {{from: readings, grain: Listener, method: take}}
"
    )
}

/// A silo on an embedded store and log, and a clock moved by hand.
struct Bench {
    running: Running,
    clock: HandClock,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn start(per: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let clock = HandClock::at(Timestamp(1_700_000_000_000));
        let plan = file::parse(&pipeline(per)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let assembly = Assembly {
            plan: Some(Arc::new(plan)),
            kinds: vec![Listener::info()],
            lanes: 1,
            slots: SLOTS,
            sink_partitions: PARTITIONS,
            clock: Arc::new(clock.clone()),
            ..Assembly::default()
        };
        let store = assembly.open_store(dir.path()).unwrap();
        store.create("readings", PARTITIONS).unwrap();
        let backing = Backing::embedded(store, assembly.slots).unwrap();
        Bench { running: assembly.start(backing).unwrap(), clock, _dir: dir }
    }

    fn store(&self) -> &Embedded {
        self.running.backing().as_embedded().unwrap()
    }

    fn send(&self, device: &str, at: i64) {
        let value = json!({ "device": device, "at": at }).to_string();
        let mut batch = Batch::default();
        batch.push(0, Timestamp(0), Some(device.as_bytes()), value.as_bytes());
        let partition = positive_murmur2(device.as_bytes()) % PARTITIONS;
        self.store().append("readings", partition, &batch).unwrap();
    }

    /// Moves the clock second by second, so that the silo sees each.
    async fn pass(&self, span: Span) {
        for _ in 0..span.ms() / 1_000 {
            self.clock.advance(secs(1));
            self.running.handle().look();
            for _ in 0..3 {
                self.device("nobody").await; // a lane that answered three times in a row has begun a round since
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Identities and rows of a stream.
    fn rows(&self, stream: &str) -> Vec<(String, Value)> {
        let topic = self.running.assembly().topic_of(stream).unwrap();
        let mut rows = Vec::new();
        for partition in 0..PARTITIONS {
            let each = |_, entry: granary_store::LogEntry<'_>| {
                let id = String::from_utf8(entry.id.unwrap().to_vec()).unwrap();
                rows.push((id, serde_json::from_slice(entry.value).unwrap()));
                true
            };
            self.store().read_with_ids(&topic, partition, 0, each).unwrap();
        }
        rows
    }

    /// The rows of a device's windows, as identity and count.
    fn windows(&self, device: &str) -> Vec<(String, u64)> {
        let prefix = format!("Window/{device}/totals/");
        let of_device = |(id, row): &(String, Value)| {
            id.strip_prefix(&prefix).map(|id| (id.to_owned(), row["count"].as_u64().unwrap()))
        };
        self.rows("totals").iter().filter_map(of_device).collect()
    }

    async fn device(&self, device: &str) -> Value {
        let grain = GrainId::parse(&format!("Device/{device}")).unwrap();
        let answer = self.running.handle().call(grain, "get", Vec::new(), Default::default());
        match soon("an answer", answer).await.unwrap() {
            Ok(answer) => granary_core::codec::from_bytes(&answer).unwrap(),
            Err(_) => Value::Null, // not seen yet
        }
    }

    async fn until_taken(&self, device: &str, events: u64) {
        let taken = async {
            while self.device(device).await["events"] != json!(events) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(&format!("{events} events of {device}"), taken).await;
    }
}

/// Devices of two partitions: the one falls silent, the other one's records wait.
fn devices(test: &str) -> [String; 2] {
    let device = |name: &str, partition: u32| {
        let lies_there = |device: &String| {
            let slot = slot_of(device.as_bytes(), SLOTS);
            u32::from(slot.0) % PARTITIONS == partition
        };
        (0..).map(|i| format!("{name}-{test}-{i}")).find(lies_there).unwrap()
    };
    [device("quiet", 0), device("behind", 1)]
}

async fn silence_closes_what_is_silent(per: &str) {
    let [quiet, behind] = &devices(per);
    let (release, hold) = oneshot::channel();
    HOLDS.lock().unwrap().push((behind.clone(), hold));
    let bench = Bench::start(per);
    for at in [1_000, 2_000] {
        bench.send(quiet, at);
    }
    for at in [1_000, 3_000, 4_000] {
        bench.send(behind, at);
    }
    bench.until_taken(quiet, 2).await;
    eventually("the first reading is held", || HOLDS.lock().unwrap().iter().all(|(d, _)| d != behind)).await;

    bench.pass(secs(9)).await;
    assert_eq!(bench.windows(quiet), [], "{per}: 9 s of silence");
    bench.pass(secs(3)).await;
    eventually("the silent device's window", || !bench.windows(quiet).is_empty()).await;
    assert_eq!(bench.windows(quiet), [("0#0".into(), 2)]);
    assert_eq!(bench.device(quiet).await["clock"], json!(4_999), "the end of the pane, not the wall clock");
    bench.pass(secs(40)).await;
    assert_eq!(bench.windows(behind), [], "{per}: records wait, so the device is not silent");

    release.send(()).unwrap();
    bench.until_taken(behind, 3).await;
    assert_eq!(bench.rows("late"), [], "what waited is not late");
    bench.pass(secs(9)).await;
    assert_eq!(bench.windows(behind), [], "{per}: its silence began when its records were taken");
    bench.pass(secs(3)).await;
    eventually("the window of the device that was behind", || !bench.windows(behind).is_empty()).await;
    assert_eq!(bench.windows(behind), [("0#0".into(), 3)]);

    // After the closing: an event of its window corrects it, a later one opens another, one too late is set aside.
    bench.send(quiet, 3_000);
    bench.send(quiet, 6_000);
    bench.until_taken(quiet, 4).await;
    bench.send(quiet, 20_000);
    bench.send(quiet, 3_500);
    eventually("what is too late is set aside", || !bench.rows("late").is_empty()).await;
    let late = &bench.rows("late")[0].1;
    assert_eq!((&late["reason"], &late["watermark"]), (&json!("late"), &json!(19_999)));
    assert_eq!(bench.rows("late").len(), 1);
    eventually("the corrected and the next window", || bench.windows(quiet).len() == 3).await;
    assert_eq!(bench.windows(quiet), [("0#0".into(), 2), ("0#1".into(), 3), ("5000#0".into(), 1)]);
    bench.running.stop().await;
}

#[tokio::test]
async fn scenario_47_a_silent_key_closes_its_windows_and_one_behind_does_not() {
    silence_closes_what_is_silent("key").await;
}

#[tokio::test]
async fn scenario_47_an_idle_partition_closes_its_windows_and_one_behind_does_not() {
    silence_closes_what_is_silent("partition").await;
}
