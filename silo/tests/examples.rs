//! The programs of the README, as it runs them.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An example that is built beside the tests.
fn example(name: &str) -> Command {
    let me = std::env::current_exe().unwrap();
    let target: PathBuf = me.ancestors().nth(2).unwrap().join("examples").join(name);
    Command::new(target)
}

#[test]
fn a_grain_is_called_from_another_program() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("granary.toml"), "[silo]\ngateway = \"127.0.0.1:0\"\n").unwrap();
    let mut silo = example("counter");
    silo.arg("silo").current_dir(&directory).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut silo = silo.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(silo.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let called: Vec<String> =
        (0..2).map(|_| String::from_utf8(example("caller").output().unwrap().stdout).unwrap()).collect();
    silo.kill().unwrap();
    silo.wait().unwrap();
    assert_eq!(said.trim(), "silo listens on 127.0.0.1:7400");
    assert_eq!(called, ["3\n", "3\n"], "one effect and one answer");
}
