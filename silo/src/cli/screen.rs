//! What a person, or a program, sees of a command: progress on a terminal, plain lines when piped, JSON on request.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use granary_core::Error;
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// How often a plain progress line is written when nobody watches a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// Logs go to standard error; `GRANARY_LOG` filters them, warnings and worse are shown without it.
pub fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env("GRANARY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // a second start in one process keeps the first one's settings
    let _ = if json {
        logs.json().try_init()
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
}

/// Prints a line of the answer. When whoever reads it has gone the command ends: nobody wants the rest.
pub fn say(line: std::fmt::Arguments<'_>) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Tells an error.
pub fn error(error: &Error, json: bool) {
    if json {
        let row = serde_json::json!({
            "error": error.kind().name(),
            "code": error.kind().code(),
            "message": error.message(),
        });
        say(format_args!("{row}"));
    } else if error.message().contains('\n') {
        // a list of mistakes: the code of the page stands before it, not behind the last of them
        eprintln!("{} ({}): {}", error.kind().name(), error.kind().code(), error.message());
    } else {
        eprintln!("{error}");
    }
}

/// Progress in records: a bar or spinner on a terminal, plain lines elsewhere, nothing for programs.
pub struct Meter {
    what: &'static str,
    bar: Option<ProgressBar>,
    is_quiet: bool,
    began: Instant,
    told: Instant,
}

impl Meter {
    /// Begins.
    pub fn begin(what: &'static str, json: bool) -> Meter {
        let on_terminal = std::io::stderr().is_terminal() && !json;
        let bar = on_terminal.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Meter { what, bar, is_quiet: json, began: Instant::now(), told: Instant::now() }
    }

    /// So many are done.
    pub fn at(&mut self, done: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let text =
            format!("{}: {done} in {seconds:.1} s, {:.0}/s", self.what, done as f64 / seconds.max(0.001));
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if !self.is_quiet && self.told.elapsed() >= PLAIN_EVERY {
            self.told = Instant::now();
            eprintln!("{text}");
        }
    }

    /// The end.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
