//! Keys with something due at a time, though no event of theirs may come: a silence that grows too long, an event that waits
//! for the watermark, a partial match that runs out of time.
//!
//! One agenda belongs to one step in one slot. Its clock is how far the events have come that the step has seen there, and the
//! time that the slot has stood silent since. A key is listed under a date, a millisecond at which its page is looked at, in pages
//! of names, one cell each. It stays listed where it is when it is due later than it was: whoever takes the page looks at the
//! key and lists it anew. So a key that keeps sending writes to the agenda once in the time that it may be silent, not with
//! each event.
//!
//! | cell | key after the prefix | holds |
//! |---|---|---|
//! | time | `T` | the greatest event time, the clock |
//! | dates | `D` | the dates with pages, and how many |
//! | page | `P`, date (8 bytes), number (4 bytes) | names of keys |
//!
//! Invariant: a key that is listed under a date is in a page of it until that page is taken, wherever state was stored and
//! loaded meanwhile. Keys of a date come in the same portions and the same order then.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::{Span, Timestamp};

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_bytes, put_i64, put_u64};

/// Keys on one page; a further one begins another.
pub const PAGE_KEYS_MAX: usize = 256;
/// What a key has as its date when it is not listed.
pub const NOT_LISTED: i64 = i64::MAX;

const TIME: u8 = b'T';
const DATES: u8 = b'D';
const PAGE: u8 = b'P';

/// Keys by when they are due.
#[derive(Debug)]
pub struct Agenda {
    prefix: Box<[u8]>,
    resolution_ms: i64,
    /// Which of its two cells were supplied.
    has_time: bool,
    has_dates: bool,
    newest_ms: i64,
    clock_ms: i64,
    stood_ms: i64,
    /// How many pages a date has.
    dates: BTreeMap<i64, u32>,
    /// Pages in memory.
    pages: BTreeMap<(i64, u32), Page>,
    /// Pages that were taken since the last seal and may be stored.
    taken: BTreeSet<(i64, u32)>,
    is_time_changed: bool,
    are_dates_changed: bool,
    acknowledged: u64,
    /// The date whose pages are in the order of the names.
    sorted: Option<i64>,
}

#[derive(Debug, Default)]
struct Page {
    keys: Vec<Box<[u8]>>,
    is_changed: bool,
    sealed: u64,
}

/// The keys of a page that is due.
#[derive(Debug)]
pub struct Due {
    /// Those that are still listed under this date are meant: others were listed elsewhere since.
    pub date: i64,
    /// Their names.
    pub keys: Vec<Box<[u8]>>,
}

impl Agenda {
    /// An empty one. The keys of its cells begin with `prefix`; what is due is found up to `resolution` later.
    pub fn new(prefix: &[u8], resolution: Span) -> Agenda {
        Agenda {
            prefix: prefix.into(),
            resolution_ms: i64::try_from(resolution.ms()).unwrap_or(i64::MAX).max(1),
            has_time: false,
            has_dates: false,
            newest_ms: i64::MIN,
            clock_ms: i64::MIN,
            stood_ms: 0,
            dates: BTreeMap::new(),
            pages: BTreeMap::new(),
            taken: BTreeSet::new(),
            is_time_changed: false,
            are_dates_changed: false,
            acknowledged: 0,
            sorted: None,
        }
    }

    /// How late it is.
    pub fn clock(&self) -> Timestamp {
        Timestamp(self.clock_ms)
    }

    /// The greatest event time.
    pub fn newest(&self) -> Timestamp {
        Timestamp(self.newest_ms)
    }

    /// Appends the cells that must be supplied before anything else is done. Without a store nothing needs to be.
    pub fn missing(&self, cells: &mut Vec<Vec<u8>>) {
        if !self.has_time {
            cells.push(self.cell(TIME, None));
        }
        if !self.has_dates {
            cells.push(self.cell(DATES, None));
        }
    }

    fn cell(&self, kind: u8, page: Option<(i64, u32)>) -> Vec<u8> {
        let mut key = [&self.prefix[..], &[kind]].concat();
        if let Some((date, number)) = page {
            key.extend_from_slice(&date.to_be_bytes());
            key.extend_from_slice(&number.to_be_bytes());
        }
        key
    }

