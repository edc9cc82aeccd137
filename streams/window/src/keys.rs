//! The keys in memory, found by name with one lookup, and by place without any.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::key::Key;

/// Room for keys grows by this part of itself: doubled, half of a large one would stand empty.
const GROWTH: usize = 4;
/// And by so many keys at least.
const GROWTH_LEAST: usize = 16;

/// All keys in memory. A key keeps its place as long as it is there; places are used again.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    places: Vec<Key>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: FixedState,
    /// The place found last: `missing` and `apply` of one event look for the same key.
    last: u32,
}

impl Keys {
    /// Where the key is.
    pub(crate) fn find(&mut self, name: &[u8]) -> Option<u32> {
        if let Some(key) = self.places.get(self.last as usize)
            && key.flags.used
            && key.name.bytes() == name
        {
            return Some(self.last);
        }
        let hash = self.hasher.hash_one(name);
        let place = *self.by_name.find(hash, |place| self.places[*place as usize].name.bytes() == name)?;
        self.last = place;
        Some(place)
    }

    /// Where a key of this name's hash is, whose name may be another: looks at the table alone.
    pub(crate) fn likely(&self, name: &[u8]) -> Option<u32> {
        self.by_name.find(self.hasher.hash_one(name), |_| true).copied()
    }

    /// Adds a key that is not there.
    pub(crate) fn insert(&mut self, name: &[u8]) -> u32 {
        let mut key = Key::new(name, bucket_of(name));
        let place = match self.free.pop() {
            Some(place) => {
                let free = &mut self.places[place as usize];
                key.flags.hot = free.flags.hot;
                *free = key;
                place
            }
            None => {
                if self.places.len() == self.places.capacity() {
                    self.places.reserve_exact((self.places.len() / GROWTH).max(GROWTH_LEAST));
                }
                self.places.push(key);
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 keys of one slot are in memory")
            }
        };
        let (places, hasher) = (&self.places, &self.hasher);
        let rehash = |place: &u32| hasher.hash_one(places[*place as usize].name.bytes());
        self.by_name.insert_unique(rehash(&place), place, rehash);
        self.last = place;
        place
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, place: u32) {
        let hash = self.hasher.hash_one(self.places[place as usize].name.bytes());
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        let key = &mut self.places[place as usize];
        let hot = key.flags.hot;
        *key = Key::new(b"", 0);
        (key.flags.used, key.flags.hot) = (false, hot);
        self.free.push(place);
    }

    pub(crate) fn get(&self, place: u32) -> &Key {
        &self.places[place as usize]
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> &mut Key {
        &mut self.places[place as usize]
    }

    /// Bytes of the table and the free places, about.
    pub(crate) fn overhead_bytes(&self) -> usize {
        let spare = self.places.capacity() - self.places.len() + self.free.len();
        self.by_name.capacity() * 5 + self.free.len() * 4 + spare * size_of::<Key>()
    }

    /// Sorts places by their keys' names: an order that does not depend on what happened to be in memory.
    pub(crate) fn sort(&self, places: &mut [u32]) {
        places.sort_unstable_by(|a, b| self.get(*a).name.bytes().cmp(self.get(*b).name.bytes()));
    }
}

/// The key's bucket of the index. It is stored, so its hash must never change.
pub(crate) fn bucket_of(name: &[u8]) -> u8 {
    (xxhash_rust::xxh3::xxh3_64(name) >> 56) as u8
}
