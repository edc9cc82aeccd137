//! Both adapters keep the promises of the ports; the embedded one also across closing and opening.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use granary_cluster::{Batch, Log, Script, Store, Verdict};
use granary_core::{SlotId, Timestamp};
use granary_store::conformance::{
    acquire, check_log, check_published, check_store, commit, emit, load, run_one, scan,
};
use granary_store::{Durability, Embedded, Export, Memory, Options, Stream};
use tempfile::TempDir;

fn out() -> [Stream; 1] {
    [Stream::new("out", 4)]
}

fn embedded(dir: &TempDir, options: Options) -> Arc<Embedded> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    Embedded::open(dir.path().join(name), options.streams(out())).expect("a fresh directory opens")
}

fn test_dir() -> TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

#[test]
fn the_store_in_memory_keeps_the_ports_promises() {
    check_store(|| Memory::new(2, out()));
    check_log(|| Memory::new(2, out()));
    check_published(|| Memory::new(2, out()));
}

#[test]
fn the_embedded_store_keeps_the_ports_promises() {
    let dir = test_dir();
    for durability in [Durability::Fsync, Durability::Everysec, Durability::None] {
        let make = || embedded(&dir, Options::new(2).durability(durability));
        check_store(make);
        check_log(make);
        check_published(make);
    }
}

/// With almost no memory every commit is folded into tables: the same promises.
#[test]
fn the_embedded_store_keeps_them_when_every_cell_is_folded_at_once() {
    let dir = test_dir();
    check_store(|| embedded(&dir, Options::new(2).recent_bytes_max(2)));
}

#[test]
fn everything_is_there_after_closing_and_opening() {
    let dir = test_dir();
    let open = |memory| {
        let options = Options::new(4).streams(out()).recent_bytes_max(memory);
        Embedded::open(dir.path().join("s"), options).unwrap()
    };
    let slot = SlotId(3);
    let mut n = 0;
    // Folding at once, at times, never: cells move between memory and tables across openings.
    for (round, memory) in [1 << 20, 1_000, 2, 1 << 20, 1_200].into_iter().enumerate() {
        let store = open(memory);
        let owner = acquire(&*store, slot, round as u64 + 1);
        for _ in 0..20 {
            n += 1;
            let (new, old) = (format!("c/{n:04}"), format!("c/{:04}", n - 7.min(n)));
            let mut made = commit(
                slot,
                owner,
                n,
                &[(new.as_bytes(), Some(new.as_bytes())), (old.as_bytes(), None), (b"n", Some(&[n as u8]))],
            );
            emit(&mut made, 0, 0, b"d", new.as_bytes(), new.as_bytes());
            assert_eq!(run_one(&*store, Script::Commit(Arc::new(made))).verdict, Verdict::Done);
        }
        drop(store);
        let store = open(memory);
        assert_eq!(store.record(slot).unwrap().n.0, n);
        assert_eq!(load(&*store, slot, b"n"), Some(vec![n as u8]));
        let kept: Vec<Vec<u8>> =
            scan(&*store, slot, b"c/", None, usize::MAX).into_iter().map(|(cell, _)| cell).collect();
        let expected: Vec<Vec<u8>> = (n - 6..=n).map(|i| format!("c/{i:04}").into_bytes()).collect();
        assert_eq!(kept, expected, "round {round}");
        let partition = (0..4).find(|p| store.bounds("out", *p).unwrap().1 > 0).unwrap();
        let mut ids = Vec::new();
        let end = store
            .read_with_ids("out", partition, 0, |_, entry| {
                assert_eq!(entry.time, Some(Timestamp(1_000)));
                ids.push(String::from_utf8(entry.id.unwrap().to_vec()).unwrap());
                true
            })
            .unwrap();
        assert_eq!((end, ids.len() as u64), (n, n));
        assert!(ids.is_sorted());
    }
}

#[test]
fn a_second_opening_is_refused_and_names_the_process() {
    let dir = test_dir();
    let store = Embedded::open(dir.path(), Options::new(2)).unwrap();
    let error = Embedded::open(dir.path(), Options::new(2)).err().unwrap();
    assert!(error.message().contains(&format!("pid {}", std::process::id())), "{error}");
    drop(store);
    let error = Embedded::open(dir.path(), Options::new(3)).err().unwrap();
    assert!(error.message().contains("created with 2 slots"), "{error}");
    let other = Options::new(2).streams([Stream::new("out", 4), Stream::new("out", 5)]);
    assert!(Embedded::open(dir.path(), other).err().unwrap().message().contains("4 partitions"));
    std::fs::write(dir.path().join("format"), "granary-store 9\n").unwrap();
    let error = Embedded::open(dir.path(), Options::new(2)).err().unwrap();
    assert!(error.message().contains("granary-store 9"), "{error}");
}

