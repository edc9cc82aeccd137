//! What every log must do, and every store that publishes into one.

use std::sync::Arc;

use granary_cluster::{Batch, CommitNo, Log, Script, SourceId, Store, Verdict};
use granary_core::{SlotId, Timestamp, id::positive_murmur2};

use super::{acquire, commit, emit, run, run_one};

/// Checks everything a log promises.
pub fn check_log<L: Log>(make: impl Fn() -> Arc<L>) {
    let log = make();
    assert_eq!(log.partitions("t").expect("a look"), None);
    assert!(log.bounds("t", 0).is_err() && log.append("t", 0, &Batch::default()).is_err());
    log.create("t", 2).expect("a new topic");
    log.create("t", 2).expect("it exists just so");
    assert!(log.create("t", 3).is_err(), "it exists otherwise");
    assert!(log.create("u", 0).is_err(), "no partitions");
    assert_eq!(log.partitions("t").expect("a look"), Some(2));
    assert!(log.bounds("t", 2).is_err());

    let mut records = Batch::default();
    for i in 0..100u32 {
        let key = format!("k{i}");
        let key = (i % 3 > 0).then_some(key.as_bytes());
        records.push(0, Timestamp(i64::from(i) - 50), key, format!("value {i}").as_bytes());
    }
    assert_eq!(log.append("t", 1, &records).expect("an append"), 0);
    assert_eq!(log.append("t", 1, &records).expect("an append"), 100);
    assert_eq!(log.append("t", 1, &Batch::default()).expect("nothing"), 200);
    assert_eq!(log.bounds("t", 1).expect("bounds"), (0, 200));
    assert_eq!(log.bounds("t", 0).expect("bounds"), (0, 0), "partitions are apart");

    let mut from = 0;
    let mut read = Batch::default();
    while from < 200 {
        let before = read.len();
        log.read("t", 1, from, 40, &mut read).expect("a read");
        assert!(read.len() > before, "at least one record");
        assert!(read.len() - before < 20, "about as many bytes as asked");
        from = read.get(read.len() - 1, SourceId(0), 1).offset + 1;
    }
    assert_eq!(read.len(), 200);
    for (i, got) in read.iter(SourceId(0), 1).enumerate() {
        let sent = records.get(i % 100, SourceId(0), 1);
        assert_eq!(got.offset, i as u64);
        assert_eq!((got.appended_at, got.key, got.value), (sent.appended_at, sent.key, sent.value));
    }
    read.clear();
    log.read("t", 1, 200, 40, &mut read).expect("at the end there is nothing");
    assert!(read.is_empty());
    assert!(log.read("t", 1, 201, 40, &mut read).is_err(), "an offset nobody wrote");
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
