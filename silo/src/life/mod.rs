//! A silo's lives: each has its engine, and where there may be several silos a place in the member table.
//!
//! | module | holds |
//! |---|---|
//! | `membership` | the thread that keeps the silo a member |
//! | `reach` | whether the silo reaches the log |
//! | `load` | how much it has to do |
//! | `peers` | the way to grains of other silos |
//! | `current` | the present life, for those who serve its clients |
//! | `keeper` | one life after the other, until the silo is stopped |
//!
//! A silo that learns that it was declared dead drops everything it has in memory and comes back as a new life: whatever it
//! still had under way is fenced, by the epochs of its slots and the transactional ids of its lanes.

mod current;
mod keeper;
mod load;
mod membership;
mod peers;
mod reach;

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::members::{self, Out, Terms};
use granary_core::{Error, ErrorKind, Result, Span};
use granary_engine::{Cluster, Handle, Lease};
use granary_store::Redis;

use crate::assembly::{Assembly, Running};
use crate::backing::Backing;
use crate::config::{Settings, StoreKind};
use crate::gateway::{Gateway, Told};
use crate::revisions::Runs;

pub use current::Current;
pub use keeper::{Keeper, Kept, Leaver};
use membership::{Member, Seat, Standing};
use peers::Ways;
pub use peers::table_of;
use reach::Reach;

/// Between two attempts to reach Redis and Kafka at the start.
const START_WAIT_MIN: Duration = Duration::from_millis(200);
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a silo waits for its lanes' producers before it joins all the same.
const PRODUCERS_MAX: Duration = Duration::from_secs(10);
/// How long a silo that leaves waits for its slots to be taken.
const LEAVE_MAX: Duration = Duration::from_secs(4);
/// How long it waits for the member table to hear that it went.
const GO_MAX: Duration = Duration::from_millis(500);
/// Silos hear of a change with their next renewal, and some time for its way; only then are slots given.
const GIVE_MARGIN: Span = Span(50);
/// A slot that its owner does not give is taken after so many leases, and not before that.
const LEASES_BEFORE_FORCE: u64 = 3;
const TAKE_AFTER_MIN: Span = Span(20_000);
/// A life that a later one overtook while it joined begins anew, so often.
const JOINS_MAX: u32 = 16;
/// How often it looks how many slots it still has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What every life of a silo is made of.
pub struct Mold {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Plan, kinds and the rest.
    pub assembly: Arc<Assembly>,
    /// Where others reach it.
    pub advertised: String,
    /// Its probes and metrics.
    pub gateway: Arc<Gateway>,
    /// Where those who serve clients find the present life.
    pub current: Arc<Current>,
}

/// One life of a silo.
pub struct Life {
    running: Running,
    member: Option<Member>,
    runs: Runs,
}

impl Mold {
    /// Begins a life: opens store and log, starts the lanes, joins the cluster. What cannot be reached is waited for,
    /// unless it is embedded: then waiting would not help.
    pub async fn live(&self) -> Result<Life> {
        for _ in 1..JOINS_MAX {
            let life = self.begin().await?;
            if life.has_joined().await? {
                return Ok(life);
            }
            life.drop_all().await;
        }
        Err(Error::new(
            ErrorKind::Closed,
            "other silos joined before this one each time it tried: start it again",
        ))
    }

    async fn begin(&self) -> Result<Life> {
        let (backing, mut config, runs) = self.prepare().await?;
        let external = backing.as_external().cloned();
        let ways = Ways::new(&self.settings.cluster.name, &self.assembly.silo, self.assembly.clock.clone());
        let reads = Lease::none();
        if external.is_some() {
            let renewed = Terms::of(self.settings.silo.lease()).renew_every;
            let give_after = Span(renewed.ms() + GIVE_MARGIN.ms());
            let lease = self.settings.silo.lease();
            let take_after = Span((LEASES_BEFORE_FORCE * lease.ms()).max(TAKE_AFTER_MIN.ms()));
            let (lease, peers) = (reads.clone(), ways.clone());
            config.cluster = Some(Cluster { lease, peers, give_after, take_after });
        }
        let me = backing.me;
        let running = Running::start(self.assembly.clone(), config, backing)?;
        let Some(external) = external else { return Ok(Life { running, member: None, runs }) };
        for why in &runs.registered.outdated {
            tracing::error!(silo = %self.assembly.silo, %why, "this program is older than what is stored: it joins, and owns no slot");
        }
        let options = external.member_options.clone();
        // slots wait where they are until this silo can publish for them
        let lanes = u64::from(self.assembly.lanes());
        let can_publish = async {
            while running.handle().stats().log_ready < lanes {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(PRODUCERS_MAX, can_publish).await;
        let redis = self.reach(move || Redis::open(options.clone())).await?;
        let log_away_max = self.settings.silo.kafka_away_max();
        let member = Member::join(Seat {
            me,
            log_away_max,
            reach: Reach::watch(external.kafka.clone(), log_away_max)?,
            name: self.assembly.silo.clone(),
            address: self.advertised.clone(),
            lease: self.settings.silo.lease(),
            clock: self.assembly.clock.clone(),
            redis,
            lanes: running.handle(),
            reads,
            ways,
            program: runs.registered.program,
            still_runs: Box::new({
                let (runs, backing) = (runs.clone(), running.backing().clone());
                move || runs.are_known(&backing)
            }),
        })?;
        Ok(Life { running, member: Some(member), runs })
    }

    /// There is no life at present, for this reason.
    fn waits(&self, why: &str) {
        self.gateway.waits(why);
        self.current.none(why);
    }

    async fn prepare(&self) -> Result<(Backing, granary_engine::Config, Runs)> {
        let (with, of) = (self.settings.clone(), self.assembly.clone());
        self.reach(move || {
            let backing = Backing::open(&with, &of)?;
            let (config, runs) = of.prepare(&backing)?;
            Ok((backing, config, runs))
        })
        .await
    }

    /// Tries until the servers can be reached.
    async fn reach<T: Send + 'static>(
        &self,
        open: impl Fn() -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let may_wait = self.settings.store.kind == StoreKind::Redis;
        let mut wait = START_WAIT_MIN;
        loop {
            let attempt = tokio::task::spawn_blocking(open.clone()).await;
            match attempt.map_err(|e| Error::new(ErrorKind::Closed, e.to_string()))? {
                Err(error) if may_wait && error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(%error, "the silo cannot start yet; trying again in {wait:?}");
                    self.waits(error.message());
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(START_WAIT_MAX);
                }
                done => return done,
            }
        }
    }
}