#[test]
fn retention_drops_whole_batches_and_says_what_is_left() {
    let dir = test_dir();
    let store = embedded(&dir, Options::new(2));
    store.create("t", 1).unwrap();
    for i in 0..10 {
        let mut batch = Batch::default();
        for _ in 0..10 {
            batch.push(0, Timestamp(i * 100), None, &[i as u8; 100]);
        }
        store.append("t", 0, &batch).unwrap();
    }
    assert_eq!(store.retain("t", None, Some(Timestamp(300))).unwrap(), 3);
    assert_eq!(store.bounds("t", 0).unwrap(), (30, 100));
    let error = store.read("t", 0, 7, 1, &mut Batch::default()).unwrap_err();
    assert!(error.message().contains("offset 7 ") && error.message().contains("offset is 30"), "{error}");
    assert_eq!(store.retain("t", Some(1 << 20), None).unwrap(), 0);
    assert_eq!(store.retain("t", Some(0), None).unwrap(), 7);
    assert_eq!(store.bounds("t", 0).unwrap(), (100, 100));
    let mut batch = Batch::default();
    store.read("t", 0, 100, 1, &mut batch).unwrap();
    assert!(batch.is_empty());
    batch.push(0, Timestamp(0), None, b"x");
    assert_eq!(store.append("t", 0, &batch).unwrap(), 100, "offsets are never used again");
}

#[test]
fn a_watcher_is_woken_after_each_append_until_it_is_dropped() {
    let dir = test_dir();
    let store = embedded(&dir, Options::new(2));
    let (tell, told) = std::sync::mpsc::channel();
    let watch = store.subscribe("out", Box::new(move || tell.send(()).unwrap()));
    let owner = acquire(&*store, SlotId(0), 1);
    let mut made = commit(SlotId(0), owner, 1, &[]);
    emit(&mut made, 0, 0, b"d", b"i", b"v");
    run_one(&*store, Script::Commit(Arc::new(made)));
    told.recv().unwrap();
    let mut batch = Batch::default();
    batch.push(0, Timestamp(0), None, b"x");
    store.append("out", 0, &batch).unwrap();
    told.recv().unwrap();
    drop(watch);
    store.append("out", 0, &batch).unwrap();
    assert!(told.recv().is_err(), "the watcher is gone");
}

#[test]
fn an_export_takes_up_where_it_was_noted() {
    let dir = test_dir();
    let open =
        || Embedded::open(dir.path().join("s"), Options::new(2).streams([Stream::new("t", 2)])).unwrap();
    let store = open();
    let append = |store: &Embedded, line: &str| {
        let mut batch = Batch::default();
        batch.push(0, Timestamp(0), None, line.as_bytes());
        store.append("t", 1, &batch).unwrap();
    };
    append(&store, "one");
    append(&store, "two");
    let mut export = Export::open(&store, "t", dir.path(), "sink").unwrap();
    assert_eq!((export.catch_up().unwrap(), export.catch_up().unwrap()), (2, 0));
    let path = export.path().to_owned();
    drop((export, store));
    // A step that was written but not noted.
    std::fs::write(&path, "one\ntwo\nthree\nfo").unwrap();
    let store = open();
    append(&store, "three");
    let mut export = Export::open(&store, "t", dir.path(), "sink").unwrap();
    assert_eq!(export.catch_up().unwrap(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    assert_eq!(export.file_bytes(), 14);
    drop(export);
    std::fs::write(&path, "one\n").unwrap();
    assert!(Export::open(&store, "t", dir.path(), "sink").err().unwrap().message().contains("4 bytes"));
}

#[test]
fn an_answer_may_drop_the_store() {
    let dir = test_dir();
    let store = Embedded::open(dir.path(), Options::new(2)).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let owner = acquire(&*store, SlotId(0), 1);
    let (go, gone) = std::sync::mpsc::channel();
    let held = Arc::clone(&store);
    let script = Script::Commit(Arc::new(commit(SlotId(0), owner, 1, &[(b"a", Some(b"1"))])));
    let done = move |replies: granary_core::Result<Vec<_>>| {
        gone.recv().unwrap();
        drop(held);
        tell.send(replies.is_ok()).unwrap();
    };
    store.submit(vec![script], Box::new(done));
    drop(store);
    go.send(()).unwrap();
    assert!(told.recv().unwrap());
    let store = Embedded::open(dir.path(), Options::new(2)).unwrap();
    assert_eq!(load(&*store, SlotId(0), b"a"), Some(b"1".to_vec()));
}
