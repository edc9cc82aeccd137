//! Records from sources to slots. A lane reads a partition in order; each slot skips what it has applied before.

use std::rc::Rc;

use granary_cluster::retry::{Retry, TRIES_POISON};
use granary_cluster::slots::Slots;
use granary_cluster::{Batch, Cause, Position, Record, SourceId, fail};
use granary_core::{SlotId, Timestamp};

use crate::cluster::Cluster;
use crate::config::{READ_BYTES_MAX, Source};
use crate::slot::{Blame, Inner, SlotHost};
use crate::stats::LaneStats;

use super::Lane;
use super::alarms::Alarm;
use super::apply::Fault;
use super::chunk::Chunk;
use super::commit::millis;
use super::moving::Here;

/// One partition of a source, as this lane reads it.
pub(crate) struct Feed {
    pub(super) source: SourceId,
    pub(super) partition: u32,
    /// The source that it reads a second time.
    pub(super) again_of: Option<SourceId>,
    partitions: u32,
    in_place: bool,
    reader: Box<dyn Source>,
    pub(super) batch: Batch,
    /// Records of the batch before this place are done with.
    pub(super) at: usize,
    pub(super) chunk: Chunk,
    /// The next offset to hand out; `None` until a slot it feeds is open.
    pub(super) next: Option<u64>,
    /// The last read found nothing.
    pub(super) is_at_end: bool,
    /// The last read found about as much as it may: there is more.
    is_plenty: bool,
    has_ended: bool,
}

/// What became of a record.
pub(super) enum Fed {
    /// It is done with.
    Passed,
    /// Its slot cannot take it now.
    Waits,
    /// It needs cells that may be looked up together with those of others; nothing was changed.
    Lacks,
}

impl Feed {
    pub(super) fn feeds(&self, slot: SlotId) -> bool {
        !self.in_place || u32::from(slot.0) % self.partitions == self.partition
    }

    /// Whether it stands at the end, with nothing handed out but not taken, and nothing on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.is_at_end && self.at == self.batch.len() && self.reader.is_at_end()
    }

    /// Whether more is there than the lane has taken, as far as it has looked.
    fn is_behind(&self) -> bool {
        self.is_plenty || self.at < self.batch.len()
    }

    /// When the log took the next record to be applied; `None` when there is none.
    pub(super) fn reading_since(&self) -> Option<Timestamp> {
        (self.at < self.batch.len()).then(|| self.record(self.at).appended_at)
    }

    /// The record at a place of the batch.
    pub(super) fn record(&self, place: usize) -> Record<'_> {
        self.batch.get(place, self.source, self.partition)
    }

    fn seek(&mut self, to: u64) {
        self.next = Some(to);
        self.batch.clear();
        self.at = 0;
        (self.is_at_end, self.is_plenty, self.has_ended) = (false, false, false);
    }
}

impl Lane {
    /// Opens every partition that feeds a slot of this lane.
    pub(super) fn open_feeds(&self) {
        let mut feeds = Vec::new();
        for (source, spec) in self.config.sources.iter().enumerate() {
            self.pipeline.borrow_mut().fed_by(SourceId(source as u16), spec.partitions, spec.in_place);
            for partition in 0..spec.partitions {
                let reader = match (spec.open)(partition) {
                    Ok(reader) => reader,
                    Err(error) => {
                        tracing::error!(topic = %spec.topic, partition, %error, "the source cannot be opened");
                        continue;
                    }
                };
                let feed = Feed {
                    source: SourceId(source as u16),
                    partition,
                    again_of: spec.again_of,
                    partitions: spec.partitions,
                    in_place: spec.in_place,
                    reader,
                    batch: Batch::default(),
                    at: 0,
                    chunk: Chunk::default(),
                    next: None,
                    is_at_end: false,
                    is_plenty: false,
                    has_ended: false,
                };
                if self.slots.iter().flatten().any(|host| feed.feeds(host.id)) {
                    feeds.push(feed);
                }
            }
        }
        *self.feeds.borrow_mut() = feeds;
    }

