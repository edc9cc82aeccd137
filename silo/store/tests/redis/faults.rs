//! What goes wrong with a server, and that nothing acknowledged is lost and no reply is a lie.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use granary_cluster::{CommitNo, Epoch, Incarnation, Script, Store, Verdict};
use granary_core::{ErrorKind, Ran, SlotId};
use granary_store::RedisOptions;
use granary_store::conformance::{Owner, acquire, commit, emit, load, run, run_one, scan};

use super::proxy::Proxy;
use super::server::copy;
use super::{Server, done, new_store, open, refused, resend, script, until};

const SLOT: SlotId = SlotId(0);

#[test]
fn a_killed_server_loses_nothing_and_is_another_run() {
    let mut server = Server::start(&[]);
    let store = new_store(&server, 1);
    let (tell, told) = channel();
    store.on_run(Box::new(move |run| tell.send(run).unwrap_or_default()));
    let mut owner = acquire(&*store, SLOT, 1);
    for n in 1..=5u64 {
        let name = format!("w/{n}");
        done(&store, commit(SLOT, owner, n, &[(name.as_bytes(), Some(b"kept"))]));
        let next = script(commit(SLOT, owner, n + 1, &[(b"w/next", Some(b"x"))]));
        server.kill();
        let asked = Instant::now();
        let error = refused(run(&*store, vec![next.clone()]));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains(&server.port.to_string()), "{error}");
        for _ in 0..20 {
            let error = refused(store.load(SLOT, b"w/1", &mut Vec::new()));
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        // a server that is not there is no server that is waited for: 21 times the time of one reply
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        server.run();
        assert_eq!(resend(&store, &next).verdict, Verdict::Fenced, "another run takes nothing of before");
        assert_ne!(store.run(), owner.run);
        assert!(until(|| told.try_recv().ok().filter(|run| *run == store.run())) != owner.run);
        // the connection that reads may still be on its way back
        let read = || Some(refused(store.load(SLOT, b"w/1", &mut Vec::new())).kind());
        assert_eq!(until(|| read().filter(|kind| *kind != ErrorKind::Unavailable)), ErrorKind::Fenced);
        let row = store.record(SLOT).unwrap();
        assert_eq!((row.n, row.run), (CommitNo(n), owner.run));
        owner = acquire(&*store, SLOT, n + 1);
        assert!(store.record(SLOT).unwrap().txids.everyone, "another run: everyone is fenced");
        assert_eq!(scan(&*store, SLOT, b"w/", None, 99).len() as u64, n);
    }
}

#[test]
fn a_lost_reply_is_unknown_and_the_same_bytes_are_done_once() {
    let server = Server::start(&[]);
    let wire = Proxy::start(server.port);
    let mut options = RedisOptions::new(format!("redis://127.0.0.1:{}", wire.port), "wire", 1);
    options.connections = 1;
    let store = open(options);
    let owner = acquire(&*store, SLOT, 1);
    for n in 1..=20 {
        let mut made = commit(SLOT, owner, n, &[(b"a", Some(&n.to_be_bytes()))]);
        emit(&mut made, 0, 0, b"key", &n.to_be_bytes(), b"value");
        let sent = script(made);
        wire.lose_next_answer();
        let error = refused(run(&*store, vec![sent.clone()]));
        assert!(wire.has_lost());
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::Unknown)), "{error}");
        assert_eq!(until(|| store.record(SLOT).ok()).n.0, n, "it had arrived");
        assert_eq!(resend(&store, &sent).verdict, Verdict::Done);
        assert_eq!(run_one(&*store, sent).verdict, Verdict::Done);
        let row = until(|| store.record(SLOT).ok());
        assert_eq!((row.n.0, row.run), (n, store.run()), "a lost connection is no other run");
        assert_eq!(store.outbox(SLOT).unwrap().len() as u64, n, "its outputs are there once");
    }
    let epoch = Epoch(owner.epoch.0 + 1);
    let next = Owner { me: Incarnation(owner.me.0 + 1), epoch, ..owner };
    wire.lose_next_answer();
    let expected = (owner.me, owner.epoch);
    let take = granary_store::conformance::acquire_script(SLOT, next, expected);
    assert!(run(&*store, vec![take.clone()]).is_err());
    let reply = resend(&store, &take);
    assert_eq!((reply.verdict, reply.record.unwrap().tries), (Verdict::Done, 1), "taken once");
}

