//! Starting lanes, calling into them, stopping.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use actix::{Actor, Addr, System};
use granary_cluster::members::View;
use granary_core::call::Options;
use granary_core::envelope::{Letter, ReplyTo};
use granary_core::{
    Caller, Error, ErrorKind, Grain, GrainId, Key, KindId, Method, Ran, Result, SlotId, Timestamp,
};
use tokio::sync::oneshot;

use crate::config::{Config, SourceSpec};
use crate::lane::cell::{End, LaneCell};
use crate::lane::rest::Rest;
use crate::lane::{Lane, Route};
use crate::lengths::Distribution;
use crate::mailbox::{Call, Mailbox, Named, RETRY_AFTER, Word};
use crate::stats::Stats;
use crate::suspect::Suspect;
use crate::watch;

/// The lanes of one silo, running.
pub struct Engine {
    handle: Handle,
    threads: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// A way into a running engine: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Handle {
    lanes: Arc<[Arc<Mailbox>]>,
    route: Route,
    config: Arc<Config>,
}

/// A source at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its topic.
    pub topic: String,
    /// Whether partitions feed the slots of their keys, or every slot.
    pub in_place: bool,
    /// The next offset to be handed out, by partition.
    pub next: BTreeMap<u32, u64>,
}

impl Engine {
    /// Starts the lanes. They take their slots at once.
    pub fn start(config: Config) -> Result<Engine> {
        check_kinds(&config)?;
        let config = Arc::new(config);
        let lanes: Arc<[Arc<Mailbox>]> = (0..config.lanes).map(|_| Mailbox::new()).collect();
        let route = Route::new(&config);
        watch::watch(&lanes, config.silo.clone(), config.turn_max, config.stuck);
        let told: Vec<Weak<Mailbox>> = lanes.iter().map(Arc::downgrade).collect();
        config.store.on_run(Box::new(move |run| {
            told.iter().filter_map(Weak::upgrade).for_each(|lane| lane.tell(Word::Run(run)));
        }));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (lane_config, mailboxes) = (config.clone(), lanes.to_vec());
        let thread = std::thread::Builder::new()
            .name(format!("{}-system", config.silo))
            .spawn(move || System::new().block_on(run_lanes(lane_config, mailboxes, ready, stopped)))
            .map_err(|e| {
                Error::new(ErrorKind::Unavailable, format!("the silo's thread cannot be started: {e}"))
            })?;
        let _ = is_ready.recv();
        let handle = Handle { lanes, route, config };
        Ok(Engine { handle, threads: Some((stop, thread)) })
    }

    /// A way in.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops taking calls and records, finishes turns, stores what they changed, and ends the lanes.
    pub async fn stop(mut self) {
        let mut waits = Vec::new();
        for lane in self.handle.lanes.iter() {
            let (done, wait) = oneshot::channel();
            lane.tell(Word::Stop(done));
            waits.push(wait);
        }
        for wait in waits {
            let _ = wait.await;
        }
        self.end();
    }

