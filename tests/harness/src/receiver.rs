//! A server that takes webhooks, well or badly.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a server that hangs does so: longer than any attempt may take.
const HANG: Duration = Duration::from_secs(40);
/// What a server that floods sends.
const FLOOD_BYTES: usize = 100 << 20;

/// A webhook as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Request {
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }

    pub fn is_ping(&self) -> bool {
        self.event()["type"] == "webhook.ping"
    }
}

/// What the server does with a webhook.
#[derive(Clone, Debug)]
pub enum Answering {
    Status(u16),
    With(u16, &'static str, String),
    Hang,
    Drop,
    /// The head of the answer, byte for byte, one a second.
    Drip,
    /// 200, and 100 MB.
    Flood,
}

/// It serves until the process ends.
#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    flooded: Arc<AtomicU64>,
}

impl Receiver {
    /// It answers by the request and how many came to the same path before it.
    pub fn start(answer: impl Fn(&Request, usize) -> Answering + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let receiver = Receiver { port, requests: Arc::default(), flooded: Arc::default() };
        let (mine, answer) = (receiver.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (receiver, answer) = (mine.clone(), answer.clone());
                std::thread::spawn(move || receiver.serve(stream, &*answer));
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those to a path that are no pings.
    pub fn alerts(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path == path && !request.is_ping()).collect()
    }

    /// How many bytes of floods were taken.
    pub fn flooded(&self) -> u64 {
        self.flooded.load(Ordering::Relaxed)
    }

    fn serve(&self, stream: TcpStream, answer: &dyn Fn(&Request, usize) -> Answering) {
        let Some(request) = read(&stream) else { return };
        let before = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            let before = requests.iter().filter(|other| other.path == request.path).count();
            requests.push(request.clone());
            before
        };
        match answer(&request, before) {
            Answering::Status(status) => reply(stream, status, "", "what it is about"),
            Answering::With(status, header, value) => {
                reply(stream, status, &format!("{header}: {value}\r\n"), "")
            }
            Answering::Hang => std::thread::sleep(HANG),
            Answering::Drop => drop(stream),
            Answering::Drip => drip(stream),
            Answering::Flood => self.flood(stream),
        }
    }

    fn flood(&self, mut stream: TcpStream) {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        let chunk = [b'x'; 64 << 10];
        for _ in 0..FLOOD_BYTES / chunk.len() {
            if stream.write_all(&chunk).is_err() {
                return;
            }
            self.flooded.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }
}

fn reply(mut stream: TcpStream, status: u16, headers: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} So\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(head.as_bytes());
}

fn drip(mut stream: TcpStream) {
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body, at: Instant::now() })
}
