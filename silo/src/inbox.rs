//! A server on loopback that takes webhooks: for those who show or measure them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use granary_alerts::endpoint::{Endpoint, EndpointRef};
use granary_alerts::endpoints::{ALL, Endpoints};
use granary_alerts::settings::Settings;
use granary_alerts::sign::Secret;
use granary_core::{Error, ErrorKind, Result};
use granary_engine::Handle;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{Alerts, Http};
use crate::silo::RunningSilo;

/// Webhooks that wait to be looked at; more make their senders wait.
const WAITING_MAX: usize = 1_024;

/// A webhook as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub at: Instant,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: Bytes,
}

/// The server. It ends when this is dropped.
pub(crate) struct Inbox {
    port: u16,
    webhooks: mpsc::Receiver<Webhook>,
    serving: JoinHandle<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inbox {
    /// Listens on a free port.
    pub async fn open() -> Result<Inbox> {
        let unreachable = |error: std::io::Error| Error::new(ErrorKind::Unavailable, error.to_string());
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(unreachable)?;
        let port = listener.local_addr().map_err(unreachable)?.port();
        let (tell, webhooks) = mpsc::channel(WAITING_MAX);
        Ok(Inbox { port, webhooks, serving: tokio::spawn(serve(listener, tell)) })
    }

    /// Lets a silo tell it.
    pub fn allow(&self, alerts: &mut Alerts) {
        alerts.http = Http::Allowed;
        alerts.ports = vec![self.port.to_string()];
        alerts.allowed = vec!["127.0.0.1".into()];
    }

    /// Makes it an endpoint of a silo that is to be told of all alerts, in what way `wanted` says, and asks for a first ping.
    pub async fn add(
        &self,
        silo: &RunningSilo,
        name: &str,
        secret: &Secret,
        wanted: impl FnOnce(Settings) -> Settings,
    ) -> Result<EndpointRef<Handle>> {
        let lanes = silo.handle()?;
        let endpoint = lanes.grain::<Endpoint>(name);
        let wanted = wanted(Settings::to(format!("http://127.0.0.1:{}/", self.port)));
        endpoint.create(wanted, secret.reveal(), BTreeMap::new()).await?;
        lanes.grain::<Endpoints>(ALL).add(name.to_owned()).await?;
        endpoint.ping(format!("wp_{name}")).await?;
        Ok(endpoint)
    }

    /// The next webhook.
    pub async fn next(&mut self) -> Option<Webhook> {
        self.webhooks.recv().await
    }
}

async fn serve(listener: TcpListener, tell: mpsc::Sender<Webhook>) {
    while let Ok((stream, _)) = listener.accept().await {
        let tell = tell.clone();
        let service = service_fn(move |request| take(request, tell.clone()));
        drop(tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service)));
    }
}

async fn take(
    request: Request<Incoming>,
    tell: mpsc::Sender<Webhook>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let of = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (id, timestamp, signature) = (of("webhook-id"), of("webhook-timestamp"), of("webhook-signature"));
    if let Ok(body) = body.collect().await {
        let webhook = Webhook { at: Instant::now(), id, timestamp, signature, body: body.to_bytes() };
        let _ = tell.send(webhook).await; // who does not listen any more needs none
    }
    Ok(Response::new(Full::default()))
}
