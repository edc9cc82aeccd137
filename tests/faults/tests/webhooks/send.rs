//! One attempt at a time, to servers of every sort.

use std::time::{Duration, Instant};

use granary_alerts::endpoint::Signing;
use granary_alerts::guard::{Net, Policy};
use granary_alerts::retry::Answer;
use granary_alerts::send::{ANSWER_BYTES_MAX, Sender, Told, Webhook};
use granary_alerts::settings::Settings;
use granary_alerts::sign::{Headers, Secret, Verifier, verify};
use granary_core::{Timestamp, time::secs};

use granary_harness::{Answering, Receiver};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: Timestamp = Timestamp(1_795_000_000_000);

/// Loopback is allowed, on any port.
fn open() -> Policy {
    Policy { allows_http: true, ports: vec![1..=65_535], allowed: vec![Net::parse("127.0.0.1").unwrap()] }
}

fn secrets() -> Vec<Signing> {
    vec![Signing { secret: SECRET.into(), until: None }]
}

async fn send(policy: Policy, settings: &Settings) -> Told {
    let sender = Sender::new(policy, None).unwrap();
    let webhook = Webhook { id: "al_1".into(), body: r#"{"a":1}"#.into() };
    sender.send(&webhook, settings, &secrets(), NOW).await
}

async fn told(answering: Answering) -> (Told, Receiver) {
    let receiver = Receiver::start(move |_, _| answering.clone());
    let settings = Settings { timeout: secs(2), ..Settings::to(receiver.url("/hook?x=1")) };
    (send(open(), &settings).await, receiver)
}

#[tokio::test]
async fn a_webhook_is_posted_as_it_was_signed() {
    let (told, receiver) = told(Answering::Status(204)).await;
    assert_eq!(told, Told { answer: Answer::Status(204, None), words: String::new() });
    let requests = receiver.requests();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&*request.path, &*request.body), ("/hook?x=1", &br#"{"a":1}"#[..]));
    let header = |name: &str| request.headers[name].as_str();
    assert_eq!(header("host"), format!("127.0.0.1:{}", receiver.port));
    assert_eq!(header("content-type"), "application/json");
    assert!(header("user-agent").starts_with("Granary/"));
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    assert_eq!((id, timestamp), ("al_1", "1795000000"));
    let headers = Headers { id, timestamp, signature: header("webhook-signature") };
    let key = Verifier::parse(SECRET).unwrap();
    assert_eq!(verify(&[key], headers, &request.body, 1_795_000_001), Ok(()));
}

#[tokio::test]
async fn every_answer_is_what_it_is() {
    for status in [200, 299, 400, 404, 410, 500, 503] {
        let (told, receiver) = told(Answering::Status(status)).await;
        assert_eq!(told.answer, Answer::Status(status, None));
        let expected = if status < 300 { "" } else { "what it is about" };
        assert_eq!(told.words, expected);
        assert_eq!(receiver.requests().len(), 1, "an answer is an answer: {status}");
    }
    let (slow, _) = told(Answering::With(429, "Retry-After", "90".into())).await;
    assert_eq!(slow.answer, Answer::Status(429, Some(secs(90))));
}

#[tokio::test]
async fn a_redirection_is_not_followed() {
    let inner = Receiver::start(|_, _| Answering::Status(200));
    let (told, _) = told(Answering::With(301, "Location", inner.url("/secret"))).await;
    assert_eq!(told.answer, Answer::Status(301, None));
    assert!(inner.requests().is_empty(), "nobody has looked at where it leads");
}

#[tokio::test]
async fn who_hangs_drips_or_floods_costs_no_more_than_the_timeout_and_a_little_memory() {
    for bad in [Answering::Hang, Answering::Drip] {
        let began = Instant::now();
        let (told, _) = told(bad.clone()).await;
        assert_eq!(told.answer, Answer::Timeout, "{bad:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{bad:?}");
    }
    let (flooded, receiver) = told(Answering::Flood).await;
    assert_eq!(flooded.answer, Answer::Status(200, None), "it was taken, whatever follows");
    let (dropped, dropping) = told(Answering::Drop).await;
    assert_eq!(dropped.answer, Answer::Broken);
    assert_eq!(dropping.requests().len(), 2, "a connection that broke at once is tried once more");
    assert!(receiver.flooded() < 50 << 20, "most of it was never taken: {}", receiver.flooded());
}

#[tokio::test]
async fn of_a_long_failure_the_begin_is_kept() {
    let (told, _) = told(Answering::With(500, "x", "y".repeat(100))).await;
    assert_eq!(told.answer, Answer::Status(500, None));
    assert!(told.words.len() <= ANSWER_BYTES_MAX);
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let told = send(open(), &Settings::to(format!("http://127.0.0.1:{free}/"))).await;
    assert_eq!(told.answer, Answer::Broken);
    assert!(told.words.contains("refused"), "{}", told.words);
}

/// A name is looked at when it is resolved: what it was when somebody wrote it down counts for nothing.
#[tokio::test]
async fn a_name_that_leads_inside_is_refused_when_it_is_resolved() {
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    let elsewhere = Policy { allowed: vec![Net::parse("10.99.0.0/16").unwrap()], ..open() };
    let url = format!("http://localhost:{}/", receiver.port);
    assert!(elsewhere.check(&url).is_ok(), "the name alone does not tell");
    let told = send(elsewhere, &Settings::to(&url)).await;
    assert_eq!(told.answer, Answer::Refused);
    assert_eq!(told.words, "localhost has no public address");
    assert!(receiver.requests().is_empty());
    let told = send(open(), &Settings::to(&url)).await;
    assert_eq!(told.answer, Answer::Status(200, None), "{}", told.words);
}

#[tokio::test]
async fn what_the_policy_refuses_is_never_connected_to() {
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    for url in [receiver.url("/"), receiver.url("/").replace("http:", "https:"), "https://[::1]/".into()] {
        let told = send(Policy { ports: vec![1..=65_535], ..Policy::default() }, &Settings::to(&url)).await;
        assert_eq!(told.answer, Answer::Refused, "{url}: {}", told.words);
    }
    assert!(receiver.requests().is_empty());
}

mod tls {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// A server for `localhost` that answers 200, and the certificate to trust.
    async fn server() -> (u16, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }));
        (port, made.cert.pem())
    }

    #[tokio::test]
    async fn a_server_is_believed_when_its_certificate_is_for_its_name_and_of_a_known_root() {
        let (port, root) = server().await;
        let webhook = Webhook { id: "al_1".into(), body: "{}".into() };
        let ask = |roots: Option<String>, host: &'static str| {
            let sender = Sender::new(open(), roots.as_deref().map(str::as_bytes)).unwrap();
            let (settings, webhook) = (Settings::to(format!("https://{host}:{port}/")), webhook.clone());
            async move { sender.send(&webhook, &settings, &secrets(), NOW).await }
        };
        assert_eq!(ask(Some(root.clone()), "localhost").await.answer, Answer::Status(200, None));
        let unknown = ask(None, "localhost").await;
        assert_eq!(unknown.answer, Answer::Broken);
        assert!(unknown.words.starts_with("TLS: "), "{}", unknown.words);
        let other = ask(Some(root), "127.0.0.1").await;
        assert_eq!(other.answer, Answer::Broken, "it is for another name");
    }

    #[test]
    fn a_file_without_certificates_is_no_root() {
        assert!(Sender::new(open(), Some(b"nothing")).is_err());
    }

    #[tokio::test]
    async fn an_ed25519_signature_verifies_with_the_public_half() {
        let receiver = Receiver::start(|_, _| Answering::Status(200));
        let secret = Secret::pair_of([7; 32]);
        let signing = vec![Signing { secret: secret.reveal(), until: None }];
        let webhook = Webhook { id: "al_1".into(), body: "{}".into() };
        let sender = Sender::new(open(), None).unwrap();
        sender.send(&webhook, &Settings::to(receiver.url("/")), &signing, NOW).await;
        let request = &receiver.requests()[0];
        let signature = &request.headers["webhook-signature"];
        assert!(signature.starts_with("v1a,") && secret.verifies_with().starts_with("whpk_"));
        let headers = Headers { id: "al_1", timestamp: "1795000000", signature };
        let key = Verifier::parse(&secret.verifies_with()).unwrap();
        assert_eq!(verify(&[key], headers, b"{}", 1_795_000_000), Ok(()));
    }
}
