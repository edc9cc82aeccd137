//! The `granary` command.
//!
//! A program with kinds of its own has the same commands: `granary::cli().host::<Sensor>().run()`.
//!
//! | module | commands |
//! |---|---|
//! | `demo` | demo |
//! | `offline` | run, compare, conformance: files only |
//! | `inject` | inject: into a file or a topic |
//! | `bench` | bench grains, streams, rules, latency, webhooks, calls, failover, rolling |
//! | `online` | silo, call, tail: a silo and its clients |
//! | `operate` | status, slots, drain |
//! | `topics` | topics: what a silo needs in Kafka |
//! | `replay` | replay: set-aside records, again |
//! | `rewind` | rewind: going on further ahead where records are gone |
//! | `rules` | rules check, explain, backtest |
//! | `endpoints` | endpoints add, list, test, rotate, replay, disable, enable, remove: webhooks |
//! | `screen` | what a person sees while they run |
//!
//! Exit codes: 0 yes, 1 the answer is no, 2 usage or configuration, 3 unreachable, 70 a stuck turn ended the process.

/// Prints a line of a command's answer.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::screen::say(format_args!($($part)*)) };
}

mod bench;
mod demo;
mod endpoints;
mod inject;
mod offline;
mod online;
mod operate;
mod replay;
mod rewind;
mod rules;
mod screen;
mod topics;

use std::process::ExitCode;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use granary_core::{Error, ErrorKind, Grain, KindInfo};

/// The answer is yes.
pub const YES: u8 = 0;
/// The answer is no.
pub const NO: u8 = 1;
/// Usage or configuration.
pub const USAGE: u8 = 2;
/// Something cannot be reached.
pub const UNREACHABLE: u8 = 3;

/// Tells a program where a silo listens.
pub(crate) fn say_listening(address: &str, gateway: Option<&str>) {
    say!("{}", serde_json::json!({"listening": address, "gateway": gateway}));
    let _ = std::io::Write::flush(&mut std::io::stdout());
}

/// The command, with no kinds but the built-in ones.
pub fn cli() -> Cli {
    Cli { kinds: Vec::new() }
}

/// The `granary` command with a program's own kinds.
pub struct Cli {
    kinds: Vec<&'static KindInfo>,
}

#[derive(Parser)]
#[command(name = "granary", version, about = "Virtual grains for streams", max_term_width = 100)]
struct Arguments {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The first minute: a silo, simulated devices, windows against the truth, calls
    Demo(demo::DemoArguments),
    /// Run a pipeline over files to their end; started again it goes on from its last commit
    Run(offline::RunArguments),
    /// Compare a result with the truth, row by row
    Compare(offline::CompareArguments),
    /// Run case files for windows and time
    Conformance(offline::ConformanceArguments),
    /// Write simulated device messages, and the exact answer to them
    Inject(inject::InjectArguments),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::BenchArguments),
    /// Run a silo until it is told to stop
    Silo(online::SiloArguments),
    /// Create the topics a silo needs in Kafka
    Topics(topics::TopicsArguments),
    /// Append what was set aside to the topics it came from, so that it is processed anew
    Replay(replay::ReplayArguments),
    /// Go on further ahead with a partition whose next records are gone. Only while the silo is stopped
    Rewind(rewind::RewindArguments),
    /// Rules: check a file, say what it means, try it on the past
    #[command(subcommand)]
    Rules(rules::RulesArguments),
    /// Webhooks: who is told of alerts, and how that goes
    Endpoints(endpoints::EndpointsArguments),
    /// Call a grain
    Call(online::CallArguments),
    /// Print the records of a stream as they come
    Tail(online::TailArguments),
    /// Print how a silo is
    Status(operate::StatusArguments),
    /// Print which silo has which slot, and how busy each is; move slots by hand
    Slots(operate::SlotsArguments),
    /// Have a silo give its slots to the others, so that it can be stopped without anybody noticing
    Drain(operate::DrainArguments),
}

impl Cli {
    /// Hosts a kind, too.
    #[must_use]
    pub fn host<G: Grain>(mut self) -> Cli {
        self.kinds.push(G::info());
        self
    }

    /// Runs the command the process was started with.
    pub fn run(self) -> ExitCode {
        let command = Arguments::augment_args(clap::Command::new("granary"));
        let matches = command.get_matches();
        let arguments = match Arguments::from_arg_matches(&matches) {
            Ok(arguments) => arguments,
            Err(error) => error.exit(),
        };
        if let Ok(points) = std::env::var("GRANARY_FAIL")
            && let Err(error) = granary_cluster::fail::arm(&points)
        {
            eprintln!("GRANARY_FAIL: {error}");
            return ExitCode::from(USAGE);
        }
        screen::start_logging(arguments.json);
        let json = arguments.json;
        let done = match arguments.command {
            Command::Demo(demo) => demo::demo(demo, json),
            Command::Run(run) => offline::run(run, self.kinds, json),
            Command::Compare(compare) => offline::compare(compare, json),
            Command::Conformance(conformance) => offline::conformance(conformance, json),
            Command::Inject(inject) => inject::inject(inject, json),
            Command::Bench(bench) => bench::bench(bench, json),
            Command::Silo(silo) => online::silo(silo, self.kinds, json),
            Command::Topics(topics) => topics::topics(topics, self.kinds, json),
            Command::Replay(replay) => replay::replay(replay, self.kinds, json),
            Command::Rewind(rewind) => rewind::rewind(rewind, self.kinds, json),
            Command::Rules(rules) => rules::rules(rules, json),
            Command::Endpoints(endpoints) => endpoints::endpoints(endpoints, json),
            Command::Call(call) => online::call(call, json),
            Command::Tail(tail) => online::tail(tail, json),
            Command::Status(status) => operate::status(status),
            Command::Slots(slots) => operate::slots(slots, json),
            Command::Drain(drain) => operate::drain(drain),
        };
        match done {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                screen::error(&error, json);
                ExitCode::from(exit_code(&error))
            }
        }
    }
}

/// The exit code of an error.
pub(crate) fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Codec => USAGE,
        ErrorKind::Unavailable | ErrorKind::Closed | ErrorKind::Timeout => UNREACHABLE,
        _ => NO,
    }
}

/// Runs async code of a command on a runtime of its own.
pub(crate) fn block_on<T>(
    future: impl std::future::Future<Output = granary_core::Result<T>>,
) -> granary_core::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Unavailable, format!("no runtime can be started: {e}")))?;
    runtime.block_on(future)
}
