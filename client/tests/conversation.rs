//! A client and an accepting end over loopback, with a service that answers what it is told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use granary_client::serve::{CONNECTION_TAILS_MAX, Feed, Identity, Reply, Service, serve};
use granary_client::{Client, IN_FLIGHT_MAX, NewRecord, Start};
use granary_core::call::Options;
use granary_core::time::millis;
use granary_core::{Error, ErrorKind, GrainId, Ran, codec};
use granary_wire::{Call, Produce, Tail};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

type Rows = Vec<(Option<Vec<u8>>, Vec<u8>)>;

/// Answers by the method's name; one topic in memory.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
    in_flight: AtomicUsize,
    in_flight_most: AtomicUsize,
    keys: Mutex<Vec<String>>,
    rows: Mutex<Rows>,
}

struct Host(Arc<Echo>);

impl Service for Host {
    fn call(&self, call: Call<'_>, reply: Reply) {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        match call.method {
            "echo" => reply.send(Ok(call.arguments.to_vec())),
            "channel" => {
                let (to, answer) = oneshot::channel();
                reply.follow(answer);
                drop(to.send(Ok(call.arguments.to_vec())));
            }
            "later" => {
                let now = self.0.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
                self.0.in_flight_most.fetch_max(now, Ordering::SeqCst);
                let (me, arguments) = (self.0.clone(), call.arguments.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    me.in_flight.fetch_sub(1, Ordering::SeqCst);
                    reply.send(Ok(arguments));
                });
            }
            "drop" => drop(reply),
            "never" => std::mem::forget(reply),
            "huge" => reply.send(Ok(vec![0; granary_wire::FRAME_BYTES_MAX])),
            "note" => {
                assert!(!reply.is_awaited(), "a one-way call waits for no answer");
                let key = call.idempotency_key.unwrap_or(call.key);
                self.0.keys.lock().expect("not poisoned").push(key.to_owned());
            }
            _ => {
                let error = Error::new(ErrorKind::Overloaded, "full").ran(Ran::No).after(millis(7));
                reply.send(Err(error));
            }
        }
    }

    fn tail(&self, tail: Tail<'_>, mut feed: Feed) {
        if tail.stream != "rows" {
            let message = format!("no stream `{}`", tail.stream);
            return feed.fail(Error::new(ErrorKind::NotFound, message));
        }
        let (me, start) = (self.0.clone(), tail.start);
        tokio::spawn(async move {
            let rows = me.rows.lock().expect("not poisoned").clone();
            let begin = match start {
                Start::Earliest => 0,
                Start::Latest => rows.len(),
                Start::Offsets(offsets) => offsets[0].1 as usize,
            };
            for (offset, (key, value)) in rows.iter().enumerate().skip(begin) {
                let offset = offset as u64;
                let id = format!("r#{offset}");
                let (key, id) = (key.as_deref(), Some(&*id));
                let record = granary_wire::Record { partition: 0, offset, key, id, value };
                if feed.send(&record).await.is_err() {
                    me.keys.lock().expect("not poisoned").push(format!("gone at {offset}"));
                    return;
                }
            }
        });
    }

    fn produce(&self, produce: Produce<'_>, reply: Reply) {
        let mut rows = self.0.rows.lock().expect("not poisoned");
        for record in &produce.records {
            rows.push((record.key.map(<[u8]>::to_vec), record.value.to_vec()));
        }
        reply.send(Ok(Vec::new()));
    }

    fn ask(&self, what: &str, _: &[u8], reply: Reply) {
        match what {
            "status" => {
                reply
                    .send(codec::to_bytes(&BTreeMap::from([("calls", self.0.calls.load(Ordering::SeqCst))])));
            }
            _ => reply.send(Err(Error::new(ErrorKind::NotFound, format!("no {what} here")))),
        }
    }
}

