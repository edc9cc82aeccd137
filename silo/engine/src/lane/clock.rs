//! Steps of a slot that no record causes: silence, the portions of a closing, the end of the inputs.
//!
//! With an external log such steps are numbered, as if they were the records of one more source, [`CLOCK`]: outputs name the
//! step as their cause, and the slot's position there says how many were taken. A step that follows from the slot's state
//! alone is taken again by itself when the store has lost it. What the wall clock decided goes to the slot's journal, in the
//! transaction with the outputs that depend on it: its number, where the slot stood in its sources, and what was decided. A
//! slot whose marker has seen more steps than its store reads them from there, and takes each again where it was taken
//! first: records from further on wait until then.

use std::collections::VecDeque;
use std::rc::Rc;

use granary_cluster::positions::{self, offset};
use granary_cluster::{Applied, ByClock, Cause, Failure, Pipeline, Position, SourceId, StreamId};
use granary_core::{Result, SlotId, codec};
use serde::{Deserialize, Serialize};

use crate::mailbox::Word;
use crate::slot::{Blame, Inner, SlotHost};

use super::Lane;
use super::alarms::Alarm;
use super::apply::Fault;
use super::commit::millis;
use super::feed::{cause, set_offset};
use super::host::NO_SOURCE;
use super::moving::Here;

/// The source of steps that no record causes.
pub(crate) const CLOCK: SourceId = SourceId(u16::MAX - 1);

/// One input of the clock, as its slot's journal keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    number: u64,
    /// Source, partition, and the next offset there, when it was taken.
    stood: Vec<(u16, u32, u64)>,
    input: Vec<u8>,
}

impl Entry {
    fn stood(&self) -> impl Iterator<Item = Position> {
        self.stood.iter().map(|(source, partition, offset)| Position {
            source: SourceId(*source),
            partition: *partition,
            offset: *offset,
        })
    }
}

#[test]
fn journals_of_version_1_are_read() {
    let entry =
        |stood: &[(u16, u32, u64)]| Entry { number: 300, stood: stood.to_vec(), input: vec![0xff, 0] };
    let bytes =
        b"\x83\xa6number\xcd\x01\x2c\xa5stood\x91\x93\x01\x02\xce\x00\x01\x11\x70\xa5input\x92\xcc\xff\x00";
    let read: Entry = granary_core::codec::from_bytes(bytes).expect("an entry as version 1 has written it");
    let written = granary_core::codec::to_bytes(&entry(&[(1, 2, 70_000)])).expect("an entry");
    assert_eq!(format!("{read:?}"), format!("{:?}", entry(&[(1, 2, 70_000)])), "now written as {written:x?}");
    assert_eq!(written, bytes, "a new form is added here");
}

/// What a slot takes again.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The first number that the marker has not seen.
    until: u64,
    /// `None` until they were read.
    entries: Option<VecDeque<Entry>>,
    /// Partitions whose next record for the slot was seen and waits.
    reached: Vec<(SourceId, u32)>,
}

impl Replay {
    /// Whether the record at this place comes after the next input of the clock.
    fn holds(&mut self, at: Position) -> bool {
        let Some(entries) = &self.entries else { return true };
        let Some(next) = entries.front() else { return false };
        let stood = next.stood().find(|p| (p.source, p.partition) == (at.source, at.partition));
        let holds = at.offset >= stood.map_or(0, |p| p.offset);
        if holds && !self.reached.contains(&(at.source, at.partition)) {
            self.reached.push((at.source, at.partition));
        }
        holds
    }
}

impl Inner {
    /// Whether the record at this place has to wait for an input of the clock that was taken before it.
    pub(super) fn waits_for_clock(&mut self, at: Position) -> bool {
        self.replay.as_mut().is_some_and(|replay| replay.holds(at))
    }
}

fn clock_of(slot: SlotId) -> Position {
    Position { source: CLOCK, partition: u32::from(slot.0), offset: 0 }
}

/// How many steps of the clock the slot has taken.
fn steps(positions: &[Position], slot: SlotId) -> u64 {
    offset(positions, clock_of(slot)).unwrap_or(0)
}

