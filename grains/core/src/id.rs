//! Who a grain is and where it lives: `Kind/key`, the routing key, the slot.
//!
//! A key is a list of segments joined by `/`. Inside a segment `/` and `%` are percent-encoded, so ids made of
//! opaque text never collide. The first segment, unescaped, is the *routing key*: all grains that share it live
//! in one slot.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The unit of ownership, order, commit and recovery: `0..S`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u16);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The slot of a routing key in a cluster of `slots` slots: Kafka's default partitioner over its bytes.
pub fn slot_of(routing_key: &[u8], slots: u16) -> SlotId {
    debug_assert!(slots > 0, "a cluster has at least one slot");
    SlotId((positive_murmur2(routing_key) % u32::from(slots)) as u16)
}

/// Kafka's `toPositive(murmur2(key))`.
pub fn positive_murmur2(key: &[u8]) -> u32 {
    murmur2(key) & 0x7fff_ffff
}

/// MurmurHash2, 32 bit, with the seed of Kafka's default partitioner
/// (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut h = SEED ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The part of a grain's identity after its kind, in its escaped form.
///
/// ```
/// use granary_core::Key;
/// let key = Key::from_segments(["d/7", "cat-1"]);
/// assert_eq!(key.as_str(), "d%2F7/cat-1");
/// assert_eq!(key.routing_key(), "d/7");
/// assert_eq!(Key::from("d-7").as_str(), "d-7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// A key of these segments, each opaque text.
    pub fn from_segments<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> Key {
        let mut text = String::new();
        for (i, segment) in segments.into_iter().enumerate() {
            if i > 0 {
                text.push('/');
            }
            text.push_str(&escape(segment.as_ref()));
        }
        Key(text.into())
    }

    /// A key in its escaped form, as people and programs write it: `d-7/cat-1`.
    pub fn parse(escaped: &str) -> Key {
        Key(escaped.into())
    }

    /// The escaped form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, unescaped.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.split('/').map(unescape)
    }

    /// The first segment, unescaped: decides the slot.
    pub fn routing_key(&self) -> Cow<'_, str> {
        routing_key(&self.0)
    }
}

/// The routing key of an escaped key.
pub fn routing_key(escaped: &str) -> Cow<'_, str> {
    unescape(escaped.split_once('/').map_or(escaped, |(first, _)| first))
}

/// A single segment of opaque text.
impl From<&str> for Key {
    fn from(segment: &str) -> Key {
        Key(Arc::from(&*escape(segment)))
    }
}

impl From<String> for Key {
    fn from(segment: String) -> Key {
        Key::from(segment.as_str())
    }
}

impl From<&String> for Key {
    fn from(segment: &String) -> Key {
        Key::from(segment.as_str())
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Key {
        Key(number.to_string().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Escapes one segment: `%` and `/` become `%25` and `%2F`.
pub fn escape(segment: &str) -> Cow<'_, str> {
    if !segment.contains(['%', '/']) {
        return Cow::Borrowed(segment);
    }
    Cow::Owned(segment.replace('%', "%25").replace('/', "%2F"))
}

/// The inverse of [`escape`]; other percent signs stand for themselves.
pub fn unescape(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    Cow::Owned(segment.replace("%2F", "/").replace("%2f", "/").replace("%25", "%"))
}

/// `Kind/key`: the address of a grain, for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrainId {
    /// The name of the kind: a letter, then letters, digits, `_` or `-`.
    pub kind: Box<str>,
    /// Which one of the kind.
    pub key: Key,
}

impl GrainId {
    /// The grain `kind/key`.
    pub fn new(kind: &str, key: impl Into<Key>) -> GrainId {
        GrainId { kind: kind.into(), key: key.into() }
    }

    /// Reads `Kind/key`, the key in its escaped form; `None` when there is no kind or no key.
    ///
    /// ```
    /// use granary_core::GrainId;
    /// let id = GrainId::parse("Window/d-7/cat-1/totals/1700000000000").unwrap();
    /// assert_eq!((&*id.kind, &*id.key.routing_key()), ("Window", "d-7"));
    /// ```
    pub fn parse(text: &str) -> Option<GrainId> {
        let (kind, key) = text.split_once('/')?;
        if kind.is_empty() || key.is_empty() {
            return None;
        }
        Some(GrainId { kind: kind.into(), key: Key::parse(key) })
    }

    /// The slot of this grain in a cluster of `slots` slots.
    pub fn slot(&self, slots: u16) -> SlotId {
        slot_of(self.key.routing_key().as_bytes(), slots)
    }
}

impl fmt::Display for GrainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn opaque_segments_never_collide() {
        let a = Key::from_segments(["a/b", "c"]);
        let b = Key::from_segments(["a", "b/c"]);
        let c = Key::from_segments(["a%2Fb", "c"]);
        assert!(a != b && a != c && b != c);
        assert_eq!(c.segments().collect::<Vec<_>>(), ["a%2Fb", "c"]);
        assert_eq!(a.routing_key(), "a/b");
    }
}