struct Silo {
    address: String,
    echo: Arc<Echo>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn silo_at(address: &str) -> Silo {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let echo = Arc::new(Echo::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let identity = Identity { cluster: "dev".into(), silo: "silo-1".into() };
    let service = Arc::new(Host(echo.clone()));
    let served = tokio::spawn(serve(listener, service, identity, async move { drop(stopped.await) }));
    Silo { address, echo, stop, served }
}

async fn silo() -> Silo {
    silo_at("127.0.0.1:0").await
}

fn sensor() -> GrainId {
    GrainId::new("Sensor", "d-7")
}

/// Waits until it holds.
async fn until(holds: impl Fn() -> bool, what: &str) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), held).await.is_ok(), "{what}");
}

async fn call(client: &Client, method: &str, arguments: &[u8]) -> granary_core::Result<Vec<u8>> {
    client.call(&sensor(), method, arguments, Options::default()).await
}

#[tokio::test]
async fn a_call_is_answered_and_an_error_arrives_whole() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    assert_eq!(call(&client, "echo", b"\x91\x07").await.unwrap(), b"\x91\x07");
    assert_eq!(call(&client, "channel", b"\xc3").await.unwrap(), b"\xc3");
    let error = call(&client, "refuse", &[]).await.unwrap_err();
    assert_eq!(error, Error::new(ErrorKind::Overloaded, "full").ran(Ran::No).after(millis(7)));
    let error = call(&client, "drop", &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Closed, Some(Ran::Unknown)));
    let status: BTreeMap<String, usize> = client.status().await.unwrap();
    assert_eq!(status["calls"], 4);
}

#[tokio::test]
async fn what_is_too_long_is_refused_on_the_side_that_has_it() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let error = call(&client, "echo", &vec![0; granary_wire::FRAME_BYTES_MAX]).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Invalid, Some(Ran::No)));
    let error = call(&client, "huge", &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Invalid, Some(Ran::Yes)));
    let long = vec![5; granary_wire::FRAME_BYTES_MAX - 100];
    assert_eq!(call(&client, "echo", &long).await.unwrap(), long, "and the connection still serves");
    let options = Options { idempotency_key: Some("k".repeat(257).into()), ..Options::default() };
    let error = client.call(&sensor(), "echo", &[], options).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Invalid, Some(Ran::No)));
}

#[tokio::test]
async fn more_calls_than_fit_in_flight_wait_and_all_are_answered_with_their_own_answer() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let calls: Vec<_> = (0..3 * IN_FLIGHT_MAX as u32)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                assert_eq!(call(&client, "later", &i.to_be_bytes()).await.unwrap(), i.to_be_bytes());
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let most = silo.echo.in_flight_most.load(Ordering::SeqCst);
    assert!(most <= IN_FLIGHT_MAX, "{most} calls at once");
}

#[tokio::test]
async fn one_way_calls_arrive_in_order_with_their_keys() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    for i in 0..100 {
        let idempotency_key = Some(format!("k-{i}").into());
        let options = Options { one_way: true, idempotency_key, ..Options::default() };
        assert_eq!(client.call(&sensor(), "note", &[], options).await, Ok(Vec::new()));
    }
    call(&client, "echo", &[]).await.unwrap();
    let expected: Vec<String> = (0..100).map(|i| format!("k-{i}")).collect();
    assert_eq!(*silo.echo.keys.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_timeout_says_what_is_known() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let options = Options { timeout: Some(millis(50)), ..Options::default() };
    let error = client.call(&sensor(), "never", &[], options.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::Unknown)));
    assert!(error.message().starts_with("Sensor/d-7.never was sent to 127.0.0.1:"), "{error}");

    // Now fill the connection: the next call is not even sent.
    let waiting: Vec<_> = (0..IN_FLIGHT_MAX)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "never", &[]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = client.call(&sensor(), "echo", &[], options).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Timeout, Some(Ran::No)), "{error}");
    for call in waiting {
        call.abort();
    }
}

#[tokio::test]
async fn a_stopping_silo_answers_what_is_under_way() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "later", b"\x05").await })
        })
        .collect();
    until(|| silo.echo.calls.load(Ordering::SeqCst) == 100, "the calls are under way").await;
    silo.stop.send(()).unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), b"\x05");
    }
    silo.served.await.unwrap().unwrap();
    let error = {
        let options = Options { timeout: Some(millis(100)), ..Options::default() };
        client.call(&sensor(), "echo", &[], options).await.unwrap_err()
    };
    assert_eq!(error.did_run(), Some(Ran::No));
}

