//! What a client does with peers that are no silos of its cluster, speak another version, or talk nonsense.

mod kit;

use std::time::Duration;

use granary_client::Client;
use granary_core::call::Options;
use granary_core::time::millis;
use granary_core::{Error, ErrorKind, Ran};
use granary_wire::{Decoder, Failure, Frame, Hello, PROTOCOL_VERSION, Reply, Role, encode};
use kit::{Cluster, in_slot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Says hello to each that connects, then sends what `say` makes of each frame that arrives, and closes when that is
/// `false`.
async fn peer(version: u16, cluster: &'static str, say: fn(&Frame<'_>, &mut Vec<u8>) -> bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(converse(socket, version, cluster, say));
        }
    });
    address
}

async fn converse(
    mut socket: TcpStream,
    version: u16,
    cluster: &'static str,
    say: fn(&Frame<'_>, &mut Vec<u8>) -> bool,
) {
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    loop {
        while let Ok(Some(frame)) = decoder.next_frame() {
            match frame {
                Frame::Hello(_) => {
                    let hello = Hello { version, cluster, role: Role::Silo, name: "peer" };
                    encode(&Frame::Hello(hello), &mut out).expect("a short frame");
                }
                other if say(&other, &mut out) => {}
                _ => return,
            }
        }
        if socket.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        match socket.read(decoder.space()).await {
            Ok(count) if count > 0 => decoder.filled(count),
            _ => return,
        }
    }
}

fn nothing(_: &Frame<'_>, _: &mut Vec<u8>) -> bool {
    true
}

/// Knows no slots, and closes when it is called.
fn closes(frame: &Frame<'_>, out: &mut Vec<u8>) -> bool {
    let Frame::Ask(ask) = frame else { return false };
    let error = Error::new(ErrorKind::NotFound, "none");
    let reply = Reply { id: ask.id, result: Err(Failure::of(&error)) };
    encode(&Frame::Reply(reply), out).is_ok()
}

/// Answers questions with bytes that are no table, and calls with bytes that are no frame.
fn nonsense(frame: &Frame<'_>, out: &mut Vec<u8>) -> bool {
    match frame {
        Frame::Ask(ask) => {
            let garbage = [0x84, 0xa7, 0xff, 0x00, 0xc1];
            encode(&Frame::Reply(Reply { id: ask.id, result: Ok(&garbage) }), out).expect("a short frame");
        }
        _ => out.extend_from_slice(&[5, 0, 0, 0, 0xc1, 0xff, 0xff, 0xff, 0xff]),
    }
    true
}

/// Answers requests nobody made, then the one that was.
fn beside(frame: &Frame<'_>, out: &mut Vec<u8>) -> bool {
    let id = match frame {
        Frame::Ask(ask) => ask.id,
        Frame::Call(call) => call.id,
        _ => return true,
    };
    for id in [0, u64::MAX, id ^ (1 << 32), id + 1, id, id] {
        encode(&Frame::Reply(Reply { id, result: Ok(&[0xc0]) }), out).expect("a short frame");
    }
    true
}

#[tokio::test]
async fn another_version_or_cluster_is_refused_with_its_reason() {
    let old = peer(PROTOCOL_VERSION - 1, "dev", nothing).await;
    let error = Client::connect(old.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("it speaks protocol 1"), "{error}");

    let other = peer(PROTOCOL_VERSION, "prod", nothing).await;
    let seeds = format!("127.0.0.1:1,{other}");
    let error = Client::builder(seeds).cluster("dev").connect().await.err().unwrap();
    assert!(error.message().contains("it belongs to the cluster `prod`, not to `dev`"), "{error}");

    // One seed of ours is enough.
    let cluster = Cluster::start(1);
    let seeds = format!("{old},{other},{}", cluster.seed());
    let client = Client::builder(seeds).cluster("dev").connect().await.unwrap();
    assert!(client.call(&in_slot(0), "echo", &[], Options::default()).await.is_ok());

    for none in ["", " , "] {
        assert_eq!(Client::connect(none).await.err().unwrap().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_what_waited_on_it() {
    let address = peer(PROTOCOL_VERSION, "dev", nonsense).await;
    let client = Client::connect(address).await.unwrap();
    assert!(client.slots().is_none(), "that was no table");
    let error = client.call(&in_slot(0), "echo", &[], Options::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)), "{error}");
    let mut tail = client.tail("rows", granary_client::Start::Latest).await;
    if let Ok(tail) = &mut tail {
        let next = tokio::time::timeout(Duration::from_millis(200), tail.next()).await;
        assert!(!matches!(next, Ok(Some(Ok(_)))), "no record came");
    }
}

#[tokio::test]
async fn answers_to_nobody_are_dropped() {
    let address = peer(PROTOCOL_VERSION, "dev", beside).await;
    let client = Client::connect(address).await.unwrap();
    for _ in 0..10 {
        let answer = client.call(&in_slot(0), "echo", &[], Options::default()).await;
        assert_eq!(answer, Ok(vec![0xc0]));
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_no_more_than_the_timeout() {
    let address = peer(PROTOCOL_VERSION, "dev", nothing).await;
    let client = Client::connect(address).await.unwrap();
    let options = Options { timeout: Some(millis(100)), ..Options::default() };
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (client, options) = (client.clone(), options.clone());
            tokio::spawn(async move { client.call(&in_slot(0), "echo", &[], options).await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::Unknown)));
    }
}

#[tokio::test]
async fn a_lost_connection_answers_closed_and_the_next_call_opens_another() {
    let address = peer(PROTOCOL_VERSION, "dev", closes).await;
    let client = Client::connect(address).await.unwrap();
    for _ in 0..3 {
        let error = client.call(&in_slot(0), "echo", &[], Options::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)), "{error}");
    }
}

#[tokio::test]
async fn strangers_and_other_clusters_are_told_why() {
    let cluster = Cluster::start(1);
    let refused = Client::builder(cluster.seed()).cluster("prod").connect().await;
    let error = refused.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("`dev`") && error.message().contains("`prod`"), "{error}");
    assert!(Client::builder(cluster.seed()).cluster("dev").connect().await.is_ok());

    let mut browser = TcpStream::connect(cluster.seed()).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    browser.read_to_end(&mut answer).await.unwrap();
    assert!(answer.windows(7).any(|w| w == b"at most"), "{}", String::from_utf8_lossy(&answer));

    let nobody = Client::connect("127.0.0.1:1").await.err().unwrap();
    assert_eq!((nobody.kind(), nobody.did_run()), (ErrorKind::Unavailable, Some(Ran::No)));
}
