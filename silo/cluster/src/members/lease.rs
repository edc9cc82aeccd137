//! One silo's membership, as a state machine: it hears the time and answers of the store, and says what to ask.
//!
//! Invariants:
//! - one question is on its way at a time, and each answer brings the whole table;
//! - the silo's own lease counts from the sending of the last renewal that was answered, so it ends before anybody else
//!   can have seen the counter stand still for a lease;
//! - no two renewals name the same counter: one that was carried out and not answered is not renewed by asking again, since
//!   the others have seen that counter before;
//! - a silo ends its own lease before it asks to stand aside, and has one again only by a renewal that found it up: who takes
//!   its slots meanwhile finds nobody who answers for them;
//! - another silo's silence grows only from one answer to the next, and by no more than two renewals' time: a store that
//!   was away, or a machine that slept, makes nobody look dead.

use std::collections::BTreeMap;

use granary_core::{Span, Timestamp};

use super::{Change, Member, Report, Standing, Table};
use crate::commit::{Generation, Incarnation};

/// How long leases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A silo whose counter stood still for so long is declared dead.
    pub lease: Span,
    /// A lease is renewed so often; a quarter of the lease or less.
    pub renew_every: Span,
    /// A silo that has not reached the log for so long stands aside while another reaches it; `None`: never.
    pub log_away_max: Option<Span>,
}

impl Terms {
    /// A lease of this length, renewed eight times in it.
    pub fn of(lease: Span) -> Terms {
        Terms { lease, renew_every: Span((lease.ms() / 8).max(1)), log_away_max: None }
    }

    /// A silo may be so long without the log.
    pub fn log_away_max(self, away: Span) -> Terms {
        Terms { log_away_max: Some(away), ..self }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Ask the store for this change; then say `answered` or `unanswered`.
    Ask(Change),
    /// The membership has changed, or this silo has just joined: who there is now.
    Members(Table),
    /// The silo's own lease is over, by its own clock: it answers no more reads, until `LeaseBack`.
    LeaseOver,
    /// The lease goes on after all.
    LeaseBack,
    /// The silo stands aside, or may have for a while: others may have taken any slot that it holds. It drops them all, and
    /// answers no read of what it held until now even when its lease goes on.
    Unfit,
    /// The silo is no member any more, or will never be one: it drops everything.
    Out(Out),
}

/// Why a silo is no member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// Another silo has its name, and lives.
    NameTaken(Member),
    /// It was declared dead, or the store lost its row. It may come back as a new life.
    DeclaredDead,
    /// It has gone, as it wanted to.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Joining,
    Member,
    /// Somebody wants it to leave.
    Leaving,
    /// It has no more slots.
    Going,
    Out,
}

/// How another silo's counter was seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    counter: u64,
    silence: Span,
}

/// The membership of one life of a silo.
#[derive(Clone, Debug)]
pub struct Membership {
    me: Member,
    terms: Terms,
    state: State,
    table: Table,
    asked: Option<(Change, Timestamp)>,
    ask_at: Timestamp,
    /// The last answer came at this time.
    looked_at: Option<Timestamp>,
    seen: BTreeMap<Incarnation, Seen>,
    lease_until: Option<Timestamp>,
    is_lease_over: bool,
    has_just_renewed: bool,
    /// When it was first asked to join: an answer may be to any asking since.
    joins_since: Option<Timestamp>,
    /// When the question was asked that was answered last.
    asked_at: Option<Timestamp>,
    /// By then every lease is over that the present server knows nothing of.
    settled_at: Option<Timestamp>,
    /// Since when it does not reach the log.
    log_away_since: Option<Timestamp>,
    /// It has asked to stand aside, and no renewal has found it up since.
    may_be_unfit: bool,
    /// The store's server is another one than the last time, and may have given known versions of the table again: no renewal
    /// has raised it above them since.
    is_other_server: bool,
}

