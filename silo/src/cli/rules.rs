//! `granary rules`: check what an analyst wrote, read it back in words, try it on the past.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use granary_core::{Error, ErrorKind, Result};
use granary_streams::rules::backtest::{AlertedEvents, Backtest, Report};
use granary_streams::rules::{Event, Options, Problems, Reader, Rules, UnfitEvent, parse};

use crate::files;
use crate::run::unwritable;

mod revise;

use super::screen::Meter;
use super::{NO, USAGE, YES};

/// Records between two looks at the meter.
const METER_EVERY: u64 = 4_096;
/// Records that are no events, shown at most.
const REJECTS_SHOWN: u64 = 10;

#[derive(Subcommand)]
pub(crate) enum RulesArguments {
    /// Say all that is wrong with a rules file, and run its tests
    Check(FileArguments),
    /// Say in words what each rule does
    Explain(FileArguments),
    /// Run rules over the past: hits, precision, recall, money caught
    Backtest(BacktestArguments),
    /// Have all silos judge by this file from now on, without a restart
    Reload(revise::ReloadArguments),
    /// Have a rule's alerts reach people from now on; or put it in shadow, or switch it off
    Promote(revise::PromoteArguments),
    /// Tell nobody of a key's alerts for a while: they go to alerts.shadow
    Mute(revise::MuteArguments),
    /// Tell of a key's alerts again
    Unmute(revise::UnmuteArguments),
    /// Say which revision of rules each silo judges by, and what is muted
    Status(revise::StatusArguments),
}

#[derive(Args)]
pub(crate) struct FileArguments {
    /// The rules file
    file: PathBuf,
}

#[derive(Args)]
pub(crate) struct BacktestArguments {
    /// The rules file
    #[arg(long)]
    rules: PathBuf,
    /// Events: JSON lines, or CSV with a header (.csv); .gz is unpacked
    #[arg(long)]
    input: PathBuf,
    /// The ids of the events that were fraud: CSV with a header, the first column counts
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Where alerts.jsonl and report.json go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// No rule is silent after an alert
    #[arg(long)]
    no_cooldown: bool,
    /// Older rules: says which alerts are new and which are gone
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
}

pub(crate) fn rules(arguments: RulesArguments, json: bool) -> Result<u8> {
    match arguments {
        RulesArguments::Check(check) => self::check(&check.file, json),
        RulesArguments::Explain(explain) => self::explain(&explain.file, json),
        RulesArguments::Backtest(backtest) => self::backtest(&backtest, json),
        RulesArguments::Reload(reload) => revise::reload(reload, json),
        RulesArguments::Promote(promote) => revise::promote(promote, json),
        RulesArguments::Mute(mute) => revise::mute(mute, json),
        RulesArguments::Unmute(unmute) => revise::unmute(unmute, json),
        RulesArguments::Status(status) => revise::status(status, json),
    }
}

fn cannot_read(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{}: cannot be read: {error}", path.display()))
}

/// Reads a rules file; lists stand beside it.
fn read(path: &Path, without_cooldown: bool) -> Result<(Option<Rules>, Problems)> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    Ok(parse(&text, &Options { read: &files::beside(path), modes: &Default::default(), without_cooldown }))
}

/// Prints problems, each with the file's name before it.
fn show(path: &Path, problems: &Problems, json: bool) {
    for problem in problems.iter() {
        let (line, column) = (problem.place.line, problem.place.column);
        if json {
            say!(
                "{}",
                serde_json::json!({
                    "file": path, "line": line, "column": column, "code": problem.code,
                    "message": problem.message,
                })
            );
        } else {
            say!("{}:{problem}", path.display());
        }
    }
}

fn check(path: &Path, json: bool) -> Result<u8> {
    let (rules, problems) = read(path, false)?;
    show(path, &problems, json);
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let Some(rules) = rules else {
        if !json {
            say!("{}: refused: {errors} {}", path.display(), if errors == 1 { "error" } else { "errors" });
        }
        return Ok(NO);
    };
    if !json {
        say!("{}: {} rules on {}, ready", path.display(), rules.infos().len(), rules.stream());
    }
    Ok(YES)
}

