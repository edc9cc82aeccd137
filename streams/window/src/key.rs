//! A routing key: its clock, its counters and its slices.

use std::collections::VecDeque;

use crate::Corrupt;
use crate::aggregate::Sample;
use crate::encode::{Reader, VERSION, put_i64, put_u64};
use crate::ids::{Id, Remembered};
use crate::pane::{Scene, Segments};
use crate::pool::Pool;
use crate::row::{Outcome, Output};
use crate::rules::Rules;
use crate::slice::{Kept, Slice, forget_at};

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
    pub(crate) remembered: Option<Box<Remembered>>,
    /// The last commit it went into.
    pub(crate) sealed: u64,
    /// With idleness: how much silence had passed at its last event. With a watermark per stream: the time it is
    /// queued for.
    pub(crate) mark: i64,
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
            remembered: None,
            sealed: 0,
            mark: i64::MAX,
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
    pub(crate) fn take_fixed<O: Output>(&mut self, arrival: &Arrival<'_>, stage: &mut Stage<'_, O>) -> Outcome {
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
        if let Some(id) = ids_of_panes
            && windows.iter().any(|&(start, end)| {
                let Ok(at) = find(&self.slices, start) else { return false };
                let slice = &mut self.slices[at];
                slice.unpack(rules, stage.pool);
                slice.find(arrival.by, end).is_some_and(|i| slice.panes[i].ids.contains(&id))
            })
        {
            return Outcome::Duplicate;
        }
        if self.remembers(rules, w, arrival.id) {
            return Outcome::Duplicate;
        }
        self.remember(rules, stage.pool, arrival.sample.time, arrival.id);
        for &(start, end) in windows.iter() {
            let at = open_slice(&mut self.slices, &mut self.newest, stage.pool, start);
            let slice = &mut self.slices[at];
            slice.unpack(rules, stage.pool);
            let i = match slice.find(arrival.by, end) {
                Some(i) => i,
                None => slice.push(rules, stage.pool.open(rules, arrival.by, start, end)),
            };
            let pane = &mut slice.panes[i];
            let scene = Scene { rules, key: self.name.bytes(), w, now };
            let before = pane.memory_bytes();
            pane.accumulate(&scene, &arrival.sample, ids_of_panes, now);
            pane.after_event(&scene, stage.out);
            stage.pool.changed(before, pane.memory_bytes());
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

    /// Time has passed: what is due is published, what is closed leaves.
    pub(crate) fn fire<O: Output>(&mut self, place: u32, stage: &mut Stage<'_, O>) {
        if stage.rules.layout.ends_together() {
            return self.fire_in_order(place, stage);
        }
        self.next = i64::MAX;
        let mut at = 0;
        while let Some(slice) = self.slices.get(at) {
            if slice.next <= stage.w && self.fire_at(at, place, stage) {
                continue;
            }
            self.next = self.next.min(self.slices[at].next);
            at += 1;
        }
    }

    /// As `fire`, where all windows of a slice end together: then slices close from the front, and those with a result
    /// to come are at the back (an entry that only says that there is no cell may lie among them). Those in between wait
    /// to be closed and are not looked at, however many they are.
    fn fire_in_order<O: Output>(&mut self, place: u32, stage: &mut Stage<'_, O>) {
        while self.slices.front().is_some_and(|slice| slice.next <= stage.w && !slice.pending) {
            if !self.fire_at(0, place, stage) {
                break;
            }
        }
        self.next = self.slices.front().map_or(i64::MAX, |slice| slice.next);
        let mut at = self.slices.len();
        let is_behind = |slice: &Slice| slice.pending || (slice.loaded && slice.is_empty());
        while at > 0 && is_behind(&self.slices[at - 1]) {
            at -= 1;
        }
        while let Some(slice) = self.slices.get(at) {
            if slice.next <= stage.w && self.fire_at(at, place, stage) {
                continue;
            }
            let slice = &mut self.slices[at];
            slice.pack(stage.rules, stage.pool);
            self.next = self.next.min(slice.next);
            at += 1;
        }
        if let Some(front) = self.slices.front() {
            self.next = self.next.min(front.next);
        }
    }

    /// Fires one slice; true when it is gone.
    fn fire_at<O: Output>(&mut self, at: usize, place: u32, stage: &mut Stage<'_, O>) -> bool {
        let Stage { rules, w, now, .. } = *stage;
        let slice = &mut self.slices[at];
        // What is packed or not in memory has no result to come (it would have been missing): it only leaves.
        if slice.is_packed() {
            stage.pool.less(slice.memory_bytes() - size_of::<Slice>());
        } else if slice.loaded {
            let scene = Scene { rules, key: self.name.bytes(), w, now };
            fire_slice(slice, &scene, stage.pool, stage.out);
            if !slice.is_empty() {
                return false;
            }
        }
        if slice.stored {
            stage.pool.deleted.push((place, slice.start));
        }
        stage.pool.less(size_of::<Slice>());
        if let Some(mut gone) = self.slices.remove(at) {
            stage.pool.keep_list(std::mem::take(&mut gone.panes));
        }
        true
    }

    /// The wall clock has passed: early results that waited long enough.
    pub(crate) fn after_delay<O: Output>(&mut self, stage: &mut Stage<'_, O>) -> bool {
        let Stage { rules, w, now, .. } = *stage;
        let scene = Scene { rules, key: self.name.bytes(), w, now };
        let mut changed = false;
        for slice in &mut self.slices {
            for pane in &mut slice.panes {
                if pane.after_delay(&scene, stage.out) {
                    slice.dirty = true;
                    changed = true;
                }
            }
        }
        changed
    }

    /// The cell: what must be known before any slice is.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
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
            out.push(u8::from(slice.pending));
            last = slice.start;
        }
    }

    /// Reads the cell; its slices have entries, but are not in memory.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::cell(bytes)?;
        self.clock = reader.i64()?;
        self.last_event = reader.i64()?;
        self.events = reader.u64()?;
        self.duplicates = reader.u64()?;
        self.late = reader.u64()?;
        self.newest = reader.i64()?;
        self.next = i64::MAX;
        let mut start = 0i64;
        let mut slices: VecDeque<Slice> = VecDeque::new();
        for _ in 0..reader.count()? {
            start = start.wrapping_add(reader.i64()?);
            if slices.back().is_some_and(|slice| slice.start >= start) {
                return Err(Corrupt { what: "slices in order expected" });
            }
            let mut slice = Slice::new(start, false);
            slice.next = start.wrapping_add(reader.i64()?);
            slice.pending = reader.byte()? != 0;
            slice.stored = true;
            self.next = self.next.min(slice.next);
            slices.push_back(slice);
        }
        reader.finish()?;
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

