//! Processes of the binary, and their inputs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary.
pub fn granary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_granary-under-test"))
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pipeline of the boontadata example.
pub fn boontadata() -> String {
    fs::read_to_string(root().join("deploy/examples/boontadata/pipeline.yaml")).expect("the example is there")
}

/// A number of the long form, from the environment.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Runs the binary to its end.
pub fn run_to_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the process starts")
}

/// What a process said, for messages.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Simulated messages in `directory`, and beside them their truth.
pub struct Input {
    pub file: PathBuf,
    pub truth: PathBuf,
    pub lines: u64,
}

pub fn inject(directory: &Path, devices: u32, messages: u32, seed: u64) -> Input {
    let file = directory.join("input.jsonl");
    let mut command = granary();
    command.args(["inject", "--json", "--out"]).arg(&file);
    command.args(["--devices", &devices.to_string(), "--messages", &messages.to_string()]);
    let output = run_to_end(command.args(["--seed", &seed.to_string()]));
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON, as asked for");
    let truth = directory.join("input.jsonl.truth.csv");
    Input { file, truth, lines: told["messages"].as_u64().expect("a count") }
}

/// The command that runs a pipeline over a file.
pub fn run(pipeline: &Path, input: &Path, out: &Path) -> Command {
    let mut command = granary();
    command.args(["run", "--json", "--changes", "-p"]).arg(pipeline).arg("--input").arg(input);
    command.arg("--out").arg(out).env("GRANARY_LOG", "warn,granary=info");
    command
}

/// The summary of a run that has come to its end.
pub fn summary(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    let line = output.stdout.split(|b| *b == b'\n').rfind(|line| !line.is_empty());
    serde_json::from_slice(line.expect("a summary")).expect("JSON, as asked for")
}

/// Fails unless the result equals the truth.
#[track_caller]
pub fn assert_equals_truth(truth: &Path, result: &Path) {
    let mut command = granary();
    let output = run_to_end(command.args(["compare", "--truth"]).arg(truth).arg("--result").arg(result));
    assert!(output.status.success(), "{}", said(&output));
}

/// A process whose log is read while it runs.
pub struct Watched {
    pub process: Child,
    log: Receiver<Value>,
    began: Instant,
}

/// Lanes of a run: one for each core. Each begins to read at the lowest position of its own slots.
pub fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a watched process logged: `slots stand`, and where reading began.
#[derive(Debug, Default)]
pub struct Log {
    pub stand: Option<Value>,
    pub reads_from: Vec<u64>,
    /// Warnings and worse, for messages.
    pub warnings: Vec<String>,
}

impl Log {
    fn add(&mut self, event: &Value) {
        let fields = &event["fields"];
        match fields["message"].as_str() {
            Some("slots stand") => self.stand = Some(fields.clone()),
            Some("reading begins") => self.reads_from.extend(fields["from"].as_u64()),
            _ => self.warnings.push(event.to_string()),
        }
    }
}

impl Watched {
    pub fn start(command: &mut Command) -> Watched {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let stderr = process.stderr.take().expect("its errors are piped");
        let (tell, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // a line cut short by a kill is no JSON
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Watched { process, log, began: Instant::now() }
    }

    /// Reads the log until every lane has begun to read its input, or the process has ended.
    pub fn until_reading(&self, log: &mut Log) {
        while log.reads_from.len() < lanes() {
            match self.log.recv_timeout(PATIENCE.saturating_sub(self.began.elapsed())) {
                Ok(event) => log.add(&event),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                Err(error) => panic!("the process says nothing: {error}"),
            }
        }
    }

    /// Ends it as `kill -9` does, unless it has ended: then its output.
    pub fn kill(mut self, log: &mut Log) -> Option<Output> {
        let ended = self.process.try_wait().expect("the process can be asked").is_some();
        if !ended {
            self.process.kill().expect("it can be killed");
        }
        let output = self.process.wait_with_output().expect("the process is ours");
        self.log.iter().for_each(|event| log.add(&event));
        (ended || output.status.code().is_some()).then_some(output)
    }

    /// Waits for its end.
    pub fn end(self, log: &mut Log) -> Output {
        let output = self.process.wait_with_output().expect("the process is ours");
        self.log.iter().for_each(|event| log.add(&event));
        output
    }
}

/// A silo in a process of its own. It is killed when dropped.
pub struct Silo {
    process: Child,
    pub address: String,
}

impl Drop for Silo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Silo {
    pub fn start(configuration: &Path) -> Silo {
        let mut process = granary()
            .args(["silo", "--json", "-c"])
            .arg(configuration)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the silo's process starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let told: Value = serde_json::from_str(&line).expect("JSON, as asked for");
        let address = told["listening"].as_str().expect("an address").to_owned();
        Silo { process, address }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to stop and waits until it did.
    pub fn stop(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status();
        assert!(asked.expect("a shell").success());
        self.process.wait().expect("it ends").code()
    }

    /// The answer of a call made from a shell.
    pub fn call(&self, arguments: &[&str]) -> Value {
        let output = run_to_end(granary().arg("call").args(arguments).args(["--silo", &self.address]));
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("an answer in JSON")
    }
}

/// A configuration of a silo with an embedded store in `directory`, and a pipeline if one is given.
pub fn configuration(directory: &Path, pipeline: Option<&str>) -> PathBuf {
    let mut text = String::new();
    if let Some(pipeline) = pipeline {
        fs::write(directory.join("pipeline.yaml"), pipeline).expect("the pipeline can be written");
        text.push_str("pipelines = [\"pipeline.yaml\"]\n");
    }
    text.push_str("[silo]\nlisten = \"127.0.0.1:0\"\n[store]\npath = \"data\"\n");
    let path = directory.join("granary.toml");
    fs::write(&path, text).expect("the configuration can be written");
    path
}

/// Numbers that are different every time: where kills fall decides no result.
pub struct Draw(u64);

impl Draw {
    pub fn new() -> Draw {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Draw(since.as_nanos() as u64)
    }

    pub fn seeded(seed: u64) -> Draw {
        Draw(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
