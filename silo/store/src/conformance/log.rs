//! What every log must do, and every store that publishes into one.

use std::sync::Arc;

use granary_cluster::{Batch, CommitNo, Log, Script, SourceId, Store, Verdict};
use granary_core::{SlotId, Timestamp, id::positive_murmur2};

use super::{acquire, commit, emit, run, run_one};

/// Checks everything a log promises whose topics are all gone with each new one.
pub fn check_log<L: Log>(make: impl Fn() -> Arc<L>) {
    let log = make();
    assert_eq!(log.partitions("t").expect("a look"), None);
    assert!(log.bounds("t", 0).is_err() && log.append("t", 0, &Batch::default()).is_err());
    check_log_at(&*make(), "t");
    let log = make();
    log.create("t", 1).expect("a new topic");
    let mut records = Batch::default();
    records.push(0, Timestamp(-50), None, b"before all time");
    log.append("t", 0, &records).expect("an append");
    assert_eq!(read_all(&*log, "t", 0, 40)[0].at, Timestamp(-50), "times before 1970 are times");
}

/// The same for a log that is shared: with topics whose names begin with `name`, of which there are none yet.
pub fn check_log_at(log: &dyn Log, name: &str) {
    let topic = |part: &str| format!("{name}-{part}");
    check_topics(log, &topic("topics"));
    check_order(log, &topic("order"));
    check_records(log, &topic("records"));
    check_sizes(log, &topic("sizes"));
}

