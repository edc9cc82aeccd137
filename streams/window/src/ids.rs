//! The ids a window or a key remembers, to refuse copies.
//!
//! An id is kept as its 128-bit XXH3 hash: among n ids the chance that any two differ but hash alike is below
//! n² / 2^129, which is 10^-21 for a thousand million ids in one pane.

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::Corrupt;
use crate::encode::{Reader, put_i64, put_u64};

/// The hash of an id, in two halves (a `u128` would widen every pane to its alignment).
pub(crate) type Id = [u64; 2];

/// Hashes an id.
pub(crate) fn id_of(bytes: &[u8]) -> Id {
    let hash = xxhash_rust::xxh3::xxh3_128(bytes);
    [(hash >> 64) as u64, hash as u64]
}

/// So many ids are looked up one after the other; more go into a set.
const FEW: usize = 16;

/// A set of ids, small when it holds few: most panes see one or two.
#[derive(Clone, Debug, Default)]
pub(crate) enum Ids {
    #[default]
    None,
    One(Id),
    Few(Vec<Id>),
    Many(Box<HashSet<Id, FixedState>>),
}

impl Ids {
    pub(crate) fn contains(&self, id: &Id) -> bool {
        match self {
            Ids::None => false,
            Ids::One(one) => one == id,
            Ids::Few(few) => few.contains(id),
            Ids::Many(many) => many.contains(id),
        }
    }

    /// Memory beside the value itself, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        if let Ids::None | Ids::One(_) = self { 0 } else { 24 + self.len() * 20 }
    }

    /// Adds an id, which must not be in it.
    pub(crate) fn insert(&mut self, id: Id) {
        match self {
            Ids::None => *self = Ids::One(id),
            Ids::One(one) => *self = Ids::Few(vec![*one, id]),
            Ids::Few(few) if few.len() < FEW => few.push(id),
            Ids::Few(few) => {
                let mut many = HashSet::with_capacity_and_hasher(4 * FEW, FixedState::default());
                many.extend(few.iter().copied());
                many.insert(id);
                *self = Ids::Many(Box::new(many));
            }
            Ids::Many(many) => {
                many.insert(id);
            }
        }
    }

    /// Unites two sets.
    pub(crate) fn merge(&mut self, other: Ids) {
        other.for_each(|id| {
            if !self.contains(&id) {
                self.insert(id);
            }
        });
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Ids::None => 0,
            Ids::One(_) => 1,
            Ids::Few(few) => few.len(),
            Ids::Many(many) => many.len(),
        }
    }

    fn for_each(&self, mut f: impl FnMut(Id)) {
        match self {
            Ids::None => {}
            Ids::One(one) => f(*one),
            Ids::Few(few) => few.iter().for_each(|id| f(*id)),
            Ids::Many(many) => many.iter().for_each(|id| f(*id)),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.len() as u64);
        self.for_each(|id| id.iter().for_each(|half| out.extend_from_slice(&half.to_le_bytes())));
    }

    pub(crate) fn of(encoded: Encoded<'_>) -> Ids {
        let mut ids = Ids::None;
        for id in encoded.iter() {
            if !ids.contains(&id) {
                ids.insert(id);
            }
        }
        ids
    }
}

/// Ids as a cell holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoded<'a>(&'a [u8]);

impl<'a> Encoded<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Corrupt> {
        let n = reader.count()?;
        reader.take(n * size_of::<Id>()).map(Encoded)
    }

    pub(crate) fn contains(self, id: &Id) -> bool {
        self.iter().any(|held| held == *id)
    }

    fn iter(self) -> impl Iterator<Item = Id> + 'a {
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of an id has 8 bytes"));
        self.0.chunks_exact(size_of::<Id>()).map(move |id| [half(&id[..8]), half(&id[8..])])
    }
}

fn read_id(reader: &mut Reader<'_>) -> Result<Id, Corrupt> {
    Ok([u64::from_le_bytes(reader.array()?), u64::from_le_bytes(reader.array()?)])
}

/// Ids a key remembers for a length of time, with the time of the event that brought each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    /// By time, so that the oldest are forgotten first.
    by_time: std::collections::BTreeSet<(i64, Id)>,
    ids: HashSet<Id, FixedState>,
    /// Changed since the last seal.
    pub(crate) dirty: bool,
}

impl Remembered {
    /// Whether the id is remembered when the watermark is `w`: until `w >= time + horizon`.
    pub(crate) fn contains(&mut self, id: &Id, w: i64, horizon: i64) -> bool {
        while let Some(&(time, oldest)) = self.by_time.first() {
            if w < time.saturating_add(horizon) {
                break;
            }
            self.by_time.pop_first();
            self.ids.remove(&oldest);
            self.dirty = true;
        }
        self.ids.contains(id)
    }

    pub(crate) fn insert(&mut self, id: Id, time: i64) {
        self.by_time.insert((time, id));
        self.ids.insert(id);
        self.dirty = true;
    }

    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.len() as u64);
        for (time, id) in &self.by_time {
            put_i64(out, *time);
            id.iter().for_each(|half| out.extend_from_slice(&half.to_le_bytes()));
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let mut remembered = Remembered::default();
        for _ in 0..reader.count()? {
            let time = reader.i64()?;
            remembered.insert(read_id(reader)?, time);
        }
        remembered.dirty = false;
        Ok(remembered)
    }
}