    /// A slot is open: where it has no position of a source whose beginning was asked for, it begins there; where a
    /// person has decided to go on further ahead, it does. The store has to know both.
    pub(super) fn begin_positions(&self, host: &SlotHost) {
        let mut inner = host.inner.borrow_mut();
        for feed in self.feeds.borrow().iter().filter(|feed| feed.feeds(host.id)) {
            let spec = &self.config.sources[usize::from(feed.source.0)];
            let known = find(&inner.positions, feed.source, feed.partition).ok();
            let known = known.map(|i| inner.positions[i].offset);
            // What the marker has seen was read before, and the store has forgotten all of it: from the first record on, or
            // not at all if that is gone.
            let was_read = find(inner.machine.floor(), feed.source, feed.partition).is_ok();
            let start =
                spec.starts.get(feed.partition as usize).map(|start| if was_read { 0 } else { *start });
            let begins = known.or(start);
            let rewound = spec.rewound.iter().find(|(partition, _)| *partition == feed.partition);
            let wanted = rewound.map_or(begins, |(_, to)| begins.max(Some(*to)));
            if let Some(offset) = wanted.filter(|offset| known != Some(*offset)) {
                let at = Position { source: feed.source, partition: feed.partition, offset };
                set_offset_to(&mut inner.positions, at);
                host.has_changes.set(true);
            }
        }
    }

    /// A slot is open at its positions: what feeds it goes back to them where it is further.
    pub(super) fn rewind_feeds(&self, host: &SlotHost) {
        let inner = host.inner.borrow();
        for feed in self.feeds.borrow_mut().iter_mut().filter(|feed| feed.feeds(host.id)) {
            let at = offset(&inner.positions, feed.source, feed.partition);
            if feed.next.is_none_or(|next| next > at) {
                tracing::debug!(slot = %host.id, source = %feed.source, partition = feed.partition, at, "reading from");
                feed.seek(at);
            }
        }
    }

    /// A source may have more.
    pub(super) fn look_at_sources(&self) {
        for feed in self.feeds.borrow_mut().iter_mut() {
            feed.is_at_end = false;
        }
    }

    /// Hands records to slots; true when there are more that could be handed out now.
    pub(super) fn feed(&self) -> bool {
        if self.is_stopping.get() || self.is_finished.get() || !self.may_store() {
            return false;
        }
        let mut more = self.feed_kept();
        let mut feeds = std::mem::take(&mut *self.feeds.borrow_mut());
        for feed in &mut feeds {
            more |= self.feed_from(feed);
        }
        let all_ended = self.config.finite && feeds.iter().all(|feed| feed.has_ended);
        *self.feeds.borrow_mut() = feeds;
        if all_ended && !more && self.slots_keeping().is_empty() {
            return self.end_inputs();
        }
        more
    }

    /// Whether the store answers, as far as is known, and has slots of this silo. Records stay in the log until it does: they
    /// could only wait in memory.
    fn may_store(&self) -> bool {
        let has_lease = |cluster: &Cluster| cluster.lease.holds(self.now.get());
        !self.is_store_away() && self.config.cluster.as_ref().is_none_or(has_lease)
    }

    /// Whether records wait that the lane could not take yet: each commit takes of the time that it has for them.
    pub(super) fn is_behind(&self) -> bool {
        self.feeds.borrow().iter().any(Feed::is_behind)
    }

