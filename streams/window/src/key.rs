//! A routing key: its clock, its counters and its slices.

use std::collections::VecDeque;

use crate::Corrupt;
use crate::aggregate::Sample;
use crate::encode::{Reader, VERSION, put_i64, put_u64};
use crate::ids::{Id, Remembered};
use crate::pane::{Scene, Segments};
use crate::pool::Pool;
use crate::reach::NOT_COUNTED;
use crate::row::{Outcome, Output};
use crate::rules::Rules;
use crate::slice::Slice;

/// No place in a bucket of the index.
pub(crate) const NOT_LISTED: u32 = u32::MAX;

/// One routing key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: Segments,
    /// Its watermark, when each key has its own.
    pub(crate) clock: i64,
    pub(crate) last_event: i64,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    pub(crate) late: u64,
    /// The largest start of a slice ever opened: a later one surely has no cell.
    pub(crate) newest: i64,
    /// The watermark at which time next changes a slice.
    pub(crate) next: i64,
    /// By start. All that time will change have an entry, in memory or not.
    pub(crate) slices: VecDeque<Slice>,
    /// How many entries of slices are not in memory.
    pub(crate) absent: u32,
    pub(crate) remembered: Option<Box<Remembered>>,
    /// The last commit it went into.
    pub(crate) sealed: u64,
    /// With idleness: how much silence had passed at its last event. With a watermark per stream: the time it is
    /// queued for.
    pub(crate) mark: i64,
    /// What it is counted under by a step that tells how far it has come.
    pub(crate) counted: i64,
    /// Its place in its bucket of the index.
    pub(crate) listed_at: u32,
    pub(crate) bucket: u8,
    pub(crate) flags: Flags,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// Its cell is in memory; else only its name is known.
    pub(crate) loaded: bool,
    /// Changed since the last seal.
    pub(crate) dirty: bool,
    /// Used since the eviction last passed.
    pub(crate) touched: bool,
    /// It waits in the queue of silent keys.
    pub(crate) queued: bool,
    /// Its place is in the eviction's queue, once; also when the place is free, or another key's.
    pub(crate) hot: bool,
    /// The place holds a key.
    pub(crate) used: bool,
}

/// An event as its key takes it.
pub(crate) struct Arrival<'a> {
    pub(crate) by: &'a [u8],
    pub(crate) sample: Sample<'a>,
    pub(crate) id: Option<Id>,
    /// The event's own session gap.
    pub(crate) gap: Option<i64>,
}

/// What an event needs beside its key.
pub(crate) struct Stage<'a, O> {
    pub(crate) rules: &'a Rules,
    pub(crate) pool: &'a mut Pool,
    /// The windows of the event at hand; memory used again.
    pub(crate) windows: &'a mut Vec<(i64, i64)>,
    /// The watermark that counts for the key.
    pub(crate) w: i64,
    /// The wall clock.
    pub(crate) now: i64,
    pub(crate) out: &'a mut O,
}

impl Key {
    pub(crate) fn new(name: &[u8], bucket: u8) -> Key {
        Key {
            name: Segments::new(name),
            clock: i64::MIN,
            last_event: i64::MIN,
            events: 0,
            duplicates: 0,
            late: 0,
            newest: i64::MIN,
            next: i64::MAX,
            slices: VecDeque::new(),
            absent: 0,
            remembered: None,
            sealed: 0,
            mark: i64::MAX,
            counted: NOT_COUNTED,
            listed_at: NOT_LISTED,
            bucket,
            flags: Flags { used: true, touched: true, ..Flags::default() },
        }
    }

    /// Memory of the entry itself, about.
    pub(crate) fn own_bytes(&self) -> usize {
        size_of::<Key>() + self.name.heap_bytes()
    }

    /// Where the slice is, or where it would be. Events are mostly near the newest, so the search begins there.
    pub(crate) fn slice_at(&self, start: i64) -> Result<usize, usize> {
        find(&self.slices, start)
    }

