//! The watchdog: a turn that holds its lane cannot be ended from within, so a thread beside it ends the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use granary_core::Span;

use crate::mailbox::Mailbox;

/// The exit code of a process that a stuck turn ended.
pub const EXIT_STUCK: i32 = 70;

/// Bytes of a grain's key that a report shows.
const NAME_BYTES: usize = 96;
const WORDS: usize = NAME_BYTES / 8;

/// What the lane is at, written with plain stores so that it costs a turn next to nothing.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Odd while something runs; one more at each begin and end.
    beat: AtomicU64,
    name: [AtomicU64; WORDS],
    name_len: AtomicU64,
    /// Source, partition and offset of the record being applied.
    source: AtomicU64,
    partition: AtomicU64,
    offset: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse {
            beat: AtomicU64::new(0),
            name: [const { AtomicU64::new(0) }; WORDS],
            name_len: AtomicU64::new(0),
            source: AtomicU64::new(u64::MAX),
            partition: AtomicU64::new(0),
            offset: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// A turn of `kind/key.method` begins.
    pub fn turn_begins(&self, kind: &str, key: &str, method: &str) {
        let mut name = [0_u8; NAME_BYTES];
        let mut len = 0;
        for part in [kind.as_bytes(), b"/", key.as_bytes(), b".", method.as_bytes()] {
            let take = part.len().min(NAME_BYTES - len);
            name[len..len + take].copy_from_slice(&part[..take]);
            len += take;
        }
        self.begins(&name[..len.next_multiple_of(8)], len);
    }

    /// The pipeline begins with what `name` says, padded with blanks to a multiple of eight bytes.
    pub fn step_begins(&self, name: &[u8]) {
        self.begins(name, name.len());
    }

    #[inline]
    fn begins(&self, name: &[u8], len: usize) {
        for (word, bytes) in self.name.iter().zip(name.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().expect("chunks of eight")), Ordering::Relaxed);
        }
        self.name_len.store(len as u64, Ordering::Relaxed);
        self.beats();
    }

    /// What began has ended.
    pub fn turn_ends(&self) {
        self.beats();
    }

    /// Only the lane writes, so it need not add atomically, which would make the processor wait for all it has under
    /// way in memory.
    fn beats(&self) {
        self.beat.store(self.beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// A record is about to be applied.
    pub fn record(&self, source: u16, partition: u32, offset: u64) {
        self.source.store(u64::from(source), Ordering::Relaxed);
        self.partition.store(u64::from(partition), Ordering::Relaxed);
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// No record is being applied.
    pub fn no_record(&self) {
        self.source.store(u64::MAX, Ordering::Relaxed);
    }

    fn running(&self) -> Option<u64> {
        let beat = self.beat.load(Ordering::Acquire);
        (beat % 2 == 1).then_some(beat)
    }

    /// What it is at, for a person.
    fn describe(&self) -> String {
        let mut bytes = Vec::with_capacity(NAME_BYTES);
        for word in &self.name {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes.truncate(self.name_len.load(Ordering::Relaxed) as usize);
        let name = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let source = self.source.load(Ordering::Relaxed);
        if source == u64::MAX {
            return name;
        }
        let (partition, offset) =
            (self.partition.load(Ordering::Relaxed), self.offset.load(Ordering::Relaxed));
        format!("{name} (record: source {source}, partition {partition}, offset {offset})")
    }
}

/// Watches lanes until they are gone. `ended` is called with a report when a turn held its lane for `turn_max`.
pub(crate) fn watch(lanes: &[Arc<Mailbox>], silo: String, turn_max: Span, ended: fn(&str)) {
    let lanes: Vec<Weak<Mailbox>> = lanes.iter().map(Arc::downgrade).collect();
    let limit = Duration::from(turn_max);
    let pause = (limit / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let body = move || {
        let mut seen: Vec<(Option<u64>, Instant)> = vec![(None, Instant::now()); lanes.len()];
        loop {
            std::thread::sleep(pause);
            let mut alive = false;
            for (i, (lane, seen)) in lanes.iter().zip(&mut seen).enumerate() {
                let Some(lane) = lane.upgrade() else { continue };
                alive = true;
                let beat = lane.pulse.running();
                if beat.is_none() || beat != seen.0 {
                    *seen = (beat, Instant::now());
                } else if seen.1.elapsed() > limit {
                    let at = lane.pulse.describe();
                    let held = seen.1.elapsed().as_secs_f64();
                    ended(&format!("silo {silo}: lane {i} has been held for {held:.1}s by {at}"));
                }
            }
            if !alive {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("watchdog".into()).spawn(body);
    if let Err(error) = started {
        tracing::error!(%error, "the watchdog thread could not be started: a stuck turn will not be noticed");
    }
}

/// Ends the process: the record, if there is one, counts a try when the slot is taken again.
pub(crate) fn end_process(report: &str) {
    tracing::error!(
        "{report}: ending the process (exit {EXIT_STUCK}); the slot goes on from its last commit"
    );
    eprintln!("{report}: ending the process (exit {EXIT_STUCK}); the slot goes on from its last commit");
    std::process::exit(EXIT_STUCK);
}
