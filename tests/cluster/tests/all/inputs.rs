//! Inputs as they come: broken, doubled, late, silent, changed under the silo's feet.

use std::time::Duration;

use granary_cluster::{Batch, Log as _};
use granary_core::{Clock as _, Span, Timestamp};
use granary_streams::inject::Options;

use granary_cluster_tests::kit::published::Published;
use granary_cluster_tests::kit::rig::{Partitioning, Rig, Setup, inject_to};
use granary_cluster_tests::kit::silo::{Silo, granary};
use granary_cluster_tests::kit::until;

/// A record of its own, in the sample's layout.
pub fn message(device: &str, at: i64, m1: i64) -> Vec<u8> {
    format!(r#"{{"id":"{device}-{at}","di":"{device}","dt":{at},"c":"cat-1","m1":{m1},"m2":1.5}}"#)
        .into_bytes()
}

pub fn write(rig: &Rig, records: &[(&str, Vec<u8>)]) {
    let clock = granary::clock::SystemClock::start();
    for (key, value) in records {
        let partitions = rig.log.partitions(&rig.input).unwrap().unwrap();
        let partition = granary_core::id::positive_murmur2(key.as_bytes()) % partitions;
        let mut batch = Batch::default();
        batch.push(0, clock.now(), Some(key.as_bytes()), value);
        rig.log.append(&rig.input, partition, &batch).unwrap();
    }
}

/// Faults 22 and 36: an event a day ahead moves its own device's clock and nobody else's; a copy of something long closed is
/// never a second result.
#[test]
fn a_clock_that_is_ahead_spoils_no_other_device() {
    let rig = Rig::with(Setup {
        pipeline: vec![
            ("idle_after: 10s", "idle_after: 1s".into()),
            ("future_guard: none", "future_guard: 1d".into()),
        ],
        ..Setup::default()
    });
    let options = Options { start: now(), ..rig.load(20, 60) };
    let silo = rig.silo();
    let far = now().0 + 3 * 86_400_000;
    write(&rig, &[("ahead", message("ahead", far, 1))]);
    rig.inject(&options);
    write(&rig, &[("ahead", message("ahead", now().0, 2))]);
    rig.until_read(&silo);
    until("the event is set aside", || rows(&rig, "late") == 1);
    until("the device's own results come", || {
        rig.published().rows.iter().any(|row| row.id.starts_with("Window/ahead/"))
    });
    silo.stop();
    let published = rig.published();
    published.must_be_once();
    let of_ahead = published.rows.iter().filter(|row| row.id.starts_with("Window/ahead/")).count();
    assert_eq!(of_ahead, 1, "the device's clock did not move to the future");
    let others: Vec<_> =
        published.rows.iter().filter(|row| !row.id.starts_with("Window/ahead/")).cloned().collect();
    rig.must_equal_truth(&options, &Published { rows: others });
}

fn now() -> Timestamp {
    granary::clock::SystemClock::start().now()
}

pub fn rows(rig: &Rig, set_aside: &str) -> usize {
    Published::read(rig.kafka.brokers(), &rig.set_aside(set_aside)).rows.len()
}

/// Fault 23: what cannot be decoded is set aside with its bytes, and stops nobody. An empty record is one of them.
#[test]
fn what_cannot_be_decoded_is_set_aside() {
    let rig = Rig::new();
    let options = rig.load(20, 40);
    let silo = rig.silo();
    let huge = format!(r#"{{"id":"x","di":"{}"}}"#, "d".repeat(100_000));
    write(
        &rig,
        &[
            ("broken", b"{\"id\":".to_vec()),
            ("broken", Vec::new()),
            ("broken", vec![0xff, 0xfe]),
            ("broken", huge.into_bytes()),
        ],
    );
    rig.inject(&options);
    rig.until_right(&options);
    until("they are set aside", || rows(&rig, "rejected") == 4);
    silo.stop();
    let rejected = Published::read(rig.kafka.brokers(), &rig.set_aside("rejected"));
    let texts: Vec<String> =
        rejected.rows.iter().map(|row| String::from_utf8_lossy(&row.value).into_owned()).collect();
    for rule in ["size", "utf8", "json"] {
        assert!(texts.iter().any(|text| text.contains(&format!(r#""rule":"{rule}""#))), "{rule}: {texts:?}");
    }
    rig.published().must_be_once();
}

/// Fault 24: a writer that starts again and sends everything a second time.
#[test]
fn a_writer_that_sends_everything_again_changes_nothing() {
    let rig = Rig::new();
    let options = rig.load(20, 40);
    let silo = rig.silo();
    rig.inject(&options);
    rig.until_right(&options);
    let before = rig.published().rows.len();
    rig.inject(&options);
    rig.until_read(&silo);
    silo.stop();
    rig.must_be_right(&options);
    assert_eq!(rig.published().rows.len(), before, "copies make no new revision");
}

/// Fault 25: more partitions than before. The running silo goes on with those it has, the next one refuses.
#[test]
fn a_topic_with_more_partitions_is_refused() {
    let rig = Rig::with(Setup { partitions: 4, ..Setup::default() });
    let options = rig.load(10, 20);
    let silo = rig.silo();
    rig.inject(&options);
    rig.until_right(&options);
    silo.stop();
    rig.add_partitions(8);
    let said = refusal(&rig);
    assert!(said.contains("has 8 partitions, had 4") && said.contains("cluster.name"), "{said}");
}

/// Fault 26: deleted and created again, with as many partitions.
#[test]
fn a_topic_created_anew_is_refused() {
    let rig = Rig::new();
    let options = rig.load(10, 20);
    let silo = rig.silo();
    rig.inject(&options);
    rig.until_right(&options);
    silo.stop();
    rig.log.delete(&rig.input).unwrap();
    until("the topic can be created again", || rig.log.create(&rig.input, 12).is_ok());
    let said = refusal(&rig);
    assert!(said.contains("deleted and created again"), "{said}");
}

/// What a silo says that does not start.
fn refusal(rig: &Rig) -> String {
    let output = granary().args(["silo", "-c"]).arg(rig.configuration()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Other servers than before, other slots, a Redis that keeps nothing: refused with the remedy.
#[test]
fn what_does_not_fit_is_refused_with_the_remedy() {
    let rig = Rig::new();
    let silo = rig.silo();
    silo.stop();
    let with = |set: &str| {
        let output = granary().args(["silo", "--set", set, "-c"]).arg(rig.configuration()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = with("cluster.slots=48");
    assert!(code == Some(2) && said.contains("slots"), "{said}");
    rig.redis_says(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let (code, said) = with("silo.lanes=2");
    assert!(code == Some(2) && said.contains("CONFIG SET appendfsync always"), "{said}");
    rig.redis_says(&["CONFIG", "SET", "appendfsync", "always"]);
    rig.redis_says(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (code, said) = with("silo.lanes=2");
    assert!(code == Some(2) && said.contains("noeviction"), "{said}");
}

/// Fault 28: some devices are silent for a while, then their backlog comes: all of it counts.
#[test]
fn a_silent_partition_and_its_backlog() {
    let rig = Rig::with(Setup { partitions: 4, ..Setup::default() });
    let options = rig.load(20, 60);
    let silo = rig.silo();
    let mut held = Vec::new();
    inject_to(&rig.log, &rig.input, &options, Partitioning::Murmur2Holding(2), |step| {
        held.push(step);
        std::thread::sleep(Duration::from_millis(500)); // silence closes windows in the meantime
    });
    rig.until_right(&options);
    silo.stop();
    rig.must_be_right(&options);
    assert!(held.len() > 3, "the backlog was held back for some steps");
}

/// Fault 29: all devices stop: the last windows close.
#[test]
fn the_last_windows_close_by_silence() {
    let rig = Rig::new();
    let silo = rig.silo();
    write(&rig, &[("d-1", message("d-1", 1_000, 7)), ("d-2", message("d-2", 2_000, 8))]);
    until("both windows are published", || rig.published().rows.len() == 2);
    silo.stop();
    rig.published().must_be_once();
}

/// Fault 30: who reads results and dies before it notes how far it came knows copies by their identity.
#[test]
fn outputs_carry_their_identity_and_routing_key() {
    let rig = Rig::new();
    let silo = rig.silo();
    write(&rig, &[("d-1", message("d-1", 1_000, 7))]);
    until("the window is published", || rig.published().rows.len() == 1);
    silo.stop();
    let published = rig.published();
    assert_eq!(published.rows[0].id, "Window/d-1/cat-1/totals/0#0");
    assert_eq!(published.rows[0].key, b"d-1");
}

/// Fault 33: memory for a few keys only; the others leave in the middle of their windows and come back from their cells.
#[test]
fn keys_leave_memory_in_the_middle_of_their_windows() {
    let rig = Rig::with(Setup {
        configuration: vec![("silo", "memory_bytes_max = 16777216".into())],
        ..Setup::default()
    });
    let options = Options { period: Span(1_000), ..rig.load(40_000, 3) };
    let silo = rig.silo();
    rig.inject(&options);
    rig.until_right(&options);
    let of = |name: &str| silo.metric(name).unwrap_or_default();
    // each key is looked up once when it is new; what is more was in memory before
    assert!(of("granary_cells_loaded_total") > 50_000.0, "{} cells", of("granary_cells_loaded_total"));
    assert!(of("granary_memory_bytes") <= 16_777_216.0, "{} bytes", of("granary_memory_bytes"));
    silo.stop();
    rig.must_be_right(&options);
}

/// `start: latest`: what was there before the first start is not read, all later is, also what came while the silo was down.
#[test]
fn a_pipeline_can_begin_at_the_end() {
    let rig = Rig::with(Setup {
        pipeline: vec![
            ("idle_after: 10s", "idle_after: 1s".into()),
            ("start: earliest ", "start: latest ".into()),
        ],
        ..Setup::default()
    });
    write(&rig, &[("d-1", message("d-1", 1_000, 7))]);
    let silo = rig.silo();
    until("the beginning is stored", || silo.metric("granary_commits_total").is_some_and(|n| n >= 96.0));
    silo.kill();
    write(&rig, &[("d-2", message("d-2", 2_000, 8))]);
    let silo: Silo = rig.silo();
    until("the later window is published", || !rig.published().rows.is_empty());
    silo.stop();
    let ids: Vec<String> = rig.published().rows.into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["Window/d-2/cat-1/totals/0#0"]);
}
