//! Records kept for a slot while the turn of an earlier one waits for something, so that the other slots of their partition
//! go on.
//!
//! Invariants:
//! - a slot takes its records of a partition in order: while any is kept, those that come are kept behind it;
//! - a slot stands at the first record that is kept for it, not behind it: what is kept is memory and nothing else, and is
//!   read again from the log when the slot goes back or leaves.

use std::collections::VecDeque;
use std::rc::Rc;

use granary_cluster::{Position, Record, SourceId};
use granary_core::{SlotId, Timestamp};

use crate::slot::SlotHost;

use super::Lane;
use super::feed::{Fed, Feed, is_applied};
use super::moving::Here;

/// Records of one slot take so much memory at most; then its partition waits for it.
const SLOT_BYTES_MAX: usize = 1 << 20;
/// Records of all slots of a lane.
const LANE_BYTES_MAX: usize = 16 << 20;
/// What a record takes beside key and value.
const RECORD_BYTES: usize = size_of::<KeptRecord>() + 32;
/// Kept records of a slot that are handed to it in one round.
const RECORDS_PER_ROUND: usize = 512;

struct KeptRecord {
    source: SourceId,
    partition: u32,
    offset: u64,
    appended_at: Timestamp,
    key: Option<Box<[u8]>>,
    value: Box<[u8]>,
}

impl KeptRecord {
    fn of(record: &Record<'_>) -> KeptRecord {
        let Record { source, partition, offset, appended_at, key, value } = *record;
        KeptRecord { source, partition, offset, appended_at, key: key.map(Into::into), value: value.into() }
    }

    fn as_record(&self) -> Record<'_> {
        let KeptRecord { source, partition, offset, appended_at, ref key, ref value } = *self;
        Record { source, partition, offset, appended_at, key: key.as_deref(), value }
    }

    fn bytes(&self) -> usize {
        RECORD_BYTES + self.key.as_ref().map_or(0, |key| key.len()) + self.value.len()
    }

    fn is_of(&self, source: SourceId, partition: u32) -> bool {
        (self.source, self.partition) == (source, partition)
    }
}

/// Records kept for one slot, in the order in which they came.
#[derive(Default)]
pub(crate) struct Kept {
    records: VecDeque<KeptRecord>,
    bytes: usize,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The offset of the first one of a partition.
    pub(super) fn first(&self, source: SourceId, partition: u32) -> Option<u64> {
        self.records.iter().find(|record| record.is_of(source, partition)).map(|record| record.offset)
    }

    fn last(&self, at: Position) -> Option<u64> {
        self.records.iter().rfind(|record| record.is_of(at.source, at.partition)).map(|record| record.offset)
    }
}

impl Lane {
    /// Whether the slot waits only until the turn of a record has ended.
    pub(super) fn may_keep_for(&self, host: &SlotHost) -> bool {
        let waits = host.stream_turns.get() > 0 && host.broken.borrow().is_none();
        waits && host.is_running.get() && host.here.get() == Here::Yes
    }

    /// Keeps a record for the slot, behind those that are kept already; `Waits` when there is no room.
    pub(super) fn keep(&self, host: &SlotHost, record: &Record<'_>) -> Fed {
        let at = Position { source: record.source, partition: record.partition, offset: record.offset };
        let mut kept = host.kept.borrow_mut();
        if is_applied(host, &host.inner.borrow(), at) || kept.last(at).is_some_and(|last| at.offset <= last) {
            return Fed::Passed; // the partition was gone back in, for another slot
        }
        let record = KeptRecord::of(record);
        let bytes = record.bytes();
        let in_lane = self.kept_bytes.get() + bytes;
        if kept.bytes + bytes > SLOT_BYTES_MAX || in_lane > LANE_BYTES_MAX {
            return Fed::Waits;
        }
        if kept.is_empty() {
            self.keeping.borrow_mut().push(host.id);
        }
        kept.bytes += bytes;
        self.kept_bytes.set(in_lane);
        kept.records.push_back(record);
        Fed::Passed
    }

    /// Hands kept records to their slots, as far as those take them; true when there are more that could be handed out now.
    pub(super) fn feed_kept(&self) -> bool {
        let mut more = false;
        let keeping = std::mem::take(&mut *self.keeping.borrow_mut());
        for slot in keeping {
            let Some(host) = self.slot(slot) else { continue };
            more |= self.feed_kept_of(&host);
            if !host.kept.borrow().is_empty() {
                self.keeping.borrow_mut().push(slot);
            }
        }
        more
    }

    fn feed_kept_of(&self, host: &Rc<SlotHost>) -> bool {
        for _ in 0..RECORDS_PER_ROUND {
            if self.may_keep_for(host) {
                return false;
            }
            let Some(first) = host.kept.borrow_mut().records.pop_front() else { return false };
            let record = first.as_record();
            let at = Position { source: first.source, partition: first.partition, offset: first.offset };
            self.pipeline.borrow_mut().route(&record);
            let fed = self.feed_slot(host, &record, at, Self::apply);
            let mut kept = host.kept.borrow_mut();
            if matches!(fed, Fed::Passed) {
                kept.bytes -= first.bytes();
                self.kept_bytes.set(self.kept_bytes.get() - first.bytes());
            } else {
                kept.records.push_front(first);
                return false;
            }
        }
        true
    }

    /// The slot goes back to what is stored, or leaves: its records are read again, here or elsewhere.
    pub(super) fn forget_kept(&self, host: &SlotHost) {
        let kept = host.kept.take();
        self.kept_bytes.set(self.kept_bytes.get() - kept.bytes);
        self.keeping.borrow_mut().retain(|slot| *slot != host.id);
    }

    /// The slot has nothing to do any more with what the feed handed out before this offset.
    pub(super) fn passed(&self, host: &SlotHost, feed: &Feed) -> Option<u64> {
        let first = host.kept.borrow().first(feed.source, feed.partition);
        feed.next.map(|next| first.map_or(next, |first| next.min(first)))
    }

    /// Slots of the lane for which records are kept.
    pub(super) fn slots_keeping(&self) -> Vec<SlotId> {
        self.keeping.borrow().clone()
    }
}
