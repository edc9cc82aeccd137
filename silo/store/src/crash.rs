//! Proof of crash safety: whatever instant the process or the machine stops at, everything acknowledged is there and
//! nothing is there in half.
//!
//! - [`every_prefix_and_torn_write_between_two_syncs`]: the bytes written between two syncs are known exactly (nothing
//!   else is written meanwhile, which is asserted), so every state the disk may hold is built: each prefix, a last
//!   block missing, any one block missing, only one block there.
//! - [`frozen_at_random_instants`]: the working process is stopped in the middle of folds, table writes, compactions
//!   and journal changes; its directory is copied; files still open for writing are torn.
//! - [`killed_at_random_instants`]: the process is killed and the same directory goes on, again and again.
//!
//! Not modelled: a directory entry that is lost although the file's content was synced.
//! `GRANARY_CRASH_ROUNDS` multiplies the work.

mod worker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{Commit, Script, Store, Verdict};
use granary_core::SlotId;
use tempfile::TempDir;

use crate::conformance::{Owner, acquire, commit, emit, load, run, scan};
use crate::{Embedded, Options, Stream, journal};
use worker::{Worker, freeze, is_current};

const SLOTS: u16 = 2;
const PARTITIONS: u32 = 3;
/// Cells a slot keeps: older ones are deleted.
const KEPT: u64 = 5;
const OUTPUTS: u64 = 3;

