//! A slice: what one cell holds. For windows that start at fixed times, all panes of one key that start together; for
//! the others, everything of the key.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_bytes, put_datum, put_i64, put_u64};
use crate::ids::Id;
use crate::pane::{Head, Pane, Segments};
use crate::pool::Pool;
use crate::rules::{Layout, Rules};
use crate::value::{Datum, Value};

/// The start of the one slice of windows that do not start at fixed times.
pub(crate) const WHOLE: i64 = 0;

/// What one cell holds.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) start: i64,
    /// In the order of their arrival, so that results come in the same order after a restart.
    pub(crate) panes: Vec<Pane>,
    /// Its cell's bytes instead of panes: its results have come, only late events and its end are to be expected. A
    /// key has many of these when events may be late, so they are small, and leave without being looked at.
    packed: Option<Box<[u8]>>,
    /// What few slices have.
    rare: Option<Box<Rare>>,
    /// The watermark at which time next changes something; [`i64::MAX`]: never.
    pub(crate) next: i64,
    /// That can bring a result.
    pub(crate) pending: bool,
    /// Its content is in memory.
    pub(crate) loaded: bool,
    /// Changed since the last seal.
    pub(crate) dirty: bool,
    /// The store has a cell of it.
    pub(crate) stored: bool,
    /// Its content lies in its key's cell instead.
    pub(crate) with_key: bool,
    /// Used since the eviction last passed.
    pub(crate) touched: bool,
    /// The last commit it went into.
    pub(crate) sealed: u64,
}

/// Events kept for windows that are made of events, per further segments.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) by: Segments,
    /// In the order of time for sliding windows, of arrival for count windows.
    pub(crate) events: VecDeque<Kept>,
    /// Events since the last result of count windows.
    pub(crate) since: u32,
    /// The number of the next row of count windows.
    pub(crate) revision: u32,
}

#[derive(Debug, Default)]
struct Rare {
    /// Events of sliding and count windows.
    logs: Vec<Log>,
    /// Finds a pane when there are many and their ends do not change.
    index: Option<HashTable<u32>>,
}

/// One kept event.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) time: i64,
    pub(crate) arrival: u64,
    /// The wall clock at its arrival.
    pub(crate) clock: i64,
    pub(crate) values: Box<[Datum]>,
}

/// More panes than this in one slice are found by hash.
const INDEXED_FROM: usize = 24;

fn hash(by: &[u8], end: i64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(by, end as u64)
}

impl Slice {
    pub(crate) fn new(start: i64, loaded: bool) -> Slice {
        Slice {
            start,
            panes: Vec::new(),
            packed: None,
            rare: None,
            next: i64::MAX,
            pending: false,
            loaded,
            dirty: false,
            stored: false,
            with_key: false,
            touched: true,
            sealed: 0,
        }
    }

    /// Lets the content leave memory. When time next changes it is still known.
    pub(crate) fn unload(&mut self) {
        let (next, pending, sealed) = (self.next, self.pending, self.sealed);
        *self =
            Slice { next, pending, sealed, stored: true, touched: false, ..Slice::new(self.start, false) };
    }

    /// Whether it changes with nearly every event of its key, when it is the newest: then it belongs into the key's cell.
    pub(crate) fn is_hot(&self, rules: &Rules) -> bool {
        self.pending && self.loaded && rules.layout.ends_together()
    }

    /// Where the pane of these segments and this end is.
    pub(crate) fn find(&self, by: &[u8], end: i64) -> Option<usize> {
        let fits = |pane: &Pane| pane.end == end && pane.by.bytes() == by;
        match self.rare.as_ref().and_then(|rare| rare.index.as_ref()) {
            None => self.panes.iter().position(fits),
            Some(index) => index.find(hash(by, end), |i| fits(&self.panes[*i as usize])).map(|i| *i as usize),
        }
    }

    /// Adds a pane.
    pub(crate) fn push(&mut self, rules: &Rules, pane: Pane) -> usize {
        let at = self.panes.len();
        if self.panes.capacity() == 0 {
            self.panes.reserve_exact(1);
        }
        self.panes.push(pane);
        if rules.layout.has_fixed_ends() && at >= INDEXED_FROM {
            self.add_to_index(at);
        }
        at
    }

