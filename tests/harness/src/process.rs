//! A server process that cannot outlive whoever started it.
//!
//! The server is a child of a small shell that waits for the end of its standard input. That is a pipe held by the test's
//! process, so however that ends, the shell sees it, kills the server and removes its directory.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take until it is ready. Other tests may use the machine at the same time.
const READY_WAIT: Duration = Duration::from_secs(300);

/// How long to wait between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Starts the command, says its process id, waits for a word or the end of input, kills it. Its directory goes unless the
/// word says to keep it.
const SHELL: &str = r#"
dir=$1; shift
trap : TERM INT HUP
"$@" >>"$dir/out.log" 2>&1 </dev/null &
echo $!
read -r word
kill -9 $! 2>/dev/null
wait
[ "$word" = keep ] || rm -rf "$dir"
"#;

/// A server in a directory of its own.
pub struct Server {
    name: &'static str,
    dir: PathBuf,
    command: Vec<String>,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    pid: String,
}

impl Server {
    /// A server that will run `command` in `dir`; what it prints goes to `out.log` there. The directory is removed with it.
    pub(crate) fn new(name: &'static str, dir: PathBuf, command: Vec<String>) -> Server {
        Server { name, dir, command, running: None }
    }

    /// Starts it, unless it runs, and waits until `is_ready`.
    pub(crate) fn start(&mut self, is_ready: impl Fn(&Path) -> bool) {
        if self.running.is_none() {
            let mut shell = Command::new("sh")
                .args(["-c", SHELL, "sh"])
                .arg(&self.dir)
                .args(&self.command)
                .current_dir(&self.dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a shell can be started");
            let mut pid = String::new();
            let out = shell.stdout.as_mut().expect("its output is a pipe");
            BufReader::new(out).read_line(&mut pid).expect("the shell says the process id");
            self.running = Some(Running { shell, pid: pid.trim().to_owned() });
        }
        let deadline = Instant::now() + READY_WAIT;
        while !is_ready(&self.dir) {
            assert!(self.is_alive(), "{} ended while it started:\n{}", self.name, self.output());
            assert!(
                Instant::now() < deadline,
                "{} is not ready after {READY_WAIT:?}:\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it has printed, the last lines of it.
    pub fn output(&self) -> String {
        let text = fs::read(self.dir.join("out.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends it at once (SIGKILL); its data stays for the next start.
    pub(crate) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let mut input = running.shell.stdin.take().expect("its input is a pipe");
        input.write_all(b"keep\n").expect("the shell waits for a word");
        drop(input);
        running.shell.wait().expect("the shell ends");
    }

    /// Asks it to end (SIGTERM) and waits until it has; its data stays for the next start.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
        let deadline = Instant::now() + READY_WAIT;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        self.kill();
    }

    /// Stops it without ending it: its sockets stay open and say nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn is_alive(&self) -> bool {
        // A process that has ended but was not waited for is a zombie: `pid (name) Z ...`.
        self.running.as_ref().is_some_and(|running| {
            fs::read_to_string(format!("/proc/{}/stat", running.pid))
                .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
        })
    }

    fn signal(&self, signal: &str) {
        let running = self.running.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = Command::new("kill").args([&format!("-{signal}"), running.pid.as_str()]).status();
        assert!(status.is_ok_and(|status| status.success()), "{} can be sent SIG{signal}", self.name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.running {
            Some(running) => {
                drop(running.shell.stdin.take());
                let _ = running.shell.wait();
            }
            None => {
                let _ = fs::remove_dir_all(&self.dir);
            }
        }
    }
}

/// A file system in memory, where there is one: servers of tests make and remove thousands of files.
const IN_MEMORY: &str = "/dev/shm";

/// It is used while so much of it is free.
const FREE_MIN_KIB: u64 = 4 << 20;

static IS_ON_DISK: AtomicBool = AtomicBool::new(false);

/// Servers started from now on keep what they have on disk: for who measures them.
pub fn keep_on_disk() {
    IS_ON_DISK.store(true, Ordering::Relaxed);
}

/// A new directory that [`Server`] removes.
pub(crate) fn new_dir(name: &str) -> PathBuf {
    let mut dir = tempfile::Builder::new();
    let prefix = format!("granary-{name}-");
    dir.prefix(&prefix);
    let made = if !IS_ON_DISK.load(Ordering::Relaxed) && has_room(IN_MEMORY) {
        dir.tempdir_in(IN_MEMORY)
    } else {
        dir.tempdir()
    };
    made.expect("a directory can be made").keep()
}

fn has_room(directory: &str) -> bool {
    let asked = Command::new("df").args(["-k", "--output=avail", directory]).output();
    let text = asked.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
    text.lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .is_some_and(|free: u64| free >= FREE_MIN_KIB)
}

/// Ports for servers. Systems give others to connections, mostly from 32768 on: a connection could have one of those before
/// the server that it was meant for, or while that is away.
const PORTS: Range<u16> = 10_000..30_000;

/// A port of loopback that nobody listens at, and that this process was not given before.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let (count, begin) = (u32::from(PORTS.end - PORTS.start), std::process::id().wrapping_mul(97));
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < count, "no port of {PORTS:?} is free");
        let port = PORTS.start + (begin.wrapping_add(given) % count) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
