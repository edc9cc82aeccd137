//! Devices that fall silent on three silos that are killed and stopped: every silence is told once and resolved once, whether events
//! or the wall clock show it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::several::Several;
use granary_cluster_tests::kit::topics::{self, Records};
use granary_cluster_tests::kit::{PATIENCE, until};
use serde_json::Value;

use super::kills::Draw;

const SILOS: usize = 3;
const DEVICES: u64 = 80;
/// A device that says nothing for longer is silent.
const GAP_MS: u64 = 3_000;
/// How long the devices send, twice, and how long they pause in between: in event time.
const PHASE_MS: u64 = 30_000;
const PAUSE_MS: u64 = 40_000;
const BEGIN_MS: u64 = 3_600_000;
/// How much later than it happened an event comes at most; the rule allows 4 s.
const LATE_MS: u64 = 500;
/// Event time that is written in one step, and the time between two steps on the wall.
const STEP_MS: u64 = 250;
const STEP_PAUSE: Duration = Duration::from_millis(40);

const PIPELINE: &str = "
pipeline: devices
sources:
  readings:
    topic: TOPIC
    decode:
      format: json
      fields: {id: {type: text, chars: 1..64}, device_id: {type: text, chars: 1..64}, ts: {type: time_ms, digits: 1..15}}
    id: id
    key: device_id
    event_time: ts
    watermark: {per: key, out_of_orderness: 4s}
steps:
  watch: {from: readings, rules: rules.yaml}
";

const RULES: &str = "
schema: fraud-rules/v1
stream: readings
event: {id: id, time: ts, fields: {device_id: text}}
defaults: {mode: live, cooldown: 0s, lateness: 4s}
rules:
  - {id: silent, kind: silence, per: device_id, gap: 3s, severity: high}
";

/// A silence, by the device and the last event before it.
type Silence = (String, String);

/// What devices send in a phase: in steps, as it arrives.
struct Phase {
    steps: Vec<Records>,
    /// The silences that end within it.
    ended: BTreeSet<Silence>,
    /// The last event of each device.
    last: BTreeSet<Silence>,
}

impl Phase {
    fn new(begin_ms: u64, seed: u64) -> Phase {
        let mut draw = Draw(seed);
        let (mut arrivals, mut ended, mut last) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for device in (0..DEVICES).map(|no| format!("d-{no}")) {
            let mut at = begin_ms + draw.below(GAP_MS);
            loop {
                let id = format!("{device}-{at}");
                let record = format!(r#"{{"id":"{id}","device_id":"{device}","ts":{at}}}"#);
                arrivals.push((at + draw.below(LATE_MS), device.clone(), record));
                let silent = draw.below(10) == 0;
                let gap = if silent { GAP_MS + 1 + draw.below(2 * GAP_MS) } else { 1 + draw.below(GAP_MS) };
                if at + gap >= begin_ms + PHASE_MS {
                    last.insert((device, id));
                    break;
                }
                if gap > GAP_MS {
                    ended.insert((device.clone(), id));
                }
                at += gap;
            }
        }
        arrivals.sort();
        let step_of = |arrival: &(u64, String, String)| (arrival.0 - begin_ms) / STEP_MS;
        let steps = arrivals.chunk_by(|one, other| step_of(one) == step_of(other));
        let records = |step: &[(u64, String, String)]| {
            step.iter().map(|(_, device, record)| (device.clone(), record.clone())).collect()
        };
        Phase { steps: steps.map(records).collect(), ended, last }
    }

    fn write(&self, rig: &Rig, mut between: impl FnMut(usize)) {
        for (step, records) in self.steps.iter().enumerate() {
            topics::write(rig, &rig.input, records);
            between(step);
            std::thread::sleep(STEP_PAUSE);
        }
    }
}

/// The silences that are told, those of them that were resolved, and how often one was taken back: the wall clock may be ahead of
/// events that are on their way. No id is there twice, unless what it said was taken back in between.
fn told(rig: &Rig) -> (BTreeSet<Silence>, BTreeSet<Silence>, usize) {
    let (mut standing, mut resolved, mut withdrawn) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut ids = BTreeSet::new();
    for row in Published::read(rig.kafka.brokers(), &format!("granary.{}.alerts", rig.cluster)).rows {
        let alert: Value = serde_json::from_slice(&row.value).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!(text(&alert["id"]), row.id);
        assert!(ids.insert(row.id), "an id is there twice: {alert}");
        let of = (text(&alert["data"]["key"]["device_id"]), text(&alert["causationid"]));
        match alert["type"].as_str().unwrap() {
            "fraud.alert.raised" => assert!(standing.insert(of), "told twice: {alert}"),
            "fraud.alert.resolved" => {
                assert!(standing.contains(&of), "resolved and not told: {alert}");
                assert!(resolved.insert(of), "resolved twice: {alert}");
            }
            "fraud.alert.withdrawn" => {
                assert!(standing.remove(&of) && !resolved.contains(&of), "withdrawn: {alert}");
                ids.remove(&text(&alert["data"]["alert_id"]));
                withdrawn += 1;
            }
            other => panic!("{other}: {alert}"),
        }
    }
    (standing, resolved, withdrawn)
}

/// Waits until these silences are told and those are resolved, and no other one.
#[track_caller]
fn until_told(rig: &Rig, expected: &BTreeSet<Silence>, ended: &BTreeSet<Silence>) {
    let began = Instant::now();
    let (mut standing, mut resolved, mut withdrawn) = told(rig);
    while (&standing, &resolved) != (expected, ended) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
        (standing, resolved, withdrawn) = told(rig);
    }
    let missing: Vec<_> = expected.difference(&standing).take(5).collect();
    let wrong: Vec<_> = standing.difference(expected).take(5).collect();
    let unresolved: Vec<_> = ended.symmetric_difference(&resolved).take(5).collect();
    assert!(
        missing.is_empty() && wrong.is_empty() && unresolved.is_empty(),
        "{} of {} told, {} of {} resolved, {withdrawn} taken back; missing {missing:?}, wrong {wrong:?}, not resolved or wrongly \
         {unresolved:?}",
        standing.len(),
        expected.len(),
        resolved.len(),
        ended.len()
    );
    println!(
        "{} told, {} resolved, {withdrawn} taken back, after {:?}",
        standing.len(),
        resolved.len(),
        began.elapsed()
    );
}

