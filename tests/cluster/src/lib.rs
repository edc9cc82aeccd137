//! Silos as processes on real Kafka and Redis: what the tests and `make demo-cluster` are made of.

pub mod kit;