    /// Whether the slice's cell must be read before an event may enter it: time still has to change it and its entry
    /// is not in memory, or it may have been stored before and nobody kept an entry.
    pub(crate) fn lacks(&self, rules: &Rules, start: i64) -> bool {
        match self.slice_at(start) {
            Ok(at) => !self.slices[at].loaded,
            Err(_) => !rules.closes() && start <= self.newest,
        }
    }

    /// Whether every slice an event may need is in memory or surely has no cell.
    pub(crate) fn is_whole(&self, rules: &Rules) -> bool {
        self.absent == 0 && rules.closes()
    }

    /// Whether a result is still to come with time (or, where all open windows stay in memory, any change).
    pub(crate) fn is_pending(&self, rules: &Rules) -> bool {
        self.slices.iter().rev().any(|slice| slice.pending || (rules.resident && slice.next < i64::MAX))
    }

    /// Whether the event's id is remembered by the key.
    pub(crate) fn remembers(&mut self, rules: &Rules, w: i64, id: Option<Id>) -> bool {
        match (rules.dedup_horizon, id, &mut self.remembered) {
            (Some(horizon), Some(id), Some(remembered)) => remembered.contains(&id, w, horizon),
            _ => false,
        }
    }

    /// The key remembers the event's id.
    pub(crate) fn remember(&mut self, rules: &Rules, pool: &mut Pool, time: i64, id: Option<Id>) {
        if let (Some(_), Some(id)) = (rules.dedup_horizon, id) {
            self.remembered.get_or_insert_default().insert(id, time);
            pool.bytes += REMEMBERED_BYTES;
        }
    }

    /// An event of windows with fixed bounds.
    pub(crate) fn take_fixed<O: Output>(
        &mut self,
        arrival: &Arrival<'_>,
        stage: &mut Stage<'_, O>,
    ) -> Outcome {
        let Stage { rules, w, now, .. } = *stage;
        let windows = &mut *stage.windows;
        windows.clear();
        rules.windows(arrival.sample.time, windows);
        let all = windows.len();
        windows.retain(|(_, end)| w < rules.close(*end));
        if windows.is_empty() && all > 0 {
            return Outcome::Late;
        }
        let ids_of_panes = arrival.id.filter(|_| rules.dedup_pane);
        // Where the last window's slice and pane were found: for tumbling windows the search need not be repeated.
        let mut found = None;
        if let Some(id) = ids_of_panes {
            for &(start, end) in windows.iter() {
                let Ok(at) = find(&self.slices, start) else { continue };
                let slice = &self.slices[at];
                if slice.has_packed(arrival.by, end, &id) {
                    return Outcome::Duplicate;
                }
                let Some(i) = slice.find(arrival.by, end) else { continue };
                if slice.panes[i].ids.contains(&id) {
                    return Outcome::Duplicate;
                }
                found = Some((at, i));
            }
        }
        let found = found.filter(|_| windows.len() == 1);
        if self.remembers(rules, w, arrival.id) {
            return Outcome::Duplicate;
        }
        self.remember(rules, stage.pool, arrival.sample.time, arrival.id);
        for &(start, end) in windows.iter() {
            let (at, i) = match found {
                Some(found) => found,
                None => {
                    let at = open_slice(&mut self.slices, &mut self.newest, stage.pool, start);
                    let slice = &mut self.slices[at];
                    slice.unpack(rules, stage.pool);
                    let i = slice
                        .find(arrival.by, end)
                        .unwrap_or_else(|| slice.push(rules, stage.pool.open(rules, arrival.by, start, end)));
                    (at, i)
                }
            };
            let slice = &mut self.slices[at];
            (slice.dirty, slice.touched) = (true, true);
            let pane = &mut slice.panes[i];
            let scene = Scene { rules, key: self.name.bytes(), w, now };
            let before = pane.heap_bytes();
            pane.accumulate(&scene, &arrival.sample, ids_of_panes, now);
            pane.after_event(&scene, stage.out);
            stage.pool.changed(before, pane.heap_bytes());
            let (next, pending) = pane.next(rules);
            slice.next = slice.next.min(next);
            slice.pending |= pending;
            self.next = self.next.min(next);
        }
        match (all, windows.len()) {
            (0, _) => Outcome::Unassigned,
            (all, open) if open < all => Outcome::PartiallyLate,
            _ => Outcome::Accepted,
        }
    }

