//! Starts Kafka, as people run it, and Redis as the tests do, prints where they are, and ends them with its standard input.
//!
//! `cargo run --release -p granary-harness --example servers`

fn main() {
    granary_harness::keep_on_disk();
    let (kafka, redis) = (granary_harness::Kafka::start_lasting(), granary_harness::Redis::start());
    println!("GRANARY__LOG__BROKERS={} GRANARY__STORE__URL={}", kafka.brokers(), redis.url());
    let _ = std::io::stdin().read_line(&mut String::new());
}
