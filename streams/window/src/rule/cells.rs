//! What of a judge is stored, and reading it again, also under other rules.
//!
//! | cell | key after the prefix | holds |
//! |---|---|---|
//! | root | `R` | the layouts: names of numbers, texts, conditions and rules, as they were when keys were written |
//! | key | `K`, key | layout, clock, what rules carry, which chunks there are, and the last of them |
//! | chunk | `C`, key, number (4 bytes) | events |
//! | agenda | `A` and what [`crate::agenda`] says | keys with something due |
//! | heard | `H` | how far partitions have come, for the agenda |
//!
//! Most events come to the last chunk of their key, so most changes write one cell. A chunk has its own once another follows it.
//!
//! Rules may change from one start to the next. A key that was written under other rules keeps its events: what has the same
//! name is taken over, what is new is missing in old events, and rules that look back on those say that they are warming.

use std::collections::VecDeque;
use std::sync::Arc;

use super::judge::{Judge, Key, Loading};
use super::kept::{Chunk, Kept, Layout, Place};
use super::set::{Carries, Names, Set};
use super::sliding::Sliding;
use super::written::{put_chunk, put_key, put_root, read_carries, read_chunk, read_filling, read_root};
use super::{ABSENT, KEPT_MAX};
use crate::Corrupt;
use crate::encode::{Reader, VERSION};
use crate::ids::id_of;

const ROOT: u8 = b'R';
const KEY: u8 = b'K';
const CHUNK: u8 = b'C';
const AGENDA: u8 = b'A';
const HEARD: u8 = b'H';

/// Where what is now stood under an older layout.
#[derive(Debug)]
pub(super) struct Mapping {
    old: Layout,
    numbers: Vec<Option<usize>>,
    texts: Vec<Option<usize>>,
    conditions: Vec<Option<usize>>,
    rules: Vec<Option<usize>>,
}

impl Mapping {
    fn new(old: &Names, now: &Names) -> Mapping {
        let places = |old: &[Box<str>], now: &[Box<str>]| {
            now.iter().map(|name| old.iter().position(|known| known == name)).collect()
        };
        Mapping {
            old: old.layout(),
            numbers: places(&old.numbers, &now.numbers),
            texts: places(&old.texts, &now.texts),
            conditions: places(&old.conditions, &now.conditions),
            rules: places(&old.rules, &now.rules),
        }
    }
}

impl Judge {
    /// Appends the keys of the cells that must be supplied before anything is done with this key. Ask again after
    /// supplying: what one cell says may call for others.
    pub fn missing(&mut self, key: &[u8], cells: &mut Vec<Vec<u8>>) {
        let before = cells.len();
        self.missing_root(cells);
        if cells.len() > before {
            return;
        }
        if self.keys.contains_key(key) {
            return;
        }
        match self.loading.get(key) {
            None => cells.push(self.cell(KEY, key, None)),
            Some(loading) => {
                let lacking = (loading.first..).zip(&loading.chunks).filter(|(_, chunk)| chunk.is_none());
                cells.extend(lacking.map(|(number, _)| self.cell(CHUNK, key, Some(number))));
            }
        }
    }

    /// Appends those without which it is not known whether something is due.
    pub fn missing_root(&self, cells: &mut Vec<Vec<u8>>) {
        if self.layouts.is_none() {
            cells.push(self.cell(ROOT, b"", None));
        }
        if let Some(agenda) = &self.agenda {
            agenda.missing(cells);
            if !self.has_heard {
                cells.push(self.cell(HEARD, b"", None));
            }
        }
    }

    fn cell(&self, kind: u8, key: &[u8], number: Option<u32>) -> Vec<u8> {
        let number = number.map(u32::to_be_bytes);
        [&self.prefix[..], &[kind][..], key, number.as_ref().map_or(&[][..], |number| number)].concat()
    }

