//! The client: calls of grains, records of streams, questions to silos.

use std::pin::Pin;
use std::sync::Arc;

use granary_core::call::Options;
use granary_core::codec;
use granary_core::time::Span;
use granary_core::{Caller, Error, Grain, GrainId, Key, Method, Ran, Result};
use granary_wire::{Ask, Frame, NewRecord, Produce, Role, SlotTable, Start};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::cluster::Cluster;
use crate::connect::Introduction;
use crate::pending::NOBODY;
use crate::request::{Course, Request, What};
use crate::routes::{Connection, To};
use crate::tail::Tail;

/// How long questions and writes may take.
const REQUEST_TIMEOUT: Span = granary_core::call::TIMEOUT_DEFAULT;

/// How many seeds a client may be given.
pub const SEEDS_MAX: usize = 64;

/// How a client is set up: [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    seeds: Vec<String>,
    us: Introduction,
    sends_once: bool,
}

impl Builder {
    /// Refuses silos of other clusters; without it any is taken.
    #[must_use]
    pub fn cluster(mut self, name: impl Into<String>) -> Builder {
        self.us.cluster = name.into();
        self
    }

    /// What the client calls itself in the silo's log.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.us.name = name.into();
        self
    }

    /// The client is how the silo of this name reaches the others.
    #[must_use]
    pub fn as_silo(mut self, name: impl Into<String>) -> Builder {
        (self.us.role, self.us.name) = (Role::Silo, name.into());
        self
    }

    /// Sends each request once and gives every error to the caller: for who passes requests on and leaves it to the
    /// one who asked to follow a move. The table of slots is not asked for again either: see [`Client::learn`].
    #[must_use]
    pub fn send_once(mut self) -> Builder {
        self.sends_once = true;
        self
    }

    /// Connects to the first seed that can be reached, each tried once, and learns which silo owns which slot.
    pub async fn connect(self) -> Result<Client> {
        if self.seeds.is_empty() || self.seeds.len() > SEEDS_MAX {
            let count = self.seeds.len();
            let message =
                format!("{count} addresses to connect to, at least 1 and at most {SEEDS_MAX} expected");
            return Err(Error::invalid(message).ran(Ran::No));
        }
        let client = self.build();
        client.cluster.connect().await?;
        Ok(client)
    }

    /// The client, without a connection: the first request opens one, or [`Client::learn`] tells of silos.
    pub fn build(mut self) -> Client {
        self.seeds.truncate(SEEDS_MAX);
        Client { cluster: Cluster::new(&self.seeds, self.us, self.sends_once) }
    }
}

/// A client of one cluster. Cheap to clone; all clones share one connection to each silo.
///
/// A call goes straight to the silo that owns the grain's slot. When the slot has moved, or the silo cannot be reached
/// or shuts down, the client asks who owns it now and sends the call again, until its deadline. It never repeats what
/// has perhaps run, unless the call has an idempotency key: then it may always be repeated, and is. At most
/// [`IN_FLIGHT_MAX`](crate::IN_FLIGHT_MAX) requests are under way on a connection; the next wait for room within their
/// own timeout. Dropping the future of a call tells the silo that nobody waits: if the call has not begun it never
/// runs.
#[derive(Clone)]
pub struct Client {
    pub(crate) cluster: Arc<Cluster>,
}

impl Client {
    /// Connects to the cluster at `addresses`: host and port of one silo or of several, separated by commas.
    pub async fn connect(addresses: impl Into<String>) -> Result<Client> {
        Client::builder(addresses).connect().await
    }

    /// A client to be set up, with the addresses of silos as for [`Client::connect`].
    pub fn builder(addresses: impl Into<String>) -> Builder {
        let addresses = addresses.into();
        let mut seeds: Vec<String> = Vec::new();
        for seed in addresses.split(',').map(str::trim).filter(|seed| !seed.is_empty()) {
            if !seeds.iter().any(|other| other == seed) {
                seeds.push(seed.to_owned());
            }
        }
        let us = Introduction { role: Role::Client, cluster: String::new(), name: String::new() };
        Builder { seeds, us, sends_once: false }
    }

    /// A typed reference to the grain with this key.
    pub fn grain<G: Grain>(&self, key: impl Into<Key>) -> G::Ref<Client> {
        G::reference(key.into(), self.clone())
    }

    /// Calls a grain whose type this program does not know. `arguments` are MessagePack: a map by name, an array by
    /// place, the only one as it is, or nothing; so is the answer.
    pub async fn call(
        &self,
        grain: &GrainId,
        method: &str,
        arguments: &[u8],
        options: Options,
    ) -> Result<Vec<u8>> {
        let request = Request { kind: &grain.kind, key: &grain.key, method, arguments, options: &options };
        if options.one_way {
            return self.send_one_way(request).await.map(|()| Vec::new());
        }
        self.request(request).await
    }