/// A record as it was read back.
#[derive(Debug, PartialEq)]
struct Got {
    offset: u64,
    at: Timestamp,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// All records of a partition, read about so many bytes at a time.
fn read_all(log: &dyn Log, topic: &str, partition: u32, bytes_max: usize) -> Vec<Got> {
    let (mut from, end) = log.bounds(topic, partition).expect("bounds");
    let mut read = Batch::default();
    while from < end {
        let before = read.len();
        log.read(topic, partition, from, bytes_max, &mut read).expect("a read");
        assert!(read.len() > before, "at least one record of those from {from} to {end}");
        from = read.get(read.len() - 1, SourceId(0), partition).offset + 1;
    }
    let got = read.iter(SourceId(0), partition).map(|record| Got {
        offset: record.offset,
        at: record.appended_at,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.to_vec(),
    });
    got.collect()
}

fn batch(values: impl IntoIterator<Item = String>) -> Batch {
    let mut records = Batch::default();
    for (i, value) in values.into_iter().enumerate() {
        records.push(0, Timestamp(1_000 + i as i64), None, value.as_bytes());
    }
    records
}

/// Topics are created once, with as many partitions as they have; what is not there is an error.
fn check_topics(log: &dyn Log, topic: &str) {
    assert_eq!(log.partitions(topic).expect("a look"), None);
    log.create(topic, 2).expect("a new topic");
    log.create(topic, 2).expect("it exists just so");
    let error = log.create(topic, 3).expect_err("it exists otherwise");
    assert!(error.message().contains(topic), "{error}");
    assert!(log.create(&format!("{topic}-none"), 0).is_err(), "no partitions");
    assert_eq!(log.partitions(topic).expect("a look"), Some(2));
    assert_eq!(log.bounds(topic, 0).expect("bounds"), (0, 0));
    assert!(log.bounds(topic, 2).is_err(), "there are two partitions");
    assert!(log.append(topic, 2, &batch(["a".to_owned()])).is_err(), "there are two partitions");
}

/// Offsets follow one another, also from one batch to the next; partitions are apart.
fn check_order(log: &dyn Log, topic: &str) {
    log.create(topic, 3).expect("a new topic");
    let values = |from: u32| (from..from + 100).map(|i| format!("value {i}"));
    assert_eq!(log.append(topic, 1, &batch(values(0))).expect("an append"), 0);
    assert_eq!(log.append(topic, 1, &batch(values(100))).expect("an append"), 100);
    assert_eq!(log.append(topic, 1, &Batch::default()).expect("nothing"), 200);
    assert_eq!(log.append(topic, 2, &batch(values(7))).expect("an append"), 0, "partitions are apart");
    assert_eq!(log.bounds(topic, 1).expect("bounds"), (0, 200));
    assert_eq!(log.bounds(topic, 0).expect("bounds"), (0, 0), "partitions are apart");
    for (i, got) in read_all(log, topic, 1, 40).into_iter().enumerate() {
        assert_eq!((got.offset, got.value), (i as u64, format!("value {i}").into_bytes()));
    }
    let mut read = batch(["what was there before".to_owned()]);
    log.read(topic, 1, 150, 1, &mut read).expect("a read from the middle");
    assert!(read.len() > 1, "a read appends");
    assert_eq!(read.get(1, SourceId(0), 1).value, b"value 150");
    read.clear();
    log.read(topic, 1, 200, 40, &mut read).expect("at the end there is nothing");
    assert!(read.is_empty());
    assert!(log.read(topic, 1, 201, 40, &mut read).is_err(), "an offset nobody wrote");
}

/// Time, key and value of a record.
type Given<'a> = (i64, Option<&'a [u8]>, &'a [u8]);

/// Keys, times and values come back as they were given.
fn check_records(log: &dyn Log, topic: &str) {
    log.create(topic, 1).expect("a new topic");
    let given: [Given<'_>; 6] = [
        (1_000, Some(b"key"), b"value"),
        (1_000, None, b"no key"),
        (999, Some(b"earlier than the one before"), b"value"),
        (1_001, Some(b"empty value"), b""),
        (1_002, Some(&[0, 0xff, b'\n', 0x80]), &[0xff, 0, 0xc3]),
        (4_102_444_800_000, Some(b"the year 2100"), b"value"),
    ];
    let mut records = Batch::default();
    for (at, key, value) in given {
        records.push(77, Timestamp(at), key, value);
    }
    assert_eq!(log.append(topic, 0, &records).expect("an append"), 0, "offsets are the log's own");
    let expected = given.iter().zip(0..).map(|((at, key, value), offset)| Got {
        offset,
        at: Timestamp(*at),
        key: key.map(<[u8]>::to_vec),
        value: value.to_vec(),
    });
    assert_eq!(read_all(log, topic, 0, 1 << 20), expected.collect::<Vec<_>>());
}

/// A read brings about as many bytes as asked for, and one record at least, however large.
fn check_sizes(log: &dyn Log, topic: &str) {
    const LARGE: usize = 300_000;
    log.create(topic, 1).expect("a new topic");
    log.append(topic, 0, &batch((0..100).map(|_| "0123456789".to_owned()))).expect("an append");
    log.append(topic, 0, &batch(["x".repeat(LARGE), "after it".to_owned()])).expect("an append");
    let mut read = Batch::default();
    log.read(topic, 0, 10, 40, &mut read).expect("a read");
    assert!((1..20).contains(&read.len()), "forty bytes in records of ten: {} came", read.len());
    read.clear();
    log.read(topic, 0, 100, 40, &mut read).expect("a read");
    assert_eq!(read.get(0, SourceId(0), 0).value.len(), LARGE, "larger than what was asked for");
    let lengths: Vec<usize> = read_all(log, topic, 0, 1_000).iter().map(|got| got.value.len()).collect();
    assert_eq!((lengths.len(), lengths[100], lengths[101]), (102, LARGE, 8));
}

/// Checks a store and log in one whose stream 0 goes to topic `out` of 4 partitions: outputs of a commit are in the
/// log exactly when the commit is done, each once, in order.
pub fn check_published<S: Store + Log>(make: impl Fn() -> Arc<S>) {
    let store = make();
    let slot = SlotId(0);
    let owner = acquire(&*store, slot, 7);
    let with_outputs = |n: u64| {
        let mut made = commit(slot, owner, n, &[]);
        for index in 0..50 {
            let (key, id) = (format!("d-{}", index % 7), format!("Window/{n}#{index}"));
            emit(&mut made, 0, index, key.as_bytes(), id.as_bytes(), format!("{n} {index}").as_bytes());
        }
        Script::Commit(Arc::new(made))
    };
    let reply = run_one(&*store, with_outputs(1));
    assert_eq!((reply.verdict, reply.published), (Verdict::Done, Some(CommitNo(1))));
    assert_eq!(run_one(&*store, with_outputs(1)).published, Some(CommitNo(1)), "a resend");
    assert_eq!(run_one(&*store, with_outputs(3)).published, None, "not done, not published");
    assert_eq!(run_one(&*store, with_outputs(2)).published, Some(CommitNo(2)));
    let mut expected: Vec<Vec<(String, String)>> = vec![Vec::new(); 4];
    for (n, index) in [1u32, 2].into_iter().flat_map(|n| (0..50).map(move |index| (n, index))) {
        let key = format!("d-{}", index % 7);
        expected[(positive_murmur2(key.as_bytes()) % 4) as usize].push((key, format!("{n} {index}")));
    }
    for (partition, expected) in (0..4).zip(expected) {
        let mut read = Batch::default();
        store.read("out", partition, 0, usize::MAX, &mut read).expect("a read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got: Vec<(String, String)> = read
            .iter(SourceId(0), partition)
            .map(|record| (text(record.key.expect("outputs carry the routing key")), text(record.value)))
            .collect();
        assert_eq!(got, expected, "partition {partition}");
    }
    let mut unknown = commit(slot, owner, 3, &[]);
    emit(&mut unknown, 9, 0, b"k", b"i", b"v");
    assert!(run(&*store, vec![Script::Commit(Arc::new(unknown))]).is_err(), "a stream without a topic");
    assert_eq!(store.record(slot).expect("a row").n, CommitNo(2));
}