    fn add_to_index(&mut self, at: usize) {
        let panes = &self.panes;
        let rehash = |i: &u32| hash(panes[*i as usize].by.bytes(), panes[*i as usize].end);
        let rare = self.rare.get_or_insert_default();
        match &mut rare.index {
            Some(index) => {
                index.insert_unique(rehash(&(at as u32)), at as u32, rehash);
            }
            None => {
                let mut index = HashTable::with_capacity(panes.len() * 2);
                for i in 0..panes.len() as u32 {
                    index.insert_unique(rehash(&i), i, rehash);
                }
                rare.index = Some(index);
            }
        }
    }

    fn build_index(&mut self, rules: &Rules) {
        if let Some(rare) = &mut self.rare {
            rare.index = None;
        }
        if rules.layout.has_fixed_ends() && self.panes.len() > INDEXED_FROM {
            self.add_to_index(0);
        }
    }

    /// Removes the panes for which `gone` holds and hands them to `each`.
    pub(crate) fn remove(&mut self, rules: &Rules, gone: impl Fn(&Pane) -> bool, mut each: impl FnMut(Pane)) {
        if !self.panes.iter().any(&gone) {
            return;
        }
        self.panes.extract_if(.., |pane| gone(pane)).for_each(&mut each);
        self.build_index(rules);
    }

    /// The log of these segments; a new one when there is none.
    pub(crate) fn log(&mut self, by: &[u8]) -> &mut Log {
        let logs = &mut self.rare.get_or_insert_default().logs;
        let at = logs.iter().position(|log| log.by.bytes() == by).unwrap_or_else(|| {
            logs.push(Log { by: Segments::new(by), events: VecDeque::new(), since: 0, revision: 0 });
            logs.len() - 1
        });
        &mut logs[at]
    }

    fn logs(&self) -> &[Log] {
        self.rare.as_ref().map_or(&[], |rare| &rare.logs)
    }

    /// Forgets the kept events for which `gone` holds, oldest first; hands them to `each`.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Kept) -> bool, mut each: impl FnMut(Kept)) {
        let Some(rare) = &mut self.rare else { return };
        for log in &mut rare.logs {
            while log.events.front().is_some_and(&gone) {
                log.events.pop_front().into_iter().for_each(&mut each);
            }
        }
        rare.logs.retain(|log| !log.events.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.panes.is_empty() && self.packed.is_none() && self.logs().is_empty()
    }

    /// How many windows it holds; 1 when that is not in memory.
    pub(crate) fn windows(&self) -> u64 {
        match &self.packed {
            _ if !self.loaded => 1,
            Some(bytes) => Reader::cell(bytes).and_then(|mut reader| reader.u64()).unwrap_or(1),
            None => self.panes.len() as u64,
        }
    }

    /// Whether only its cell's bytes are in memory.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// The cell's bytes, when it is packed.
    pub(crate) fn packed(&self) -> Option<&[u8]> {
        self.packed.as_deref()
    }

    /// Keeps its cell's bytes instead of its panes, when no result is to come from it with time.
    pub(crate) fn pack(&mut self, rules: &Rules, pool: &mut Pool) {
        if self.pending || self.is_packed() || !rules.layout.ends_together() || self.panes.is_empty() {
            return;
        }
        let mut bytes = std::mem::take(&mut pool.scratch);
        bytes.clear();
        self.encode(rules, &mut bytes);
        self.packed = Some(bytes.as_slice().into());
        pool.bytes += bytes.len();
        pool.scratch = bytes;
        self.panes.drain(..).for_each(|pane| pool.recycle(pane));
        pool.keep_list(std::mem::take(&mut self.panes));
        self.rare = None;
    }

    /// Whether it is packed and its pane of these segments and this end has seen the id. The bytes are searched as they
    /// lie: most copies come when the window has given its result.
    pub(crate) fn has_packed(&self, by: &[u8], end: i64, id: &Id) -> bool {
        let Some(bytes) = &self.packed else { return false };
        let seen = Reader::cell(bytes).and_then(|mut reader| {
            for _ in 0..reader.count()? {
                let head = Head::read(self.start, &mut reader)?;
                if head.end == end && head.by == by {
                    return Ok(head.ids.contains(id));
                }
            }
            Ok(false)
        });
        seen.expect("bytes packed here can be read")
    }

