//! The keys of a pattern or a join in one slot: the state of each, its clocks, and what falls due though no event of it comes.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | inputs and what they do |
//! | `cells` | which cells are needed, taking them, writing those that changed, what leaves memory |
//! | `shelved` | the state of one key by itself, stored and read again: for cases |
//!
//! A key has its own watermark, as keys of windows do: its greatest event time less the disorder, of each side; the lesser of two
//! sides counts. A side that is silent is moved by the clock of the slot ([`crate::agenda`]), to where something falls due and never
//! further: once that clock is past it by the disorder and `idle_after`, and the side has been silent for that long.
//!
//! Invariant: what comes out depends on the inputs alone, not on when cells were stored and loaded.

mod cells;
mod shelved;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use foldhash::fast::FixedState;
use granary_core::{Span, Timestamp};
use hashbrown::HashMap;

use crate::Corrupt;
use crate::agenda::{Agenda, NOT_LISTED};
use crate::encode::Reader;
use crate::heard::Heard;
use crate::ids::{Id, Remembered, id_of};
use crate::rules::length;
use crate::shelf::{Shelf, Stored};
use crate::spec::Watermark;
pub(crate) use shelved::Shelved;

/// Events that are kept of one key. What comes beyond is set aside.
pub const EVENTS_MAX: usize = 16_384;
/// Bytes of the events that are kept of one key, about. What comes beyond is set aside.
pub const BYTES_MAX: usize = 4 << 20;
/// What is due of silent keys is found up to so much later.
pub const RESOLUTION: Span = Span(1_000);
/// The time of what nothing makes due but the end of the input: later than any event.
const END_MS: i64 = i64::MAX / 4;

/// The state of one key.
pub trait Machine: Sized {
    /// What is the same for all keys.
    type Of;
    /// An event as it is kept.
    type Kept: Stored;

    /// One that has seen nothing.
    fn new(of: &Arc<Self::Of>) -> Self;
    /// Its events.
    fn shelf(&self) -> &Shelf<Self::Kept>;
    /// Its events.
    fn shelf_mut(&mut self) -> &mut Shelf<Self::Kept>;
    /// Whether an event comes too late.
    fn is_late(&self, time: Timestamp) -> bool;
    /// Whether one more event can be kept; makes room where that is possible.
    fn has_room(&mut self, time: Timestamp) -> bool;
    /// The watermark at which time changes something.
    fn next_change(&self) -> Option<Timestamp>;
    /// How much bounds have cut since it was made.
    fn dropped(&self) -> u64;
    /// How long after an event's time a copy of it would not be late, ms.
    fn horizon(of: &Self::Of) -> i64;
    /// Appends all but its events.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads what [`Machine::put`] wrote; the events follow.
    fn read(of: &Arc<Self::Of>, reader: &mut Reader<'_>) -> Result<Self, Corrupt>;
    /// Its events are there.
    fn settle(&mut self) -> Result<(), Corrupt>;
}

/// Moves the watermark of a key, and takes what comes of it.
pub trait Host<M> {
    /// The watermark of the key is at least this.
    fn advance(&mut self, key: &[u8], machine: &mut M, to: Timestamp);
}

/// The clock of a side: what its source says of watermarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The watermark of a key is its greatest event time less this, ms.
    behind_ms: i64,
    /// How long a key is silent before the slot's clock moves it; `None`: only the end of the input does.
    lag_ms: Option<i64>,
}

impl Pace {
    /// Of a source.
    pub fn of(watermark: &Watermark) -> Pace {
        let behind_ms = watermark.out_of_orderness.map_or(0, length).saturating_add(1);
        let at_once = (watermark.per != crate::spec::Per::Key).then_some(0);
        Pace { behind_ms, lag_ms: watermark.idle_after.map(length).or(at_once) }
    }
}

/// An event, as the keys see it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Which of the sides it came to.
    pub side: usize,
    /// Where it was read: partitions of different topics have different numbers here.
    pub partition: u64,
    /// Its time.
    pub time: Timestamp,
    /// What names it, for copies to be refused.
    pub id: Option<&'a [u8]>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It takes part.
    Accepted,
    /// A copy of it was there before.
    Duplicate,
    /// It came when the watermark of its key was this.
    Late(Timestamp),
    /// Its key has as much as it may have.
    Overflow,
}

/// One key.
#[derive(Debug)]
struct Track<M> {
    machine: M,
    /// The watermarks of its sides.
    clocks: [i64; 2],
    /// What the slot's clock showed at the last event of each side.
    heard: [i64; 2],
    /// Under which date the agenda has it.
    listed: i64,
    /// Ids of events that are gone and of which a copy would not be late yet.
    ids: Remembered,
    /// Changed since the last seal.
    is_dirty: bool,
    /// Used since the eviction last passed.
    is_touched: bool,
    sealed: u64,
    /// What it was last counted as in memory.
    bytes: usize,
}

