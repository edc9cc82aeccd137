//! The language of grains: what a user's code names.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | grain identities, routing keys, slots |
//! | [`time`] | timestamps and lengths, in milliseconds |
//! | [`error`] | the one public error, its kinds and whether the call ran |
//! | [`codec`] | state and arguments as MessagePack |
//! | [`cloud`] | CloudEvents: what people are told |
//! | [`clock`] | the clock port |
//! | [`grain`] | what a kind is: state, methods, options, hooks |
//! | [`shared`] | a grain's state as its activation holds it |
//! | [`call`] | calls as values, their chain and options |
//! | [`context`] | what a request carries along through all calls it causes |
//! | [`cx`] | the context of a turn |
//! | [`envelope`], [`turn`], [`host`] | what the engine builds on: queued calls, recycled turns, the lane as a turn sees it |
//!
//! This crate never opens a socket, reads a clock or starts a thread: whoever runs grains hands those in.

pub mod call;
pub mod clock;
pub mod cloud;
pub mod codec;
pub mod context;
pub mod cx;
pub mod envelope;
pub mod error;
pub mod grain;
pub mod host;
pub mod id;
pub mod shared;
pub mod time;
pub mod turn;

pub use call::{Call, Caller, Unbound};
pub use clock::{Clock, HandClock};
pub use context::Context;
pub use cx::Cx;
pub use error::{Error, ErrorKind, Ran, Result};
pub use grain::{Access, Durability, Grain, KindId, KindInfo, KindOptions, Method, MethodInfo};
pub use host::{CatchUp, Schedule};
pub use id::{GrainId, Key, SlotId};
pub use shared::Shared;
pub use time::{Span, Timestamp};

/// A value of any shape: what [`Grain::migrate`] gets.
pub use rmpv::Value;

/// For generated code only: what `#[grain]` names without asking the user to depend on it.
#[doc(hidden)]
pub mod __private {
    pub use {rmpv, serde};

    /// The answer in a `Result`, also behind an alias that hides its types.
    pub trait Outcome {
        /// The answer.
        type Reply;
    }

    impl<T, E> Outcome for Result<T, E> {
        type Reply = T;
    }
}
