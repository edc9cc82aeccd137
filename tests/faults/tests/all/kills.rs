//! `run --changes` under kill -9 at random times.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use granary_faults::changes::{self, Changes};
use granary_faults::stored::{self, Standing};

use crate::kit::{self, Draw, Input, Log, Watched};

/// No life is longer, however slow the machine is: a run has to take many kills.
const LIFE_MAX: Duration = Duration::from_millis(2_500);

/// So often a run is killed while it writes its results.
const LATE_KILLS_MAX: u64 = 2;

/// What the kills hit.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    /// Before every slot had a commit.
    early: u64,
    /// Between the first commit and the last one.
    between: u64,
    /// When all was read and stored: while results were written.
    late: u64,
    runs: u64,
    looked_into: u64,
}

struct Killing<'a> {
    pipeline: &'a Path,
    input: &'a Input,
    /// How long a life may be.
    life_max: Duration,
    /// Every so many kills a copy of the store is opened here, to check what the process says.
    look_every: u64,
    draw: Draw,
    tally: Tally,
}

#[test]
fn killed_at_random_times_a_run_ends_with_the_truth() {
    killed_it_ends_with_the_truth(12, 150_000);
}

#[test]
#[ignore = "takes many minutes"]
fn killed_two_hundred_times_over_two_million_records_runs_end_with_the_truth() {
    let kills = kit::setting("GRANARY_KILLS", 200);
    killed_it_ends_with_the_truth(kills, kit::setting("GRANARY_RECORDS", 2_000_000));
}

fn killed_it_ends_with_the_truth(kills: u64, records: u64) {
    let is_long = records >= 2_000_000;
    let directory = tempfile::tempdir().expect("a directory");
    let devices = (records / 1_000).max(50) as u32;
    let input = kit::inject(directory.path(), devices, (records / u64::from(devices)) as u32, 7);
    assert!(input.lines >= records, "{} lines", input.lines);
    let pipeline = directory.path().join("pipeline.yaml");
    fs::write(&pipeline, kit::boontadata()).expect("the pipeline can be written");

    let began = Instant::now();
    let out = directory.path().join("clean");
    let output = kit::run_to_end(&mut kit::run(&pipeline, &input.file, &out));
    let summary = kit::summary(&output);
    let took = began.elapsed();
    assert_eq!(summary["records"].as_u64(), Some(input.lines));
    kit::assert_equals_truth(&input.truth, &out.join("aggregates.jsonl"));
    let clean = check(&out);
    fs::remove_dir_all(&out).expect("the directory can go");

    let life_max = (took / 8).min(LIFE_MAX);
    let look_every = if is_long { 10 } else { 1 };
    let (draw, tally) = (Draw::new(), Tally::default());
    let mut killing = Killing { pipeline: &pipeline, input: &input, life_max, look_every, draw, tally };
    let least = kills * 3 / if is_long { 4 } else { 12 };
    while killing.tally.kills < kills || killing.tally.between < least {
        assert!(
            killing.tally.kills < 4 * kills,
            "kills miss what lies between the commits: {:?}",
            killing.tally
        );
        let kills = kills.max(killing.tally.kills + 1);
        let out = directory.path().join(format!("killed-{}", killing.tally.runs));
        let ended = killing.run(&out, kills);
        assert_eq!(ended, summary, "what became of the records");
        kit::assert_equals_truth(&input.truth, &out.join("aggregates.jsonl"));
        let changed = check(&out);
        assert!(changed.sorted == clean.sorted, "every row of a run without kills, each once");
        assert!(fs::read(out.join("poisoned.jsonl")).expect("a file").is_empty());
        fs::remove_dir_all(&out).expect("the directory can go");
        println!("{:?}", killing.tally);
    }
    println!("{} lines, clean run {took:?}: {:?}", input.lines, killing.tally);
}

/// The changes hold each revision once, and their last rows are the result.
fn check(out: &Path) -> Changes {
    let changes =
        changes::check(&out.join("aggregates.changes.jsonl")).unwrap_or_else(|wrong| panic!("{wrong}"));
    let result = changes::sorted_lines(&out.join("aggregates.jsonl"));
    assert!(changes.last == result, "the result is the last revision of each window");
    changes
}

impl Killing<'_> {
    /// Runs and kills until the run comes to its end; returns its summary.
    fn run(&mut self, out: &Path, kills: u64) -> serde_json::Value {
        self.tally.runs += 1;
        let late_before = self.tally.late;
        let mut expected: Option<Standing> = None;
        loop {
            let mut log = Log::default();
            let life = Watched::start(&mut kit::run(self.pipeline, &self.input.file, out));
            // what writes the results may take longer than any life: it is not killed for ever
            let may_end = self.tally.late - late_before >= LATE_KILLS_MAX;
            let output = if self.tally.kills >= kills || may_end {
                Some(life.end(&mut log))
            } else {
                life.until_reading(&mut log);
                std::thread::sleep(self.life_max.mul_f64(self.draw.below(1_000) as f64 / 1_000.0));
                life.kill(&mut log)
            };
            self.assert_goes_on(&log, expected);
            if let Some(output) = output {
                return kit::summary(&output);
            }
            self.tally.kills += 1;
            println!("{:?}", self.tally);
            expected = self.look_into(out);
        }
    }

    /// What a life found is what the one before left, and it reads on from there.
    fn assert_goes_on(&mut self, log: &Log, expected: Option<Standing>) {
        let Some(stand) = &log.stand else {
            return assert!(log.reads_from.is_empty(), "{log:?}");
        };
        let number = |name: &str| stand[name].as_u64().expect("a number");
        let (commits, uncommitted, lowest) = (number("commits"), number("uncommitted"), number("lowest"));
        let found = Standing { commits, uncommitted, lowest };
        assert!(expected.is_none_or(|expected| expected == found), "stored {expected:?}, found {found:?}");
        if uncommitted == 0 {
            assert!(lowest > 0, "{log:?}");
        }
        if let Some(first) = log.reads_from.iter().min() {
            assert!(*first >= lowest, "nothing is read that is stored: {log:?}");
            if log.reads_from.len() == kit::lanes() {
                assert_eq!(*first, lowest, "the first position read is the stored one: {log:?}");
            }
        }
        let earlier = self.tally.early + self.tally.between + self.tally.late;
        if self.tally.kills > earlier {
            match lowest {
                0 => {
                    self.tally.early += 1;
                    self.life_max = (self.life_max * 3 / 2).min(LIFE_MAX); // the machine is slower than it was
                }
                n if n < self.input.lines => self.tally.between += 1,
                _ => self.tally.late += 1,
            }
        }
    }

    /// Opens a copy of the store as the kill left it.
    fn look_into(&mut self, out: &Path) -> Option<Standing> {
        if !self.tally.kills.is_multiple_of(self.look_every) || !out.join(granary::run::STORE_DIR).is_dir() {
            return None;
        }
        let copy = tempfile::tempdir().expect("a directory");
        let from = out.join(granary::run::STORE_DIR);
        let copied = Command::new("cp").arg("-r").arg(from).arg(copy.path()).status();
        assert!(copied.expect("cp runs").success());
        self.tally.looked_into += 1;
        Some(stored::standing(copy.path(), self.pipeline))
    }
}
