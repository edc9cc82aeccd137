//! Lanes, turns, activations and the commit loop.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what an engine is started with |
//! | [`cluster`] | what makes it one silo of several |
//! | [`engine`] | starting lanes, the handle to call through, stopping |
//! | `lane` | one lane: calls, turns, commits, sources, time |
//! | `slot`, `table`, `turns` | a slot on its lane, its activations, the turns under way |
//! | `timers`, `reminders`, `keyed`, `answers` | timers, durable reminders, idempotency keys and held answers of a slot |
//! | `mailbox`, [`stats`], [`lengths`], `watch` | what other threads see of a lane |
//!
//! Invariants: a lane is one actix actor on its own arbiter and holds its slots alone; nothing on the path of a call
//! inside a slot locks; no reference into a table is held while a turn runs.

mod answers;
pub mod cluster;
pub mod config;
pub mod engine;
mod keyed;
mod lane;
pub mod lengths;
mod mailbox;
mod no_pipeline;
mod reminders;
mod slot;
pub mod stats;
mod suspect;
mod table;
mod timers;
mod turns;
mod watch;

pub use cluster::{Cluster, Lease, Passed, Peers};
pub use config::{Config, LogSource, MakePipeline, MakeProducer, OpenSource, Source, SourceSpec};
pub use engine::{Engine, Handle, Reading};
pub use lane::rest::Rest;
pub use stats::Stats;
pub use watch::EXIT_STUCK;