    pub(super) fn refill(&self, feed: &mut Feed, next: u64) -> bool {
        let _ = fail::point("fetch.before");
        feed.batch.clear();
        feed.at = 0;
        if let Some(first) = feed.again_of {
            feed.reader.stands(self.furthest(feed, first));
        }
        match feed.reader.read(next, READ_BYTES_MAX, &mut feed.batch) {
            Ok(()) => {}
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                tracing::warn!(source = %feed.source, partition = feed.partition, %error, "cannot read; trying again in {wait:?}");
                feed.is_at_end = true;
                self.set_alarm(self.now.get() + millis(wait), Alarm::Sources);
                return false;
            }
        }
        let _ = fail::point("fetch.after");
        feed.is_plenty = feed.batch.bytes() >= READ_BYTES_MAX / 2; // what is read is not counted to the byte
        if feed.batch.is_empty() {
            feed.is_at_end = true;
            feed.has_ended = self.config.finite && feed.reader.has_ended(next).unwrap_or(false);
            return false;
        }
        true
    }

    /// Where the furthest of the slots stands that a second reading feeds, in the first one.
    fn furthest(&self, feed: &Feed, first: SourceId) -> u64 {
        let fed = self.slots.iter().flatten().filter(|host| feed.feeds(host.id));
        let stands = fed.map(|host| offset(&host.inner.borrow().positions, first, feed.partition));
        stands.max().unwrap_or(0)
    }

    /// Hands a record that was routed to `slot` to whoever takes it.
    pub(super) fn feed_one(&self, feed: &Feed, slot: SlotId, record: &Record<'_>) -> Fed {
        let at = Position { source: feed.source, partition: feed.partition, offset: record.offset };
        if !feed.feeds(slot) {
            return if feed.again_of.is_some() { Fed::Passed } else { self.stray(feed, record, at) };
        }
        match self.slots.get(usize::from(slot.0)).and_then(Option::as_ref) {
            Some(host) if !host.kept.borrow().is_empty() => self.keep(host, record),
            Some(host) => self.feed_slot(host, record, at, Self::apply),
            None => Fed::Passed,
        }
    }

    /// A record whose key disagrees with its partition leaves through the outbox of the slot that hosts the partition.
    fn stray(&self, feed: &Feed, record: &Record<'_>, at: Position) -> Fed {
        let slots = Slots::new(self.config.slots).expect("a cluster has at least one slot");
        let Some(host) = self.slot(slots.host(feed.partition)) else { return Fed::Passed };
        if !host.kept.borrow().is_empty() {
            return Fed::Waits; // the slot is not to stand behind what is kept for it
        }
        let stream = self.config.sources[feed.source.0 as usize].strays;
        let key = self.pipeline.borrow().routed_key(record);
        self.feed_slot(&host, record, at, |_, _, inner, record, at| {
            let Some(stream) = stream else {
                return Err(Fault::Handler("the record's key disagrees with its partition".into()));
            };
            let cause = cause(at, 0);
            let id = format!("stray/{}/{}/{}", at.source, at.partition, at.offset);
            inner.effects.outbox.push(
                stream,
                cause,
                record.appended_at,
                &key,
                |out| out.extend_from_slice(id.as_bytes()),
                |out| out.extend_from_slice(record.value),
            );
            Ok(())
        })
    }

    /// Gives a record to a slot if it can take it now.
    pub(super) fn feed_slot(
        &self,
        host: &Rc<SlotHost>,
        record: &Record<'_>,
        at: Position,
        apply: impl FnOnce(&Lane, &Rc<SlotHost>, &mut Inner, &Record<'_>, Position) -> Result<(), Fault>,
    ) -> Fed {
        let mut inner = host.inner.borrow_mut();
        if inner.is_parked || host.here.get() != Here::Yes || is_applied(host, &inner, at) {
            LaneStats::add(&self.mailbox.stats.skipped, 1);
            return Fed::Passed;
        }
        let waits = !host.is_running.get() || host.stream_turns.get() > 0 || host.broken.borrow().is_some();
        let waits = waits || (host.seal_waits.get() && host.has_changes.get());
        let waits = waits || host.is_closing.get() || self.now.get() < host.paused_until.get();
        if waits || host.is_batch_full(&inner) || inner.machine.is_outbox_full() {
            return Fed::Waits;
        }
        if inner.waits_for_clock(at) {
            return Fed::Waits;
        }
        let mode = self.mode(&inner);
        if inner.records_open as usize >= (mode.records_max() as usize).min(self.config.batch_records_max) {
            inner.is_single_full = true;
            return Fed::Waits;
        }
        let verdict = inner.caution.as_ref().map_or(Retry::Retry, |caution| caution.verdict(at));
        if verdict == Retry::Park {
            drop(inner);
            host.break_with("the process ended again and again in this slot".into(), Blame::Process);
            return Fed::Waits;
        }
        if mode.must_note() {
            drop(inner);
            if !self.note(host, at) {
                return Fed::Waits;
            }
            inner = host.inner.borrow_mut();
        }
        self.mailbox.pulse.record(at.source.0, at.partition, at.offset);
        inner.applying = Some(at);
        inner.applying_at = record.appended_at;
        let _ = fail::point("apply.before");
        let applied = if verdict == Retry::Poison || inner.culprit.is_poison(at) {
            self.count(|s| &s.poisoned);
            if verdict == Retry::Poison {
                tracing::error!(slot = %host.id, ?at, "the process ended {TRIES_POISON} times with this record: it goes to \
                    `poisoned`");
            }
            let reason = inner.last_failure.clone();
            self.pipeline.borrow_mut().poison(host.id, record, &reason, &mut inner.effects);
            Ok(())
        } else {
            apply(self, host, &mut inner, record, at)
        };
        let _ = fail::point("apply.after");
        if let Err(fault) = applied {
            drop(inner);
            if matches!(fault, Fault::Lacks) {
                return Fed::Lacks;
            }
            self.fault(host, fault);
            return Fed::Waits;
        }
        inner.next_index = outputs_of(&inner, at);
        set_offset(&mut inner.positions, at);
        inner.records_open += 1;
        inner.is_single_full |= mode.records_max() == 1; // others wait for this one's commit
        host.has_changes.set(true);
        LaneStats::add(&self.mailbox.stats.records, 1);
        host.work.set(host.work.get() + 1);
        let tells = std::mem::take(&mut inner.effects.tells);
        drop(inner);
        self.tell_all(host, tells);
        self.mailbox.pulse.no_record();
        Fed::Passed
    }

    /// Every position of the slot: what it applied, and what it had nothing to do with.
    pub(super) fn positions_of(&self, host: &SlotHost, applied: &[Position]) -> Vec<Position> {
        let mut positions = applied.to_vec();
        if host.here.get() != Here::Yes {
            return positions; // what passes it by is another's
        }
        for feed in self.feeds.borrow().iter().filter(|feed| feed.feeds(host.id)) {
            let Some(next) = self.passed(host, feed) else { continue };
            let at = Position { source: feed.source, partition: feed.partition, offset: next };
            if next > offset(&positions, at.source, at.partition) {
                set_offset_to(&mut positions, at);
            }
        }
        positions
    }

    /// Whether records have passed that the slot's stored positions do not cover.
    pub(super) fn is_lagging(&self, host: &SlotHost) -> bool {
        host.here.get() == Here::Yes && self.is_lagging_at(host, &host.inner.borrow().positions)
    }

    pub(super) fn is_lagging_at(&self, host: &SlotHost, positions: &[Position]) -> bool {
        self.feeds.borrow().iter().filter(|feed| feed.feeds(host.id)).any(|feed| {
            let next = self.passed(host, feed);
            next.is_some_and(|next| next > offset(positions, feed.source, feed.partition))
        })
    }

    /// Partitions that feed no slot of this lane any more are not read until one of theirs is opened.
    pub(super) fn rest_feeds(&self) {
        for feed in self.feeds.borrow_mut().iter_mut().filter(|feed| feed.next.is_some()) {
            let feeds_one = |host: &Rc<SlotHost>| host.here.get() == Here::Yes && feed.feeds(host.id);
            if !self.slots.iter().flatten().any(feeds_one) {
                feed.seek(0);
                feed.next = None;
                feed.reader.rest();
            }
        }
    }
}

