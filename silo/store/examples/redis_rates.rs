//! What the store on Redis does in a second: `cargo run --release -p granary-store --example redis_rates`.
//!
//! It starts a `redis-server` of its own with `appendfsync always` in a temporary directory. Two lanes of 48 slots
//! each; a lane submits the due slots as one batch and waits for the answers, as the engine does. CPU is that of the
//! server's process and of this one, from the kernel's clock ticks (10 ms).

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use granary_cluster::{Commit, Script, Store, Verdict};
use granary_core::{Result, SlotId};
use granary_store::conformance::{Owner, acquire, commit};
use granary_store::{Redis, RedisOptions};

const LANES: u16 = 2;
const SLOTS: u16 = 96;
const CELL: [u8; 90] = [7; 90];
const STAGE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("granary-redis-rates-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
    let (mut server, port) = start(&dir);
    let outcome = measure(server.id(), port);
    server.kill().expect("the server was started here");
    server.wait().expect("the server was started here");
    std::fs::remove_dir_all(&dir).expect("the directory was made here");
    outcome
}

fn start(dir: &Path) -> (Child, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        .args(["--auto-aof-rewrite-percentage", "0", "--port", &port.to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is in PATH");
    (server, port)
}

fn measure(pid: u32, port: u16) -> Result<()> {
    let options =
        || RedisOptions::new(format!("redis://127.0.0.1:{port}"), "rates", SLOTS).connections(LANES);
    let started = Instant::now();
    let store = loop {
        match Redis::open(options()) {
            Ok(store) => break store,
            Err(error) if started.elapsed() > Duration::from_secs(10) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let owners: Vec<Owner> = (0..SLOTS).map(|slot| acquire(&*store, SlotId(slot), 1)).collect();
    let mut next = vec![1; usize::from(SLOTS)];
    println!(
        "{:<40}{:>11}{:>12}{:>13}{:>13}{:>12}",
        "", "a second", "cells/s", "server us", "server us", "silo us"
    );
    println!("{:<40}{:>11}{:>12}{:>13}{:>13}{:>12}", "", "", "", "a commit", "a cell", "a cell");
    for cells in [1, 50, 500] {
        for due in [1, 48] {
            commits(&store, pid, &owners, &mut next, cells, due);
        }
    }
    deletions(&store, pid, &owners, &mut next);
    loads(&store, pid)
}

/// Commits of so many cells, so many slots of a lane at a time.
fn commits(store: &Arc<Redis>, pid: u32, owners: &[Owner], next: &mut [u64], cells: usize, due: usize) {
    let stage = Stage::start(pid);
    let done: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = next
            .chunks_mut(usize::from(SLOTS / LANES))
            .enumerate()
            .map(|(lane, next)| {
                scope.spawn(move || {
                    let first = lane * usize::from(SLOTS / LANES);
                    let since = Instant::now();
                    let mut done = 0;
                    while since.elapsed() < STAGE {
                        let made = (0..due).map(|i| {
                            let slot = (done + i) % next.len();
                            let made = full(first + slot, owners[first + slot], next[slot], cells);
                            next[slot] += 1;
                            made
                        });
                        submit(store, made.collect());
                        done += due;
                    }
                    done
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane ends")).sum()
    });
    stage.end(&format!("commits of {cells} cells, {due} slots at a time"), done, done * cells);
}

/// Commits that write 250 panes and delete the 250 of the commit before.
fn deletions(store: &Arc<Redis>, pid: u32, owners: &[Owner], next: &mut [u64]) {
    let stage = Stage::start(pid);
    let since = Instant::now();
    let mut done = 0;
    while since.elapsed() < STAGE {
        let made = (0..48usize).map(|slot| {
            let mut made = commit(SlotId(slot as u16), owners[slot], next[slot], &[]);
            for i in 0..250u64 {
                made.cells.put(|k| k.extend(pane(i, next[slot])), |v| v.extend(CELL));
                made.cells.delete(|k| k.extend(pane(i, next[slot] - 1)));
            }
            next[slot] += 1;
            made
        });
        submit(store, made.collect());
        done += 48;
    }
    stage.end("commits of 250 writes, 250 deletions", done, done * 500);
}

/// Cold cells, in batches.
fn loads(store: &Arc<Redis>, pid: u32) -> Result<()> {
    for batch in [1usize, 100, 4_000] {
        let stage = Stage::start(pid);
        let since = Instant::now();
        let (mut done, mut found) = (0usize, 0usize);
        while since.elapsed() < STAGE {
            let asked: Vec<(SlotId, Vec<u8>)> = (0..batch)
                .map(|i| {
                    (SlotId(((done + i) % usize::from(SLOTS)) as u16), pane(((done + i) % 500) as u64, 0))
                })
                .collect();
            store.load_many(&asked, &mut |_, value| found += usize::from(value.is_some()))?;
            done += batch;
        }
        assert!(found * 10 > done * 9, "{found} of {done} cells were there");
        stage.end(&format!("loads of {batch} cells, one thread"), done / batch, done);
    }
    Ok(())
}

fn full(slot: usize, owner: Owner, n: u64, cells: usize) -> Commit {
    let mut made = commit(SlotId(slot as u16), owner, n, &[]);
    for i in 0..cells as u64 {
        made.cells.put(|k| k.extend(pane(i, 0)), |v| v.extend(CELL));
    }
    made
}

fn pane(device: u64, start: u64) -> Vec<u8> {
    format!("w/d-{device:08}/cat-1/{start:08}").into_bytes()
}

fn submit(store: &Arc<Redis>, commits: Vec<Commit>) {
    let (tell, told) = channel();
    let scripts = commits.into_iter().map(|commit| Script::Commit(Arc::new(commit))).collect();
    // The measuring thread waits for it.
    store.submit(scripts, Box::new(move |replies| drop(tell.send(replies))));
    let replies = told.recv().expect("an answer").expect("the server is there");
    assert!(replies.iter().all(|reply| reply.verdict == Verdict::Done));
}

/// A stretch of time with the CPU spent in it.
struct Stage {
    pid: u32,
    since: Instant,
    server: f64,
    silo: f64,
}

impl Stage {
    fn start(pid: u32) -> Stage {
        Stage { pid, since: Instant::now(), server: cpu_us(pid), silo: cpu_us(std::process::id()) }
    }

    fn end(self, what: &str, commits: usize, cells: usize) {
        let seconds = self.since.elapsed().as_secs_f64();
        let server = cpu_us(self.pid) - self.server;
        let silo = cpu_us(std::process::id()) - self.silo;
        let (commits, cells) = (commits as f64, cells as f64);
        println!(
            "{what:<40}{:>11.0}{:>12.0}{:>13.1}{:>13.2}{:>12.2}",
            commits / seconds,
            cells / seconds,
            server / commits,
            server / cells,
            silo / cells
        );
    }
}

/// CPU time of a process so far.
fn cpu_us(pid: u32) -> f64 {
    const TICK_US: f64 = 10_000.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let after_name = stat.rsplit(") ").next().expect("a name in parentheses");
    let fields: Vec<f64> = after_name.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) * TICK_US
}
