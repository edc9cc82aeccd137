//! Carries out what the slots' machines decide: scripts, openings, releases.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use granary_cluster::slot::{Do, Heard, Slot};
use granary_cluster::{CommitNo, Reply, Script, fail};
use granary_core::{Result, SlotId};

use crate::mailbox::{Sent, Word};
use crate::slot::{Inner, SlotHost};

use super::Lane;
use super::alarms::Alarm;

impl Lane {
    /// Lets a slot's machine decide something.
    pub(super) fn machine<R>(&self, host: &SlotHost, decide: impl FnOnce(&mut Slot, &mut Vec<Do>) -> R) -> R {
        let mut out = Vec::new();
        let result = decide(&mut host.inner.borrow_mut().machine, &mut out);
        self.decided.borrow_mut().extend(out.into_iter().map(|what| (host.id, what)));
        result
    }

    /// Carries out what was decided, until nothing is left; true when there was something.
    pub(super) fn carry_out(&self) -> bool {
        let mut any = false;
        loop {
            let decided = std::mem::take(&mut *self.decided.borrow_mut());
            if decided.is_empty() {
                return any;
            }
            any = true;
            for (slot, what) in decided {
                if let Some(host) = self.slot(slot) {
                    self.carry_out_one(&host, what);
                }
            }
        }
    }

    fn carry_out_one(&self, host: &Rc<SlotHost>, what: Do) {
        match what {
            Do::Script(script) => {
                if let Script::Commit(commit) = &script {
                    host.inner.borrow_mut().sent = Some(Arc::clone(commit));
                }
                self.hand_in(host, script);
            }
            Do::Fence(ask, ids) => self.fence(host, ask, ids),
            Do::ReadMarker(ask) => self.read_marker(host, ask),
            Do::InitProducer => self.init_producer(),
            Do::ReadRecord(ask) => self.read_record(host, ask),
            Do::Opened(opened) => self.opened(host, &opened),
            Do::Noted(position) => host.inner.borrow_mut().noted = Some(position),
            Do::Release(n) => self.released(host, n),
            Do::Drop(dropped) => self.dropped(host, &dropped),
            Do::Lost { from, to } => {
                host.named_lost.set(to);
                tracing::error!(slot = %host.id, %from, %to, "the store lost acknowledged commits: their calls are gone");
            }
            Do::Stop(repair) => {
                tracing::error!(slot = %host.id, ?repair, "the slot cannot go on without the repair command");
                host.inner.borrow_mut().is_parked = true;
            }
        }
    }

    /// Hands the collected scripts to the store, as one batch.
    pub(super) fn submit(&self) {
        let scripts = std::mem::take(&mut *self.scripts.borrow_mut());
        if scripts.is_empty() {
            return;
        }
        let mut sent = Sent {
            slots: scripts.iter().map(Script::slot).collect(),
            at: Instant::now(),
            commits: false,
            trims: false,
            gives: false,
        };
        for script in &scripts {
            match script {
                Script::Commit(_) => sent.commits = true,
                Script::Trim { .. } => sent.trims = true,
                Script::Give { .. } => sent.gives = true,
                Script::Acquire { .. } | Script::Note { .. } | Script::Rebase { .. } => {}
            }
        }
        sent.pass(["commit.before", "trim.before", "give.before"]);
        let mailbox = self.mailbox.clone();
        let done = Box::new(move |replies: Result<Vec<Reply>>| mailbox.tell(Word::Scripted(sent, replies)));
        self.config.store.submit(scripts, done);
    }

