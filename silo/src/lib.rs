//! Granary: virtual grains for streams.
//!
//! | module | holds |
//! |---|---|
//! | [`prelude`] | what a program with grains imports |
//! | [`core`] | the language of grains |
//! | [`assembly`] | a silo put together: plan, kinds, store, lanes |
//! | [`backing`] | where slots and streams are kept: embedded, or Redis and Kafka |
//! | [`silo`] | a silo as a process: [`Silo`] |
//! | [`run`] | a pipeline over files to their end |
//! | [`replay`] | set-aside records, again |
//! | [`rewind`] | going on further ahead where records are gone |
//! | [`demo`] | the first minute |
//! | [`bench`] | figures of this machine |
//! | [`cli`] | the `granary` command, also for a program with kinds of its own |
//! | [`config`] | `granary.toml`, the environment, `--set` |
//! | `life` | one life after the other, each a member of the cluster |
//! | `placing` | what a silo tells of its cluster's members; slots placed by hand |
//! | `service` | what a silo does for those who connect |
//! | `backfill` | what rules read a second time when they are new |
//! | `files`, `results`, `clock` | files as sources, files of results, real time |

pub mod assembly;
mod backfill;
pub mod backing;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
mod files;
pub mod gateway;
mod inbox;
mod life;
mod placing;
pub mod replay;
mod results;
pub mod revisions;
pub mod rewind;
mod rulebook;
pub mod run;
mod service;
pub mod silo;
mod webhooks;

pub use granary_client as client;
pub use granary_core as core;
pub use granary_core::{Error, ErrorKind, Result};
pub use granary_macros::grain;

pub use cli::cli;
pub use silo::Silo;

/// What a program with grains imports.
pub mod prelude {
    pub use granary_client::Client;
    pub use granary_core::time::{days, hours, millis, mins, secs};
    pub use granary_core::{CatchUp, Cx, Error, Grain, Key, Result, Schedule, Shared, Span, Timestamp};
    pub use granary_macros::grain;
    pub use granary_streams::builder::{Count, Cumulate, Hopping, Session, Sliding, Tumbling, Windowed};
    pub use granary_streams::builder::{Interval, JoinKind, SameWindow, Stage, Versions};
    pub use granary_streams::{Plan, Stream};
    pub use serde::{Deserialize, Serialize};
}
