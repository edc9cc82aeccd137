//! Calls of grains: from a test, as a client makes them, and from one silo to another.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use granary_core::call::Options;
use granary_core::envelope::Answered;
use granary_core::{Caller, Error, ErrorKind, Grain, GrainId, Key, Method, Ran, Result, Span, codec};
use granary_engine::{Passed, Peers};

use crate::inner::{Inner, Sent, no_silo};

/// A call whose silo says nothing about its deadline is given up so long after it.
const GRACE: Span = Span(1_000);
/// How often a call between silos that found nobody tries again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// One call, by name.
#[derive(Clone)]
struct Request {
    grain: GrainId,
    method: &'static str,
    arguments: Arc<[u8]>,
    options: Options,
}

/// What one attempt came to.
enum Attempt {
    Answered(Result<Vec<u8>>),
    /// The silo does not have the grain, or there is none that does: somebody else will.
    Elsewhere,
}

impl Request {
    fn new(grain: GrainId, method: &'static str, arguments: Vec<u8>, options: Options) -> Request {
        Request { grain, method, arguments: arguments.into(), options }
    }

    /// The next attempt: it ends with an answer, or when another one may do better.
    async fn attempt(&self, inner: &Inner) -> Attempt {
        let now = inner.now();
        let deadline = self.options.deadline;
        if !inner.has_silos() {
            return Attempt::Answered(Err(no_silo()));
        }
        if deadline.is_some_and(|deadline| now >= deadline + GRACE) {
            return Attempt::Answered(Err(self.too_late("no silo had it", Ran::No)));
        }
        let sent = inner.send(&self.grain, self.method, &self.arguments, &self.options);
        let Some(Sent { answer, mut over }) = sent else {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            return Attempt::Elsewhere;
        };
        let is_late = async {
            while deadline.is_none_or(|deadline| inner.now() < deadline + GRACE) {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        };
        let gone = || {
            Error::new(ErrorKind::Closed, format!("{}: its silo was killed", self.grain)).ran(Ran::Unknown)
        };
        let answer = tokio::select! {
            biased;
            _ = over.wait_for(|is_over| *is_over) => Err(gone()),
            answer = answer => answer.unwrap_or_else(|_| Err(gone())),
            () = is_late => Err(self.too_late("its silo does not answer", Ran::Unknown)),
        };
        match answer {
            Err(error) if is_elsewhere(&error) => {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
                Attempt::Elsewhere
            }
            answer => Attempt::Answered(answer),
        }
    }

    /// All attempts, until there is an answer.
    async fn answered(&self, inner: &Inner) -> Result<Vec<u8>> {
        loop {
            if let Attempt::Answered(answer) = self.attempt(inner).await {
                return answer;
            }
        }
    }

    fn too_late(&self, why: &str, ran: Ran) -> Error {
        Error::new(ErrorKind::Timeout, format!("{}.{}: {why}", self.grain, self.method)).ran(ran)
    }
}

/// Whether the call did not run and another silo has the grain, or will have it.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Moved | ErrorKind::Closed) && error.did_run() == Some(Ran::No)
}

/// The way from one silo to the others.
pub(crate) struct Ways {
    inner: Weak<Inner>,
}

impl Ways {
    pub fn new(inner: Weak<Inner>) -> Ways {
        Ways { inner }
    }
}

impl Peers for Ways {
    fn call(&self, call: Passed, answer: Answered) {
        let Some(inner) = self.inner.upgrade() else { return answer(Err(no_silo())) };
        let Passed { grain, method, arguments, options } = call;
        let request = Request::new(grain, method, arguments, options.started(inner.now()));
        let runtime = inner.runtime().clone();
        // It must not keep the cluster alive: that ends when the test's last reference to it does.
        let inner = Arc::downgrade(&inner);
        runtime.spawn(async move {
            let Some(inner) = inner.upgrade() else { return answer(Err(no_silo())) };
            let reply = request.answered(&inner).await;
            answer(reply);
        });
    }
}

/// What a test calls grains with: as a client, outside of all silos.
#[derive(Clone)]
pub struct Outside(pub(crate) Arc<Inner>);

impl Outside {
    pub(crate) fn grain<G: Grain>(&self, key: Key) -> G::Ref<Outside> {
        G::reference(key, self.clone())
    }

    fn request<M: Method>(&self, key: Key, message: &M, options: Options) -> Result<Request> {
        let arguments = codec::to_bytes(message).map_err(|e| e.ran(Ran::No))?;
        let grain = GrainId { kind: M::Grain::KIND.into(), key };
        Ok(Request::new(grain, M::INFO.name, arguments, options.started(self.0.now())))
    }

    /// Calls by name, with encoded arguments.
    pub(crate) fn by_name(
        &self,
        grain: GrainId,
        method: &'static str,
        arguments: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + 'static {
        let request = Request::new(grain, method, arguments, Options::default().started(self.0.now()));
        let inner = self.0.clone();
        async move { inner.drive(request.answered(&inner), false).await? }
    }
}

impl Caller for Outside {
    type Answer<M: Method> = Answer<M::Reply>;
    type Told = std::future::Ready<Result<()>>;

    fn call<M: Method>(self, key: Key, message: M, options: Options) -> Answer<M::Reply> {
        let request = self.request(key, &message, options);
        let inner = self.0;
        let answer = async move {
            let request = request?;
            inner.drive(request.answered(&inner), false).await?
        };
        Answer { answer: Box::pin(answer), reply: PhantomData }
    }

    fn tell<M: Method>(self, key: Key, message: M, options: Options) -> Self::Told {
        let request = match self.request(key, &message, options) {
            Ok(request) => request,
            Err(error) => return std::future::ready(Err(error)),
        };
        let inner = self.0.clone();
        self.0.runtime().spawn(async move { request.answered(&inner).await });
        std::future::ready(Ok(()))
    }
}

/// The answer to a call, to come. Waiting for it moves time only while the cluster is unsettled.
pub struct Answer<R> {
    answer: Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>,
    reply: PhantomData<fn() -> R>,
}

impl<R: serde::de::DeserializeOwned> Future for Answer<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let answer = std::task::ready!(self.answer.as_mut().poll(context));
        Poll::Ready(answer.and_then(|bytes| codec::from_bytes(&bytes).map_err(|e| e.ran(Ran::Yes))))
    }
}