impl Membership {
    /// A life that joins. `now` is of the silo's own clock, which never goes back, as everywhere here.
    pub fn new(
        incarnation: Incarnation,
        name: &str,
        address: &str,
        terms: Terms,
        now: Timestamp,
    ) -> Membership {
        let (name, address, generation) = (name.to_owned(), address.to_owned(), Generation::default());
        let report = Report { reaches_log: true, ..Report::default() }; // until it says otherwise
        Membership {
            me: Member { incarnation, name, address, counter: 0, standing: Standing::Up, generation, report },
            terms,
            state: State::Joining,
            table: Table::default(),
            asked: None,
            ask_at: now,
            looked_at: None,
            seen: BTreeMap::new(),
            lease_until: None,
            is_lease_over: false,
            has_just_renewed: false,
            joins_since: None,
            asked_at: None,
            settled_at: None,
            log_away_since: None,
            may_be_unfit: false,
            is_other_server: false,
        }
    }

    /// The same, running what is of this generation.
    #[must_use]
    pub fn of(mut self, generation: Generation) -> Membership {
        self.me.generation = generation;
        self
    }

    /// What the silo tells of itself from now on.
    pub fn report(&mut self, report: Report, now: Timestamp) {
        self.log_away_since = (!report.reaches_log).then(|| self.log_away_since.unwrap_or(now));
        self.me.report = report;
    }

    /// The table was read after this time; `None` while it may name a silo as standing aside that has a lease: for a lease
    /// after a server answered first, which may have lost that this silo has come back.
    pub fn read_after(&self) -> Option<Timestamp> {
        self.asked_at.filter(|asked| self.settled_at.is_some_and(|settled| *asked >= settled))
    }

    /// Which life this is.
    pub fn me(&self) -> Incarnation {
        self.me.incarnation
    }

    /// The table as last seen.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether reads may be answered: the silo is a member, and its lease is not over.
    pub fn may_read(&self) -> bool {
        matches!(self.state, State::Member | State::Leaving | State::Going) && !self.is_lease_over
    }

    /// Until when reads may be answered; `None` before the silo has joined.
    pub fn lease_until(&self) -> Option<Timestamp> {
        self.lease_until
    }

    /// When [`Membership::tick`] wants to be called at the latest.
    pub fn wakes_at(&self) -> Timestamp {
        let asks = if self.asked.is_none() { self.ask_at } else { Timestamp::MAX };
        let ends = self.lease_until.filter(|_| !self.is_lease_over).unwrap_or(Timestamp::MAX);
        asks.min(ends)
    }

    /// Time passes.
    pub fn tick(&mut self, now: Timestamp, out: &mut Vec<Do>) {
        if self.state == State::Out {
            return;
        }
        if self.lease_until.is_some_and(|until| now >= until) && !self.is_lease_over {
            self.is_lease_over = true;
            out.push(Do::LeaseOver);
        }
        if self.asked.is_none() && now >= self.ask_at {
            let change = self.next_change(now);
            match change {
                Change::Renew { counter, .. } => self.me.counter = counter,
                Change::Join { .. } => drop(self.joins_since.get_or_insert(now)),
                Change::Unfit { .. } => {
                    self.may_be_unfit = true;
                    self.end_lease(out);
                }
                Change::Leave { .. } | Change::Declare { .. } | Change::Go { .. } => {}
                Change::Fit { .. } | Change::Move { .. } => {}
            }
            self.asked = Some((change.clone(), now));
            out.push(Do::Ask(change));
        }
    }

    /// The silo takes no more slots from now on, and gives those it has.
    pub fn leave(&mut self, now: Timestamp) {
        if matches!(self.state, State::Joining | State::Member) {
            self.state = State::Leaving;
            self.ask_at = now;
        }
    }

    /// The silo has no more slots and wants to go.
    pub fn go(&mut self, now: Timestamp) {
        if self.state != State::Out {
            self.state = State::Going;
            self.ask_at = now;
        }
    }