/// A step in one slot.
#[derive(Debug)]
pub struct Tracks<M: Machine> {
    of: Arc<M::Of>,
    prefix: Box<[u8]>,
    paces: Box<[Pace]>,
    keys: HashMap<Box<[u8]>, Track<M>, FixedState>,
    /// Keys of which chunks are still to be supplied.
    loading: HashMap<Box<[u8]>, Track<M>, FixedState>,
    agenda: Agenda,
    heard: Heard,
    /// The input has ended.
    has_ended: bool,
    has_root: bool,
    is_root_dirty: bool,
    dirty: Vec<Box<[u8]>>,
    bytes: usize,
    acknowledged: u64,
    /// What bounds have cut since somebody asked.
    cut: u64,
}

impl<M: Machine> Tracks<M> {
    /// One without any state in memory. The keys of its cells begin with `prefix`; it has as many sides as paces.
    pub fn new(of: Arc<M::Of>, paces: &[Pace], prefix: &[u8]) -> Tracks<M> {
        Tracks {
            of,
            prefix: prefix.into(),
            paces: paces.into(),
            keys: HashMap::default(),
            loading: HashMap::default(),
            agenda: Agenda::new(&[prefix, b"A"].concat(), RESOLUTION),
            heard: Heard::new(paces.len()),
            has_ended: false,
            has_root: false,
            is_root_dirty: false,
            dirty: Vec::new(),
            bytes: 0,
            acknowledged: 0,
            cut: 0,
        }
    }

    /// These partitions are read for a side: the slot's clock stands until something was heard of each of them.
    pub fn reads(&mut self, side: usize, partitions: impl IntoIterator<Item = u64>) {
        self.heard.reads(side, partitions);
    }

    /// An event arrives, and `enter` has it enter the state of its key; without that only its time passes. Nothing may be missing
    /// for its key.
    pub fn event<H: Host<M>>(
        &mut self,
        arrival: &Arrival<'_>,
        host: &mut H,
        enter: Option<impl FnOnce(&mut H, &mut M)>,
    ) -> Outcome {
        let Arrival { key, side, partition, time, .. } = *arrival;
        if self.heard.see(side, partition, time.ms()) {
            self.is_root_dirty = true;
        }
        self.agenda.see(self.heard.level());
        let now_ms = self.agenda.clock().ms();
        let horizon = M::horizon(&self.of);
        let (has_ended, pace) = (self.has_ended, self.paces[side]);
        self.with(key, |track, sides| {
            let before = track.machine.dropped();
            if has_ended {
                host.advance(key, &mut track.machine, Timestamp::MAX);
            }
            let w = track.watermark(sides);
            let outcome = match enter {
                None => Outcome::Accepted,
                Some(_) if track.machine.is_late(time) => Outcome::Late(Timestamp(w)),
                Some(enter) => track.enter(arrival, (w, horizon), |machine| enter(host, machine)),
            };
            track.heard[side] = now_ms.max(track.heard[side]);
            track.clocks[side] = time.ms().saturating_sub(pace.behind_ms).max(track.clocks[side]);
            let w = Timestamp(track.watermark(sides));
            host.advance(key, &mut track.machine, w);
            (outcome, track.machine.dropped() - before)
        })
    }

    /// Does something with a key whose cells are there, and lists it for what is due of it then.
    fn with(&mut self, key: &[u8], f: impl FnOnce(&mut Track<M>, usize) -> (Outcome, u64)) -> Outcome {
        let Tracks { of, keys, agenda, paces, bytes, dirty, cut, .. } = self;
        let track = keys.get_mut(key).expect("missing cells are supplied before an event is applied");
        let (outcome, dropped) = f(track, paces.len());
        *cut += dropped;
        track.remember(M::horizon(of), paces.len());
        track.list(key, paces, agenda);
        track.touch(key, bytes, dirty);
        outcome
    }

    /// Time passes while the slot stands at the end of all its inputs. How late it is then, when that makes something due: whoever
    /// decides that it is so late calls [`Tracks::set_clock`].
    pub fn pass(&mut self, stood: Span) -> Option<Timestamp> {
        self.agenda.pass(self.heard.newest()?, stood)
    }

    /// It is this late at least; what that makes due follows with [`Tracks::go_on`].
    pub fn set_clock(&mut self, to: Timestamp) {
        self.agenda.set_clock(to);
    }

