//! The servers start, keep their data over a kill, and end with the test.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use granary_harness::{Kafka, Redis};

fn ask(redis: &Redis, command: &str) -> String {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    write!(stream, "{command}\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn redis_keeps_its_data_over_a_kill() {
    let redis = Redis::start();
    assert!(ask(&redis, "SET a 1").starts_with("+OK"));
    redis.kill();
    assert!(TcpStream::connect(redis.address()).is_err(), "killed, it does not listen");
    redis.restart();
    assert!(ask(&redis, "GET a").contains("\r\n1\r\n"));
    let dir = redis.server().dir().to_owned();
    assert!(dir.exists());
    drop(redis);
    assert!(!dir.exists(), "nothing is left behind");
}

#[test]
fn kafka_is_killed_and_starts_again_on_its_port() {
    let kafka = Kafka::start();
    TcpStream::connect(kafka.brokers()).unwrap();
    kafka.kill();
    assert!(TcpStream::connect(kafka.brokers()).is_err(), "killed, it does not listen");
    kafka.restart();
    TcpStream::connect(kafka.brokers()).unwrap();
}
