//! What is due when: alarms of a lane, queues that run out of time, volatile timers.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use granary_cluster::slot::{Ask, Heard};
use granary_core::call::{Options, Origin};
use granary_core::{Error, ErrorKind, Key, KindId, Result, SlotId, Span, Timestamp};
use tokio::sync::oneshot;

use crate::slot::SlotHost;

use super::Lane;

/// How often silent keys, deadlines of turns and their age are looked at.
pub(super) const TICK_EVERY: Span = Span(100);
/// Deadlines of queued calls are kept in beats of so many milliseconds, in four bytes.
const BEAT_MS: u64 = 16;

/// What is due at a time.
pub(crate) enum Alarm {
    Wake(Waker),
    /// A turn may wait for an answer that is out of time.
    Turns,
    /// A call in this queue runs out of time; void unless the activation still names this beat.
    Queue(SlotId, u32, u32),
    Timer(SlotId, u32),
    Reminders(SlotId),
    Take(SlotId),
    /// A slot may be given by now.
    Place(SlotId),
    Resend(SlotId),
    /// A question of this slot was not answered.
    AskAgain(SlotId, Ask),
    /// A slot's journal could not be read.
    Journal(SlotId),
    /// The log's producer could not be initialised.
    InitProducer,
    /// A transaction may begin.
    Publish,
    RenewMarkers,
    /// A slot whose reminders could not be read.
    Reopen(SlotId),
    /// Sources may have more.
    Sources,
    /// A commit may be due.
    Look,
    Tick,
    /// Idle activations, from this slot and row on.
    Sweep {
        slot: u16,
        from: u32,
    },
}

struct Due {
    at: Timestamp,
    no: u64,
    alarm: Alarm,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest, as the heap wants it; of two at one time the one set first.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.no).cmp(&(self.at, self.no))
    }
}

/// What is due when.
#[derive(Default)]
pub(crate) struct Alarms {
    heap: BinaryHeap<Due>,
    next: u64,
    looks_at: Option<Timestamp>,
    turns_at: Option<Timestamp>,
}

impl Alarms {
    /// Whether the look at the turns is due, and not one that an earlier look has made needless: the next may be set.
    pub fn turns_ring(&mut self, now: Timestamp) -> bool {
        self.turns_at.take_if(|at| *at <= now).is_some()
    }
}

impl Lane {
    pub(super) fn set_alarm(&self, at: Timestamp, alarm: Alarm) {
        let mut alarms = self.alarms.borrow_mut();
        if matches!(alarm, Alarm::Look) {
            if alarms.looks_at.is_some_and(|set| set <= at) {
                return; // an earlier look will set the next one
            }
            alarms.looks_at = Some(at);
        }
        if matches!(alarm, Alarm::Turns) {
            if alarms.turns_at.is_some_and(|set| set <= at) {
                return;
            }
            alarms.turns_at = Some(at);
        }
        let no = alarms.next;
        alarms.next += 1;
        alarms.heap.push(Due { at, no, alarm });
    }

    /// How long until the next alarm; `None` when there is none.
    pub(super) fn next_alarm_in(&self) -> Option<Duration> {
        let at = self.alarms.borrow().heap.peek()?.at;
        Some(at.since(self.config.clock.now()).into())
    }

    /// When the next alarm rings, but for those left out.
    pub(super) fn next_alarm_but(&self, is_left_out: impl Fn(&Alarm) -> bool) -> Option<Timestamp> {
        let alarms = self.alarms.borrow();
        alarms.heap.iter().filter(|due| !is_left_out(&due.alarm)).map(|due| due.at).min()
    }

    /// Rings what is due. What an alarm sets for at once rings in the next round: a long sweep lets calls pass.
    pub(super) fn ring_alarms(&self) {
        let now = self.now.get();
        let end = self.alarms.borrow().next;
        let mut set_now = Vec::new();
        loop {
            let mut alarms = self.alarms.borrow_mut();
            if alarms.heap.peek().is_none_or(|due| due.at > now) {
                alarms.heap.extend(set_now);
                return;
            }
            let Some(due) = alarms.heap.pop() else { return };
            drop(alarms);
            if due.no >= end {
                set_now.push(due);
            } else {
                self.ring(due.alarm);
            }
        }
    }