    /// The store's answer to a batch.
    pub(super) fn scripted(&self, sent: &Sent, replies: Result<Vec<Reply>>) {
        sent.pass(["commit.after", "trim.after", "give.after"]);
        if sent.commits {
            let took = sent.at.elapsed();
            self.mailbox.stages.commit.add(took);
            self.pace.borrow_mut().stored(took);
        }
        if self.publisher.is_some() {
            self.look_at_run();
        }
        match replies {
            Ok(replies) => {
                self.store_backoff.borrow_mut().succeeded();
                self.store_away_since.set(None);
                for reply in replies {
                    if let Some(host) = self.slot(reply.slot) {
                        self.machine(&host, |machine, out| machine.hear(Heard::Scripted(reply), out));
                    }
                }
            }
            Err(error) => {
                let wait = self.store_backoff.borrow_mut().failed();
                self.store_away_since.set(self.store_away_since.get().or(Some(self.now.get())));
                tracing::warn!(%error, slots = sent.slots.len(), "the store did not answer; sending the same again in {wait:?}");
                for slot in &sent.slots {
                    self.set_alarm(self.now.get() + millis(wait), Alarm::Resend(*slot));
                }
            }
        }
    }

    pub(super) fn resend(&self, slot: SlotId) {
        if let Some(host) = self.slot(slot) {
            self.machine(&host, |machine, out| machine.hear(Heard::ScriptUnknown, out));
        }
    }

    /// Commit `n` is stored.
    fn released(&self, host: &Rc<SlotHost>, n: CommitNo) {
        let _ = fail::point("reply.before");
        host.stored.set(n.0);
        host.open_commit.set(host.inner.borrow().machine.open_commit().0);
        self.count(|s| &s.commits);
        let stored = host.inner.borrow().machine.n();
        self.must_hold_that(host, |watch| watch.acknowledged(n, stored));
        self.pipeline.borrow_mut().acknowledged(host.id, n);
        self.clear_of_suspicion(host);
        let mut inner = host.inner.borrow_mut();
        if let Some(sent) = inner.sent.take_if(|sent| sent.n == n) {
            if self.publisher.is_some() && !sent.outbox.is_empty() && host.stored_since.get().is_none() {
                host.stored_since.set(Some(Instant::now()));
            }
            self.spare.borrow_mut().keep(sent);
        }
        let sealed = std::mem::take(&mut inner.records_sealed);
        if let Some(caution) = &mut inner.caution {
            caution.passed(sealed);
        }
        inner.is_single_full &= host.closed_in.get() > n.0; // what was closed since is full by itself
        let Inner { machine, culprit, held, keyed, leaving, .. } = &mut *inner;
        culprit.passed(machine.positions());
        keyed.stored(n.0);
        held.release(n);
        let leaving = std::mem::take(leaving);
        drop(inner);
        for row in leaving {
            self.leaves(host, row);
        }
        let _ = fail::point("reply.after");
    }

    /// Stops when everything that was taken is stored.
    pub(super) fn try_stop(&self) {
        if !self.is_stopping.get() || self.stop.borrow().is_none() {
            return;
        }
        let quiet = self.turns.borrow().is_empty()
            && self.local.borrow().is_empty()
            && self.pumps.borrow().is_empty()
            && self.mailbox.calls.is_empty()
            && self.arrived.borrow().is_empty()
            && self.slots.iter().flatten().all(|host| {
                let inner = host.inner.borrow();
                let running = host.is_running.get();
                !running || (!host.has_changes.get() && inner.machine.may_seal() && inner.held.is_empty())
            });
        if quiet
            && self.has_published()
            && let Some(done) = self.stop.borrow_mut().take()
        {
            let _ = done.send(());
        }
    }
}

impl Sent {
    /// Passes the fail points of commits, trims and gives, as far as there are any in it.
    fn pass(&self, [commit, trim, give]: [&'static str; 3]) {
        let passed = [(self.commits, commit), (self.trims, trim), (self.gives, give)];
        for (_, point) in passed.into_iter().filter(|(is_in_it, _)| *is_in_it) {
            let _ = fail::point(point);
        }
    }
}

/// A real length in the lane's time, rounded up: a short wait is still a wait.
pub(super) fn millis(length: std::time::Duration) -> granary_core::Span {
    granary_core::Span(u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
}
