//! What earlier versions stored, read by this one: cells of grains, reminders, kept answers, panes, patterns and joins, under
//! `tests/data/golden/<version>`, one directory for each version that stored something otherwise than the one before.
//!
//! When a test here fails, this version cannot read what a released one has stored. The files are never changed: either the
//! code learns to read the old form again (a field with a default, a `migrate`), or the change is one that begins a new
//! generation of state and says how to get there. A form that is stored from now on is *added*, under the next number:
//! `cargo test -p granary-scenarios --test all golden -- --ignored` writes the files named by the constants that are not there.

mod followed;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_cluster::Script;
use granary_core::time::{millis, secs};
use granary_core::{CatchUp, SlotId};
use granary_engine::Config;
use granary_scenarios::silo::SLOTS;
use granary_scenarios::{Rig, Silo, eventually};
use granary_store::{Memory, conformance};
use granary_streams::Slots;

use crate::kinds::{Bill, Counter, answer, kinds, settle};

/// What there is of this version: a file and the number under which its forms came.
type Forms = (&'static str, &'static str);

const GRAINS: Forms = ("grains.txt", "1");
const PANES: Forms = ("panes.txt", "1");
const SKETCHES: Forms = ("sketches.txt", "2");

/// A cell: slot, key, value.
type Cells = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/golden")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The cells of a store but those of counts, which begin anew with each life.
fn cells(store: &Memory) -> Cells {
    let mut cells = Cells::new();
    for slot in 0..SLOTS {
        for (key, value) in conformance::scan(store, SlotId(slot), b"", None, usize::MAX) {
            if !key.starts_with(b"c/") {
                cells.insert((slot, key), value);
            }
        }
    }
    cells
}

/// Each file of this name, by its version, on a store of its own.
fn read((name, newest): Forms) -> Vec<(String, Rig)> {
    let mut versions = Vec::new();
    for version in fs::read_dir(directory()).unwrap() {
        let version = version.unwrap();
        let Ok(text) = fs::read_to_string(version.path().join(name)) else { continue };
        let rig = crate::rig();
        let mut slots: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [slot, key, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            slots.entry(slot.parse().unwrap()).or_default().push((bytes(key), bytes(value)));
        }
        for (slot, cells) in slots {
            let owner = conformance::acquire(&*rig.memory, SlotId(slot), 1);
            let cells: Vec<_> = cells.iter().map(|(key, value)| (&key[..], Some(&value[..]))).collect();
            let mut commit = conformance::commit(SlotId(slot), owner, 1, &cells);
            commit.positions.clear();
            conformance::run(&*rig.memory, vec![Script::Commit(Arc::new(commit))]).unwrap();
        }
        versions.push((version.file_name().to_string_lossy().into_owned(), rig));
    }
    assert!(versions.iter().any(|(version, _)| version == newest), "{name} of version {newest}");
    versions
}

/// Writes a file of this version; one that is there stays as it is.
fn write((name, version): Forms, rig: &Rig) {
    let file = directory().join(version).join(name);
    if file.exists() {
        return println!("{} is there: forms are added, never changed", file.display());
    }
    let mut text =
        format!("# Cells as version {version} stores them: slot, key, value; bytes in hexadecimal.\n");
    for ((slot, key), value) in cells(&rig.memory) {
        writeln!(text, "{slot} {} {}", hex(&key), hex(&value)).unwrap();
    }
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Grains with state, an answer kept for its idempotency key, a refusal kept so, a reminder.
async fn store_grains(rig: &Rig) {
    let silo = rig.start(kinds());
    let counter = || silo.handle.grain::<Counter>("c/1");
    assert_eq!(answer(counter().add(5).idempotency_key("pay-1")).await, Ok(5));
    assert!(answer(counter().add_and_refuse(2).idempotency_key("pay-2")).await.is_err());
    assert_eq!(answer(silo.handle.grain::<Counter>("ü%").add(70_000)).await, Ok(70_000));
    answer(silo.handle.grain::<Bill>("b").remind(10_000, CatchUp::Each)).await.unwrap();
    silo.stop().await;
}

#[tokio::test]
async fn grains_of_every_version_are_read() {
    for (version, rig) in read(GRAINS) {
        let silo = rig.start(kinds());
        let counter = || silo.handle.grain::<Counter>("c/1");
        assert_eq!(answer(counter().total()).await, Ok(7), "{version}");
        assert_eq!(
            answer(counter().add(5).idempotency_key("pay-1")).await,
            Ok(5),
            "{version}: the kept answer"
        );
        let refused = answer(counter().add_and_refuse(2).idempotency_key("pay-2")).await.unwrap_err();
        assert!(refused.message().contains("at 7"), "{version}: {refused}");
        assert_eq!(answer(silo.handle.grain::<Counter>("ü%").total()).await, Ok(70_000), "{version}");
        assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(0), "{version}");
        silo.advance(secs(21));
        eventually("the reminder fires", || silo.stats().reminders >= 2).await;
        settle(&silo).await;
        assert_eq!(answer(silo.handle.grain::<Bill>("b").sent()).await, Ok(2), "{version}");
        silo.stop().await;
    }
}

/// What all pipelines here read.
const SOURCE: &str = "
pipeline: golden
sources:
  readings:
    topic: in
    decode:
      format: json
      fields:
        id: {type: text, chars: 1..20}
        device: {type: text, chars: 1..20}
        at: {type: time_ms}
        m: {type: integer, range: -1000..1000}
        x: {type: double}
    id: id
    key: device
    event_time: at
    watermark: {per: key, out_of_orderness: 2s}
steps:
";

