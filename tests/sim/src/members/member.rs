//! Memberships and the member table: questions take time, get lost, and find the store away.

use std::rc::Rc;

use granary_cluster::Incarnation;
use granary_cluster::members::{Change, Do, Out, Report, Standing, View};
use granary_core::Timestamp;

use crate::check::Check;
use crate::scenario::Mistake;

use super::Cluster;
use super::event::{Event, Told};
use super::plan::LEASE;
use super::time::{MS, Micros};

/// A question that was not answered for so long never will be.
const SILENT_AFTER: i64 = 600 * MS;
/// Between the news that a silo is no member and the end of its lanes, at most.
const DROP_WITHIN: u64 = 30;

impl Cluster {
    /// The membership's time has come.
    pub(super) fn tick(&mut self, silo: usize) -> Check {
        if self.shells[silo].tick_at > self.now {
            return Ok(()); // an earlier appointment
        }
        let now = self.clock(silo);
        let report = Report { reaches_log: self.reaches_log(silo), ..Report::default() };
        let mut said = Vec::new();
        self.shells[silo].membership.report(report, now);
        self.shells[silo].membership.tick(now, &mut said);
        self.member_says(silo, said)
    }

    /// When the membership wants to be called next.
    pub(super) fn appoint(&mut self, silo: usize) {
        let shell = &mut self.shells[silo];
        if shell.is_out {
            return;
        }
        let at = shell.clock.when(shell.membership.wakes_at()).max(self.now);
        if at < Micros::MAX && (shell.tick_at != at || at == self.now) {
            shell.tick_at = at;
            self.queue.put(at, Event::Tick(silo));
        }
    }

    fn member_says(&mut self, silo: usize, said: Vec<Do>) -> Check {
        for what in said {
            match what {
                Do::Ask(change) => self.ask(silo, change),
                Do::Members(table) => {
                    self.shells[silo].view = Some(Rc::new(View::new(table, self.plan.scenario.slots)));
                    (0..usize::from(self.plan.scenario.slots)).for_each(|slot| self.place(silo, slot));
                }
                Do::LeaseOver => {
                    self.walked("lease over");
                    if !self.has(Mistake::StandAsideWithLease) {
                        self.shells[silo].lease_until = Timestamp::MIN;
                    }
                }
                Do::LeaseBack => self.walked("lease back"),
                Do::Unfit => self.drop_slots(silo)?,
                Do::Out(why) => self.out(silo, &why),
            }
        }
        self.appoint(silo);
        Ok(())
    }

    /// A silo that stands aside drops what it has.
    fn drop_slots(&mut self, silo: usize) -> Check {
        self.walked("stands aside");
        (0..usize::from(self.plan.scenario.slots)).try_for_each(|slot| {
            let mut out = Vec::new();
            self.world.silos[silo].seats[slot].slot.give_up(&mut out);
            self.world.carry_out(silo, slot, out)
        })
    }

    fn out(&mut self, silo: usize, why: &Out) {
        let shell = &mut self.shells[silo];
        (shell.lease_until, shell.is_out) = (Timestamp::MIN, true);
        let within = self.world.random.below(DROP_WITHIN) as i64 * MS;
        let (path, comes_back) = match why {
            Out::NameTaken(_) => ("name taken", false),
            Out::DeclaredDead => ("declared dead", true),
            Out::Gone => ("gone", false),
        };
        self.walked(path);
        self.queue.put(self.now + within, Event::DropAll { silo, comes_back });
    }

    fn ask(&mut self, silo: usize, change: Change) {
        if matches!(change, Change::Declare { .. }) {
            self.walked("declares");
        }
        self.sent += 1;
        let no = self.sent;
        self.shells[silo].asks = Some(no);
        self.queue.put(self.now + SILENT_AFTER, Event::TableSilent { silo, no });
        if !self.is_lost() {
            let at = self.now + self.delay();
            self.queue.put(at, Event::AskTable { silo, no, change });
        }
    }

    /// A change arrives at the store.
    pub(super) fn ask_table(&mut self, silo: usize, no: u64, change: &Change) {
        if !self.reaches_store(silo) {
            return;
        }
        let done = self.change_table(change);
        let now = self.store_clock();
        match change {
            Change::Renew { me, .. } if done => drop(self.renewed.insert(*me, now)),
            Change::Join { member, .. } if done => drop(self.renewed.insert(member.incarnation, now)),
            Change::Fit { .. } if done => self.walked("comes back"),
            _ => {}
        }
        let expired = self.expired(now);
        if !self.is_lost() {
            let told = Told { done, table: self.table.clone(), run: self.world.store.run, expired };
            let at = self.now + self.delay();
            self.queue.put(at, Event::HearTable { silo, no, told });
        }
    }

    /// Carries the change out by the rules of the table. Planted: a life joins though a later one has overtaken it.
    fn change_table(&mut self, change: &Change) -> bool {
        let newest = self.table.newest;
        if matches!(change, Change::Join { .. }) && self.has(Mistake::JoinOutOfOrder) {
            self.table.newest = Incarnation(0);
        }
        let done = self.table.apply(change);
        self.table.newest = self.table.newest.max(newest);
        done
    }

    fn store_clock(&self) -> i64 {
        self.now / MS + self.store_clock_ahead
    }

    /// Planted: who has not renewed for a lease, by the clock of the store.
    fn expired(&self, now: i64) -> Option<(Incarnation, u64)> {
        if !self.has(Mistake::TrustServerClock) {
            return None;
        }
        let renewed = |who: &Incarnation| self.renewed.get(who).copied().unwrap_or(now);
        let late = self.table.members.iter().find(|m| now - renewed(&m.incarnation) > LEASE.0 as i64);
        late.map(|member| (member.incarnation, member.counter))
    }

    /// Its answer arrives.
    pub(super) fn hear_table(&mut self, silo: usize, no: u64, told: Told) -> Check {
        let Told { done, table, run, expired } = told;
        if self.shells[silo].asks != Some(no) {
            return Ok(()); // nobody waits for it any more
        }
        let now = self.clock(silo);
        let believes = self.has(Mistake::BelieveLostRenewals);
        let keeps_lease = self.has(Mistake::StandAsideWithLease);
        let shell = &mut self.shells[silo];
        shell.asks = None;
        if std::mem::replace(&mut shell.member_run, run) != run && !believes {
            shell.membership.another_server();
        }
        let mut said = Vec::new();
        shell.membership.answered(done, table, now, &mut said);
        let shell = &mut self.shells[silo];
        let me = shell.membership.me();
        let is_up = shell.membership.table().member(me).is_some_and(|row| row.standing != Standing::Unfit);
        if let Some(until) = shell.membership.lease_until().filter(|_| is_up || !keeps_lease) {
            shell.lease_until = until;
        }
        if let Some((dead, counter)) = expired.filter(|(dead, _)| *dead != me) {
            self.sent += 1;
            let (at, no, change) = (self.now + self.delay(), self.sent, Change::Declare { dead, counter });
            self.queue.put(at, Event::AskTable { silo, no, change });
        }
        self.member_says(silo, said)
    }

    /// There was no answer in time.
    pub(super) fn table_silent(&mut self, silo: usize, no: u64) {
        if self.shells[silo].asks == Some(no) {
            let now = self.clock(silo);
            self.shells[silo].asks = None;
            self.shells[silo].membership.unanswered(now);
            self.appoint(silo);
        }
    }
}
