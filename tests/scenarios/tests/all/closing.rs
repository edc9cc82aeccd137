//! A mass of windows that closes in portions: crashes in between change nothing. How large portions are, and what calls
//! see of them, is in a process of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_cluster::{Batch, Log};
use granary_core::id::{positive_murmur2, slot_of};
use granary_core::time::millis;
use granary_core::{Result, Timestamp};
use granary_engine::config::OpenSource;
use granary_engine::{Config, Source};
use granary_scenarios::silo::{PARTITIONS, SLOTS};
use granary_scenarios::{Faults, Rig, Silo, eventually};
use granary_streams::{Slots, file};

/// Several portions in every slot.
const DEVICES: u64 = 30_000;

const PIPELINE: &str = "
pipeline: mass
sources:
  readings:
    topic: in
    decode:
      format: json
      fields:
        device: {type: text}
        at:     {type: time_ms}
    key: device
    event_time: at
    watermark: {per: partition, out_of_orderness: 1s}
steps:
  totals:
    from: readings
    window: {type: tumbling, size: 5s}
    aggregates: {count: count()}
sinks:
  totals: {from: totals, topic: out}
";

/// A topic whose end is the end of the input.
struct Finite {
    log: Arc<dyn Log>,
    partition: u32,
}

impl Source for Finite {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        self.log.read("in", self.partition, from, bytes_max, batch)
    }

    fn has_ended(&mut self, at: u64) -> Result<bool> {
        Ok(self.log.bounds("in", self.partition)?.1 <= at)
    }
}

/// All readings of one second; with a jump, two far ahead in each slot: the second has to wait.
fn filled(jumps: bool) -> Rig {
    let rig = Rig::new();
    let mut batches = vec![Batch::default(); PARTITIONS as usize];
    let mut append = |device: &str, at: u64| {
        let value = format!(r#"{{"device":"{device}","at":{at}}}"#);
        let partition = positive_murmur2(device.as_bytes()) % PARTITIONS;
        batches[partition as usize].push(0, Timestamp(0), Some(device.as_bytes()), value.as_bytes());
    };
    (0..DEVICES).for_each(|i| append(&format!("d-{i}"), 1_000 + i % 1_000));
    if jumps {
        for slot in 0..SLOTS {
            let in_slot = |device: &String| slot_of(device.as_bytes(), SLOTS).0 == slot;
            let device = (0..).map(|i| format!("far-{i}")).find(in_slot).unwrap();
            append(&device, 100_000);
            append(&device, 101_000);
        }
    }
    for (partition, batch) in (0..).zip(&batches) {
        rig.memory.append("in", partition, batch).unwrap();
    }
    rig
}

fn start(rig: &Rig, finite: bool) -> Silo {
    start_doomed(rig, finite, |_| {})
}

fn start_doomed(rig: &Rig, finite: bool, plant: impl FnOnce(&Faults)) -> Silo {
    let log: Arc<dyn Log> = rig.memory.clone();
    let plan = Arc::new(file::parse(PIPELINE).unwrap_or_else(|mistakes| panic!("{mistakes}")));
    let ending: OpenSource = Arc::new(move |partition| Ok(Box::new(Finite { log: log.clone(), partition })));
    rig.start_planted_with(Vec::new(), plant, |config: &mut Config| {
        config.finite = finite;
        let mut input = rig.input();
        if finite {
            input.open = ending;
        }
        config.sources = vec![input];
        config.pipeline = Arc::new(move || Box::new(Slots::new(plan.clone(), SLOTS)));
    })
}

/// Identities and values by slot, in the order in which they were published.
fn published(rig: &Rig) -> BTreeMap<u16, Vec<(String, String)>> {
    let mut by_slot: BTreeMap<u16, Vec<(String, String)>> = BTreeMap::new();
    for record in rig.memory.records("out", 0).unwrap() {
        let slot = slot_of(record.key.as_deref().unwrap(), SLOTS).0;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        by_slot.entry(slot).or_default().push((text(record.id.unwrap()), text(record.value)));
    }
    by_slot
}

/// Scenario 49, with crashes between portions: the same rows in the same order, each once.
#[tokio::test]
async fn scenario_49_a_crash_between_two_portions_changes_nothing() {
    for finite in [false, true] {
        let undisturbed = filled(!finite);
        let silo = start(&undisturbed, finite);
        let count = |rig: &Rig| rig.memory.bounds("out", 0).unwrap().1;
        eventually("all windows are published", || {
            silo.advance(millis(20));
            count(&undisturbed) == DEVICES
        })
        .await;
        drop(silo);
        let expected = published(&undisturbed);
        let in_order = |rows: &[(String, String)]| rows.windows(2).all(|two| two[0].0 < two[1].0);
        assert!(expected.values().all(|rows| in_order(rows)), "by name within a slot");

        let rig = filled(!finite);
        let mut between = 0;
        for life in 0..1_000 {
            let silo = start_doomed(&rig, finite, |faults| faults.cut_off_after(1 + life % 4));
            eventually("its last commit is stored", || {
                silo.advance(millis(20));
                silo.faults.is_cut_off() || count(&rig) == DEVICES
            })
            .await;
            silo.crash();
            if count(&rig) == DEVICES {
                break;
            }
            between += u32::from(count(&rig) > 0);
        }
        assert!(between >= 3, "{between} crashes came on the way");
        assert_eq!(published(&rig), expected, "finite: {finite}");
    }
}
