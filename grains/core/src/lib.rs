//! The language of grains: what a user's code names.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | grain identities, routing keys, slots |
//! | [`time`] | timestamps and lengths, in milliseconds |
//! | [`error`] | the one public error, its kinds and whether the call ran |
//! | [`codec`] | state and arguments as MessagePack |
//!
//! This crate never opens a socket, reads a clock or starts a thread: whoever runs grains hands those in.

pub mod codec;
pub mod error;
pub mod id;
pub mod time;

pub use error::{Error, ErrorKind, Ran, Result};
pub use id::{GrainId, Key, SlotId};
pub use time::{Span, Timestamp};
