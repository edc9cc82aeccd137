//! A silo in a process of its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::rig::Rig;
use super::{PATIENCE, until};

/// Where one of several silos is.
#[derive(Clone)]
pub struct Place {
    pub name: String,
    pub listen: String,
    pub gateway: String,
    /// Its own way to Redis.
    pub redis: String,
    /// Its own way to Kafka, if it has one.
    pub log: Option<String>,
    /// Where others find it, if not where it listens.
    pub advertise: Option<String>,
    /// What it is started with, beside these: another program, another pipeline.
    pub variables: Vec<(String, String)>,
}

/// It is killed when dropped.
pub struct Silo {
    process: Child,
    gateway: String,
    log: std::path::PathBuf,
}

impl Drop for Silo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("--- the silo's log ---\n{}", self.log());
        }
    }
}

/// The command with the tests' kind: built beside whoever asks, or for tests in the directory above.
pub fn granary() -> Command {
    let me = std::env::current_exe().expect("a process knows its program");
    let mut beside = me.ancestors().skip(1).take(2).map(|directory| directory.join("granary-in-cluster"));
    Command::new(beside.find(|path| path.exists()).expect("`granary-in-cluster` is built with the tests"))
}

impl Silo {
    /// Starts it, with fail points if any are named.
    pub fn start(rig: &Rig, fail: &str) -> Silo {
        Silo::start_with(rig, &[("GRANARY_FAIL", fail)])
    }

    /// Starts it with these variables.
    pub fn start_with(rig: &Rig, variables: &[(&str, &str)]) -> Silo {
        let log = rig.directory.path().join("silo.log");
        Silo::start_in(rig, &rig.gateway, log, variables)
    }

    fn start_in(rig: &Rig, gateway: &str, log: std::path::PathBuf, variables: &[(&str, &str)]) -> Silo {
        let append = || File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = granary();
        command.args(["silo", "-c"]).arg(rig.configuration()).stdin(Stdio::null());
        command.env("GRANARY_LOG", "info,librdkafka=warn").stdout(append()).stderr(append());
        command.envs(variables.iter().copied());
        let process = command.spawn().expect("the silo's process starts");
        Silo { process, gateway: gateway.to_owned(), log }
    }

    /// Starts one of several silos.
    pub fn start_at(rig: &Rig, place: &Place, variables: &[(&str, &str)]) -> Silo {
        let mut all = vec![
            ("GRANARY__SILO__NAME", place.name.as_str()),
            ("GRANARY__SILO__LISTEN", &place.listen),
            ("GRANARY__SILO__GATEWAY", &place.gateway),
            ("GRANARY__STORE__URL", &place.redis),
        ];
        all.extend(place.log.as_deref().map(|log| ("GRANARY__LOG__BROKERS", log)));
        all.extend(place.advertise.as_deref().map(|at| ("GRANARY__SILO__ADVERTISE", at)));
        all.extend(place.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        all.extend_from_slice(variables);
        let log = rig.directory.path().join(format!("{}.log", place.name));
        Silo::start_in(rig, &place.gateway, log, &all)
    }

    /// The file of its log.
    pub fn log_path(&self) -> &std::path::Path {
        &self.log
    }

    /// Everything that was logged, by earlier ones too.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether every slot runs, by its own word.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Whether it is of an earlier generation than others, and says so.
    pub fn is_outdated(&self) -> bool {
        self.get("/readyz").is_some_and(|answer| answer.contains("so it owns no slots"))
    }

    pub fn until_ready(&mut self) {
        let began = Instant::now();
        while !self.is_ready() {
            assert!(began.elapsed() < PATIENCE, "the silo does not get ready: {:?}", self.get("/readyz"));
            if let Some(status) = self.process.try_wait().expect("the process can be asked") {
                panic!("the silo ended before it was ready: {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An answer of its gateway; `None` when there is none.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.gateway).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: silo\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metric_of(name, "")
    }

    /// The sum over those that have this label.
    pub fn metric_of(&self, name: &str, label: &str) -> Option<f64> {
        let metrics = self.get("/metrics")?;
        let of =
            metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        let values: Vec<f64> = of.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until it has ended by itself: at a fail point, say.
    #[track_caller]
    pub fn until_ended(mut self) -> ExitStatus {
        let mut ended = None;
        until("the silo ends by itself", || {
            ended = self.process.try_wait().expect("the process can be asked");
            ended.is_some()
        });
        ended.expect("it has ended")
    }

    /// Ends it as `kill -9` does.
    pub fn kill(self) {
        drop(self);
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        let asked = Command::new("kill").args([&format!("-{signal}"), &id]).status();
        assert!(asked.expect("the command kill").success());
    }

    /// Asks it to stop; it ends in order within ten seconds.
    #[track_caller]
    pub fn stop(self) {
        let began = Instant::now();
        self.signal("TERM");
        let status = self.until_ended();
        assert!(status.success(), "{status}");
        assert!(began.elapsed() < Duration::from_secs(30), "stopping took {:?}", began.elapsed());
    }
}
