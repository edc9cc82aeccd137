//! Slots come and go, as the view of the cluster says: taken from whoever gave them or is dead, given to whom they belong.
//!
//! A slot that is to be given begins nothing any more. Turns under way end, what they changed is stored and published, the
//! slot is given; then the calls that wait go to the successor, whom the first of them tells that the slot is free.

use std::rc::Rc;
use std::sync::Arc;

use granary_cluster::members::{Step, View, step, successor};
use granary_cluster::slot::Phase;
use granary_cluster::{Incarnation, RunId, SlotRecord};
use granary_core::call::Origin;
use granary_core::envelope::Envelope;
use granary_core::{Error, ErrorKind, GrainId, Ran, SlotId, Span, Timestamp};

use crate::cluster::{Cluster, Passed};
use crate::mailbox::{Call, Named};
use crate::slot::SlotHost;

use super::Lane;
use super::alarms::Alarm;
use super::deliver::refuse;

/// The row of a slot that is waited for is read so often, if no call tells sooner that it was given.
const LOOK_AGAIN_AFTER: Span = Span(15);
/// Slots of a lane that are being given at the same time; the others go on meanwhile.
const LEAVING_SLOTS_MAX: usize = 4;
/// From one slot that leaves to the next: the successor opens it meanwhile. A slot pauses the less, the fewer pause with it.
const LEAVE_EVERY: Span = Span(15);
/// But all slots of a lane have begun to leave within this.
const LEAVE_ALL_WITHIN: Span = Span(1_500);
/// A slot that has to wait until others have left looks again after this.
const LEAVE_AGAIN_AFTER: Span = Span(5);
/// Turns of a slot that is to be given may go on for so long; then they are undone.
const LAST_TURNS_MAX: Span = Span(5_000);

/// How a slot stands to this silo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// It belongs here: it runs, or is being opened.
    Yes,
    /// It is being given to that silo, since then.
    Leaving { to: Incarnation, since: Timestamp },
    /// Another silo has it, or nobody.
    No,
}

impl Lane {
    /// The cluster has changed.
    pub(super) fn see(&self, view: Arc<View>) {
        *self.view.borrow_mut() = Some(view);
        for host in self.slots.iter().flatten() {
            self.place(host);
        }
        self.rest_feeds();
        self.show(); // who asks whether the silo is ready hears what it waits for by now
    }

