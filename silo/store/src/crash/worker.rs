//! The working process, seen from the test that stops it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Draw;

/// How long a process may take to say something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running one.
pub struct Worker {
    process: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Worker {
    /// Starts one on a directory.
    pub fn start(dir: &Path) -> Worker {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::working_process", "--nocapture"])
            .env("GRANARY_CRASH_DIR", dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Worker { process, lines }
    }

    /// Takes in what it has said so far.
    pub fn heard(&self, acked: &mut [u64]) {
        for line in self.lines.try_iter() {
            note(&line, acked);
        }
    }

    /// Waits until it has acknowledged a commit.
    pub fn commits(&self, acked: &mut [u64]) {
        while !note(&self.lines.recv_timeout(PATIENCE).expect("it commits"), acked) {}
    }

    /// Kills it and takes in whatever it said before it died.
    pub fn die(mut self, acked: &mut [u64]) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            note(&line, acked);
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

/// Whether the line acknowledges a commit; notes it.
fn note(line: &str, acked: &mut [u64]) -> bool {
    if let ["ack", slot, n] = line.split(' ').collect::<Vec<_>>()[..] {
        acked[slot.parse::<usize>().unwrap()] = n.parse().unwrap();
        return true;
    }
    false
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Files the process has open for writing.
fn open_for_writing(process: u32) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(links) = fs::read_dir(format!("/proc/{process}/fd")) else { return files };
    for link in links.flatten() {
        let number = link.file_name();
        let state = fs::read_to_string(format!("/proc/{process}/fdinfo/{}", number.to_string_lossy()));
        let flags = state.unwrap_or_default();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:\t").map(str::to_owned));
        let mode = flags.and_then(|flags| i64::from_str_radix(&flags, 8).ok()).unwrap_or(0) & 3;
        if mode > 0
            && let Ok(path) = fs::read_link(link.path())
        {
            files.push(path);
        }
    }
    files
}

/// Whether every thread of the process stands still: one may still be syncing.
fn is_stopped(process: u32) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.all(|thread| {
        let stat = thread.and_then(|thread| fs::read_to_string(thread.path().join("stat")));
        stat.is_ok_and(|stat| stat.contains(") T "))
    })
}

/// Whether the file is `current`, which comes into being by renaming a synced file, or the list of tables that
/// `current` names: the engine keeps both open for a moment after it has synced them.
pub fn is_current(file: &Path) -> bool {
    if file.ends_with("current") {
        return true;
    }
    let named = fs::read(file.with_file_name("current")).ok().and_then(|bytes| bytes.first_chunk().copied());
    named.is_some_and(|id| file.ends_with(format!("v{}", u64::from_le_bytes(id))))
}

/// Stops the process, if possible while it writes a table. Returns the files it has open for writing.
pub fn freeze(worker: &Worker, live: &Path, draw: &mut Draw) -> Vec<PathBuf> {
    const TRIES: usize = 6;
    let id = worker.process.id();
    std::thread::sleep(Duration::from_millis(draw.below(120)));
    for attempt in 1.. {
        std::thread::sleep(Duration::from_micros(draw.below(8_000)));
        worker.signal("-STOP");
        while !is_stopped(id) {
            std::thread::yield_now();
        }
        let mut files = open_for_writing(id);
        files.retain(|file| file.starts_with(live) && !file.ends_with("lock") && file.exists());
        if attempt == TRIES || files.iter().any(|file| file.extension().is_none_or(|e| e != "jnl")) {
            return files;
        }
        worker.signal("-CONT");
    }
    unreachable!("it returns at the last try")
}