impl Lane {
    /// Time passes for the slots that stand at the end of all their inputs.
    pub(super) fn tick_slots(&self) {
        if self.config.finite || self.is_stopping.get() {
            return;
        }
        let now = self.now.get();
        for host in self.slots.iter().flatten() {
            let feeds = self.feeds.borrow();
            let at_end =
                feeds.iter().filter(|f| f.feeds(host.id)).all(|f| f.again_of.is_some() || f.is_idle());
            drop(feeds);
            let at_end = at_end && host.kept.borrow().is_empty();
            let mut inner = host.inner.borrow_mut();
            let is_free = host.is_running.get() && host.here.get() == Here::Yes && !host.is_closing.get();
            let is_full = host.is_batch_full(&inner) || inner.machine.is_outbox_full();
            if !at_end || !is_free || host.stream_turns.get() > 0 || is_full || inner.replay.is_some() {
                continue;
            }
            let before = inner.effects.outbox.len();
            let ticked = self.by_clock(host, &mut inner, |pipeline, cause, inner| {
                pipeline.tick(host.id, now, cause, &mut inner.effects)
            });
            host.is_closing.set(ticked == Some(Applied::More));
            if inner.effects.outbox.len() > before {
                host.has_changes.set(true);
            }
            self.tell_decided(host, inner);
        }
    }

    /// One step that no record causes; `None` when it failed, and the slot goes back.
    pub(super) fn by_clock(
        &self,
        host: &Rc<SlotHost>,
        inner: &mut Inner,
        mut step: impl FnMut(&mut dyn Pipeline, Cause, &mut Inner) -> Result<Applied, Failure>,
    ) -> Option<Applied> {
        let here = Position { offset: steps(&inner.positions, host.id), ..clock_of(host.id) };
        let no_step = Position { source: NO_SOURCE, offset: inner.machine.open_commit().0, ..here };
        let is_counted = self.config.journal.is_some();
        let cause = cause(if is_counted { here } else { no_step }, 0);
        let taken = self.until_done(host, inner, b"pipeline/the clock.apply", |pipeline, inner| {
            inner.effects.by_clock = None;
            step(pipeline, cause, inner)
        });
        match taken {
            Ok(applied) => {
                let step = inner.effects.by_clock.take();
                if let (Some(stream), Some(step)) = (self.config.journal, step) {
                    self.count_step(host, inner, here, stream, step);
                }
                Some(applied)
            }
            Err(fault) => {
                let (reason, blame) = match fault {
                    Fault::Store(error) => (error.to_string(), Blame::Store),
                    Fault::Lacks => ("cells are missing".into(), Blame::Store),
                    Fault::Handler(reason) => (reason, Blame::Slot),
                };
                host.break_with(reason, blame);
                None
            }
        }
    }

    /// A step was taken: it has its number, and what the wall clock decided goes to the journal.
    fn count_step(
        &self,
        host: &SlotHost,
        inner: &mut Inner,
        here: Position,
        stream: StreamId,
        step: ByClock,
    ) {
        if let ByClock::Input(input) = step {
            let of_sources =
                self.positions_of(host, &inner.positions).into_iter().filter(|p| p.source < CLOCK);
            let stood = of_sources.map(|p| (p.source.0, p.partition, p.offset)).collect();
            let entry = Entry { number: here.offset, stood, input };
            let value = codec::to_bytes(&entry).expect("numbers and bytes can be encoded");
            let (key, id) = (here.offset.to_string(), format!("clock/{}/{}", host.id, here.offset));
            inner.effects.outbox.push(
                stream,
                cause(here, u32::MAX), // after all outputs of the step
                self.now.get(),
                key.as_bytes(),
                |out| out.extend_from_slice(id.as_bytes()),
                |out| out.extend_from_slice(&value),
            );
        }
        set_offset(&mut inner.positions, here);
        host.has_changes.set(true);
    }

    /// A slot is open: what its marker has seen of the clock and its store has not is read from its journal.
    pub(super) fn begin_replay(&self, host: &SlotHost) {
        let mut inner = host.inner.borrow_mut();
        let from = steps(&inner.positions, host.id);
        let until = steps(inner.machine.floor(), host.id);
        let lags = self.config.journal.is_some() && from < until;
        inner.replay = lags.then(|| Replay { until, entries: None, reached: Vec::new() });
        drop(inner);
        if lags {
            tracing::info!(slot = %host.id, from, until, "inputs of the clock are taken again");
            self.read_journal(host);
        }
    }

