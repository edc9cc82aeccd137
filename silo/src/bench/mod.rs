//! `granary bench`: figures of this machine, as a person and a program can read them.
//!
//! | module | measures |
//! |---|---|
//! | `grains` | turns in a slot, calls between lanes, activations, memory of idle grains |
//! | `streams` | windows from a log to a log, beside reading and decoding alone |
//! | `servers` | the same from Kafka to Kafka with state in Redis, beside reading the topic alone |
//! | `latency` | how long an alert takes from record to reader, from Kafka to Kafka |
//! | `floor` | what Redis and Kafka alone take of that |
//! | `calls` | calls from another process: reads, durable writes, grains met cold |
//! | `callers` | the program that calls |
//! | `failover` | how long outputs and calls pause when a silo is killed, or gives its slots |
//! | `rules` | rules in a silo from a log to a log, and an event of a hot key |
//! | `rolling` | whether callers notice that all silos are restarted, one after the other |
//! | `webhooks` | how long after an alert is on its topic its webhook arrives |
//! | `silos` | silos as processes, for those that measure from outside |
//! | `load` | the messages of both |

mod callers;
pub mod calls;
pub mod failover;
pub mod floor;
pub mod grains;
pub mod latency;
mod load;
pub mod rolling;
pub mod rules;
pub mod servers;
pub mod silos;
pub mod streams;
pub mod webhooks;

use std::path::PathBuf;
use std::time::Instant;

use granary_core::Result;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What was done, for the reader.
    pub note: String,
}

/// Tells the median and what 99 % and 99.9 % stayed below, of some milliseconds.
pub(crate) fn tell_lengths(name: &str, mut lengths: Vec<f64>, note: &str, tell: &mut impl FnMut(&Figure)) {
    lengths.sort_unstable_by(f64::total_cmp);
    let Some(last) = lengths.len().checked_sub(1) else { return };
    for (part, share) in [("median", 0.5), ("99 %", 0.99), ("99.9 %", 0.999)] {
        let at = ((lengths.len() as f64 * share) as usize).min(last);
        tell(&Figure { name: format!("{name}, {part}"), value: lengths[at], unit: "ms", note: note.into() });
    }
}

/// A measurement under way: wall-clock and processor time since it began. On a machine that others use, too, the
/// processor time is the steadier of the two.
pub(crate) struct Watch {
    began: Instant,
    processor_s: f64,
}

impl Watch {
    pub fn start() -> Watch {
        Watch { began: Instant::now(), processor_s: processor_seconds() }
    }

    /// The same with the clock begun then.
    pub fn from(self, began: Instant) -> Watch {
        Watch { began, ..self }
    }

    /// So many in so long.
    pub fn rate(&self, name: &str, done: u64, note: impl Into<String>) -> Figure {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let each_us = (processor_seconds() - self.processor_s) * 1e6 / done.max(1) as f64;
        let note = format!("{}; {each_us:.2} us of processor each", note.into());
        Figure { name: name.into(), value: done as f64 / seconds, unit: "/s", note }
    }
}

/// Bytes of memory the process holds.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4_096
}

/// Seconds of processor time the process has used.
pub fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// A directory that goes when the measurement is over.
pub(crate) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn make(name: &str) -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("granary-bench-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(|e| crate::run::unwritable(&path, &e))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
