//! Which cells an input needs, and taking them; `seal` writes those that changed.
//!
//! | cell | key after the step's prefix | holds |
//! |---|---|---|
//! | ledger | `L` | how many keys have which watermark, where somebody asks how far the step has come |
//! | root | `R` | the wall clock, the partitions' watermarks, the list of index buckets |
//! | bucket | `I`, number | names of keys with a result to come |
//! | key | `K`, name | clock, counters, which slices time will change, the newest of them while a result is to come |
//! | ids | `H`, name | ids a key remembers for a length of time |
//! | slice | `S`, name, start (8 bytes, sorted) | panes |

use super::Operator;
use super::closing::Closing;
use crate::Corrupt;
use crate::encode::Reader;
use crate::event::{Event, Input};
use crate::key::{Key, NOT_LISTED, REMEMBERED_BYTES};
use crate::rules::Rules;
use crate::slice::{Slice, WHOLE};

pub(super) const ROOT: u8 = b'R';
pub(super) const BUCKET: u8 = b'I';
pub(super) const KEY: u8 = b'K';
pub(super) const IDS: u8 = b'H';
pub(super) const LEDGER: u8 = b'L';
const SLICE: u8 = b'S';

impl Operator {
    /// Appends the keys of the cells that must be supplied before `input` can be applied; nothing when all is in
    /// memory. Ask again after supplying: what one cell says may call for another.
    pub fn missing(&mut self, input: &Input<'_>, cells: &mut Vec<Vec<u8>>) {
        self.missing_ledger(cells);
        if self.rules.resident && !self.is_resident {
            let before = cells.len();
            self.missing_everything(cells);
            self.is_resident = cells.len() == before;
        }
        match *input {
            Input::Event(event) => self.missing_for_event(event, true, cells),
            Input::Observe(event) => self.missing_for_event(event, false, cells),
            Input::KeyWatermark { key, to } => {
                if let Some(place) = self.missing_key(key, cells) {
                    self.missing_due(place, to.ms(), cells);
                }
            }
            Input::CloseIdle { key } => {
                if let Some(place) = self.missing_key(key, cells) {
                    let key = self.keys.get(place);
                    let pending = key.slices.iter().filter(|slice| slice.pending && !slice.loaded);
                    cells
                        .extend(pending.map(|slice| slice_cell(&self.prefix, key.name.bytes(), slice.start)));
                }
            }
            Input::End => self.missing_index(cells),
            Input::GoOn => self.missing_portion(cells),
            Input::PartitionWatermark { .. }
            | Input::CloseIdleStream
            | Input::PartitionIdle(_)
            | Input::PartitionActive(_)
            | Input::ProcessingTime(_) => self.missing_root(cells),
        }
    }

    /// Appends the cells that list the keys with a result to come, as far as they are not in memory.
    pub fn missing_index(&mut self, cells: &mut Vec<Vec<u8>>) {
        self.missing_root(cells);
        for bucket in 0..=u8::MAX {
            if self.index.has_root() && !self.index.has(bucket) {
                cells.push(cell(&self.prefix, BUCKET, &[bucket]));
            }
        }
    }

    pub(super) fn missing_root(&self, cells: &mut Vec<Vec<u8>>) {
        if !self.index.has_root() {
            cells.push(cell(&self.prefix, ROOT, b""));
        }
    }

    /// The index, its keys, and of each what time will still change.
    fn missing_everything(&mut self, cells: &mut Vec<Vec<u8>>) {
        let before = cells.len();
        self.missing_index(cells);
        if cells.len() > before {
            return;
        }
        for place in self.index.members() {
            let key = self.keys.get(place);
            if !key.flags.loaded {
                cells.push(cell(&self.prefix, KEY, key.name.bytes()));
            }
            if lacks_ids(&self.rules, key) {
                cells.push(cell(&self.prefix, IDS, key.name.bytes()));
            }
            for slice in key.slices.iter().filter(|slice| !slice.loaded) {
                cells.push(slice_cell(&self.prefix, key.name.bytes(), slice.start));
            }
        }
    }

