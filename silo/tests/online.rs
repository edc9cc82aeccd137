//! The `granary silo` process and the commands that talk to it: a stream goes in, windows come out, and a call of a
//! window says what its sink's row says, before and after a kill.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use granary::client::{Client, NewRecord, Start, Tail};
use serde_json::{Value, json};

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Enough for a silo to look at its clock some times.
const TICKS: Duration = Duration::from_secs(1);

fn granary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_granary"))
}

/// A silo in a process of its own. It is killed when dropped.
struct Silo {
    process: Child,
    address: String,
}

impl Drop for Silo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Silo {
    fn start(configuration: &Path) -> Silo {
        Silo::start_as(granary(), configuration)
    }

    fn start_as(mut granary: Command, configuration: &Path) -> Silo {
        let mut process = granary
            .args(["silo", "--json", "-c"])
            .arg(configuration)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the silo's process starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).expect("JSON, as asked for");
        let address = said["listening"].as_str().expect("an address").to_owned();
        Silo { process, address }
    }

    /// Asks it to stop and waits until it did.
    fn stop(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status();
        assert!(asked.expect("a shell").success());
        self.process.wait().expect("it ends").code()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        granary().args(arguments).args(["--silo", &self.address]).output().expect("the command runs")
    }

    /// The answer of a call made from a shell.
    fn get(&self, grain: &str) -> Value {
        let output = self.command(&["call", grain, "get"]);
        assert!(output.status.success(), "{grain}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("an answer in JSON")
    }
}

/// A configuration that runs the example pipeline on an embedded store in `directory`.
fn configuration(directory: &Path) -> PathBuf {
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/boontadata/pipeline.yaml");
    let path = directory.join("granary.toml");
    let text = format!(
        "pipelines = [{}]\n[silo]\nlisten = \"127.0.0.1:0\"\nlanes = 1\n[store]\npath = \"data\"\n",
        json!(pipeline.to_string_lossy())
    );
    std::fs::write(&path, text).expect("the configuration can be written");
    path
}

fn event(id: &str, at: u64, m1: i64, m2: f64) -> String {
    json!({"id": id, "di": "d-7", "dt": at.to_string(), "c": "cat-1", "m1": m1, "m2": m2}).to_string()
}

async fn produce(client: &Client, events: &[String]) {
    let record = |event: &'static str| NewRecord { key: Some(b"d-7"), value: event.as_bytes() };
    let records: Vec<_> = events.iter().map(|event| record(event.clone().leak())).collect();
    client.produce("boontadata", &records).await.expect("the records are written");
}

async fn next(tail: &mut Tail) -> (String, Value) {
    let record = tokio::time::timeout(PATIENCE, tail.next()).await.expect("a row in time");
    let record = record.expect("the tail goes on").expect("a record");
    let row = serde_json::from_slice(&record.value).expect("a row in JSON");
    (record.id.expect("a row has an identity"), row)
}

/// The answer holds every column of the row.
#[track_caller]
fn assert_says(answer: &Value, row: &Value) {
    for (name, value) in row.as_object().expect("a flat row") {
        assert_eq!(answer.get(name), Some(value), "{name} in {answer}");
    }
}

const FIRST: &str = "Window/d-7/cat-1/totals/1690000000000";
const SECOND: &str = "Window/d-7/cat-1/totals/1690000010000";

#[tokio::test]
async fn a_window_called_from_a_shell_says_what_its_row_says_before_and_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = configuration(directory.path());
    let silo = Silo::start(&configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    let mut tail = client.tail("aggregates", Start::Earliest).await.expect("a tail");
    let events = [
        event("a", 1_690_000_001_000, 14, 387.25),
        event("b", 1_690_000_002_000, 26, 363.0),
        event("a", 1_690_000_001_000, 14, 387.25),
        event("c", 1_690_000_011_000, 5, 1.5),
    ];
    produce(&client, &events).await;
    let (id, row) = next(&mut tail).await;
    assert_eq!(id, format!("{FIRST}#0"));
    assert_eq!((&row["count"], &row["m1_sum"], &row["m2_sum"]), (&json!(2), &json!(40), &json!(750.25)));
    assert_says(&silo.get(FIRST), &row);
    let open = silo.get(SECOND);
    assert_eq!((&open["state"], &open["count"]), (&json!("open"), &json!(1)));
    assert_eq!(silo.get("Device/d-7")["duplicates"], json!(1));

    drop(silo);
    let silo = Silo::start(&configuration);
    assert_says(&silo.get(FIRST), &row);
    assert_eq!(silo.get(SECOND), open);
    assert_eq!(silo.get("Device/d-7")["duplicates"], json!(1));

    // A late event corrects the row; one far ahead closes the second window. No row comes twice.
    let client = Client::connect(&silo.address).await.expect("a connection");
    let mut tail = client.tail("aggregates", Start::Earliest).await.expect("a tail");
    let events = [event("d", 1_690_000_003_000, 1, 0.75), event("e", 1_690_000_020_000, 1, 1.0)];
    produce(&client, &events).await;
    let mut rows = Vec::new();
    for _ in 0..3 {
        rows.push(next(&mut tail).await);
    }
    let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, [format!("{FIRST}#0"), format!("{FIRST}#1"), format!("{SECOND}#0")]);
    assert_eq!(rows[0].1, row);
    assert_says(&silo.get(FIRST), &rows[1].1);
    assert_says(&silo.get(SECOND), &rows[2].1);

