//! Figures of this machine.

use std::time::Duration;

use clap::Subcommand;
use granary_core::Result;

use crate::bench::servers::Servers;
use crate::bench::{
    Figure, calls, failover, floor, grains, latency, rolling, rules, servers, silos, streams, webhooks,
};
use crate::config::StoreDurability;

use super::{YES, block_on};

#[derive(Subcommand)]
pub(crate) enum BenchArguments {
    /// Turns, calls between lanes, activations, memory of idle grains
    Grains {
        /// With 10 million grains, too: takes a few minutes and 4 GB
        #[arg(long)]
        big: bool,
    },
    /// Windows from a log to a log, beside reading and decoding alone; with --brokers and --redis on those
    Streams {
        /// Messages, copies not counted
        #[arg(long, default_value_t = 5_000_000)]
        events: u64,
        /// Devices
        #[arg(long, default_value_t = 10_000)]
        devices: u64,
        /// Lanes; one per core when not given
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        lanes: u16,
        /// Kafka's brokers, host:port
        #[arg(long, requires = "redis")]
        brokers: Option<String>,
        /// The address of Redis
        #[arg(long, requires = "brokers")]
        redis: Option<String>,
        /// Partitions of the topic in Kafka
        #[arg(long, default_value_t = 12, requires = "brokers")]
        partitions: u32,
        /// Categories of a device in Kafka's topic: 1 or 4
        #[arg(long, default_value_t = 4, requires = "brokers")]
        categories: u64,
    },
    /// Calls from another process: reads, durable writes, grains met cold; with --brokers and --redis on those
    Calls {
        /// Silos
        #[arg(long, default_value_t = 1)]
        silos: usize,
        /// Lanes of each; one per core when not given
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        lanes: u16,
        /// Seconds of each figure
        #[arg(long, default_value_t = 8)]
        seconds: u64,
        /// When a write counts as kept
        #[arg(long, value_parser = ["fsync", "everysec"], default_value = "fsync")]
        durability: String,
        /// Grains that are met cold
        #[arg(long, default_value_t = 0)]
        cold: u64,
        /// Kafka's brokers, host:port
        #[arg(long, requires = "redis")]
        brokers: Option<String>,
        /// The address of Redis
        #[arg(long, requires = "brokers")]
        redis: Option<String>,
    },
    /// How long outputs and calls of three silos pause when one is killed, and when one gives its slots
    Failover {
        /// Messages a second
        #[arg(long, default_value_t = 50_000)]
        events: u32,
        /// Calls a second
        #[arg(long, default_value_t = 5_000)]
        calls: u32,
        #[command(flatten)]
        servers: Servers,
    },
    /// Whether callers notice that three silos are restarted, one after the other
    Rolling {
        /// Calls a second, half of them durable writes
        #[arg(long, default_value_t = 20_000)]
        calls: u32,
        #[command(flatten)]
        servers: Servers,
    },
    /// A hundred rules and a pattern from a log to a log, and an event of a hot key
    Rules {
        /// Payments
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Cards
        #[arg(long, default_value_t = 10_000)]
        cards: u64,
        /// Lanes; one per core when not given
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        lanes: u16,
    },
    /// How long after an alert is on its topic its webhook arrives
    Webhooks {
        /// Alerts a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// How many
        #[arg(long, default_value_t = 2_000)]
        alerts: u32,
    },
    /// A silo of a measurement
    #[command(hide = true)]
    Serve,
    /// What Redis and Kafka alone take of an alert's way: a commit stored, a transaction ended, its records read
    Floor {
        /// Seconds that each is measured, after 5 that are not
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        #[command(flatten)]
        servers: Servers,
    },
    /// How long an alert on a record takes, from Kafka to Kafka with Redis
    Latency {
        /// Messages a second
        #[arg(long, default_value_t = 20_000)]
        rate: u32,
        /// Seconds that are measured, after 10 that are not
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Alerts leave before their commit
        #[arg(long, conflicts_with = "by_rule")]
        eager: bool,
        /// Alerts are those of a rule, as CloudEvents
        #[arg(long)]
        by_rule: bool,
        #[command(flatten)]
        servers: Servers,
    },
}

pub(crate) fn bench(arguments: BenchArguments, json: bool) -> Result<u8> {
    let tell = |figure: &Figure| {
        if json {
            say!(
                "{}",
                serde_json::json!({
                    "name": figure.name,
                    "value": figure.value,
                    "unit": figure.unit,
                    "note": figure.note,
                })
            );
        } else {
            let places = if figure.unit == "ms" && figure.value < 10.0 { 2 } else { 0 };
            say!("{:<42} {:>14.places$} {:<6} {}", figure.name, figure.value, figure.unit, figure.note);
        }
    };
    block_on(async {
        match arguments {
            BenchArguments::Grains { big } => grains::all(big, tell).await?,
            BenchArguments::Streams { events, devices, lanes, brokers, redis, partitions, categories } => {
                match brokers.zip(redis) {
                    Some((brokers, redis)) => {
                        let servers = Servers { lanes, brokers, redis };
                        let options = servers::Options { events, devices, categories, partitions, servers };
                        servers::run(options, tell).await?;
                    }
                    None => streams::run(streams::Options { events, devices, lanes }, tell).await?,
                }
            }
            BenchArguments::Calls { silos, lanes, seconds, durability, cold, brokers, redis } => {
                let durability = match durability.as_str() {
                    "everysec" => StoreDurability::Everysec,
                    _ => StoreDurability::Fsync,
                };
                let servers = brokers.zip(redis).map(|(brokers, redis)| Servers { lanes, brokers, redis });
                let measured = Duration::from_secs(seconds);
                let options = calls::Options { silos, lanes, measured, durability, cold, servers };
                calls::run(options, tell).await?;
            }
            BenchArguments::Failover { events, calls, servers } => {
                failover::run(failover::Options { events, calls, servers }, tell).await?;
            }
            BenchArguments::Rolling { calls, servers } => {
                rolling::run(rolling::Options { calls, servers }, tell).await?;
            }
            BenchArguments::Rules { events, cards, lanes } => {
                rules::run(rules::Options { events, cards, lanes }, tell).await?;
            }
            BenchArguments::Webhooks { rate, alerts } => {
                webhooks::run(webhooks::Options { rate, alerts }, tell).await?;
            }
            BenchArguments::Serve => silos::serve().await?,
            BenchArguments::Floor { seconds, servers } => {
                let measured = Duration::from_secs(seconds);
                floor::run(floor::Options { measured, servers }, tell).await?;
            }
            BenchArguments::Latency { rate, seconds, eager, by_rule, servers } => {
                let (warm_up, measured) = (Duration::from_secs(10), Duration::from_secs(seconds));
                let options = latency::Options { rate, warm_up, measured, eager, by_rule, servers };
                latency::run(options, tell).await?;
            }
        }
        Ok(YES)
    })
}
