//! A silo's membership of its cluster: one thread that renews the lease, hears of the others, and tells the lanes.
//!
//! The thread has a connection of its own, so that no read of a lane's is before it. It renews only while every lane
//! begins rounds: a silo with a stuck lane loses its slots to others.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use granary_cluster::Store as _;
use granary_cluster::members::{Change, Do, Membership, Out, Report, Table, Terms, View};
use granary_cluster::{Incarnation, Program, RunId};
use granary_core::{Clock, Error, ErrorKind, Result, Span, Timestamp};
use granary_engine::{Handle, Lease};
use granary_store::Redis;
use tokio::sync::watch;

use super::load::Gauge;
use super::peers::Ways;
use super::reach::Reach;

/// The thread looks at the clock at least so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a membership is made of.
pub struct Seat {
    /// This life.
    pub me: Incarnation,
    /// The silo's name.
    pub name: String,
    /// Where others reach it.
    pub address: String,
    /// How long its lease is.
    pub lease: Span,
    /// How long it may be without the log.
    pub log_away_max: Span,
    /// Whether it reaches the log.
    pub reach: Reach,
    /// The silo's clock.
    pub clock: Arc<dyn Clock>,
    /// The member table.
    pub redis: Arc<Redis>,
    /// The lanes.
    pub lanes: Handle,
    /// Until when they may answer reads.
    pub reads: Arc<Lease>,
    /// The way to other silos.
    pub ways: Arc<Ways>,
    /// What it runs.
    pub program: Program,
    /// Whether the store still knows that: asked when another run of its server answers.
    pub still_runs: Box<dyn Fn() -> Result<bool> + Send>,
}

/// How a silo stands to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It wants to be a member.
    Joining,
    /// It is one.
    Member(Arc<View>),
    /// It is none any more, or could not become one.
    Out(Out),
}

enum Wish {
    Leave,
    Go,
}

/// The membership of one life of a silo. The thread ends with it.
pub struct Member {
    wishes: Sender<Wish>,
    standing: watch::Receiver<Standing>,
    table: watch::Receiver<Table>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Begins to join.
    pub fn join(seat: Seat) -> Result<Member> {
        let (wishes, wished) = channel();
        let (told, standing) = watch::channel(Standing::Joining);
        let name = format!("{}-member", seat.name);
        let (read, table) = watch::channel(Table::default());
        let body = move || Renewer::new(seat, told, read).run(&wished);
        let thread = std::thread::Builder::new().name(name).spawn(body);
        let thread = thread.map_err(|e| {
            Error::new(ErrorKind::Unavailable, format!("the membership's thread cannot be started: {e}"))
        })?;
        Ok(Member { wishes, standing, table, thread: Some(thread) })
    }

    /// How the silo stands, now and later.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The member table as last read, with what each silo tells of itself.
    pub fn table(&self) -> watch::Receiver<Table> {
        self.table.clone()
    }

    /// Takes no more slots from now on.
    pub fn leave(&self) {
        let _ = self.wishes.send(Wish::Leave);
    }

    /// Has given its slots, and goes. Comes back when the table knows, or cannot be asked.
    pub fn go(&self) {
        let _ = self.wishes.send(Wish::Go);
    }
}

