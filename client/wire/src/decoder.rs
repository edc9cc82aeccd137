//! Bytes as a socket gives them, in pieces of any size, to frames.

use crate::decode::decode;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, LENGTH_BYTES};

/// How much room [`Decoder::space`] offers at least.
pub const SPACE_BYTES_MIN: usize = 16 << 10;

/// The buffer a decoder begins with, and goes back to after a long frame.
pub const BUFFER_BYTES: usize = 64 << 10;

/// Cuts a stream of bytes into frames.
///
/// Its memory grows with the bytes that arrived, never with what a length announces. Once it has given an error it
/// gives that error for ever: the place where the next frame begins is lost.
#[derive(Debug)]
pub struct Decoder {
    /// All of it is initialised; `begin..end` has arrived and is not yet taken.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    bytes_max: usize,
    failed: Option<Error>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder for a conversation whose handshake is done.
    pub fn new() -> Decoder {
        Decoder { buffer: Vec::new(), begin: 0, end: 0, bytes_max: FRAME_BYTES_MAX, failed: None }
    }

    /// A decoder for the first frame: takes short ones only, until [`Decoder::welcome`].
    pub fn handshake() -> Decoder {
        Decoder { bytes_max: HELLO_BYTES_MAX, ..Decoder::new() }
    }

    /// The handshake is done: frames of full length from here on.
    pub fn welcome(&mut self) {
        self.bytes_max = FRAME_BYTES_MAX;
    }

    /// Room to read into; say with [`Decoder::filled`] how much of it was used.
    pub fn space(&mut self) -> &mut [u8] {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer.truncate(BUFFER_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        if self.buffer.len() - self.end < SPACE_BYTES_MIN && self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.buffer.len() - self.end < SPACE_BYTES_MIN {
            let length = (self.buffer.len() * 2).max(BUFFER_BYTES);
            self.buffer.resize(length, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// The first `count` bytes of [`Decoder::space`] have arrived.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "no more arrived than there was room for");
        self.end += count;
    }

    /// These bytes have arrived.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// The next frame; `None` until more has arrived.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let arrived = &self.buffer[self.begin..self.end];
        let Some((length, rest)) = arrived.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > self.bytes_max {
            let error = Error::Oversized { bytes, bytes_max: self.bytes_max };
            self.failed = Some(error.clone());
            return Err(error);
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let begin = self.begin + LENGTH_BYTES;
        self.begin = begin + bytes;
        let frame = decode(&self.buffer[begin..begin + bytes]);
        if let Err(error) = &frame {
            self.failed = Some(error.clone());
        }
        frame.map(Some)
    }

    /// The other side has closed: was that between two frames?
    pub fn finish(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.begin == self.end => Ok(()),
            None => Err(Error::Truncated),
        }
    }
}