    /// The input has ended: every watermark becomes the largest time. What that makes due follows with [`Tracks::go_on`].
    pub fn end(&mut self) {
        if !self.has_ended {
            (self.has_ended, self.is_root_dirty) = (true, true);
        }
        self.agenda.set_clock(Timestamp(2 * END_MS));
    }

    /// Whether something is due: [`Tracks::go_on`] comes before any other input.
    pub fn is_due(&self) -> bool {
        self.agenda.is_due()
    }

    /// Has the next portion of what is due done: the keys of a page.
    pub fn go_on(&mut self, host: &mut impl Host<M>) {
        let Some(due) = self.agenda.take() else { return };
        let Tracks { of, keys, agenda, paces, has_ended, bytes, dirty, cut, .. } = self;
        let now_ms = agenda.clock().ms();
        for key in &due.keys {
            let Some(track) = keys.get_mut(key).filter(|track| track.listed == due.date) else { continue };
            track.listed = NOT_LISTED;
            let before = track.machine.dropped();
            if *has_ended {
                host.advance(key, &mut track.machine, Timestamp::MAX);
            }
            while let Some(next) = track.machine.next_change()
                && track.due(next.ms(), paces) <= now_ms
            {
                track.clocks.iter_mut().for_each(|clock| *clock = next.ms().max(*clock));
                host.advance(key, &mut track.machine, next);
            }
            *cut += track.machine.dropped() - before;
            track.remember(M::horizon(of), paces.len());
            track.list(key, paces, agenda);
            track.touch(key, bytes, dirty);
        }
    }

    /// What bounds have cut since this was asked last.
    pub fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }
}

impl<M: Machine> Track<M> {
    fn new(machine: M) -> Track<M> {
        Track {
            machine,
            clocks: [i64::MIN; 2],
            heard: [i64::MIN; 2],
            listed: NOT_LISTED,
            ids: Remembered::default(),
            is_dirty: false,
            is_touched: true,
            sealed: 0,
            bytes: 0,
        }
    }

    fn watermark(&self, sides: usize) -> i64 {
        self.clocks[..sides].iter().copied().min().unwrap_or(i64::MIN)
    }

    /// Puts an event in, unless a copy of it is there or there is no room; `w` and `horizon` say how long ids are remembered.
    fn enter(
        &mut self,
        arrival: &Arrival<'_>,
        (w, horizon): (i64, i64),
        enter: impl FnOnce(&mut M),
    ) -> Outcome {
        let of_side = |[one, other]: Id| [one ^ arrival.side as u64, other]; // what has a name there may have it here
        let id = arrival.id.map(|id| of_side(id_of(id)));
        if let Some(id) = &id
            && (self.machine.shelf().has(id) || self.ids.contains(id, w, horizon))
        {
            return Outcome::Duplicate;
        }
        if self.ids.len() >= EVENTS_MAX || !self.machine.has_room(arrival.time) {
            return Outcome::Overflow;
        }
        self.machine.shelf_mut().name_next(id);
        enter(&mut self.machine);
        Outcome::Accepted
    }

    /// Remembers the ids of events that have gone, as long as copies of them would not be late.
    fn remember(&mut self, horizon: i64, sides: usize) {
        let w = self.watermark(sides);
        for (id, ms) in self.machine.shelf_mut().take_gone() {
            if w < ms.saturating_add(horizon) {
                self.ids.insert(id, ms);
            }
        }
    }

    /// How late it must be in the slot before silence moves the key there.
    fn due(&self, next_ms: i64, paces: &[Pace]) -> i64 {
        let behind = (0..paces.len()).filter(|side| self.clocks[*side] < next_ms);
        let due = behind.map(|side| match paces[side].lag_ms {
            Some(lag) if next_ms < END_MS => {
                next_ms.saturating_add(paces[side].behind_ms).max(self.heard[side]).saturating_add(lag)
            }
            _ => END_MS,
        });
        due.max().unwrap_or(next_ms)
    }

    fn list(&mut self, key: &[u8], paces: &[Pace], agenda: &mut Agenda) {
        if let Some(next) = self.machine.next_change() {
            let due = self.due(next.ms(), paces).min(END_MS);
            agenda.list(key, &mut self.listed, Timestamp(due));
        }
    }

    fn touch(&mut self, key: &[u8], bytes: &mut usize, dirty: &mut Vec<Box<[u8]>>) {
        let now = self.memory_bytes(key);
        *bytes = *bytes - std::mem::replace(&mut self.bytes, now) + now;
        self.is_touched = true;
        if !std::mem::replace(&mut self.is_dirty, true) {
            dirty.push(key.into());
        }
    }
}
