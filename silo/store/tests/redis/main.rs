//! The store on a real Redis server: the port's promises, the rules, the faults.

mod faults;
mod members;
mod opening;
mod proxy;
mod replicas;
mod rules;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use granary_cluster::{Commit, Reply, Script, Store, Verdict};
use granary_core::{Error, Result, SlotId};
use granary_store::conformance::{acquire, check_store, commit, emit, load, run, run_one, scan};
use granary_store::{Durability, Redis, RedisOptions};
use server::Server;

/// Longer than any reconnect of these tests.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// A store of so many slots of a new cluster on this server.
fn new_store(server: &Server, slots: u16) -> Arc<Redis> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let cluster = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    open(RedisOptions::new(server.url(), cluster, slots))
}

fn open(options: RedisOptions) -> Arc<Redis> {
    Redis::open(options).unwrap_or_else(|error| panic!("{error}"))
}

/// Sends the same until the server answers, as the engine does.
fn resend(store: &Redis, script: &Script) -> Reply {
    let answered = until(|| run(store, vec![script.clone()]).ok());
    answered.into_iter().next().expect("one reply for one script")
}

/// Tries until there is something.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed() < AGAIN_MAX, "nothing came of it");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn script(commit: Commit) -> Script {
    Script::Commit(Arc::new(commit))
}

fn done(store: &Redis, commit: Commit) {
    assert_eq!(run_one(store, script(commit)).verdict, Verdict::Done);
}

/// The error of what must not succeed.
fn refused<T>(result: Result<T>) -> Error {
    result.err().expect("it is refused")
}

#[test]
fn the_store_on_redis_keeps_the_ports_promises() {
    let server = Server::start(&[]);
    check_store(|| new_store(&server, 2));
    let options = RedisOptions::new(server.url(), "one-connection", 2).connections(1);
    let store = open(options.durability(Durability::Everysec));
    let error = refused(store.record(SlotId(2)));
    assert!(error.message().contains("slot 2 does not exist"), "{error}");
    let owner = acquire(&*store, SlotId(0), 1);
    assert!(run(&*store, vec![script(commit(SlotId(7), owner, 1, &[]))]).is_err());
}

/// More cells than one command of a script takes, deletions among them, and the last word on each cell holds.
#[test]
fn a_commit_of_many_cells_is_one_step() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let slot = SlotId(0);
    let owner = acquire(&*store, slot, 1);
    let name = |i: u32| format!("w/{i:06}").into_bytes();
    let (names, value): (Vec<Vec<u8>>, [u8; 40]) = ((0..20_000).map(name).collect(), [7; 40]);
    let cells: Vec<(&[u8], Option<&[u8]>)> = names.iter().map(|n| (n.as_slice(), Some(&value[..]))).collect();
    done(&store, commit(slot, owner, 1, &cells));
    assert_eq!(scan(&*store, slot, b"w/", None, usize::MAX).len(), 20_000);
    let mut second: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        second.push((name, None));
        if i % 2 == 0 {
            second.push((name, Some(b"again")));
        }
    }
    second.push((&names[0], None));
    done(&store, commit(slot, owner, 2, &second));
    let left = scan(&*store, slot, b"w/", None, usize::MAX);
    assert_eq!(left.len(), 9_999);
    assert!(left.is_sorted() && left.iter().all(|(_, value)| value == b"again"));
}

#[test]
fn many_cells_are_loaded_in_the_order_they_were_asked_for() {
    let server = Server::start(&[]);
    let store = new_store(&server, 3);
    for slot in 0..2 {
        let owner = acquire(&*store, SlotId(slot), 1);
        let value = [slot as u8; 3];
        done(
            &store,
            commit(
                SlotId(slot),
                owner,
                1,
                &[(b"g/a", Some(&value)), (b"a", Some(b"")), (b"p/b", Some(b"b"))],
            ),
        );
    }
    let asked: Vec<(SlotId, Vec<u8>)> = (0..9_000u32)
        .map(|i| (SlotId((i % 3) as u16), [&b"g/a"[..], b"nothing", b"a", b"p/b"][i as usize % 4].to_vec()))
        .collect();
    let mut next = 0;
    let each = &mut |i: usize, value: Option<&[u8]>| {
        assert_eq!(i, next, "in order");
        next += 1;
        let mut alone = Vec::new();
        let (slot, cell) = &asked[i];
        let expected: Option<&[u8]> = match (slot.0, cell.as_slice()) {
            (2, _) | (_, b"nothing") => None,
            (_, b"a") => Some(b""),
            (_, b"p/b") => Some(b"b"),
            (slot, _) => {
                alone.extend([slot as u8; 3]);
                Some(&alone)
            }
        };
        assert_eq!(value, expected, "{slot} {cell:?}");
    };
    store.load_many(&asked, each).unwrap();
    assert_eq!(next, 9_000);
}

#[test]
fn the_outbox_is_kept_until_it_is_trimmed() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let slot = SlotId(0);
    let owner = acquire(&*store, slot, 1);
    let made = |n: u64, trim: u64| {
        let mut made = commit(slot, owner, n, &[]);
        made.trim = granary_cluster::CommitNo(trim);
        if n != 3 {
            emit(&mut made, 2, 0, b"key", format!("id {n}").as_bytes(), b"value");
        }
        made
    };
    let kept = || store.outbox(slot).unwrap().into_iter().map(|(n, _)| n.0).collect::<Vec<u64>>();
    for n in 1..=4 {
        done(&store, made(n, 0));
    }
    assert_eq!(kept(), [1, 2, 4], "a commit without outputs leaves nothing");
    let (n, outputs) = store.outbox(slot).unwrap().remove(1);
    assert_eq!((n.0, &*outputs), (2, &made(2, 0).outbox));
    done(&store, made(5, 1));
    assert_eq!(kept(), [2, 4, 5]);
    let (me, epoch, run) = (owner.me, owner.epoch, owner.run);
    let covered = granary_cluster::CommitNo(4);
    let to = granary_cluster::Incarnation(9);
    let give = |covered| Script::Give { slot, me, txid: owner.txid, epoch, run, to, covered };
    assert_eq!(run_one(&*store, give(covered)).verdict, Verdict::Fenced, "5 is not published");
    assert_eq!(kept(), [2, 4, 5], "what is fenced changes nothing");
    assert_eq!(run_one(&*store, Script::Trim { slot, me, epoch, run, covered }).verdict, Verdict::Done);
    assert_eq!(kept(), [5]);
    assert_eq!(run_one(&*store, give(granary_cluster::CommitNo(5))).verdict, Verdict::Done);
    assert_eq!(kept(), [0; 0]);
    assert_eq!(load(&*store, slot, b"a"), None);
}
