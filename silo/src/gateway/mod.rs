//! Probes and metrics over HTTP: `/livez`, `/readyz`, `/metrics`.
//!
//! `/livez` says that the process answers. `/readyz` says 200 when every slot that belongs here runs and store and log can be reached, else
//! 503 with the reasons. `/metrics` is Prometheus' text.

mod metrics;

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use granary_cluster::{Log, Program};
use granary_core::{Error, ErrorKind, Result};
use granary_engine::Handle;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::webhooks::Totals;

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
/// A request's head has to be here within.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A connection ends after so long, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(600);

/// What the gateway tells about.
pub struct Gateway {
    silo: String,
    state: RwLock<State>,
    /// What webhooks there were.
    pub(crate) webhooks: Arc<Totals>,
}

/// What there is to tell of a silo that runs, beside its lanes.
#[derive(Clone)]
pub struct Told {
    /// How far topics reach.
    pub log: Arc<dyn Log>,
    /// The topics of output streams, by their numbers.
    pub streams: Vec<String>,
    /// Which revision the silo runs.
    pub program: Program,
    /// Why it owns no slots at present though it is a member, if that is so.
    pub owns_none: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

enum State {
    /// The silo does not run yet, for this reason.
    Starting(String),
    /// The way to the lanes, and what else there is to tell.
    Running(Handle, Told),
}

/// A gateway that serves.
pub struct Serving {
    address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes no more requests.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.served.await;
    }
}

impl Gateway {
    /// For the silo of this name. It does not run yet.
    pub fn new(silo: String) -> Arc<Gateway> {
        let state = RwLock::new(State::Starting("the silo starts".into()));
        Arc::new(Gateway { silo, state, webhooks: Arc::default() })
    }

    /// The silo cannot start yet.
    pub fn waits(&self, why: &str) {
        self.set(State::Starting(format!("the silo starts: {why}")));
    }

    /// The silo runs.
    pub fn runs(&self, handle: Handle, told: Told) {
        self.set(State::Running(handle, told));
    }

    /// Which revision the silo runs; `None` while it does not.
    pub fn program(&self) -> Option<Program> {
        match &*self.state() {
            State::Starting(_) => None,
            State::Running(_, told) => Some(told.program),
        }
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens and serves until it is stopped.
    pub async fn start(self: Arc<Gateway>, address: &str) -> Result<Serving> {
        let cannot = |e: std::io::Error| {
            let message =
                format!("silo.gateway {address}: cannot listen there: {e}; is another silo running?");
            Error::new(ErrorKind::Unavailable, message)
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?.to_string();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(self.accept(listener, stopped));
        Ok(Serving { address, stop, served })
    }

    async fn accept(self: Arc<Gateway>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let next = async {
                let permit = room.clone().acquire_owned().await;
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                _ = &mut stopped => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let gateway = self.clone();
                    drop(tokio::spawn(async move {
                        let _ = tokio::time::timeout(CONNECTION_MAX, gateway.serve(stream)).await;
                        drop(permit);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "the gateway cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors, say
                }
            }
        }
    }

    async fn serve(self: Arc<Gateway>, stream: TcpStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let gateway = self.clone();
            async move { Ok::<_, Infallible>(gateway.answer(request.method(), request.uri().path()).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of the gateway ended early");
        }
    }

    async fn answer(self: Arc<Gateway>, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.reasons() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n"),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
            },
            "/metrics" => {
                // how far topics reach may have to be asked of a broker
                let metrics = tokio::task::spawn_blocking(move || self.metrics()).await;
                let mut answer = text(StatusCode::OK, metrics.unwrap_or_default());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
        }
    }

    /// Why the silo is not ready; none when it is.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state();
        let (handle, told) = match &*state {
            State::Starting(why) => return vec![why.clone()],
            State::Running(handle, told) => (handle, told),
        };
        let stats = handle.stats();
        let mut reasons = Vec::new();
        if stats.store_away > 0 {
            reasons.push("the store cannot be reached".to_string());
        }
        if stats.log_away > 0 {
            reasons.push("the log takes no transactions".to_string());
        }
        if stats.parked > 0 {
            reasons.push(format!("slots are parked: {}; see the log", stats.parked));
        }
        reasons.extend((told.owns_none)());
        if stats.slots_outdated > 0 {
            let message = "slots that hold state of a later generation than this silo's";
            reasons.push(format!("{message}: {}; start silos of the newer program", stats.slots_outdated));
        }
        if stats.slots_waiting > 0 {
            reasons.push(format!("slots that are not open yet: {}", stats.slots_waiting));
        }
        reasons
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