/// Every sort of window, and every aggregate that has been there from the first version on.
const PIPELINE: &str = "
  totals:
    from: readings
    dedup: {by: id, horizon: pane}
    window: {type: tumbling, size: 5s}
    allowed_lateness: forever
    aggregates:
      count: count()
      sum: sum(m)
      least: min(m)
      most: max(m)
      mean: avg(x)
      spread: variance(x)
      sorts: distinct(m)
      oldest: first(m)
      newest: last(m)
      top: top(m, 2)
      all: collect(m, 3)
  hops:
    from: readings
    dedup: {by: id, horizon: pane}
    window: {type: hopping, size: 10s, slide: 5s}
    allowed_lateness: 1h
    aggregates: {total: sum(m), real: sum(x)}
  visits:
    from: readings
    window: {type: session, gap: 3s}
    allowed_lateness: forever
    aggregates: {times: count()}
sinks:
  out: {from: totals, topic: out}
  second: {from: hops, topic: poisoned}
  third: {from: visits, topic: alerts}
";

/// A window with few values, and one with more than a sketch keeps as they are.
const SKETCHING: &str = "
  traffic:
    from: readings
    window: {type: tumbling, size: 1h}
    allowed_lateness: forever
    aggregates:
      sorts: approx_distinct(id)
      least: quantile(x, 0)
      tenth: quantile(x, 0.1)
      median: quantile(x, 0.5)
      most: quantile(m, 0.999, 0.05)
sinks:
  out: {from: traffic, topic: out}
";

fn streaming(rig: &Rig, pipeline: &str) -> Silo {
    rig.start_with(kinds(), |config: &mut Config| {
        let text = [SOURCE, pipeline].concat();
        let plan = granary_streams::file::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let plan = Arc::new(plan);
        config.sources = vec![rig.input()];
        config.pipeline = Arc::new(move || Box::new(Slots::new(plan.clone(), SLOTS)));
    })
}

fn append(rig: &Rig, id: &str, at: i64, m: i64, x: f64) {
    append_of(rig, "d-7", id, at, m, x);
}

fn append_of(rig: &Rig, device: &str, id: &str, at: i64, m: i64, x: f64) {
    rig.append(device, &format!(r#"{{"id":"{id}","device":"{device}","at":{at},"m":{m},"x":{x}}}"#));
}

/// Windows that are published, and windows that are open.
async fn store_panes(rig: &Rig) {
    let silo = streaming(rig, PIPELINE);
    append(rig, "a", 1_000, 4, 0.1);
    append(rig, "b", 2_000, -9, 0.2);
    append(rig, "c", 9_500, 300, 1e100);
    append(rig, "d", 13_000, 1, -1e100);
    silo.handle.look();
    eventually("all is stored", || rig.records_stored() == 4).await;
    silo.stop().await;
}

/// What a late event makes of windows that an earlier version has stored, and what its copy does not; the clock goes on.
#[tokio::test]
async fn panes_of_every_version_are_read() {
    for (version, rig) in read(PANES) {
        let silo = streaming(&rig, PIPELINE);
        append(&rig, "b", 2_000, -9, 0.2); // a copy
        append(&rig, "e", 3_000, 8, 0.3);
        append(&rig, "f", 17_500, 2, 0.5);
        silo.handle.look();
        eventually("all is stored", || rig.records_stored() == 3).await;
        silo.advance(millis(1));
        silo.stop().await;
        let rows = |stream: &str| rig.outputs_by_id(stream);
        let expected = include_str!("../../../data/golden/panes.expected");
        let mut found = String::new();
        for stream in ["out", "poisoned", "alerts"] {
            for (id, row) in rows(stream) {
                writeln!(found, "{id} {row}").unwrap();
            }
        }
        assert_eq!(found, expected, "{version}");
    }
}

/// Windows that are open.
async fn store_sketches(rig: &Rig) {
    let silo = streaming(rig, SKETCHING);
    append_of(rig, "few", "a", 1_000, 7, -0.5);
    append_of(rig, "few", "b", 2_000, -7, 0.0);
    for n in 0..800 {
        let x = (n as f64 - 200.0) * 1.5f64.powi((n % 40) as i32 - 20);
        append_of(rig, "many", &n.to_string(), 1_000 + n, n * 3 % 1_000, x);
    }
    silo.handle.look();
    eventually("all is stored", || rig.records_stored() == 802).await;
    silo.stop().await;
}

/// What one event more, and copies of those that were seen, make of sketches that an earlier version has stored.
#[tokio::test]
async fn sketches_of_every_version_are_read() {
    for (version, rig) in read(SKETCHES) {
        let silo = streaming(&rig, SKETCHING);
        for device in ["few", "many"] {
            append_of(&rig, device, "a", 3_000, 999, 12.5);
            append_of(&rig, device, "b", 4_000, 998, -1e9);
            append_of(&rig, device, "next", 3_700_000, 0, 0.25);
        }
        silo.handle.look();
        eventually("all is stored", || rig.records_stored() == 6).await;
        silo.stop().await;
        let rows = rig.outputs_by_id("out");
        let found = rows.into_iter().fold(String::new(), |text, (id, row)| text + &format!("{id} {row}\n"));
        assert_eq!(found, include_str!("../../../data/golden/sketches.expected"), "{version}");
    }
}

#[tokio::test]
#[ignore = "writes the corpus of this version, if there is none"]
async fn write_the_corpus() {
    let rig = crate::rig();
    store_grains(&rig).await;
    write(GRAINS, &rig);
    let rig = crate::rig();
    store_panes(&rig).await;
    write(PANES, &rig);
    let rig = crate::rig();
    store_sketches(&rig).await;
    write(SKETCHES, &rig);
    let rig = crate::rig();
    followed::store_patterns(&rig).await;
    write(followed::PATTERNS, &rig);
    let rig = crate::rig();
    followed::store_joins(&rig).await;
    write(followed::JOINS, &rig);
}