    fn view(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Whether this silo gives up what it has, since it does not reach the log and others do.
    pub(super) fn stands_aside(&self) -> bool {
        self.view().is_some_and(|view| view.is_unfit(self.config.me))
    }

    /// Takes the slot, gives it, or leaves it to others, as the view says.
    pub(super) fn place(&self, host: &Rc<SlotHost>) {
        let Some(view) = self.view() else { return };
        let me = self.config.me;
        let holds = host.inner.borrow().machine.phase() != Phase::Off;
        if view.is_unfit(me) {
            if holds {
                tracing::debug!(slot = %host.id, "slot dropped: the silo stands aside");
                self.machine(host, |machine, out| machine.give_up(out));
            }
            self.is_gone(host); // others take it, and fence whatever is still on its way
        } else if view.placement.owner(host.id) == me {
            self.comes(host, holds);
        } else if holds {
            if let Some(to) = successor(me, host.id, &view) {
                self.goes(host, to);
            }
        } else {
            self.is_gone(host);
        }
    }

    /// The slot belongs to another silo: it is given as soon as that one has had time to hear of it.
    fn goes(&self, host: &Rc<SlotHost>, to: Incarnation) {
        let now = self.now.get();
        let wait = self.config.cluster.as_ref().map_or(Span::ZERO, |cluster| cluster.give_after);
        let at = host.gives_at.get().unwrap_or(now + wait);
        host.gives_at.set(Some(at));
        if now < at {
            self.set_alarm(at, Alarm::Place(host.id));
        } else if self.is_leaving(host) || self.may_leave() {
            self.begin_leaving(host, to);
        } else {
            let next = self.leaves_next.get().max(now + LEAVE_AGAIN_AFTER);
            self.set_alarm(next, Alarm::Place(host.id));
        }
    }

    fn is_leaving(&self, host: &SlotHost) -> bool {
        matches!(host.here.get(), Here::Leaving { .. })
    }

    /// Whether one more slot of this lane may begin to leave.
    fn may_leave(&self) -> bool {
        let now = self.now.get();
        let leaving = self.slots.iter().flatten().filter(|host| self.is_leaving(host)).count();
        if leaving >= LEAVING_SLOTS_MAX || now < self.leaves_next.get() {
            return false;
        }
        let to_go = self.slots.iter().flatten().filter(|host| host.gives_at.get().is_some()).count();
        let every = LEAVE_ALL_WITHIN.ms() / to_go.max(1) as u64;
        self.leaves_next.set(now + Span(every.min(LEAVE_EVERY.ms())));
        true
    }

    fn comes(&self, host: &Rc<SlotHost>, holds: bool) {
        let gives_at = host.gives_at.take();
        match (host.here.get(), holds) {
            (Here::Yes, _) => {}
            (Here::Leaving { .. }, true) if self.may_be_taken(gives_at) => {
                host.here.set(Here::Yes);
                self.machine(host, |machine, out| machine.give_up(out));
                self.take_again(host);
            }
            (Here::Leaving { .. }, true) => {
                host.here.set(Here::Yes);
                self.rewind_feeds(host);
                let backlog = std::mem::take(&mut host.inner.borrow_mut().backlog);
                self.local.borrow_mut().extend(backlog);
            }
            (Here::Leaving { .. } | Here::No, _) => {
                host.here.set(Here::Yes);
                host.inner.borrow_mut().is_outdated = false;
                host.waits_since.set(Some(self.now.get()));
                self.take(host);
            }
        }
    }

    /// Whether a slot that was to be given from that time on may have been taken by force: it is not gone on with unread.
    fn may_be_taken(&self, gives_at: Option<Timestamp>) -> bool {
        let Some(cluster) = &self.config.cluster else { return false };
        gives_at.is_some_and(|at| self.now.get().since(at) >= Span(cluster.take_after.ms() / 2))
    }

    /// What to do about a slot of which this lane wants to know whether it may take it. True: take it.
    pub(super) fn may_take(&self, host: &Rc<SlotHost>, row: &SlotRecord, run: RunId) -> bool {
        let me = self.config.me;
        let Some(cluster) = &self.config.cluster else {
            if row.owner > me {
                tracing::error!(slot = %host.id, owner = %row.owner, "a later life of the silo has taken the slot");
                self.is_gone(host);
            }
            return row.owner <= me;
        };
        if !cluster.lease.is_of(run) {
            self.take_again(host);
            return false;
        }
        let Some(view) = self.view() else { return false };
        match step(me, host.id, row, &view) {
            Step::Take => true,
            Step::Stay => {
                self.place(host);
                false
            }
            Step::TakeFromUnfit => {
                if self.may_take_from_unfit(host, row, &view, cluster) {
                    return true;
                }
                self.set_alarm(self.now.get() + LOOK_AGAIN_AFTER, Alarm::Take(host.id));
                false
            }
            Step::Wait => {
                let since = host.waits_since.get().unwrap_or(self.now.get());
                host.waits_since.set(Some(since));
                // who has no lease has an old view, too: by now the slot may belong to its owner
                let may_force = cluster.lease.holds(self.config.clock.now());
                if may_force && self.now.get().since(since) >= cluster.take_after {
                    let (slot, owner) = (host.id, row.owner);
                    tracing::warn!(%slot, %owner, "its owner does not give the slot: it is taken, and the owner fenced");
                    return true;
                }
                self.set_alarm(self.now.get() + LOOK_AGAIN_AFTER, Alarm::Take(host.id));
                false
            }
        }
    }

    /// Whether the members were read after the row was, and still said that its owner stands aside.
    fn may_take_from_unfit(&self, host: &SlotHost, row: &SlotRecord, view: &View, cluster: &Cluster) -> bool {
        let read_at = match host.unfit_owner.get() {
            Some((owner, epoch, at)) if (owner, epoch) == (row.owner, row.epoch) => at,
            _ => {
                let now = self.config.clock.now();
                host.unfit_owner.set(Some((row.owner, row.epoch, now)));
                now
            }
        };
        let may = cluster.lease.confirms(view.table.version, read_at);
        if may {
            let (slot, owner) = (host.id, row.owner);
            tracing::info!(%slot, %owner, "its owner does not reach the log: it is taken, and the owner fenced");
        }
        may
    }

    /// The slot is another silo's business.
    pub(super) fn is_gone(&self, host: &Rc<SlotHost>) {
        host.here.set(Here::No);
        host.waits_since.set(None);
        host.unfit_owner.set(None);
        host.gives_at.set(None);
        self.send_away_backlog(host);
    }

    /// The slot was given: to whom it belonged at the time.
    pub(super) fn was_given(&self, host: &Rc<SlotHost>) {
        self.is_gone(host);
        self.place(host); // by now it may belong here again
        self.rest_feeds();
    }

    fn begin_leaving(&self, host: &Rc<SlotHost>, to: Incarnation) {
        let since = match host.here.get() {
            Here::Leaving { since, .. } => since,
            Here::Yes | Here::No => {
                let mut inner = host.inner.borrow_mut();
                // Records that others take from now on pass it by: it stands where it stands.
                if host.is_running.get() {
                    host.has_changes
                        .set(host.has_changes.get() || self.is_lagging_at(host, &inner.positions));
                    inner.positions.sort_unstable();
                    inner.positions = self.positions_of(host, &inner.positions);
                }
                self.forget_kept(host);
                self.now.get()
            }
        };
        host.here.set(Here::Leaving { to, since });
        tracing::debug!(slot = %host.id, %to, "slot leaves");
        self.hold_back_waiting(host);
        self.set_alarm(since + LAST_TURNS_MAX, Alarm::Look);
    }

    fn send_away_backlog(&self, host: &SlotHost) {
        let backlog = std::mem::take(&mut host.inner.borrow_mut().backlog);
        for call in backlog {
            self.pass_on(call);
        }
    }

    /// Calls that wait in queues and have not begun wait for the successor.
    fn hold_back_waiting(&self, host: &Rc<SlotHost>) {
        let waiting = host.table.borrow_mut().take_waiting(is_from_outside);
        for (key, envelope) in waiting {
            let kind = envelope.info().kind_id;
            let joined = self.joined(host, envelope.info(), envelope.options(), &key);
            let backlog = &mut host.inner.borrow_mut().backlog;
            for envelope in joined.into_iter().chain([envelope]) {
                backlog.push_back(Call::Letter { slot: host.id, kind, key: key.clone(), envelope });
            }
        }
    }

    /// Gives the slots that are to leave and have come to rest.
    pub(super) fn give_quiet(&self) {
        for host in self.slots.iter().flatten() {
            let Here::Leaving { to, since } = host.here.get() else { continue };
            if !host.is_running.get() || host.broken.borrow().is_some() {
                continue;
            }
            if self.turns.borrow().has_of(host.id) {
                if self.now.get().since(since) >= LAST_TURNS_MAX {
                    tracing::warn!(slot = %host.id, "turns that do not end hold the slot up: they are undone");
                    host.here.set(Here::Leaving { to, since: self.now.get() });
                    self.machine(host, |machine, out| machine.rollback(out));
                }
                continue;
            }
            let is_quiet =
                host.stream_turns.get() == 0 && host.stirring.get() == 0 && !host.has_changes.get();
            let is_answered = host.inner.borrow().held.is_empty();
            if is_quiet && is_answered {
                self.machine(host, |machine, out| machine.give(to, out));
                if host.inner.borrow().machine.phase() == Phase::Give {
                    host.is_running.set(false);
                    tracing::debug!(slot = %host.id, %to, "slot given");
                }
            }
        }
    }

    /// Whether this call of a slot that leaves is not to begin here any more.
    pub(super) fn waits_for_successor(&self, host: &SlotHost, call: &Call) -> bool {
        self.is_leaving(host)
            && match call {
                Call::Named(_) => true,
                // what the slot's own turns and records ask for belongs to them
                Call::Letter { envelope, .. } => is_from_outside(&**envelope),
            }
    }

    /// A call has come for a slot that another silo was to give: perhaps it has.
    pub(super) fn look_sooner(&self, host: &Rc<SlotHost>) {
        if host.waits_since.get().is_some() && !host.is_looking.get() {
            self.take(host);
        }
    }

    /// A call for a slot that is not here: callers in this process do not notice, others are told where to ask.
    pub(super) fn pass_on(&self, call: Call) {
        let Some(cluster) = &self.config.cluster else {
            let moved = self.moved(call.slot());
            return refuse(call, moved);
        };
        match call {
            // a caller behind a connection asks there itself
            Call::Letter { key, envelope, .. } if envelope.is_from_here() && is_from_outside(&*envelope) => {
                let info = envelope.info();
                let (arguments, options, answer) = envelope.take_apart();
                let grain = GrainId { kind: info.kind.into(), key };
                match arguments {
                    Ok(arguments) => {
                        cluster.peers.call(Passed { grain, method: info.name, arguments, options }, answer);
                    }
                    Err(error) => answer(Err(error.ran(Ran::No))),
                }
            }
            // Nobody would ask again. Who sent it hears that the slot has moved, if it listens, for the next one.
            Call::Named(named) if named.options.one_way => {
                let moved = self.moved(named.slot);
                let Named { grain, method, arguments, options, reply, .. } = *named;
                let kind = self.kinds.iter().find(|info| info.name == &*grain.kind);
                if let Some(method) = kind.and_then(|info| info.method(&method)).map(|entry| entry.info.name)
                {
                    let options = options.started(self.now.get()); // with a deadline, that ends its way
                    cluster.peers.call(Passed { grain, method, arguments, options }, Box::new(|_| {}));
                }
                drop(reply.send(Err(moved)));
            }
            call => {
                let moved = self.moved(call.slot());
                refuse(call, moved);
            }
        }
    }

    fn moved(&self, slot: SlotId) -> Error {
        let view = self.view();
        let owner =
            view.as_ref().and_then(|view| view.owner(slot)).filter(|m| m.incarnation != self.config.me);
        let silo = &self.config.silo;
        let message = match owner {
            Some(member) => {
                format!("slot {slot} is on silo {} ({}), not on {silo}", member.name, member.address)
            }
            None => format!("slot {slot} is not on silo {silo}"),
        };
        Error::new(ErrorKind::Moved, message).ran(Ran::No)
    }
}

/// Whether it is a call that somebody else makes, rather than what the slot's own turns, records and timers ask for, which
/// belongs to them.
pub(super) fn is_from_outside(envelope: &dyn Envelope) -> bool {
    let options = envelope.options();
    options.origin == Origin::Call && options.inside.is_none()
}