    /// Hands over a cell that was missing: `None` when the store has none.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let rest = cell.strip_prefix(&*self.prefix).and_then(<[u8]>::split_first);
        match (rest, value) {
            (Some((&HEARD, _)), value) => self.supply_heard(value),
            (Some((&AGENDA, _)), value) => {
                let agenda = self.agenda.as_mut().ok_or(Corrupt { what: "no cell of an agenda expected" })?;
                agenda.supply(cell, value)
            }
            (Some((&ROOT, _)), value) => {
                let layouts = value.map_or(Ok(Vec::new()), read_root)?;
                self.set_layouts(layouts);
                Ok(())
            }
            (Some((&KEY, key)), None) => {
                let mut fresh = Key::new(&self.set);
                self.bytes += fresh.account(key, &self.set);
                self.keys.insert(key.into(), fresh);
                Ok(())
            }
            (Some((&KEY, key)), Some(value)) => self.supply_key(key, value),
            (Some((&CHUNK, rest)), Some(value)) => {
                let (key, number) =
                    rest.split_last_chunk::<4>().ok_or(Corrupt { what: "a chunk's number expected" })?;
                self.supply_chunk(key, u32::from_be_bytes(*number), value)
            }
            _ => Err(Corrupt { what: "a cell of a judge expected" }),
        }
    }

    fn supply_heard(&mut self, value: Option<&[u8]>) -> Result<(), Corrupt> {
        self.has_heard = true;
        let Some(mut reader) = value.map(Reader::cell).transpose()? else { return Ok(()) };
        self.heard.read(&mut reader)?;
        reader.finish()
    }

    pub(super) fn set_layouts(&mut self, mut layouts: Vec<Names>) {
        let known = layouts.iter().position(|names| *names == self.set.names);
        self.layout = known.unwrap_or_else(|| {
            self.is_root_changed = true;
            layouts.push(self.set.names.clone());
            layouts.len() - 1
        });
        self.layouts = Some(layouts);
    }

    /// Goes on by other rules: every key that is in memory is taken over by the names of fields, conditions and rules, as if it
    /// had been stored under the old ones and read under these.
    pub fn revise(&mut self, set: Arc<Set>) {
        let mapping = Mapping::new(&self.set.names, &set.names);
        self.set = set;
        self.forget_counts();
        self.loading.clear();
        if self.agenda.is_none() {
            self.agenda = self.set.agenda(&self.prefix); // it is asked for with the next key
        }
        let Some(layouts) = self.layouts.take() else { return };
        self.set_layouts(layouts);
        let set = self.set.clone();
        for (name, key) in &mut self.keys {
            key.carries = key.carries.moved(&mapping);
            key.warm(&set, &mapping);
            let chunks = std::mem::take(&mut key.kept.chunks);
            let chunks = chunks.iter().map(|chunk| chunk.moved(&mapping, set.layout)).collect();
            key.kept = Kept::of(set.layout, key.kept.first, chunks);
            key.ids.clear();
            key.rebuild(&set);
            if !std::mem::replace(&mut key.is_changed, true) {
                self.dirty.push(name.clone());
            }
            let before = key.bytes;
            self.bytes = self.bytes - before + key.account(name, &set);
        }
    }

    fn supply_key(&mut self, name: &[u8], value: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::cell(value)?;
        let layout = reader.u64()? as usize;
        let layouts = self.layouts.as_deref().unwrap_or_default();
        let names = layouts.get(layout).ok_or(Corrupt { what: "a layout of the root expected" })?;
        let mapping = (layout != self.layout).then(|| Mapping::new(names, &self.set.names));
        let mut key = Key::new(&self.set);
        key.clock = reader.i64()?;
        let first = reader.u32()?;
        let count = reader.u32()? as usize;
        if count > KEPT_MAX {
            return Err(Corrupt { what: "fewer chunks expected" });
        }
        key.judged = Place { chunk: reader.u32()?, at: reader.u32()? };
        key.overflows = reader.u64()?;
        for _ in 0..reader.count()? {
            key.warming.push((reader.u32()? as u16, reader.i64()?));
        }
        key.carries = read_carries(&mut reader, names.rules.len())?;
        let last = reader.bytes()?;
        let mut last = if last.is_empty() { None } else { Some(read_chunk(last, names)?) };
        if reader.left() > 0 {
            key.listed = reader.i64()?;
        }
        if reader.left() > 0 {
            key.filling = read_filling(&mut reader)?;
        }
        reader.finish()?;
        if last.is_some() != (count > 0) {
            return Err(Corrupt { what: "the last chunk of the key expected" });
        }
        if let Some(mapping) = &mapping {
            key.carries = key.carries.moved(mapping);
            key.is_changed = true;
            key.warm(&self.set, mapping);
            last = last.map(|chunk| chunk.moved(mapping, self.set.layout));
        }
        key.kept.first = first;
        key.stored_last = (count as u32).checked_sub(1).map(|before| first + before);
        let mut chunks = vec![None; count];
        if let Some(place) = chunks.last_mut() {
            *place = last;
        }
        let loading = Loading { key, first, chunks, layout, mapping };
        self.loading.insert(name.into(), loading);
        self.settle_in(name);
        Ok(())
    }

    fn supply_chunk(&mut self, name: &[u8], number: u32, value: &[u8]) -> Result<(), Corrupt> {
        let layouts = self.layouts.as_deref().unwrap_or_default();
        let loading =
            self.loading.get_mut(name).ok_or(Corrupt { what: "a chunk that was asked for expected" })?;
        let names = layouts.get(loading.layout).ok_or(Corrupt { what: "a layout of the root expected" })?;
        let mut chunk = read_chunk(value, names)?;
        if let Some(mapping) = &loading.mapping {
            chunk = chunk.moved(mapping, self.set.layout);
        }
        let place = number.checked_sub(loading.first).and_then(|i| loading.chunks.get_mut(i as usize));
        *place.ok_or(Corrupt { what: "a chunk of the key expected" })? = Some(chunk);
        self.settle_in(name);
        Ok(())
    }

    /// A key of which all is there takes its place.
    fn settle_in(&mut self, name: &[u8]) {
        if self.loading.get(name).is_none_or(|loading| loading.chunks.iter().any(Option::is_none)) {
            return;
        }
        let Some(Loading { mut key, first, chunks, .. }) = self.loading.remove(name) else { return };
        let chunks: VecDeque<Chunk> = chunks.into_iter().flatten().collect();
        key.kept = Kept::of(self.set.layout, first, chunks);
        key.rebuild(&self.set);
        if key.is_changed {
            self.dirty.push(name.into());
        }
        self.bytes += key.account(name, &self.set);
        self.keys.insert(name.into(), key);
    }

    /// Writes the cells that changed; `None` deletes one. They are part of commit `n`.
    pub fn seal(&mut self, n: u64, put: &mut impl FnMut(&[u8], Option<&[u8]>)) {
        let mut out = Vec::new();
        if std::mem::take(&mut self.is_root_changed)
            && let Some(layouts) = &self.layouts
        {
            put_root(layouts, &mut out);
            put(&self.cell(ROOT, b"", None), Some(&out));
        }
        for name in std::mem::take(&mut self.dirty) {
            let layout = self.layout;
            let Some(key) = self.keys.get_mut(&name) else {
                continue;
            };
            key.is_changed = false;
            key.sealed = n;
            out.clear();
            put_key(layout, key, &mut out);
            let mut cells: Vec<(u32, Option<Vec<u8>>)> =
                std::mem::take(&mut key.dropped).into_iter().map(|number| (number, None)).collect();
            let layout = key.kept.layout;
            let last = key.last_chunk();
            let was_last = std::mem::replace(&mut key.stored_last, last);
            for (number, chunk) in (key.kept.first..).zip(&mut key.kept.chunks) {
                let is_changed = std::mem::take(&mut chunk.is_changed);
                if Some(number) != last && (is_changed || Some(number) == was_last) {
                    let mut out = Vec::new();
                    put_chunk(chunk, layout, &mut out);
                    cells.push((number, Some(out)));
                }
            }
            put(&self.cell(KEY, &name, None), Some(&out));
            for (number, value) in cells {
                put(&self.cell(CHUNK, &name, Some(number)), value.as_deref());
            }
        }
        if std::mem::take(&mut self.is_heard_changed) {
            out.clear();
            out.push(VERSION);
            self.heard.put(&mut out);
            put(&self.cell(HEARD, b"", None), Some(&out));
        }
        if let Some(agenda) = &mut self.agenda {
            agenda.seal(n, put);
        }
    }

    /// The store has commit `n`: what did not change since may leave memory.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = self.acknowledged.max(n);
        if let Some(agenda) = &mut self.agenda {
            agenda.acknowledged(n);
        }
    }

    /// Lets keys go that the store has, until memory is about this; looks at so many at most.
    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        let Judge { keys, bytes, acknowledged, .. } = self;
        let mut looks = 0;
        keys.retain(|_, key| {
            looks += 1;
            if *bytes <= target_bytes || looks > looks_max || key.is_changed || key.sealed > *acknowledged {
                return true;
            }
            *bytes -= key.bytes;
            false
        });
        if let Some(agenda) = self.agenda.as_mut().filter(|_| self.bytes > target_bytes) {
            agenda.evict();
        }
    }

    /// How many cells a seal would write now, about.
    pub fn open_cells(&self) -> usize {
        let of_agenda = self.agenda.as_ref().map_or(0, crate::agenda::Agenda::open_cells);
        self.dirty.len() + self.dirty.len() / 8 + of_agenda
    }
}

