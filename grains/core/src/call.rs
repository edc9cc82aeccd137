//! Calls as values: a target, a message, and how long, how often and for whom.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture, Ready, ready};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::codec;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Ran, Result};
use crate::grain::{Grain, Method};
use crate::host::Place;
use crate::id::{GrainId, Key};
use crate::time::{Span, Timestamp, secs};

/// How long a call may take when nothing else is said.
pub const TIMEOUT_DEFAULT: Span = secs(30);

/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// How many grains may wait for one another in one chain of calls.
pub const CHAIN_DEPTH_MAX: u32 = 64;

/// The grains that wait for this call, innermost first.
#[derive(Debug)]
pub struct Chain {
    /// The waiting grain.
    pub grain: GrainId,
    /// Its method.
    pub method: Cow<'static, str>,
    /// Who waits for that one.
    pub caller: Option<Arc<Chain>>,
    /// How many grains wait in all.
    pub depth: u32,
}

impl Chain {
    /// The link of `grain`, called by `caller`.
    pub fn link(
        grain: GrainId,
        method: impl Into<Cow<'static, str>>,
        caller: Option<Arc<Chain>>,
    ) -> Arc<Chain> {
        let depth = caller.as_ref().map_or(1, |c| c.depth + 1);
        Arc::new(Chain { grain, method: method.into(), caller, depth })
    }

    /// Whether `grain` is among those that wait.
    pub fn holds(&self, kind: &str, key: &Key) -> bool {
        self.links().any(|link| &*link.grain.kind == kind && link.grain.key == *key)
    }

    /// The waiting grains, innermost first.
    pub fn links(&self) -> impl Iterator<Item = &Chain> {
        std::iter::successors(Some(self), |link| link.caller.as_deref())
    }
}

/// The path of the calls, outermost first: `A/1.go -> B/2.go`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(caller) = &self.caller {
            write!(f, "{caller} -> ")?;
        }
        write!(f, "{}.{}", self.grain, self.method)
    }
}

/// Why a turn runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Somebody called.
    #[default]
    Call,
    /// A record of a stream: its error rolls the slot back.
    Stream,
    /// A timer of the grain, by the engine's number.
    Timer(u32),
    /// A reminder of the grain, by the engine's number.
    Reminder(u32),
    /// The hook before the first turn.
    Activate,
    /// The hook before the activation leaves.
    Deactivate,
}

/// What travels with a call besides its message.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Answer until then, or give up; `None` until it is sent: the timeout is counted from the sending.
    pub deadline: Option<Timestamp>,
    /// How long it may take.
    pub timeout: Option<Span>,
    /// The same key has one effect and one answer, for 24 h.
    pub idempotency_key: Option<Arc<str>>,
    /// Who waits for it.
    pub chain: Option<Arc<Chain>>,
    /// What the request carries along.
    pub context: Option<Arc<Context>>,
    /// Nobody waits for the answer.
    pub one_way: bool,
    /// Why the turn runs; a caller leaves it alone.
    pub origin: Origin,
    /// The waiting turn, when it belongs to the same slot: the answer is not held for it, both commit together.
    pub inside: Option<Place>,
}

impl Options {
    /// The length of time the call may take.
    pub fn timeout(&self) -> Span {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// `Invalid` when key or context are beyond their limits; whoever sends the call asks.
    pub fn check(&self) -> Result<()> {
        let bytes = self.idempotency_key.as_ref().map_or(0, |key| key.len());
        if bytes > IDEMPOTENCY_KEY_BYTES_MAX {
            let max = IDEMPOTENCY_KEY_BYTES_MAX;
            let message = format!("an idempotency key of {bytes} bytes, at most {max} are allowed");
            return Err(Error::invalid(message).ran(Ran::No));
        }
        self.context.as_ref().map_or(Ok(()), |context| context.check())
    }

    /// Sets the deadline, counted from `now`, unless the call came with one.
    pub fn started(mut self, now: Timestamp) -> Options {
        let timeout = self.timeout();
        self.deadline.get_or_insert(now + timeout);
        self
    }
}

/// Who can make a call: a client, a silo's handle, or the context of a turn.
pub trait Caller: Clone + 'static {
    /// The answer to come.
    type Answer<M: Method>: Future<Output = Result<M::Reply>>;

    /// The word that a one-way call is under way.
    type Told: Future<Output = Result<()>>;

