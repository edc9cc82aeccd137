//! The context of a turn: who it is, what time it is, and all it may do beyond its own state.

use std::future::{Future, IntoFuture, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use tokio::sync::oneshot;

use crate::call::{Call, Caller, Options, Unbound};
use crate::cloud::Alert;
use crate::codec;
use crate::context;
use crate::envelope::{Envelope, Letter, ReplyTo, downcast};
use crate::error::{Error, ErrorKind, Ran, Result};
use crate::grain::{Grain, Method, MethodInfo};
use crate::host::{Begun, Emitted, Host, Later, LocalCall, Place, Schedule};
use crate::id::{GrainId, Key};
use crate::shared::AnyGrain;
use crate::time::Timestamp;

/// The stream alerts go to.
pub const ALERTS: &str = "alerts";

/// The context of one turn. It ends with the turn.
pub struct Cx {
    host: Rc<dyn Host>,
    place: Place,
    kind: &'static str,
    key: Key,
    now: Timestamp,
    idempotency_key: Option<Arc<str>>,
    context: Option<Arc<context::Context>>,
}

impl Cx {
    /// For the engine: the context of the turn at `place` of the grain `kind/key`.
    pub fn new(host: Rc<dyn Host>, place: Place, kind: &'static str, key: Key, now: Timestamp) -> Cx {
        Cx { host, place, kind, key, now, idempotency_key: None, context: None }
    }

    /// For the engine: with the idempotency key of the call.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: Option<Arc<str>>) -> Cx {
        self.idempotency_key = key;
        self
    }

    /// For the engine: with the context of the request.
    #[must_use]
    pub fn with_context(mut self, context: Option<Arc<context::Context>>) -> Cx {
        self.context = context;
        self
    }

    /// For the engine: where the turn runs.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The grain's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The grain's identity.
    pub fn id(&self) -> GrainId {
        GrainId { kind: self.kind.into(), key: self.key.clone() }
    }

    /// The time: of the record in a turn of a stream event, of the silo's clock in a call.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The idempotency key of the call, if it has one.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// The entry of this name in the context of the request.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.context.as_deref()?.get(name)
    }

    /// A reference to another grain, to be called from this turn.
    pub fn grain<G: Grain>(&self, key: impl Into<Key>) -> G::Ref<Local> {
        G::reference(key.into(), self.local())
    }

    /// Sends a call and waits for no answer: also from a plain `fn`.
    pub fn tell<M: Method>(&mut self, call: Call<Unbound, M>) -> Ready<Result<()>> {
        call.by(self.local()).one_way().into_future()
    }

    fn local(&self) -> Local {
        Local { host: self.host.clone(), place: self.place, context: self.context.clone() }
    }

    /// Tells a stream: durable, in order for the key, exactly once, with the commit of this turn.
    /// `Overloaded` when the slot's outbox is full.
    pub fn emit<T: Serialize + ?Sized>(&mut self, stream: &str, value: &T) -> Result<()> {
        let value = codec::to_bytes(value)?;
        self.host.emit(self.place, stream, Emitted::Value { id: None, value })
    }

    /// Tells a stream these bytes as they are, under this identity: whoever reads the stream can tell copies by it.
    /// Otherwise as [`Cx::emit`].
    pub fn emit_as(&mut self, stream: &str, id: &str, value: &[u8]) -> Result<()> {
        let (id, value) = (Some(id.into()), value.to_vec());
        self.host.emit(self.place, stream, Emitted::Value { id, value })
    }

    /// Raises an alert of this rule, with the commit of this turn. It is a CloudEvent in JSON of the type
    /// [`RAISED`](crate::cloud::RAISED), so webhook endpoints are told of it; a replay raises it under the same id.
    /// `Codec` when JSON has no such detail: a map whose keys are no texts.
    pub fn alert<T: Serialize + ?Sized>(&mut self, rule: &str, detail: &T) -> Ready<Result<()>> {
        let detail = serde_json::to_value(detail)
            .map_err(|error| Error::new(ErrorKind::Codec, format!("cannot encode: {error}")));
        let alert = |detail| Alert { rule: rule.into(), grain: self.id(), time: self.now, detail };
        ready(detail.and_then(|detail| self.host.emit(self.place, ALERTS, Emitted::Alert(alert(detail)))))
    }

    /// Sets a timer: lives with the activation, never overlaps itself. `call` is one of this grain's own methods.
    pub fn timer<M: Method>(&mut self, name: &str, schedule: Schedule, call: Call<Unbound, M>) -> Result<()> {
        let (method, arguments) = self.own(call)?;
        self.host.set_timer(self.place, Later { name, schedule, method, arguments: &arguments })
    }

    /// Takes a timer back; whether there was one.
    pub fn cancel_timer(&mut self, name: &str) -> bool {
        self.host.cancel_timer(self.place, name)
    }

    /// Sets a reminder: durable, survives everything, fires within a second, with the schedule's catch-up policy.
    pub fn remind<M: Method>(
        &mut self,
        name: &str,
        schedule: Schedule,
        call: Call<Unbound, M>,
    ) -> Result<()> {
        let (method, arguments) = self.own(call)?;
        self.host.set_reminder(self.place, Later { name, schedule, method, arguments: &arguments })
    }

    /// Takes a reminder back; whether there was one.
    pub fn cancel_reminder(&mut self, name: &str) -> Result<bool> {
        self.host.cancel_reminder(self.place, name)
    }

    /// Lets the activation leave memory after this turn, once its state is stored.
    pub fn deactivate(&mut self) {
        self.host.deactivate(self.place);
    }

    fn own<M: Method>(&self, call: Call<Unbound, M>) -> Result<(&'static str, Vec<u8>)> {
        let (target, method, arguments) = call.into_parts()?;
        if target == self.id() {
            return Ok((method, arguments));
        }
        let me = self.id();
        Err(Error::invalid(format!("timers and reminders of {me} call {me} only, not {target}")))
    }
}