    fn missing_for_event(&mut self, event: &Event<'_>, enters: bool, cells: &mut Vec<Vec<u8>>) {
        let Some(place) = self.missing_key(event.key, cells) else { return };
        if self.keys.get(place).is_whole(&self.rules) {
            return;
        }
        let w = self.w(place);
        let time = if self.rules.processing { self.root.now } else { event.time.ms() };
        if enters {
            let Operator { rules, keys, windows, prefix, .. } = self;
            let key = keys.get(place);
            if rules.layout.is_aligned() {
                windows.clear();
                rules.windows(time, windows);
                let mut last = None;
                for (start, end) in windows.iter().copied() {
                    if w < rules.close(end) && last != Some(start) && key.lacks(rules, start) {
                        cells.push(slice_cell(prefix, key.name.bytes(), start));
                        last = Some(start);
                    }
                }
            } else if key.lacks(rules, WHOLE) {
                cells.push(slice_cell(prefix, key.name.bytes(), WHOLE));
            }
        }
        if self.rules.per_key
            && let Some(to) = self.rules.watermark_after(time)
        {
            self.missing_due(place, to, cells);
        }
    }

    /// The key's place when its cell is in memory; else what it needs.
    pub(super) fn missing_key(&mut self, name: &[u8], cells: &mut Vec<Vec<u8>>) -> Option<u32> {
        let found = self.keys.find(name);
        if let Some(place) = found
            && self.keys.get(place).flags.loaded
            && !lacks_ids(&self.rules, self.keys.get(place))
        {
            return Some(place);
        }
        self.missing_root(cells);
        let bucket = crate::keys::bucket_of(name);
        if !self.index.has(bucket) {
            cells.push(cell(&self.prefix, BUCKET, &[bucket]));
        }
        let key = found.map(|place| self.keys.get(place));
        if !key.is_some_and(|key| key.flags.loaded) {
            cells.push(cell(&self.prefix, KEY, name));
        }
        if key.map_or(self.rules.dedup_horizon.is_some(), |key| lacks_ids(&self.rules, key)) {
            cells.push(cell(&self.prefix, IDS, name));
        }
        None
    }

    /// The slices that a watermark makes due and whose content that needs, as many as a portion can publish.
    pub(super) fn missing_due(&self, place: u32, to: i64, cells: &mut Vec<Vec<u8>>) {
        let key = self.keys.get(place);
        if key.next > to || key.absent == 0 {
            return;
        }
        for slice in key.slices.iter().filter(|slice| slice.next <= to).take(self.portion) {
            if slice.loaded {
                continue;
            }
            let wanted = slice_cell(&self.prefix, key.name.bytes(), slice.start);
            if needs(&self.rules, slice) && !cells.contains(&wanted) {
                cells.push(wanted);
            }
        }
    }

