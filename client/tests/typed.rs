//! Typed calls through a client: the method and its arguments arrive, the reply comes back as its type.

use std::sync::Arc;

use granary_client::Client;
use granary_client::serve::{Feed, Identity, Reply, Service, serve};
use granary_core::time::{millis, secs};
use granary_core::{Error, ErrorKind, Ran, codec};
use granary_macros::grain;
use granary_wire::{Call, Produce, Tail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn add(&mut self, by: u64, why: String) -> u64 {
        self.bursts += by + why.len() as u64;
        self.bursts
    }

    fn bursts(&self) -> u64 {
        self.bursts
    }
}

/// Answers like a silo whose sensors all hold 40.
struct Sensors;

impl Service for Sensors {
    fn call(&self, call: Call<'_>, reply: Reply) {
        assert_eq!((call.kind, call.key), ("Sensor", "d%2F7"), "the key arrives escaped");
        match call.method {
            "bursts" if call.timeout == millis(700) => reply.send(codec::to_bytes(&40_u64)),
            "add" if call.idempotency_key == Some("k") => {
                #[derive(Deserialize)]
                struct Add {
                    by: u64,
                    why: String,
                }
                let Add { by, why } = codec::from_bytes(call.arguments).expect("named arguments");
                reply.send(codec::to_bytes(&(40 + by + why.len() as u64)));
            }
            "add" => reply.send(codec::to_bytes("not a number")),
            other => reply.send(Err(Error::new(ErrorKind::NotFound, format!("no method {other}")))),
        }
    }

    fn tail(&self, _: Tail<'_>, feed: Feed) {
        feed.fail(Error::invalid("only calls here"));
    }

    fn produce(&self, _: Produce<'_>, reply: Reply) {
        reply.send(Err(Error::invalid("only calls here")));
    }

    fn ask(&self, what: &str, _: &[u8], reply: Reply) {
        reply.send(Err(Error::new(ErrorKind::NotFound, format!("no {what} here"))));
    }
}

async fn client() -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let identity = Identity { cluster: "dev".into(), silo: "silo-1".into() };
    tokio::spawn(serve(listener, Arc::new(Sensors), identity, std::future::pending()));
    Client::connect(address).await.expect("a connection")
}

#[tokio::test]
async fn a_typed_call_is_written_as_the_design_shows_it() {
    let client = client().await;
    let bursts = client.grain::<Sensor>("d/7").bursts().timeout(millis(700)).await.unwrap();
    assert_eq!(bursts, 40);
    let sensor = client.grain::<Sensor>("d/7");
    let sum = sensor.add(2, "hot".into()).idempotency_key("k").timeout(secs(5)).await.unwrap();
    assert_eq!(sum, 45);
    sensor.add(1, String::new()).idempotency_key("k").one_way().await.unwrap();
}

#[tokio::test]
async fn errors_of_a_typed_call_say_whether_it_ran() {
    let client = client().await;
    let error = client.grain::<Sensor>("d/7").bursts().await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "no method bursts"));
    let error = client.grain::<Sensor>("d/7").add(1, String::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.did_run()), (ErrorKind::Codec, Some(Ran::Yes)));
}