    fn next_change(&self, now: Timestamp) -> Change {
        let me = self.me.incarnation;
        let standing = self.own_row().map(|row| row.standing);
        match self.state {
            State::Joining => Change::Join { member: self.me.clone(), instead_of: self.dead_namesake() },
            State::Going => Change::Go { me },
            State::Leaving if standing.is_some_and(|standing| standing != Standing::Leaving) => {
                Change::Leave { me }
            }
            // Its own lease goes on in between: who has none is in no position to say that others have none.
            State::Leaving | State::Member | State::Out if !self.has_just_renewed => self.renewal(),
            State::Leaving | State::Member | State::Out => match (self.silent(), standing) {
                (Some((dead, counter)), _) => Change::Declare { dead, counter },
                (None, Some(Standing::Up)) if self.must_stand_aside(now) => {
                    Change::Unfit { me, counter: self.me.counter }
                }
                (None, Some(Standing::Unfit)) if self.me.report.reaches_log => {
                    Change::Fit { me, counter: self.me.counter }
                }
                _ => self.renewal(),
            },
        }
    }

    fn renewal(&self) -> Change {
        let Member { incarnation: me, counter, report, .. } = &self.me;
        let version_min = if self.is_other_server { self.table.version + 1 } else { 0 };
        Change::Renew { me: *me, counter: counter + 1, report: report.clone(), version_min }
    }

    /// The log was away for too long, and not for everybody.
    fn must_stand_aside(&self, now: Timestamp) -> bool {
        let (Some(since), Some(most)) = (self.log_away_since, self.terms.log_away_max) else { return false };
        now.since(since) >= most && self.table.another_reaches_log(self.me.incarnation)
    }

    fn own_row(&self) -> Option<&Member> {
        self.table.member(self.me.incarnation)
    }

    fn silent(&self) -> Option<(Incarnation, u64)> {
        let is_silent = |seen: &Seen| seen.silence >= self.terms.lease;
        self.seen.iter().find(|(_, seen)| is_silent(seen)).map(|(dead, seen)| (*dead, seen.counter))
    }

    /// Who has this silo's name, and was seen to stand still for a lease.
    fn dead_namesake(&self) -> Option<(Incarnation, u64)> {
        let namesake = self.table.named(&self.me.name)?;
        let seen = self.seen.get(&namesake.incarnation)?;
        (seen.silence >= self.terms.lease).then_some((namesake.incarnation, seen.counter))
    }

    /// The store has answered the question: whether the change was made, and the table after it.
    pub fn answered(&mut self, done: bool, table: Table, now: Timestamp, out: &mut Vec<Do>) {
        let Some((change, asked_at)) = self.asked.take() else { return };
        if self.state == State::Out {
            return;
        }
        let living_namesake = self.living_namesake(&table).cloned();
        self.look(&table, now);
        let was_fit = self.own_row().is_none_or(|row| row.standing != Standing::Unfit);
        if matches!(change, Change::Renew { version_min, .. } if done && version_min > self.table.version) {
            self.is_other_server = false;
        }
        let is_news = !table.names_same(&self.table) || matches!(change, Change::Join { .. });
        self.table = table;
        self.asked_at = Some(asked_at);
        self.settled_at.get_or_insert(now + self.terms.lease + self.terms.renew_every);
        // between two renewals something else may be asked, but takes none of their time
        let is_aside = matches!(change, Change::Unfit { .. } | Change::Fit { .. });
        let hurries = self.silent().is_some() || is_aside;
        self.ask_at = if hurries { now } else { now + self.terms.renew_every };
        self.has_just_renewed = done && matches!(change, Change::Renew { .. });
        match change {
            Change::Join { .. } if !done => {
                if let (State::Joining, Some(namesake)) = (self.state, living_namesake) {
                    self.end(Out::NameTaken(namesake), out);
                } else if self.table.is_dead(self.me.incarnation) {
                    self.end(Out::DeclaredDead, out); // overtaken by a later life, or dead since it joined
                }
                return;
            }
            Change::Join { .. } => {
                if self.state == State::Joining {
                    self.state = State::Member;
                }
                self.renewed(self.joins_since.unwrap_or(asked_at), now, out);
                if self.lease_until.is_some_and(|until| until <= now) {
                    self.ask_at = now;
                }
            }
            Change::Go { .. } => return self.end(Out::Gone, out),
            Change::Renew { .. } if done => self.renewed(asked_at, now, out),
            Change::Renew { .. } | Change::Leave { .. } | Change::Declare { .. } => {}
            Change::Unfit { .. } | Change::Fit { .. } | Change::Move { .. } => {}
        }
        let standing = match self.own_row() {
            Some(row) => row.standing,
            None => return self.end(Out::DeclaredDead, out),
        };
        if standing == Standing::Unfit && was_fit {
            self.end_lease(out); // asked for, or the store lost the change by which the silo came back
        }
        let was_asked = standing != Standing::Up && std::mem::take(&mut self.may_be_unfit);
        if was_asked || (standing == Standing::Unfit && was_fit) {
            out.push(Do::Unfit);
        }
        if is_news {
            out.push(Do::Members(self.table.clone()));
        }
    }