fn rig() -> Rig {
    let rig = Rig::with(Setup { partitions: 4, ..Setup::default() });
    let directory = rig.directory.path();
    std::fs::write(directory.join("pipeline.yaml"), PIPELINE.replace("TOPIC", &rig.input)).unwrap();
    std::fs::write(directory.join("rules.yaml"), RULES).unwrap();
    rig
}

/// A silo is killed while the devices send, another one while the wall clock tells the silences of a pause, a third one stands still
/// for longer than its lease while they are resolved.
#[test]
fn silences_are_told_and_resolved_once_while_silos_are_killed_and_stopped() {
    let rig = rig();
    let first = Phase::new(BEGIN_MS, 7);
    let second = Phase::new(BEGIN_MS + PHASE_MS + PAUSE_MS, 8);
    assert!(first.ended.len() > 100 && second.ended.len() > 100);
    let all = |parts: [&BTreeSet<Silence>; 2]| -> BTreeSet<Silence> {
        parts.into_iter().flatten().cloned().collect()
    };
    let mut silos = Several::start(&rig, SILOS);
    first.write(&rig, |step| match step {
        40 => silos.kill(1),
        90 => silos.begin(1),
        _ => {}
    });
    let of_pause = all([&first.ended, &first.last]);
    let is_told_by_the_clock = || told(&rig).0.intersection(&first.last).count() > DEVICES as usize / 4;
    until("the clock tells some", is_told_by_the_clock);
    silos.kill(2);
    let at_once = told(&rig).0.intersection(&first.last).count();
    println!("{at_once} of {} silences of the pause were told when a silo was killed", first.last.len());
    until_told(&rig, &of_pause, &first.ended);
    silos.begin(2);
    second.write(&rig, |step| match step {
        20 => silos.silo(0).signal("STOP"),
        90 => silos.silo(0).signal("CONT"),
        _ => {}
    });
    let ended = all([&of_pause, &second.ended]);
    until_told(&rig, &all([&ended, &second.last]), &ended);
    silos.until_settled();
    silos.stop_all();
    until_told(&rig, &all([&ended, &second.last]), &ended);
}
