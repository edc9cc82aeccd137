//! What becomes of a script: done, refused, not known; and how a slot is dropped.

use std::sync::Arc;

use crate::commit::{Commit, CommitNo, Noted};
use crate::port::{Reply, Script, Verdict};

use super::{Do, Dropped, Flight, Outlet, Pending, Phase, Publisher, Slot, Why};

impl Slot {
    pub(super) fn scripted(&mut self, reply: Reply, out: &mut Vec<Do>) {
        let Some(flight) = self.flight.take() else { return };
        if self.phase == Phase::Off {
            return; // the slot was dropped meanwhile; whoever opens it next reads what is stored
        }
        if reply.verdict != Verdict::Done {
            let why = match reply.verdict {
                Verdict::Behind => Why::Behind,
                Verdict::Outdated => Why::Outdated,
                Verdict::Fenced | Verdict::Done => Why::Fenced,
            };
            let unsure = matches!(flight.script, Script::Commit(_)) && flight.sendings > 1;
            return self.drop_as(why, unsure.then(|| self.n.next()), out);
        }
        match flight.script {
            Script::Acquire { epoch, run, .. } => self.acquired(epoch, run, reply, out),
            Script::Commit(commit) => self.committed(commit, reply.published, out),
            Script::Note { noted, .. } => {
                self.noted = Some(Noted::after(self.noted, noted, self.seat.me));
                if self.phase == Phase::Run {
                    out.push(Do::Noted(noted));
                }
            }
            Script::Trim { covered, .. } => self.trimmed(covered),
            Script::Rebase { n, .. } => self.rebased(n, out),
            Script::Give { to, .. } => return self.drop_slot(Why::Given(to), out),
        }
        if self.phase == Phase::Rollback {
            self.open(out);
        }
    }

    pub(super) fn committed(&mut self, commit: Arc<Commit>, published: Option<CommitNo>, out: &mut Vec<Do>) {
        assert_eq!(commit.n, self.n.next(), "slot {}: a commit is sealed on the one before", self.seat.slot);
        self.n = commit.n;
        self.known = self.known.max(self.n);
        self.positions.clone_from(&commit.positions);
        (self.tries, self.noted) = (0, None); // any commit clears them in the row, too
        self.trimmed(commit.trim);
        if self.seat.outlet == Outlet::Log && !commit.outbox.is_empty() && commit.n > self.covered {
            self.outbox_bytes += commit.outbox.bytes();
            self.outbox.push_back(Pending::committed(commit));
        }
        if self.seat.outlet == Outlet::Store {
            self.covered = published.unwrap_or(self.n);
            self.floor.clone_from(&self.positions);
        }
        out.push(Do::Release(self.n));
    }

    /// Not known what became of it: the same bytes again. Once the slot is dropped nobody waits for it any more; should
    /// it still arrive, it is fenced by the epoch of the next acquire.
    pub(super) fn script_unknown(&mut self, out: &mut Vec<Do>) {
        if self.phase == Phase::Off {
            self.flight = None;
            return;
        }
        if let Some(flight) = &mut self.flight {
            flight.sendings = flight.sendings.saturating_add(1);
            out.push(Do::Script(flight.script.clone()));
        }
    }

    pub(super) fn send(&mut self, script: Script, out: &mut Vec<Do>) {
        debug_assert!(self.flight.is_none(), "one script of a slot is on its way at a time");
        self.flight = Some(Flight { script: script.clone(), sendings: 1 });
        out.push(Do::Script(script));
    }

    pub(super) fn in_flight(&self) -> Option<CommitNo> {
        let sealed = self.sealed();
        (sealed > self.n).then_some(sealed)
    }

    pub(super) fn trimmed(&mut self, up_to: CommitNo) {
        self.to_trim = self.to_trim.filter(|n| *n > up_to);
    }

    /// Drops the slot while nothing tells what became of the commit in flight, if there is one.
    pub(super) fn drop_slot(&mut self, why: Why, out: &mut Vec<Do>) {
        let unsure = self.in_flight();
        self.drop_as(why, unsure, out);
    }

    /// Forgets the slot. A script on its way stays on its way, an open transaction is ended by the lane.
    pub(super) fn drop_as(&mut self, why: Why, unsure: Option<CommitNo>, out: &mut Vec<Do>) {
        self.phase = Phase::Off;
        self.publisher = Publisher::Ok;
        self.awaiting = None;
        self.n = CommitNo(0);
        self.positions.clear();
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.covered = CommitNo(0);
        self.floor.clear();
        self.to_trim = None;
        self.publication = None;
        (self.marker_due, self.marker_missing, self.recheck_due) = (false, false, false);
        self.marker_fenced.clear();
        (self.tries, self.noted) = (0, None);
        out.push(Do::Drop(Dropped { why, awaited: None, unsure }));
    }
}
