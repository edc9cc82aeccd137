//! What can be wrong with bytes. After any of these the conversation is over: what follows has no known meaning.

use crate::{FRAME_BYTES_MAX, MAGIC};

/// The result of reading or writing frames.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes are no frame, or a frame cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The frame is longer than allowed.
    #[error("a frame of {bytes} bytes, at most {bytes_max} are allowed")]
    Oversized {
        /// What its length says.
        bytes: usize,
        /// What is allowed at this point.
        bytes_max: usize,
    },
    /// The bytes end inside a frame.
    #[error("the bytes end inside a frame")]
    Truncated,
    /// The frame goes on after its last field.
    #[error("{bytes} bytes after the last field of a frame")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A field is not what it should be.
    #[error("field `{field}` of a `{frame}` frame: {problem}")]
    Field {
        /// Which frame.
        frame: &'static str,
        /// Which field.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A tag nobody knows.
    #[error("a frame with the unknown tag {tag}")]
    UnknownTag {
        /// The tag.
        tag: u64,
    },
    /// The other side does not speak this protocol at all.
    #[error(
        "the other side does not speak the protocol of granary: its first frame does not begin with `{MAGIC}`"
    )]
    Stranger,
    /// A known frame that has no place here: before the handshake, or from the wrong side.
    #[error("a `{frame}` frame has no place here")]
    Misplaced {
        /// Which frame.
        frame: &'static str,
    },
}

impl Error {
    /// The frame would be longer than any frame may be.
    pub(crate) fn oversized(bytes: usize) -> Error {
        Error::Oversized { bytes, bytes_max: FRAME_BYTES_MAX }
    }
}