    fn ring(&self, alarm: Alarm) {
        match alarm {
            Alarm::Wake(waker) => waker.wake(),
            Alarm::Turns => self.wake_turns(),
            Alarm::Queue(slot, row, beat) => self.with(slot, |host| self.queue_alarm(host, row, beat)),
            Alarm::Timer(slot, no) => self.with(slot, |host| self.tick_timer(host, no)),
            Alarm::Reminders(slot) => self.with(slot, |host| self.fire_reminders(host)),
            Alarm::Place(slot) => self.with(slot, |host| self.place(host)),
            Alarm::Take(slot) => self.with(slot, |host| self.take(host)),
            Alarm::Resend(slot) => self.resend(slot),
            Alarm::AskAgain(slot, ask) => self.with(slot, |host| {
                self.machine(host, |machine, out| machine.hear(Heard::NoAnswer(ask), out));
            }),
            Alarm::Journal(slot) => {
                if let Some(host) = self.slot(slot) {
                    self.read_journal(&host);
                }
            }
            Alarm::InitProducer => self.init_producer(),
            Alarm::Publish => {} // the round looks
            Alarm::RenewMarkers => self.renew_markers(),
            Alarm::Reopen(slot) => self.with(slot, |host| self.reopen(host)),
            Alarm::Sources => self.look_at_sources(),
            Alarm::Look => self.alarms.borrow_mut().looks_at = None,
            Alarm::Tick => {
                self.check_turns();
                self.check_answers();
                self.is_tick_due.set(true);
                self.tend_outboxes();
                self.show();
                self.mind_memory();
                self.set_alarm(self.now.get() + TICK_EVERY, Alarm::Tick);
            }
            Alarm::Sweep { slot, from } => self.sweep(slot, from),
        }
    }

    fn with(&self, slot: SlotId, then: impl FnOnce(&Rc<SlotHost>)) {
        if let Some(host) = self.slot(slot) {
            then(&host);
        }
    }

    /// The beat at which a queue is looked at for calls with this deadline.
    fn beat(&self, deadline: Timestamp) -> u32 {
        let beats = deadline.since(self.started).ms() / BEAT_MS + 1;
        u32::try_from(beats).unwrap_or(u32::MAX)
    }

    /// Has this queue looked at when the deadline of one of its calls is over.
    pub(super) fn watch_queue(&self, host: &SlotHost, row: u32, deadline: Timestamp) {
        let beat = self.beat(deadline);
        let mut table = host.table.borrow_mut();
        let Some(activation) = table.get_mut(row) else { return };
        if activation.alarm_beat != 0 && activation.alarm_beat <= beat {
            return;
        }
        activation.alarm_beat = beat;
        let at = self.started + Span(u64::from(beat) * BEAT_MS);
        self.set_alarm(at, Alarm::Queue(host.id, row, beat));
    }

    fn queue_alarm(&self, host: &Rc<SlotHost>, row: u32, beat: u32) {
        let now = self.now.get();
        let (mut expired, next);
        {
            expired = Vec::new();
            let mut table = host.table.borrow_mut();
            let Some(activation) = table.get_mut(row).filter(|a| a.alarm_beat == beat) else { return };
            activation.alarm_beat = 0;
            let key = activation.key.clone();
            let desk = activation.desk();
            let mut staying = std::collections::VecDeque::with_capacity(desk.queue.len());
            for waiting in desk.queue.drain(..) {
                if waiting.envelope.options().deadline.is_some_and(|deadline| now >= deadline) {
                    expired.push((key.clone(), waiting));
                } else {
                    staying.push_back(waiting);
                }
            }
            desk.queue = staying;
            next = desk.queue.iter().filter_map(|w| w.envelope.options().deadline).min();
            activation.tidy();
        }
        if let Some(deadline) = next {
            self.watch_queue(host, row, deadline);
        }
        for (key, waiting) in expired {
            self.expire_waiting(host, &key, waiting);
        }
    }

    fn tick_timer(&self, host: &Rc<SlotHost>, no: u32) {
        let mut inner = host.inner.borrow_mut();
        let Some(timer) = inner.timers.begin_tick(no, self.now.get()) else { return };
        let (row, method, arguments) = (timer.activation, timer.method, timer.arguments.clone());
        drop(inner);
        let target = host.table.borrow().get(row).map(|a| (a.kind, a.key.clone()));
        let Some((kind, key)) = target else { return };
        let info = self.kinds[kind as usize];
        if let Err(error) = self.fire(host, info.id, &key, method, &arguments, Origin::Timer(no)) {
            tracing::error!(grain = %format!("{}/{key}", info.name), method, %error, "the timer cannot tick");
        }
    }

    pub(super) fn timer_ticked(&self, host: &SlotHost, no: u32) {
        let next = host.inner.borrow_mut().timers.end_tick(no, self.now.get());
        if let Some(at) = next {
            self.set_alarm(at, Alarm::Timer(host.id, no));
        }
    }

    pub(super) fn fire(
        &self,
        host: &Rc<SlotHost>,
        kind: KindId,
        key: &Key,
        method: &str,
        arguments: &[u8],
        origin: Origin,
    ) -> Result<()> {
        let entry = self.kind(kind).and_then(|info| info.method(method)).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("this silo hosts no grain with a method `{method}` for it"),
            )
        })?;
        let (reply, _) = oneshot::channel();
        let envelope =
            (entry.open)(arguments, Options { origin, one_way: true, ..Options::default() }, reply)?;
        self.letter(host, kind, key.clone(), envelope);
        Ok(())
    }
}