impl Life {
    /// Waits until the silo is a member; false when it has to try with another life.
    async fn has_joined(&self) -> Result<bool> {
        let Some(member) = &self.member else { return Ok(true) };
        let mut standing = member.standing();
        let joined = standing.wait_for(|standing| !matches!(standing, Standing::Joining)).await;
        match joined.map(|standing| standing.clone()) {
            Ok(Standing::Out(Out::NameTaken(other))) => Err(Error::invalid(format!(
                "silo.name: a silo named `{}` runs at {}: give each silo a name of its own",
                other.name, other.address
            ))),
            Ok(Standing::Member(_)) => Ok(true),
            Ok(Standing::Out(Out::DeclaredDead)) => Ok(false),
            Ok(Standing::Joining | Standing::Out(_)) | Err(_) => {
                Err(Error::new(ErrorKind::Closed, "the silo could not become a member of its cluster"))
            }
        }
    }

    /// Its lanes.
    pub fn handle(&self) -> Handle {
        self.running.handle()
    }

    /// Its store and log.
    pub fn backing(&self) -> &Backing {
        self.running.backing()
    }

    /// What there is to tell of it, beside its lanes.
    fn told(&self) -> Told {
        let program = self.runs.registered.program;
        let standing = self.member.as_ref().map(Member::standing);
        let of_registry = self.runs.registered.outdated.first().cloned();
        let me = self.running.backing().me;
        let owns_none = move || {
            let is_unfit = standing.as_ref().is_some_and(|standing| match &*standing.borrow() {
                Standing::Member(view) => view.is_unfit(me),
                Standing::Joining | Standing::Out(_) => false,
            });
            if is_unfit {
                return Some("this silo does not reach Kafka and others do: it stands aside".to_owned());
            }
            let latest = standing.as_ref().and_then(|standing| match &*standing.borrow() {
                Standing::Member(view) => members::eligible(&view.table).map(|m| m.generation).max(),
                Standing::Joining | Standing::Out(_) => None,
            });
            let of_others = latest.filter(|latest| *latest > program.generation).map(|latest| {
                format!("silos of generation {latest} run, this one is of generation {}", program.generation)
            });
            let why = of_registry.clone().or(of_others)?;
            Some(format!("this silo's program is older than the cluster's, so it owns no slots: {why}"))
        };
        let log = self.backing().log.clone();
        Told { log, streams: self.runs.streams.clone(), program, owns_none: Arc::new(owns_none) }
    }

    /// Comes true when the silo is a member no more.
    async fn over(&self) {
        let Some(member) = &self.member else { return std::future::pending().await };
        let mut standing = member.standing();
        drop(standing.wait_for(|standing| matches!(standing, Standing::Out(_))).await.map(|_| ()));
    }

    /// Gives its slots to the others, if there are any. Calls go on meanwhile.
    async fn leave(&self) {
        let Some(member) = &self.member else { return };
        let mut standing = member.standing();
        member.leave();
        let me = self.running.backing().me;
        let given = async {
            let left = standing.wait_for(|standing| match standing {
                Standing::Member(view) => view.placement.slots_of(me).next().is_none(),
                Standing::Joining | Standing::Out(_) => true,
            });
            drop(left.await.map(|_| ()));
            // where all leave there is nobody to give anything to
            let has_takers = || match &*standing.borrow() {
                Standing::Member(view) => {
                    view.table.members.iter().any(|m| m.standing == members::Standing::Up)
                }
                Standing::Joining | Standing::Out(_) => false,
            };
            while has_takers() && self.running.handle().stats().slots_held > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(LEAVE_MAX, given).await.is_err() {
            let held = self.running.handle().stats().slots_held;
            tracing::warn!(held, "not all slots were given within {LEAVE_MAX:?}: others take them");
        }
    }

    /// Finishes turns, stores what they changed, ends the lanes, leaves the member table.
    async fn stop(self) {
        self.running.stop().await;
        let Some(member) = self.member else { return };
        let mut standing = member.standing();
        member.go();
        let gone = standing.wait_for(|standing| matches!(standing, Standing::Out(_)));
        drop(tokio::time::timeout(GO_MAX, gone).await.map(|_| ()));
        drop(tokio::task::spawn_blocking(move || drop(member)).await);
    }

    /// Ends as if the process had: what is not stored is gone.
    async fn drop_all(self) {
        let ended = tokio::task::spawn_blocking(move || drop(self));
        drop(ended.await);
    }
}