    /// The records of a stream from `start` on, as they come, from whichever silo can be reached.
    pub async fn tail(&self, stream: &str, start: Start) -> Result<Tail> {
        Tail::open(self.clone(), stream, start).await
    }

    /// Goes on with a stream where [`Tail::token`] was taken.
    pub async fn resume(&self, token: &str) -> Result<Tail> {
        Tail::resume(self.clone(), token).await
    }

    /// Writes records to a topic and returns when they are durable. The partition follows from the key; the records
    /// of one partition are written in their order and in one step, those of several partitions in several.
    pub async fn produce(&self, topic: &str, records: &[NewRecord<'_>]) -> Result<()> {
        let records = records.to_vec();
        let what = format!("produce to {topic}");
        let frame = |id, _| Frame::Produce(Produce { id, topic, records: records.clone() });
        let course = Course::new(&what, REQUEST_TIMEOUT, false);
        self.cluster.deliver(To::Any, course, frame).await.map(drop)
    }

    /// How a silo is: a map.
    pub async fn status<T: DeserializeOwned>(&self) -> Result<T> {
        codec::from_bytes(&self.ask("status", &[]).await?)
    }

    /// Asks any silo for something that is no grain's. Arguments and answer are MessagePack.
    pub async fn ask(&self, what: &str, arguments: &[u8]) -> Result<Vec<u8>> {
        self.question(To::Any, what, arguments).await
    }

    /// Asks the silo that listens at `address`.
    pub async fn ask_silo(&self, address: &str, what: &str, arguments: &[u8]) -> Result<Vec<u8>> {
        self.question(To::Address(address), what, arguments).await
    }

    async fn question(&self, to: To<'_>, what: &str, arguments: &[u8]) -> Result<Vec<u8>> {
        let course = Course::new(&what, REQUEST_TIMEOUT, false);
        self.cluster.deliver(to, course, |id, _| Frame::Ask(Ask { id, what, arguments })).await
    }

    /// Which silo owns which slot, as far as this client knows; `None` for a cluster of one silo.
    pub fn slots(&self) -> Option<Arc<SlotTable>> {
        self.cluster.table()
    }

    /// Asks the cluster which silo owns which slot, and returns what is known then.
    pub async fn refresh(&self) -> Option<Arc<SlotTable>> {
        self.cluster.refresh(None, self.cluster.seen()).await;
        self.cluster.table()
    }

    /// Takes a table of slots from who knows it already, if it is later than the one at hand.
    pub fn learn(&self, table: SlotTable) -> Result<()> {
        self.cluster.learn(table)
    }

    /// The silos known, and which of them are connected, now and whenever that changes.
    pub fn connections(&self) -> watch::Receiver<Vec<Connection>> {
        self.cluster.connections()
    }

    async fn request(&self, request: Request<'_>) -> Result<Vec<u8>> {
        request.check()?;
        let course = self.course(&request, request.options);
        let to = To::Key(request.key.as_str());
        self.cluster.deliver(to, course, |id, left| Frame::Call(request.frame(id, left))).await
    }

    fn course<'w>(&self, what: &'w What<'w>, options: &Options) -> Course<'w> {
        Course::new(what, options.timeout(), options.idempotency_key.is_some())
    }

    async fn send_one_way(&self, request: Request<'_>) -> Result<()> {
        request.check()?;
        let mut course = self.course(&request, request.options);
        loop {
            let seen = self.cluster.seen();
            course.attempts += 1;
            let error = match self.cluster.link(To::Key(request.key.as_str()), &course).await {
                Ok(link) => {
                    timeout_at(course.deadline, link.writable())
                        .await
                        .map_err(|_| course.unsent(&link.address, &"its peer takes nothing"))?;
                    match link.send(&Frame::Call(request.frame(NOBODY, course.left()))) {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.cluster.go_on(&mut course, error, None, seen).await?;
        }
    }
}

impl Caller for Client {
    type Answer<M: Method> = Pin<Box<dyn Future<Output = Result<M::Reply>> + Send>>;
    type Told = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn call<M: Method>(self, key: Key, message: M, options: Options) -> Self::Answer<M> {
        Box::pin(async move {
            let arguments = codec::to_bytes(&message)?;
            let (kind, method) = (M::INFO.kind, M::INFO.name);
            let request = Request { kind, key: &key, method, arguments: &arguments, options: &options };
            let answer = self.request(request).await?;
            // The call has run: what cannot be read is its answer.
            codec::from_bytes(&answer).map_err(|error| error.ran(Ran::Yes))
        })
    }

    fn tell<M: Method>(self, key: Key, message: M, mut options: Options) -> Self::Told {
        options.one_way = true;
        Box::pin(async move {
            let arguments = codec::to_bytes(&message)?;
            let (kind, method) = (M::INFO.kind, M::INFO.name);
            self.send_one_way(Request { kind, key: &key, method, arguments: &arguments, options: &options })
                .await
        })
    }
}