    /// The cell: what must be known before any slice is, and the newest slice itself if that lies with the key.
    pub(crate) fn encode(&self, rules: &Rules, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_i64(out, self.clock);
        put_i64(out, self.last_event);
        put_u64(out, self.events);
        put_u64(out, self.duplicates);
        put_u64(out, self.late);
        put_i64(out, self.newest);
        let listed = || self.slices.iter().filter(|slice| slice.next < i64::MAX);
        put_u64(out, listed().count() as u64);
        let mut last = 0i64;
        for slice in listed() {
            put_i64(out, slice.start.wrapping_sub(last));
            put_i64(out, slice.next.wrapping_sub(slice.start));
            out.push(u8::from(slice.pending) | u8::from(slice.with_key) << 1);
            last = slice.start;
        }
        if let Some(slice) = self.slices.back().filter(|slice| slice.with_key) {
            slice.encode(rules, out);
        }
    }

    /// Reads the cell; its slices have entries, but only the one that lies with the key is in memory.
    pub(crate) fn decode(&mut self, rules: &Rules, bytes: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::cell(bytes)?;
        self.clock = reader.i64()?;
        self.last_event = reader.i64()?;
        self.events = reader.u64()?;
        self.duplicates = reader.u64()?;
        self.late = reader.u64()?;
        self.newest = reader.i64()?;
        self.next = i64::MAX;
        let mut start = 0i64;
        let count = reader.count()?;
        // Room for the slice that the next event opens; grown by itself, a list of one would have room for four.
        let mut slices: VecDeque<Slice> = VecDeque::with_capacity(count + 1);
        for _ in 0..count {
            start = start.wrapping_add(reader.i64()?);
            if slices.back().is_some_and(|slice| slice.start >= start) {
                return Err(Corrupt { what: "slices in order expected" });
            }
            let mut slice = Slice::new(start, false);
            slice.next = start.wrapping_add(reader.i64()?);
            let flags = reader.byte()?;
            (slice.pending, slice.with_key) = (flags & 1 != 0, flags & 2 != 0);
            slice.stored = !slice.with_key;
            self.next = self.next.min(slice.next);
            slices.push_back(slice);
        }
        self.absent = slices.iter().filter(|slice| !slice.with_key).count() as u32;
        match slices.back_mut().filter(|slice| slice.with_key) {
            Some(newest) => {
                newest.decode(rules, reader.rest())?;
                newest.stored = false;
            }
            None => reader.finish()?,
        }
        if slices.iter().any(|slice| slice.with_key != slice.loaded) {
            return Err(Corrupt { what: "only the newest slice with its key expected" });
        }
        self.slices = slices;
        self.flags.loaded = true;
        Ok(())
    }
}

/// Memory of one remembered id, about: it is in two sets.
pub(crate) const REMEMBERED_BYTES: usize = 80;

fn find(slices: &VecDeque<Slice>, start: i64) -> Result<usize, usize> {
    for (at, slice) in slices.iter().enumerate().rev() {
        if slice.start == start {
            return Ok(at);
        }
        if slice.start < start {
            return Err(at + 1);
        }
    }
    Err(0)
}

/// So few slices have room for themselves only: most keys have one or two.
const SLICES_FEW: usize = 4;

/// The slice that starts then, opened when there is none.
pub(crate) fn open_slice(
    slices: &mut VecDeque<Slice>,
    newest: &mut i64,
    pool: &mut Pool,
    start: i64,
) -> usize {
    let at = find(slices, start).unwrap_or_else(|at| {
        if slices.len() == slices.capacity() && slices.len() < SLICES_FEW {
            slices.reserve_exact(1);
        }
        let mut slice = Slice::new(start, true);
        slice.panes = pool.list();
        slices.insert(at, slice);
        pool.bytes += size_of::<Slice>();
        at
    });
    *newest = start.max(*newest);
    at
}