    /// Asks for what the slot has to take again.
    pub(super) fn read_journal(&self, host: &SlotHost) {
        let inner = host.inner.borrow();
        let Some(Replay { until, entries: None, .. }) = inner.replay else { return };
        let from = steps(&inner.positions, host.id);
        drop(inner);
        let (mailbox, slot) = (self.mailbox.clone(), host.id);
        let done = Box::new(move |values| mailbox.tell(Word::Journal(slot, values)));
        self.ask_producer(|producer| producer.journal(slot, from..until, done));
    }

    /// What was asked for is here.
    pub(super) fn journal(&self, slot: SlotId, values: Result<Vec<Vec<u8>>>) {
        let Some(host) = self.slot(slot) else { return };
        let entries = values.and_then(|values| values.iter().map(|value| codec::from_bytes(value)).collect());
        let mut inner = host.inner.borrow_mut();
        let Some(replay) = &mut inner.replay else { return };
        match entries {
            Ok(entries) => {
                let _ = replay.entries.get_or_insert(entries); // an answer of an earlier time says the same
            }
            Err(error) => {
                let wait = inner.ask_backoff.failed();
                tracing::warn!(%slot, %error, "the slot's journal cannot be read; trying again in {wait:?}");
                drop(inner);
                self.set_alarm(self.now.get() + millis(wait), Alarm::Journal(slot));
            }
        }
    }

    /// Takes inputs of the clock again in the slots that stand where they were taken first.
    pub(super) fn replay_clock(&self) {
        for host in self.slots.iter().flatten() {
            let is_replaying = host.inner.borrow().replay.is_some();
            if is_replaying && !host.is_closing.get() && self.may_go_on(host) {
                self.replay_next(host);
            }
        }
    }

    fn replay_next(&self, host: &Rc<SlotHost>) {
        let mut inner = host.inner.borrow_mut();
        let from = steps(&inner.positions, host.id);
        let positions = self.positions_of(host, &inner.positions);
        let floor_reached = !positions::any_ahead(&of_sources(inner.machine.floor()), &positions);
        let Some(Replay { until, entries: Some(entries), reached }) = &mut inner.replay else { return };
        while entries.front().is_some_and(|entry| entry.number < from) {
            entries.pop_front();
        }
        let until = *until;
        let Some(next) = entries.front() else {
            if from >= until || floor_reached {
                self.end_replay(host, &mut inner, from, until);
            }
            return;
        };
        let is_there = |p: Position| {
            offset(&positions, p).is_some_and(|at| at >= p.offset)
                || p.offset == 0
                || reached.contains(&(p.source, p.partition))
        };
        if !next.stood().all(is_there) {
            return;
        }
        let Some(entry) = entries.pop_front() else { return };
        reached.clear();
        if entry.number > from {
            tracing::error!(slot = %host.id, from, to = entry.number, "steps of the clock are not in the journal: windows \
                closed by silence may be published again");
            set_offset(&mut inner.positions, Position { offset: entry.number - 1, ..clock_of(host.id) });
        }
        let taken = self.by_clock(host, &mut inner, |pipeline, cause, inner| {
            pipeline.replay(host.id, &entry.input, cause, &mut inner.effects)
        });
        host.is_closing.set(taken == Some(Applied::More));
        self.tell_decided(host, inner);
    }

    /// The slot has taken all again that its marker has seen.
    fn end_replay(&self, host: &SlotHost, inner: &mut Inner, from: u64, until: u64) {
        inner.replay = None;
        if from < until {
            // Numbers that the marker has seen are not given again: what they cause would be dropped.
            set_offset(&mut inner.positions, Position { offset: until - 1, ..clock_of(host.id) });
            host.has_changes.set(true);
        }
        tracing::info!(slot = %host.id, until, "inputs of the clock were taken again");
    }
}

fn of_sources(positions: &[Position]) -> Vec<Position> {
    positions.iter().copied().filter(|p| p.source < CLOCK).collect()
}