impl Key {
    /// Finds what follows from the events.
    fn rebuild(&mut self, set: &Set) {
        let places: Vec<Place> = self.kept.between(self.kept.start(), self.kept.end()).collect();
        self.ids.extend(places.iter().map(|place| id_of(self.kept.id(*place))));
        self.slidings = vec![Sliding::new(&self.kept); set.windows.len()];
        let judged = self.kept.normal(self.judged);
        for _ in places.iter().take_while(|place| **place < judged) {
            for (sliding, window) in self.slidings.iter_mut().zip(&set.windows) {
                sliding.step(window, &self.kept);
            }
        }
    }

    /// Rules that this key has not had look back on events that they did not see.
    fn warm(&mut self, set: &Set, mapping: &Mapping) {
        let old = std::mem::take(&mut self.warming);
        for (rule, known) in mapping.rules.iter().enumerate() {
            let until = match known {
                Some(known) => old.iter().find(|(of, _)| usize::from(*of) == *known).map(|(_, until)| *until),
                None => Some(self.clock.saturating_add(set.looks_back_ms(rule))),
            };
            self.warming.extend(until.map(|until| (rule as u16, until)));
        }
    }
}

impl Carries {
    fn moved(&self, mapping: &Mapping) -> Carries {
        let known = mapping.rules.iter().enumerate().filter_map(|(now, old)| Some((now, (*old)?)));
        Carries(known.filter_map(|(now, old)| Some((now as u16, self.get(old)?.clone()))).collect())
    }
}

