//! What is refused at opening, and that each refusal names the remedy.

use granary_cluster::{Incarnation, Store};
use granary_core::{ErrorKind, SlotId};
use granary_store::conformance::{acquire, commit};
use granary_store::{Durability, Redis, RedisOptions};

use super::server::free_port;
use super::{Server, done, open, refused};

fn options(server: &Server) -> RedisOptions {
    RedisOptions::new(server.url(), "shop", 4)
}

#[track_caller]
fn is_refused(options: RedisOptions, kind: ErrorKind, words: &[&str]) {
    let error = refused(Redis::open(options));
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.message().contains(word), "`{word}` is missing: {error}");
    }
}

#[test]
fn a_server_that_does_not_keep_what_was_agreed_is_refused() {
    let server = Server::start(&["--appendfsync", "everysec"]);
    is_refused(options(&server), ErrorKind::Invalid, &["CONFIG SET appendfsync always", "everysec", "2 s"]);
    let store = open(options(&server).durability(Durability::Everysec));
    server.must(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let words = ["CONFIG SET maxmemory-policy noeviction"];
    is_refused(options(&server).durability(Durability::Everysec), ErrorKind::Invalid, &words);
    server.must(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.must(&["CONFIG", "SET", "appendfsync", "always"]);
    drop((open(options(&server)), store));
    server.must(&["CONFIG", "SET", "appendonly", "no"]);
    is_refused(options(&server), ErrorKind::Invalid, &["CONFIG SET appendonly yes"]);
    drop(open(options(&server).durability(Durability::None)));
}

#[test]
fn a_cluster_keeps_its_slots_and_its_schema() {
    let server = Server::start(&[]);
    let store = open(options(&server));
    let owner = acquire(&*store, SlotId(3), 1);
    done(&store, commit(SlotId(3), owner, 1, &[]));
    assert_eq!(store.incarnate().unwrap(), Incarnation(1));
    drop(store);
    let again = open(options(&server));
    assert_eq!(again.incarnate().unwrap(), Incarnation(2), "the next life");
    let mut other = options(&server);
    other.slots = 96;
    is_refused(other, ErrorKind::Invalid, &["created with 4 slots", "set slots = 4"]);
    server.must(&["HSET", "{granary.shop}", "schema", "9"]);
    is_refused(
        options(&server),
        ErrorKind::Invalid,
        &["schema 9", "schema 1", "run the version that wrote it"],
    );
    let mut second = options(&server);
    second.cluster = "another".to_owned();
    second.slots = 7;
    drop(open(second));
}

#[test]
fn a_server_that_cannot_be_used_is_refused() {
    let mut nowhere = RedisOptions::new(format!("redis://127.0.0.1:{}", free_port()), "shop", 4);
    is_refused(nowhere.clone(), ErrorKind::Unavailable, &["127.0.0.1", "start it"]);
    nowhere.cluster = "a{b".to_owned();
    is_refused(nowhere, ErrorKind::Invalid, &["letters, digits"]);
    for url in ["http://x", "rediss://127.0.0.1", ""] {
        is_refused(RedisOptions::new(url, "shop", 4), ErrorKind::Invalid, &["redis://["]);
    }
    let server = Server::start(&["--requirepass", "se-cret"]);
    is_refused(options(&server), ErrorKind::Unavailable, &["user and a password"]);
}

#[test]
fn a_password_is_used_and_never_printed() {
    let mut server = Server::start(&["--requirepass", "se-cret"]);
    let mut with_password = options(&server);
    with_password.url = format!("redis://:se-cret@127.0.0.1:{}", server.port);
    assert!(!format!("{with_password:?}").contains("se-cret"));
    let store = open(with_password.clone());
    acquire(&*store, SlotId(0), 1);
    with_password.url = with_password.url.replace("se-cret", "wro-ng");
    let error = refused(Redis::open(with_password));
    assert!(!error.message().contains("wro-ng"), "{error}");
    server.kill();
    let error = refused(store.record(SlotId(0)));
    assert!(!error.message().contains("se-cret"), "{error}");
}
