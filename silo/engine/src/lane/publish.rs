//! The lane's work at an external log: fencing others, reading markers, one transaction at a time for all its slots.
//!
//! Requests go to the lane's producer in order, its answers come back as words, each to something that was asked. A
//! transaction that was handed over is ended by the producer, whoever owns its slots by then. After every init each slot
//! hears of it before anything is sent.
//!
//! The fail points `begin`, `send`, `markers` and `end` are passed by the producer, the others here.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_cluster::pace::Backoff;
use granary_cluster::slot::{Ask, Heard, Publication};
use granary_cluster::{Ended, Marker, Producer, RunId, TxIds, fail};
use granary_core::{Result, SlotId, Span, Timestamp};

use crate::mailbox::Word;
use crate::slot::SlotHost;
use crate::stats::LaneStats;

use super::Lane;
use super::alarms::Alarm;
use super::commit::millis;

/// Once so many bytes of output are in a transaction, no further slot joins it. (One slot brings its outbox at most.)
const TRANSACTION_BYTES_MAX: usize = 16 << 20;
/// A transaction waits at most so long for commits of other slots that are on their way.
const LINGER: Duration = Duration::from_millis(2);
/// What an idle slot has published is trimmed after this.
const TRIM_AFTER: Span = Span(500);
/// A marker is written anew so often, though nothing changed: it must not age out of the log.
pub(super) const RENEW_EVERY: Span = Span(24 * 3_600_000);
/// A lane that stops waits so long for the log. What it did not publish stays in the outbox, for whoever comes next.
const PUBLISH_ON_STOP_MAX: Duration = Duration::from_secs(4);

/// The lane's producer and what is on its way to it.
pub(super) struct Publisher {
    producer: Box<dyn Producer>,
    state: State,
    init_backoff: Backoff,
    /// Fences that slots asked for and that are not handed over: those asked together are carried out together.
    to_fence: Vec<(SlotId, Ask, TxIds)>,
    fencing: Vec<(SlotId, Ask)>,
    /// Since when something waits to be published.
    waits_since: Option<Instant>,
    abort_backoff: Backoff,
    /// No transaction begins before: the last one was aborted.
    not_before: Timestamp,
    /// The slot that comes first in the next transaction.
    first: usize,
    stop_by: Option<Instant>,
}

/// Whether a transaction may begin.
enum State {
    /// The producer must be initialised.
    Lost,
    Initialising,
    Ready,
    Sending {
        parts: Vec<Part>,
        began: Instant,
    },
}

/// What a transaction holds of one slot.
type Part = (SlotId, Publication);

impl Publisher {
    pub fn new(producer: Box<dyn Producer>) -> RefCell<Publisher> {
        RefCell::new(Publisher {
            producer,
            state: State::Lost,
            init_backoff: Backoff::default(),
            to_fence: Vec::new(),
            fencing: Vec::new(),
            waits_since: None,
            abort_backoff: Backoff::default(),
            not_before: Timestamp::MIN,
            first: 0,
            stop_by: None,
        })
    }
}

impl Lane {
    /// Initialises the lane's producer, if that has to be done and is not under way.
    pub(super) fn init_producer(&self) {
        let Some(mut publisher) = self.publisher() else { return };
        if !matches!(publisher.state, State::Lost) {
            return;
        }
        publisher.state = State::Initialising;
        let mailbox = self.mailbox.clone();
        publisher.producer.init(Box::new(move |done| mailbox.tell(Word::Inited(done))));
    }