fn rounds() -> u64 {
    std::env::var("GRANARY_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// In memory where there is such a directory: each image is opened, which syncs.
fn test_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

fn options() -> Options {
    Options::new(SLOTS).streams([Stream::new("out", PARTITIONS)])
}

/// With memory for everything: only the journal is written.
fn roomy(dir: &Path) -> Arc<Embedded> {
    Embedded::open(dir, options()).unwrap()
}

/// With hardly any memory: folds, tables and compactions all the time.
fn cramped(dir: &Path) -> Arc<Embedded> {
    let options = Options { log_bytes_max: 256 << 10, ..options().recent_bytes_max(900) };
    Embedded::open(dir, options).unwrap()
}

/// Bytes that do not compress, the same for the same output.
fn padding(seed: u64, bytes: usize) -> Vec<u8> {
    let mut draw = Draw(seed);
    (0..bytes).map(|_| draw.below(256) as u8).collect()
}

/// Commit n of a slot: everything in it says n. Its first output carries `pad` more bytes.
fn numbered(slot: u16, owner: Owner, n: u64, pad: usize) -> Commit {
    let new = format!("c/{n:08}");
    let old = format!("c/{:08}", n.saturating_sub(KEPT));
    let text = n.to_string();
    let cells: &[(&[u8], Option<&[u8]>)] =
        &[(b"n", Some(text.as_bytes())), (new.as_bytes(), Some(text.as_bytes())), (old.as_bytes(), None)];
    let mut made = commit(SlotId(slot), owner, n, cells);
    for index in 0..OUTPUTS {
        let (key, id) = (format!("d-{index}"), format!("{slot} {n} {index}"));
        let mut value = format!("{text} ").into_bytes();
        value.extend(padding(n, if index == 0 { pad } else { 0 }));
        emit(&mut made, 0, index as u32, key.as_bytes(), id.as_bytes(), &value);
    }
    made
}

/// Everything in the store says the same number for a slot, between `least` and `most`. Returns the numbers.
fn check(store: &Embedded, least: &[u64], most: &[u64]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut outputs: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        store
            .read_with_ids("out", partition, 0, |_, entry| {
                let id = std::str::from_utf8(entry.id.unwrap()).unwrap();
                let id: Vec<u64> = id.split(' ').map(|n| n.parse().unwrap()).collect();
                let pad = entry.value.strip_prefix(format!("{} ", id[1]).as_bytes()).unwrap();
                assert_eq!(pad, padding(id[1], pad.len()));
                outputs.entry((id[0], id[2])).or_default().push(id[1]);
                true
            })
            .unwrap();
    }
    for slot in 0..SLOTS {
        let at = usize::from(slot);
        let row = store.record(SlotId(slot)).unwrap();
        let n = row.n.0;
        assert!((least[at]..=most[at]).contains(&n), "slot {slot}: {least:?} <= {n} <= {most:?}");
        let positions: Vec<u64> = row.positions.iter().map(|p| p.offset).collect();
        assert_eq!(positions, if n > 0 { vec![n] } else { vec![] });
        let text = (n > 0).then(|| n.to_string().into_bytes());
        assert_eq!(load(store, SlotId(slot), b"n"), text, "slot {slot} at {n}");
        let cells: Vec<Vec<u8>> =
            scan(store, SlotId(slot), b"c/", None, usize::MAX).into_iter().map(|(cell, _)| cell).collect();
        let kept: Vec<Vec<u8>> =
            (n.saturating_sub(KEPT) + 1..=n).map(|i| format!("c/{i:08}").into_bytes()).collect();
        assert_eq!(cells, kept, "slot {slot} at {n}");
        for index in 0..OUTPUTS {
            let published = outputs.remove(&(u64::from(slot), index)).unwrap_or_default();
            assert_eq!(published, (1..=n).collect::<Vec<_>>(), "slot {slot} at {n}: each output once");
        }
        numbers.push(n);
    }
    assert!(outputs.is_empty());
    numbers
}

/// Copies a directory. Zeros at the end of a journal are left out: the engine sets them aside in advance.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if target.extension().is_some_and(|e| e == "jnl") {
            let bytes = fs::read(entry.path()).unwrap();
            fs::write(&target, &bytes[..journal::used_bytes(&bytes)]).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// All files but the newest journal, with their contents.
fn others(dir: &Path, but: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            others(&path, but, found);
        } else if path != but {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

/// A small generator: the tests draw from a seed they print.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// What the disk may hold of the bytes from `synced` to the end of `written`, none of them synced.
fn torn(written: &[u8], synced: usize, every: usize) -> Vec<Vec<u8>> {
    const BLOCK: usize = 64; // smaller than a disk's, so that small commits have many
    let mut images = Vec::new();
    for end in
        (synced..=written.len()).filter(|end| (end - synced).is_multiple_of(every) || *end == written.len())
    {
        images.push(written[..end].to_vec());
        let mut last_gone = written[..end].to_vec();
        last_gone[synced.max(end.saturating_sub(BLOCK))..].fill(0);
        images.push(last_gone);
    }
    for start in (synced..written.len()).step_by(BLOCK) {
        let block = start..written.len().min(start + BLOCK);
        let mut hole = written.to_vec();
        hole[block.clone()].fill(0);
        images.push(hole);
        let mut alone = written.to_vec();
        alone[synced..].fill(0);
        alone[block.clone()].copy_from_slice(&written[block]);
        images.push(alone);
    }
    images
}

#[test]
fn every_prefix_and_torn_write_between_two_syncs() {
    let dir = test_dir();
    let live = dir.path().join("live");
    let store = roomy(&live);
    let owners: Vec<Owner> = (0..SLOTS).map(|slot| acquire(&*store, SlotId(slot), 1)).collect();
    let journal = journal::newest(&live.join("engine")).unwrap().unwrap();
    let used = || {
        let bytes = fs::read(&journal).unwrap();
        bytes[..journal::used_bytes(&bytes)].to_vec()
    };
    let mut unchanged = BTreeMap::new();
    others(&live, &journal, &mut unchanged);
    let (base, image) = (dir.path().join("base"), dir.path().join("image"));
    copy(&live, &base);
    let mut images = 0;
    for n in 1..=8 {
        let synced = used();
        // Both slots in one batch, as two lanes' commits are written together.
        let scripts = (0..SLOTS)
            .map(|slot| Script::Commit(Arc::new(numbered(slot, owners[usize::from(slot)], n, 0))))
            .collect();
        let replies = run(&*store, scripts).unwrap();
        assert!(replies.iter().all(|reply| reply.verdict == Verdict::Done));
        let written = used();
        assert!(written.starts_with(&synced) && written.len() > synced.len(), "a journal is appended to");
        let mut now = BTreeMap::new();
        others(&live, &journal, &mut now);
        assert!(now == unchanged, "only the journal was written between the two syncs");
        // Every byte for one commit in the middle, about forty cuts for the others.
        let every = if n == 6 || rounds() > 1 { 1 } else { (written.len() - synced.len()) / 40 };
        for (i, bytes) in torn(&written, synced.len(), every).into_iter().enumerate() {
            if image.exists() {
                fs::remove_dir_all(&image).unwrap();
            }
            copy(&base, &image);
            let torn_journal = image.join(journal.strip_prefix(&live).unwrap());
            fs::write(&torn_journal, &bytes).unwrap();
            if i % 64 == 0 {
                // As it is while the space set aside is still there.
                File::options().write(true).open(&torn_journal).unwrap().set_len(64 << 20).unwrap();
            }
            let reopened = roomy(&image);
            let numbers = check(&reopened, &[n - 1; 2], &[n; 2]);
            assert_eq!(numbers[0], numbers[1], "one batch");
            if bytes == written {
                assert_eq!(numbers[0], n, "it was acknowledged");
            }
            // And it goes on from there.
            let owner = acquire(&*reopened, SlotId(0), 9);
            let next = numbered(0, owner, numbers[0] + 1, 0);
            run(&*reopened, vec![Script::Commit(Arc::new(next))]).unwrap();
            drop(reopened);
            if i % 8 == 0 {
                let next = numbers[0] + 1;
                check(&roomy(&image), &[next, next - 1], &[next, next - 1]);
            }
            images += 1;
        }
    }
    println!("{images} images");
}

#[test]
fn damage_before_acknowledged_commits_is_refused_not_cut() {
    let dir = test_dir();
    let store = roomy(dir.path());
    let owner = acquire(&*store, SlotId(0), 1);
    let journal = journal::newest(&dir.path().join("engine")).unwrap().unwrap();
    for n in 1..=3 {
        run(&*store, vec![Script::Commit(Arc::new(numbered(0, owner, n, 0)))]).unwrap();
    }
    let bytes = fs::read(&journal).unwrap();
    drop(store);
    let mut damaged = bytes[..journal::used_bytes(&bytes)].to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    let error = Embedded::open(dir.path(), options()).err().unwrap();
    assert!(error.message().contains("damaged at byte"), "{error}");
    assert_eq!(fs::read(&journal).unwrap(), damaged, "nothing was touched");
}

/// The working process: commits as fast as it can and says what was acknowledged. Does nothing when not asked to.
#[test]
fn working_process() {
    let Ok(dir) = std::env::var("GRANARY_CRASH_DIR") else { return };
    let store = cramped(Path::new(&dir));
    let me = store.record(SlotId(0)).unwrap().owner.0 + 1;
    let mut next: Vec<(Owner, u64)> = (0..SLOTS)
        .map(|slot| (acquire(&*store, SlotId(slot), me), store.record(SlotId(slot)).unwrap().n.0))
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(out).unwrap(); // the test runner has written half a line
    for turn in 0u64.. {
        let slot = (turn % u64::from(SLOTS)) as u16;
        let (owner, n) = &mut next[usize::from(slot)];
        *n += 1;
        // Some large enough for value files of their own, and to fill journals.
        let pad = if *n % 8 == 0 { 200_000 } else { 0 };
        let made = numbered(slot, *owner, *n, pad);
        let replies = run(&*store, vec![Script::Commit(Arc::new(made))]).unwrap();
        assert_eq!(replies[0].verdict, Verdict::Done);
        writeln!(out, "ack {slot} {n}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn killed_at_random_instants() {
    let dir = test_dir();
    let live = dir.path().join("live");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut draw = Draw(seed);
    let mut acked = [0; SLOTS as usize];
    let mut between = 0;
    for round in 0..20 * rounds() {
        let before = acked;
        let worker = Worker::start(&live);
        if round % 4 > 0 {
            worker.commits(&mut acked);
        } // else it may be killed while it opens
        std::thread::sleep(Duration::from_millis(draw.below(150)));
        worker.die(&mut acked);
        between += u64::from(acked != before);
        let numbers = check(&cramped(&live), &acked, &acked.map(|n| n + 1));
        acked.copy_from_slice(&numbers);
    }
    assert!(between >= 10 * rounds(), "{between} kills came between commits");
    println!("{acked:?} commits, {between} kills between commits");
}

#[test]
#[cfg(target_os = "linux")]
fn frozen_at_random_instants() {
    // On a disk, where tables take their time to be synced.
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut draw = Draw(seed);
    let mut acked = [0; SLOTS as usize];
    let worker = Worker::start(&live);
    worker.commits(&mut acked);
    let (mut tables, mut journals) = (0, 0);
    for round in 0..40 * rounds() {
        let writing = freeze(&worker, &live, &mut draw);
        // The reading thread may still hold lines: then fewer count as acknowledged, which only asks less.
        worker.heard(&mut acked);
        let image = dir.path().join(format!("image-{round}"));
        copy(&live, &image);
        for file in writing.iter().filter_map(|file| file.strip_prefix(&live).ok()) {
            let file = image.join(file);
            if is_current(&file) {
                continue;
            }
            let journal = file.extension().is_some_and(|e| e == "jnl");
            let bytes = fs::read(&file).unwrap();
            let synced = if journal { journal::whole_batches_end(&bytes) } else { 0 };
            let end = synced + draw.below((bytes.len() - synced) as u64 + 1) as usize;
            if end < bytes.len() {
                tables += u64::from(!journal);
                journals += u64::from(journal);
                fs::write(&file, &bytes[..end]).unwrap();
            }
        }
        check(&cramped(&image), &acked, &[u64::MAX; SLOTS as usize]);
        fs::remove_dir_all(&image).unwrap();
        worker.signal("-CONT");
    }
    println!("{acked:?} commits, {journals} journals and {tables} other files torn");
    assert!(tables > 0, "some were stopped while writing a table");
}
