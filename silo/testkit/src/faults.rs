//! A store that fails, forgets to answer, or waits, as told. It hands everything else on. What its life's producers at the
//! log suffer is told here, too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use granary_cluster::port::Done;
use granary_cluster::{CommitNo, Lookup, Outbox, Reply, RunId, Script, SlotRecord, Store};
use granary_core::{Error, ErrorKind, Result, SlotId};

/// What happens to one batch of scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is carried out, and the store says that it does not know.
    Refused,
    /// Everything is carried out, and the answer is lost: the store says that it does not know.
    AnswerLost,
}

/// What happens to one transaction of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndFault {
    /// It is committed, and the producer does not know.
    ReplyLost,
    /// Its end never arrives: it stays open.
    RequestLost,
    /// It is taken back before its end.
    Aborted,
}

type Held = (Done, Result<Vec<Reply>>);

/// The faults of one store.
pub struct Faults {
    store: Arc<dyn Store>,
    commit_faults: Mutex<VecDeque<Fault>>,
    reads_to_fail: AtomicU64,
    holds_answers: AtomicBool,
    held: Mutex<Vec<Held>>,
    is_cut_off: AtomicBool,
    is_away: AtomicBool,
    loses_commits: AtomicBool,
    commits_left: AtomicU64,
    written: Mutex<Vec<Vec<String>>>,
    commits: AtomicU64,
    sendings: AtomicU64,
    loads: AtomicU64,
    trips: AtomicU64,
    ends: Mutex<VecDeque<EndFault>>,
    log_delay_ms: AtomicU64,
    read_delay_ms: AtomicU64,
    holds_reads: AtomicBool,
    holds_log: AtomicBool,
    dies_at: Mutex<Option<(String, u64)>>,
}

impl Faults {
    /// A faultless store, so far.
    pub fn of(store: Arc<dyn Store>) -> Arc<Faults> {
        Arc::new(Faults {
            store,
            commit_faults: Mutex::default(),
            reads_to_fail: AtomicU64::new(0),
            holds_answers: AtomicBool::new(false),
            held: Mutex::default(),
            is_cut_off: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            loses_commits: AtomicBool::new(false),
            commits_left: AtomicU64::new(u64::MAX),
            written: Mutex::default(),
            commits: AtomicU64::new(0),
            sendings: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            trips: AtomicU64::new(0),
            ends: Mutex::default(),
            log_delay_ms: AtomicU64::new(0),
            read_delay_ms: AtomicU64::new(0),
            holds_reads: AtomicBool::new(false),
            holds_log: AtomicBool::new(false),
            dies_at: Mutex::default(),
        })
    }

