//! Replicas: commits that wait for them, and a failover to one that lags.

use std::time::Duration;

use granary_cluster::{CommitNo, Store, Verdict};
use granary_core::{ErrorKind, SlotId};
use granary_store::RedisOptions;
use granary_store::conformance::{acquire, commit, load, run, run_one};

use super::{Server, done, open, refused, resend, script, until};

const SLOT: SlotId = SlotId(0);

fn replica_of(master: &Server) -> Server {
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    until(|| text(&replica, "replication").contains("master_link_status:up").then_some(()));
    replica
}

fn text(server: &Server, section: &str) -> String {
    redis::from_redis_value(server.must(&["INFO", section])).expect("INFO is text")
}

#[test]
fn a_reply_waits_for_replicas_when_asked_to() {
    let master = Server::start(&[]);
    let mut replica = replica_of(&master);
    let mut options = RedisOptions::new(master.url(), "waits", 1).wait_replicas(1);
    options.wait_max = Duration::from_secs(2); // a replica that has just come may take a second to say how far it is
    let store = open(options.clone());
    let owner = acquire(&*store, SLOT, 1);
    done(&store, commit(SLOT, owner, 1, &[(b"a", Some(b"1"))]));
    replica.kill();
    let second = script(commit(SLOT, owner, 2, &[(b"a", Some(b"2"))]));
    for _ in 0..2 {
        let error = refused(run(&*store, vec![second.clone()]));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("0 of 1 replicas"), "{error}");
    }
    assert_eq!(store.record(SLOT).unwrap().n, CommitNo(2), "the master has it");
    // A connection of its own waits too, though it has written nothing: the resend may come on any.
    let other = open(options);
    assert!(run(&*other, vec![second.clone()]).is_err());
    replica.run();
    assert_eq!(resend(&store, &second).verdict, Verdict::Done);
}

/// The master is replaced by a replica that did not get its last commit, and later comes back as master itself: the
/// same process, the same run id, another history.
#[test]
fn a_failover_that_lost_a_commit_is_another_run() {
    let first = Server::start(&[]);
    let second = replica_of(&first);
    let store = open(RedisOptions::new(first.url(), "failover", 1));
    let owner = acquire(&*store, SLOT, 1);
    done(&store, commit(SLOT, owner, 1, &[(b"a", Some(b"1"))]));
    until(|| (text(&second, "keyspace") == text(&first, "keyspace")).then_some(()));
    second.must(&["REPLICAOF", "NO", "ONE"]);
    done(&store, commit(SLOT, owner, 2, &[(b"a", Some(b"2"))]));
    let third = script(commit(SLOT, owner, 3, &[(b"a", Some(b"3"))]));

    first.must(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]);
    until(|| text(&first, "replication").contains("master_link_status:up").then_some(()));
    let error = refused(run(&*store, vec![third.clone()]));
    assert!(error.message().contains("master"), "{error}");
    first.must(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(resend(&store, &third).verdict, Verdict::Fenced);
    assert_ne!(store.run(), owner.run, "the same process, another history");
    assert_eq!(until(|| store.record(SLOT).ok()).n, CommitNo(1), "commit 2 is lost");
    acquire(&*store, SLOT, 2);
    assert!(store.record(SLOT).unwrap().txids.everyone);
    assert_eq!(load(&*store, SLOT, b"a"), Some(b"1".to_vec()));
    assert_eq!(run_one(&*store, third).verdict, Verdict::Fenced);
}
