//! The client: calls of grains, records of streams, over one connection that is opened again when it is lost.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use granary_core::call::{IDEMPOTENCY_KEY_BYTES_MAX, Options};
use granary_core::codec;
use granary_core::time::Span;
use granary_core::{Caller, Error, ErrorKind, Grain, GrainId, Key, Method, Ran, Result};
use granary_wire::{Call, Frame, NewRecord, Produce, Start};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::connect::{self, Target};
pub use crate::link::IN_FLIGHT_MAX;
use crate::link::Link;
use crate::outgoing::lock;
use crate::pending::NOBODY;
use crate::tail::Tail;

/// How often a lost connection is tried anew before a call is answered `Unavailable`.
pub const RECONNECT_ATTEMPTS_MAX: u32 = 5;

/// The wait after the first failed attempt; each later one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long past the timeout a client still waits for the silo's own word on where the time went.
const GRACE: Duration = Duration::from_millis(100);

/// How often a request is sent at most, when a silo that leaves refuses it.
const SENDINGS_MAX: u32 = 3;

/// How long produce and status may take.
const REQUEST_TIMEOUT: Span = granary_core::call::TIMEOUT_DEFAULT;

/// How a client is set up: [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    target: Target,
}

impl Builder {
    /// Refuses silos of other clusters; without it any is taken.
    #[must_use]
    pub fn cluster(mut self, name: impl Into<String>) -> Builder {
        self.target.cluster = name.into();
        self
    }

    /// What the client calls itself in the silo's log.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.target.name = name.into();
        self
    }

    /// Connects, trying once.
    pub async fn connect(self) -> Result<Client> {
        let inner =
            Inner { target: self.target, link: Mutex::new(None), opening: tokio::sync::Mutex::new(()) };
        let client = Client { inner: Arc::new(inner) };
        client.inner.open().await?;
        Ok(client)
    }
}

/// A client of one cluster. Cheap to clone; all clones share one connection.
///
/// A connection that is lost answers what waited on it with `Closed`, whether it ran unknown, and is opened again by
/// the next call. A silo that shuts down refuses what it does not run any more; that is sent again. At most [`IN_FLIGHT_MAX`] requests are under way; the next wait for room within their own timeout.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    link: Mutex<Option<Arc<Link>>>,
    /// Held by who opens the connection, so that one attempt serves all who wait.
    opening: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(link) = lock(&self.link).take() {
            link.close();
        }
    }
}

impl Inner {
    fn current(&self) -> Option<Arc<Link>> {
        lock(&self.link).as_ref().filter(|link| link.is_open()).cloned()
    }

    /// Opens a connection and makes it the current one.
    async fn open(&self) -> Result<Arc<Link>> {
        let opened = connect::open(&self.target).await?;
        let link = Arc::new(Link::new(self.target.address.clone()));
        let running = link.clone();
        tokio::spawn(async move { running.run(opened).await });
        *lock(&self.link) = Some(link.clone());
        Ok(link)
    }

    /// The connection; a new one when it was lost, tried a bounded number of times.
    async fn link(&self) -> Result<Arc<Link>> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let _opening = self.opening.lock().await;
        let mut wait = BACKOFF_MIN;
        let mut attempt = 1;
        loop {
            if let Some(link) = self.current() {
                return Ok(link); // who held the lock before has opened it
            }
            match self.open().await {
                Err(error) if error.kind() == ErrorKind::Unavailable && attempt < RECONNECT_ATTEMPTS_MAX => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF_MAX);
                    attempt += 1;
                }
                other => return other,
            }
        }
    }
}

impl Client {
    /// Connects to the silo at `address`, host and port.
    pub async fn connect(address: impl Into<String>) -> Result<Client> {
        Client::builder(address).connect().await
    }

    /// A client to be set up.
    pub fn builder(address: impl Into<String>) -> Builder {
        let target = Target { address: address.into(), cluster: String::new(), name: String::new() };
        Builder { target }
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
        self.ask(request).await
    }

    /// The records of a stream from `start` on, as they come.
    pub async fn tail(&self, stream: &str, start: Start) -> Result<Tail> {
        let link = self.inner.link().await?;
        Tail::open(self.clone(), link, stream, start)
    }

    /// Writes records to a topic and returns when they are durable. The partition follows from the key; the records
    /// of one partition are written in their order and in one step, those of several partitions in several.
    pub async fn produce(&self, topic: &str, records: &[NewRecord<'_>]) -> Result<()> {
        let records = records.to_vec();
        let frame = |id| Frame::Produce(Produce { id, topic, records: records.clone() });
        self.request(&format!("produce to {topic}"), REQUEST_TIMEOUT, frame).await.map(drop)
    }

    /// How the silo is: a map.
    pub async fn status<T: DeserializeOwned>(&self) -> Result<T> {
        let answer = self.request(&"status", REQUEST_TIMEOUT, |id| Frame::Status { id }).await?;
        codec::from_bytes(&answer)
    }

    /// Sends a request and waits for its answer. One that a leaving silo surely did not run is sent again.
    async fn request<'f>(
        &self,
        what: &What<'_>,
        timeout: Span,
        frame: impl Fn(u64) -> Frame<'f>,
    ) -> Result<Vec<u8>> {
        let limits = Limits::of(timeout);
        let mut sendings = 1;
        loop {
            match self.request_once(what, &limits, &frame).await {
                Err(error)
                    if error.kind() == ErrorKind::Closed
                        && error.is_retryable()
                        && sendings < SENDINGS_MAX =>
                {
                    sendings += 1;
                }
                other => return other,
            }
        }
    }

