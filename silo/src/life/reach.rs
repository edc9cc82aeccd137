//! Whether a silo reaches the log: asked now and then by a thread of its own, since an answer may take long.
//!
//! It asks for itself, whatever the lanes do: a silo without outputs would not notice for long that it could not publish
//! any.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use granary_core::{Error, ErrorKind, Result, Span};
use granary_kafka::KafkaLog;

/// It is asked so often, at the least and at the most.
const ASK_EVERY_MIN: Duration = Duration::from_millis(100);
const ASK_EVERY_MAX: Duration = Duration::from_secs(2);
/// An answer may take so long, at the least and at the most.
const ANSWER_MIN: Duration = Duration::from_millis(250);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Whether the log answers.
pub struct Reach(Arc<AtomicBool>);

impl Reach {
    /// Begins to ask, often enough for a silo that may be without the log for so long. The thread ends soon after this is
    /// dropped.
    pub fn watch(kafka: Arc<KafkaLog>, away_max: Span) -> Result<Reach> {
        let away_max = Duration::from(away_max);
        let every = (away_max / 8).clamp(ASK_EVERY_MIN, ASK_EVERY_MAX);
        let within = (away_max / 4).clamp(ANSWER_MIN, ANSWER_MAX);
        let reaches = Arc::new(AtomicBool::new(true));
        let told = Arc::downgrade(&reaches);
        let thread = std::thread::Builder::new().name("reach-log".into());
        let spawned = thread.spawn(move || ask(&kafka, &told, every, within));
        spawned.map_err(|e| {
            Error::new(ErrorKind::Unavailable, format!("the thread that asks the log cannot be started: {e}"))
        })?;
        Ok(Reach(reaches))
    }

    /// Whether it answered when it was asked last.
    pub fn reaches(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn ask(kafka: &KafkaLog, told: &Weak<AtomicBool>, every: Duration, within: Duration) {
    while told.strong_count() > 0 {
        let answered = kafka.is_reachable(within);
        let Some(told) = told.upgrade() else { return };
        let reached = told.swap(answered.is_ok(), Ordering::Relaxed);
        match answered {
            Err(error) if reached => tracing::warn!(%error, "the log does not answer"),
            Ok(()) if !reached => tracing::info!("the log answers again"),
            _ => {}
        }
        drop(told);
        std::thread::sleep(every);
    }
}
