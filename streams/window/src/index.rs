//! The index of keys with a result to come. After a restart nobody would know them otherwise, and silent keys, the
//! end of the input and a watermark for all keys concern them without an event of theirs.
//!
//! Keys are listed by name in 256 buckets, one cell each; a cell is written when a key enters or leaves it, which a key
//! that keeps sending does not.

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_bytes, put_u64};
use crate::key::NOT_LISTED;
use crate::keys::Keys;

/// So many buckets.
pub(crate) const BUCKETS: usize = 256;

/// Which keys have a result to come.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    /// Which buckets the store has a cell of; `None` as long as the root is not in memory.
    stored: Option<Box<[bool; BUCKETS]>>,
    dirty: Vec<u8>,
}

#[derive(Debug, Default)]
struct Bucket {
    members: Vec<u32>,
    loaded: bool,
    dirty: bool,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(), stored: None, dirty: Vec::new() }
    }

    pub(crate) fn has_root(&self) -> bool {
        self.stored.is_some()
    }

    /// Whether the bucket is in memory; one without a cell is.
    pub(crate) fn has(&mut self, bucket: u8) -> bool {
        let held = &mut self.buckets[usize::from(bucket)];
        if !held.loaded && self.stored.as_ref().is_some_and(|stored| !stored[usize::from(bucket)]) {
            held.loaded = true;
        }
        held.loaded
    }

    /// Lists a key, or no longer; true when that changed.
    pub(crate) fn set(&mut self, keys: &mut Keys, place: u32, listed: bool) {
        let key = keys.get_mut(place);
        let was_at = key.listed_at;
        if (was_at != NOT_LISTED) == listed {
            return;
        }
        let number = key.bucket;
        let bucket = &mut self.buckets[usize::from(number)];
        if listed {
            key.listed_at = bucket.members.len() as u32;
            bucket.members.push(place);
        } else {
            key.listed_at = NOT_LISTED;
            bucket.members.swap_remove(was_at as usize);
            if let Some(moved) = bucket.members.get(was_at as usize) {
                keys.get_mut(*moved).listed_at = was_at;
            }
        }
        if !bucket.dirty {
            bucket.dirty = true;
            self.dirty.push(number);
        }
    }

    /// The places of all listed keys.
    pub(crate) fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.members.iter().copied())
    }

    /// Takes the root's list of buckets.
    pub(crate) fn take_root(&mut self, reader: Option<&mut Reader<'_>>) -> Result<(), Corrupt> {
        let mut stored = Box::new([false; BUCKETS]);
        if let Some(reader) = reader {
            for bits in stored.chunks_mut(8) {
                let byte = reader.byte()?;
                bits.iter_mut().enumerate().for_each(|(i, bit)| *bit = byte >> i & 1 != 0);
            }
        }
        self.stored = Some(stored);
        Ok(())
    }

    /// Appends the list of buckets to the root's cell.
    pub(crate) fn encode_root(&self, out: &mut Vec<u8>) {
        let stored = self.stored.as_ref().expect("the root is read before anything is written");
        for bits in stored.chunks(8) {
            out.push(bits.iter().enumerate().fold(0, |byte, (i, bit)| byte | u8::from(*bit) << i));
        }
    }

    /// Takes a bucket's cell; hands the names to `place_of`, which finds or makes their places.
    pub(crate) fn take_bucket(
        &mut self,
        number: u8,
        value: Option<&[u8]>,
        keys: &mut Keys,
        mut place_of: impl FnMut(&mut Keys, &[u8]) -> u32,
    ) -> Result<(), Corrupt> {
        let bucket = &mut self.buckets[usize::from(number)];
        if bucket.loaded {
            return Ok(());
        }
        if let Some(bytes) = value {
            let mut reader = Reader::cell(bytes)?;
            for _ in 0..reader.count()? {
                let place = place_of(keys, reader.bytes()?);
                let key = keys.get_mut(place);
                if key.bucket != number || key.listed_at != NOT_LISTED {
                    return Err(Corrupt { what: "each key once in its bucket expected" });
                }
                key.listed_at = bucket.members.len() as u32;
                bucket.members.push(place);
            }
            reader.finish()?;
        }
        bucket.loaded = true;
        Ok(())
    }

    /// Hands the changed buckets to `put`, by number; true when the root's list changed.
    pub(crate) fn seal(&mut self, keys: &Keys, mut put: impl FnMut(u8, Option<&[u8]>)) -> bool {
        let mut root_changed = false;
        let mut value = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            let bucket = &mut self.buckets[usize::from(number)];
            bucket.dirty = false;
            let has_members = !bucket.members.is_empty();
            let stored = self.stored.as_mut().expect("the root is read before anything is written");
            let was_stored = std::mem::replace(&mut stored[usize::from(number)], has_members);
            root_changed |= was_stored != has_members;
            if has_members {
                value.clear();
                value.push(VERSION);
                put_u64(&mut value, bucket.members.len() as u64);
                bucket.members.iter().for_each(|place| put_bytes(&mut value, keys.get(*place).name.bytes()));
                put(number, Some(&value));
            } else if was_stored {
                put(number, None);
            }
        }
        root_changed
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.buckets.iter().map(|bucket| size_of::<Bucket>() + bucket.members.capacity() * 4).sum()
    }
}
