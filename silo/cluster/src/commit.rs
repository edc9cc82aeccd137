//! What a commit is made of.
//!
//! A commit is immutable once sealed: it is resent byte for byte until the store says done, already done or fenced.
//! Its many small keys, values and rows lie in arenas, so sealing allocates little.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use granary_core::{SlotId, Timestamp};

use crate::revision::Program;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(/// How often the slot has been acquired: every write names it.
    Epoch(u64));
number!(/// The number of a commit of a slot: 1, 2, 3, ...; 0 is the new slot.
    CommitNo(u64));
number!(/// One life of a silo process; a silo declared dead returns as a new one.
    Incarnation(u64));
number!(/// One life of the store's server: a write acknowledged in another life may be gone.
    RunId(u64));
number!(/// A numbered content of what silos run, see [`crate::revision`].
    RevisionNo(u64));
number!(/// Revisions that read each other's state are of one generation; a later one has a greater number.
    Generation(u64));
number!(/// A source, by its place among all that the cluster ever had.
    SourceId(u16));
number!(/// An output stream (a sink's topic, `rejected`, `late`, `poisoned`, ...), by its place among all that the cluster ever
    /// had.
    StreamId(u16));

impl CommitNo {
    /// The commit after this one.
    pub const fn next(self) -> CommitNo {
        CommitNo(self.0 + 1)
    }
}

/// A transactional id at the log: `cluster/incarnation/lane`, without the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxId {
    /// The silo's life.
    pub incarnation: Incarnation,
    /// The lane in it.
    pub lane: u16,
}

/// Who may still hold a transaction of the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxIds {
    /// `*`: every transactional id of the cluster, after a write under another run of the store.
    pub everyone: bool,
    /// These, in any order, each once.
    pub ids: Vec<TxId>,
}

/// Names one commit for ever, so that a resend is recognised: who sealed it, under which epoch, as which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommitId {
    /// The silo's life.
    pub incarnation: Incarnation,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// The commit's number.
    pub n: CommitNo,
}

/// Where a slot stands in one partition of one source: the next offset it will apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which source.
    pub source: SourceId,
    /// Which partition of it.
    pub partition: u32,
    /// The next offset to apply.
    pub offset: u64,
}

/// What made an output: a record, and the how-manieth output of it. Recomputed entries are recognised by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// Which source.
    pub source: SourceId,
    /// Which partition of it.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// The how-manieth output of that record, from 0.
    pub index: u32,
}

/// One output record, lying in an [`Outbox`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it goes.
    pub stream: StreamId,
    /// What made it.
    pub cause: Cause,
    /// The event time it carries, ms.
    pub time: Timestamp,
    key: Range<u32>,
    id: Range<u32>,
    value: Range<u32>,
}

/// Outputs decided but not yet published, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    #[serde(with = "bytes_field")]
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

impl Outbox {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// Bytes of memory it keeps.
    pub fn room(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Appends one entry: `key` is the routing key, `id` the identity a replay reproduces, `write` appends the value.
    pub fn push(
        &mut self,
        stream: StreamId,
        cause: Cause,
        time: Timestamp,
        key: &[u8],
        id: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.arena.len();
        self.arena.extend_from_slice(key);
        let key_end = self.arena.len();
        id(&mut self.arena);
        let id_end = self.arena.len();
        value(&mut self.arena);
        let end = self.arena.len();
        let at = |i: usize| u32::try_from(i).expect("an outbox stays below 4 GiB: commits are bounded");
        self.entries.push(Entry {
            stream,
            cause,
            time,
            key: at(start)..at(key_end),
            id: at(key_end)..at(id_end),
            value: at(id_end)..at(end),
        });
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The routing key of an entry.
    pub fn key(&self, entry: &Entry) -> &[u8] {
        slice(&self.arena, &entry.key)
    }

    /// The identity of an entry.
    pub fn id(&self, entry: &Entry) -> &[u8] {
        slice(&self.arena, &entry.id)
    }

    /// The value of an entry.
    pub fn value(&self, entry: &Entry) -> &[u8] {
        slice(&self.arena, &entry.value)
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys, identities and values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Keeps the entries `keep` says yes to, in their order; the bytes of the others stay in the arena.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
        if self.entries.is_empty() {
            self.arena.clear();
        }
    }

    /// Changes streams and causes of the entries from place `from` on.
    pub fn renumber(&mut self, from: usize, mut renumber: impl FnMut(&mut StreamId, &mut Cause)) {
        self.entries[from..].iter_mut().for_each(|entry| renumber(&mut entry.stream, &mut entry.cause));
    }

    /// A copy of the entries from place `from` on that `keep` says yes to, in their order.
    pub fn part(&self, from: usize, keep: impl Fn(&Entry) -> bool) -> Outbox {
        let mut part = Outbox::default();
        for entry in self.entries.iter().skip(from).filter(|entry| keep(entry)) {
            let (key, id, value) = (self.key(entry), self.id(entry), self.value(entry));
            let Entry { stream, cause, time, .. } = *entry;
            part.push(stream, cause, time, key, |out| out.extend(id), |out| out.extend(value));
        }
        part
    }
}

/// Writes and deletions of cells, in the order of their sealing; of two writes of one key the later holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    #[serde(with = "bytes_field")]
    arena: Vec<u8>,
    writes: Vec<Write>,
}

/// Key and value of a write, in the arena; no value deletes.
type Write = (Range<u32>, Option<Range<u32>>);

impl Cells {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.writes.clear();
    }