#[test]
fn a_server_without_memory_takes_the_same_commit_later() {
    let server = Server::start(&["--maxmemory", "6mb"]);
    let store = new_store(&server, 2);
    let owner = acquire(&*store, SLOT, 1);
    let value = vec![1; 100_000];
    let made = |n: u64| {
        script(commit(SLOT, owner, n, &[(&n.to_be_bytes(), Some(&value)), (b"n", Some(&[n as u8]))]))
    };
    let (full, error) = (1..200)
        .find_map(|n| run(&*store, vec![made(n)]).err().map(|error| (n, error)))
        .expect("6 MB hold no 20 MB");
    assert!(full > 1 && error.message().contains("raise its maxmemory"), "{full} {error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for _ in 0..3 {
        assert!(run(&*store, vec![made(full)]).is_err());
        assert_eq!(store.record(SLOT).unwrap().n.0, full - 1, "nothing of it is stored");
        assert_eq!(load(&*store, SLOT, b"n"), Some(vec![(full - 1) as u8]), "reads go on");
        assert_eq!(load(&*store, SLOT, &full.to_be_bytes()), None);
    }
    server.must(&["CONFIG", "SET", "maxmemory", "64mb"]);
    assert_eq!(run_one(&*store, made(full)).verdict, Verdict::Done, "on the same connection");
    assert_eq!(store.record(SLOT).unwrap().n.0, full);
}

#[test]
fn a_server_restored_from_an_older_copy_is_another_run() {
    let mut server = Server::start(&[]);
    let kept = tempfile::tempdir().unwrap();
    let store = new_store(&server, 1);
    let owner = acquire(&*store, SLOT, 1);
    let first = store.incarnate().unwrap();
    done(&store, commit(SLOT, owner, 1, &[(b"a", Some(b"1"))]));
    copy(&server.data(), kept.path());
    done(&store, commit(SLOT, owner, 2, &[(b"a", Some(b"2"))]));
    let second = store.incarnate().unwrap();
    assert_eq!((first, second), (Incarnation(1), Incarnation(2)));
    let third = script(commit(SLOT, owner, 3, &[(b"a", Some(b"3"))]));
    server.kill();
    copy(kept.path(), &server.data());
    server.run();
    assert_eq!(resend(&store, &third).verdict, Verdict::Fenced);
    assert_eq!(until(|| store.record(SLOT).ok()).n, CommitNo(1), "commit 2 is lost");
    let again = acquire(&*store, SLOT, 2);
    let row = store.record(SLOT).unwrap();
    assert!(row.txids.everyone && row.txids.ids == [owner.txid, again.txid], "{row:?}");
    assert_eq!(load(&*store, SLOT, b"a"), Some(b"1".to_vec()));
    assert_eq!(run_one(&*store, third).verdict, Verdict::Fenced, "a late commit of before");
    done(&store, commit(SLOT, again, 2, &[]));
    assert!(!store.record(SLOT).unwrap().txids.everyone);
    let third = store.incarnate().unwrap();
    assert!(third > second, "an incarnation that was lost is not given again: {third}");
    assert_eq!(store.incarnate().unwrap().0, third.0 + 1);
}

#[test]
fn a_server_that_forgot_the_script_gets_it_again() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let owner = acquire(&*store, SLOT, 1);
    for n in 1..=3 {
        server.must(&["SCRIPT", "FLUSH"]);
        done(&store, commit(SLOT, owner, n, &[]));
    }
}

/// A stopped process keeps its connections: only time tells.
#[test]
fn a_server_that_does_not_answer_holds_nobody_for_long() {
    let server = Server::start(&[]);
    let mut options = RedisOptions::new(server.url(), "stopped", 1);
    options.reply_max = Duration::from_millis(1_500);
    options.read_max = Duration::from_millis(1_000);
    let store = open(options);
    let owner = acquire(&*store, SLOT, 1);
    let sent = script(commit(SLOT, owner, 1, &[(b"a", Some(b"1"))]));
    signal(&server, "STOP");
    let asked = Instant::now();
    let error = refused(store.record(SLOT));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(error.message().contains("did not answer"), "{error}");
    let error = refused(run(&*store, vec![sent.clone()]));
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Unavailable, Some(Ran::Unknown)), "{error}");
    let asked = Instant::now();
    for _ in 0..50 {
        assert!(store.record(SLOT).is_err() && run(&*store, vec![sent.clone()]).is_err());
    }
    // were each waited for, this would take two minutes
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    signal(&server, "CONT");
    assert_eq!(resend(&store, &sent).verdict, Verdict::Done);
    assert_eq!(until(|| store.record(SLOT).ok()).n, CommitNo(1));
}

fn signal(server: &Server, name: &str) {
    let ended =
        std::process::Command::new("kill").args([&format!("-{name}"), &server.pid().to_string()]).status();
    assert!(ended.expect("kill is there").success());
}

#[test]
fn closing_answers_whoever_waits() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let owner = acquire(&*store, SLOT, 1);
    let (tell, told) = channel();
    for n in 1..=10 {
        let tell = tell.clone();
        let submitted: Vec<Script> = vec![script(commit(SLOT, owner, n, &[]))];
        store.submit(submitted, Box::new(move |replies| tell.send(replies.is_ok()).unwrap_or_default()));
    }
    drop((store, tell));
    assert_eq!(told.iter().count(), 10, "each is answered");
}
