//! The log on Kafka keeps the promises of the port.

use granary_harness::{Kafka, unique};
use granary_kafka::{KafkaLog, Settings};
use granary_store::conformance::check_log_at;

#[test]
fn the_log_on_kafka_keeps_the_ports_promises() {
    let settings = Settings::new(unique("conformance"), Kafka::shared().brokers());
    let log = KafkaLog::new(settings).expect("a broker");
    check_log_at(&log, &unique("log"));
}