    fn publisher(&self) -> Option<std::cell::RefMut<'_, Publisher>> {
        self.publisher.as_ref().map(RefCell::borrow_mut)
    }

    /// The lane's producer is initialised: each slot makes sure that it is still its own before it publishes again.
    pub(super) fn inited(&self, done: Result<()>) {
        let Some(mut publisher) = self.publisher() else { return };
        if let Err(error) = done {
            publisher.state = State::Lost;
            let wait = publisher.init_backoff.failed();
            drop(publisher);
            LaneStats::set(&self.mailbox.stats.log_away, 1);
            tracing::warn!(lane = self.index, %error, "the log takes no transactions; trying again in {wait:?}");
            return self.set_alarm(self.now.get() + millis(wait), Alarm::InitProducer);
        }
        publisher.state = State::Ready;
        publisher.init_backoff.succeeded();
        drop(publisher);
        LaneStats::set(&self.mailbox.stats.log_away, 0);
        LaneStats::set(&self.mailbox.stats.log_ready, 1);
        self.tell_slots(&Heard::ProducerReady);
    }

    fn tell_slots(&self, heard: &Heard) {
        for host in self.slots.iter().flatten() {
            self.machine(host, |machine, out| machine.hear(heard.clone(), out));
        }
    }

    /// A slot asks that others are fenced; done together with what other slots ask in this round.
    pub(super) fn fence(&self, host: &SlotHost, ask: Ask, ids: TxIds) {
        match self.publisher() {
            Some(mut publisher) => publisher.to_fence.push((host.id, ask, ids)),
            // store and log are one engine: nobody else holds a transaction
            None => self.machine(host, |machine, out| machine.hear(Heard::Fenced(ask), out)),
        }
    }

    fn hand_over_fences(&self, publisher: &mut Publisher) {
        if publisher.to_fence.is_empty() || !publisher.fencing.is_empty() {
            return;
        }
        let _ = fail::point("fence.before");
        let mut all = TxIds::default();
        for (slot, ask, ids) in publisher.to_fence.drain(..) {
            all.everyone |= ids.everyone;
            all.ids.extend(ids.ids);
            publisher.fencing.push((slot, ask));
        }
        all.ids.sort_unstable();
        all.ids.dedup();
        let mailbox = self.mailbox.clone();
        publisher.producer.fence(all, Box::new(move |done| mailbox.tell(Word::Fenced(done))));
    }

    pub(super) fn fenced(&self, done: Result<()>) {
        let _ = fail::point("fence.after");
        let Some(asked) = self.publisher().map(|mut publisher| std::mem::take(&mut publisher.fencing)) else {
            return;
        };
        for (slot, ask) in asked {
            let answer = done.clone().map(|()| Heard::Fenced(ask));
            self.answered(slot, ask, "fence those who may still publish", answer);
        }
    }

    /// A slot asks for its marker.
    pub(super) fn read_marker(&self, host: &SlotHost, ask: Ask) {
        let Some(mut publisher) = self.publisher() else {
            return self.machine(host, |machine, out| machine.hear(Heard::Marker(ask, None), out));
        };
        let (mailbox, slot) = (self.mailbox.clone(), host.id);
        let done = Box::new(move |marker| mailbox.tell(Word::Marker(slot, ask, marker)));
        // A slot that was lost and comes back may still be in the lane's own transaction, which is to end first.
        let is_free = match &publisher.state {
            State::Ready => true,
            State::Sending { parts, .. } => parts.iter().all(|(part, _)| *part != slot),
            State::Lost | State::Initialising => false,
        };
        match is_free {
            true => publisher.producer.marker_at_once(slot, done),
            false => publisher.producer.marker(slot, done),
        }
    }

    /// Asks the lane's producer, if it has one.
    pub(super) fn ask_producer(&self, ask: impl FnOnce(&mut dyn Producer)) {
        if let Some(mut publisher) = self.publisher() {
            ask(&mut *publisher.producer);
        }
    }

    pub(super) fn marker(&self, slot: SlotId, ask: Ask, marker: Result<Option<Marker>>) {
        if let (Some(host), Ok(Some(marker))) = (self.slot(slot), &marker) {
            self.must_hold_that(&host, |watch| watch.marked(marker));
        }
        self.answered(slot, ask, "read its marker", marker.map(|marker| Heard::Marker(ask, marker)));
    }

    /// The answer to a slot's question; one that failed is asked again after a while.
    pub(super) fn answered(&self, slot: SlotId, ask: Ask, what: &str, answer: Result<Heard>) {
        let Some(host) = self.slot(slot) else { return };
        match answer {
            Ok(heard) => {
                host.inner.borrow_mut().ask_backoff.succeeded();
                self.machine(&host, |machine, out| machine.hear(heard, out));
            }
            Err(error) => {
                let wait = host.inner.borrow_mut().ask_backoff.failed();
                tracing::warn!(%slot, %error, "the slot cannot {what}; trying again in {wait:?}");
                self.set_alarm(self.now.get() + millis(wait), Alarm::AskAgain(slot, ask));
            }
        }
    }

    /// Hands over what waits: fences, and the next transaction.
    pub(super) fn publish(&self) {
        let Some(mut publisher) = self.publisher() else { return };
        self.hand_over_fences(&mut publisher);
        if !matches!(publisher.state, State::Ready) || self.now.get() < publisher.not_before {
            return;
        }
        let (mut wants, mut is_more_coming) = (false, false);
        for host in self.slots.iter().flatten() {
            let machine = &host.inner.borrow().machine;
            wants |= machine.wants_to_publish();
            is_more_coming |= machine.sealed() > machine.n();
        }
        if !wants {
            publisher.waits_since = None;
            return;
        }
        if is_more_coming && !self.has_lingered(&mut publisher) {
            return;
        }
        publisher.waits_since = None;
        let publications = self.gather(&mut publisher.first);
        publisher.state = State::Sending { parts: publications.clone(), began: Instant::now() };
        let mailbox = self.mailbox.clone();
        let done = Box::new(move |ended| mailbox.tell(Word::Ended(ended)));
        publisher.producer.publish(publications, done);
    }

    fn has_lingered(&self, publisher: &mut Publisher) -> bool {
        match publisher.waits_since {
            Some(since) => since.elapsed() >= LINGER,
            None => {
                publisher.waits_since = Some(Instant::now());
                self.set_alarm(self.now.get() + millis(LINGER), Alarm::Publish);
                false
            }
        }
    }

    /// What waits in the slots, from `first` on, for one transaction.
    fn gather(&self, first: &mut usize) -> Vec<Part> {
        let (mut publications, mut bytes) = (Vec::new(), 0);
        let count = self.slots.len();
        for i in (0..count).map(|i| (*first + i) % count) {
            let Some(host) = &self.slots[i] else { continue };
            let Some(publication) = host.inner.borrow_mut().machine.publication() else { continue };
            if let Some(since) = host.stored_since.take() {
                self.mailbox.stages.publish_wait.add(since.elapsed());
            }
            bytes += publication.commits.iter().map(|pending| pending.outbox().bytes()).sum::<usize>();
            publications.push((host.id, publication));
            if bytes >= TRANSACTION_BYTES_MAX {
                *first = (i + 1) % count;
                break;
            }
        }
        publications
    }

    /// The lane's transaction has ended.
    pub(super) fn transaction_ended(&self, ended: Ended) {
        let Some(mut publisher) = self.publisher() else { return };
        let State::Sending { parts, began } = std::mem::replace(&mut publisher.state, State::Ready) else {
            return;
        };
        let stats = &self.mailbox.stats;
        self.mailbox.stages.transaction.add(began.elapsed());
        match ended {
            Ended::Done => {
                publisher.abort_backoff.succeeded();
                LaneStats::add(&stats.transactions, 1);
            }
            Ended::Aborted => {
                let wait = publisher.abort_backoff.failed();
                publisher.not_before = self.now.get() + millis(wait);
                self.set_alarm(publisher.not_before, Alarm::Publish);
                LaneStats::add(&stats.transactions_aborted, 1);
                tracing::warn!(
                    lane = self.index,
                    "the log took a transaction back; sending again in {wait:?}"
                );
            }
            Ended::Lost => {
                publisher.state = State::Lost;
                LaneStats::add(&stats.transactions_lost, 1);
                tracing::warn!(
                    lane = self.index,
                    "a transaction's outcome is not known, or the producer is fenced"
                );
                drop(publisher);
                self.tell_slots(&Heard::ProducerLost);
                return self.init_producer();
            }
        }
        drop(publisher);
        for (slot, publication) in parts {
            let Some(host) = self.slot(slot) else { continue };
            let (epoch, n) = (publication.marker.epoch, publication.marker.n);
            let heard = if ended == Ended::Done {
                self.check_published(&host, &publication);
                Heard::Published(epoch, n)
            } else {
                Heard::Aborted(epoch, n)
            };
            self.machine(&host, |machine, out| machine.hear(heard, out));
        }
    }

    /// Trims what idle slots have published, and looks whether the store's server is still the same.
    pub(super) fn tend_outboxes(&self) {
        if self.publisher.is_none() {
            return;
        }
        self.look_at_run();
        let now = self.now.get();
        for host in self.slots.iter().flatten() {
            if !host.inner.borrow().machine.wants_trim() {
                host.trim_since.set(None);
                continue;
            }
            let since = host.trim_since.get().unwrap_or(now);
            host.trim_since.set(Some(since));
            if now.since(since) >= TRIM_AFTER && !host.has_changes.get() {
                self.trim(host);
            }
        }
    }

    fn trim(&self, host: &SlotHost) {
        host.trim_since.set(None);
        self.machine(host, |machine, out| machine.idle(out));
    }

    /// The store's server may have begun a new run, and lost writes: each slot is told.
    pub(super) fn look_at_run(&self) {
        self.connected(self.config.store.run());
    }

    pub(super) fn connected(&self, run: RunId) {
        if self.run_seen.replace(run) != run {
            for host in self.slots.iter().flatten() {
                self.machine(host, |machine, out| machine.connected(run, out));
            }
        }
    }

    pub(super) fn renew_markers(&self) {
        for host in self.slots.iter().flatten() {
            host.inner.borrow_mut().machine.renew_marker();
        }
        self.set_alarm(self.now.get() + RENEW_EVERY, Alarm::RenewMarkers);
    }

    /// For a lane that stops: whether all is published and trimmed, or was waited for long enough.
    pub(super) fn has_published(&self) -> bool {
        let Some(mut publisher) = self.publisher() else { return true };
        let by = *publisher.stop_by.get_or_insert_with(|| Instant::now() + PUBLISH_ON_STOP_MAX);
        let is_sending = matches!(publisher.state, State::Sending { .. });
        drop(publisher);
        let mut is_done = !is_sending;
        for host in self.slots.iter().flatten().filter(|host| host.is_running.get()) {
            let (waits, wants_trim) = {
                let machine = &host.inner.borrow().machine;
                (machine.outbox_bytes() > 0 || machine.wants_to_publish(), machine.wants_trim())
            };
            is_done &= !waits && !wants_trim;
            if !waits && wants_trim {
                self.trim(host);
            }
        }
        if !is_done && Instant::now() >= by {
            tracing::warn!(
                lane = self.index,
                "not all outputs are published: they stay in the outbox for the next silo"
            );
            return true;
        }
        is_done
    }
}

/// Makes the lane's publisher.
pub(super) fn publisher_of(config: &crate::Config, index: u16) -> Option<RefCell<Publisher>> {
    let make = Arc::clone(config.producer.as_ref()?);
    let id = granary_cluster::TxId { incarnation: config.me, lane: index };
    Some(Publisher::new(make(id)))
}