    fn end(&mut self) {
        for lane in self.handle.lanes.iter() {
            lane.is_closed.store(true, Ordering::Release);
        }
        if let Some((stop, thread)) = self.threads.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Without [`Engine::stop`] the lanes end as if the process had: what is not stored is lost, by design.
impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

async fn run_lanes(
    config: Arc<Config>,
    mailboxes: Vec<Arc<Mailbox>>,
    ready: mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) {
    let mut arbiters = Vec::new();
    let suspect = Arc::new(Suspect::default());
    for index in 0..config.lanes {
        let arbiter = actix::Arbiter::new();
        let (config, mailboxes, suspect) = (config.clone(), mailboxes.clone(), suspect.clone());
        let (started, address) = oneshot::channel::<Addr<LaneCell>>();
        arbiter.spawn_fn(move || {
            let cell = LaneCell::new(Lane::new(index, config, mailboxes, suspect));
            let _ = started.send(cell.start());
        });
        arbiters.push((arbiter, address.await));
    }
    let _ = ready.send(());
    let _ = stopped.await;
    for (arbiter, address) in arbiters {
        if let Ok(address) = address {
            let _ = address.send(End).await;
        }
        arbiter.stop();
        let _ = arbiter.join();
    }
}

fn check_kinds(config: &Config) -> Result<()> {
    for (i, kind) in config.kinds.iter().enumerate() {
        if let Some(other) = config.kinds[..i].iter().find(|other| other.id == kind.id) {
            let message = if other.name == kind.name {
                format!("the kind `{}` is hosted twice", kind.name)
            } else {
                format!(
                    "the names `{}` and `{}` have the same number: rename one of them",
                    other.name, kind.name
                )
            };
            return Err(Error::invalid(message));
        }
    }
    Ok(())
}

impl Handle {
    /// Calls a grain by name with encoded arguments; built-in grains, too.
    pub fn call(
        &self,
        grain: GrainId,
        method: &str,
        arguments: Vec<u8>,
        options: Options,
    ) -> oneshot::Receiver<Result<Vec<u8>>> {
        let (reply, answer) = oneshot::channel();
        let slot = self.route.slot(&grain.key);
        let options = options.started(self.config.clock.now());
        let named = Named { slot, grain, method: method.into(), arguments, options, reply };
        self.send(Call::Named(Box::new(named)));
        answer
    }

    /// A typed reference to a grain.
    pub fn grain<G: Grain>(&self, key: impl Into<Key>) -> G::Ref<Handle> {
        G::reference(key.into(), self.clone())
    }

    fn send(&self, call: Call) {
        let slot = call.slot();
        let lane = self.route.lane(slot);
        let mailbox = &self.lanes[lane as usize];
        if mailbox.is_closed.load(Ordering::Acquire) {
            let message = format!("silo {} is shutting down", self.config.silo);
            return crate::lane::refuse(call, Error::new(ErrorKind::Closed, message).ran(Ran::No));
        }
        if let Err(call) = mailbox.call(call) {
            let message = format!("the inbox of lane {lane} of silo {} is full", self.config.silo);
            let error = Error::new(ErrorKind::Overloaded, message).ran(Ran::No).after(RETRY_AFTER);
            crate::lane::refuse(call, error);
        }
    }

    /// What all lanes have counted.
    pub fn stats(&self) -> Stats {
        self.lanes.iter().map(|lane| lane.stats.read()).fold(Stats::default(), std::ops::Add::add)
    }

    /// What each lane has counted.
    pub fn lane_stats(&self) -> Vec<Stats> {
        self.lanes.iter().map(|lane| lane.stats.read()).collect()
    }

    /// How long the stages of each lane's commits take.
    pub fn lane_stages(&self) -> Vec<Vec<(&'static str, Distribution)>> {
        self.lanes.iter().map(|lane| lane.stages.named()).collect()
    }

    /// Slots of the cluster.
    pub fn slots(&self) -> u16 {
        self.config.slots
    }

    /// Outputs sealed so far, by the number of their stream.
    pub fn outputs(&self) -> Vec<u64> {
        let of = |no: usize| self.lanes.iter().map(|lane| lane.outputs[no].load(Ordering::Relaxed)).sum();
        (0..crate::mailbox::STREAMS_COUNTED).map(of).collect()
    }

    /// Its sources, and where they stand: of lanes that read one partition, the one that is furthest behind.
    pub fn sources(&self) -> Vec<Reading> {
        let spec = |spec: &SourceSpec| Reading {
            topic: spec.topic.clone(),
            in_place: spec.in_place,
            next: BTreeMap::new(),
        };
        let mut readings: Vec<Reading> = self.config.sources.iter().map(spec).collect();
        for lane in self.lanes.iter() {
            for stand in lane.stands.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let next =
                    readings[usize::from(stand.source)].next.entry(stand.partition).or_insert(stand.next);
                *next = stand.next.min(*next);
            }
        }
        let of_first = readings.into_iter().zip(&self.config.sources);
        of_first.filter(|(_, source)| source.again_of.is_none()).map(|(reading, _)| reading).collect()
    }

    /// Turns and records so far, of each slot that runs here; nothing in a silo that has no others beside it.
    pub fn work(&self) -> Vec<(SlotId, u64)> {
        let of = |lane: &Arc<Mailbox>| lane.work.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.lanes.iter().flat_map(of).collect()
    }

    /// The topics of its sources.
    pub fn topics(&self) -> Vec<String> {
        let first = self.config.sources.iter().filter(|source| source.again_of.is_none());
        first.map(|source| source.topic.clone()).collect()
    }

    /// The cluster has changed: lanes take and give slots by this view.
    pub fn see(&self, view: &Arc<View>) {
        for lane in self.lanes.iter() {
            lane.tell(Word::View(view.clone()));
        }
    }

    /// When the lane that has not begun a round for longest began its last one, by the engine's clock. A lane that sleeps
    /// begins one twice a second.
    pub fn last_beat(&self) -> Timestamp {
        let beats = self.lanes.iter().map(|lane| Timestamp(lane.beat.load(Ordering::Relaxed)));
        beats.min().unwrap_or(Timestamp::MIN)
    }

    /// Sources may have more, or a hand-moved clock was moved.
    pub fn look(&self) {
        for lane in self.lanes.iter() {
            lane.tell(Word::Look);
        }
    }

    /// Comes true when nothing goes on in any lane until the clock moves or somebody asks for something: for tests that
    /// move the clock by hand. `None` when the lanes have ended.
    pub async fn rest(&self) -> Option<Rest> {
        let mut waits = Vec::new();
        for lane in self.lanes.iter() {
            let (asker, rests) = oneshot::channel();
            lane.tell(Word::Look);
            lane.rests.push(asker);
            lane.ring();
            waits.push(rests);
        }
        let mut all = Rest::default();
        for rests in waits {
            all = all + rests.await.ok()?;
        }
        Some(all)
    }

    /// Comes true when all finite inputs have ended and everything is stored.
    pub async fn finished(&self) {
        for lane in self.lanes.iter() {
            loop {
                let notified = lane.finished.notified();
                if lane.is_finished.load(Ordering::Acquire) {
                    break;
                }
                notified.await;
            }
        }
    }

    /// Whether all finite inputs have ended and everything is stored.
    pub fn is_finished(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_finished.load(Ordering::Acquire))
    }
}