    /// Makes panes of its bytes again.
    pub(crate) fn unpack(&mut self, rules: &Rules, pool: &mut Pool) {
        if let Some(bytes) = self.packed.take() {
            let before = size_of::<Slice>() + bytes.len();
            let (stored, sealed) = (self.stored, self.sealed);
            self.decode(rules, &bytes).expect("bytes packed here can be read");
            (self.stored, self.sealed) = (stored, sealed);
            pool.changed(before, self.memory_bytes());
        }
    }

    /// Finds anew when time next changes something.
    pub(crate) fn refresh(&mut self, rules: &Rules) {
        self.next = i64::MAX;
        self.pending = false;
        for pane in &self.panes {
            let (next, pending) = pane.next(rules);
            self.next = self.next.min(next);
            self.pending |= pending;
        }
        if let Layout::Sliding { difference } = rules.layout {
            let oldest = self.logs().iter().filter_map(|log| log.events.front()).map(|e| e.time).min();
            if let Some(oldest) = oldest {
                self.next = self.next.min(forget_at(rules, oldest, difference));
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let panes = self.panes.iter().map(Pane::memory_bytes).sum::<usize>();
        let packed = self.packed.as_ref().map_or(0, |bytes| bytes.len());
        let logs = self.logs().iter().flat_map(|log| &log.events).map(Kept::memory_bytes).sum::<usize>();
        size_of::<Slice>() + panes + packed + logs
    }

    pub(crate) fn encode(&self, rules: &Rules, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u64(out, self.panes.len() as u64);
        self.panes.iter().for_each(|pane| pane.encode_head(self.start, out));
        self.panes.iter().for_each(|pane| pane.encode_accumulators(rules, out));
        put_u64(out, self.logs().len() as u64);
        for log in self.logs() {
            put_bytes(out, log.by.bytes());
            put_u64(out, u64::from(log.since));
            put_u64(out, u64::from(log.revision));
            put_u64(out, log.events.len() as u64);
            log.events.iter().for_each(|kept| kept.encode(out));
        }
    }

    /// Fills an entry from its cell.
    pub(crate) fn decode(&mut self, rules: &Rules, bytes: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::cell(bytes)?;
        let count = reader.count()?;
        let mut panes = Vec::with_capacity(count); // collected, a list of one would have room for four
        for _ in 0..count {
            panes.push(Head::read(self.start, &mut reader)?.pane()?);
        }
        panes.iter_mut().try_for_each(|pane| pane.decode_accumulators(rules, &mut reader))?;
        let mut logs = Vec::new();
        for _ in 0..reader.count()? {
            let by = Segments::new(reader.bytes()?);
            let (since, revision) = (reader.u32()?, reader.u32()?);
            let n = reader.count()?;
            let events = (0..n).map(|_| Kept::decode(&mut reader)).collect::<Result<_, _>>()?;
            logs.push(Log { by, events, since, revision });
        }
        reader.finish()?;
        self.rare = (!logs.is_empty()).then(|| Box::new(Rare { logs, index: None }));
        self.panes = panes;
        self.build_index(rules);
        self.loaded = true;
        self.stored = true;
        self.touched = true;
        self.refresh(rules);
        Ok(())
    }
}

/// The watermark at which an event of a sliding window can be in no new window any more: when the window that starts
/// right after it is closed.
pub(crate) fn forget_at(rules: &Rules, time: i64, difference: i64) -> i64 {
    rules.close(time.saturating_add(difference).saturating_add(2))
}

impl Kept {
    pub(crate) fn new(time: i64, arrival: u64, clock: i64, values: &[Value<'_>]) -> Kept {
        Kept { time, arrival, clock, values: values.iter().map(Value::keep).collect() }
    }

    /// Memory it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let text = |value: &Datum| if let Datum::Text(t) = value { t.len() } else { 0 };
        size_of::<Kept>() + self.values.iter().map(|v| size_of::<Datum>() + text(v)).sum::<usize>()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_i64(out, self.time);
        put_u64(out, self.arrival);
        put_i64(out, self.clock);
        put_u64(out, self.values.len() as u64);
        self.values.iter().for_each(|value| put_datum(out, value));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Kept, Corrupt> {
        let (time, arrival, clock) = (reader.i64()?, reader.u64()?, reader.i64()?);
        let n = reader.count()?;
        let values = (0..n).map(|_| reader.datum()).collect::<Result<_, _>>()?;
        Ok(Kept { time, arrival, clock, values })
    }
}