/// A turn as a caller: made by [`Cx::grain`].
#[derive(Clone)]
pub struct Local {
    host: Rc<dyn Host>,
    place: Place,
    context: Option<Arc<context::Context>>,
}

impl Caller for Local {
    type Answer<M: Method> = LocalAnswer<M>;

    type Told = Ready<Result<()>>;

    fn call<M: Method>(self, key: Key, message: M, mut options: Options) -> LocalAnswer<M> {
        let state = match context::Context::over(self.context.as_ref(), options.context.take()) {
            Ok(context) => Progress::Fresh(message, Options { context, ..options }),
            Err(error) => Progress::Ran(Err(error)),
        };
        LocalAnswer { from: self, key, state }
    }

    fn tell<M: Method>(self, key: Key, message: M, mut options: Options) -> Self::Told {
        options.one_way = true;
        match context::Context::over(self.context.as_ref(), options.context.take()) {
            Ok(context) => options.context = context,
            Err(error) => return ready(Err(error)),
        }
        let begun = self.host.call(self.place, M::INFO.kind_id, &key, &mut Progress::Fresh(message, options));
        ready(begun.map(|_| ()))
    }
}

/// The answer to a call made from a turn. A call to an idle grain of the same slot is answered at the first poll.
pub struct LocalAnswer<M: Method> {
    from: Local,
    key: Key,
    state: Progress<M>,
}

enum Progress<M: Method> {
    Fresh(M, Options),
    Waiting { answer: oneshot::Receiver<Result<M::Reply>>, deadline: Timestamp, alarm: bool },
    Ran(Result<M::Reply>),
    Over,
}

// Nothing in it is pinned: the future of a turn lives in its own box.
impl<M: Method> Unpin for LocalAnswer<M> {}

impl<M: Method> Future for LocalAnswer<M> {
    type Output = Result<M::Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if matches!(this.state, Progress::Fresh(..)) {
            let (host, place) = (this.from.host.clone(), this.from.place);
            match host.call(place, M::INFO.kind_id, &this.key, &mut this.state) {
                Err(error) => this.state = Progress::Ran(Err(error)),
                Ok(Begun::Ran) => {}
                Ok(Begun::Waits(at)) => {
                    if let Progress::Waiting { deadline, .. } = &mut this.state {
                        *deadline = at;
                    }
                }
            }
        }
        match std::mem::replace(&mut this.state, Progress::Over) {
            Progress::Ran(result) => Poll::Ready(result),
            Progress::Waiting { mut answer, deadline, alarm } => match Pin::new(&mut answer).poll(context) {
                Poll::Ready(result) => Poll::Ready(result.unwrap_or_else(|_| Err(dropped(&this.key)))),
                Poll::Pending if this.from.host.now() >= deadline => Poll::Ready(Err(this.timed_out())),
                Poll::Pending => {
                    if !alarm {
                        this.from.host.wake_at(deadline, context.waker().clone());
                    }
                    this.state = Progress::Waiting { answer, deadline, alarm: true };
                    Poll::Pending
                }
            },
            Progress::Fresh(..) | Progress::Over => Poll::Ready(Err(dropped(&this.key))),
        }
    }
}

impl<M: Method> LocalAnswer<M> {
    fn timed_out(&self) -> Error {
        let place = self.from.host.whereabouts(M::Grain::KIND, &self.key);
        let message = format!("{}/{}.{} {place}", M::Grain::KIND, self.key, M::INFO.name);
        Error::new(ErrorKind::Timeout, message).ran(Ran::Unknown)
    }
}

fn dropped(key: &Key) -> Error {
    Error::new(ErrorKind::Closed, format!("the call of {key} was dropped without an answer"))
        .ran(Ran::Unknown)
}

impl<M: Method> LocalCall for Progress<M> {
    fn info(&self) -> &'static MethodInfo {
        M::info()
    }

    fn options(&self) -> &Options {
        match self {
            Progress::Fresh(_, options) => options,
            _ => unreachable!("a call is begun once, while it is fresh"),
        }
    }

    fn run_here(&mut self, grain: &dyn AnyGrain, cx: &mut Cx) {
        if let Progress::Fresh(message, _) = std::mem::replace(self, Progress::Over) {
            *self = Progress::Ran(message.run(downcast::<M>(grain), cx));
        }
    }

    fn envelope(&mut self, options: Options) -> Box<dyn Envelope> {
        let Progress::Fresh(message, _) = std::mem::replace(self, Progress::Over) else {
            unreachable!("a call is begun once, while it is fresh")
        };
        if options.one_way {
            return Box::new(Letter::<M>::new(message, options, ReplyTo::Nobody));
        }
        let (to, answer) = oneshot::channel();
        *self = Progress::Waiting { answer, deadline: Timestamp::MAX, alarm: false };
        Box::new(Letter::<M>::new(message, options, ReplyTo::Typed(to)))
    }

    fn panicked(&mut self, error: Error) {
        *self = Progress::Ran(Err(error));
    }
}