/// The answer to a call made through a [`Handle`].
pub struct Answer<R> {
    answer: oneshot::Receiver<Result<R>>,
}

impl<R> Future for Answer<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        let gone = || Error::new(ErrorKind::Closed, "the lane ended before it answered").ran(Ran::Unknown);
        Poll::Ready(answer.unwrap_or_else(|_| Err(gone())))
    }
}

impl Caller for Handle {
    type Answer<M: Method> = Answer<M::Reply>;
    type Told = std::future::Ready<Result<()>>;

    fn call<M: Method>(self, key: Key, message: M, options: Options) -> Answer<M::Reply> {
        let (to, answer) = oneshot::channel();
        let slot = self.route.slot(&key);
        let options = options.started(self.config.clock.now());
        let envelope = Box::new(Letter::<M>::new(message, options, ReplyTo::Typed(to)));
        self.send(Call::Letter { slot, kind: KindId::of(M::Grain::KIND), key, envelope });
        Answer { answer }
    }

    fn tell<M: Method>(self, key: Key, message: M, mut options: Options) -> Self::Told {
        options.one_way = true;
        let slot = self.route.slot(&key);
        let envelope = Box::new(Letter::<M>::new(message, options, ReplyTo::Nobody));
        self.send(Call::Letter { slot, kind: KindId::of(M::Grain::KIND), key, envelope });
        std::future::ready(Ok(()))
    }
}