    /// The next batches with a commit suffer these faults, one each.
    pub fn next_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        locked(&self.commit_faults).extend(faults);
    }

    /// Whether all planted faults have happened.
    pub fn are_spent(&self) -> bool {
        locked(&self.commit_faults).is_empty() && self.reads_to_fail.load(Ordering::SeqCst) == 0
    }

    /// The next so many reads of cells fail. What a slot reads as it opens does not count: slots open in the background,
    /// and would take the fault away from the turn it is meant for.
    pub fn next_reads(&self, n: u64) {
        self.reads_to_fail.store(n, Ordering::SeqCst);
    }

    /// The store cannot be reached: every read and write fails until it is back.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// From now on commits get lost on their way and are never answered; slots can still be taken.
    pub fn lose_commits(&self) {
        self.loses_commits.store(true, Ordering::SeqCst);
    }

    /// The commits with cells whose keys start with `prefix`: those keys, sorted, for each commit.
    pub fn commits_with(&self, prefix: &str) -> Vec<Vec<String>> {
        let written = locked(&self.written);
        let matching = written.iter().map(|cells| {
            let mut keys: Vec<String> = cells.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            keys.sort();
            keys
        });
        matching.filter(|keys| !keys.is_empty()).collect()
    }

    fn note_written(&self, scripts: &[Script]) {
        let commits = scripts.iter().filter_map(|script| match script {
            Script::Commit(commit) => Some(commit),
            _ => None,
        });
        let keys = commits
            .map(|c| c.cells.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect());
        locked(&self.written).extend(keys);
    }

    /// From now on scripts are carried out, but their answers wait for [`Faults::release`].
    pub fn hold_answers(&self) {
        self.holds_answers.store(true, Ordering::SeqCst);
    }

    /// How many answers wait.
    pub fn held(&self) -> usize {
        locked(&self.held).len()
    }

    /// Lets the answers leave, and holds no more.
    pub fn release(&self) {
        self.holds_answers.store(false, Ordering::SeqCst);
        let held = std::mem::take(&mut *locked(&self.held));
        for (done, replies) in held {
            done(replies);
        }
    }

    /// The process as the store sees it has died: nothing is carried out or answered any more.
    pub fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::SeqCst);
    }

    /// Cuts the process off after so many batches with a commit: the last one is carried out and not answered.
    pub fn cut_off_after(&self, commits: u64) {
        self.commits_left.store(commits, Ordering::SeqCst);
    }

    /// Whether the process is cut off.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::SeqCst)
    }

    /// Batches with a commit that were carried out.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Batches with a commit that were sent.
    pub fn sendings(&self) -> u64 {
        self.sendings.load(Ordering::SeqCst)
    }

    /// Cells that were looked up.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    /// Round trips of looking cells up.
    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }

    /// The next transactions end like this, one each.
    pub fn next_ends(&self, faults: impl IntoIterator<Item = EndFault>) {
        locked(&self.ends).extend(faults);
    }

    /// For the producer: what happens to its next transaction.
    pub fn next_end(&self) -> Option<EndFault> {
        locked(&self.ends).pop_front()
    }

    /// Every transaction takes so much longer.
    pub fn set_log_delay(&self, delay: Duration) {
        self.log_delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Every read of the store takes so much longer.
    pub fn set_read_delay(&self, delay: Duration) {
        self.read_delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Every read of the store waits, until this is taken back.
    pub fn set_reads_held(&self, are_held: bool) {
        self.holds_reads.store(are_held, Ordering::SeqCst);
    }

    /// Every transaction waits before it begins, until this is taken back.
    pub fn set_log_held(&self, is_held: bool) {
        self.holds_log.store(is_held, Ordering::SeqCst);
    }

    /// For the producer: a transaction waits as long as it is told to.
    pub fn wait_for_log(&self) {
        std::thread::sleep(Duration::from_millis(self.log_delay_ms.load(Ordering::SeqCst)));
        self.wait_while(&self.holds_log);
    }

    fn wait_while(&self, held: &AtomicBool) {
        while held.load(Ordering::SeqCst) && !self.is_cut_off() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The process dies at the `passing`-th passing of this point: of the store's `commit` and `trim`, of the log's
    /// `fence`, `begin`, `send`, `markers` and `end`.
    pub fn die_at(&self, point: &str, passing: u64) {
        *locked(&self.dies_at) = Some((point.to_string(), passing));
    }

    /// Whether the process lives on behind this point.
    pub fn passes(&self, point: &str) -> bool {
        let mut dies_at = locked(&self.dies_at);
        if let Some((_, left)) = dies_at.as_mut().filter(|(at, _)| *at == point) {
            *left -= 1;
            if *left == 0 {
                *dies_at = None;
                self.cut_off();
            }
        }
        !self.is_cut_off()
    }

    fn pass_all(&self, scripts: &[Script], commit: &str, trim: &str) -> bool {
        let has = |of: fn(&Script) -> bool| scripts.iter().any(of);
        (!has(|script| matches!(script, Script::Commit(_))) || self.passes(commit))
            && (!has(|script| matches!(script, Script::Trim { .. })) || self.passes(trim))
    }

    fn read(&self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(self.read_delay_ms.load(Ordering::SeqCst)));
        self.wait_while(&self.holds_reads);
        if self.is_away.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
    }

    fn read_cells(&self, count: u64) -> Result<()> {
        self.loads.fetch_add(count, Ordering::SeqCst);
        self.trips.fetch_add(1, Ordering::SeqCst);
        self.read()?;
        let failing =
            self.reads_to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if failing.is_ok() { Err(unavailable()) } else { Ok(()) }
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "injected: the store cannot be reached")
}

impl Store for Faults {
    fn submit(&self, scripts: Vec<Script>, done: Done) {
        if self.is_cut_off.load(Ordering::SeqCst) {
            return;
        }
        if self.is_away.load(Ordering::SeqCst) {
            return done(Err(unavailable()));
        }
        let has_commit = scripts.iter().any(|script| matches!(script, Script::Commit(_)));
        if has_commit && self.loses_commits.load(Ordering::SeqCst) {
            return;
        }
        let fault = if has_commit { locked(&self.commit_faults).pop_front() } else { None };
        self.sendings.fetch_add(u64::from(has_commit), Ordering::SeqCst);
        if fault == Some(Fault::Refused) {
            return done(Err(unavailable()));
        }
        if !self.pass_all(&scripts, "commit.before", "trim.before") {
            return;
        }
        self.commits.fetch_add(u64::from(has_commit), Ordering::SeqCst);
        self.note_written(&scripts);
        let sent = scripts.clone();
        let (answered, answer) = std::sync::mpsc::channel();
        self.store.submit(scripts, Box::new(move |replies| drop(answered.send(replies))));
        let replies = answer.recv().unwrap_or_else(|_| Err(unavailable()));
        if !self.pass_all(&sent, "commit.after", "trim.after") {
            return;
        }
        if has_commit && self.commits_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            return self.cut_off();
        }
        if fault == Some(Fault::AnswerLost) {
            return done(Err(unavailable()));
        }
        if self.holds_answers.load(Ordering::SeqCst) {
            return locked(&self.held).push((done, replies));
        }
        done(replies);
    }

    fn record(&self, slot: SlotId) -> Result<SlotRecord> {
        self.read()?;
        self.store.record(slot)
    }

    fn load(&self, slot: SlotId, cell: &[u8], value: &mut Vec<u8>) -> Result<Lookup> {
        self.read_cells(1)?;
        self.store.load(slot, cell, value)
    }

    fn load_many(
        &self,
        cells: &[(SlotId, Vec<u8>)],
        each: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.read_cells(cells.len() as u64)?;
        self.store.load_many(cells, each)
    }

    fn outbox(&self, slot: SlotId) -> Result<Vec<(CommitNo, Arc<Outbox>)>> {
        self.read()?;
        self.store.outbox(slot)
    }

    fn scan(
        &self,
        slot: SlotId,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.read()?;
        self.store.scan(slot, prefix, after, each)
    }

    fn run(&self) -> RunId {
        self.store.run()
    }
}
