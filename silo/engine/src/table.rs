//! The activations of one slot: entries of a table, not tasks. An idle grain costs its state, its key and one entry.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use foldhash::fast::FixedState;
use granary_core::envelope::Envelope;
use granary_core::shared::AnyGrain;
use granary_core::{Access, Key, KindId, Timestamp};
use hashbrown::HashTable;

/// Entries of one piece of the table: it grows by pieces, so growing never copies or doubles it.
const PIECE: usize = 256;

/// How many turns run on an activation, and of which sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// None.
    Idle,
    /// One `&mut self` turn.
    Exclusive,
    /// So many `&self` turns.
    Reading(u16),
    /// So many `#[interleave]` turns.
    Interleaving(u16),
}

impl Busy {
    /// The state with one more turn of this access; `None` when it has to wait.
    pub fn enter(self, access: Access) -> Option<Busy> {
        match (self, access) {
            (Busy::Idle, Access::Write) => Some(Busy::Exclusive),
            (Busy::Idle, Access::Read) => Some(Busy::Reading(1)),
            (Busy::Idle, Access::Interleave) => Some(Busy::Interleaving(1)),
            (Busy::Reading(n), Access::Read) => n.checked_add(1).map(Busy::Reading),
            (Busy::Interleaving(n), Access::Interleave) => n.checked_add(1).map(Busy::Interleaving),
            _ => None,
        }
    }

    /// The state with one turn less.
    pub fn leave(self) -> Busy {
        match self {
            Busy::Reading(n) if n > 1 => Busy::Reading(n - 1),
            Busy::Interleaving(n) if n > 1 => Busy::Interleaving(n - 1),
            _ => Busy::Idle,
        }
    }
}

/// Whether an activation stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// It does.
    Here,
    /// A turn asked for it to leave: it begins to when no turn runs on it.
    Asked,
    /// Its hook before leaving waits or runs; everything else waits.
    Closing,
    /// It leaves as soon as what it changed is stored; a call that comes first is for a new activation.
    Closed,
}

/// A call that waits for its turn.
pub(crate) struct Waiting {
    pub envelope: Box<dyn Envelope>,
    pub since: Timestamp,
}

/// What only a busy activation needs.
#[derive(Default)]
pub(crate) struct Desk {
    /// Calls that wait, in the order of their arrival.
    pub queue: VecDeque<Waiting>,
    /// The rows of the running async turns.
    pub turns: Vec<u32>,
}

/// A grain in memory.
pub(crate) struct Activation {
    pub key: Key,
    pub grain: Rc<dyn AnyGrain>,
    /// The commit that holds, or will hold, its last change; 0 when it is as stored.
    pub changed_in: u64,
    desk: Option<Box<Desk>>,
    pub kind: u16,
    pub busy: Busy,
    /// Changed since the last seal.
    pub is_dirty: bool,
    pub stay: Stay,
    /// The last call, in seconds of the lane's clock since its start.
    pub used_at_s: u32,
    /// Bytes of its state as last stored or loaded.
    pub state_bytes: u32,
    /// When the queue is looked at for calls out of time, in beats of the lane; 0 for never.
    pub alarm_beat: u32,
    hash: u32,
}

impl Activation {
    pub fn desk(&mut self) -> &mut Desk {
        self.desk.get_or_insert_default()
    }

    pub fn queue_len(&self) -> usize {
        self.desk.as_ref().map_or(0, |desk| desk.queue.len())
    }

    pub fn turns(&self) -> &[u32] {
        self.desk.as_ref().map_or(&[], |desk| &desk.turns)
    }

    /// Drops the desk when nothing lies on it: an idle grain keeps none.
    pub fn tidy(&mut self) {
        if self.desk.as_ref().is_some_and(|desk| desk.queue.is_empty() && desk.turns.is_empty()) {
            self.desk = None;
        }
    }

    /// Whether nothing runs or waits.
    pub fn is_quiet(&self) -> bool {
        self.busy == Busy::Idle && self.queue_len() == 0
    }
}

/// The table.
#[derive(Default)]
pub(crate) struct Table {
    index: HashTable<u32>,
    pieces: Vec<Vec<Option<Activation>>>,
    free: Vec<u32>,
    len: usize,
    state_bytes: usize,
}

/// The hash of a grain in its slot's table; 32 bits are kept, so that growing the index needs no key.
pub(crate) fn hash_of(kind: KindId, key: &Key) -> u32 {
    let mut hasher = FixedState::with_seed(u64::from(kind.0)).build_hasher();
    hasher.write(key.as_str().as_bytes());
    hasher.finish() as u32
}

