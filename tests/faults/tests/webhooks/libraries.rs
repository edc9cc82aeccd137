//! What two libraries of others make of our signatures: those of Standard Webhooks for Python and for JavaScript, as
//! `deploy/dev/setup tests` puts them aside.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::kit::{PATIENCE, run_to_end, said};
use super::silo::World;
use granary_harness::{Answering, Receiver};

fn libraries() -> PathBuf {
    let named = std::env::var_os("GRANARY_TEST_WEBHOOKS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let path = named.or_else(|| home.map(|home| home.join(".cache/granary/webhooks-1")));
    let path = path.filter(|path| path.exists());
    path.expect("`deploy/dev/setup tests` puts the libraries aside that this test needs")
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/webhooks").join(name)
}

#[test]
fn libraries_for_python_and_javascript_verify_what_a_silo_sends() {
    let world = World::new();
    let receiver = Receiver::start(|_, _| Answering::Status(200));
    let secret = world.add("siem", &receiver.url("/"), &["--rate", "1000", "--burst", "1000"]);
    world.pay(0..50);
    let began = Instant::now();
    while receiver.requests().len() < 51 {
        assert!(
            began.elapsed() < PATIENCE / 12,
            "the webhooks come: {} {:?}",
            receiver.requests().len(),
            world.list()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let requests = receiver.requests();
    let rows = requests.iter().map(|request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        json!({"secret": secret, "headers": request.headers, "body": body}).to_string()
    });
    let file = world.directory.path().join("webhooks.jsonl");
    std::fs::write(&file, rows.collect::<Vec<_>>().join("\n")).unwrap();
    let libraries = libraries();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", libraries.join("python")).arg(script("verify.py")).arg(&file);
    let mut javascript = Command::new("nodejs");
    javascript.arg(script("verify.cjs")).arg(&file).arg(libraries.join("node_modules/standardwebhooks"));
    for verifier in [&mut python, &mut javascript] {
        let output = run_to_end(verifier);
        // each webhook as it came, and each with one byte changed
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "51 verified, 51 refused",
            "{}",
            said(&output)
        );
    }
}
