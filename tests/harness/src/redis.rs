//! A `redis-server` of the `PATH`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::process::{Server, free_port, new_dir};

/// Keeps every acknowledged write, and refuses rather than forgets: what a silo asks of Redis.
const DURABLE: [(&str, &str); 4] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction"), ("save", "")];

/// A Redis server; ends with this value.
pub struct Redis {
    server: Mutex<Server>,
    port: u16,
    dir: PathBuf,
}

impl Redis {
    /// One that keeps every acknowledged write.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// One with these settings besides; a later setting of a name counts.
    pub fn start_with(settings: &[(&str, &str)]) -> Redis {
        let port = free_port();
        let dir = new_dir("redis");
        let mut command = vec!["redis-server".to_owned()];
        let mut set = |name: &str, value: &str| command.extend([format!("--{name}"), value.to_owned()]);
        set("port", &port.to_string());
        set("bind", "127.0.0.1");
        set("dir", &dir.to_string_lossy());
        for (name, value) in DURABLE.iter().chain(settings) {
            set(name, value);
        }
        let server = Mutex::new(Server::new("redis-server", dir.clone(), command));
        let redis = Redis { server, port, dir };
        redis.restart();
        redis
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As a silo's configuration names it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// The process.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it at once (SIGKILL); its data stays.
    pub fn kill(&self) {
        self.server().kill();
    }

    /// Asks it to end and waits until it has; its data stays.
    pub fn terminate(&self) {
        self.server().terminate();
    }

    /// Its answer to a command, as `redis-cli` prints it.
    pub fn says(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(command).output();
        let output = output.expect("redis-cli is there where redis-server is");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A copy of its files as they are now: what a server that lost its last writes would start with.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a directory can be made");
        copy_files(&self.files(), copy.path());
        copy
    }

    /// Puts an older copy in place of its files. It must not run.
    pub fn put_back(&self, copy: &tempfile::TempDir) {
        std::fs::remove_dir_all(self.files()).expect("its files can be removed");
        copy_files(copy.path(), &self.files());
    }

    fn files(&self) -> PathBuf {
        self.dir.join("appendonlydir")
    }

    /// Starts it again on the same port and data, and waits until it answers.
    pub fn restart(&self) {
        let port = self.port;
        self.server().start(|_| answers(port));
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for file in std::fs::read_dir(from).expect("a directory of files").map_while(Result::ok) {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}