    /// Hands over a cell that was missing; `None` when the store has none. A cell that is in memory already is passed
    /// over.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let rest = cell.strip_prefix(&*self.prefix).ok_or(Corrupt { what: "cell of another step" })?;
        let (tag, name) = rest.split_first().ok_or(Corrupt { what: "cell key expected" })?;
        match *tag {
            ROOT => self.supply_root(value),
            LEDGER => self.supply_ledger(value),
            BUCKET => {
                let number = *name.first().ok_or(Corrupt { what: "bucket number expected" })?;
                self.supply_bucket(number, value)
            }
            KEY => self.supply_key(name, value),
            IDS => self.supply_ids(name, value),
            SLICE => {
                let at = name.len().checked_sub(8).ok_or(Corrupt { what: "slice start expected" })?;
                let start = u64::from_be_bytes(name[at..].try_into().expect("8 bytes are left"));
                self.supply_slice(&name[..at], (start ^ (1 << 63)) as i64, value)
            }
            _ => Err(Corrupt { what: "cell key expected" }),
        }
    }

    fn supply_root(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        if self.index.has_root() {
            return Ok(());
        }
        let Some(bytes) = value else { return self.index.take_root(None) };
        let mut reader = Reader::cell(bytes)?;
        self.root.now = reader.i64()?;
        self.root.ended = reader.byte()? != 0;
        self.root.partitions.decode(&mut reader)?;
        self.index.take_root(Some(&mut reader))?;
        self.root.closing = Closing::decode(&mut reader)?;
        reader.finish()
    }

    fn supply_bucket(&mut self, number: u8, value: Option<&[u8]>) -> Result<(), Corrupt> {
        let Operator { index, keys, pool, silent, silence, rules, .. } = self;
        index.take_bucket(number, value, keys, |keys, name| {
            let place = entry(keys, pool, name);
            if rules.idle_after.is_some() {
                let key = keys.get_mut(place);
                key.flags.queued = true;
                key.mark = *silence;
                silent.push(std::cmp::Reverse((*silence, place)));
            }
            place
        })
    }

    fn supply_key(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let place = entry(&mut self.keys, &mut self.pool, name);
        let key = self.keys.get_mut(place);
        if key.flags.loaded {
            return Ok(());
        }
        match value {
            Some(bytes) => key.decode(&self.rules, bytes)?,
            None => key.flags.loaded = true,
        }
        self.pool.bytes += key.slices.iter().map(Slice::memory_bytes).sum::<usize>();
        if let Some(ledger) = &self.ledger
            && key.is_pending(&self.rules)
        {
            key.counted = ledger.mark(key.clock);
        }
        if !std::mem::replace(&mut key.flags.hot, true) {
            self.hot.push_back(place);
        }
        if !self.rules.per_key {
            self.enqueue(place);
        }
        Ok(())
    }

    fn supply_ids(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let place = entry(&mut self.keys, &mut self.pool, name);
        let key = self.keys.get_mut(place);
        if key.remembered.is_some() {
            return Ok(());
        }
        let remembered = match value {
            Some(bytes) => {
                let mut reader = Reader::cell(bytes)?;
                let remembered = crate::ids::Remembered::decode(&mut reader)?;
                reader.finish()?;
                remembered
            }
            None => Default::default(),
        };
        self.pool.bytes += remembered.len() * REMEMBERED_BYTES;
        key.remembered = Some(Box::new(remembered));
        Ok(())
    }

    fn supply_slice(&mut self, name: &[u8], start: i64, value: Option<&[u8]>) -> Result<(), Corrupt> {
        let Some(place) = self.keys.find(name).filter(|place| self.keys.get(*place).flags.loaded) else {
            return Ok(());
        };
        let key = self.keys.get_mut(place);
        match key.slice_at(start) {
            Ok(at) if key.slices[at].loaded => {}
            Ok(at) => {
                let bytes = value.ok_or(Corrupt { what: "cell of a listed slice expected" })?;
                let slice = &mut key.slices[at];
                slice.decode(&self.rules, bytes)?;
                key.absent -= 1;
                self.pool.changed(size_of::<Slice>(), slice.memory_bytes());
            }
            Err(at) => {
                let mut slice = Slice::new(start, true);
                if let Some(bytes) = value {
                    slice.decode(&self.rules, bytes)?;
                }
                self.pool.bytes += slice.memory_bytes();
                key.slices.insert(at, slice);
            }
        }
        Ok(())
    }

    /// Commit `n` is stored: what it held may leave memory.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = n.max(self.acknowledged);
    }

    /// The key's place and the slice in memory, for a question; else what it needs.
    pub(super) fn missing_for_question(
        &mut self,
        name: &[u8],
        start: Option<i64>,
        cells: &mut Vec<Vec<u8>>,
    ) -> Option<u32> {
        let place = self.missing_key(name, cells)?;
        let key = self.keys.get(place);
        match start {
            Some(start) if key.lacks(&self.rules, start) => {
                cells.push(slice_cell(&self.prefix, name, start));
                None
            }
            _ => Some(place),
        }
    }
}

/// The key's place; a new entry of which only the name is known when there is none.
fn entry(keys: &mut crate::keys::Keys, pool: &mut crate::pool::Pool, name: &[u8]) -> u32 {
    keys.find(name).unwrap_or_else(|| {
        let place = keys.insert(name);
        debug_assert_eq!(keys.get(place).listed_at, NOT_LISTED);
        pool.bytes += keys.get(place).own_bytes();
        place
    })
}

pub(super) fn lacks_ids(rules: &Rules, key: &Key) -> bool {
    rules.dedup_horizon.is_some() && key.remembered.is_none()
}

/// Whether the slice's content is needed when time changes it. Windows that end together and have given their result
/// only leave.
pub(super) fn needs(rules: &Rules, slice: &Slice) -> bool {
    slice.pending || !rules.layout.ends_together()
}

pub(super) fn cell(prefix: &[u8], tag: u8, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 1 + name.len());
    name_cell(&mut key, prefix, tag, name);
    key
}

pub(super) fn slice_cell(prefix: &[u8], name: &[u8], start: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 9 + name.len());
    name_slice(&mut key, prefix, name, start);
    key
}

pub(super) fn name_cell(into: &mut Vec<u8>, prefix: &[u8], tag: u8, name: &[u8]) {
    into.clear();
    into.extend_from_slice(prefix);
    into.push(tag);
    into.extend_from_slice(name);
}

pub(super) fn name_slice(into: &mut Vec<u8>, prefix: &[u8], name: &[u8], start: i64) {
    name_cell(into, prefix, SLICE, name);
    into.extend_from_slice(&(start as u64 ^ (1 << 63)).to_be_bytes());
}