pub(super) fn cause(at: Position, index: u32) -> Cause {
    Cause { source: at.source, partition: at.partition, offset: at.offset, index }
}

/// Whether the slot has taken the record at this place before.
pub(super) fn is_applied(host: &SlotHost, inner: &Inner, at: Position) -> bool {
    host.is_running.get() && at.offset < offset(&inner.positions, at.source, at.partition)
}

/// How many outputs the record applied last has caused.
fn outputs_of(inner: &Inner, at: Position) -> u32 {
    let is_of =
        |cause: &Cause| (cause.source, cause.partition, cause.offset) == (at.source, at.partition, at.offset);
    inner.effects.outbox.entries().iter().rev().take_while(|entry| is_of(&entry.cause)).count() as u32
}

/// The next offset of a partition in a sorted list; 0 when it has never been read.
pub(super) fn offset(positions: &[Position], source: SourceId, partition: u32) -> u64 {
    find(positions, source, partition).map_or(0, |i| positions[i].offset)
}

/// Where a partition is in a sorted list, or would be.
fn find(positions: &[Position], source: SourceId, partition: u32) -> Result<usize, usize> {
    positions.binary_search_by_key(&(source, partition), |p| (p.source, p.partition))
}

/// The record, or step, at this place is done with.
pub(super) fn set_offset(positions: &mut Vec<Position>, at: Position) {
    set_offset_to(positions, Position { offset: at.offset + 1, ..at });
}

fn set_offset_to(positions: &mut Vec<Position>, next: Position) {
    match find(positions, next.source, next.partition) {
        Ok(i) => positions[i].offset = next.offset,
        Err(i) => positions.insert(i, next),
    }
}
