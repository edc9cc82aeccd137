//! How fast a topic is read: by a source, and by a plain loop over the client. Says figures, promises none.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

mod common;

use std::time::{Duration, Instant};

use granary_cluster::{Batch, Log as _, SourceId};
use granary_harness::{Kafka, unique};
use granary_kafka::{KafkaLog, Settings, Sources};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

const PARTITIONS: u32 = 4;

/// CPU seconds of this process, in ticks of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    after_name[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn say(what: &str, events: u64, begun: (Instant, f64)) {
    let (seconds, cpu) = (begun.0.elapsed().as_secs_f64(), cpu() - begun.1);
    println!(
        "{what}: {:.0} events/s, {:.2} us CPU an event ({seconds:.1} s, {cpu:.1} CPU-s)",
        events as f64 / seconds,
        cpu * 1e6 / events as f64
    );
}

fn load(log: &KafkaLog, topic: &str, events: u64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &log.settings().brokers)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    for i in 0..events {
        let key = format!("device-{}", i % 10_000);
        let value = format!(
            r#"{{"id":"{i:012}","di":"{key}","dt":{},"c":"cat-{}","m1":{},"m2":{}.25}}"#,
            1_690_000_000_000_u64 + i / 10,
            i % 4,
            i % 100,
            i % 977
        );
        while producer.send(BaseRecord::to(topic).key(&key).payload(&value)).is_err() {
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(common::WAIT).unwrap();
}

fn plain(log: &KafkaLog, topic: &str, events: u64) {
    let begun = (Instant::now(), cpu());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &log.settings().brokers)
        .set("group.id", unique("plain"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut seen, mut bytes) = (0, 0);
    while seen < events {
        if let Some(Ok(message)) = consumer.poll(common::WAIT) {
            seen += 1;
            bytes += message.payload_len();
        }
    }
    say("plain consumer", seen, begun);
    assert!(bytes > 0);
}

fn source(log: &KafkaLog, topic: &str, events: u64) {
    let begun = (Instant::now(), cpu());
    let reader = std::thread::current();
    let sources = Sources::new(log.settings().clone(), Some(std::sync::Arc::new(move || reader.unpark())));
    sources.opener(topic.to_owned(), PARTITIONS);
    let mut partitions: Vec<_> = (0..PARTITIONS).map(|p| (sources.open(topic, p), 0)).collect();
    let (mut seen, mut batch) = (0, Batch::default());
    while seen < events {
        let before = seen;
        for (partition, next) in &mut partitions {
            batch.clear();
            partition.read(*next, 1 << 20, &mut batch).unwrap();
            if !batch.is_empty() {
                *next = batch.get(batch.len() - 1, SourceId(0), 0).offset + 1;
                seen += batch.len() as u64;
            }
        }
        if seen == before {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    say("source", seen, begun);
}

#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn reading() {
    let events = std::env::var("EVENTS").map_or(2_000_000, |text| text.parse().unwrap());
    granary_harness::keep_on_disk();
    let kafka = Kafka::start();
    let log = KafkaLog::new(Settings::new(unique("speed"), kafka.brokers())).unwrap();
    let topic = unique("speed");
    log.create(&topic, PARTITIONS).unwrap();
    load(&log, &topic, events);
    for _ in 0..3 {
        plain(&log, &topic, events);
        source(&log, &topic, events);
    }
}
