//! Commands that need files only.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Args;
use granary_core::{Error, ErrorKind, KindInfo, Result, Span};
use granary_store::Durability;
use granary_streams::compare as rows;
use granary_window::cases::{self, CaseOutcome};

use crate::run as runs;

use super::screen::Meter;
use super::{NO, YES, block_on};

#[derive(Args)]
pub(crate) struct RunArguments {
    /// The pipeline file
    #[arg(short, long)]
    pipeline: PathBuf,
    /// A file that stands in for a source: FILE, or SOURCE=FILE; .gz is unpacked
    #[arg(long, required = true, num_args = 1..)]
    input: Vec<String>,
    /// Where results go; the store of the run is in DIR/.granary
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write every row in order, to DIR/<sink>.changes.jsonl
    #[arg(long)]
    changes: bool,
    /// Also write DIR/verdicts.csv: line,verdict,rule,field
    #[arg(long)]
    verdicts: bool,
    /// Lanes; one per core when not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    lanes: u16,
    /// Records per commit and slot at most
    #[arg(long, hide = true)]
    batch: Option<usize>,
    /// When a commit counts as kept: fsync or everysec
    #[arg(long, default_value = "fsync")]
    durability: String,
    /// How long a plain turn may hold its lane before the process is ended, ms
    #[arg(long, hide = true)]
    turn_max_ms: Option<u64>,
}

pub(crate) fn run(arguments: RunArguments, kinds: Vec<&'static KindInfo>, json: bool) -> Result<u8> {
    let plan = crate::silo::read_plan(&arguments.pipeline)?;
    for notice in plan.notices() {
        if !json {
            eprintln!("note: {notice}");
        }
    }
    let options = runs::Options {
        plan,
        inputs: arguments.input,
        out: arguments.out,
        changes: arguments.changes,
        verdicts: arguments.verdicts,
        lanes: arguments.lanes,
        batch_records_max: arguments.batch.unwrap_or(usize::MAX),
        durability: Durability::from_name(&arguments.durability)?,
        kinds,
        turn_max: arguments.turn_max_ms.map(Span),
    };
    let mut meter = Meter::begin("records", json);
    let counts = block_on(runs::run(options, |progress| meter.at(progress.stats.records)))?;
    meter.end();
    let summary = serde_json::to_string(&counts).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))?;
    say!("{summary}");
    if counts.is_balanced() {
        return Ok(YES);
    }
    Err(Error::new(ErrorKind::Codec, "the counts do not add up: a record is unaccounted for"))
}

#[derive(Args)]
pub(crate) struct CompareArguments {
    /// The truth, CSV with a header
    #[arg(long)]
    truth: PathBuf,
    /// The result, JSON lines
    #[arg(long)]
    result: PathBuf,
    /// The columns that identify a row
    #[arg(long, value_delimiter = ',', default_values_t = rows::KEY_DEFAULT.map(String::from))]
    key: Vec<String>,
}

pub(crate) fn compare(arguments: CompareArguments, json: bool) -> Result<u8> {
    let open = |path: &Path| {
        File::open(path).map_err(|e| Error::invalid(format!("{}: cannot be read: {e}", path.display())))
    };
    let key: Vec<&str> = arguments.key.iter().map(String::as_str).collect();
    let report = rows::compare(open(&arguments.truth)?, BufReader::new(open(&arguments.result)?), &key)?;
    if json {
        say!(
            "{}",
            serde_json::json!({"exceptions": report.exceptions, "of": report.of, "first": report.first})
        );
    } else {
        say!("exceptions {} of {}", report.exceptions, report.of);
        report.first.iter().for_each(|line| say!("{line}"));
    }
    Ok(if report.exceptions == 0 { YES } else { NO })
}

#[derive(Args)]
pub(crate) struct ConformanceArguments {
    /// Case files, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn conformance(arguments: ConformanceArguments, json: bool) -> Result<u8> {
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect_cases(path, &mut files)?;
    }
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let unsupported = 0; // scripts read three numbers; whatever case files may ask for is there
    for path in files {
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::invalid(format!("{}: cannot be read: {e}", path.display())))?;
        for report in cases::run_file(&text) {
            let (word, detail, count) = match &report.outcome {
                CaseOutcome::Passed => ("passed", "", &mut passed),
                CaseOutcome::Failed(difference) => ("failed", difference.as_str(), &mut failed),
            };
            *count += 1;
            if json {
                say!("{}", serde_json::json!({"case": report.name, "outcome": word, "detail": detail}));
            } else if word != "passed" {
                say!("{}: {word}: {detail}", report.name);
            }
        }
    }
    if json {
        say!("{}", serde_json::json!({"passed": passed, "failed": failed, "not_supported": unsupported}));
    } else {
        say!("{passed} passed, {failed} failed, {unsupported} not supported");
    }
    Ok(if failed == 0 { YES } else { NO })
}

fn collect_cases(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |e: std::io::Error| Error::invalid(format!("{}: cannot be read: {e}", path.display()));
    if !path.is_dir() {
        std::fs::metadata(path).map_err(unreadable)?;
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(path).map_err(unreadable)?.filter_map(|e| Some(e.ok()?.path())).collect();
    inside.sort();
    for path in inside {
        if path.is_dir() || path.extension().is_some_and(|e| e == "json") {
            collect_cases(&path, files)?;
        }
    }
    Ok(())
}
