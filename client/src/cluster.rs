//! The silos of one cluster as one: finds the silo to ask, opens connections, follows slots that move.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use granary_core::time::Span;
use granary_core::{Error, ErrorKind, Ran, Result};
use granary_wire::{Ask, Frame, Role, SlotTable};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connect::{self, Introduction};
use crate::link::Link;
use crate::outgoing::lock;
use crate::request::Course;
use crate::routes::{Connection, Routes, Silo, To, Way};

/// How long one silo may take to answer which slots are whose, before another is asked.
pub const TABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many silos are asked for the table, as long as none has a later one: one may be cut off from the others.
pub const TELLERS_MAX: u32 = 3;

/// What was known when a request was sent: whoever asks for the table after that need not ask again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    refreshes: u64,
    version: Option<u64>,
}

/// What all clones of a client share.
pub(crate) struct Cluster {
    us: Introduction,
    /// Every error goes to the caller.
    sends_once: bool,
    routes: Mutex<Routes>,
    /// Held by who asks for the table, so that one answer serves all who wait.
    refreshing: tokio::sync::Mutex<()>,
    refreshes: AtomicU64,
    connections: watch::Sender<Vec<Connection>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        lock(&self.routes).close();
    }
}

impl Cluster {
    pub(crate) fn new(seeds: &[String], us: Introduction, sends_once: bool) -> Arc<Cluster> {
        let own = (us.role == Role::Silo).then(|| us.name.clone());
        let routes = Routes::of_seeds(seeds, own, sends_once);
        let connections = watch::Sender::new(routes.connections());
        Arc::new(Cluster {
            us,
            sends_once,
            routes: Mutex::new(routes),
            refreshing: tokio::sync::Mutex::new(()),
            refreshes: AtomicU64::new(0),
            connections,
        })
    }

    pub(crate) fn table(&self) -> Option<Arc<SlotTable>> {
        lock(&self.routes).table().cloned()
    }

    pub(crate) fn connections(&self) -> watch::Receiver<Vec<Connection>> {
        self.connections.subscribe()
    }

    pub(crate) fn learn(&self, table: SlotTable) -> Result<()> {
        table.check()?;
        if lock(&self.routes).learn(table) {
            self.publish();
        }
        Ok(())
    }

    /// Tells who watches what is connected.
    fn publish(&self) {
        let routes = lock(&self.routes); // held, so that the later state is told last
        let now = routes.connections();
        self.connections.send_if_modified(|last| {
            let is_other = *last != now;
            *last = now;
            is_other
        });
    }

    /// The first connection, and the table. Each silo is tried once.
    pub(crate) async fn connect(self: &Arc<Cluster>) -> Result<()> {
        let seeds = lock(&self.routes).all();
        let link = self.open_first(seeds).await?;
        // A silo that cannot say it yet is asked again when it refuses a call.
        let _ = self.ask_table(&link).await;
        Ok(())
    }

