//! A `redis-server` of one test: a free loopback port, a directory that goes away with it.

use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    pub port: u16,
    directory: TempDir,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one that keeps everything (`appendfsync always`), with further settings.
    pub fn start(settings: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a directory for the server");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Server { port: free_port(), directory, settings, child: None };
        server.run();
        server
    }

    /// Starts it again where it left off.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "one process at a time");
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a file for the log");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .args(["--repl-diskless-sync-delay", "0", "--port", &self.port.to_string(), "--dir"])
            .arg(self.data())
            .args(&self.settings)
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is in PATH: `make setup` installs it");
        self.child = Some(child);
        let started = Instant::now();
        let is_there = |error: redis::RedisError| matches!(error.code(), Some("NOAUTH"));
        while !self.command(&["PING"]).map_or_else(is_there, |_| true) {
            assert!(started.elapsed() < START_MAX, "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it without a word, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is ours");
            child.wait().expect("the server is ours");
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Where its files are.
    pub fn data(&self) -> PathBuf {
        let data = self.directory.path().join("data");
        std::fs::create_dir_all(&data).expect("a directory for the server");
        data
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command, as an operator would.
    pub fn command(&self, words: &[&str]) -> Result<redis::Value, redis::RedisError> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection)
    }

    /// Runs a command that must succeed.
    pub fn must(&self, words: &[&str]) -> redis::Value {
        self.command(words).unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that systems do not give to connections: one of those could have it while the server is away.
const PORTS: Range<u16> = 30_000..32_000;

/// A port nobody listens on, and that was not given before.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = PORTS.start + GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(PORTS.contains(&port), "no port of {PORTS:?} is free");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Makes `to` a copy of `from`.
pub fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).ok();
    std::fs::create_dir_all(to).expect("a directory for the copy");
    for entry in std::fs::read_dir(from).expect("the files can be read") {
        let path = entry.expect("the files can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("the file can be copied");
        }
    }
}
