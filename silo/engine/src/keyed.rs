//! Idempotency keys of one slot: one effect and one answer for all calls with the same key.
//!
//! The key and the encoded answer are a cell, written by the commit that holds the effect. Calls that come while the
//! first one runs, or while its commit is on the way, join it.

use std::collections::BTreeMap;

use granary_core::envelope::Envelope;
use granary_core::{Error, ErrorKind, Key, Ran, Result, Span, Timestamp, codec, time};
use serde::{Deserialize, Serialize};

/// How long an answer is kept.
pub(crate) const KEPT_FOR: Span = time::hours(24);

/// Calls that may wait for the first one of their key.
pub(crate) const JOINED_MAX: usize = 1_024;

/// The first byte of such a cell.
pub(crate) const CELL_PREFIX: &[u8] = b"i/";

/// The key of a cell.
pub(crate) fn cell_key(kind: &str, key: &str, idempotency_key: &str) -> Vec<u8> {
    let mut cell = CELL_PREFIX.to_vec();
    for part in [kind, "/", key, "\0", idempotency_key] {
        cell.extend_from_slice(part.as_bytes());
    }
    cell
}

/// An answer, as stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub at: Timestamp,
    pub reply: StoredReply,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StoredReply {
    Answer(Vec<u8>),
    Refusal { kind: String, message: String },
}

impl Stored {
    /// What is to be stored of this answer.
    pub fn of(at: Timestamp, answer: Result<Vec<u8>>) -> Stored {
        let reply = match answer {
            Ok(bytes) => StoredReply::Answer(bytes),
            Err(error) => StoredReply::Refusal {
                kind: error.kind().name().to_string(),
                message: error.message().to_string(),
            },
        };
        Stored { at, reply }
    }

    /// Whether it need not be kept any longer.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.at) >= KEPT_FOR
    }

    /// Answers a later call with it.
    pub fn answer(&self, envelope: Box<dyn Envelope>) {
        match &self.reply {
            StoredReply::Answer(bytes) => envelope.answer(bytes),
            StoredReply::Refusal { kind, message } => {
                let kind = ErrorKind::from_name(kind).unwrap_or(ErrorKind::Rejected);
                envelope.refuse(Error::new(kind, message.clone()).ran(Ran::Yes));
            }
        }
    }
}

/// One key whose first call runs, or has run and is not known to be stored.
struct Running {
    grain: Key,
    joined: Vec<Box<dyn Envelope>>,
    /// The commit with the answer, and the cell's value.
    done: Option<(u64, Vec<u8>)>,
}

/// The keys under way, by the key of their cell.
#[derive(Default)]
pub(crate) struct Keyed(BTreeMap<Vec<u8>, Running>);

/// What a call with a key is to do.
pub(crate) enum Entry {
    /// It is the first: it runs, unless the store knows the key.
    First(Box<dyn Envelope>),
    /// It has joined the first.
    Joined,
    /// Too many have joined.
    Full(Box<dyn Envelope>),
}

impl Keyed {
    pub fn enter(&mut self, cell: &[u8], envelope: Box<dyn Envelope>) -> Entry {
        match self.0.get_mut(cell) {
            None => Entry::First(envelope),
            Some(running) if running.joined.len() >= JOINED_MAX => Entry::Full(envelope),
            Some(running) => {
                running.joined.push(envelope);
                Entry::Joined
            }
        }
    }

    /// The first call of a key begins.
    pub fn begin(&mut self, cell: Vec<u8>, grain: Key) {
        self.0.insert(cell, Running { grain, joined: Vec::new(), done: None });
    }

    /// The first call has ended; commit `n` holds its answer. Hands out the calls that joined from inside the slot: they
    /// commit together with it, and to wait for the commit could be to wait for themselves.
    pub fn done(&mut self, cell: &[u8], n: u64, value: Vec<u8>) -> Vec<Box<dyn Envelope>> {
        let Some(running) = self.0.get_mut(cell) else { return Vec::new() };
        running.done = Some((n, value));
        running.joined.extract_if(.., |joined| joined.options().inside.is_some()).collect()
    }

    /// The answer of the first call and its commit, when it has ended and is not known to be stored.
    pub fn answer_of(&self, cell: &[u8]) -> Option<(u64, Stored)> {
        let (n, value) = self.0.get(cell)?.done.as_ref()?;
        codec::from_bytes(value).ok().map(|stored| (*n, stored))
    }

    /// The first call did not run: the calls that joined it take its place.
    pub fn undone(&mut self, cell: &[u8]) -> Vec<Box<dyn Envelope>> {
        self.0.remove(cell).map(|running| running.joined).unwrap_or_default()
    }

    /// Commit `n` is stored: answers those that joined.
    pub fn stored(&mut self, n: u64) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|_, running| {
            let Some((_, value)) = running.done.as_ref().filter(|(in_commit, _)| *in_commit <= n) else {
                return true;
            };
            if let Ok(stored) = codec::from_bytes::<Stored>(value) {
                for envelope in running.joined.drain(..) {
                    stored.answer(envelope);
                }
            }
            false
        });
    }

    /// The slot's memory is dropped: everything that joined starts anew, with the key of its grain.
    pub fn dropped(&mut self) -> Vec<(Key, Box<dyn Envelope>)> {
        let dropped = std::mem::take(&mut self.0).into_values();
        dropped
            .flat_map(|Running { grain, joined, .. }| joined.into_iter().map(move |e| (grain.clone(), e)))
            .collect()
    }
}
