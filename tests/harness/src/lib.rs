//! Apache Kafka and Redis for tests: real servers on free loopback ports, in directories of their own.
//!
//! | module | holds |
//! |---|---|
//! | `kafka` | a broker of the jars that `deploy/dev/setup` has put aside, or brokers given by `GRANARY_TEST_KAFKA` |
//! | `redis` | a `redis-server` of the `PATH` |
//! | `receiver` | a server that takes webhooks, well or badly |
//! | `process` | a server that cannot outlive the test that started it |
//!
//! A server can be killed, stopped and resumed (SIGSTOP, SIGCONT) and started again on the same port and data. Nothing is
//! left behind: neither when a test panics nor when its process is killed.

mod kafka;
mod process;
mod receiver;
mod redis;

pub use crate::kafka::{Kafka, unique};
pub use crate::process::{Server, free_port, keep_on_disk};
pub use crate::receiver::{Answering, Receiver, Request};
pub use crate::redis::Redis;