    /// Sends a request until it has an answer, its deadline has come, or it may not be sent again. `frame` makes it of
    /// its id and the time that is left.
    pub(crate) async fn deliver<'f>(
        self: &Arc<Cluster>,
        to: To<'_>,
        mut course: Course<'_>,
        frame: impl Fn(u64, Span) -> Frame<'f>,
    ) -> Result<Vec<u8>> {
        loop {
            let seen = self.seen();
            course.attempts += 1;
            let (error, asked) = match self.link(to, &course).await {
                Ok(link) => {
                    let (left, is_call) = (course.left(), matches!(to, To::Key(_)));
                    match link.ask(course.deadline, is_call, |id| frame(id, left)).await {
                        Ok(answer) => return Ok(answer),
                        Err(missed) => (course.missed(missed, &link), Some(link)),
                    }
                }
                Err(error) => (error, None),
            };
            let address = asked.as_ref().map(|link| link.address.as_str());
            let may_follow = course.goes_on(&error) && !self.sends_once;
            if !(may_follow && lock(&self.routes).follow(to, address)) {
                self.go_on(&mut course, error, asked.as_ref(), seen).await?;
                lock(&self.routes).follow(to, address);
            }
        }
    }

    /// Prepares the next attempt after `error`; an error when there is none.
    pub(crate) async fn go_on(
        self: &Arc<Cluster>,
        course: &mut Course<'_>,
        error: Error,
        asked: Option<&Arc<Link>>,
        seen: Seen,
    ) -> Result<()> {
        if !course.goes_on(&error) || self.sends_once {
            return Err(course.end(error));
        }
        let refresh = self.refresh(asked, seen);
        if timeout_at(course.deadline, refresh).await.is_err() {
            return Err(course.late(&error));
        }
        let is_newer = lock(&self.routes).version() > seen.version;
        if is_newer && course.attempts == 1 {
            return Ok(()); // the ordinary move: there is a new owner, and it is known
        }
        let Some(pause) = course.pause() else { return Err(course.late(&error)) };
        sleep(pause).await;
        Ok(())
    }

    /// What is known now.
    pub(crate) fn seen(&self) -> Seen {
        let refreshes = self.refreshes.load(Ordering::Acquire);
        Seen { refreshes, version: lock(&self.routes).version() }
    }

    /// An open connection, within the deadline.
    pub(crate) async fn link(self: &Arc<Cluster>, to: To<'_>, course: &Course<'_>) -> Result<Arc<Link>> {
        let mut way = lock(&self.routes).way(to);
        if let (Way::Open(link), false) = (&way, self.sends_once)
            && link.was_wrong()
        {
            let _ = timeout_at(course.deadline, self.refresh(Some(link), self.seen())).await;
            let mut routes = lock(&self.routes);
            routes.follow_all(&link.address);
            way = routes.way(to);
        }
        let silos = match way {
            Way::Open(link) => return Ok(link),
            Way::Unowned(slot) => {
                let message = format!("slot {slot} has no owner at present");
                return Err(Error::new(ErrorKind::Moved, message).ran(Ran::No));
            }
            Way::Closed(silos) => silos,
        };
        let address = silos.first().map(|silo| silo.address.clone()).unwrap_or_default();
        let opened = timeout_at(course.deadline, self.open_first(silos)).await;
        opened.unwrap_or_else(|_| Err(course.unsent(&address, &"no connection yet")))
    }

    /// A connection to any silo.
    pub(crate) async fn any(self: &Arc<Cluster>) -> Result<Arc<Link>> {
        let way = lock(&self.routes).way(To::Any);
        match way {
            Way::Open(link) => Ok(link),
            Way::Closed(silos) => self.open_first(silos).await,
            Way::Unowned(_) => Err(nobody()),
        }
    }

    /// A connection to the first of these silos that can be reached.
    async fn open_first(self: &Arc<Cluster>, silos: Vec<Arc<Silo>>) -> Result<Arc<Link>> {
        let mut failure: Option<Error> = None;
        for silo in silos {
            match self.open(&silo).await {
                Ok(link) => return Ok(link),
                // That a silo is of another cluster tells more than that one cannot be reached.
                Err(error) if failure.is_none() || error.kind() == ErrorKind::Invalid => {
                    failure = Some(error)
                }
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    async fn open(self: &Arc<Cluster>, silo: &Arc<Silo>) -> Result<Arc<Link>> {
        let seen = silo.failures();
        let _opening = silo.opening.lock().await;
        if let Some(link) = lock(&self.routes).link(silo) {
            return Ok(link); // who held the lock before has opened it
        }
        if let Some(error) = silo.failure_after(seen) {
            return Err(error); // or could not
        }
        let opened = connect::open(&silo.address, &self.us).await.inspect_err(|error| silo.failed(error))?;
        let link = Arc::new(Link::new(silo.address.clone(), opened.silo.clone()));
        lock(&self.routes).opened(silo, &link);
        self.publish();
        let (running, cluster): (_, Weak<Cluster>) = (link.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = running.run(opened) => {}
                never = doubt(&cluster, &running) => match never {},
            }
            if let Some(cluster) = cluster.upgrade() {
                lock(&cluster.routes).settle();
                cluster.publish();
            }
        });
        Ok(link)
    }

    /// Asks for the table, unless that was done since `seen`: the silo that refused a request
    /// knows best, then any that is connected, then any that can be reached.
    pub(crate) async fn refresh(self: &Arc<Cluster>, asked: Option<&Arc<Link>>, seen: Seen) {
        let _refreshing = self.refreshing.lock().await;
        if self.refreshes.load(Ordering::Acquire) > seen.refreshes {
            return;
        }
        let before = lock(&self.routes).version();
        let mut told = 0;
        if let Some(link) = asked.filter(|link| link.is_open()) {
            told += u32::from(self.ask_table(link).await);
        }
        let silos = lock(&self.routes).all();
        let (open, closed): (Vec<_>, Vec<_>) =
            silos.into_iter().partition(|silo| lock(&self.routes).link(silo).is_some());
        let open_count = open.len();
        for (place, silo) in open.into_iter().chain(closed).enumerate() {
            // One that is not connected may take long to be found dead: only where nobody else answers.
            let is_enough = told >= TELLERS_MAX || (told > 0 && place >= open_count);
            if is_enough || lock(&self.routes).version() > before {
                break;
            }
            if let Ok(link) = self.open(&silo).await {
                told += u32::from(self.ask_table(&link).await);
            }
        }
        self.refreshes.fetch_add(1, Ordering::AcqRel);
    }

    /// Asks one silo for the table; whether it answered. `NotFound` is an answer: a cluster of one silo has none.
    async fn ask_table(&self, link: &Link) -> bool {
        let question = |id| Frame::Ask(Ask { id, what: "slots", arguments: &[] });
        let answer = timeout(TABLE_TIMEOUT, link.ask(Instant::now() + TABLE_TIMEOUT, false, question)).await;
        match answer {
            Ok(Ok(bytes)) => SlotTable::from_bytes(&bytes).and_then(|table| self.learn(table)).is_ok(),
            Ok(Err(crate::pending::Missed::Failed(error))) => error.kind() == ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A silo may hang with its connection open: while it is silent its cluster is asked whether it is still there. When it
/// is not, the connection is closed, and who waits on it may go elsewhere.
async fn doubt(cluster: &Weak<Cluster>, link: &Link) -> Infallible {
    loop {
        link.silent().await;
        if let Some(cluster) = cluster.upgrade().filter(|cluster| !cluster.sends_once) {
            ask_around(cluster).await;
        }
    }
}

/// Boxed, since asking may open connections, each of which may ask.
fn ask_around(cluster: Arc<Cluster>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { cluster.refresh(None, cluster.seen()).await })
}

fn nobody() -> Error {
    Error::new(ErrorKind::Unavailable, "no silo is known").ran(Ran::No)
}