    /// Sends the call.
    fn call<M: Method>(self, key: Key, message: M, options: Options) -> Self::Answer<M>;

    /// Sends the call; nobody waits for its answer.
    fn tell<M: Method>(self, key: Key, message: M, options: Options) -> Self::Told;
}

/// Nobody yet: a call made so is handed to a pipeline, a timer or a reminder.
#[derive(Clone, Copy, Debug)]
pub struct Unbound;

impl Caller for Unbound {
    type Answer<M: Method> = Ready<Result<M::Reply>>;
    type Told = Ready<Result<()>>;

    fn call<M: Method>(self, key: Key, _: M, _: Options) -> Self::Answer<M> {
        ready(Err(no_caller::<M>(&key)))
    }

    fn tell<M: Method>(self, key: Key, _: M, _: Options) -> Self::Told {
        ready(Err(no_caller::<M>(&key)))
    }
}

fn no_caller<M: Method>(key: &Key) -> Error {
    let method = M::INFO.name;
    let kind = M::Grain::KIND;
    let message = format!(
        "the call {kind}/{key}.{method} has no caller: use `cx.grain`, `client.grain` or `silo.grain`"
    );
    Error::new(ErrorKind::Invalid, message).ran(Ran::No)
}

/// A call that has not been sent: await it, or hand it on.
///
/// ```
/// # use granary_core::call::{Call, Unbound};
/// # use granary_core::{Method, Result, time::secs};
/// async fn patient<M: Method>(call: Call<Unbound, M>) -> Result<M::Reply> {
///     call.timeout(secs(1)).idempotency_key("payment-17").await
/// }
/// ```
#[must_use = "a call does nothing until it is awaited or handed on"]
pub struct Call<C, M> {
    key: Key,
    caller: C,
    message: M,
    options: Options,
}

impl<C: Caller, M: Method> Call<C, M> {
    /// For generated code: a call of the grain with this key.
    pub fn new(key: Key, caller: C, message: M) -> Call<C, M> {
        Call { key, caller, message, options: Options::default() }
    }

    /// Gives up waiting after `timeout`; the turn, once begun, goes on.
    pub fn timeout(mut self, timeout: Span) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Makes the call exactly once: all calls with this key have one effect and one answer, for 24 h.
    pub fn idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }

    /// Sets an entry of the request's context: the called grain reads it with [`Cx::context`](crate::Cx::context), and
    /// so do the grains it calls. Made by a turn, the call carries the turn's context as well.
    pub fn context(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let context = self.options.context.get_or_insert_default();
        Arc::make_mut(context).put(name.as_ref(), value.as_ref());
        self
    }

    /// Waits for no answer: awaiting it ends as soon as the call is under way, and errors of the turn stay unseen.
    pub fn one_way(mut self) -> OneWay<C, M> {
        self.options.one_way = true;
        OneWay(self)
    }

    /// With other options, whole.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The grain it calls.
    pub fn target(&self) -> GrainId {
        GrainId { kind: M::Grain::KIND.into(), key: self.key.clone() }
    }

    /// Hands it to another caller.
    pub fn by<D: Caller>(self, caller: D) -> Call<D, M> {
        Call { key: self.key, caller, message: self.message, options: self.options }
    }

    /// The call as stored by pipelines, timers and reminders: grain, method, encoded arguments.
    pub fn into_parts(self) -> Result<(GrainId, &'static str, Vec<u8>)> {
        let arguments = codec::to_bytes(&self.message)?;
        Ok((self.target(), M::INFO.name, arguments))
    }
}

impl<C: Caller, M: Method> IntoFuture for Call<C, M> {
    type Output = Result<M::Reply>;
    type IntoFuture = C::Answer<M>;

    fn into_future(self) -> C::Answer<M> {
        self.caller.call(self.key, self.message, self.options)
    }
}

/// A call nobody waits for: see [`Call::one_way`].
#[must_use = "a call does nothing until it is awaited or handed on"]
pub struct OneWay<C, M>(Call<C, M>);

impl<C: Caller, M: Method> IntoFuture for OneWay<C, M> {
    type Output = Result<()>;
    type IntoFuture = C::Told;

    fn into_future(self) -> C::Told {
        let Call { key, caller, message, options } = self.0;
        caller.tell(key, message, options)
    }
}

/// Where the encoded answer of a call from outside goes.
pub type BytesReply = oneshot::Sender<Result<Vec<u8>>>;