/// Who does not go is declared dead after a lease.
impl Drop for Member {
    fn drop(&mut self) {
        let (none, _) = channel();
        self.wishes = none; // the thread hears that nobody wishes anything any more
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Renewer {
    seat: Seat,
    terms: Terms,
    machine: Membership,
    told: watch::Sender<Standing>,
    read: watch::Sender<Table>,
    gauge: Gauge,
    /// The run of the store's server that has answered last.
    run: Option<RunId>,
    is_stuck: bool,
    is_away: bool,
    /// Another run of the store's server has answered since the registry was looked at.
    is_unsure: bool,
}

impl Renewer {
    fn new(seat: Seat, told: watch::Sender<Standing>, read: watch::Sender<Table>) -> Renewer {
        let terms = Terms::of(seat.lease).log_away_max(seat.log_away_max);
        let machine = Membership::new(seat.me, &seat.name, &seat.address, terms, seat.clock.now())
            .of(seat.program.generation);
        let gauge = Gauge::default();
        let (run, is_stuck, is_away, is_unsure) = (None, false, false, false);
        Renewer { seat, terms, machine, told, read, gauge, run, is_stuck, is_away, is_unsure }
    }

    fn run(mut self, wished: &Receiver<Wish>) {
        while !matches!(*self.told.borrow(), Standing::Out(_)) {
            self.step();
            let wait = Duration::from(self.machine.wakes_at().since(self.seat.clock.now())).min(LOOK_EVERY);
            match wished.recv_timeout(wait) {
                Ok(Wish::Leave) => self.machine.leave(self.seat.clock.now()),
                Ok(Wish::Go) => self.machine.go(self.seat.clock.now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn step(&mut self) {
        let now = self.seat.clock.now();
        if self.has_stuck_lane() {
            return;
        }
        let mut todo = Vec::new();
        let report = self.report(now);
        self.machine.report(report, now);
        self.machine.tick(now, &mut todo);
        while !todo.is_empty() {
            for what in std::mem::take(&mut todo) {
                match what {
                    Do::Ask(change) => self.ask(&change, &mut todo),
                    Do::Members(table) => self.see(View::new(table, self.seat.lanes.slots())),
                    Do::LeaseOver => {
                        self.seat.reads.end();
                        tracing::warn!(silo = %self.seat.name, "the lease is over: no more reads");
                    }
                    Do::Unfit => {
                        tracing::error!(
                            silo = %self.seat.name,
                            "the silo does not reach the log and others do: it stands aside, they take its slots"
                        );
                    }
                    Do::LeaseBack => tracing::info!(silo = %self.seat.name, "the lease goes on"),
                    Do::Out(why) => self.out(why),
                }
            }
        }
    }

    /// What the silo tells of itself.
    fn report(&mut self, now: Timestamp) -> Report {
        let lanes = &self.seat.lanes;
        let reaches_log = self.seat.reach.reaches() && lanes.stats().log_away == 0;
        Report { reaches_log, load: self.gauge.load(now, || lanes.work()) }
    }

    /// A lane that does not begin rounds answers nobody: the silo is no better than dead.
    fn has_stuck_lane(&mut self) -> bool {
        let silence = self.seat.clock.now().since(self.seat.lanes.last_beat());
        let is_stuck = silence >= self.terms.lease;
        if is_stuck && !self.is_stuck {
            tracing::error!(silo = %self.seat.name, %silence, "a lane stands still: the lease is not renewed");
        }
        self.is_stuck = is_stuck;
        is_stuck
    }

    fn ask(&mut self, change: &Change, todo: &mut Vec<Do>) {
        match self.seat.redis.change_members(change) {
            Ok((done, table)) => {
                let run = self.seat.redis.run();
                if self.run.replace(run).is_some_and(|before| before != run) {
                    self.machine.another_server();
                    self.is_unsure = true;
                }
                if self.is_unsure {
                    match (self.seat.still_runs)() {
                        Ok(true) => self.is_unsure = false,
                        Ok(false) => {
                            tracing::error!(silo = %self.seat.name, "the store has forgotten this silo's revision: it registers anew, as a new life");
                            return self.out(Out::DeclaredDead);
                        }
                        Err(error) => tracing::warn!(%error, "the registry of revisions cannot be read"),
                    }
                }
                self.read.send_replace(table.clone());
                self.machine.answered(done, table, self.seat.clock.now(), todo);
                if todo.contains(&Do::Unfit) {
                    self.seat.reads.stand_aside(); // before there is a lease again
                }
                if let Some(after) = self.machine.read_after() {
                    self.seat.reads.read(after, self.machine.table().version);
                }
                if let Some(until) = self.machine.lease_until() {
                    self.seat.reads.set(until, run);
                }
                self.is_away = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(silo = %self.seat.name, %error, "the member table cannot be reached");
                }
                self.machine.unanswered(self.seat.clock.now());
            }
        }
    }

    fn see(&self, view: View) {
        let view = Arc::new(view);
        let names: Vec<&str> = view.table.members.iter().map(|member| member.name.as_str()).collect();
        let mine = view.placement.slots_of(self.seat.me).count();
        tracing::info!(silo = %self.seat.name, version = view.table.version, members = %names.join(","), slots = mine, "members");
        self.seat.ways.see(&view, self.seat.lanes.slots());
        self.seat.lanes.see(&view);
        self.told.send_replace(Standing::Member(view));
    }

    fn out(&self, why: Out) {
        self.seat.reads.set(Timestamp::MIN, RunId(0));
        self.told.send_replace(Standing::Out(why));
    }
}
