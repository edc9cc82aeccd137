//! Probes and metrics of a running silo, over a plain socket.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

use granary::config::Settings;
use granary::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    total: u64,
}

#[grain]
impl Counter {
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{metrics}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn probes_and_metrics_are_served() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.silo.listen = "127.0.0.1:0".into();
    settings.silo.gateway = "127.0.0.1:0".into();
    settings.silo.lanes = Some(1);
    settings.store.path = data.path().display().to_string();
    let silo = granary::Silo::from_settings(settings).unwrap().host::<Counter>().start().await.unwrap();
    let gateway = silo.gateway().unwrap().to_string();

    assert!(get(&gateway, "/livez").await.starts_with("HTTP/1.1 200 OK"));
    let began = std::time::Instant::now();
    while !get(&gateway, "/readyz").await.starts_with("HTTP/1.1 200 OK") {
        assert!(began.elapsed().as_secs() < 120, "{}", get(&gateway, "/readyz").await);
        tokio::time::sleep(millis(20).into()).await;
    }
    for n in 1..=3 {
        assert_eq!(silo.handle().unwrap().grain::<Counter>("c").add(1).await, Ok(n));
    }
    let metrics = get(&gateway, "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    // three calls, and the silo asks now and then which endpoints there are
    assert!(value(&metrics, "granary_turns_total{silo=\"silo-1\",lane=\"0\"}") >= 3.0);
    assert!((1.0..=2.0).contains(&value(&metrics, "granary_activations{")));
    assert_eq!(value(&metrics, "granary_slots_running{"), 96.0);
    assert!(value(&metrics, "granary_commit_seconds_sum{") > 0.0);

    assert!(get(&gateway, "/").await.starts_with("HTTP/1.1 404"));
    let mut stream = TcpStream::connect(&gateway).await.unwrap();
    stream
        .write_all(b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    silo.stop().await;
    assert!(TcpStream::connect(&gateway).await.is_err(), "the gateway ends with the silo");
}
