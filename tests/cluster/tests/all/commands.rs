//! What a person decides with a command: to go on where records are gone, to have records again that were set aside.

use std::collections::BTreeSet;

use granary_cluster::{Batch, Log as _};
use granary_core::{Timestamp, id};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use super::inputs::{message, rows, write};
use granary_cluster_tests::kit::published::{Published, Row};
use granary_cluster_tests::kit::rig::{Rig, Setup};
use granary_cluster_tests::kit::silo::granary;
use granary_cluster_tests::kit::until;

/// What a command answered.
struct Answer {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Answer {
    /// Its last line as JSON.
    #[track_caller]
    fn json(&self) -> Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|_| panic!("no JSON: {} {}", self.out, self.error))
    }
}

fn run(rig: &Rig, arguments: &[&str]) -> Answer {
    let output = granary().args(arguments).arg("-c").arg(rig.configuration()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { code: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
}

fn rewind(rig: &Rig, partition: u32, to: u64) -> Answer {
    let (partition, to) = (partition.to_string(), to.to_string());
    run(rig, &["rewind", "--json", "--topic", &rig.input, "--partition", &partition, "--to", &to])
}

/// What retention does: records before this offset are gone.
fn remove_before(rig: &Rig, topic: &str, partition: u32, offset: u64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", rig.kafka.brokers()).create().unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, partition as i32, Offset::Offset(offset as i64)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.delete_records(&before, &AdminOptions::new())).unwrap();
    until("the records are gone", || rig.log.bounds(topic, partition).unwrap().0 == offset);
}

fn ids(rig: &Rig) -> Vec<String> {
    let mut ids: Vec<String> = rig.published().rows.into_iter().map(|row| row.id).collect();
    ids.sort();
    ids
}

/// A device of another partition than this.
fn elsewhere(partition: u32, partitions: u32) -> String {
    let mut names = (0..).map(|n| format!("e-{n}"));
    names.find(|name| id::positive_murmur2(name.as_bytes()) % partitions != partition).unwrap()
}

/// Fault 27: retention removed what was not read yet. The silo passes over nothing by itself; a person does.
#[test]
fn where_retention_overtook_the_silo_a_person_decides() {
    let rig = Rig::with(Setup { partitions: 4, ..Setup::default() });
    let partition = id::positive_murmur2(b"d-1") % 4;
    let silo = rig.silo();
    write(&rig, &[("d-1", message("d-1", 1_000, 7))]);
    until("the first window is published", || rig.published().rows.len() == 1);
    silo.stop();
    write(&rig, &[("d-1", message("d-1", 11_000, 8)), ("d-1", message("d-1", 21_000, 9))]);
    let end = rig.log.bounds(&rig.input, partition).unwrap().1;
    remove_before(&rig, &rig.input, partition, end);
    write(&rig, &[("d-1", message("d-1", 31_000, 10))]);

    let silo = rig.silo();
    let command = format!("granary rewind --topic {} --partition {partition} --to {end}", rig.input);
    until("the silo names the command", || silo.log().contains(&command));
    let other = elsewhere(partition, 4);
    write(&rig, &[(&other, message(&other, 1_000, 1))]);
    until("other partitions go on", || rig.published().rows.len() == 2);
    let answer = rewind(&rig, partition, end);
    assert_eq!(answer.code, Some(3), "the silo runs: {} {}", answer.out, answer.error);
    silo.stop();
    assert_eq!(rig.published().rows.len(), 2, "nothing was passed over by itself");

    assert_eq!(rewind(&rig, partition, end - 1).code, Some(1), "that is not kept any more");
    assert_eq!(rewind(&rig, partition, end + 2).code, Some(1), "that is not written yet");
    assert_eq!(rewind(&rig, 4, end).code, Some(2), "there is no such partition");
    let answer = rewind(&rig, partition, end);
    assert_eq!(answer.code, Some(0), "{} {}", answer.out, answer.error);
    let moved = answer.json();
    assert_eq!((&moved["to"], &moved["slots"]), (&Value::from(end), &Value::from(24)), "{moved}");
    let from_one = |moves: &Vec<Value>| moves.iter().any(|of_slot| of_slot["from"] == 1);
    assert!(moved["moved"].as_array().is_some_and(from_one), "{moved}");
    let again = rewind(&rig, partition, end);
    assert_eq!((again.code, &again.json()["moved"]), (Some(0), &Value::from(Vec::<Value>::new())));

    let silo = rig.silo();
    until("the silo goes on", || rig.published().rows.len() == 3);
    silo.stop();
    rig.published().must_be_once();
    let mut expected = vec![
        "Window/d-1/cat-1/totals/0#0".to_string(),
        "Window/d-1/cat-1/totals/30000#0".to_string(),
        format!("Window/{other}/cat-1/totals/0#0"),
    ];
    expected.sort();
    assert_eq!(ids(&rig), expected);
    let back = rewind(&rig, partition, end);
    assert_eq!(back.code, Some(1), "it only goes ahead");
    assert!(back.out.contains("cannot be taken back"), "{} {}", back.out, back.error);
}

/// The values of a field of the published rows.
fn counts(rig: &Rig) -> Vec<(String, u64)> {
    let of = |row: Row| {
        let value: Value = serde_json::from_slice(&row.value).unwrap();
        (row.id, value["count"].as_u64().unwrap())
    };
    let mut counts: Vec<_> = rig.published().rows.into_iter().map(of).collect();
    counts.sort();
    counts
}

/// The pipeline file with one text replaced.
fn mend(rig: &Rig, from: &str, to: &str) {
    let path = rig.directory.path().join("pipeline.yaml");
    let pipeline = std::fs::read_to_string(&path).unwrap();
    assert!(pipeline.contains(from), "{pipeline}");
    std::fs::write(path, pipeline.replace(from, to)).unwrap();
}

/// A limit in the pipeline file was too narrow: corrected, the rejected records count, and nothing else changes.
#[test]
fn rejected_records_count_after_the_pipeline_was_mended() {
    let rig = Rig::with(Setup {
        partitions: 4,
        pipeline: vec![
            ("idle_after: 10s", "idle_after: 1s".into()),
            ("range: -9007199254740991..9007199254740991", "range: 0..50".into()),
        ],
        ..Setup::default()
    });
    let silo = rig.silo();
    write(
        &rig,
        &[
            ("d-1", message("d-1", 1_000, 7)),
            ("d-1", message("d-1", 11_000, 70)),
            ("d-2", message("d-2", 1_000, 80)),
            ("d-3", b"no JSON".to_vec()),
        ],
    );
    until("the window is published", || rig.published().rows.len() == 1);
    until("the others are set aside", || rows(&rig, "rejected") == 3);
    silo.stop();
    mend(&rig, "range: 0..50", "range: 0..500");
    // one of the originals is gone; its row has it
    let partition = id::positive_murmur2(b"d-2") % 4;
    let end = rig.log.bounds(&rig.input, partition).unwrap().1;
    remove_before(&rig, &rig.input, partition, end);

    let silo = rig.silo();
    let written = |rig: &Rig| -> u64 { (0..4).map(|p| rig.log.bounds(&rig.input, p).unwrap().1).sum() };
    let before = written(&rig);
    let dry = run(&rig, &["replay", "rejected", "--dry-run", "--json"]);
    assert_eq!((dry.code, &dry.json()["replayed"]), (Some(0), &Value::from(3)), "{} {}", dry.out, dry.error);
    assert_eq!(written(&rig), before, "a dry run appends nothing");
    let done = run(&rig, &["replay", "rejected", "--json"]);
    assert_eq!(done.code, Some(0), "{} {}", done.out, done.error);
    let report = done.json();
    assert_eq!((&report["replayed"], &report["gone"]), (&Value::from(3), &Value::from(0)), "{report}");
    assert!(report["of_rows"].as_u64().is_some_and(|n| n >= 1), "{report}");
    assert_eq!(written(&rig), before + 3);
    until("what was missing is published", || rig.published().rows.len() == 3);
    until("what is still wrong is set aside again", || rows(&rig, "rejected") == 4);

    let after: Vec<&str> =
        report["after"].as_array().unwrap().iter().flat_map(|at| ["--after", at.as_str().unwrap()]).collect();
    let next = run(&rig, &[&["replay", "rejected", "--json", "--dry-run"], &after[..]].concat());
    assert_eq!((next.code, &next.json()["replayed"]), (Some(0), &Value::from(1)), "only what came since");
    silo.stop();
    rig.published().must_be_once();
    let expected =
        ["Window/d-1/cat-1/totals/0#0", "Window/d-1/cat-1/totals/10000#0", "Window/d-2/cat-1/totals/0#0"];
    assert_eq!(counts(&rig), expected.map(|id| (id.to_string(), 1)));
}

/// Late records have their originals in the topic only, those of strays in the re-keyed one: they come again, here to be
/// late again, and one that is gone is named.
#[test]
fn late_records_come_again_and_gone_ones_are_named() {
    let rig = Rig::with(Setup {
        partitions: 4,
        pipeline: vec![
            ("idle_after: 10s", "idle_after: 1s".into()),
            ("allowed_lateness: forever", "allowed_lateness: 0s".into()),
        ],
        ..Setup::default()
    });
    let [partition, own] = [b"d-1", b"d-9"].map(|key| id::positive_murmur2(key) % 4);
    let wrong = (0..4).find(|p| ![partition, own].contains(p)).unwrap();
    let silo = rig.silo();
    for at in [1_000, 21_000, 2_000, 3_000] {
        write(&rig, &[("d-1", message("d-1", at, 7))]);
        let mut stray = Batch::default();
        stray.push(0, Timestamp(at), Some(b"d-9"), &message("d-9", at, 7));
        rig.log.append(&rig.input, wrong, &stray).unwrap();
    }
    until("the late ones are set aside", || rows(&rig, "late") == 4);
    remove_before(&rig, &rig.input, partition, 3); // of 2_000
    let done = run(&rig, &["replay", "late", "--reason", "late"]);
    assert_eq!(done.code, Some(1), "{} {}", done.out, done.error);
    let gone = format!("gone: offset 2 of topic {} partition {partition}", rig.input);
    assert!(done.out.contains(&gone) && done.out.contains("3 records replayed, 1 gone"), "{}", done.out);
    until("they are late again", || rows(&rig, "late") == 7);
    silo.stop();
    let late = Published::read(rig.kafka.brokers(), &rig.set_aside("late")).rows;
    let ids: BTreeSet<&str> = late.iter().map(|row| &*row.id).collect();
    assert_eq!(ids.len(), 7, "each has a name of its own: {ids:?}");
    let time = |row: &Row| serde_json::from_slice::<Value>(&row.value).unwrap()["event_time"].as_i64();
    let times = |key: &[u8]| late.iter().filter(|row| row.key == key).map(time).collect::<Vec<_>>();
    assert_eq!(times(b"d-1"), [2_000, 3_000, 3_000].map(Some));
    assert_eq!(times(b"d-9"), [2_000, 3_000, 2_000, 3_000].map(Some));
    let none = run(&rig, &["replay", "late", "--json", "--reason", "future"]);
    assert_eq!((none.code, &none.json()["replayed"]), (Some(0), &Value::from(0)), "{}", none.out);
    let wrong = run(&rig, &["replay", "rejected", "--reason", "late"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.error);
}
