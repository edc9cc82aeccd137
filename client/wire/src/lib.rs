//! Frames between clients and silos: what is said, byte for byte, and by which rules. No sockets, no clocks.
//!
//! A frame is its length (`u32`, little endian, without itself) and then one MessagePack array whose first entry
//! is the frame's tag. The first frame of each side is [`Hello`]; after it frames go both ways without waiting for
//! one another, and a [`Reply`] names the request it answers.
//!
//! | module | holds |
//! |---|---|
//! | [`frame`] | the frames, borrowing from the bytes they came in |
//! | [`mod@encode`] | frame to bytes |
//! | [`decode`] | bytes of one frame to frame |
//! | [`decoder`] | bytes as a socket gives them to frames |
//! | [`error`] | what can be wrong with bytes |
//! | [`slots`] | which silo owns which slot |
//!
//! Bytes from outside are never trusted: whatever they are, the answer is a frame or an [`Error`], never a panic,
//! and no length named in them makes this crate reserve memory that has not arrived.

pub mod decode;
pub mod decoder;
pub mod encode;
pub mod error;
pub mod frame;
pub mod slots;

pub use decoder::Decoder;
pub use encode::encode;
pub use error::{Error, Result};
pub use frame::{
    Ask, Call, Caller, Failure, Frame, Hello, NewRecord, Produce, Record, Reply, Role, Start, Tail,
};
pub use slots::{SiloEntry, SlotTable};

/// The longest frame, in bytes, without its length.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// The longest frame before the handshake is done: a stranger gets no more memory than this.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// The version of the protocol this crate speaks.
pub const PROTOCOL_VERSION: u16 = 2;

/// The oldest version it still understands.
pub const PROTOCOL_VERSION_MIN: u16 = 2;

/// The word every conversation begins with.
pub const MAGIC: &str = "granary";

/// How many records one [`Produce`] may carry.
pub const PRODUCE_RECORDS_MAX: usize = 10_000;

/// How many partitions a [`Start`] may name.
pub const START_PARTITIONS_MAX: usize = 10_000;

/// Bytes of a frame's length.
pub const LENGTH_BYTES: usize = 4;
