//! A cluster of silos in one process, for the tests of a program with grains: no services, no waiting, time by hand.
//!
//! ```
//! use granary::prelude::*;
//! use granary_testkit::TestCluster;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Counter { n: u64 }
//!
//! #[grain]
//! impl Counter {
//!     fn add(&mut self, by: u64) -> u64 { self.n += by; self.n }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> granary::Result<()> {
//! let cluster = TestCluster::builder().silos(3).host::<Counter>().start().await?;
//! assert_eq!(cluster.grain::<Counter>("c-1").add(2).await?, 2);
//!
//! let silo = cluster.silo_of::<Counter>("c-1").expect("every slot has a silo");
//! cluster.kill(&silo).await?;                                     // as kill -9
//! assert_eq!(cluster.grain::<Counter>("c-1").add(1).await?, 3);   // another silo, nothing lost
//! assert_ne!(cluster.silo_of::<Counter>("c-1"), Some(silo));
//! cluster.advance(mins(20)).await?;                               // idle grains leave; no time has passed
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`builder`] | what a cluster is made of: kinds, a pipeline, silos, slots |
//! | [`cluster`] | calls, time, faults, streams |
//! | [`calls`] | how calls find their silo, from a test and between silos |
//! | [`records`] | what silos have emitted |
//! | [`faults`] | a store that fails, forgets to answer, or waits, as told |
//! | [`wait`] | waiting with a limit that says what was expected |
//! | `life`, `clock` | one life of a silo; holding one up |
//! | `inner`, `drive` | what all share; moving time from one thing that falls due to the next |
//! | `outputs` | topics, the plan and its sources |
//!
//! # What is real, and what is not
//! Lanes, turns, commits, the moving of slots and the rules of membership are those of the product. The store and the
//! log are in memory, and the log takes outputs in the step of their commit; calls between silos go from thread to
//! thread. Each silo has threads of its own, so calls that are made at once may run in any order, as they may anywhere.
//!
//! # Time
//! It moves by [`TestCluster::advance`]. Else it moves only while the cluster is unsettled: a silo is gone and has not
//! been declared dead, slots move, a write is sent again. Then [`TestCluster::settle`], and a call that cannot be answered
//! without, move it to the next thing that falls due, and no further. A call that waits for something else, say for a turn
//! that the test itself holds up, moves nothing.

pub mod builder;
pub mod calls;
mod clock;
pub mod cluster;
mod drive;
pub mod faults;
mod inner;
mod life;
mod outputs;
pub mod records;
pub mod wait;

pub use builder::Builder;
pub use cluster::TestCluster;
pub use faults::{Fault, Faults};
pub use records::{Emitted, Writer};
pub use wait::{SOON, eventually, soon, within};
