//! A chunk of a partition is applied slot by slot: one slot's keys stay warm while it has its turn.
//!
//! Within a slot the order is that of the log, and positions are per slot, so a chunk that cannot be finished now is
//! begun again later: what its slots have applied they skip. The feed moves on only when the whole chunk is done with,
//! so no slot is ever said to stand further than it does.

use granary_cluster::slots::Slots;
use granary_cluster::{Foreseen, Record};
use granary_core::{KindId, SlotId};

use crate::stats::LaneStats;

use super::Lane;
use super::feed::{Fed, Feed};

/// Records of a partition applied in one round before the lane looks at calls again: some ten milliseconds. The more, the
/// more of them meet a key that was warmed by another one.
const RECORDS_MAX: usize = 4_096;
/// So many records' memory is waited for at once.
const LOOK_AHEAD_RECORDS: usize = 16;
/// Records of a second reading in one round: those that come for the first time wait for no more than these.
const AGAIN_RECORDS_MAX: usize = 256;
/// So few when slots make the lane wait.
const RECORDS_MIN: usize = 16;

/// How often, in one chunk, what its records lack is looked up together; after that one by one.
const LOOKS_AHEAD_MAX: u32 = 8;

/// How a feed takes its next records.
pub(super) struct Chunk {
    /// How many.
    records: usize,
    /// Who takes each of them, the slot it was routed to, and its place in the batch; by taker.
    order: Vec<(SlotId, SlotId, u32)>,
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk { records: RECORDS_MAX, order: Vec::new() }
    }
}

impl Lane {
    /// Applies the next chunk; true when there may be more to apply now.
    pub(super) fn feed_from(&self, feed: &mut Feed) -> bool {
        let Some(next) = feed.next else { return false };
        if feed.at == feed.batch.len() && (feed.is_at_end || !self.refill(feed, next)) {
            return false;
        }
        let most = if feed.again_of.is_some() { AGAIN_RECORDS_MAX } else { RECORDS_MAX };
        let end = feed.batch.len().min(feed.at + feed.chunk.records.min(most));
        self.route_chunk(feed, end);
        let waits = self.apply_chunk(feed);
        self.fetched.borrow_mut().clear();
        if waits {
            feed.chunk.records = (feed.chunk.records / 4).max(RECORDS_MIN);
            return false;
        }
        feed.chunk.records = (feed.chunk.records * 2).min(RECORDS_MAX);
        feed.next = Some(feed.record(end - 1).offset + 1).max(feed.next);
        feed.at = end;
        true
    }

    /// Hands out the records of the chunk; true when a slot cannot take all of its own now. The others take theirs.
    fn apply_chunk(&self, feed: &Feed) -> bool {
        let mut waiting = None;
        let mut looks = if self.config.store_is_remote { LOOKS_AHEAD_MAX } else { 0 };
        if looks > 0 && self.pipeline.borrow().tells_grains() {
            self.fetch_ahead(feed, 0);
        }
        for (i, (taker, slot, place)) in feed.chunk.order.iter().enumerate() {
            if i % LOOK_AHEAD_RECORDS == 0 {
                self.look_ahead(feed, i);
            }
            if waiting == Some(*taker) {
                continue;
            }
            let place = *place as usize;
            let record = feed.record(place);
            self.pipeline.borrow_mut().recall(place - feed.at, &record);
            let mut fed = self.feed_foreseeing(feed, *slot, &record, looks > 0);
            while matches!(fed, Fed::Lacks) {
                looks -= 1;
                let found = self.fetch_ahead(feed, i);
                fed = self.feed_foreseeing(feed, *slot, &record, found && looks > 0);
            }
            if matches!(fed, Fed::Waits) {
                if self.suspect.holder() == Some(*taker) {
                    return true; // should the process end, no record of another slot has to do with it
                }
                if taker != slot || !self.keeps(*taker, &record) {
                    waiting = Some(*taker);
                }
            }
        }
        waiting.is_some()
    }

    /// Whether a record that its slot cannot take now is kept for it.
    fn keeps(&self, slot: SlotId, record: &Record<'_>) -> bool {
        let Some(host) = self.slot(slot).filter(|host| self.may_keep_for(host)) else { return false };
        matches!(self.keep(&host, record), Fed::Passed)
    }

    /// Lets the pipeline look at the records from the `i`-th of the chunk on.
    fn look_ahead(&self, feed: &Feed, i: usize) {
        let order = &feed.chunk.order[i..];
        let next = order.iter().take(LOOK_AHEAD_RECORDS).map(|(_, slot, place)| {
            let place = *place as usize;
            (*slot, place - feed.at, feed.record(place))
        });
        self.pipeline.borrow().look_ahead(&next.collect::<Vec<_>>());
    }

    /// Hands out a record; it may come back because cells are missing, so that those of others are looked up with them.
    fn feed_foreseeing(&self, feed: &Feed, slot: SlotId, record: &Record<'_>, may_lack: bool) -> Fed {
        self.may_lack.set(may_lack);
        let fed = self.feed_one(feed, slot, record);
        self.may_lack.set(false);
        fed
    }

    /// Looks up what the records of the chunk lack, from the `from`-th on, in one round trip; false when one by one is as
    /// good.
    fn fetch_ahead(&self, feed: &Feed, from: usize) -> bool {
        let mut foreseen = Foreseen::default();
        let mut pipeline = self.pipeline.borrow_mut();
        for (taker, slot, place) in &feed.chunk.order[from..] {
            let running = taker == slot && self.slot(*slot).is_some_and(|host| host.is_running.get());
            let place = *place as usize;
            if running {
                pipeline.foresee(place - feed.at, *slot, &feed.record(place), &mut foreseen);
            }
        }
        drop(pipeline);
        let Foreseen { cells: supplied, grains } = foreseen;
        let mut cells = supplied.clone();
        for (slot, grain) in grains {
            if let Some(host) = self.slot(slot) {
                self.name_grain(&host, KindId::of(&grain.kind), &grain.key, &mut cells);
            }
        }
        self.fetch(cells);
        self.supply_fetched(supplied)
    }

    /// Names who takes each record of the chunk: its slot, or for a stray the slot that hosts the partition.
    fn route_chunk(&self, feed: &mut Feed, end: usize) {
        let slots = Slots::new(self.config.slots).expect("a cluster has at least one slot");
        let mut order = std::mem::take(&mut feed.chunk.order);
        order.clear();
        let mut pipeline = self.pipeline.borrow_mut();
        for place in feed.at..end {
            let record = feed.record(place);
            if feed.next.is_some_and(|next| record.offset < next) {
                continue; // the log hands out whole batches: this one begins before the position
            }
            let slot = pipeline.route_at(place - feed.at, &record);
            let taker = if feed.feeds(slot) { slot } else { slots.host(feed.partition) };
            if self.slots.get(usize::from(taker.0)).is_some_and(Option::is_some) {
                order.push((taker, slot, place as u32));
            } else {
                LaneStats::add(&self.mailbox.stats.skipped, 1); // another lane reads this partition, too
            }
        }
        order.sort_by_key(|(taker, ..)| *taker); // stable: within a slot the log's order stays
        feed.chunk.order = order;
    }
}
