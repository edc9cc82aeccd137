//! Sends one webhook: resolves, looks at the addresses, connects to one that may be connected to, and reads what is answered.
//!
//! Each attempt has a connection of its own, so that each address was looked at for the attempt that goes there. Nothing is
//! followed, no proxy is asked, and of an answer no more is read than is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_core::{Span, Timestamp};
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use url::{Host, Url};

use crate::endpoint::Signing;
use crate::guard::{Policy, Refused};
use crate::retry::{Answer, retry_after};
use crate::settings::Settings;
use crate::sign::{Secret, signatures};

/// Bytes of an answer that are read at most, and kept.
pub const ANSWER_BYTES_MAX: usize = 1_024;
/// A connection that broke sooner than this is tried once more at once.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// How we are called.
const USER_AGENT: &str = concat!("Granary/", env!("CARGO_PKG_VERSION"));

/// What is sent.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The id: the same for every attempt.
    pub id: Box<str>,
    /// The body, exactly as it is signed.
    pub body: Bytes,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The answer.
    pub answer: Answer,
    /// The begin of what was answered, or why there was no answer.
    pub words: String,
}

/// Sends webhooks.
#[derive(Clone)]
pub struct Sender {
    policy: Arc<Policy>,
    tls: TlsConnector,
}

/// Why there is no sender.
#[derive(Debug, thiserror::Error)]
pub enum BadRoots {
    /// The file is not one of certificates.
    #[error("it holds no certificates in PEM: {0}")]
    Pem(String),
}

/// Why there was no answer.
enum Failed {
    Refused(Refused),
    Broken(String),
}

impl Sender {
    /// One that follows this policy, and trusts the roots of the public internet and those of `extra_roots` (PEM).
    pub fn new(policy: Policy, extra_roots: Option<&[u8]>) -> Result<Sender, BadRoots> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(pem) = extra_roots {
            let bad = |error: &dyn std::fmt::Display| BadRoots::Pem(error.to_string());
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            }
            if roots.len() == before {
                return Err(bad(&"nothing in it"));
            }
        }
        let provider = Arc::new(ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Sender { policy: Arc::new(policy), tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Makes one attempt, signed as of `now`.
    pub async fn send(
        &self,
        webhook: &Webhook,
        settings: &Settings,
        secrets: &[Signing],
        now: Timestamp,
    ) -> Told {
        let url = match self.policy.check(&settings.url) {
            Ok(url) => url,
            Err(refused) => return Told { answer: Answer::Refused, words: refused.to_string() },
        };
        let request = match request(&url, webhook, settings, secrets, now) {
            Ok(request) => request,
            Err(words) => return Told { answer: Answer::Refused, words },
        };
        let timeout = Duration::from_millis(settings.timeout.ms());
        let began = Instant::now();
        let attempt = async {
            match self.attempt(&url, request.clone(), now).await {
                Err(Failed::Broken(_)) if began.elapsed() < AGAIN_WITHIN => {
                    self.attempt(&url, request, now).await
                }
                done => done,
            }
        };
        match tokio::time::timeout(timeout, attempt).await {
            Ok(Ok(told)) => told,
            Ok(Err(Failed::Refused(refused))) => Told { answer: Answer::Refused, words: refused.to_string() },
            Ok(Err(Failed::Broken(words))) => Told { answer: Answer::Broken, words },
            Err(_) => Told { answer: Answer::Timeout, words: format!("nothing within {}", settings.timeout) },
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        request: Request<Full<Bytes>>,
        now: Timestamp,
    ) -> Result<Told, Failed> {
        let stream = self.connect(url).await?;
        if url.scheme() == "http" {
            return exchange(stream, request, now).await;
        }
        let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|error| Failed::Broken(error.to_string()))?;
        let broken = |error| Failed::Broken(format!("TLS: {error}"));
        let stream = self.tls.connect(name, stream).await.map_err(broken)?;
        exchange(stream, request, now).await
    }

    /// Connects to an address of the host that may be connected to.
    async fn connect(&self, url: &Url) -> Result<TcpStream, Failed> {
        let port = url.port_or_known_default().unwrap_or(443);
        let kept = match url.host() {
            Some(Host::Ipv4(address)) => self.policy.keep(&address.to_string(), [address.into()]),
            Some(Host::Ipv6(address)) => self.policy.keep(&address.to_string(), [address.into()]),
            Some(Host::Domain(name)) => {
                let found = tokio::net::lookup_host((name, port)).await;
                let found = found.map_err(|error| Failed::Broken(format!("{name}: {error}")))?;
                self.policy.keep(name, found.map(|address| address.ip()))
            }
            None => Err(Refused::Form("no host".to_owned())),
        };
        let mut last = String::new();
        for address in kept.map_err(Failed::Refused)?.into_iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(Failed::Broken(last))
    }
}

fn request(
    url: &Url,
    webhook: &Webhook,
    settings: &Settings,
    secrets: &[Signing],
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, String> {
    let Webhook { id, body } = webhook;
    let timestamp_s = now.ms().div_euclid(1_000);
    let in_use = secrets.iter().filter(|signing| signing.until.is_none_or(|until| until > now));
    let secrets: Result<Vec<Secret>, _> = in_use.map(|signing| Secret::parse(&signing.secret)).collect();
    let secrets = secrets.map_err(|error| error.to_string())?;
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, &settings.content_type)
        .header("webhook-id", &**id)
        .header("webhook-timestamp", timestamp_s)
        .header("webhook-signature", signatures(&secrets, id, timestamp_s, body))
        .body(Full::new(body.clone()))
        .map_err(|error| error.to_string())?;
    for (name, value) in &settings.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// Sends the request and reads the answer. A status is an answer; what follows it is read only when it may say why.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, now: Timestamp) -> Result<Told, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Failed::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let told = match response {
        Ok(response) => {
            let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after: Option<Span> = after.and_then(|value| retry_after(value, now));
            let answer = Answer::Status(response.status().as_u16(), after);
            let words = if answer.is_taken() { String::new() } else { begin(response.into_body()).await };
            Ok(Told { answer, words })
        }
        Err(error) => Err(broken(error)),
    };
    connection.abort();
    told
}

/// How long the rest of a failure's answer is waited for.
const WORDS_WITHIN: Duration = Duration::from_secs(2);

/// The begin of a body, as text.
async fn begin(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < ANSWER_BYTES_MAX {
            let Some(Ok(frame)) = body.frame().await else { return };
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
    };
    let _ = tokio::time::timeout(WORDS_WITHIN, read).await;
    bytes.truncate(ANSWER_BYTES_MAX);
    String::from_utf8_lossy(&bytes).into_owned()
}
