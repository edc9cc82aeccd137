//! What leaves memory: cold state that the store holds.

use super::Operator;
use crate::key::{Key, NOT_LISTED, REMEMBERED_BYTES};
use crate::slice::Slice;

impl Operator {
    /// Bytes of memory the state takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.pool.bytes + self.keys.overhead_bytes() + self.lasting_bytes()
    }

    /// Of that, what no eviction frees.
    fn lasting_bytes(&self) -> usize {
        self.index.memory_bytes()
            + (self.queue.capacity() + self.silent.capacity()) * 16
            + self.hot.capacity() * 4
    }

    /// Lets cold clean state leave until about `target_bytes` remain. What a commit holds that the store has not
    /// acknowledged stays, and so does what was used since the eviction last passed, unless two rounds do not suffice.
    /// With a watermark per stream keys with open windows stay. Looks at so many keys at most; the next call goes on with
    /// those after them.
    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        let target_bytes = target_bytes.saturating_sub(self.lasting_bytes());
        for _ in 0..(self.hot.len() * 2).min(looks_max) {
            if self.pool.bytes + self.keys.overhead_bytes() <= target_bytes {
                return;
            }
            let Some(place) = self.hot.pop_front() else { return };
            self.evict_key(place);
            let flags = &mut self.keys.get_mut(place).flags;
            flags.hot = flags.used && flags.loaded;
            if flags.hot {
                self.hot.push_back(place);
            }
        }
    }

    fn evict_key(&mut self, place: u32) {
        let Operator { keys, pool, rules, acknowledged, .. } = self;
        let key = keys.get_mut(place);
        if !key.flags.used || !key.flags.loaded {
            return;
        }
        if rules.resident && key.listed_at != NOT_LISTED {
            return;
        }
        let acknowledged = *acknowledged;
        let touched = std::mem::take(&mut key.flags.touched);
        key.slices.retain_mut(|slice| {
            if !slice.loaded
                || slice.dirty
                || slice.with_key
                || slice.sealed > acknowledged
                || std::mem::take(&mut slice.touched)
            {
                return true;
            }
            pool.less(slice.memory_bytes());
            if slice.next == i64::MAX {
                return false;
            }
            slice.unload();
            key.absent += 1;
            pool.bytes += size_of::<Slice>();
            true
        });
        let is_cold = !touched && !key.flags.dirty && key.sealed <= acknowledged;
        if !is_cold || key.slices.iter().any(|slice| slice.loaded && !slice.with_key) {
            return;
        }
        pool.less(key.slices.iter().map(Slice::memory_bytes).sum());
        pool.less(key.remembered.as_ref().map_or(0, |remembered| remembered.len() * REMEMBERED_BYTES));
        if key.listed_at == NOT_LISTED {
            pool.less(key.own_bytes());
            keys.remove(place);
        } else {
            unload(key);
        }
    }
}

/// Only the name of a listed key stays, with how long it has been silent.
fn unload(key: &mut Key) {
    key.slices = Default::default();
    key.remembered = None;
    key.absent = 0;
    key.next = i64::MAX;
    key.flags.loaded = false;
}
