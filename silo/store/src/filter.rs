//! Says "surely not stored" about cells without touching the disk: a blocked Bloom filter over the keys of the sorted
//! tables. One cache line per question.
//!
//! Invariant: a key that was added is never denied. One thread adds, without a lock; a reader that learnt of a table by
//! a lock sees every bit added before that table was announced.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

const WORDS: usize = 8;
const PROBES: u32 = 6;
const BITS_PER_KEY: usize = 12;
/// The smallest filter, in keys.
pub const KEYS_MIN: usize = 1 << 20;

/// The hash of a cell, for its filter and for those that keep it in memory.
#[inline]
pub fn hash_of(slot: u16, cell: &[u8]) -> u64 {
    xxh3_64_with_seed(cell, u64::from(slot))
}

/// A filter sized for a number of keys.
#[derive(Debug)]
pub struct Filter {
    words: Vec<AtomicU64>,
    keys_max: usize,
}

impl Filter {
    /// An empty filter for so many keys.
    pub fn new(keys_max: usize) -> Filter {
        let keys_max = keys_max.max(KEYS_MIN);
        let blocks = (keys_max * BITS_PER_KEY).div_ceil(64 * WORDS);
        Filter { words: (0..blocks * WORDS).map(|_| AtomicU64::new(0)).collect(), keys_max }
    }

    /// How many keys it was sized for.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// Adds the cell of this hash. Only one thread may add: then no locked operation is needed.
    pub fn add(&self, hash: u64) {
        let (block, mut bits) = self.place(hash);
        for _ in 0..PROBES {
            let word = &self.words[block + (bits & 7) as usize];
            word.store(word.load(Ordering::Relaxed) | 1 << ((bits >> 3) & 63), Ordering::Relaxed);
            bits >>= 9;
        }
    }

    /// Whether the cell of this hash may be stored; false is certain.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let (block, mut bits) = self.place(hash);
        for _ in 0..PROBES {
            let word = self.words[block + (bits & 7) as usize].load(Ordering::Relaxed);
            if word & (1 << ((bits >> 3) & 63)) == 0 {
                return false;
            }
            bits >>= 9;
        }
        true
    }

    /// The first word of the key's block, and 54 bits for the probes inside it.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let blocks = (self.words.len() / WORDS) as u64;
        let block = ((u128::from(hash) * u128::from(blocks)) >> 64) as usize;
        (block * WORDS, hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_denies_no_key_it_holds_and_most_others() {
        let filter = Filter::new(100_000);
        let hash = |i: u32| hash_of((i % 96) as u16, format!("Window/d-{i}/cat-1/totals").as_bytes());
        (0..100_000).for_each(|i| filter.add(hash(i)));
        assert!((0..100_000).all(|i| filter.may_hold(hash(i))));
        let wrong = (100_000..200_000).filter(|i| filter.may_hold(hash(*i))).count();
        assert!(wrong < 2_000, "{wrong} of 100000 absent keys are not denied");
    }
}