    /// Hands over a cell that was missing: `None` when the store has none.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), Corrupt> {
        let expected = Corrupt { what: "a cell of an agenda expected" };
        let (kind, rest) = cell.strip_prefix(&*self.prefix).and_then(<[u8]>::split_first).ok_or(expected)?;
        let mut reader = value.map(Reader::cell).transpose()?;
        match (*kind, &mut reader) {
            (TIME, reader) => {
                if let Some(reader) = reader {
                    (self.newest_ms, self.clock_ms) = (reader.i64()?, reader.i64()?);
                }
                self.has_time = true;
            }
            (DATES, reader) => {
                if let Some(reader) = reader {
                    for _ in 0..reader.count()? {
                        self.dates.insert(reader.i64()?, reader.u32()?);
                    }
                }
                self.has_dates = true;
            }
            (PAGE, Some(reader)) => {
                let wrong = Corrupt { what: "a date and a number of a page expected" };
                let (date, number) = rest.split_first_chunk::<8>().ok_or_else(|| wrong.clone())?;
                let number = number.try_into().map_err(|_| wrong)?;
                let place = (i64::from_be_bytes(*date), u32::from_be_bytes(number));
                let keys = (0..reader.count()?).map(|_| Ok(reader.bytes()?.into()));
                let keys = keys.collect::<Result<_, Corrupt>>()?;
                self.pages.entry(place).or_insert(Page { keys, is_changed: false, sealed: 0 });
            }
            _ => return Err(Corrupt { what: "a page of the agenda expected" }),
        }
        reader.map_or(Ok(()), Reader::finish)
    }

    /// An event was seen, and this is how far the events of the slot have come.
    pub fn see(&mut self, time: Timestamp) {
        self.stood_ms = 0;
        if time.ms() > self.newest_ms {
            self.newest_ms = time.ms();
            self.is_time_changed = true;
            self.set_clock(time);
        }
    }

    /// The slot has stood so much longer without an event, and the greatest time of all is this. Returns how late that makes it,
    /// when something is due by then: whoever decides that it is so late calls [`Agenda::set_clock`].
    pub fn pass(&mut self, newest: Timestamp, stood: Span) -> Option<Timestamp> {
        self.stood_ms = self.stood_ms.saturating_add_unsigned(stood.ms());
        let now_ms = newest.ms().saturating_add(self.stood_ms);
        (now_ms > self.clock_ms && self.is_due_at(now_ms)).then_some(Timestamp(now_ms))
    }

    /// It is this late at least.
    pub fn set_clock(&mut self, to: Timestamp) {
        if to.ms() > self.clock_ms {
            self.clock_ms = to.ms();
            self.is_time_changed = true;
        }
    }

    /// A key is due then: it is listed, unless it is listed sooner. `listed` is the key's own note of its date.
    pub fn list(&mut self, key: &[u8], listed: &mut i64, due: Timestamp) {
        // what could not be done when it was due is looked at again a little later
        let due_ms = due.ms().max(self.clock_ms.saturating_add(1));
        let date = due_ms.div_euclid(self.resolution_ms).saturating_add(1).saturating_mul(self.resolution_ms);
        if *listed <= date && *listed > self.clock_ms {
            return;
        }
        *listed = date;
        let count = self.dates.get(&date).copied().unwrap_or(0);
        if let Some(last) = count.checked_sub(1)
            && let Some(page) = self.pages.get_mut(&(date, last))
            && page.keys.len() < PAGE_KEYS_MAX
        {
            page.keys.push(key.into());
            page.is_changed = true;
            return;
        }
        self.dates.insert(date, count + 1);
        self.are_dates_changed = true;
        self.taken.remove(&(date, count));
        self.pages.insert((date, count), Page { keys: vec![key.into()], is_changed: true, sealed: 0 });
    }

    /// Whether a page is due.
    pub fn is_due(&self) -> bool {
        self.is_due_at(self.clock_ms)
    }

    fn is_due_at(&self, ms: i64) -> bool {
        self.dates.first_key_value().is_some_and(|(date, _)| *date <= ms)
    }

    fn first(&self) -> Option<(i64, u32)> {
        self.dates.first_key_value().map(|(date, count)| (*date, count - 1))
    }

    /// The keys of the next page that is due; none when cells are missing, which are named then.
    pub fn page(&mut self, missing: &mut Vec<Vec<u8>>) -> Option<&[Box<[u8]>]> {
        let (date, _) = self.first().filter(|_| self.is_due())?;
        if self.sorted != Some(date) && !self.sort(date, missing) {
            return None;
        }
        let place = self.first()?;
        match self.pages.get(&place) {
            Some(page) => Some(&page.keys),
            None => {
                missing.push(self.cell(PAGE, Some(place)));
                None
            }
        }
    }

    /// Puts the keys of a date in the order of their names. Which key went to which page depends on what was in memory then; in
    /// which order and in which portions keys are looked at must not.
    fn sort(&mut self, date: i64, missing: &mut Vec<Vec<u8>>) -> bool {
        let count = self.dates.get(&date).copied().unwrap_or(0);
        let before = missing.len();
        let absent = (0..count).filter(|number| !self.pages.contains_key(&(date, *number)));
        missing.extend(absent.map(|number| self.cell(PAGE, Some((date, number)))));
        if missing.len() > before {
            return false;
        }
        let pages = (0..count).filter_map(|number| self.pages.remove(&(date, number)));
        let mut keys: Vec<Box<[u8]>> = pages.flat_map(|page| page.keys).collect();
        keys.sort_unstable();
        keys.dedup();
        let number = keys.len().div_ceil(PAGE_KEYS_MAX).max(1) as u32;
        for number in 0..number {
            let of_page = keys.iter().skip(number as usize * PAGE_KEYS_MAX).take(PAGE_KEYS_MAX);
            let page = Page { keys: of_page.cloned().collect(), is_changed: true, sealed: 0 };
            self.pages.insert((date, number), page);
        }
        self.taken.extend((number..count).map(|surplus| (date, surplus)));
        self.dates.insert(date, number);
        self.are_dates_changed = true;
        self.sorted = Some(date);
        true
    }

    /// Takes the page that [`Agenda::page`] showed. Those of its keys that are still due sometime are to be listed anew.
    pub fn take(&mut self) -> Option<Due> {
        let place = self.first().filter(|_| self.is_due())?;
        let page = self.pages.remove(&place)?;
        match place {
            (date, 0) => drop(self.dates.remove(&date)),
            (date, last) => drop(self.dates.insert(date, last)),
        }
        self.are_dates_changed = true;
        self.taken.insert(place);
        Some(Due { date: place.0, keys: page.keys })
    }

    /// Writes the cells that changed; `None` deletes one. They are part of commit `n`.
    pub fn seal(&mut self, n: u64, put: &mut impl FnMut(&[u8], Option<&[u8]>)) {
        for place in std::mem::take(&mut self.taken) {
            put(&self.cell(PAGE, Some(place)), None);
        }
        let mut out = Vec::new();
        let Agenda { prefix, pages, .. } = self;
        for ((date, number), page) in pages.iter_mut().filter(|(_, page)| page.is_changed) {
            (page.is_changed, page.sealed) = (false, n);
            out.clear();
            out.push(VERSION);
            put_u64(&mut out, page.keys.len() as u64);
            page.keys.iter().for_each(|key| put_bytes(&mut out, key));
            let cell = [&prefix[..], &[PAGE], &date.to_be_bytes(), &number.to_be_bytes()].concat();
            put(&cell, Some(&out));
        }
        if std::mem::take(&mut self.are_dates_changed) {
            out.clear();
            out.push(VERSION);
            put_u64(&mut out, self.dates.len() as u64);
            for (date, count) in &self.dates {
                put_i64(&mut out, *date);
                put_u64(&mut out, u64::from(*count));
            }
            put(&self.cell(DATES, None), Some(&out));
        }
        if std::mem::take(&mut self.is_time_changed) {
            out.clear();
            out.push(VERSION);
            put_i64(&mut out, self.newest_ms);
            put_i64(&mut out, self.clock_ms);
            put(&self.cell(TIME, None), Some(&out));
        }
    }

    /// The store has commit `n`.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = self.acknowledged.max(n);
    }

    /// Lets pages go that the store has.
    pub fn evict(&mut self) {
        let acknowledged = self.acknowledged;
        self.pages.retain(|_, page| page.is_changed || page.sealed > acknowledged);
    }

    /// How many cells a seal would write now, about.
    pub fn open_cells(&self) -> usize {
        let pages = self.pages.values().filter(|page| page.is_changed).count() + self.taken.len();
        pages + usize::from(self.is_time_changed) + usize::from(self.are_dates_changed)
    }

    /// Memory, about.
    pub fn memory_bytes(&self) -> usize {
        let of_page =
            |page: &Page| page.keys.iter().map(|key| size_of::<Box<[u8]>>() + key.len()).sum::<usize>();
        self.pages.values().map(|page| size_of::<Page>() + of_page(page)).sum::<usize>()
            + self.dates.len() * 32
    }
}

#[cfg(test)]
mod tests;
