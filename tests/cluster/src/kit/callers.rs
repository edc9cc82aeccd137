//! Callers of a cluster whose every call is written down, to be judged at the end: is there an order of them that explains
//! all answers?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use granary_client::Client;
use granary_core::call::Options;
use granary_core::{Error, GrainId, Ran, Span, codec};
use granary_history::{Counter, CounterInput, History, Outcome, Recorder, VISITED_STATES, Verdict, check};

/// Errors that are shown.
const ERRORS_SHOWN: usize = 20;

/// How they call.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub callers: u64,
    pub grains: u64,
    /// Between two calls of a caller.
    pub pause: Duration,
    pub timeout: Span,
    /// Every write has an idempotency key, so the client repeats it until it is answered.
    pub is_keyed: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        let pause = Duration::from_millis(5);
        Manner { callers: 8, grains: 24, pause, timeout: Span(20_000), is_keyed: false }
    }
}

/// Callers at work.
pub struct Callers {
    stop: Arc<AtomicBool>,
    book: Arc<Book>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Book {
    calls: Recorder<u64, CounterInput, u64>,
    answered: AtomicU64,
    failed: Mutex<Vec<Error>>,
}

/// What became of the calls.
pub struct Calls {
    pub history: History<u64, CounterInput, u64>,
    pub answered: u64,
    pub failed: Vec<Error>,
}

impl Callers {
    /// Begins to call.
    pub fn begin(addresses: &str, manner: Manner) -> Callers {
        let (stop, book): (Arc<AtomicBool>, Arc<Book>) = Default::default();
        let (to, told, notes) = (addresses.to_owned(), stop.clone(), book.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let client = Client::connect(to).await.expect("a silo listens");
                let mut tasks = tokio::task::JoinSet::new();
                for caller in 0..manner.callers {
                    tasks.spawn(call(client.clone(), caller, manner, told.clone(), notes.clone()));
                }
                while let Some(done) = tasks.join_next().await {
                    done.expect("callers do not panic");
                }
            });
        });
        Callers { stop, book, thread }
    }

    /// How many calls were answered so far.
    pub fn answered(&self) -> u64 {
        self.book.answered.load(Ordering::SeqCst)
    }

    /// Ends when every call that was begun has ended.
    pub fn end(self) -> Calls {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("callers do not panic");
        let failed = self.book.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Calls {
            history: self.book.calls.history(),
            answered: self.book.answered.load(Ordering::SeqCst),
            failed,
        }
    }
}

impl Calls {
    /// Every answer is explained by some order of the calls: none lost, none twice, no stale read.
    #[track_caller]
    pub fn must_be_linearizable(&self) {
        let verdict = self.verdict();
        assert!(verdict.is_linearizable(), "of {} answered calls: {verdict}", self.answered);
        println!("{} calls answered, {} failed, linearizable", self.answered, self.failed.len());
    }

    /// Whether some order of the calls explains every answer.
    pub fn verdict(&self) -> Verdict<u64, CounterInput, u64> {
        check::<Counter, _>(&self.history, VISITED_STATES)
    }

    /// No caller has seen an error.
    #[track_caller]
    pub fn must_not_have_failed(&self) {
        let shown = &self.failed[..self.failed.len().min(ERRORS_SHOWN)];
        assert!(shown.is_empty(), "{} calls failed of {}: {shown:#?}", self.failed.len(), self.answered);
    }
}

async fn call(client: Client, caller: u64, manner: Manner, stop: Arc<AtomicBool>, book: Arc<Book>) {
    let mut n = 0u64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let which = (caller.wrapping_mul(7_919) + n) % manner.grains;
        let grain = GrainId::parse(&format!("Counter/h-{which}")).expect("a grain");
        let amount = n * manner.callers + caller + 1; // no two are equal
        let is_read = n.is_multiple_of(4);
        let input = if is_read { CounterInput::Read } else { CounterInput::Add(amount) };
        let (method, argument) = if is_read {
            ("total", Vec::new())
        } else {
            ("add", codec::to_bytes(&amount).expect("a number"))
        };
        let keyed = !is_read && (manner.is_keyed || n.is_multiple_of(2));
        let options = Options {
            timeout: Some(manner.timeout),
            idempotency_key: keyed.then(|| format!("{caller}-{n}").into()),
            ..Options::default()
        };
        let token = book.calls.begin(caller, which, input);
        let answer = client.call(&grain, method, &argument, options).await;
        let outcome = match answer.and_then(|bytes| codec::from_bytes::<u64>(&bytes)) {
            Ok(total) => {
                book.answered.fetch_add(1, Ordering::SeqCst);
                Outcome::Answered(total)
            }
            Err(error) => {
                let ran = error.did_run();
                book.failed.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                if ran == Some(Ran::No) { Outcome::NotRun } else { Outcome::Unknown }
            }
        };
        book.calls.end(token, outcome);
        tokio::time::sleep(manner.pause).await;
    }
}