    async fn request_once<'f>(
        &self,
        what: &What<'_>,
        limits: &Limits,
        frame: impl Fn(u64) -> Frame<'f>,
    ) -> Result<Vec<u8>> {
        let link = self.link_within(limits, what).await?;
        let permit = limits.room(&link, what).await?;
        let answer = match link.ask(frame) {
            Ok(mut waiting) => limits.answer(&link, waiting.answer(), what).await,
            Err(error) => Err(error),
        };
        drop(permit);
        answer
    }

    async fn link_within(&self, limits: &Limits, what: &What<'_>) -> Result<Arc<Link>> {
        if let Some(link) = self.inner.current() {
            return Ok(link);
        }
        timeout_at(limits.deadline, self.inner.link()).await.unwrap_or_else(|_| {
            let (address, timeout) = (&self.inner.target.address, limits.timeout);
            let message = format!("{what} was not sent within {timeout}: no connection to {address}");
            Err(Error::new(ErrorKind::Timeout, message).ran(Ran::No))
        })
    }

    async fn ask(&self, request: Request<'_>) -> Result<Vec<u8>> {
        request.check()?;
        self.request(&request, request.options.timeout(), |id| Frame::Call(request.frame(id))).await
    }

    async fn send_one_way(&self, request: Request<'_>) -> Result<()> {
        request.check()?;
        let limits = Limits::of(request.options.timeout());
        let link = self.link_within(&limits, &request).await?;
        timeout_at(limits.deadline, link.outgoing.room())
            .await
            .map_err(|_| limits.unsent(&link, &request, "its peer takes nothing"))?;
        link.send(&Frame::Call(Call { one_way: true, ..request.frame(NOBODY) }))
    }
}

/// What a message names as that which did not succeed.
type What<'w> = dyn std::fmt::Display + Sync + 'w;

/// A call before it has an id.
struct Request<'r> {
    kind: &'r str,
    key: &'r Key,
    method: &'r str,
    arguments: &'r [u8],
    options: &'r Options,
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.kind, self.key, self.method)
    }
}

impl Request<'_> {
    fn check(&self) -> Result<()> {
        match self.options.idempotency_key.as_ref().map(|key| key.len()) {
            Some(bytes) if bytes > IDEMPOTENCY_KEY_BYTES_MAX => {
                let max = IDEMPOTENCY_KEY_BYTES_MAX;
                let message =
                    format!("{self}: an idempotency key of {bytes} bytes, at most {max} are allowed");
                Err(Error::invalid(message).ran(Ran::No))
            }
            _ => Ok(()),
        }
    }

    fn frame(&self, id: u64) -> Call<'_> {
        Call {
            id,
            kind: self.kind,
            key: self.key.as_str(),
            method: self.method,
            arguments: self.arguments,
            timeout: self.options.timeout(),
            idempotency_key: self.options.idempotency_key.as_deref(),
            one_way: false,
        }
    }
}

/// How long a request may take, and what is said when it took longer.
struct Limits {
    timeout: Span,
    deadline: Instant,
}

impl Limits {
    fn of(timeout: Span) -> Limits {
        let now = Instant::now();
        let far = now + Duration::from_secs(365 * 86_400);
        Limits { timeout, deadline: now.checked_add(timeout.into()).unwrap_or(far) }
    }

    /// Room for one more request in flight.
    async fn room<'l>(&self, link: &'l Link, what: &What<'_>) -> Result<tokio::sync::SemaphorePermit<'l>> {
        if let Ok(permit) = link.in_flight.try_acquire() {
            return Ok(permit);
        }
        match timeout_at(self.deadline, link.in_flight.acquire()).await {
            Ok(permit) => Ok(permit.expect("the semaphore of a link is never closed")),
            Err(_) => Err(self.unsent(link, what, &format!("{IN_FLIGHT_MAX} requests wait for answers"))),
        }
    }

    fn unsent(&self, link: &Link, what: &What<'_>, why: &str) -> Error {
        let message = format!("{what} was not sent to {} within {}: {why}", link.address, self.timeout);
        Error::new(ErrorKind::Timeout, message).ran(Ran::No)
    }

    async fn answer(
        &self,
        link: &Link,
        answer: impl Future<Output = Result<Vec<u8>>>,
        what: &What<'_>,
    ) -> Result<Vec<u8>> {
        timeout_at(self.deadline + GRACE, answer).await.unwrap_or_else(|_| {
            let in_flight = IN_FLIGHT_MAX - link.in_flight.available_permits();
            let message = format!(
                "{what} was sent to {} and not answered within {}; {in_flight} requests wait on this connection",
                link.address, self.timeout
            );
            Err(Error::new(ErrorKind::Timeout, message).ran(Ran::Unknown))
        })
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
            let answer = self.ask(request).await?;
            // The call has run: what cannot be read is its answer.
            codec::from_bytes(&answer).map_err(|error| error.ran(Ran::Yes))
        })
    }

    fn tell<M: Method>(self, key: Key, message: M, options: Options) -> Self::Told {
        Box::pin(async move {
            let arguments = codec::to_bytes(&message)?;
            let (kind, method) = (M::INFO.kind, M::INFO.name);
            self.send_one_way(Request { kind, key: &key, method, arguments: &arguments, options: &options })
                .await
        })
    }
}