#[tokio::test]
async fn no_call_fails_while_a_silo_is_exchanged_for_another() {
    let first = silo().await;
    let client = Client::connect(&first.address).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..50_u8)
        .map(|i| {
            let (client, over) = (client.clone(), over.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.load(Ordering::SeqCst) {
                    let method = if calls % 10 == 0 { "later" } else { "echo" };
                    assert_eq!(call(&client, method, &[i]).await, Ok(vec![i]));
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut silo = first;
    for _ in 0..5 {
        let echo = silo.echo.clone();
        until(|| echo.calls.load(Ordering::SeqCst) > 100, "the silo is called").await;
        silo.stop.send(()).unwrap();
        silo.served.await.unwrap().unwrap();
        silo = silo_at(&silo.address).await;
    }
    until(|| silo.echo.calls.load(Ordering::SeqCst) > 100, "the last silo is called").await;
    over.store(true, Ordering::SeqCst);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    assert!(calls > 600, "{calls} calls");
}

#[tokio::test]
async fn a_tail_gives_every_record_in_order_within_its_credit() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let value = vec![b'x'; 1_000];
    let records = vec![NewRecord { key: Some(b"d-7"), value: &value }; 500];
    for _ in 0..10 {
        client.produce("rows", &records).await.unwrap();
    }
    let mut tail = client.tail("rows", Start::Earliest).await.unwrap();
    for offset in 0..5_000 {
        let record = tail.next().await.unwrap().unwrap();
        assert_eq!((record.partition, record.offset), (0, offset));
        assert_eq!((record.id, &record.value), (Some(format!("r#{offset}")), &value));
        assert_eq!(record.key.as_deref(), Some(&b"d-7"[..]));
    }
    assert_eq!(tail.next().await, None, "the stream has ended");

    let mut tail = client.tail("rows", Start::Offsets(vec![(0, 4_999)])).await.unwrap();
    assert_eq!(tail.next().await.unwrap().unwrap().offset, 4_999);
    assert_eq!(tail.next().await, None);
}

#[tokio::test]
async fn a_dropped_or_unread_tail_stops_its_feed() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let value = vec![b'x'; 100_000];
    let records = vec![NewRecord { key: None, value: &value }; 100];
    client.produce("rows", &records).await.unwrap();
    let mut tail = client.tail("rows", Start::Earliest).await.unwrap();
    tail.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(silo.echo.keys.lock().unwrap().is_empty(), "it waits for credit, it has not gone");
    drop(tail);
    for _ in 0..100 {
        call(&client, "echo", &[]).await.unwrap();
        if let Some(gone) = silo.echo.keys.lock().unwrap().first() {
            let at: usize = gone.strip_prefix("gone at ").unwrap().parse().unwrap();
            assert!((10..=12).contains(&at), "1 MiB of credit are 10 or 11 records of 100 kB, not {at}");
            return;
        }
    }
    panic!("the feed never learnt that nobody reads");
}

#[tokio::test]
async fn tails_are_bounded_and_unknown_streams_named() {
    let silo = silo().await;
    let client = Client::connect(&silo.address).await.unwrap();
    let mut tail = client.tail("nothing", Start::Latest).await.unwrap();
    let error = tail.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "no stream `nothing`"));

    let value = vec![b'x'; 2 << 20];
    let record = NewRecord { key: None, value: &value };
    client.produce("rows", &[record, record]).await.unwrap();
    let mut tails = Vec::new();
    for _ in 0..CONNECTION_TAILS_MAX {
        tails.push(client.tail("rows", Start::Earliest).await.unwrap());
    }
    let mut one_more = client.tail("rows", Start::Earliest).await.unwrap();
    assert_eq!(one_more.next().await.unwrap().unwrap_err().kind(), ErrorKind::Overloaded);
}