impl Table {
    /// How many activations.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The row of a grain; `kind` is the number the lane gave to the kind.
    pub fn find(&self, hash: u32, kind: u16, key: &Key) -> Option<u32> {
        let same = |row: &u32| self.get(*row).is_some_and(|a| a.kind == kind && a.key == *key);
        self.index.find(spread(hash), same).copied()
    }

    pub fn get(&self, row: u32) -> Option<&Activation> {
        self.pieces.get(row as usize / PIECE)?.get(row as usize % PIECE)?.as_ref()
    }

    pub fn get_mut(&mut self, row: u32) -> Option<&mut Activation> {
        self.pieces.get_mut(row as usize / PIECE)?.get_mut(row as usize % PIECE)?.as_mut()
    }

    /// Adds an activation. The grain must not be in the table.
    pub fn insert(&mut self, hash: u32, kind: u16, key: Key, grain: Rc<dyn AnyGrain>, used_at_s: u32) -> u32 {
        let activation = Activation {
            key,
            grain,
            changed_in: 0,
            desk: None,
            kind,
            busy: Busy::Idle,
            is_dirty: false,
            stay: Stay::Here,
            used_at_s,
            state_bytes: 0,
            alarm_beat: 0,
            hash,
        };
        let row = self.free.pop().unwrap_or_else(|| {
            if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
                self.pieces.push(Vec::with_capacity(PIECE));
            }
            let piece = self.pieces.len() - 1;
            self.pieces[piece].push(None);
            u32::try_from(piece * PIECE + self.pieces[piece].len() - 1)
                .expect("a slot holds fewer than 2^32 grains")
        });
        self.pieces[row as usize / PIECE][row as usize % PIECE] = Some(activation);
        let pieces = &self.pieces;
        self.index.insert_unique(spread(hash), row, |row| {
            let entry = pieces[*row as usize / PIECE][*row as usize % PIECE].as_ref();
            spread(entry.map_or(0, |a| a.hash))
        });
        self.len += 1;
        row
    }

    /// Bytes of memory, about; `each` is what an activation costs besides its state.
    pub fn bytes(&self, each: usize) -> usize {
        self.len * each + self.state_bytes
    }

    /// The state of this row now takes so many bytes.
    pub fn set_state_bytes(&mut self, row: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Some(activation) = self.get_mut(row) else { return };
        let before = std::mem::replace(&mut activation.state_bytes, bytes);
        self.state_bytes = self.state_bytes + bytes as usize - before as usize;
    }

    /// Hands out all calls that wait, with the keys of their grains.
    pub fn drain_waiting(&mut self) -> Vec<(Key, Box<dyn Envelope>)> {
        self.take_waiting(|_| true)
    }

    /// Takes those of the waiting calls out that are wanted.
    pub fn take_waiting(&mut self, wanted: impl Fn(&dyn Envelope) -> bool) -> Vec<(Key, Box<dyn Envelope>)> {
        let mut waiting = Vec::new();
        for activation in self.pieces.iter_mut().flatten().flatten() {
            let key = activation.key.clone();
            let Some(desk) = &mut activation.desk else { continue };
            for Waiting { envelope, since } in std::mem::take(&mut desk.queue) {
                if wanted(&*envelope) {
                    waiting.push((key.clone(), envelope));
                } else {
                    desk.queue.push_back(Waiting { envelope, since });
                }
            }
        }
        waiting
    }

    /// Takes an activation out.
    pub fn remove(&mut self, row: u32) -> Option<Activation> {
        let taken = self.pieces.get_mut(row as usize / PIECE)?.get_mut(row as usize % PIECE)?.take()?;
        if let Ok(entry) = self.index.find_entry(spread(taken.hash), |r| *r == row) {
            entry.remove();
        }
        self.free.push(row);
        self.state_bytes -= taken.state_bytes as usize;
        self.len -= 1;
        if self.len == 0 {
            *self = Table::default(); // the memory of a crowd that has left goes back
        }
        Some(taken)
    }

    /// The rows in use, from `from` on, at most `most` rows looked at; and where to go on (`None` at the end).
    pub fn sweep(&self, from: u32, most: usize) -> (Vec<u32>, Option<u32>) {
        let end = self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len());
        let stop = (from as usize + most).min(end);
        let rows =
            (from as usize..stop).map(|row| row as u32).filter(|row| self.get(*row).is_some()).collect();
        (rows, (stop < end).then_some(stop as u32))
    }
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