/// The rules of a file without errors; its problems are shown.
fn sound(path: &Path, without_cooldown: bool) -> Result<Rules> {
    let (rules, problems) = read(path, without_cooldown)?;
    rules.ok_or_else(|| {
        let lines: Vec<String> = problems
            .iter()
            .filter(|problem| problem.is_error())
            .map(|problem| format!("{}:{problem}", path.display()))
            .collect();
        Error::invalid(format!("the rules are refused:\n{}", lines.join("\n")))
    })
}

fn explain(path: &Path, json: bool) -> Result<u8> {
    let rules = sound(path, false)?;
    for info in rules.infos() {
        if json {
            say!(
                "{}",
                serde_json::json!({
                    "id": info.id, "kind": info.kind, "hash": info.hash, "mode": info.mode.name(),
                    "severity": info.severity.name(), "cooldown_ms": info.cooldown.ms(),
                    "limit": info.limit, "meaning": rules.in_words(info),
                })
            );
        } else {
            say!("{}  {}  {}, {}", info.id, info.hash, info.mode.name(), info.severity.name());
            say!("    {}", rules.in_words(info));
        }
    }
    Ok(YES)
}

/// The lines of a file, unpacked.
fn open(path: &Path) -> Result<BufReader<Box<dyn Read + Send>>> {
    files::open(path).map(BufReader::new).map_err(|error| cannot_read(path, &error))
}

/// Whether a file is a table by its name.
fn is_csv(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.trim_end_matches(".gz").ends_with(".csv")
}

fn labels(path: &Path) -> Result<HashSet<Box<[u8]>>> {
    let mut table = csv::Reader::from_reader(open(path)?);
    let ids = table.byte_records().map(|row| {
        let row = row.map_err(|error| cannot_read(path, &error))?;
        Ok(row.get(0).unwrap_or_default().into())
    });
    ids.collect()
}

/// Gives every event of a file to `f`, and what is none.
fn each_event(
    rules: &Rules,
    path: &Path,
    json: bool,
    mut f: impl FnMut(std::result::Result<&Event, (u64, UnfitEvent)>) -> Result<()>,
) -> Result<()> {
    let reader = Reader::new(rules.spec());
    let mut event = Event::default();
    let mut meter = Meter::begin("events", json);
    let mut count = 0;
    let mut give = |line: u64, read: std::result::Result<(), UnfitEvent>, event: &Event| {
        count += 1;
        if count % METER_EVERY == 0 {
            meter.at(count);
        }
        f(read.map(|()| event).map_err(|unfit| (line, unfit)))
    };
    if is_csv(path) {
        let mut table = csv::Reader::from_reader(open(path)?);
        let header = table.headers().map_err(|error| cannot_read(path, &error))?.clone();
        let rows = reader.csv(&header).map_err(|missing| {
            Error::invalid(format!(
                "{}: no column {}. It has: {}. `event.csv:` in the rules file says which column is which field",
                path.display(),
                missing.join(", "),
                header.iter().collect::<Vec<_>>().join(", ")
            ))
        })?;
        let mut row = csv::StringRecord::new();
        while table.read_record(&mut row).map_err(|error| cannot_read(path, &error))? {
            let read = rows.line(&row, &mut event);
            give(row.position().map_or(0, csv::Position::line), read, &event)?;
        }
    } else {
        let mut lines = open(path)?;
        let (mut line, mut no) = (Vec::new(), 0);
        while lines.read_until(b'\n', &mut line).map_err(|error| cannot_read(path, &error))? > 0 {
            no += 1;
            if !line.trim_ascii().is_empty() {
                let read = reader.json(line.trim_ascii(), &mut event);
                give(no, read, &event)?;
            }
            line.clear();
        }
    }
    meter.end();
    Ok(())
}

/// The events that older rules alerted, on the same input.
fn alerted_by(path: &Path, arguments: &BacktestArguments, json: bool) -> Result<AlertedEvents> {
    let rules = Arc::new(sound(path, arguments.no_cooldown)?);
    let mut test = Backtest::new(Arc::clone(&rules), None);
    each_event(&rules, &arguments.input, json, |event| {
        if let Ok(event) = event {
            test.event(event, &mut |_| {});
        }
        Ok(())
    })?;
    test.end(&mut |_| {});
    Ok(test.alerted())
}