    /// The next answer comes from another server than the last one, which may have lost its last writes: a counter that was
    /// seen before and is seen again has perhaps moved in between. Everybody's silence counts anew, and the
    /// next renewal raises the table's version above all that were known.
    pub fn another_server(&mut self) {
        self.seen.clear();
        self.settled_at = None;
        self.is_other_server = true;
    }

    /// The store has not answered: it is asked anew, the same or what is due by then. A change that was carried out all the
    /// same does nothing the second time.
    pub fn unanswered(&mut self, now: Timestamp) {
        if self.asked.take().is_some() {
            self.ask_at = now + Span(self.terms.renew_every.ms() / 4);
        }
    }

    /// Who has this silo's name, and raised its counter since it was seen.
    fn living_namesake<'t>(&self, table: &'t Table) -> Option<&'t Member> {
        let namesake = table.named(&self.me.name)?;
        let seen = self.seen.get(&namesake.incarnation)?;
        (seen.counter != namesake.counter).then_some(namesake)
    }

    fn look(&mut self, table: &Table, now: Timestamp) {
        let since = self.looked_at.map_or(Span::ZERO, |before| now.since(before));
        let passed = Span(since.ms().min(2 * self.terms.renew_every.ms()));
        self.looked_at = Some(now);
        let mut seen = BTreeMap::new();
        for Member { incarnation, counter, .. } in &table.members {
            if *incarnation == self.me.incarnation {
                continue;
            }
            let before = self.seen.get(incarnation).filter(|before| before.counter == *counter);
            let silence = before.map_or(Span::ZERO, |before| Span(before.silence.ms() + passed.ms()));
            seen.insert(*incarnation, Seen { counter: *counter, silence });
        }
        self.seen = seen;
    }

    fn renewed(&mut self, asked_at: Timestamp, now: Timestamp, out: &mut Vec<Do>) {
        match self.own_row().map(|row| row.standing) {
            Some(Standing::Unfit) => return,
            Some(Standing::Up) => self.may_be_unfit = false, // and what was asked before finds another counter
            Some(Standing::Leaving) | None => {}
        }
        let until = asked_at + self.terms.lease;
        self.lease_until = Some(until);
        if self.is_lease_over && now < until {
            self.is_lease_over = false;
            out.push(Do::LeaseBack);
        }
    }

    /// No lease, until a renewal finds the silo up.
    fn end_lease(&mut self, out: &mut Vec<Do>) {
        self.lease_until = Some(Timestamp::MIN);
        if !std::mem::replace(&mut self.is_lease_over, true) {
            out.push(Do::LeaseOver);
        }
    }

    fn end(&mut self, why: Out, out: &mut Vec<Do>) {
        self.state = State::Out;
        out.push(Do::Out(why));
    }
}