impl Chunk {
    /// The same events in another layout.
    fn moved(&self, mapping: &Mapping, now: Layout) -> Chunk {
        let (old, mut moved) = (mapping.old, Chunk { is_changed: true, ..Chunk::default() });
        moved.carries = self.carries.moved(mapping);
        moved.times.clone_from(&self.times);
        moved.bytes.clone_from(&self.bytes);
        for at in 0..self.len() {
            let numbers = &self.numbers[at * old.numbers..][..old.numbers];
            moved
                .numbers
                .extend(mapping.numbers.iter().map(|from| from.map_or(ABSENT, |from| numbers[from])));
            let spans = &self.spans[at * (1 + old.texts)..][..=old.texts];
            moved.spans.push(spans[0]);
            moved.spans.extend(mapping.texts.iter().map(|from| from.map_or((1, 0), |from| spans[1 + from])));
            let old_bits = &self.bits[at * old.words()..][..old.words()];
            let bit = |word: usize, bit: usize| old_bits[word + bit / 64] >> (bit % 64) & 1 == 1;
            let mut words = vec![0u64; now.words()];
            let mut copy = |from: usize, to: usize, places: &[Option<usize>]| {
                for (place, known) in places.iter().enumerate() {
                    if known.is_some_and(|known| bit(from, known)) {
                        words[to + place / 64] |= 1 << (place % 64);
                    }
                }
            };
            let (hits, now_hits) = (old.condition_words(), now.condition_words());
            copy(0, 0, &mapping.conditions);
            copy(hits, now_hits, &mapping.rules);
            copy(hits + old.rule_words(), now_hits + now.rule_words(), &mapping.rules);
            moved.bits.extend(words);
        }
        moved.silents = self.silents_moved(mapping, now);
        moved
    }

    /// Which rules nobody is told of its events by: as before, and new rules.
    fn silents_moved(&self, mapping: &Mapping, now: Layout) -> Vec<u64> {
        if self.silents.is_empty() && mapping.rules.iter().all(Option::is_some) {
            return Vec::new();
        }
        let mut silents = vec![0u64; self.len() * now.rule_words()];
        let was_silent = |at: usize, rule: usize| {
            let word = self.silents.get(at * mapping.old.rule_words() + rule / 64);
            word.is_some_and(|word| word >> (rule % 64) & 1 == 1)
        };
        for at in 0..self.len() {
            for (rule, known) in mapping.rules.iter().enumerate() {
                if known.is_none_or(|known| was_silent(at, known)) {
                    silents[at * now.rule_words() + rule / 64] |= 1 << (rule % 64);
                }
            }
        }
        silents
    }
}
