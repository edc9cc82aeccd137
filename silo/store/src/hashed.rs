//! Cells of one slot in memory, found by hash: key and value of each lie in one allocation, whose room is used again
//! when the cell is written anew. In order they are needed only where they are folded or scanned; sorted then.

use hashbrown::HashTable;

/// What a cell here costs beyond its bytes, about.
pub const ENTRY_BYTES: usize = 64;

/// A cell's key and value; no value hides a cell of the tables.
#[derive(Debug)]
pub struct Kept {
    /// As [`crate::filter::hash_of`] gives it.
    pub hash: u64,
    /// The key, the value, and what is left of an earlier one that was longer.
    room: Box<[u8]>,
    key_bytes: u32,
    /// [`NO_VALUE`] or its length.
    value_bytes: u32,
}

const NO_VALUE: u32 = u32::MAX;

impl Kept {
    fn new(hash: u64, key: &[u8], value: Option<&[u8]>) -> Kept {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("cells stay below 4 GiB");
        Kept {
            hash,
            room: [key, value.unwrap_or_default()].concat().into(),
            key_bytes: length(key),
            value_bytes: value.map_or(NO_VALUE, length),
        }
    }

    /// The cell's key.
    pub fn key(&self) -> &[u8] {
        &self.room[..self.key_bytes as usize]
    }

    /// Its value; `None` hides a cell of the tables.
    pub fn value(&self) -> Option<&[u8]> {
        let value = &self.room[self.key_bytes as usize..];
        (self.value_bytes != NO_VALUE).then(|| &value[..self.value_bytes as usize])
    }

    fn set(&mut self, value: Option<&[u8]>) {
        let key_bytes = self.key_bytes as usize;
        match value {
            Some(value) if value.len() <= self.room.len() - key_bytes => {
                self.room[key_bytes..key_bytes + value.len()].copy_from_slice(value);
                self.value_bytes = value.len() as u32;
            }
            _ => *self = Kept::new(self.hash, self.key(), value),
        }
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.room.len()
    }
}

/// Cells by key.
#[derive(Debug, Default)]
pub struct Cells {
    table: HashTable<Kept>,
    bytes: usize,
}

impl Cells {
    /// The cell of this key and hash.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Kept> {
        self.table.find(hash, |kept| kept.hash == hash && kept.key() == key)
    }

    /// Writes a cell; no value hides one of the tables.
    pub fn set(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) {
        match self.table.find_mut(hash, |kept| kept.hash == hash && kept.key() == key) {
            Some(kept) => {
                self.bytes -= kept.bytes();
                kept.set(value);
                self.bytes += kept.bytes();
            }
            None => {
                let kept = Kept::new(hash, key, value);
                self.bytes += kept.bytes();
                self.table.insert_unique(hash, kept, |kept| kept.hash);
            }
        }
    }

    /// Forgets a cell.
    pub fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(found) = self.table.find_entry(hash, |kept| kept.hash == hash && kept.key() == key) {
            self.bytes -= found.remove().0.bytes();
        }
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All cells, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.table.iter()
    }

    /// All cells in the order of their keys.
    pub fn sorted(&self) -> Vec<&Kept> {
        let mut sorted: Vec<&Kept> = self.iter().collect();
        sorted.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_written_anew_in_place_and_moved_when_they_grow() {
        let mut cells = Cells::default();
        let value = |cells: &Cells| cells.get(7, b"k").map(|kept| kept.value().map(<[u8]>::to_vec));
        for wanted in [Some(b"four".as_slice()), Some(b"2"), Some(b""), Some(b"longer"), None, Some(b"x")] {
            cells.set(7, b"k", wanted);
            cells.set(7, b"other", Some(b"of the same hash"));
            assert_eq!(value(&cells), Some(wanted.map(<[u8]>::to_vec)));
            assert_eq!(
                cells.sorted().iter().map(|kept| kept.key()).collect::<Vec<_>>(),
                [b"k".as_slice(), b"other"]
            );
        }
        cells.remove(7, b"k");
        cells.remove(7, b"absent");
        assert_eq!(value(&cells), None);
        assert_eq!(cells.bytes(), ENTRY_BYTES + b"otherof the same hash".len());
        cells.remove(7, b"other");
        assert_eq!(cells.bytes(), 0);
    }
}