    let output = silo.command(&["tail", "aggregates", "--from-start", "--most", "3"]);
    let lines: Vec<Value> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(&line.expect("a line")).expect("a row"))
        .collect();
    assert_eq!(lines, rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>());

    drop((tail, client));
    assert_eq!(silo.stop(), Some(0), "a silo that is asked to stop ends well");
}

#[test]
fn exit_codes_say_what_happened() {
    let directory = tempfile::tempdir().expect("a directory");
    let silo = Silo::start(&configuration(directory.path()));
    let code = |arguments: &[&str]| silo.command(arguments).status.code();
    assert_eq!(code(&["status"]), Some(0));
    assert_eq!(code(&["call", "Nothing/d-7", "get"]), Some(1), "no such kind");
    assert_eq!(code(&["call", "nonsense", "get"]), Some(2));
    assert_eq!(code(&["call", "Device/d-7", "get", "{no json"]), Some(2));
    assert_eq!(code(&["tail", "nowhere"]), Some(1));
    assert_eq!(code(&["status", "--cluster", "prod"]), Some(2));
    let nobody = granary().args(["status", "--silo", "127.0.0.1:1"]).output().expect("the command runs");
    assert_eq!(nobody.status.code(), Some(3));

    let configuration = configuration(directory.path());
    let with =
        |arguments: &[&str]| granary().args(["silo", "-c"]).arg(&configuration).args(arguments).output();
    let wrong = with(&["--set", "silo.lanse=1", "--set", "log.kind=kafak"]);
    let wrong = wrong.expect("the command runs");
    let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2), "{told}");
    assert!(told.contains("did you mean `silo.lanes`?") && told.contains("did you mean `kafka`?"), "{told}");
    let shown = with(&["--print-config", "--set", "silo.lanes=3"]).expect("the command runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("silo.lanes = 3  # --set silo.lanes\n"), "{shown}");
}

/// A wall clock that is wrong by what a file says, for programs that are started under it. What the machine counts since
/// its own start goes on as it is, as with a real clock that is set.
struct WallClock {
    wrong_s: PathBuf,
    library: PathBuf,
}

/// Stands before the C library's own function.
const WALL_CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    int clock_gettime(clockid_t clock, struct timespec *now) {
        long failed = syscall(SYS_clock_gettime, clock, now), wrong_s = 0;
        FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("WALL_CLOCK_WRONG_S"), "r") : NULL;
        if (file && fscanf(file, "%ld", &wrong_s) == 1) now->tv_sec += wrong_s;
        if (file) fclose(file);
        return failed;
    }
"#;

impl WallClock {
    fn new(directory: &Path) -> WallClock {
        let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
        std::fs::write(&source, WALL_CLOCK).expect("the source can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        let clock = WallClock { wrong_s: directory.join("wrong_s"), library };
        clock.jumps_to(0);
        clock
    }

    fn jumps_to(&self, wrong_s: i64) {
        std::fs::write(&self.wrong_s, wrong_s.to_string()).expect("the file can be written");
    }

    fn seen_by(&self, mut program: Command) -> Command {
        program.env("LD_PRELOAD", &self.library).env("WALL_CLOCK_WRONG_S", &self.wrong_s);
        program
    }

    /// By how much a program sees it wrong.
    fn is_seen_wrong_by(&self) -> i64 {
        let said = self.seen_by(Command::new("date")).arg("+%s").output().expect("`date` runs").stdout;
        let seen: i64 = String::from_utf8_lossy(&said).trim().parse().expect("seconds since 1970");
        seen - std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs() as i64
    }
}

/// Fault 21: event-time results stay as they are, silence is counted by a clock that does not jump.
#[tokio::test]
async fn the_wall_clock_jumps_an_hour_ahead_and_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = configuration(directory.path());
    let clock = WallClock::new(directory.path());
    let silo = Silo::start_as(clock.seen_by(granary()), &configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    let mut tail = client.tail("aggregates", Start::Earliest).await.expect("a tail");
    let at = |id: &str, s: u64| event(id, 1_690_000_000_000 + s * 1_000, 1, 1.0);
    produce(&client, &[at("a", 1), at("b", 2)]).await;
    tokio::time::sleep(TICKS).await; // silence is counted from one look at the clock to the next

    clock.jumps_to(3_600);
    assert!(clock.is_seen_wrong_by() > 3_000);
    tokio::time::sleep(TICKS).await; // an hour of silence, by that clock: the key would be closed
    produce(&client, &[at("c", 3)]).await;
    clock.jumps_to(-3_600);
    assert!(clock.is_seen_wrong_by() < -3_000);
    tokio::time::sleep(TICKS).await;
    produce(&client, &[at("d", 4), at("e", 11)]).await;
    let (id, row) = next(&mut tail).await;
    assert_eq!((id, &row["count"]), (format!("{FIRST}#0"), &json!(4)), "closed by an event, with all of it");

    // The next life begins an hour behind the first.
    drop(silo);
    let silo = Silo::start_as(clock.seen_by(granary()), &configuration);
    let client = Client::connect(&silo.address).await.expect("a connection");
    let mut tail = client.tail("aggregates", Start::Earliest).await.expect("a tail");
    produce(&client, &[at("f", 12)]).await;
    tokio::time::sleep(TICKS).await;
    produce(&client, &[at("g", 20)]).await;
    let (id, _) = next(&mut tail).await;
    assert_eq!(id, format!("{FIRST}#0"));
    let (id, row) = next(&mut tail).await;
    assert_eq!((id, &row["count"]), (format!("{SECOND}#0"), &json!(2)));
    drop((tail, client));
    assert_eq!(silo.stop(), Some(0));
}
