//! Writing the cells that changed.

use super::Operator;
use super::cells::{BUCKET, IDS, KEY, LEDGER, ROOT, cell, name_cell, name_slice};
use crate::encode::{VERSION, put_i64};

/// Takes a changed cell: its key, and its value or `None` for a deletion.
pub type Put<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

impl Operator {
    /// Hands the cells changed since the last seal to `put`, `None` for a deletion: they belong to commit `n`. Each
    /// cell is named once. A window opened and closed since then costs nothing.
    pub fn seal(&mut self, n: u64, put: &mut Put<'_>) {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        for (place, start) in std::mem::take(&mut self.pool.deleted) {
            let key = self.keys.get_mut(place);
            match key.slice_at(start) {
                Ok(at) => key.slices[at].stored = true, // another has its name: see to its cell below
                Err(_) => {
                    name_slice(&mut name, &self.prefix, key.name.bytes(), start);
                    put(&name, None);
                }
            }
        }
        for place in std::mem::take(&mut self.dirty) {
            self.seal_key(place, n, (&mut name, &mut value), put);
        }
        let Operator { index, keys, prefix, root, .. } = self;
        root.dirty |= index.seal(keys, |bucket, value| put(&cell(prefix, BUCKET, &[bucket]), value));
        if std::mem::take(&mut root.dirty) {
            value.clear();
            value.push(VERSION);
            put_i64(&mut value, root.now);
            value.push(u8::from(root.ended));
            root.partitions.encode(&mut value);
            index.encode_root(&mut value);
            root.closing.encode(&mut value);
            put(&cell(prefix, ROOT, b""), Some(&value));
        }
        if self.ledger.as_mut().is_some_and(|ledger| ledger.seal(&mut value)) {
            put(&cell(&self.prefix, LEDGER, b""), Some(&value));
        }
    }

    /// The key's changed slices, then the key itself.
    fn seal_key(&mut self, place: u32, n: u64, room: (&mut Vec<u8>, &mut Vec<u8>), put: &mut Put<'_>) {
        let (name, value) = room;
        let Operator { keys, rules, pool, prefix, .. } = self;
        let key = keys.get_mut(place);
        key.flags.dirty = false;
        key.sealed = n;
        let newest = key.slices.len().saturating_sub(1);
        for (at, slice) in key.slices.iter_mut().enumerate() {
            let was_with_key = slice.with_key;
            slice.with_key = at == newest && slice.is_hot(rules);
            if !slice.dirty && slice.with_key == was_with_key {
                continue;
            }
            slice.dirty = false;
            slice.sealed = n;
            name_slice(name, prefix, key.name.bytes(), slice.start);
            let was_stored = std::mem::replace(&mut slice.stored, !slice.with_key);
            if slice.with_key {
                if was_stored {
                    put(name, None);
                }
                continue;
            }
            slice.pack(rules, pool);
            if let Some(packed) = slice.packed() {
                put(name, Some(packed));
                continue;
            }
            value.clear();
            slice.encode(rules, value);
            put(name, Some(value));
        }
        if let Some(remembered) = key.remembered.as_mut().filter(|remembered| remembered.dirty) {
            remembered.dirty = false;
            name_cell(name, prefix, IDS, key.name.bytes());
            value.clear();
            value.push(VERSION);
            remembered.encode(value);
            put(name, Some(value));
        }
        name_cell(name, prefix, KEY, key.name.bytes());
        value.clear();
        key.encode(rules, value);
        put(name, Some(value));
    }
}