    /// Bytes of memory it keeps.
    pub fn room(&self) -> usize {
        self.arena.capacity() + self.writes.capacity() * size_of::<Write>()
    }

    /// Writes a cell; both closures append.
    pub fn put(&mut self, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let key = self.append(key);
        let value = self.append(value);
        self.writes.push((key, Some(value)));
    }

    /// Deletes a cell.
    pub fn delete(&mut self, key: impl FnOnce(&mut Vec<u8>)) {
        let key = self.append(key);
        self.writes.push((key, None));
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<u32> {
        let start = self.arena.len();
        write(&mut self.arena);
        let at =
            |i: usize| u32::try_from(i).expect("the cells of a commit stay below 4 GiB: commits are bounded");
        at(start)..at(self.arena.len())
    }

    /// Key and value (`None` deletes) of each write.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| {
            (slice(&self.arena, key), value.as_ref().map(|value| slice(&self.arena, value)))
        })
    }

    /// How many writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }
}

fn slice<'a>(arena: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &arena[range.start as usize..range.end as usize]
}

/// Commit n of a slot: one atomic step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Which slot.
    pub slot: SlotId,
    /// Under which epoch it was sealed; the store checks it.
    pub epoch: Epoch,
    /// Its number; the store checks that the stored commit is `n - 1`.
    pub n: CommitNo,
    /// Its name, so that a resend is recognised.
    pub id: CommitId,
    /// Dirty cells, timers and deletions.
    pub cells: Cells,
    /// Every position of the slot after this commit.
    pub positions: Vec<Position>,
    /// Outputs decided by this commit.
    pub outbox: Outbox,
    /// The marker is known to cover outbox entries up to this commit: they may go.
    pub trim: CommitNo,
}

/// A record that was noted before it was applied, since the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Which record.
    pub at: Position,
    /// The silo that noted it last.
    pub by: Incarnation,
    /// How many silos noted it: all of them but the present one ended with it, or soon after.
    pub times: u32,
}

impl Noted {
    /// What the row holds when `at` is noted by this silo (perhaps not for the first time) and held `before`.
    pub fn after(before: Option<Noted>, at: Position, by: Incarnation) -> Noted {
        let same = before.filter(|noted| noted.at == at);
        let times = same.map_or(0, |noted| noted.times);
        let is_counted = same.is_some_and(|noted| noted.by == by);
        Noted { at, by, times: if is_counted { times } else { times.saturating_add(1) } }
    }

    /// What the row holds when this silo acquires the slot and it held `before`: who acquires again what it had, after a
    /// failover of the store say, has not ended, and takes back what it noted.
    pub fn survived(before: Option<Noted>, by: Incarnation) -> Option<Noted> {
        match before {
            Some(Noted { at, by: last, times }) if last == by => {
                (times > 1).then(|| Noted { at, by: Incarnation(0), times: times - 1 })
            }
            others => others,
        }
    }
}

/// The slot's row in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// Who owns it.
    pub owner: Incarnation,
    /// As of which acquire.
    pub epoch: Epoch,
    /// The last commit.
    pub n: CommitNo,
    /// The name of the last commit.
    pub commit_id: Option<CommitId>,
    /// Where it stands in its sources.
    pub positions: Vec<Position>,
    /// Who may still hold a transaction of it.
    pub txids: TxIds,
    /// The store's run at the last acquire.
    pub run: RunId,
    /// Take-overs since the last commit: at 2 the slot takes one record per commit.
    pub tries: u32,
    /// The record about to be applied, noted before it while `tries` is 2 or more.
    pub noted: Option<Noted>,
    /// What its owner runs, as of the last acquire: nobody of an earlier generation takes it any more.
    #[serde(default)]
    pub program: Program,
}

impl SlotRecord {
    /// The row of a slot nobody has owned yet.
    pub fn new() -> SlotRecord {
        SlotRecord {
            owner: Incarnation(0),
            epoch: Epoch(0),
            n: CommitNo(0),
            commit_id: None,
            positions: Vec::new(),
            txids: TxIds::default(),
            run: RunId(0),
            tries: 0,
            noted: None,
            program: Program::default(),
        }
    }
}

impl Default for SlotRecord {
    fn default() -> Self {
        SlotRecord::new()
    }
}

/// The committed offset of the slot's partition of the internal slots topic, with its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Output of every commit up to this one is published.
    pub n: CommitNo,
    /// The epoch that published it.
    pub epoch: Epoch,
    /// The transactional id that published it.
    pub txid: TxId,
    /// Where the published outputs stand in the sources; never goes back.
    pub positions: Vec<Position>,
}

/// Bytes as MessagePack bytes, not as a list of numbers.
mod bytes_field {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