fn backtest(arguments: &BacktestArguments, json: bool) -> Result<u8> {
    let rules = Arc::new(sound(&arguments.rules, arguments.no_cooldown)?);
    let older = arguments.against.as_ref().map(|path| alerted_by(path, arguments, json)).transpose()?;
    let labels = arguments.labels.as_ref().map(|path| labels(path)).transpose()?;
    let cannot_write = |error: std::io::Error| unwritable(&arguments.out, &error);
    std::fs::create_dir_all(&arguments.out).map_err(cannot_write)?;
    let alerts = File::create(arguments.out.join("alerts.jsonl")).map_err(cannot_write)?;
    let mut alerts = BufWriter::new(alerts);
    let mut failed = None;
    let mut write = |alert: &serde_json::Value| {
        if let Err(error) = writeln!(alerts, "{alert}") {
            failed.get_or_insert(error);
        }
    };
    let mut test = Backtest::new(Arc::clone(&rules), labels);
    let mut rejects = 0;
    each_event(&rules, &arguments.input, json, |event| {
        match event {
            Ok(event) => test.event(event, &mut write),
            Err((line, unfit)) => {
                rejects += 1;
                test.reject();
                if !json && rejects <= REJECTS_SHOWN {
                    eprintln!("{}:{line}: rejected: {unfit}", arguments.input.display());
                }
            }
        }
        Ok(())
    })?;
    test.end(&mut write);
    failed.map_or(Ok(()), Err).map_err(cannot_write)?;
    alerts.flush().map_err(cannot_write)?;
    let report = test.report(older.as_ref());
    let text = serde_json::to_string_pretty(&report);
    let text = text.map_err(|error| Error::new(ErrorKind::Codec, error.to_string()))?;
    std::fs::write(arguments.out.join("report.json"), format!("{text}\n")).map_err(cannot_write)?;
    if json {
        say!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print(&report, &arguments.out);
    }
    Ok(if report.records == 0 { USAGE } else { YES })
}

fn print(report: &Report, out: &Path) {
    let counts = report.counts;
    say!(
        "{} records from {} to {}: {} judged, {} duplicates, {} late, {} rejected",
        report.records,
        report.from.as_deref().unwrap_or("-"),
        report.to.as_deref().unwrap_or("-"),
        counts.accepted,
        counts.duplicates,
        counts.late,
        report.rejected
    );
    if let (Some(frauds), Some(amount)) = (report.frauds, &report.fraud_amount) {
        say!("{frauds} of them labelled as fraud, worth {amount}");
    }
    if let Some(cases) = &report.cases {
        say!(
            "cases: {}, of {} alerts: {} in each on average, {} in the largest",
            cases.count,
            cases.alerts,
            cases.alerts_per_case,
            cases.alerts_max
        );
    }
    let width = report.rules.iter().map(|rule| rule.id.len()).max().unwrap_or(4).max(4);
    let has_labels = report.frauds.is_some();
    let has_older = report.rules.iter().any(|rule| rule.against.is_some());
    let mut head =
        format!("{:width$}  {:>8} {:>8} {:>8} {:>8}", "rule", "hits", "alerts", "/1000", "skipped");
    if has_labels {
        head.push_str(&format!(" {:>9} {:>7} {:>14}", "precision", "recall", "caught"));
    }
    if has_older {
        head.push_str(&format!(" {:>7} {:>7}", "new", "gone"));
    }
    say!("{head}");
    for rule in &report.rules {
        let mut line = format!(
            "{:width$}  {:>8} {:>8} {:>8} {:>8}",
            rule.id, rule.hits, rule.alerts, rule.alerts_per_1000_events, rule.skipped
        );
        if let Some(judged) = &rule.judged {
            line.push_str(&format!(" {:>9} {:>7} {:>14}", judged.precision, judged.recall, judged.caught));
        }
        if let Some(against) = &rule.against {
            line.push_str(&format!(" {:>7} {:>7}", against.new_alerts, against.gone_alerts));
        }
        say!("{line}");
    }
    say!("{} and {}", out.join("alerts.jsonl").display(), out.join("report.json").display());
}