/// The slice that starts then, opened when there is none, and about to change.
pub(crate) fn open_slice(slices: &mut VecDeque<Slice>, newest: &mut i64, pool: &mut Pool, start: i64) -> usize {
    let at = find(slices, start).unwrap_or_else(|at| {
        if slices.is_empty() {
            slices.reserve_exact(1);
        }
        let mut slice = Slice::new(start, true);
        slice.panes = pool.list();
        slices.insert(at, slice);
        pool.bytes += size_of::<Slice>();
        at
    });
    *newest = start.max(*newest);
    slices[at].dirty = true;
    slices[at].touched = true;
    at
}

fn fire_slice(slice: &mut Slice, scene: &Scene<'_>, pool: &mut Pool, out: &mut impl Output) {
    let rules = scene.rules;
    for pane in &mut slice.panes {
        let before = pane.memory_bytes();
        pane.after_time(scene, out);
        pool.changed(before, pane.memory_bytes());
    }
    slice.remove(rules, |pane| scene.w >= rules.retire(pane.end), |pane| pool.recycle(pane));
    if let crate::rules::Layout::Sliding { difference } = rules.layout {
        let gone = |kept: &Kept| scene.w >= forget_at(rules, kept.time, difference);
        slice.forget(gone, |kept| pool.less(kept.memory_bytes()));
    }
    slice.dirty = true;
    slice.refresh(rules);
}
