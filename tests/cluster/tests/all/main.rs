//! Silos as processes on real Apache Kafka and Redis: after every fault the topic equals the truth, no output is there
//! twice, no acknowledged call is lost.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

mod arrows;
mod backfill;
mod calls;
mod chaos;
mod commands;
mod inputs;
mod joins;
mod kills;
mod membership;
mod outages;
mod partitions;
mod patterns;
mod placing;
mod reload;
mod reminders;
mod rollback;
mod rollups;
mod rules;
mod sample;
mod several;
mod silences;
mod streams;
mod upgrade;
mod webhooks;
mod writes;
